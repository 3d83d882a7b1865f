"""Two real offices and a real broker as processes, both open in one profile of a real Chromium."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import BrowserContext, Page, expect

from demo.office import Office, Officer
from demo.playground import Playground, open_playground
from demo.regions_story import PICTURE
from demo.stage import Stage
from tests.browser.chromium import SCREENSHOTS, SIZE, chromium

WAIT_MS = 15_000
PLATE = "SHAN 9-7731"


@asynccontextmanager
async def both_open() -> AsyncIterator[tuple[Playground, BrowserContext]]:
    """The playground, running, and one profile."""
    async with Stage.open() as stage, chromium() as browser:
        ground = await open_playground(stage)
        yield ground, await browser.new_context(viewport=SIZE)  # type: ignore[arg-type]


async def log_in(context: BrowserContext, office: Office, officer: Officer) -> Page:
    """A tab of the office's pages with the officer logged in."""
    page = await context.new_page()
    page.set_default_timeout(WAIT_MS)
    await page.goto(office.address)
    await page.locator(f'[name=officer][value="{officer.number}"]').check()
    await page.fill("[name=pin]", officer.pin)
    await page.keyboard.press("Enter")
    await page.locator('form[action="/logout"]').wait_for(state="attached")
    return page


async def picture(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"real-{name}.png", full_page=True)


async def test_an_alert_sent_at_one_office_is_read_at_the_other() -> None:
    """Logged in at both in one profile; written with a photo, reviewed, sent; it appears at the other.

    The ladder climbs. Neither log-in ends the other.
    """
    async with both_open() as (ground, context):
        here, there = ground.offices
        sender = await log_in(context, here, here.officer("officer"))
        receiver = await log_in(context, there, there.officer("officer"))
        await expect(receiver.locator("main")).not_to_contain_text(PLATE)

        await sender.goto(f"{here.address}/new")
        await sender.locator('[name="recipients"]').first.check()
        await sender.locator('[name="urgency"][value="expected"]').check()
        await sender.select_option('[name="crime_type"]', "drug_trafficking")
        await sender.fill('[name="vehicle.plate"]', PLATE)
        await sender.select_option('[name="source"]', "B")
        await sender.select_option('[name="information"]', "2")
        await sender.set_input_files("[name=photo]", PICTURE)
        await sender.click("button[value=photos]")
        # The page comes again where the photo is, not at its top.
        thumbnail = sender.locator("#f-photos img")
        await expect(thumbnail).to_be_in_viewport()
        assert await thumbnail.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        await expect(sender.locator('[name="vehicle.plate"]')).to_have_value(PLATE)
        await picture(sender, "1-written")
        await sender.locator('button.main[name="action"][value="review"]').click()
        await expect(sender.locator("main")).to_contain_text(PLATE)
        await picture(sender, "2-review")
        await sender.locator('button.main[name="action"][value="send"]').click()
        await sender.wait_for_url("**/outbox*")
        await picture(sender, "3-outbox")

        # Nobody touches the receiver's page: the new row is announced to it.
        await expect(receiver.locator("main")).to_contain_text(PLATE)
        await picture(receiver, "4-inbox")
        await receiver.locator("main a", has_text=PLATE).first.click()
        await expect(receiver.locator("h1")).to_contain_text(PLATE)
        await picture(receiver, "5-read")

        await sender.goto(f"{here.address}/outbox")
        await sender.locator("main a", has_text=PLATE).first.click()
        course = sender.locator("main")
        await expect(course).to_contain_text("Opened by an officer of Tengchong BLO")
        await picture(sender, "6-ladder")


async def test_the_log_of_a_real_office_verifies_from_its_page() -> None:
    """What happened stands on the log page, and verifying it from there says so."""
    async with both_open() as (ground, context):
        here, _ = ground.offices
        page = await log_in(context, here, here.officer("supervisor"))
        await page.goto(f"{here.address}/audit")
        await expect(page.locator("main")).to_contain_text("pair.ok")
        await page.locator('form[action="/audit/verify"] button').click()
        await expect(page.locator("main")).to_contain_text("VERIFIED")
        await picture(page, "7-verified")
