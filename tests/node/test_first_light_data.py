"""Data of the first version, kept in tests/data/first-light: every later version opens and continues it."""

import asyncio
from pathlib import Path

from audit.fsck import verify
from audit.policy import parse_policy_untrusted
from audit.reader import PublishedLog
from tests.data.make_first_light import HERE, PLATES, put_back
from tests.node.offices import count, node_of, read
from tests.simulation.daemons import BrokerHost, OfficeHost
from tests.simulation.test_first_light import an_alert
from tests.simulation.world import World


def test_what_the_first_version_wrote_is_opened_read_and_continued(tmp_path: Path) -> None:
    """Alerts are read, one that waited crosses, new ones too, and the logs go on from where they were."""
    with World(seed=2, directory=tmp_path) as world:
        broker = BrokerHost(world)
        here, there = OfficeHost(world, "Myitkyina", "MM"), OfficeHost(world, "Tengchong", "CN")
        for host, name in ((broker.host, "broker"), (here.host, "node"), (there.host, "node")):
            put_back(host, name)

        async def script() -> None:
            await asyncio.sleep(3600)
            await broker.restart()
            sizes = []
            for office in (here, there):
                await office.restart()
                sizes.append(node_of(office).log.size)
            first = await read(there, lambda tx: tx.value("SELECT alert_id FROM alert WHERE opened_ms > 0"))
            fields = await there.open_alert(first.hex())
            assert fields["entities"][0]["plate"] == PLATES[0]  # type: ignore[index]
            (row,) = await here.inbox()
            assert row.headline == f"Vehicle {PLATES[2]} White"

            await there.send(an_alert("FL-3001"))
            await here.send(an_alert("FL-3002"))
            await asyncio.sleep(120)
            assert {row.headline for row in await there.inbox()} == {
                f"Vehicle {plate} White" for plate in (PLATES[0], PLATES[1], "FL-3002")
            }
            assert len(await here.inbox()) == 2
            assert await count(here, "ladder", "step = 'delivered'") == 3
            ladder = [rung.step for rung in (await here.outbox())[-1].recipients[0].ladder]
            assert ladder == ["kept", "on_broker", "delivered", "opened"]

            for office, size in zip((here, there), sizes, strict=True):
                node = node_of(office)
                await office.host.run(lambda env, node=node: node.log.publish())  # type: ignore[misc]
                policy = parse_policy_untrusted((HERE / office.host.name / "policy").read_bytes())
                assert office.host.life is not None
                published = PublishedLog(office.host.life.env.files.native_path("node/log"))
                report = verify(published, policy)
                assert not report.findings
                assert report.size == node.log.size > size

        world.run(script())


def test_the_kept_data_is_small_and_holds_nothing_in_plain() -> None:
    """Under a megabyte, and its alerts stand nowhere readable."""
    files = [path for path in HERE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_000_000
    for path in files:
        data = path.read_bytes()
        for plate in PLATES:
            assert plate.encode() not in data, path
