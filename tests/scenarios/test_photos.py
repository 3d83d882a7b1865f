"""Photos between real processes over a slow line, all of them killed and cut off meanwhile."""

import asyncio
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from demo.stage import free_port
from node import photo_worker
from runtime.env import run_child
from tests.node.pictures import a_jpeg
from tests.scenarios.world import World
from tests.support.slow_line import SlowLine, slow_line

LINE_BYTES_PER_S = 400_000.0
SEED = 5


def remade(picture: bytes) -> bytes:
    """What the worker makes of a picture: the same whenever it is asked."""
    answer = run_child(
        "node.photo_worker",
        b"make\n" + picture,
        wall_seconds=60,
        answer_bytes_max=photo_worker.ANSWER_BYTES_MAX,
    )
    assert answer is not None
    line, _, rest = answer.partition(b"\n")
    return rest[: int(line.split()[2])]


def put_line_between(world: World) -> tuple[int, int]:
    """(port the offices know, port the broker listens on from now on)."""
    config = world.broker_home / "broker.toml"
    text = config.read_text()
    found = re.search(r"^port = (\d+)$", text, flags=re.MULTILINE)
    assert found is not None
    known = int(found[1]) or int((world.broker_home / "port").read_text())
    moved = free_port()
    config.write_text(text[: found.start()] + f"port = {moved}" + text[found.end() :])
    return known, moved


async def photos_there(world: World, alert_id: str) -> list[dict[str, Any]]:
    """The photos of an alert as the other office's command shows them."""
    receiver = world.receiver
    officer = receiver.officers[0] if receiver.officers else world.template.officers[1][0]
    ended = await world.run_node(
        receiver, "show", "--officer", str(officer.number), "--pin-file", world.pin_file(officer.pin),
        "--json", alert_id,
    )  # fmt: skip
    if ended.exit_code != 0:
        return []
    return list(json.loads(ended.out)["photos"])


@pytest.mark.scenario
async def test_a_photo_arrives_whole_although_all_three_are_killed_and_the_line_is_cut(
    world: World, tmp_path: Path
) -> None:
    """F1, F29, F33: kill -9 of sender, broker and receiver, and cuts; byte for byte the same."""
    known, moved = put_line_between(world)
    picture = a_jpeg(1700)
    file = tmp_path / "-CON\u202egpj.exe"
    file.write_bytes(picture)
    alert = tmp_path / "alert.json"
    alert.write_text(json.dumps(ALERT))
    rng = random.Random(SEED)
    async with slow_line(known, moved, LINE_BYTES_PER_S) as line:
        await world.start()
        author = world.template.officers[0][0]
        sent = await world.run_node(
            world.sender, "send", "--officer", str(author.number), "--pin-file", world.pin_file(author.pin),
            "--to", world.template.peer_id, "--file", alert, "--photo", file, "--json",
        )  # fmt: skip
        assert sent.exit_code == 0, sent.out + sent.err
        alert_id = json.loads(sent.out)["alert_id"]
        await kill_and_cut(world, line, rng)
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(180):
            while not found or found[0]["state"] == "coming":
                await asyncio.sleep(1)
                found = await photos_there(world, alert_id)
        assert [photo["state"] for photo in found] == ["whole"]
        # Nothing was sent again from its beginning: what broke off was one part each time.
        size = found[0]["size_bytes"]
        assert line.carried[0] < size + 12 * 256 * 1024 + 1_000_000
        folder = tmp_path / "saved"
        folder.mkdir()
        reader = world.template.officers[1][0]
        arguments: tuple[str | Path, ...] = (
            "--officer", str(reader.number), "--pin-file", world.pin_file(reader.pin),
            "--save-photos", folder, "--json", alert_id,
        )  # fmt: skip
        saved = await world.run_node(world.receiver, "show", *arguments)
        assert saved.exit_code == 0, saved.err
        assert [path.name for path in folder.iterdir()] == ["photo-1.jpg"]
        assert (folder / "photo-1.jpg").read_bytes() == remade(picture)
        again = await world.run_node(world.receiver, "show", *arguments)
        assert (again.exit_code, again.error["code"]) == (1, "photo_exists")


async def kill_and_cut(world: World, line: SlowLine, rng: random.Random) -> None:
    """Each of the three twice, in some order, and a cut between any two."""
    order = list(world.daemons) * 2
    rng.shuffle(order)
    for daemon in order:
        await asyncio.sleep(rng.uniform(0.3, 1.0))
        line.cut()
        await asyncio.sleep(rng.uniform(0.3, 0.8))
        await daemon.kill()
        await world.start(daemon)


ALERT = {
    "status": "exercise",
    "crime_type": "drug_trafficking",
    "urgency": "expected",
    "severity": "severe",
    "certainty": "likely",
    "source": "B",
    "information": "2",
    "handling": "H0",
    "tlp": "amber",
    "entities": [{"entity": "vehicle", "plate": "7G 4821"}],
}
