"""A broker that lost its disk, with and without its keys: real processes, the operator's real commands."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from demo.office import Office, Pages
from tests.scenarios.world import BROKER, World, delivered, entity

pytestmark = pytest.mark.scenario

LINK_UP_S = 60.0
PROMISED_S = 30.0


async def the_other(pages: Pages) -> str:
    """The id of the only partner."""
    return str((await pages.get("/partners"))[0]["office_id"])


async def submit(world: World, pages: Pages, plate: str) -> str:
    """An alert to the only partner of whoever sends it; its id."""
    form = {**world.form(plate), "recipients": [await the_other(pages)]}
    return str((await pages.submit(form))["alert_id"])


async def held_by_the_broker(pages: Pages, count: int) -> None:
    """Wait until the broker promised to keep so many alerts."""
    async with asyncio.timeout(PROMISED_S):
        while sum(row["state"] == "on_broker" for row in await pages.outbox()) < count:
            await asyncio.sleep(0.05)


async def arrived_once(office: Office, plates: set[str]) -> None:
    """Exactly these, each once."""
    pages = await office.pages()
    opened = [await pages.open(row["alert_id"]) for row in await pages.inbox()]
    assert sorted(entity(view, "plate") for view in opened) == sorted(plates)


async def checks(world: World, office: Office) -> dict[str, dict[str, Any]]:
    """What the doctor of an office says."""
    ended = await world.run_node(office, "doctor", "--json")
    return {check["what"]: check for check in json.loads(ended.out)["checks"]}


def erase(home: Path) -> None:
    """The disk under the database fails; keystore, configuration and passphrase were backed up."""
    found = list(home.glob("broker.db*"))
    assert found
    for path in found:
        path.unlink()


async def test_an_erased_broker_begins_again_and_every_alert_arrives_once(world: World) -> None:
    """What it had promised to keep and what is new, both ways; the offices say what happened."""
    await world.start(world.broker, world.sender.daemon)
    here = await world.sender.pages()
    first = await submit(world, here, "KA-1")
    await held_by_the_broker(here, 1)
    await world.start(world.receiver.daemon)
    await delivered(here, 1)
    await world.receiver.daemon.stop()
    kept = {await submit(world, here, f"KA-{number}") for number in (2, 3)}
    await held_by_the_broker(here, 2)
    await world.broker.stop()
    await world.sender.daemon.stop()
    await world.sender.leave_pages()
    refused = await world.run(BROKER, "begin-again", "--dir", world.broker_home, "--json")
    assert json.loads(refused.out)["error"] == "database_present"
    erase(world.broker_home)
    await world.stage.command(BROKER, "begin-again", "--dir", world.broker_home)
    # Both at once: each may find the other's mailbox not made yet.
    await world.start()
    here, there = await world.sender.pages(), await world.receiver.pages()
    await submit(world, here, "KA-4")
    for number in (1, 2):
        await submit(world, there, f"TC-{number}")
    await delivered(here, 4, LINK_UP_S)
    await delivered(there, 2, LINK_UP_S)
    await arrived_once(world.receiver, {"KA-1", "KA-2", "KA-3", "KA-4"})
    await arrived_once(world.sender, {"TC-1", "TC-2"})
    (loss,) = (await here.get("/status"))["broker_losses"]
    assert {alert["alert_id"] for alert in loss["alerts"]} == kept
    assert first not in kept
    assert {alert["state"] for alert in loss["alerts"]} == {"delivered"}
    said = (await world.run_node(world.sender, "status")).out
    assert f"The broker at {loss['broker']} lost its mailboxes; they were made again at" in said
    assert "alerts sent again: 2" in said
    assert all(f"{alert_id}  to Tengchong BLO: delivered" in said for alert_id in kept)
    for office in world.offices:
        assert (await checks(world, office))["mailboxes"]["ok"]


async def test_a_broker_lost_with_its_keys_is_left_for_a_new_one_by_file(
    world: World, tmp_path: Path
) -> None:
    """Both offices move; one file is carried; what waited and what is new arrives, each once."""
    await world.start()
    here, there = await world.sender.pages(), await world.receiver.pages()
    await submit(world, here, "KA-1")
    await delivered(here, 1)
    await world.broker.stop()
    await submit(world, here, "KA-2")
    await submit(world, there, "TC-1")
    home = tmp_path / "second"
    await world.stage.command(BROKER, "init", "--dir", home, "--port", "0", "--health-port", "0")
    second = world.stage.daemon("second", BROKER, "run", "--dir", home, "--json")
    await world.start(second)
    tokens = (await world.stage.command(BROKER, "tokens", "--dir", home, "--count", "2"))["tokens"]
    files = []
    for office, token in zip(world.offices, tokens, strict=True):
        token_file = world.stage.secret_file(f"{office.short}.move", token)
        where = (
            "--broker",
            second.ready["address"],
            "--token-file",
            token_file,
            "--out",
            tmp_path / office.short,
        )
        (moved,) = (await office.command("move", *where))["moved"]
        files.append(Path(moved["file"]))
    missing = await world.run_node(world.receiver, "import-address", tmp_path / "no-such", "--json")
    assert missing.error["code"] == "file_missing"
    foreign = await world.run_node(world.sender, "import-address", files[0], "--json")
    assert foreign.error["code"] == "file_not_for_us"
    taken = await world.run_node(world.receiver, "import-address", files[0])
    assert taken.out == "Taken in from Myitkyina BLO.\n"
    await submit(world, here, "KA-3")
    await submit(world, there, "TC-2")
    await delivered(here, 3, LINK_UP_S)
    await delivered(there, 2, LINK_UP_S)
    await arrived_once(world.receiver, {"KA-1", "KA-2", "KA-3"})
    await arrived_once(world.sender, {"TC-1", "TC-2"})
