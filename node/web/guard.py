"""Who may speak to the pages at all: judged from the request line and headers, before any handler runs.

Spec: docs/threat-model.md (a web site in the officer's browser). One rule: a request that a page of this
very origin, or the officer's own address bar, could not have made is refused before its body is read. It
knows no officer and no alert; sessions and rights are the desk's.

Why each check stands here although SameSite=Strict cookies exist: cookies ignore ports, so any other
program on this machine that serves a page on another port of localhost is *same-site* with us; and a
rebound DNS name makes a foreign page same-origin with its own name, which only the Host list sees.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from keys.errors import MalformedInput, PolicyRefused
from keys.primitives import constant_time_equal
from protocol.limits import PHOTO_BYTES_MAX, PHOTOS_PER_ALERT_MAX
from protocol.stick import FILE_BYTES_MAX as STICK_FILE_BYTES_MAX
from runtime.env import Env

BODY_BYTES_MAX: Final = 64 * 1024  # one alert typed by hand
PHOTO_FORM: Final = "/new"
PHOTO_FORM_BYTES_MAX: Final = BODY_BYTES_MAX + PHOTOS_PER_ALERT_MAX * (PHOTO_BYTES_MAX + 4096)
STICK_FORM: Final = "/carry/file"
# Forms that may bring files, and how many bytes of them.
FILE_FORMS: Final[Mapping[str, int]] = {
    PHOTO_FORM: PHOTO_FORM_BYTES_MAX,
    STICK_FORM: BODY_BYTES_MAX + STICK_FILE_BYTES_MAX,
}
PHOTO_FORM_SECONDS_MAX: Final = 240.0  # four photos, each made anew in half a minute
TARGET_BYTES_MAX: Final = 2048
BODY_SECONDS_MAX: Final = 10.0  # loopback: whoever needs longer for 64 KiB is holding a connection on purpose
METHODS: Final = frozenset({"GET", "POST"})
FORM: Final = "application/x-www-form-urlencoded"
JSON: Final = "application/json"
MULTIPART: Final = "multipart/form-data"

# Every path of ours is plain ASCII without escapes: an escape in a path is somebody trying something.
_PATH: Final = re.compile(
    r"/(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*(?:/[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)*)?"
)
_QUERY: Final = re.compile(r"[A-Za-z0-9_=&%.+~*/-]*")
_MULTIPART: Final = re.compile(r"multipart/form-data; ?boundary=[A-Za-z0-9'()+_,./:=?-]{1,70}", re.IGNORECASE)
_CONTENT_TYPE: Final = re.compile(r'([a-z]+/[a-z-]+)(?:; ?charset="?utf-8"?)?', re.IGNORECASE)

_NO_SENSORS: Final = "microphone=(), geolocation=(), usb=(), payment=(), clipboard-read=()"
CAMERA_POLICY: Final = f"camera=(self), {_NO_SENSORS}"  # of pages that read codes
SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "font-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: under it a browser sends "Origin: null" with our own forms, and null is refused here.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Permissions-Policy": f"camera=(), {_NO_SENSORS}",
    "Server": "salween",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request is not served: HTTP status and a message code of messages.py."""

    status: int
    code: str


