"""The web application of one office: routes, and what surrounds every handler.

Order for each request: guard (Host, target, method, sender, body type) -> language and session -> body
and form token -> handler -> security headers. One rule: nothing answers outside this order, also not an
error; what a handler raises is shown in words, and only a fault of our own is logged.
"""

import asyncio
import pkgutil
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused, SalweenError
from node.views import Session
from node.web import answering, carry_pages, erase_pages, pages, pairing_pages, photo_pages, receipt_pages
from node.web.desk_api import DeskApi
from node.web.events import Streams
from node.web.forms import Form, parse_form_untrusted, parse_json_untrusted
from node.web.guard import (
    BODY_BYTES_MAX,
    STICK_FORM,
    Refusal,
    add_security_headers,
    check_csrf,
    cookie_name,
    has_files,
    is_json,
    judge,
    read_body_untrusted,
)
from node.web.languages import choose_untrusted, words
from node.web.messages import say, status_of
from node.web.sent import SentForms
from node.web.show import Show, zone_of
from node.web.visit import Gate, Site, Visit, make_templates
from runtime.env import Env
from runtime.logs import error_fields, get_logger

UPLOADS_AT_ONCE_MAX: Final = 2  # each holds up to 25 MiB
LOGINS_AT_ONCE_MAX: Final = 4  # each costs the memory of one Argon2 run

Open = Callable[[Visit], Awaitable[web.StreamResponse]]
Closed = Callable[[Visit, Session], Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = get_logger("web")
_STATIC: Final = {
    "salween.css": "text/css",
    "salween.js": "text/javascript",
    "camera.js": "text/javascript",
    "carry.js": "text/javascript",
    "pair.js": "text/javascript",
    "vendor/jsQR.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_ID: Final = "[0-9a-f]{8,64}"
# For anyone who passes the guard; everything else needs a session.
_OPEN: Final[tuple[tuple[str, str, Open], ...]] = (
    ("GET", "/", pages.home),
    ("GET", "/login", pages.show_login),
    ("POST", "/login", pages.login),
    ("POST", "/language", pages.choose_language),
)
_CLOSED: Final[tuple[tuple[str, str, Closed], ...]] = (
    ("POST", "/logout", pages.logout),
    ("GET", "/inbox", pages.inbox),
    ("GET", f"/alert/{{alert_id:{_ID}}}", pages.show_alert),
    ("POST", f"/alert/{{alert_id:{_ID}}}", pages.show_alert_with_reason),
    ("GET", f"/alert/{{alert_id:{_ID}}}/print", pages.ask_to_print),
    ("POST", f"/alert/{{alert_id:{_ID}}}/print", pages.print_alert),
    ("POST", f"/alert/{{alert_id:{_ID}}}/answer", answering.answer),
    ("GET", f"/alert/{{alert_id:{_ID}}}/receipt", receipt_pages.choose),
    ("POST", f"/alert/{{alert_id:{_ID}}}/receipt", receipt_pages.make),
    ("GET", f"/alert/{{alert_id:{_ID}}}/fate", erase_pages.ask),
    ("POST", f"/alert/{{alert_id:{_ID}}}/fate/{{verb:erase|hold|end}}", erase_pages.act),
    ("GET", "/new", pages.new_alert),
    ("POST", "/new", pages.submit_alert),
    ("GET", "/new/photo/{name:[0-9a-f]{32}}", photo_pages.show_staged),
    ("GET", f"/alert/{{alert_id:{_ID}}}/photo/{{number:[0-7]}}", photo_pages.show_photo),
    ("GET", f"/pending/{{draft_id:{_ID}}}/photo/{{number:[0-7]}}", photo_pages.show_pending),
    ("GET", "/pending", pages.pending),
    ("POST", f"/pending/{{draft_id:{_ID}}}/{{verb:release|emergency|discard}}", pages.release),
    ("GET", "/outbox", pages.outbox),
    ("GET", "/partners", pages.partners),
    ("POST", "/partners/revocation", pages.apply_notice),
    ("POST", f"/partners/{{office_id:{_ID}}}/{{verb:suspend|resume}}", pages.hold_partner),
    ("GET", "/pair", pairing_pages.show),
    ("GET", "/pair/wait", pairing_pages.show),
    ("GET", "/pair/code.svg", pairing_pages.picture),
    ("POST", "/pair/{verb:begin|answer|reply|end}", pairing_pages.act),
    ("GET", "/carry", carry_pages.choose),
    ("GET", f"/carry/to/{{office_id:{_ID}}}", carry_pages.show_waiting),
    ("POST", f"/carry/to/{{office_id:{_ID}}}/file", carry_pages.write),
    ("POST", f"/carry/to/{{office_id:{_ID}}}/show", carry_pages.begin),
    ("GET", "/carry/show", carry_pages.show),
    ("GET", "/carry/pictures.png", carry_pages.pictures),
    ("POST", "/carry/show/{verb:next|end}", carry_pages.act),
    ("POST", STICK_FORM, carry_pages.take),
    ("GET", "/carry/read", carry_pages.read),
    ("POST", "/carry/read", carry_pages.take_frames),
    ("GET", "/audit", pages.audit),
    ("POST", "/audit/verify", pages.verify),
    ("GET", "/status", pages.status),
    ("GET", "/help", pages.show_help),
    ("GET", "/events", pages.events),
)
# Sent by the page's own script when nobody touched it: must not keep an unattended screen unlocked.
_PASSIVE: Final = "X-Salween-Passive"
_PASSIVE_PATHS: Final = frozenset({"/events", "/pair/wait", "/pair/code.svg"})


def make_app(
    desk: DeskApi, *, env: Env, hosts: Callable[[], frozenset[str]], language: str = ""
) -> web.Application:
    """The pages of ``desk``.

    ``hosts`` gives the Host headers to answer to (``guard.local_hosts`` of the port, known once listening).
    ``language`` (a tag or Babel's name) is what a reader sees before choosing; "" leaves it to the browser.
    Serve it on loopback only.
    """
    cookie = cookie_name(desk.office_id_hex)
    shared = Site(
        desk=desk,
        env=env,
        hosts=hosts,
        session_cookie=cookie,
        language_cookie=f"{cookie}-language",
        first_language=language.replace("_", "-"),
        templates=make_templates(),
        streams=Streams(),
        sent=SentForms(),
        logins=Gate(LOGINS_AT_ONCE_MAX),
        uploads=asyncio.Semaphore(UPLOADS_AT_ONCE_MAX),
    )
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_middleware(shared)])
    for method, path, open_handler in _OPEN:
        app.router.add_route(method, path, _open(shared, open_handler))
    for method, path, closed_handler in _CLOSED:
        app.router.add_route(method, path, _closed(shared, closed_handler))
    for name, content_type in _STATIC.items():
        app.router.add_route("GET", f"/static/{name}", _static(name, content_type))
    app.on_response_prepare.append(add_security_headers)
    app.on_shutdown.append(shared.streams.close)
    return app


