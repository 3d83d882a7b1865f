"""Pairing in person in a real Chromium: two real offices by pasted text, and a code read by the camera."""

import re
from pathlib import Path

import segno
from playwright.async_api import Page, expect

from demo.office import Office, Officer
from demo.stage import Stage
from keys.meetingcode import encode_code, read_code_text_untrusted
from tests.browser.chromium import SCREENSHOTS, SIZE, chromium
from tests.scenarios.strangers import two_strangers

WAIT_MS = 20_000
SAFETY = re.compile(r"[0-9]{5}(?: [0-9]{5}){11}")


async def log_in(page: Page, office: Office, officer: Officer) -> None:
    page.set_default_timeout(WAIT_MS)
    await page.goto(office.address)
    await page.locator(f'[name=officer][value="{officer.number}"]').check()
    await page.fill("[name=pin]", officer.pin)
    await page.keyboard.press("Enter")
    await page.locator('form[action="/logout"]').wait_for(state="attached")
    await page.goto(f"{office.address}/partners")
    await page.click("main a[href='/pair']")


async def picture(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"pair-{name}.png", full_page=True)


async def begin(page: Page, officer: Officer, broker: str, token: str) -> str:
    """Show our code first; the code."""
    await page.fill("#f-broker", broker)
    await page.fill("#f-token", token)
    await page.fill("#f-pin-begin", officer.pin)
    await page.click("form[action='/pair/begin'] button")
    return await page.locator("#f-ours").input_value(timeout=WAIT_MS)


async def test_two_offices_pair_through_their_pages_by_pasted_text() -> None:
    """Both screens show the same safety number; a code that does not fit is refused in words and read anew.

    Scripts are off in one of the two browsers: everything works without them.
    """
    async with (
        Stage.open() as stage,
        chromium() as browser,
        two_strangers(stage) as (first, second, broker, token),
    ):
        here = await (await browser.new_context(viewport=SIZE)).new_page()  # type: ignore[arg-type]
        there = await (await browser.new_context(viewport=SIZE, java_script_enabled=False)).new_page()  # type: ignore[arg-type]
        officers = first.officer("supervisor"), second.officer("supervisor")
        await log_in(here, first, officers[0])
        await log_in(there, second, officers[1])
        await picture(here, "1-choose")
        code = await begin(here, officers[0], broker, token)
        await expect(here.locator("img.qr")).to_be_visible()
        assert await here.evaluate("document.querySelector('img.qr').naturalWidth") > 0
        await picture(here, "2-show")

        await there.fill("#f-pin-answer", officers[1].pin)
        await there.click("form[action='/pair/answer'] button")
        await picture(there, "3-read")
        await there.fill("#f-text", code[:-3])
        await there.click("form[action='/pair/reply'] button.main")
        await expect(there.locator("main")).to_contain_text("meeting_code_mistyped")
        await picture(there, "4-mistyped")
        await there.fill("#f-text", code)
        await there.click("form[action='/pair/reply'] button.main")
        answer = await there.locator("#f-ours").input_value(timeout=WAIT_MS)
        await picture(there, "5-answer")

        await here.fill("#f-text", answer)
        await here.click("form[action='/pair/reply'] button.main")
        for page, name in ((here, "Tengchong BLO"), (there, "Myitkyina BLO")):
            await expect(page.locator("main")).to_contain_text(name, timeout=WAIT_MS)
        numbers = [SAFETY.search(await page.locator("code.safety").inner_text()) for page in (here, there)]
        assert numbers[0] is not None
        assert numbers[1] is not None
        assert numbers[0][0] == numbers[1][0]
        await picture(here, "6-recognise")
        await here.click("button[value=yes]")
        await picture(here, "7-waiting")
        await there.click("button[value=yes]")
        for page in (here, there):
            await expect(page.locator("main h2")).to_contain_text("Paired", timeout=WAIT_MS)
            assert numbers[0][0] in await page.locator("code.safety").inner_text()
        await picture(there, "8-paired")
        await there.goto(f"{second.address}/partners")
        await expect(there.locator("main")).to_contain_text("Myitkyina BLO")
        await picture(there, "9-partners")


def write_film(encoded: bytes, path: Path, *, width: int = 640, height: int = 480) -> None:
    """A Y4M of what a camera sees: the code in grey light, for two seconds."""
    rows = [
        list(row)
        for row in segno.make_qr(encoded, error="m", mode="byte", boost_error=False).matrix_iter(
            scale=7, border=4
        )
    ]
    top, left = (height - len(rows)) // 2, (width - len(rows[0])) // 2
    luminance = bytearray(b"\xa0" * (width * height))
    for y, row in enumerate(rows):
        start = (top + y) * width + left
        luminance[start : start + len(row)] = bytes(40 if dark else 215 for dark in row)
    frame = b"FRAME\n" + bytes(luminance) + b"\x80" * (width * height // 2)
    path.write_bytes(f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420jpeg\n".encode() + frame * 20)


async def test_the_camera_reads_the_code_of_the_other_screen(tmp_path: Path) -> None:
    """The picture of one office, filmed, is the very line that it also shows as text."""
    async with Stage.open() as stage, two_strangers(stage) as (first, second, broker, token):
        film = tmp_path / "screen.y4m"
        async with chromium() as browser:
            here = await browser.new_page()
            await log_in(here, first, first.officer("supervisor"))
            code = await begin(here, first.officer("supervisor"), broker, token)
            write_film(encode_code(read_code_text_untrusted(code)), film)
        camera = (
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={film}",
        )
        async with chromium(camera) as browser:
            there = await (await browser.new_context(viewport=SIZE)).new_page()  # type: ignore[arg-type]
            faults: list[str] = []
            there.on("pageerror", lambda error: faults.append(str(error)))
            there.on(
                "console",
                lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None,
            )
            officer = second.officer("supervisor")
            await log_in(there, second, officer)
            assert await there.evaluate("document.featurePolicy.allowsFeature('camera')") is False
            await there.fill("#f-pin-answer", officer.pin)
            await there.click("form[action='/pair/answer'] button")
            await there.click("#camera-button")
            await picture(there, "10-camera")
            await expect(there.locator("#f-text")).to_have_value(code, timeout=WAIT_MS)
            await picture(there, "11-read-by-camera")
            await there.click("form[action='/pair/reply'] button.main")
            await there.locator("#f-ours").wait_for()
            assert faults == []
