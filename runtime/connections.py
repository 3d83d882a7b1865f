"""What one HTTP connection may cost before it has shown anything: time for headers, and a place.

Spec: docs/operations.md#connections. One rule: a client that is slow or numerous costs itself, not others. A
connection beyond the limits is dropped without an answer, one whose headers are not complete in time is
closed, and what is not HTTP gets a bare 400 and no line in any log.
Bodies and handlers have their own limits elsewhere. It knows no URL and no header.
"""

import asyncio
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader


class GuardedRunner(web.AppRunner):
    """aiohttp's runner, whose connections are counted and timed."""

    __slots__ = ("_connections_max", "_connections_per_peer_max", "_header_timeout_s")

    def __init__(
        self,
        app: web.Application,
        *,
        header_timeout_s: float,
        connections_max: int,
        connections_per_peer_max: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, **kwargs)
        self._header_timeout_s = header_timeout_s
        self._connections_max = connections_max
        self._connections_per_peer_max = connections_per_peer_max

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        return _GuardedServer(
            plain,
            header_timeout_s=self._header_timeout_s,
            connections_max=self._connections_max,
            connections_per_peer_max=self._connections_per_peer_max,
        )


class _GuardedServer(web.Server):
    def __init__(
        self,
        plain: web.Server,
        *,
        header_timeout_s: float,
        connections_max: int,
        connections_per_peer_max: int,
    ) -> None:
        inner_factory = plain.request_factory

        def request_factory(
            message: RawRequestMessage,
            payload: StreamReader,
            protocol: web.RequestHandler,
            writer: AbstractStreamWriter,
            task: "asyncio.Task[None]",
        ) -> web.BaseRequest:
            cast(_GuardedConnection, protocol).headers_complete()
            return inner_factory(message, payload, protocol, writer, task)

        super().__init__(
            plain.request_handler,
            request_factory=request_factory,
            handler_cancellation=plain.handler_cancellation,
            loop=plain._loop,
            **plain._kwargs,
        )
        self.header_timeout_s = header_timeout_s
        self._connections_max = connections_max
        self._connections_per_peer_max = connections_per_peer_max
        self._count = 0
        self._by_peer: dict[str, int] = {}

    def __call__(self) -> web.RequestHandler:
        return _GuardedConnection(self, loop=self._loop, **self._kwargs)

    def admit(self, peer: str) -> bool:
        """Count a new connection of ``peer`` ("" for a Unix socket) unless a limit is reached."""
        of_peer = self._by_peer.get(peer, 0)
        if self._count >= self._connections_max or (peer and of_peer >= self._connections_per_peer_max):
            return False
        self._count += 1
        self._by_peer[peer] = of_peer + 1
        return True

    def leave(self, peer: str) -> None:
        """An admitted connection is gone."""
        self._count -= 1
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]


class _GuardedConnection(web.RequestHandler):
    __slots__ = ("_admitted_as", "_busy", "_guard", "_header_timer")

    def __init__(self, guard: _GuardedServer, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(guard, loop=loop, **kwargs)
        self._guard = guard
        self._admitted_as: str | None = None
        self._busy = False  # a request is with its handler: what arrives now is its body
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        address = transport.get_extra_info("peername")
        peer = str(address[0]) if isinstance(address, tuple) else ""
        if not self._guard.admit(peer):
            cast(asyncio.Transport, transport).abort()
            return
        self._admitted_as = peer
        super().connection_made(transport)
        self._start_header_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_header_timer()
        if self._admitted_as is not None:
            self._guard.leave(self._admitted_as)
            self._admitted_as = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._admitted_as is None:
            return
        if not self._busy and self._header_timer is None:
            self._start_header_timer()
        super().data_received(data)

    def headers_complete(self) -> None:
        """The headers of a request are in and its handler begins."""
        self._busy = True
        self._stop_header_timer()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._busy = False

    # aiohttp would quote the bytes back and log a traceback for each: a stranger could fill the disk.
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status == 400:
            response = web.Response(status=400)
            response.force_close()
            return response
        return super().handle_error(request, status, exc, message)

    def _start_header_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._header_timer = loop.call_later(self._guard.header_timeout_s, self._headers_too_slow)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_too_slow(self) -> None:
        self._header_timer = None
        if not self._busy:
            self.force_close()
