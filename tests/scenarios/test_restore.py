"""An office that lost computer or keys comes back, in words an operator understands (real processes)."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from demo.ceremony import pair
from demo.office import Form, Office, Officer, Pages, new_pin
from demo.stage import free_port
from tests.scenarios.world import Ended, World, delivered

BACKUP_PASSPHRASE = "paper stone scissors well"


def passphrase_file(world: World) -> Path:
    """The passphrase of the backup, in a file."""
    path = world.stage.directory / "backup.passphrase"
    return path if path.exists() else world.stage.secret_file(path.name, BACKUP_PASSPHRASE)


async def make_backup(world: World, office: Office, name: str = "backup") -> Path:
    """``salween-node backup`` of a running office."""
    path = world.stage.directory / name
    ended = await world.run_node(office, "backup", "--backup-passphrase-file", passphrase_file(world), path)
    assert ended.exit_code == 0, ended.err
    assert f"Made and checked a backup of {office.name}" in ended.out
    return path


def keep_sheet(world: World, office: Office) -> Path:
    """The recovery sheet, out of the directory that will be lost."""
    sheet = world.stage.directory / f"{office.short}.sheet"
    shutil.copy(office.directory / "recovery-sheet.txt", sheet)
    return sheet


async def lose(office: Office) -> None:
    """The computer is gone, with everything on it."""
    await office.leave_pages()
    await office.daemon.kill()
    shutil.rmtree(office.directory)


def move_to(office: Office, directory: Path) -> None:
    """The office works in another directory from now on."""
    office.move(directory)


async def restored(world: World, office: Office, backup: Path, sheet: Path, name: str = "again") -> Ended:
    """``salween-node restore`` into a new directory, and the daemon there."""
    directory = world.stage.directory / name
    move_to(office, directory)
    opened_with = ("--backup-passphrase-file", passphrase_file(world), "--recovery-sheet", sheet)
    ended = await world.run_node(office, "restore", *opened_with, backup)
    assert ended.exit_code == 0, ended.err
    await office.daemon.start()
    return ended


async def lost(world: World, office: Office) -> dict[str, Any]:
    """``salween-node lost`` once the only peer has answered."""
    async with asyncio.timeout(60):
        while True:
            ended = await world.run_node(office, "lost", "--json")
            (reset,) = json.loads(ended.out)["resets"]
            if reset["answered_ms"] is not None:
                return dict(reset)
            await asyncio.sleep(0.2)


async def form_from(pages: Pages, world: World, plate: str) -> Form:
    """An alert to this office's only peer."""
    (peer,) = await pages.get("/partners")
    return {**world.form(plate), "recipients": [peer["office_id"]]}


async def send(pages: Pages, world: World, plate: str) -> str:
    """One alert; its id."""
    return str((await pages.submit(await form_from(pages, world, plate)))["alert_id"])


async def arrives(pages: Pages, alert_id: str, timeout_s: float = 100.0) -> None:
    """Wait until an alert is in the inbox, once."""
    async with asyncio.timeout(timeout_s):
        while [row["alert_id"] for row in await pages.inbox()].count(alert_id) != 1:
            await asyncio.sleep(0.1)


async def flows(world: World, one: Pages, two: Pages, mark: str) -> None:
    """Alerts reach each office from the other, and the sender sees that they did."""
    for here, there in ((one, two), (two, one)):
        alert_id = await send(here, world, f"{mark}{'A' if here is one else 'B'}")
        await arrives(there, alert_id)
        async with asyncio.timeout(100):
            while next(r for r in await here.outbox() if r["alert_id"] == alert_id)["state"] != "delivered":
                await asyncio.sleep(0.1)


async def tells_nothing_odd(world: World, office: Office, *, beside_ended: bool = False) -> dict[str, Any]:
    """The new epoch's log as an auditor reads it, alone or beside the one that ended; its story."""
    await office.command("publish")
    policy = ("--policy", office.directory / "policy", "--json")
    (ended,) = office.directory.glob("log-ended-*")
    more = ("--prior", ended, "--prior-policy", ended / "policy") if beside_ended else ()
    read = await world.run("audit", "replay", office.directory / "log", *policy, *more)
    story: dict[str, Any] = json.loads(read.out)
    assert (story["oddities"], story["findings"], read.exit_code) == ([], [], 0)
    return story


