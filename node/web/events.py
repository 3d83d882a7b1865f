"""Telling open pages that something changed: server-sent events without content.

One rule: a stream says *which list* changed and nothing else, so it may go on while a screen is locked; what
changed is then asked for like any page. A reader that does not read is cut off, and a session that ended ends
its streams within one heartbeat.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

from aiohttp import web

from keys.errors import SalweenError, Unavailable
from node.web.desk_api import DeskEvent
from runtime.env import Env

HEARTBEAT_S: Final = 20.0
WATCH_S: Final = 1.0
WRITE_SECONDS_MAX: Final = 10.0  # a full socket buffer on loopback means that nobody reads
STREAMS_MAX: Final = 32
STREAMS_PER_SESSION_MAX: Final = 8


class _Ended(Exception):  # no error: how one of a stream's tasks ends the others
    pass


class Streams:
    """The open event streams of one application."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}  # session token -> streams
        self._closing = asyncio.Event()

    async def close(self, _: web.Application) -> None:
        """Signal handler: end all streams, so that a stop does not wait for open pages."""
        self._closing.set()

    async def serve(
        self,
        request: web.Request,
        env: Env,
        token: str,
        still_in: Callable[[], Coroutine[Any, Any, object]],
        events: AsyncIterator[DeskEvent],
    ) -> web.StreamResponse:
        """Answer with a stream until the reader leaves, the session ends or the application closes.

        ``still_in`` raises once the session has ended.
        """
        mine = self._open.get(token, 0)
        if mine >= STREAMS_PER_SESSION_MAX or sum(self._open.values()) >= STREAMS_MAX:
            raise Unavailable("too_many_pages")
        self._open[token] = mine + 1
        try:
            return await self._run(request, env, still_in, events)
        finally:
            left = self._open.pop(token) - 1
            if left:
                self._open[token] = left

    async def _run(
        self,
        request: web.Request,
        env: Env,
        still_in: Callable[[], Coroutine[Any, Any, object]],
        events: AsyncIterator[DeskEvent],
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)

        async def write(text: str) -> None:
            async with env.timeout(WRITE_SECONDS_MAX):
                await response.write(text.encode("ascii"))

        async def pump() -> None:
            async for event in events:
                await write(f"event: {event.kind}\ndata: {event.at_ms}\n\n")
                if event.kind == "lock":
                    await check()
            raise _Ended

        async def check() -> None:
            try:
                await still_in()
            except SalweenError:
                await write("event: ended\ndata: 0\n\n")
                raise _Ended from None

        async def beat() -> None:
            while True:
                await env.sleep(HEARTBEAT_S)
                await check()
                await write(": still here\n\n")

        async def watch() -> None:
            # Without it a page that was left would hold its place until the next heartbeat fails.
            while request.transport is not None and not request.transport.is_closing():
                await env.sleep(WATCH_S)
            raise _Ended

        async def end() -> None:
            await self._closing.wait()
            raise _Ended

        try:
            # Headers alone do not open an EventSource everywhere; a first comment does.
            await write("retry: 3000\n: open\n\n")
            async with env.task_group() as tasks:
                for part in (pump, beat, watch, end):
                    tasks.create_task(part())
        except* (_Ended, ConnectionError, TimeoutError):
            pass
        return response
