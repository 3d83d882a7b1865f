"""The pages in a real Chromium, against a desk in memory: what a header test cannot see.

Screenshots of every page go to ``tests/browser/screenshots`` (not kept in the repository), to look at.
"""

import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
import pytest_asyncio
from aiohttp import web
from PIL import Image
from playwright.async_api import Browser, BrowserContext, Page, expect

from node.web.guard import cookie_name
from node.web.languages import BY_TAG
from runtime.env import Listener, real_env
from tests.audit.test_receipt import a_receipt
from tests.browser.chromium import SCREENSHOTS, SIZE, chromium
from tests.web.fake_desk import (
    EXERCISE_ALERT,
    HOSTILE_ALERT,
    OFFICE_ID,
    PIN,
    PLAIN_ALERT,
    TENGCHONG,
    VICTIM_ALERT,
    FakeDesk,
    an_alert,
)
from tests.web.serve import serving
from tests.web.test_receipts import decoded

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT_MS = 10_000
PAGES = {
    "inbox": "/inbox",
    "alert": "/alert/" + PLAIN_ALERT,
    "sent": "/alert/" + "0a" * 32,
    "exercise": "/alert/" + EXERCISE_ALERT,
    "hostile": "/alert/" + HOSTILE_ALERT,
    "reason": "/alert/" + VICTIM_ALERT,
    "new-vehicle": "/new",
    "new-person": "/new?kind=person",
    "new-text": "/new?kind=text",
    "pending": "/pending",
    "outbox": "/outbox",
    "carry": "/carry",
    "carry-to": "/carry/to/" + TENGCHONG,
    "carry-read": "/carry/read",
    "partners": "/partners",
    "log": "/audit",
    "status": "/status",
    "help": "/help",
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def desk() -> FakeDesk:
    return FakeDesk()


@pytest_asyncio.fixture(loop_scope="module")
async def listener(desk: FakeDesk) -> AsyncIterator[Listener]:
    async with serving(desk) as listening:
        yield listening


@asynccontextmanager
async def opened(browser: Browser, *, is_attacked: bool = False, **options: object) -> AsyncIterator[Page]:
    """A page of a fresh profile. Unless it is attacked, its policy may not stop anything of ours."""
    context: BrowserContext = await browser.new_context(viewport=SIZE, **options)  # type: ignore[arg-type]
    page = await context.new_page()
    page.set_default_timeout(WAIT_MS)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console",
        lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None,
    )
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    try:
        yield page
        assert is_attacked or faults == []
    finally:
        await context.close()


def address(listener: Listener, path: str = "/") -> str:
    return f"http://localhost:{listener.port}{path}"


async def log_in(page: Page, listener: Listener, officer: int = 1) -> None:
    await page.goto(address(listener, "/login"))
    await page.check(f"input[name=officer][value='{officer}']")
    await page.fill("#f-pin", PIN)
    await page.keyboard.press("Enter")
    await expect(page.locator("nav.menu")).to_be_visible()


# --- paper --------------------------------------------------------------------------------------------------


def pixels(png: bytes) -> list[str]:
    """Black ("1") and white pixels of a square picture."""
    with Image.open(io.BytesIO(png)) as picture:
        side = min(picture.size)
        dots = picture.convert("L").crop((0, 0, side, side)).tobytes()
    return ["".join("01"[dot < 128] for dot in dots[y * side : (y + 1) * side]) for y in range(side)]


async def test_a_receipt_is_one_sheet_of_paper(browser: Browser, listener: Listener, desk: FakeDesk) -> None:
    """A4 and Letter, with the longest name an office may have and the largest picture, and no officer.

    The picture on it, as a printer of 300 dots an inch draws it, is read back byte for byte.
    """
    SCREENSHOTS.mkdir(exist_ok=True)
    desk.receipt_file, desk.receipt_peer = (a_receipt() * 3)[:2000].decode(), "W" * 64
    async with opened(browser, device_scale_factor=3) as page:
        await log_in(page, listener)
        for tag in ("en", "my", "km"):  # the tallest scripts
            await page.goto(address(listener, f"/alert/{PLAIN_ALERT}/receipt"))
            await page.click(".languages summary")
            await page.click(f"button[name=language][value='{tag}']")
            await page.click("input[value=delivered] ~ button")
            await expect(page.locator("html")).to_have_attribute("lang", tag)
            await page.screenshot(path=SCREENSHOTS / f"receipt-{tag}.png", full_page=True)
            await page.emulate_media(media="print")
            await expect(page.locator(".top")).to_be_hidden()
            if tag == "en":
                drawn = await page.locator(".receipt .qr svg").screenshot(
                    path=SCREENSHOTS / "receipt-printed.png"
                )
                assert decoded(pixels(drawn)) == desk.receipt_file.encode()
                await page.screenshot(path=SCREENSHOTS / "receipt-paper.png", full_page=True)
            await page.emulate_media(media="null")
            for paper in ("A4", "Letter"):
                printed = await page.pdf(format=paper, print_background=True)
                assert printed.count(b"/Type /Page\n") == 1, (tag, paper)


