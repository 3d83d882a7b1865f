"""Who may speak to the pages: B58-B62, B66-B68, B70, B71, from the pure judgement to bytes on a socket."""

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from keys.errors import PolicyRefused
from node.web import guard
from node.web.guard import BODY_BYTES_MAX, check_csrf, cookie_name, judge, local_hosts
from runtime.env import Listener
from tests.web.fake_desk import OFFICE_ID, PIN, FakeDesk
from tests.web.serve import Client

HOSTS = local_hosts(7441)
OWN = {"Host": "localhost:7441"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def judged(method: str = "GET", target: str = "/inbox", *more: tuple[str, str], **headers: str) -> int:
    """Status of the refusal, 200 for none. ``more`` may repeat a header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    found = judge(method=method, target=target, headers=CIMultiDict([*named.items(), *more]), hosts=HOSTS)
    return 200 if found is None else found.status


@pytest.mark.parametrize("host", sorted(HOSTS))
def test_this_machine_s_own_names_are_answered(host: str) -> None:
    """localhost and both loopback addresses, with the port we listen on."""
    assert judged(Host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:7441",
        "localhost",
        "localhost:80",
        "localhost:7441.",
        "localhost.:7441",
        "user@localhost:7441",
        "localhost:7441@evil.example",
        "2130706433:7441",
        "0x7f000001:7441",
        "127.1:7441",
        "0.0.0.0:7441",
        "[::]:7441",
        "[::ffff:127.0.0.1]:7441",
        "LOCALHOST:7441",
        " localhost:7441",
        "localhost:07441",
        "localhost:7441, evil.example",
        "127.0.0.1.nip.io:7441",
    ],
)
def test_every_other_host_is_misdirected(host: str) -> None:
    """B58: a rebound name, another spelling, or userinfo gets 421, whatever else is right."""
    assert judged(Host=host) == 421
    assert judged("POST", "/login", Host=host, Origin="http://localhost:7441", **FORM) == 421


def test_no_host_and_two_hosts_are_misdirected() -> None:
    """B58: exactly one Host; two of them are a smuggling attempt."""
    assert judged() == 421
    assert judged("GET", "/", ("Host", "localhost:7441"), ("Host", "localhost:7441")) == 421


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "https://localhost:7441",
        "http://localhost:7442",
        "http://127.0.0.1:7441",
        "http://localhost:7441.evil.example",
        "http://localhost:7441/",
        "",
        "http://localhost",
        "file://",
    ],
)
def test_a_foreign_origin_is_refused_for_every_method(origin: str) -> None:
    """B59: Origin must be this very origin, scheme, name and port."""
    assert judged("POST", "/new", ("Origin", origin), **OWN, **FORM) == 403
    assert judged("GET", "/inbox", ("Origin", origin), **OWN) == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything", ""])
def test_a_request_from_another_page_is_refused(site: str) -> None:
    """B60: another port of localhost is same-site, and just as foreign."""
    assert judged("GET", "/inbox", ("Sec-Fetch-Site", site), **OWN) == 403
    assert (
        judged("POST", "/new", ("Sec-Fetch-Site", site), ("Origin", "http://localhost:7441"), **OWN, **FORM)
        == 403
    )


def test_the_address_bar_may_read_but_not_write() -> None:
    """Sec-Fetch-Site none is a typed address: a GET, never a POST."""
    assert judged("GET", "/", ("Sec-Fetch-Site", "none"), **OWN) == 200
    assert judged("POST", "/new", ("Sec-Fetch-Site", "none"), **OWN, **FORM) == 403


def test_a_form_must_say_where_it_comes_from() -> None:
    """A POST with neither Origin nor Sec-Fetch-Site is nobody's page."""
    assert judged("POST", "/new", **OWN, **FORM) == 403
    assert judged("POST", "/new", ("Sec-Fetch-Site", "same-origin"), **OWN, **FORM) == 200
    assert judged("POST", "/new", ("Origin", "http://localhost:7441"), **OWN, **FORM) == 200


@pytest.mark.parametrize(
    "method", ["TRACE", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "get", "PROPFIND"]
)
def test_only_get_and_post_exist(method: str) -> None:
    """B67: HEAD too, because opening an alert is an entry in the log."""
    assert judged(method, **OWN) == 405


def test_a_method_override_header_changes_nothing() -> None:
    """B67: nobody reads X-HTTP-Method-Override."""
    assert judged("GET", "/inbox", ("X-HTTP-Method-Override", "POST"), **OWN) == 200


@pytest.mark.parametrize(
    "target",
    [
        "/../etc/passwd",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/%00",
        "/a%00b",
        "//evil.example/",
        "/inbox//x",
        "/static/\\..\\x",
        "/%c0%ae%c0%ae/",
        "/é",
        "http://evil.example/",
        "*",
        "",
        "inbox",
        "/.git/config",
        "/static/.htaccess",
        "/inbox?a=<b>",
        "/inbox#x",
        "/" + "a" * 3000,
        "/inbox?" + "a" * 3000,
    ],
)
def test_an_address_of_another_shape_is_refused(target: str) -> None:
    """B66: our paths are plain ASCII words; everything else is somebody trying something."""
    assert judged("GET", target, **OWN) == 400


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "multipart/form-data",
        "multipart/mixed; boundary=x",
        "application/json; charset=utf-16",
        "",
        "application/jsonp",
        "application/x-www-form-urlencoded, text/plain",
        "text/html",
        "application/csp-report",
    ],
)
def test_a_body_of_another_type_is_refused(content_type: str) -> None:
    """B62: a form posted as text/plain cannot pass for JSON."""
    own = ("Origin", "http://localhost:7441")
    assert judged("POST", "/new", own, ("Content-Type", content_type), **OWN) == 415
    assert judged("POST", "/new", own, **OWN) == 415
    two = (("Content-Type", FORM["Content-Type"]), ("Content-Type", "text/plain"))
    assert judged("POST", "/new", own, *two, **OWN) == 415
    files = ("Content-Type", "multipart/form-data; boundary=x")
    assert judged("POST", "/new", own, files, **OWN) == 200, "the one form that may bring photos"
    assert judged("POST", "/login", own, files, **OWN) == 415
    assert judged("POST", "/new", own, files, files, **OWN) == 415


