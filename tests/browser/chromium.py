"""Debian's Chromium under playwright's async API, for every test that needs a real browser."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from tests.support.tools import require_tool

SCREENSHOTS = Path(__file__).parent / "screenshots"
# A weak PC of a border office; everything must be usable at this size.
SIZE = {"width": 1024, "height": 600}
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@asynccontextmanager
async def chromium(arguments: Sequence[str] = ()) -> AsyncIterator[Browser]:
    """A running browser; the test is skipped, or failed where tools must exist, without one."""
    path = require_tool("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*_QUIET, *arguments])
        try:
            yield browser
        finally:
            await browser.close()