@pytest.mark.scenario
async def test_an_office_restored_from_yesterdays_backup_gets_back_what_others_hold(world: World) -> None:
    """What came in after the backup comes again, what went out after it is listed by id, and alerts flow."""
    await world.start()
    office, other = world.sender, world.receiver
    here, there = await office.pages(), await other.pages()
    before_out, before_in = await send(here, world, "BEFORE-1"), await send(there, world, "BEFORE-2")
    await arrives(here, before_in)
    await delivered(here, 1)
    backup, sheet = await make_backup(world, office), keep_sheet(world, office)
    # Several each way: by now the other office has rotated away every receive key that the backup knows.
    after_in, after_out = [], []
    for number in range(3):
        after_out.append(await send(here, world, f"AFTER-O{number}"))
        after_in.append(await send(there, world, f"AFTER-I{number}"))
        await arrives(here, after_in[-1])
        await arrives(there, after_out[-1])
    await lose(office)

    told = await restored(world, office, backup, sheet)
    assert "Myitkyina BLO begins again from the backup of" in told.out
    assert "send again what is missing: Tengchong BLO." in told.out
    here = await office.pages()
    for alert_id in (before_in, *after_in):
        await arrives(here, alert_id)
    reset = await lost(world, office)
    assert [row["alert_id"] for row in reset["lost"]] == after_out
    assert (reset["sent_after"], reset["resent"], reset["gone"]) == (3, 3, 0)
    words = (await world.run_node(office, "lost")).out
    assert "Tengchong BLO answered: it sends 3 alerts again" in words
    assert "had sent it 3 alerts, which Tengchong BLO holds" in words
    assert before_out not in words

    (partner,) = await there.get("/partners")
    assert partner["resent"] == 3
    assert abs(partner["restored_ms"] - reset["backup_ms"]) < 1000, "its officers are told"

    await flows(world, here, there, "NOW-")
    inbox = [row["alert_id"] for row in await there.inbox()]
    assert len(inbox) == len(set(inbox)), "nothing is shown twice"
    assert len(await here.inbox()) == 5

    # What was sent in the epoch that ended is answered in this one.
    await there.open(before_out)
    async with asyncio.timeout(100):
        while next(r for r in await here.outbox() if r["alert_id"] == before_out)["state"] != "opened":
            await asyncio.sleep(0.1)
    story = await tells_nothing_odd(world, office)
    assert [m["state"] for m in story["messages"] if m["attempts"] == 0 and m["direction"] == "sent"] == [
        "opened"
    ]


@pytest.mark.scenario
async def test_a_lost_keystore_is_told_and_mended_from_the_backup(world: World) -> None:
    """Without its keystore a directory says what to do; doing it brings the office back."""
    await world.start()
    office, other = world.sender, world.receiver
    here, there = await office.pages(), await other.pages()
    await send(here, world, "BEFORE-1")
    await delivered(here, 1)
    backup, sheet = await make_backup(world, office), keep_sheet(world, office)
    await office.leave_pages()
    await office.daemon.kill()
    (office.directory / "keystore").unlink()
    refused = await world.run_node(office, "status")
    assert refused.exit_code == 1
    assert "restore FILE --dir NEW --recovery-sheet SHEET [keystore_missing]" in refused.err

    await restored(world, office, backup, sheet)
    here = await office.pages()
    reset = await lost(world, office)
    assert (reset["sent_after"], reset["resent"], reset["gone"], reset["lost"]) == (0, 0, 0, [])
    await flows(world, here, there, "NOW-")


