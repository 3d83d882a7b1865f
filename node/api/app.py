"""Around every operation of the local API: guard, token, body, errors.

Spec: docs/operations.md#local-api. Order: Host, no browser, path and method, token, scope, body, operation.
One rule: nothing that a page in a browser can make a browser send is ever served here, token or not.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from typing import Any, Final

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused, SalweenError
from node.api.models import Fault, Picture
from node.api.openapi import BASE, MEDIA_TYPES, ONCE_KEY, ONCE_KEY_PATTERN, document
from node.api.operations import OPERATIONS, Call, Operation, request_invalid
from node.desk import Desk
from node.integrations import Acting, Integrations
from protocol import limits
from runtime.env import Env
from runtime.logs import error_fields, get_logger

BODY_BYTES_MAX: Final = 256 * 1024
BODY_SECONDS_MAX: Final = 10.0
PHOTO_SECONDS_MAX: Final = 60.0  # loopback: the largest photo at half a megabyte a second
PHOTOS_AT_ONCE_MAX: Final = 2  # each holds up to 25 MiB
PIECE_BYTES: Final = 256 * 1024
TARGET_BYTES_MAX: Final = 2048
_PATH: Final = {
    "alert_id": re.compile(r"[0-9a-f]{64}"),
    "photo": re.compile(r"[0-9a-f]{32}"),
    "number": re.compile(rf"[0-{2 * limits.PHOTOS_PER_ALERT_MAX - 1}]"),
}
_JSON: Final = re.compile(r'application/json(?:; ?charset="?utf-8"?)?', re.IGNORECASE)
_ONCE_KEY: Final = re.compile(ONCE_KEY_PATTERN)
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Server": "salween",
}
_STATUS_OF_FAMILY: Final[Mapping[str, int]] = {
    "malformed": 400,
    "verification": 422,
    "policy": 409,
    "unavailable": 503,
}
_STATUS_OF_CODE: Final[Mapping[str, int]] = {
    "address_malformed": 400,
    "token_wrong": 401,
    "scope_missing": 403,
    "role_may_not": 403,
    "browser_refused": 403,
    "alert_unknown": 404,
    "photo_unknown": 404,
    "page_unknown": 404,
    "method_refused": 405,
    "alert_erased": 410,
    "body_too_large": 413,
    "photo_too_large": 413,
    "content_type_refused": 415,
    "host_unknown": 421,
    "request_invalid": 422,
    "peer_unknown": 422,
    "reason_unknown": 422,
    "photo_kind": 422,
    "photo_pixels": 422,
    "photo_damaged": 422,
    "photo_too_hard": 422,
}

_log = get_logger("api")


class Api:
    """The API of one office; ``app`` is to be served on loopback."""

    def __init__(
        self,
        desk: Desk,
        integrations: Integrations,
        *,
        env: Env,
        hosts: Callable[[], frozenset[str]],
        version: str,
    ) -> None:
        """``hosts`` gives the Host headers to answer to, known once listening."""
        self._desk = desk
        self._integrations = integrations
        self._env = env
        self._hosts = hosts
        self._photos_at_once = asyncio.Semaphore(PHOTOS_AT_ONCE_MAX)
        self._document = json.dumps(document(version)).encode()

    def app(self) -> web.Application:
        """The application to serve."""
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[self._guard])
        app.router.add_get(f"{BASE}/openapi.json", self._show_document, allow_head=False)
        for operation in OPERATIONS:
            app.router.add_route(operation.method, BASE + operation.path, self._serve(operation))
        app.on_response_prepare.append(_add_headers)
        return app

    async def _show_document(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self._document, content_type="application/json")

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        named = request.headers.getall("Host", [])
        if len(named) != 1 or named[0] not in self._hosts():
            return _said(PolicyRefused("host_unknown", "This is not an address of this office."))
        # A program sends none of these; a browser cannot leave them away on what a foreign page asks for.
        if any(name in request.headers for name in ("Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode")):
            return _said(PolicyRefused("browser_refused", "The API is for programs; officers use the pages."))
        if len(request.raw_path) > TARGET_BYTES_MAX:
            return _said(PolicyRefused("address_malformed", "This address is too long."))
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            refused = _said(PolicyRefused("method_refused", "This path is not asked in this way."))
            refused.headers["Allow"] = error.headers["Allow"]
            return refused
        except web.HTTPException:
            return _said(PolicyRefused("page_unknown", f"There is no such path. See: {BASE}/openapi.json"))
        except ConnectionError:
            raise
        except SalweenError as error:
            if isinstance(error, BrokenInvariant):
                _log.error("api_failed", **error_fields(error))
            return _said(error)
        except Exception as error:
            # Logged without its message, which may quote what was sent.
            _log.error("api_failed", **error_fields(error))
            return _said(BrokenInvariant("internal_error", "The program found a fault of its own."))

    def _serve(self, operation: Operation) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        answers: TypeAdapter[Any] = TypeAdapter(operation.returns)
        holds_picture = operation.takes_photo or operation.gives_picture

        async def serve(request: web.Request) -> web.StreamResponse:
            acting = await self._who(request)
            acting.require(operation.scope)
            path = dict(request.match_info)
            for name, text in path.items():
                if not _PATH[name].fullmatch(text):
                    raise PolicyRefused("request_invalid", f"This is not how {name} is written.")
            once_key = _once_key(request) if operation.is_once else ""
            async with self._photos_at_once if holds_picture else nullcontext():
                call = Call(
                    desk=self._desk,
                    integrations=self._integrations,
                    acting=acting,
                    scope=operation.scope,
                    path=path,
                    once_key=once_key,
                    sent=await self._sent(operation, request),
                )
                answer = await operation.carry_out(call)
                if isinstance(answer, Picture):
                    return await self._hand_over(request, answer)
            return web.Response(
                body=answers.dump_json(answer), status=operation.status, content_type="application/json"
            )

        return serve

    async def _hand_over(self, request: web.Request, picture: Picture) -> web.StreamResponse:
        """A picture, whole and verified, as fast as it is read; who reads too slowly is cut off."""
        response = web.StreamResponse()
        response.content_type = MEDIA_TYPES[picture.kind]
        response.content_length = len(picture.data)
        try:
            async with self._env.timeout(PHOTO_SECONDS_MAX):
                await response.prepare(request)
                for start in range(0, len(picture.data), PIECE_BYTES):
                    await response.write(picture.data[start : start + PIECE_BYTES])
                await response.write_eof()
        except TimeoutError:
            raise ConnectionAbortedError from None
        return response

    async def _who(self, request: web.Request) -> Acting:
        named = request.headers.getall("Authorization", [])
        scheme, _, token = named[0].partition(" ") if len(named) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            raise PolicyRefused("token_wrong", "Say who asks: 'Authorization: Bearer salween-api1-...'.")
        return await self._integrations.acting(token)

    async def _sent(self, operation: Operation, request: web.Request) -> Any:
        try:
            if operation.takes_photo:
                return await self._photo_untrusted(request)
            if operation.body is not None:
                return operation.body.model_validate_json(await self._json_untrusted(request))
            if len(request.query) != len(set(request.query)):
                raise PolicyRefused("request_invalid", "A part of the query stands there twice.")
            if operation.query is not None:
                return operation.query.model_validate(dict(request.query))
            if request.query:
                raise PolicyRefused("request_invalid", "This operation takes no query.")
        except ValidationError as faults:
            raise request_invalid(faults) from faults
        return None

    async def _json_untrusted(self, request: web.Request) -> bytes:
        types = request.headers.getall("Content-Type", [])
        if len(types) != 1 or not _JSON.fullmatch(types[0]) or "Content-Encoding" in request.headers:
            raise PolicyRefused("content_type_refused", "The body is JSON: 'Content-Type: application/json'.")
        too_large = MalformedInput("body_too_large", f"A body has at most {BODY_BYTES_MAX} bytes.")
        return await self._body_untrusted(request, BODY_BYTES_MAX, BODY_SECONDS_MAX, too_large)

    async def _photo_untrusted(self, request: web.Request) -> bytes:
        types = request.headers.getall("Content-Type", [])
        # What it is, its bytes say.
        if (
            len(types) != 1
            or types[0].lower() not in MEDIA_TYPES.values()
            or "Content-Encoding" in request.headers
        ):
            raise PolicyRefused(
                "content_type_refused", "The body is a photo: 'Content-Type: image/jpeg' or png."
            )
        too_large = PolicyRefused("photo_too_large", "A photo has at most 25 MiB.")
        return await self._body_untrusted(request, limits.PHOTO_BYTES_MAX, PHOTO_SECONDS_MAX, too_large)

    async def _body_untrusted(
        self, request: web.Request, bytes_max: int, seconds_max: float, too_large: SalweenError
    ) -> bytes:
        body = bytearray()
        try:
            async with self._env.timeout(seconds_max):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > bytes_max:
                        raise too_large
        except TimeoutError:
            raise MalformedInput("body_too_slow", "The body arrived too slowly.") from None
        except web.RequestPayloadError:
            raise MalformedInput("body_malformed", "The body cannot be read.") from None
        return bytes(body)


def _once_key(request: web.Request) -> str:
    named = request.headers.getall(ONCE_KEY, [])
    if len(named) != 1 or not _ONCE_KEY.fullmatch(named[0]):
        raise PolicyRefused(
            "request_invalid", f"{ONCE_KEY} is missing or no name: 1 to 128 printable ASCII characters."
        )
    return named[0]


def _said(error: SalweenError) -> web.Response:
    status = _STATUS_OF_CODE.get(error.code, _STATUS_OF_FAMILY.get(error.family, 500))
    body = Fault(code=error.code, detail=error.detail).model_dump_json().encode()
    response = web.Response(body=body, status=status, content_type="application/json")
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    # What follows on this connection may be the rest of a body nobody read.
    response.force_close()
    return response


async def _add_headers(_: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