# --- look ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("tag", ["en", "my", "th"])
async def test_every_page_fits_a_small_screen(
    browser: Browser, listener: Listener, desk: FakeDesk, tag: str, scheme: str
) -> None:
    """1024x600, a tablet held upright and a phone: nothing wider than the screen, every target reachable.

    A picture of each page is kept for people to look at.
    """
    SCREENSHOTS.mkdir(exist_ok=True)
    async with opened(browser, locale=BY_TAG[tag].tag, color_scheme=scheme) as page:
        await page.goto(address(listener, "/login"))
        await page.screenshot(path=SCREENSHOTS / f"login-{tag}-{scheme}.png")
        await log_in(page, listener, 2)
        session = next(iter(desk.sessions.values()))
        secret = an_alert(handling="H2", urgency="immediate", urgency_reason="Crossing tonight")
        await desk.submit(session, secret, [TENGCHONG])
        for name, path in PAGES.items():
            await page.goto(address(listener, path))
            await page.screenshot(path=SCREENSHOTS / f"{name}-{tag}-{scheme}.png")
            if scheme == "light":
                for width in (1024, 768, 360):
                    await page.set_viewport_size({"width": width, "height": 600})
                    over = await page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
                    assert over <= 0, f"{name} is {over} px too wide at {width}"
                await page.set_viewport_size(SIZE)  # type: ignore[arg-type]
            assert await page.evaluate(TOO_SMALL) == [], name


# WCAG 2.2, 2.5.8: 24 by 24 CSS pixels, except links within a sentence and what a label makes larger.
TOO_SMALL = """() => [...document.querySelectorAll("a, button, summary, select, input, textarea")]
    .filter((thing) => thing.checkVisibility() && !thing.matches("[type=hidden], .unseen, .skip, p a, li a"))
    .map((thing) => thing.closest("label") ?? thing)
    .filter((thing) => {
        const box = thing.getBoundingClientRect();
        return box.height < 24 || box.width < 24;
    })
    .map((thing) => thing.outerHTML.slice(0, 120))"""


async def test_forced_colours_keep_every_word(browser: Browser, listener: Listener) -> None:
    """Urgency, state and chosen things are words or borders too, when the system takes the colours away."""
    async with opened(browser, forced_colors="active") as page:
        await log_in(page, listener)
        for name in ("inbox", "new-vehicle", "outbox"):
            await page.goto(address(listener, PAGES[name]))
            await page.screenshot(path=SCREENSHOTS / f"{name}-en-forced.png")
        await page.goto(address(listener, "/inbox"))
        await expect(page.locator(".urgency-immediate").first).to_have_text("Immediate")


# --- keyboard, and no script --------------------------------------------------------------------------------


async def listening(desk: FakeDesk, page: Page) -> None:
    """Wait until the page hears of changes."""
    while not desk.listeners:
        await page.wait_for_timeout(20)


async def focused(page: Page) -> str:
    found: str = await page.evaluate(
        "(({name, value, textContent}) => name + ' ' + (value ?? textContent))(document.activeElement)"
    )
    return found


async def tab_to(page: Page, wanted: str, presses: int = 60) -> None:
    for _ in range(presses):
        await page.keyboard.press("Tab")
        if wanted in await focused(page):
            seen = await page.evaluate(
                "(() => { const s = getComputedStyle(document.activeElement), "
                "l = getComputedStyle(document.activeElement.closest('.pick') ?? document.activeElement);"
                " return [s.outlineStyle, l.outlineStyle].some((style) => style !== 'none'); })()"
            )
            assert seen, f"the focus on {wanted} cannot be seen"
            return
    raise AssertionError(f"{wanted} cannot be reached by Tab")