def local_hosts(port: int) -> frozenset[str]:
    """The Host headers under which this machine's own browser reaches ``port``."""
    return frozenset({f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"})


def cookie_name(office_id_hex: str) -> str:
    """Name of the session cookie.

    Cookies ignore ports: two offices open in one browser need two names. ``__Host-`` makes the browser refuse
    the cookie without Secure, with a Domain, or from a subdomain.
    """
    return f"__Host-salween-{office_id_hex[:8]}"


def judge(
    *, method: str, target: str, headers: CIMultiDictProxy[str] | CIMultiDict[str], hosts: frozenset[str]
) -> Refusal | None:
    """None when the request may be served; ``target`` is the request target exactly as sent."""
    named = headers.getall("Host", [])
    if len(named) != 1 or named[0] not in hosts:
        return Refusal(status=421, code="host_unknown")
    if method not in METHODS:
        return Refusal(status=405, code="method_refused")
    path, _, query = target.partition("?")
    if len(target) > TARGET_BYTES_MAX or not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
        return Refusal(status=400, code="address_malformed")
    if "Upgrade" in headers or "upgrade" in headers.get("Connection", "").lower():
        return Refusal(status=400, code="upgrade_refused")
    return (
        _judge_sender(method, headers, f"http://{named[0]}")
        or (_judge_body(path, headers) if method == "POST" else _judge_no_body(headers))
    )  # fmt: skip


def _judge_sender(
    method: str, headers: CIMultiDictProxy[str] | CIMultiDict[str], own_origin: str
) -> Refusal | None:
    sites = headers.getall("Sec-Fetch-Site", [])
    origins = headers.getall("Origin", [])
    # "none" is the address bar, which makes only GETs. "same-site" is another port of localhost: foreign.
    sites_allowed = ("same-origin",) if method == "POST" else ("same-origin", "none")
    if any(site not in sites_allowed for site in sites) or any(origin != own_origin for origin in origins):
        return Refusal(status=403, code="cross_origin")
    if method == "POST" and not sites and not origins:
        return Refusal(status=403, code="origin_missing")
    return None


def _judge_body(path: str, headers: CIMultiDictProxy[str] | CIMultiDict[str]) -> Refusal | None:
    types = headers.getall("Content-Type", [])
    found = _CONTENT_TYPE.fullmatch(types[0]) if len(types) == 1 else None
    has_files = path in FILE_FORMS and len(types) == 1 and _MULTIPART.fullmatch(types[0]) is not None
    is_text = found is not None and found[1].lower() in (FORM, JSON)
    if not (is_text or has_files) or "Content-Encoding" in headers:
        return Refusal(status=415, code="content_type_refused")
    length = headers.get("Content-Length", "0")
    if not (length.isascii() and length.isdigit() and len(length) <= 12):
        return Refusal(status=400, code="address_malformed")
    if int(length) > (FILE_FORMS[path] if has_files else BODY_BYTES_MAX):
        return Refusal(status=413, code="body_too_large")
    return None


def _judge_no_body(headers: CIMultiDictProxy[str] | CIMultiDict[str]) -> Refusal | None:
    if headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers:
        return Refusal(status=400, code="body_unexpected")
    return None


def is_json(request: web.Request) -> bool:
    """Whether the body of a judged POST is JSON rather than a form."""
    return request.headers["Content-Type"].lower().startswith(JSON)


def has_files(request: web.Request) -> bool:
    """Whether the body of a judged POST is a form with files."""
    return request.headers["Content-Type"].lower().startswith(MULTIPART)


def check_csrf(presented: str, expected: str) -> None:
    """PolicyRefused ``csrf_wrong`` unless the form carries the token of this session."""
    if not constant_time_equal(presented.encode("utf-8", "replace"), expected.encode()):
        raise PolicyRefused("csrf_wrong")


async def read_body_untrusted(request: web.Request, env: Env) -> bytes:
    """The whole body, at most BODY_BYTES_MAX within BODY_SECONDS_MAX; MalformedInput otherwise.

    Counts bytes itself: a chunked body has no length to judge beforehand.
    """
    body = bytearray()
    try:
        async with env.timeout(BODY_SECONDS_MAX):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise MalformedInput("body_too_large")
    except TimeoutError:
        raise MalformedInput("body_too_slow") from None
    except (web.RequestPayloadError, ConnectionError):
        raise MalformedInput("body_malformed") from None
    return bytes(body)


async def add_security_headers(_: web.BaseRequest, response: web.StreamResponse) -> None:
    """Signal handler: every answer of this application, errors and streams included, carries them."""
    wants_camera = response.headers.get("Permissions-Policy") == CAMERA_POLICY
    response.headers.update(SECURITY_HEADERS)
    if wants_camera:
        response.headers["Permissions-Policy"] = CAMERA_POLICY
