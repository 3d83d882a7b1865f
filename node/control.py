"""``control.sock``: how commands talk to the running daemon, and the channel both ends speak over.

Spec: docs/operations.md#control-socket. One WebSocket of JSON text frames per command on a 0600 Unix socket::

    client -> {"verb": "...", "params": {...}}
    daemon -> {"event": {...}}                 any number; for pairing and progress
    client -> {"answer": "..."}                one for each event that asks
    daemon -> {"result": {...}} | {"error": {"family", "code", "detail"}}

One rule: a verb neither knows nor cares whether its channel is a socket or the same process.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import aiohttp
from aiohttp import WSMsgType, web

from keys import errors
from keys.errors import BrokenInvariant, MalformedInput, SalweenError, Unavailable
from runtime.env import Env, Listener, ServeOptions
from runtime.logs import error_fields, get_logger

FRAME_BYTES_MAX = 1024 * 1024
SOCKET_NAME = "control.sock"
PAIRING_PREFIX = "pair."

Params = dict[str, Any]
log = get_logger("control")


class Channel(Protocol):
    """What a verb may do while it runs: say something, ask something."""

    async def emit(self, event: dict[str, Any]) -> None:
        """Tell the caller; no answer is expected."""
        ...

    async def ask(self, event: dict[str, Any]) -> str:
        """Tell the caller and wait for its answer."""
        ...


Handler = Callable[[str, Params, Channel], Coroutine[Any, Any, dict[str, Any]]]


def error_to_json(error: SalweenError) -> dict[str, str]:
    """An error as the other end of a channel gets it."""
    return {"family": error.family, "code": error.code, "detail": error.detail}


def error_from_json(value: dict[str, str]) -> SalweenError:
    """The same error again, in the process that asked."""
    families: dict[str, type[SalweenError]] = {
        family.family: family
        for family in (
            errors.MalformedInput,
            errors.VerificationFailed,
            errors.PolicyRefused,
            errors.Unavailable,
            errors.BrokenInvariant,
        )
    }
    return families.get(value["family"], BrokenInvariant)(value["code"], value["detail"])


class _SocketChannel:
    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def emit(self, event: dict[str, Any]) -> None:
        await self._socket.send_json({"event": event})

    async def ask(self, event: dict[str, Any]) -> str:
        await self.emit(event)
        message = await self._socket.receive()
        if message.type is not WSMsgType.TEXT:
            raise Unavailable("caller_gone", "The command that asked for this has ended.")
        return str(_parse(message.data).get("answer", ""))


class ControlServer:
    """Serves verbs on the control socket."""

    def __init__(self, env: Env, handler: Handler) -> None:
        self._env = env
        self._handler = handler
        self._listener: Listener | None = None

    async def start(self, path: str) -> None:
        """Listen; the socket is 0600 from its first instant."""
        app = web.Application()
        app.router.add_get("/", self._serve)
        # A command that was ended must not leave its pairing under way behind it.
        options = ServeOptions(cancel_on_disconnect=True)
        self._listener = await self._env.network.serve_unix(app, path, options)

    async def stop(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            await self._listener.close()

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=FRAME_BYTES_MAX)
        await socket.prepare(request)
        with contextlib.suppress(ConnectionError):
            await socket.send_json(await self._answer(socket))
        await socket.close()
        return socket

    async def _answer(self, socket: web.WebSocketResponse) -> dict[str, Any]:
        try:
            call = _parse((await socket.receive()).data)
            verb, params = call.get("verb"), call.get("params", {})
            if not isinstance(verb, str) or not isinstance(params, dict):
                raise MalformedInput("control_frame", "A call is a verb and an object of parameters.")
            return {"result": await self._run(verb, params, _SocketChannel(socket))}
        except SalweenError as error:
            return {"error": error_to_json(error)}
        except ConnectionError:
            raise
        except Exception as bug:
            log.error("verb_failed", **error_fields(bug))
            broken = BrokenInvariant("internal", f"{type(bug).__name__} in the daemon. Look at its log.")
            return {"error": error_to_json(broken)}

    async def _run(self, verb: str, params: Params, channel: Channel) -> dict[str, Any]:
        """A pairing ends with the command that runs it; anything else is carried to its end."""
        work = self._env.spawn(self._handler(verb, params, channel), name="verb")
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if verb.startswith(PAIRING_PREFIX):
                work.cancel()
            work.add_done_callback(lambda done: None if done.cancelled() else done.exception())
            raise


async def call_daemon(
    env: Env,
    path: str,
    verb: str,
    params: Params,
    *,
    on_event: Callable[[dict[str, Any]], None],
    answer: Callable[[dict[str, Any]], Awaitable[str]],
) -> dict[str, Any]:
    """Run one verb in the daemon behind ``path``; its errors are raised here."""
    async with env.network.client_session(unix_path=path) as session:
        try:
            connected = await session.ws_connect("http://localhost/", max_msg_size=FRAME_BYTES_MAX)
        except (aiohttp.ClientError, OSError) as fault:
            raise Unavailable(
                "daemon_not_listening",
                "Another command works in this directory, or its daemon is just starting or ending."
                " Try again in a moment.",
            ) from fault
        async with connected as socket:
            await socket.send_json({"verb": verb, "params": params})
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    break
                frame = _parse(message.data)
                if "result" in frame:
                    return dict(frame["result"])
                if "error" in frame:
                    raise error_from_json(frame["error"])
                event = dict(frame["event"])
                on_event(event)
                if event.get("asks"):
                    await socket.send_json({"answer": await answer(event)})
    raise Unavailable(
        "daemon_gone", "The daemon ended while it worked on this. Look at its log and try again."
    )


def _parse(data: Any) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise MalformedInput("control_frame", "What came on the control socket is no JSON object.")
    return value