async def test_the_keyboard_alone_sends_an_alert(
    browser: Browser, listener: Listener, desk: FakeDesk
) -> None:
    """From the login to the outbox without a pointer, with the focus always in sight."""
    async with opened(browser) as page:
        await page.goto(address(listener))
        await tab_to(page, "officer 1")
        await page.keyboard.press("Space")
        await tab_to(page, "pin")
        await page.keyboard.type(PIN)
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("Inbox")
        await tab_to(page, "New alert")
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("New alert")
        await tab_to(page, "recipients")
        await page.keyboard.press("Space")
        await tab_to(page, "urgency expected")
        await page.keyboard.press("ArrowLeft")
        await tab_to(page, "urgency_reason")
        await page.keyboard.type("Crosses tonight")
        await tab_to(page, "crime_type")
        await page.keyboard.type("Stolen")
        await tab_to(page, "vehicle.plate")
        await page.keyboard.type("7G 4821")
        await tab_to(page, "source")
        await page.keyboard.type("B")
        await tab_to(page, "information")
        await page.keyboard.type("2")
        await page.keyboard.press("Enter")
        await tab_to(page, "action review")
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("Review before it leaves")
        await page.screenshot(path=SCREENSHOTS / "review-en-light.png")
        assert desk.sent == []
        await tab_to(page, "action send")
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("Outbox")
        await expect(page.locator(".notice")).to_contain_text("on its way")
    alert, recipients = desk.sent[0]
    assert recipients == (TENGCHONG,)
    assert (alert.urgency, alert.urgency_reason, alert.crime_type) == (
        "immediate",
        "Crosses tonight",
        "stolen_vehicle",
    )


async def test_single_keys_move_through_a_list(browser: Browser, listener: Listener) -> None:
    """j, k, Enter and ?; not while typing, and not once switched off."""
    async with opened(browser) as page:
        await log_in(page, listener)
        for _ in range(3):
            await page.keyboard.press("j")
        await page.keyboard.press("k")
        assert "云N·A1234" in await focused(page)
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_contain_text("云N·A1234")
        await page.goto(address(listener, "/new"))
        await page.fill("#f-vehicle-make", "")
        await page.keyboard.type("j?k")
        await expect(page.locator("#f-vehicle-make")).to_have_value("j?k")
        await page.fill("#f-vehicle-make", "")
        await page.locator("h1").click()
        await page.keyboard.press("?")
        await expect(page.locator("h1")).to_have_text("Help")
        await page.uncheck("#keys-switch input")
        await page.goto(address(listener, "/inbox"))
        await page.keyboard.press("?")
        await expect(page.locator("h1")).to_have_text("Inbox")


async def test_everything_works_without_javascript(
    browser: Browser, listener: Listener, desk: FakeDesk
) -> None:
    """Login, a refused form, review, sending: plain HTML."""
    async with opened(browser, java_script_enabled=False) as page:
        await log_in(page, listener)
        await page.click("nav >> text=New alert")
        await page.check("input[name=recipients] >> nth=0")
        await page.check("input[value=immediate]")
        await page.fill("#f-urgency_reason", "Crosses tonight")
        await page.select_option("#f-crime_type", "stolen_vehicle")
        await page.select_option("#f-source", "B")
        await page.select_option("#f-information", "2")
        await page.click("button.main")
        await expect(page.locator(".summary")).to_contain_text("Say at least one thing about the vehicle.")
        await expect(page.locator("#f-urgency_reason")).to_have_value("Crosses tonight")
        await page.fill("#f-vehicle-plate", "7G 4821")
        await page.click("button.main")
        await page.click("text=Sign and send")
        await expect(page.locator("h1")).to_have_text("Outbox")
    assert len(desk.sent) == 1


# --- changes ------------------------------------------------------------------------------------------------


async def test_a_new_alert_appears_without_moving_the_reader(
    browser: Browser, listener: Listener, desk: FakeDesk
) -> None:
    """A row more, said politely; the row with the focus keeps it, and the menu counts one more."""
    async with opened(browser) as page:
        await log_in(page, listener)
        await expect(page.locator(".list tbody tr")).to_have_count(6)
        await page.keyboard.press("j")
        await page.keyboard.press("j")
        before = await focused(page)
        top = (await desk.inbox(next(iter(desk.sessions.values()))))[0]
        desk.extra_inbox.append(replace(top, alert_id="77" * 32, headline="Vehicle 5K 1111 Red Isuzu"))
        await listening(desk, page)
        desk.tell("inbox")
        await expect(page.locator(".list tbody tr")).to_have_count(7)
        await expect(page.locator(".list tbody tr").first).to_contain_text("Vehicle 5K 1111")
        assert await focused(page) == before
        await expect(page.locator("#announce")).to_have_text("4 alerts not opened")
        await expect(page.locator(".menu a[href='/inbox'] .count")).to_have_text("4")
        desk.link_state = "backing_off"
        desk.tell("link")
        await expect(page.locator("#banners")).to_contain_text("Not connected to the broker")


