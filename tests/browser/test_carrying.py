"""Carried by hand in a real Chromium: a stick through both offices' pages, and a screen read by a camera."""

import io
from pathlib import Path

from PIL import Image
from playwright.async_api import Browser, Page, expect

from demo.office import Office
from demo.playground import ALERT, open_playground
from demo.stage import Stage
from protocol.limits import FRAME_SHOWN_MS
from tests.browser.chromium import SCREENSHOTS, SIZE, chromium

WAIT_MS = 60_000  # a camera that misses a picture waits for the next round
FILM_WIDTH, FILM_HEIGHT, FILM_RATE = 640, 480, 20
SHOWN_FRAMES = 3  # of the film, for each picture


async def at_desk(browser: Browser, office: Office, *, script: bool = True) -> Page:
    """A small screen with the officer of this office logged in."""
    context = await browser.new_context(viewport=SIZE, java_script_enabled=script)  # type: ignore[arg-type]
    page = await context.new_page()
    page.set_default_timeout(WAIT_MS)
    officer = office.officer("officer")
    await page.goto(office.address)
    await page.locator(f'[name=officer][value="{officer.number}"]').check()
    await page.fill("[name=pin]", officer.pin)
    await page.keyboard.press("Enter")
    await page.locator('form[action="/logout"]').wait_for(state="attached")
    return page


async def picture(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"carry-{name}.png")


async def send(office: Office, plate: str) -> None:
    """An alert, kept and waiting."""
    pages = await office.pages("supervisor")
    (peer,) = await pages.get("/partners")
    await pages.submit({**ALERT, "recipients": [peer["office_id"]], "vehicle.plate": plate})
    await pages.post("/logout")
    await office.leave_pages()


async def save_file(page: Page, office: Office, path: Path) -> None:
    """By hand, the only partner, the PIN, the button; what the browser saved."""
    await page.click("nav a[href='/carry']")
    await page.click("main a.pick")
    await page.fill("#f-pin-file", office.officer("officer").pin)
    async with page.expect_download() as saving:
        await page.click("text=Save the file")
    saved = await saving.value
    assert saved.suggested_filename.endswith(".slwx")
    await saved.save_as(path)


async def read_file(page: Page, path: Path) -> None:
    """By hand, choose the file, the button."""
    await page.click("nav a[href='/carry']")
    await page.set_input_files("#f-file", path)
    await page.click("text=Read the files")
    await expect(page.locator("h1")).to_have_text("What is in it")


async def film_the_screen(page: Page, path: Path) -> None:
    """A Y4M of what a camera in front of this screen sees, once all pictures were there."""
    count = int(await page.locator("dt:text-is('Pictures') + dd").inner_text())
    seen: dict[bytes, None] = {}
    while len(seen) < count:
        shot = await page.locator("img.film").screenshot()
        with Image.open(io.BytesIO(shot)) as taken:
            seen[taken.convert("L").tobytes()] = None
            width, height = taken.size
        await page.wait_for_timeout(FRAME_SHOWN_MS // 2)
    film = bytearray(f"YUV4MPEG2 W{FILM_WIDTH} H{FILM_HEIGHT} F{FILM_RATE}:1 Ip A1:1 C420jpeg\n".encode())
    for grey in seen:
        frame = Image.new("L", (FILM_WIDTH, FILM_HEIGHT), 160)
        frame.paste(
            Image.frombytes("L", (width, height), grey).point(lambda light: 40 + light * 175 // 255),
            ((FILM_WIDTH - width) // 2, (FILM_HEIGHT - height) // 2),
        )
        whole = b"FRAME\n" + frame.tobytes() + b"\x80" * (FILM_WIDTH * FILM_HEIGHT // 2)
        film += whole * SHOWN_FRAMES
    path.write_bytes(film)


async def test_what_waits_crosses_by_stick_and_by_camera_and_receipts_come_back(tmp_path: Path) -> None:
    """No broker runs. Scripts are off at the office that writes and shows; the other one reads both ways.

    The pictures are filmed from the first screen as they take turns on it.
    """
    stick, answers, film = tmp_path / "stick", tmp_path / "answers", tmp_path / "screen.y4m"
    async with Stage.open() as stage, chromium() as browser:
        ground = await open_playground(stage)
        here, there = ground.offices
        await ground.broker.kill()
        await send(here, "SCREEN 1")
        ours = await at_desk(browser, here, script=False)
        await ours.click("nav a[href='/carry']")
        await ours.click("main a.pick")
        await expect(ours.locator("main")).to_contain_text("SCREEN 1")
        await picture(ours, "1-what-is-in-it")
        await ours.fill("#f-pin-show", here.officer("officer").pin)
        await ours.click("text=Show the pictures")
        await expect(ours.locator("img.film")).to_be_in_viewport(ratio=1)
        await picture(ours, "2-shown")
        await film_the_screen(ours, film)
        await ours.click("form[action='/carry/show/next'] button")
        await ours.goto(f"{here.address}/outbox")
        await expect(ours.locator("main")).to_contain_text("Carried by hand")
        await send(here, "STICK 2")
        await save_file(ours, here, stick)

        camera = (
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={film}",
        )
        async with chromium(camera) as other:
            theirs = await at_desk(other, there)
            faults: list[str] = []
            theirs.on("pageerror", lambda error: faults.append(str(error)))
            theirs.on(
                "console",
                lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None,
            )
            await theirs.click("nav a[href='/carry']")
            await theirs.click("main a[href='/carry/read']")
            await theirs.click("#camera-button")
            await expect(theirs.locator("#read-count")).not_to_have_text("0", timeout=WAIT_MS)
            await picture(theirs, "3-camera")
            for note in ("#read-foreign", "#read-other", "#camera-fault"):
                await expect(theirs.locator(note)).to_be_hidden()
            await expect(theirs.locator("h1")).to_have_text("What is in it", timeout=WAIT_MS)
            await expect(theirs.locator("main")).to_contain_text("taken in")
            await picture(theirs, "4-read-by-camera")
            await theirs.goto(f"{there.address}/inbox")
            await expect(theirs.locator("main")).to_contain_text("SCREEN 1")
            await read_file(theirs, stick)
            await expect(theirs.locator("main")).to_contain_text("taken in")
            await picture(theirs, "5-file-read")
            await theirs.goto(f"{there.address}/inbox")
            await expect(theirs.locator("main")).to_contain_text("STICK 2")
            await save_file(theirs, there, answers)
            assert faults == []

        await read_file(ours, answers)
        await ours.goto(f"{here.address}/outbox")
        await expect(ours.locator(".state-delivered")).to_have_count(2)
        await picture(ours, "6-delivered")