def _static(name: str, content_type: str) -> Handler:
    content = pkgutil.get_data(__package__, f"static/{name}")
    assert content is not None, "static files are part of the package"

    async def serve(_: web.Request) -> web.StreamResponse:
        return web.Response(body=content, content_type=content_type, charset="utf-8")

    return serve


# --- around every handler -----------------------------------------------------------------------------------


def _middleware(shared: Site) -> Middleware:
    @web.middleware
    async def surround(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        refusal = judge(
            method=request.method, target=request.raw_path, headers=request.headers, hosts=shared.hosts()
        )
        if refusal is not None:
            return _refused(shared, request, refusal)
        try:
            return await handler(request)
        except web.HTTPException as error:
            # Only the router raises these: no such page, or not by this method.
            code = "method_refused" if error.status == 405 else "page_unknown"
            return _refused(shared, request, Refusal(status=error.status, code=code))
        except SalweenError as error:
            # Not even the frame of a page could be made: the desk itself cannot answer.
            return _refused(shared, request, Refusal(status=status_of(error), code=error.code))

    return surround


def _refused(shared: Site, request: web.Request, refusal: Refusal) -> web.Response:
    """An answer that tells nothing about the office: whoever asks may be anybody."""
    said = say(PolicyRefused(refusal.code), words(_language(shared, request)))
    if _wants_json(request):
        response = web.json_response(
            pages.error_json(PolicyRefused(refusal.code), said), status=refusal.status
        )
    else:
        text = shared.templates.get_template("refused.html").render(
            _=words(_language(shared, request)).gettext, said=said, language=_language(shared, request)
        )
        response = web.Response(text=text, status=refusal.status, content_type="text/html", charset="utf-8")
    # What follows on this connection may be the rest of a body nobody read.
    response.force_close()
    return response


def _language(shared: Site, request: web.Request) -> str:
    wishes = f"{shared.first_language},{request.headers.get('Accept-Language', '')}"
    return choose_untrusted(request.cookies.get(shared.language_cookie), wishes)


def _wants_json(request: web.Request) -> bool:
    accepted = request.headers.get("Accept", "")
    return "application/json" in accepted and "text/html" not in accepted


def _open(shared: Site, handler: Open) -> Handler:
    async def serve(request: web.Request) -> web.StreamResponse:
        visit = await _visit(shared, request)
        try:
            return await handler(await _with_form(visit))
        except SalweenError as error:
            return _failed(visit, error)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:
            return _faulty(visit, error)

    return serve


def _closed(shared: Site, handler: Closed) -> Handler:
    async def serve(request: web.Request) -> web.StreamResponse:
        visit = await _visit(shared, request)
        try:
            visit = await _with_form(visit)
            if visit.session is None:
                return await _ask_login(visit)
            return await handler(visit, visit.session)
        except SalweenError as error:
            if error.code == "session_ended":
                return await _ask_login(visit)
            return _failed(visit, error)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:
            return _faulty(visit, error)

    return serve


async def _visit(shared: Site, request: web.Request) -> Visit:
    spoken = words(_language(shared, request))
    status = await shared.desk.status()
    return Visit(
        request=request,
        site=shared,
        words=spoken,
        show=Show(spoken, zone_of(status.country)),
        status=status,
        session=await _session(shared, request),
        wants_json=_wants_json(request),
    )


async def _session(shared: Site, request: web.Request) -> Session | None:
    token = request.cookies.get(shared.session_cookie, "")
    if not (len(token) == 64 and token.isascii() and token.isalnum()):
        return None
    is_passive = _PASSIVE in request.headers or request.path in _PASSIVE_PATHS
    try:
        return await shared.desk.session(token, touch=not is_passive)
    except PolicyRefused:
        return None


async def _with_form(visit: Visit) -> Visit:
    """Read and check the body of a POST; nothing of it is used before the token held."""
    request = visit.request
    if request.method != "POST":
        return visit
    if has_files(request) and request.path == STICK_FORM:
        return visit  # a file may be large: its handler takes it in while it comes, and checks the same
    if has_files(request):
        return visit.with_form(await photo_pages.read_multipart_untrusted(visit))
    body = await read_body_untrusted(request, visit.site.env)
    form = parse_json_untrusted(body) if is_json(request) else parse_form_untrusted(body)
    if photo_pages.FAULT in form:
        raise MalformedInput("body_malformed")
    # Before login there is no session to take over, and SameSite, Origin and Sec-Fetch-Site were judged.
    if visit.session is not None and request.path != "/login":
        presented = request.headers.get("X-Salween-CSRF") or form.get("csrf", ("",))[0]
        check_csrf(presented, visit.session.csrf)
    return visit.with_form(form)


async def _ask_login(visit: Visit) -> web.StreamResponse:
    """No session: to the login, and a form being written is carried along."""
    error = PolicyRefused("session_ended")
    if visit.wants_json:
        return _failed(visit, error)
    visit = visit.without_session()
    response: web.StreamResponse
    if visit.request.path == "/new" and visit.form:
        draft: Form = pages.draft_of(visit.form)
        response = await pages.login_page(visit, error=say(error, visit.words), status=401, draft=draft)
    elif visit.request.method == "GET" and visit.request.path != "/events":
        response = visit.see_other(f"/login?next={visit.request.path}")
    elif visit.request.path == "/events":
        # An EventSource gives up on anything but 200; the page's own script then asks for the login.
        response = visit.json({}, status=401)
    else:
        response = await pages.login_page(visit, error=say(error, visit.words), status=401)
    if visit.site.session_cookie in visit.request.cookies:
        pages.drop_cookie(response, visit.site.session_cookie)
    return response


def _failed(visit: Visit, error: SalweenError) -> web.StreamResponse:
    if isinstance(error, BrokenInvariant):
        _log.error("page_failed", path=visit.request.path[:32], **error_fields(error))
    said = say(error, visit.words)
    status = status_of(error)
    response: web.Response
    if visit.wants_json:
        response = visit.json(pages.error_json(error, said), status=status)
    else:
        response = visit.page("error.html", status=status, error=said)
    if isinstance(error, MalformedInput):
        response.force_close()
    return response


def _faulty(visit: Visit, error: Exception) -> web.StreamResponse:
    """Something nobody foresaw: logged without its message, which may quote what was typed."""
    _log.error("page_failed", path=visit.request.path[:32], **error_fields(error))
    fault = BrokenInvariant("internal_error")
    said = say(fault, visit.words)
    if visit.wants_json:
        return visit.json(pages.error_json(fault, said), status=500)
    return visit.page("error.html", status=500, error=said)