@pytest.mark.scenario
@pytest.mark.parametrize("rolled_back", [True, False])
async def test_a_directory_that_went_back_or_ran_twice_begins_again_in_place(
    world: World, rolled_back: bool
) -> None:
    """A copy of the directory is no trap: the sheet makes it an honest office again, and alerts flow."""
    await world.start()
    office, other = world.sender, world.receiver
    here, there = await office.pages(), await other.pages()
    await send(here, world, "BEFORE-1")
    await delivered(here, 1)
    await office.leave_pages()
    await office.daemon.stop()
    copy = world.stage.directory / "copy"
    shutil.copytree(office.directory, copy)
    await office.daemon.start()
    here = await office.pages()
    after_out, after_in = await send(here, world, "AFTER-O"), await send(there, world, "AFTER-I")
    await arrives(here, after_in)
    await arrives(there, after_out)
    sheet = keep_sheet(world, office)
    await office.leave_pages()
    await office.daemon.stop()
    if rolled_back:
        # The database alone goes back; the high-water file and the published log know better.
        for name in ("node.db", "keystore"):
            shutil.copy(copy / name, office.directory / name)
        status = json.loads((await world.run_node(office, "status", "--json")).out)
        assert status["log"]["state"] != "ok"
    else:
        move_to(office, copy)

    told = await world.run_node(office, "restore", "--in-place", "--recovery-sheet", sheet)
    assert told.exit_code == 0, told.err
    assert "Myitkyina BLO begins again" in told.out
    await office.daemon.start()
    here = await office.pages()
    await arrives(here, after_in)
    reset = await lost(world, office)
    assert [row["alert_id"] for row in reset["lost"]] == [after_out]
    assert (reset["resent"], reset["gone"]) == (1, 0)
    await flows(world, here, there, "NOW-")
    await tells_nothing_odd(world, office)
    story = await tells_nothing_odd(world, office, beside_ended=True)
    assert story["prior"] is not None


@pytest.mark.scenario
async def test_a_renewed_signing_key_stops_no_alert(world: World) -> None:
    """An alert on its way under the old version still arrives; what follows is signed under the new one."""
    await world.start(world.broker, world.sender.daemon)
    office, other = world.sender, world.receiver
    here = await office.pages()
    on_its_way = await send(here, world, "OLD-KEY")
    async with asyncio.timeout(60):
        while (await here.outbox())[0]["state"] != "on_broker":
            await asyncio.sleep(0.1)
    sheet = keep_sheet(world, office)
    await office.leave_pages()
    await office.daemon.stop()
    told = await world.run_node(office, "renew", "--recovery-sheet", sheet)
    assert told.exit_code == 0, told.err
    assert "Myitkyina BLO signs with key version 2 from now on" in told.out
    assert "1 office will be told" in told.out
    await asyncio.gather(office.daemon.start(), other.daemon.start())
    here, there = await office.pages(), await other.pages()
    await arrives(there, on_its_way)
    await flows(world, here, there, "NEW-")


@pytest.mark.scenario
async def test_everything_lost_but_the_sheet_the_office_comes_back_and_pairs_again(world: World) -> None:
    """The other office still holds the pair for whole; it sends its alerts again after the ceremony."""
    await world.start()
    office, other = world.sender, world.receiver
    here, there = await office.pages(), await other.pages()
    await send(here, world, "BEFORE-O")
    received = [await send(there, world, f"BEFORE-I{number}") for number in range(2)]
    for alert_id in received:
        await arrives(here, alert_id)
    sheet = keep_sheet(world, office)
    await lose(office)

    move_to(office, world.stage.directory / "recovered")
    pin = new_pin()
    pin_file = world.pin_file(pin)
    told = await world.run_node(
        office, "recover", "--recovery-sheet", sheet, "--name", office.name, "--country", office.country,
        "--alias", "Duty officer", "--role", "officer", "--pin-file", pin_file,
        "--web-port", str(free_port()), "--health-port", str(free_port()),
    )  # fmt: skip
    assert told.exit_code == 0, told.err
    assert "Myitkyina BLO is back with its old office id" in told.out
    assert "Pair again by voice with every office" in told.out
    office.officers[:] = [Officer(number=1, alias="Duty officer", role="officer", pin=pin, pin_file=pin_file)]
    await office.daemon.start()
    made = await world.stage.command("broker", "tokens", "--dir", world.broker_home)
    await pair(world.stage, office, other, world.broker.ready["address"], made["tokens"][0])
    here = await office.pages()
    for alert_id in received:
        await arrives(here, alert_id)
    await flows(world, here, there, "NOW-")
    assert len(await here.inbox()) == 3