async def test_a_lock_takes_the_page_away(browser: Browser, listener: Listener, desk: FakeDesk) -> None:
    """What stood on the screen is gone; the login leads back to where the reader was."""
    async with opened(browser) as page:
        await log_in(page, listener)
        await page.goto(address(listener, "/outbox"))
        await listening(desk, page)
        desk.lock_all()
        await expect(page.locator("h1")).to_have_text("Log in")
        await page.check("input[value='1']")
        await page.fill("#f-pin", PIN)
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("Outbox")


async def test_a_lock_while_writing_loses_nothing(
    browser: Browser, listener: Listener, desk: FakeDesk
) -> None:
    """The draft travels through the login page, unseen, and nothing of it was ever stored in the browser."""
    async with opened(browser) as page:
        await log_in(page, listener)
        await page.goto(address(listener, "/new?kind=person"))
        await page.select_option("#f-person-role", "victim")
        await page.fill("#f-person-description", "small scar on the left hand")
        await listening(desk, page)
        desk.lock_all()
        await expect(page.locator("h1")).to_have_text("Log in")
        await expect(page.locator("main")).not_to_contain_text("scar")
        stored = await page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, history.state, document.cookie])"
        )
        assert stored == '[{},{},null,""]'
        await page.check("input[value='1']")
        await page.fill("#f-pin", PIN)
        await page.keyboard.press("Enter")
        await expect(page.locator("#f-person-description")).to_have_value("small scar on the left hand")
        await expect(page.locator("#f-person-role")).to_have_value("victim")


async def test_after_logout_the_back_button_shows_nothing(browser: Browser, listener: Listener) -> None:
    """B71: no page comes back from the browser's memory."""
    async with opened(browser) as page:
        await log_in(page, listener)
        await page.goto(address(listener, "/alert/" + PLAIN_ALERT))
        await page.click("text=Log out")
        await expect(page.locator("h1")).to_have_text("Log in")
        for _ in range(2):
            await page.go_back()
            await expect(page.locator("h1")).to_have_text("Log in")
            await expect(page.locator("body")).not_to_contain_text("云N·A1234")


async def test_two_offices_live_in_one_browser(browser: Browser, listener: Listener, desk: FakeDesk) -> None:
    """Cookies ignore ports: logging in at one office must not log out of the other."""
    other = FakeDesk(office_name="Tengchong BLO", office_id_hex="7e" * 32)
    async with serving(other) as second, opened(browser) as page:
        await log_in(page, listener)
        await log_in(page, second)
        cookies = {cookie["name"]: cookie for cookie in await page.context.cookies()}
        assert set(cookies) == {cookie_name(OFFICE_ID), cookie_name("7e" * 32)}
        for cookie in cookies.values():
            assert cookie["secure"]
            assert cookie["httpOnly"]
            assert cookie["sameSite"] == "Strict"
        await page.goto(address(listener, "/inbox"))
        await expect(page.locator(".office")).to_have_text("Myitkyina BLO")
        await page.click("text=Log out")
        await page.goto(address(second, "/inbox"))
        await expect(page.locator(".office")).to_have_text("Tengchong BLO")
        await expect(page.locator("h1")).to_have_text("Inbox")


# --- attacks ------------------------------------------------------------------------------------------------


async def test_hostile_text_runs_nothing(browser: Browser, listener: Listener) -> None:
    """B30, B31: title, page and console stay as they are; no request leaves for elsewhere."""
    async with opened(browser) as page:
        elsewhere: list[str] = []
        page.on(
            "request",
            lambda request: (
                elsewhere.append(request.url) if not request.url.startswith(address(listener)) else None
            ),
        )
        await log_in(page, listener)
        for path in ("/inbox", "/outbox", "/partners", "/alert/" + HOSTILE_ALERT):
            await page.goto(address(listener, path))
            await page.wait_for_timeout(100)
            assert "owned" not in await page.title() or "<" in await page.title()
            assert await page.locator("main img, main style, main script, main svg[onload]").count() == 0
            await expect(page.locator("h1")).to_be_visible()
        assert elsewhere == []


