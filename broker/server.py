"""The one HTTP endpoint: ``GET /v1`` shows the card, ``POST /v1`` takes one encapsulated request.

Spec: docs/spec/broker.md#http. One rule: what a stranger may cost is bounded before a byte of his body is
read: the length must be stated and allowed. Memory is counted as it fills, not as it is announced: a promise
of a megabyte takes nothing away from others. Refusals are a status and a stable
code as text; nothing of a request is logged, not even where it came from. Header time and connection counts
are ``runtime.connections``'; what is inside a request is ``exchange``'s.
"""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from broker.exchange import Exchange
from broker.metrics import BrokerMetrics
from keys.errors import MalformedInput, PolicyRefused, SalweenError, VerificationFailed
from protocol import limits
from protocol.requests import STILL_HELD, List, Request
from runtime import logs
from runtime.env import Env

PATH: Final = "/v1"
BODIES_BYTES_MAX: Final = 48 * 2**20  # request bodies in memory at one time
BODY_BASE_S: Final = 10.0
BODY_BYTES_PER_S_MIN: Final = 1024  # an office behind a slow link still gets 64 KiB through in 74 s

_log = logs.get_logger("broker.server")


class Endpoint:
    """Handlers of ``/v1`` for one running broker."""

    def __init__(
        self,
        *,
        env: Env,
        exchange: Exchange,
        card: bytes,
        metrics: BrokerMetrics,
        on_error: Callable[[Exception], None],
    ) -> None:
        """``on_error`` is told every error that no request should meet; it may end the broker."""
        self._env = env
        self._exchange = exchange
        self._card = card
        self._metrics = metrics
        self._on_error = on_error
        self._bodies_bytes = 0

    def app(self) -> web.Application:
        """The application to serve."""
        app = web.Application(client_max_size=limits.REQUEST_BYTES_MAX, middlewares=[self._guard])
        app.router.add_get(PATH, self._show_card, allow_head=False)
        app.router.add_post(PATH, self._take_request)
        app.on_response_prepare.append(_bare_headers)
        return app

    async def _show_card(self, _: web.Request) -> web.Response:
        return web.Response(body=self._card)

    async def _take_request(self, request: web.Request) -> web.StreamResponse:
        length = request.content_length
        if length is None:
            return self._refuse(411, "length_required", "malformed")
        if length > limits.REQUEST_BYTES_MAX:
            return self._refuse(413, "request_too_large", "too_large")
        if length < limits.REQUEST_BYTES_MIN:
            return self._refuse(400, "request_size", "malformed")
        body = bytearray()
        try:
            async with self._env.timeout(BODY_BASE_S + length / BODY_BYTES_PER_S_MIN):
                while len(body) < length:
                    piece = await request.content.readany()
                    if not piece:
                        return self._refuse(400, "request_cut", "malformed")
                    if self._bodies_bytes + len(piece) > BODIES_BYTES_MAX:
                        return self._refuse(503, "overloaded", "overloaded")
                    self._bodies_bytes += len(piece)
                    body += piece
            # Opened while it is still counted; a poll that then waits a minute holds its ops alone.
            opened = self._exchange.open_untrusted(bytes(body))
        except TimeoutError:
            return self._refuse(408, "body_too_slow", "too_slow")
        except (MalformedInput, VerificationFailed) as error:
            return self._refuse(400, error.code, "malformed")
        finally:
            self._bodies_bytes -= len(body)
            body.clear()
        try:
            if any(isinstance(op, List) and op.wait_ms > limits.STILL_HELD_MS for op in opened.ops):
                return await self._poll(request, opened)
            return web.Response(body=await self._exchange.answer(opened))
        except PolicyRefused as error:
            # The other refusal is the log's own: it went back in time, and nothing may be promised on it.
            if error.code != "replayed":
                raise
            return self._refuse(409, error.code, "replayed")

    async def _poll(self, request: web.Request, opened: Request) -> web.StreamResponse:
        """The answer to a poll; while it is held back the line is not silent."""
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        saying = self._env.spawn(self._say_held(request, response), name="still-held")
        try:
            answer = await self._exchange.answer(opened)
        finally:
            saying.cancel()
        if not response.prepared:
            return web.Response(body=answer)
        await response.write_eof(answer)
        return response

    async def _say_held(self, request: web.Request, response: web.StreamResponse) -> None:
        with contextlib.suppress(ConnectionError):  # who left is noticed elsewhere
            while True:
                await self._env.sleep(limits.STILL_HELD_MS / 1000)
                await response.prepare(request)
                await response.write(STILL_HELD)

    def _refuse(self, status: int, code: str, outcome: str) -> web.Response:
        self._metrics.requests.labels(outcome).inc()
        response = web.Response(status=status, text=code + "\n")
        if status != 409:
            # Whatever is left of the body is not read: the connection has nothing more to say.
            response.force_close()
        return response

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            return self._refuse(
                error.status, "not_found" if error.status in (404, 405) else "malformed", "not_found"
            )
        except Exception as error:
            _log.error("request_failed", **logs.error_fields(error))
            self._on_error(error)
            if isinstance(error, SalweenError):
                return self._refuse(503, error.code, "failed")
            return self._refuse(500, "internal_error", "failed")


async def _bare_headers(_: web.Request, response: web.StreamResponse) -> None:
    # Which Python and which library we run is nobody's business, and a poll is paid by the byte. The clock is
    # in the sealed answer; nothing may keep the answer to a POST.
    for unsaid in ("Content-Type", "Date", "Server"):
        response.headers.pop(unsaid, None)