def test_a_body_that_is_too_large_or_compressed_is_refused_unread() -> None:
    """B68: by its length; a compressed one is refused whatever its length."""
    own = ("Origin", "http://localhost:7441")
    assert judged("POST", "/new", own, ("Content-Length", str(BODY_BYTES_MAX)), **OWN, **FORM) == 200
    assert judged("POST", "/new", own, ("Content-Length", str(BODY_BYTES_MAX + 1)), **OWN, **FORM) == 413
    assert judged("POST", "/new", own, ("Content-Length", "9" * 13), **OWN, **FORM) == 400
    assert judged("POST", "/new", own, ("Content-Length", "-1"), **OWN, **FORM) == 400
    assert judged("POST", "/new", own, ("Content-Encoding", "gzip"), **OWN, **FORM) == 415
    assert judged("GET", "/inbox", ("Content-Length", "5"), **OWN) == 400
    assert judged("GET", "/inbox", ("Transfer-Encoding", "chunked"), **OWN) == 400


def test_nothing_here_upgrades() -> None:
    """B61: there is no WebSocket to connect to, from any origin."""
    assert judged("GET", "/events", ("Upgrade", "websocket"), ("Connection", "Upgrade"), **OWN) == 400
    assert judged("GET", "/events", ("Connection", "keep-alive, Upgrade"), **OWN) == 400


@given(
    method=st.text(max_size=8),
    target=st.text(max_size=60),
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                ["Host", "Origin", "Sec-Fetch-Site", "Content-Type", "Content-Length", "Connection"]
            ),
            st.text(max_size=30)
            | st.sampled_from(["localhost:7441", "http://localhost:7441", "same-origin"]),
        ),
        max_size=6,
    ),
)
def test_the_judgement_never_raises(method: str, target: str, headers: list[tuple[str, str]]) -> None:
    """Whatever the request line and headers, there is a verdict."""
    found = judge(method=method, target=target, headers=CIMultiDict(headers), hosts=HOSTS)
    assert found is None or 400 <= found.status < 500


def test_a_form_token_of_another_session_is_refused() -> None:
    """Also when it is not even ASCII."""
    check_csrf("ab" * 16, "ab" * 16)
    for wrong in ("", "ab" * 15, "é" * 32, "\udcff" * 32):
        with pytest.raises(PolicyRefused, match="csrf_wrong"):
            check_csrf(wrong, "ab" * 16)


def test_two_offices_on_one_machine_have_two_cookies() -> None:
    """Cookies ignore ports."""
    assert cookie_name("5a" * 32) != cookie_name("7e" * 32)
    assert cookie_name("5a" * 32).startswith("__Host-")


# --- through the real server --------------------------------------------------------------------------------


