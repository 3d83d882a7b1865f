"""A stolen node, real processes: its office has a sheet of paper and no machine."""

import asyncio

import pytest

from tests.scenarios.world import World

pytestmark = pytest.mark.scenario


async def test_paper_alone_ends_what_a_stolen_node_can_do(world: World) -> None:
    """F59: it speaks until the paper is at the broker; a partner that starts then shows nothing more of it.

    The same notice from a file changes nothing more, a damaged one is named, a mistyped sheet too.
    """
    stolen, partner = world.offices
    await world.start()
    thief = await stolen.pages()
    await thief.submit(world.form("THIEF-1"))
    pages = await partner.pages()
    async with asyncio.timeout(40):
        while len(await pages.get("/inbox")) < 1:
            await asyncio.sleep(0.1)
    sheet = stolen.directory / "recovery-sheet.txt"
    elsewhere = world.stage.directory / "elsewhere"
    elsewhere.mkdir()
    typed, notice = elsewhere / "typed.txt", elsewhere / "notice.txt"
    typed.write_text(sheet.read_text())
    order = ("--key-version-below", "2", "--reason", "node_stolen", "--json")
    typed.write_text(sheet.read_text().replace("  3  ", "  3  Q"))
    slip = await world.run("node", "revoke", "--recovery-sheet", typed, *order)
    assert slip.error["code"] == "recovery_sheet_malformed"
    assert "Line 3" in slip.error["detail"]
    typed.write_text(sheet.read_text())
    made = await world.run(
        "node", "revoke", "--recovery-sheet", typed, *order, "--out", notice,
        "--broker", world.broker.ready["address"],
    )  # fmt: skip
    assert made.exit_code == 0, made.err
    await partner.leave_pages()
    await partner.daemon.stop()
    await partner.daemon.start()
    pages = await partner.pages()
    async with asyncio.timeout(40):
        while (await pages.get("/partners"))[0]["state"] != "suspended":
            await asyncio.sleep(0.1)
    await thief.submit(world.form("THIEF-2"))
    async with asyncio.timeout(40):
        while not (await pages.get("/status"))["quarantined"]:
            await asyncio.sleep(0.1)
    assert len(await pages.get("/inbox")) == 1
    again = await world.run_node(partner, "revoke", "--apply", notice)
    assert again.exit_code == 0, again.err
    assert "Known already" in again.out
    notice.write_text(notice.read_text().replace("A", "B", 3))
    damaged = await world.run_node(partner, "revoke", "--json", "--apply", notice)
    assert damaged.error["code"] == "notice_malformed"