async def test_a_rebound_name_reaches_nothing(listener: Listener) -> None:
    """DNS rebinding: evil.example points at this machine, and gets 421 without a word about the office."""
    async with chromium([f"--host-resolver-rules=MAP evil.example 127.0.0.1:{listener.port}"]) as rebound:
        context = await rebound.new_context()
        page = await context.new_page()
        for url in (f"http://evil.example:{listener.port}/login", "http://evil.example/login"):
            answer = await page.goto(url)
            assert answer is not None
            assert answer.status == 421
            assert "Myitkyina" not in await page.content()
            assert await context.cookies() == []


ATTACK = """<!doctype html><title>prize</title><body>
<form id="form" method="post" action="{target}/new" target="frame">
<input name="kind" value="vehicle"><input name="action" value="send">
<input name="recipients" value="{peer}"><input name="urgency" value="future">
<input name="crime_type" value="online_fraud"><input name="vehicle.plate" value="OWNED">
<input name="source" value="A"><input name="information" value="1"></form>
<form id="text" method="post" action="{target}/login" enctype="text/plain" target="frame2">
<input name='{{"officer":"1","pin":"{pin}","x":"' value='"}}'></form>
<iframe name="frame"></iframe><iframe name="frame2"></iframe><iframe src="{target}/inbox"></iframe>
<img id="picture" src="{target}/static/icon.svg">
<script>
const seen = {{}};
const attempt = async (name, what) => {{
  try {{ seen[name] = await what(); }} catch (error) {{ seen[name] = "refused"; }}
}};
(async () => {{
  document.getElementById("form").submit();
  document.getElementById("text").submit();
  const body = "kind=vehicle&action=send&recipients={peer}";
  const headers = {{"Content-Type": "application/x-www-form-urlencoded"}};
  const what = {{method: "POST", credentials: "include", body, headers}};
  const post = (mode) => () => fetch("{target}/new", {{mode, ...what}})
    .then((answer) => answer.type === "opaque" ? "opaque" : answer.status);
  await attempt("cors", post("cors"));
  await attempt("blind", post("no-cors"));
  const read = {{credentials: "include"}};
  await attempt("read", () => fetch("{target}/inbox", read).then((answer) => answer.text()));
  await attempt("socket", () => new Promise((yes, no) => {{
    const socket = new WebSocket("{target}/events".replace("http", "ws"));
    socket.onopen = () => yes("open"); socket.onerror = no;
  }}));
  await attempt("events", () => new Promise((yes, no) => {{
    const stream = new EventSource("{target}/events", {{withCredentials: true}});
    stream.onopen = () => yes("open"); stream.onerror = no;
  }}));
  seen.picture = document.getElementById("picture").naturalWidth;
  document.title = JSON.stringify(seen);
}})();
</script>"""


async def test_a_page_on_another_port_can_do_nothing(
    browser: Browser, listener: Listener, desk: FakeDesk
) -> None:
    """Same-site by the browser's rules, foreign by ours: forms, fetches, frames, sockets, pictures."""
    text = ATTACK.format(target=address(listener)[:-1], peer=TENGCHONG, pin=PIN)
    app = web.Application()

    async def prize(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="text/html")

    app.router.add_get("/", prize)
    async with AsyncExitStack() as stack:
        attacker = await real_env().network.serve_tcp(app, host="127.0.0.1", port=0)
        stack.push_async_callback(attacker.close)
        page = await stack.enter_async_context(opened(browser, is_attacked=True))
        # What our own page still fetches must have come before the attacker's answers are counted.
        async with page.expect_response("**/events"):
            await log_in(page, listener)
        logins = len(desk.logins)
        statuses: list[tuple[str, int]] = []
        page.on(
            "response", lambda answer: statuses.append((answer.request.method + answer.url, answer.status))
        )
        await page.goto(f"http://localhost:{attacker.port}/")
        await page.wait_for_function("document.title.startsWith('{')")
        await page.wait_for_timeout(300)
        seen = await page.title()
        assert '"cors":"refused"' in seen
        assert '"read":"refused"' in seen
        assert '"socket":"refused"' in seen
        assert '"events":"refused"' in seen
        assert '"picture":0' in seen
        # The browser fetches our page's icon when it pleases, also as the attacker's page takes over.
        ours = {s for url, s in statuses if f":{listener.port}/" in url and not url.endswith("/icon.svg")}
        assert ours <= {403, 400}, statuses
        assert len(ours) >= 1
        assert "Inbox" not in [await frame.title() for frame in page.frames]
    assert desk.sent == []
    assert len(desk.logins) == logins
    assert len(desk.sessions) == 1