async def raw(listener: Listener, request: bytes) -> bytes:
    """What comes back for exactly these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    try:
        writer.write(request)
        await writer.drain()
        return await asyncio.wait_for(reader.read(65536), 5)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["GET /login HTTP/1.1", "Host: evil.example:{port}"], 421),
        (["GET /login HTTP/1.1", "Host: localhost:{port}", "Host: evil.example"], 400),
        (["GET http://evil.example/login HTTP/1.1", "Host: localhost:{port}"], 400),
        (["GET /login HTTP/1.0"], 421),
        (["GET /static/%2e%2e/app.py HTTP/1.1", "Host: localhost:{port}"], 400),
        (["GET /static/../app.py HTTP/1.1", "Host: localhost:{port}"], 400),
        (["TRACE /login HTTP/1.1", "Host: localhost:{port}"], 405),
        (["OPTIONS * HTTP/1.1", "Host: localhost:{port}"], 405),
        (["GET /nothing HTTP/1.1", "Host: localhost:{port}"], 404),
        (["GET /logout HTTP/1.1", "Host: localhost:{port}"], 405),
        (["POST /login HTTP/1.1", "Host: localhost:{port}", "Content-Length: 5", "Content-Length: 6"], 400),
        (["GET /login HTTP/1.1", "Host: localhost:{port}", "X-A: 1", " folded"], 400),
        (["GET /login HTTP/1.1", "Host: localhost:{port}", "X-A: " + "a" * 20000], 400),
        (["GET /login HTTP/1.1", "Host: localhost:{port}", *(f"X-{n}: 1" for n in range(400))], 400),
    ],
)
async def test_hostile_request_lines_are_refused_by_the_server(
    listener: Listener, lines: list[str], status: int
) -> None:
    """B58, B63, B64, B66, B67 as bytes on the socket; the answer tells nothing about the office."""
    request = "\r\n".join(lines).format(port=listener.port) + "\r\n\r\n"
    answer = await raw(listener, request.encode())
    assert int(answer.split(b" ", 2)[1]) == status, answer[:200]
    assert b"Myitkyina" not in answer


async def test_a_length_and_chunks_together_never_reach_a_handler(listener: Listener, desk: FakeDesk) -> None:
    """B63: a request that two readers would cut differently is not served, nor what hides behind it."""
    body = b"0\r\n\r\nPOST /login HTTP/1.1\r\n\r\n"
    answer = await raw(
        listener,
        b"POST /login HTTP/1.1\r\nHost: localhost:%d\r\nSec-Fetch-Site: same-origin\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (listener.port, len(body), body),
    )
    assert not answer or answer.split(b" ", 2)[1] == b"400"
    assert desk.logins == []


async def test_a_body_without_a_length_is_counted(client: Client) -> None:
    """B68: chunks are added up and cut off at the limit."""
    answer = await client.ask("POST", "/login", data=b"pin=" + b"1" * BODY_BYTES_MAX)
    assert answer.status == 413
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(
        b"POST /login HTTP/1.1\r\nHost: localhost:%d\r\nSec-Fetch-Site: same-origin\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n" % client.port
    )
    for _ in range(20):
        writer.write(b"1000\r\n" + b"1" * 4096 + b"\r\n")
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    answer_bytes = await asyncio.wait_for(reader.read(65536), 5)
    assert answer_bytes.split(b" ", 2)[1] == b"413"
    writer.close()


async def test_a_body_that_never_ends_is_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """B65: a byte now and then holds the connection for seconds, not for ever."""
    monkeypatch.setattr(guard, "BODY_SECONDS_MAX", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(
        b"POST /login HTTP/1.1\r\nHost: localhost:%d\r\nSec-Fetch-Site: same-origin\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\np" % client.port
    )
    answer = await asyncio.wait_for(reader.read(65536), 5)
    assert answer.split(b" ", 2)[1] == b"408"
    writer.close()


async def test_every_answer_carries_the_security_headers(officer: Client) -> None:
    """Pages, redirects, refusals, files and errors alike; nothing may be cached, framed or sniffed (B71)."""
    answers = [
        await officer.get("/inbox"),
        await officer.get("/"),
        await officer.get("/nothing"),
        await officer.get("/static/salween.css"),
        await officer.ask("PUT", "/inbox"),
        await officer.get("/inbox", Host="evil.example"),
        await officer.post("/new", {"csrf": "0" * 32}),
    ]
    assert [answer.status for answer in answers] == [200, 303, 404, 200, 405, 421, 403]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "trusted-types 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Server"] == "salween"
        assert "Access-Control-Allow-Origin" not in answer.headers


# --- sessions -----------------------------------------------------------------------------------------------


async def test_the_cookie_has_everything_its_prefix_demands(client: Client) -> None:
    """Secure, HttpOnly, SameSite=Strict, Path=/, no Domain, no Max-Age."""
    answer = await client.login()
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(cookie_name(OFFICE_ID) + "=")
    for attribute in ("Secure", "HttpOnly", "SameSite=Strict", "Path=/"):
        assert attribute in cookie
    assert "Domain" not in cookie
    assert "Max-Age" not in cookie


async def test_a_token_brought_along_is_never_taken_over(client: Client, desk: FakeDesk) -> None:
    """B70: session fixation. The login makes a new token; the planted one opens nothing."""
    planted = "f" * 64
    client.cookies[cookie_name(OFFICE_ID)] = planted
    answer = await client.login()
    assert answer.cookies[cookie_name(OFFICE_ID)] != planted
    assert planted not in desk.sessions


async def test_logging_in_again_ends_the_session_before(officer: Client, desk: FakeDesk) -> None:
    """One browser holds one session; the old cookie does not live on."""
    before = officer.cookies[cookie_name(OFFICE_ID)]
    await officer.login(2)
    assert before not in desk.sessions
    assert len(desk.sessions) == 1


@pytest.mark.parametrize("token", ["", "f" * 64, "F" * 64, "..", "a" * 65, "é" * 64, '"' + "a" * 62 + '"'])
async def test_a_wrong_cookie_is_nobody(client: Client, token: str) -> None:
    """B70: no session of another, no crash."""
    client.cookies[cookie_name(OFFICE_ID)] = token
    answer = await client.ask(
        "GET", "/inbox", headers={"Cookie": f"{cookie_name(OFFICE_ID)}={token}".encode().decode("latin-1")}
    )
    assert (answer.status, answer.location) == (303, "/login?next=/inbox")


async def test_wrong_officer_and_wrong_pin_look_alike(client: Client) -> None:
    """B70: same status, same sentence, same length but for what was typed."""
    wrong_pin = await client.post("/login", {"officer": "1", "pin": "000000"})
    wrong_officer = await client.post("/login", {"officer": "77", "pin": PIN})
    assert wrong_pin.status == wrong_officer.status == 401
    sentence = "Officer or PIN is wrong."
    assert sentence in wrong_pin.text
    assert sentence in wrong_officer.text
    assert "tries left" not in wrong_pin.text


async def test_a_thousand_logins_at_once_cost_four(client: Client, desk: FakeDesk) -> None:
    """B70: each login costs an Argon2 run; beyond four at once the answer is: busy, try again."""
    desk.login_gate = asyncio.Event()
    waiting = [asyncio.create_task(client.post("/login", {"officer": "1", "pin": PIN})) for _ in range(40)]
    done: set[asyncio.Task[object]] = set()
    while len(done) < 36:
        done, _ = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert len(desk.logins) == 4
    desk.login_gate.set()
    answers = await asyncio.gather(*waiting)
    assert sorted(answer.status for answer in answers) == [303] * 4 + [503] * 36


@pytest.mark.parametrize(
    "path",
    [
        "/logout",
        "/new",
        "/audit/verify",
        "/pending/" + "a" * 32 + "/release",
        "/pending/" + "a" * 32 + "/discard",
        "/alert/" + "d4" * 32,
        "/language",
    ],
)
async def test_no_form_works_without_its_token(officer: Client, desk: FakeDesk, path: str) -> None:
    """Every POST of a session carries that session's token, or nothing happens."""
    for token in ("", "0" * 32):
        answer = await officer.post(path, {"csrf": token, "language": "my", "reason": "case"})
        assert answer.status == 403
        assert "csrf_wrong" in answer.text
    assert len(desk.sessions) == 1
    assert desk.opened == []


