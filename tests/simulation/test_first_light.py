"""Both real daemons and the real broker in one process on virtual time."""

import asyncio
from pathlib import Path

from protocol.alert import Alert, FreeText, Vehicle
from tests.simulation.daemons import BrokerHost, OfficeHost, pair
from tests.simulation.env import EPOCH_MS
from tests.simulation.world import World

DAY_MS = 24 * 3600 * 1000


def an_alert(plate: str) -> Alert:
    """A vehicle alert that one officer may release."""
    return Alert(
        status="exercise",
        crime_type="drug_trafficking",
        urgency="expected",
        severity="severe",
        certainty="likely",
        source="B",
        information="2",
        handling="H0",
        tlp="amber",
        created_ms=EPOCH_MS,
        expires_ms=EPOCH_MS + 7 * DAY_MS,
        erase_at_ms=EPOCH_MS + 30 * DAY_MS,
        entities=(Vehicle(plate=plate, colour="white"),),
        text=FreeText(language="en", text="White pickup, false plate"),
    )


def one_alert_crosses(directory: Path, *, seed: int, break_it: bool = False) -> World:
    """Pair two offices, send one alert, wait for the ladder; optionally kill everybody on the way."""
    with World(seed=seed, directory=directory) as world:
        broker = BrokerHost(world)
        here, there = OfficeHost(world, "Myitkyina", "MM"), OfficeHost(world, "Tengchong", "CN")

        async def script() -> None:
            await broker.make()
            await here.make()
            await there.make()
            await pair(broker, here, there)
            if break_it:
                broker.host.kill()
            await here.send(an_alert("KA-1234"))
            if break_it:
                await asyncio.sleep(5)
                here.host.kill()
                await broker.restart()
                await here.restart()
            await asyncio.sleep(60)
            (row,) = await there.inbox()
            assert row.headline == "Vehicle KA-1234 White"
            fields = await there.open_alert(row.alert_id)
            assert fields["text"] == {"language": "en", "text": "White pickup, false plate"}
            if break_it:
                there.host.kill()
                await there.restart()
            await asyncio.sleep(60)
            (sent,) = await here.outbox()
            assert [rung.step for rung in sent.recipients[0].ladder] == [
                "kept",
                "on_broker",
                "delivered",
                "opened",
            ]
            assert len(await there.inbox()) == 1
            world.note("ladder", *(rung.step for rung in sent.recipients[0].ladder))

        world.run(script())
    return world


def test_one_alert_crosses_on_virtual_time(tmp_path: Path) -> None:
    """From the desk of one office to the desk of the other, and its receipts back."""
    one_alert_crosses(tmp_path, seed=1)


def test_one_alert_survives_the_death_of_everybody(tmp_path: Path) -> None:
    """Broker, sender and receiver each die once on the way; the alert is there once."""
    one_alert_crosses(tmp_path, seed=2, break_it=True)


def test_two_runs_of_one_seed_are_the_same_run(tmp_path: Path) -> None:
    """Events, states and sizes repeat; only library randomness inside ciphertexts may differ."""
    first = one_alert_crosses(tmp_path / "1", seed=3)
    second = one_alert_crosses(tmp_path / "2", seed=3)
    assert first.trace.hexdigest() == second.trace.hexdigest()


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    """Otherwise the trace would say nothing."""
    first = one_alert_crosses(tmp_path / "1", seed=4)
    second = one_alert_crosses(tmp_path / "2", seed=5)
    assert first.trace.hexdigest() != second.trace.hexdigest()