async def test_after_logout_nothing_opens(officer: Client, desk: FakeDesk) -> None:
    """B71: the cookie is gone, the session too, and no page was cacheable."""
    kept = dict(officer.cookies)
    answer = await officer.post("/logout", {})
    assert (answer.status, answer.location) == (303, "/login")
    assert officer.cookies == {}
    assert desk.sessions == {}
    officer.cookies = kept
    answer = await officer.get("/inbox")
    assert answer.status == 303


@pytest.mark.parametrize(
    "path",
    [
        "/inbox",
        "/outbox",
        "/new",
        "/pending",
        "/partners",
        "/audit",
        "/status",
        "/help",
        "/alert/" + "a1" * 32,
    ],
)
async def test_no_page_opens_without_a_session(client: Client, path: str) -> None:
    """They lead to the login and back; JSON gets 401."""
    answer = await client.get(path)
    assert (answer.status, answer.location) == (303, f"/login?next={path}")
    answer = await client.get(path, Accept="application/json")
    assert answer.status == 401
    assert '"session_ended"' in answer.text


@pytest.mark.parametrize(
    "wish",
    [
        "http://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/static/salween.js",
        "/logout",
        "javascript:alert(1)",
    ],
)
async def test_the_login_leads_nowhere_else(client: Client, wish: str) -> None:
    """No open redirect, neither by the address nor by the form, nor by the choice of a language."""
    answer = await client.post("/login", {"officer": "1", "pin": PIN, "next": wish})
    assert answer.location == "/inbox"
    await client.get("/status")
    answer = await client.post("/language", {"language": "th", "next": wish})
    assert answer.location == "/"
