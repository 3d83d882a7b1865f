"""Makes ``tests/data/first-light``: the data of a broker and two paired offices as this version writes them.

Every later version must open it (tests/node/test_first_light_data.py), so it is made once and then never
again: a changed format needs a migration, not a new copy. From the repository's root::

    .venv/bin/python -m tests.data.make_first_light DIRECTORY

Cheap key derivation, passphrase and PINs of tests/simulation/daemons.py. No secret of anybody.
"""

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from tests.simulation.daemons import BrokerHost, OfficeHost, pair
from tests.simulation.test_first_light import an_alert
from tests.simulation.world import Host, World

HERE = Path(__file__).parent / "first-light"
PLATES = ("FL-1001", "FL-1002", "FL-2001")
NOT_KEPT = ("pid", "control.sock")


async def _story(broker: BrokerHost, here: OfficeHost, there: OfficeHost) -> None:
    """Two alerts one way and one back; one of them opened; one left waiting at its sender."""
    await broker.make()
    await here.make()
    await there.make()
    await pair(broker, here, there)
    await here.send(an_alert(PLATES[0]))
    await there.send(an_alert(PLATES[2]))
    await asyncio.sleep(120)
    (row,) = await there.inbox()
    await there.open_alert(row.alert_id)
    await asyncio.sleep(120)
    assert broker.broker is not None
    await broker.host.run(lambda env: _stopped(broker))
    await here.send(an_alert(PLATES[1]))
    await asyncio.sleep(5)
    for office in (here, there):
        node = office.node
        assert node is not None
        await office.host.run(lambda env, node=node: node.stop())  # type: ignore[misc]


async def _stopped(broker: BrokerHost) -> None:
    assert broker.broker is not None
    await broker.broker.stop()


def make(directory: Path) -> None:
    """Write the three directories ``broker``, ``myitkyina`` and ``tengchong`` below ``directory``."""
    with tempfile.TemporaryDirectory() as temporary, World(seed=1, directory=Path(temporary)) as world:
        broker = BrokerHost(world)
        here, there = OfficeHost(world, "Myitkyina", "MM"), OfficeHost(world, "Tengchong", "CN")
        world.run(_story(broker, here, there))
        for host, name in ((broker.host, "broker"), (here.host, "node"), (there.host, "node")):
            _copy(host, name, directory / host.name)


def _copy(host: Host, name: str, target: Path) -> None:
    shutil.copytree(_root(host) / name, target, ignore=shutil.ignore_patterns(*NOT_KEPT))


def put_back(host: Host, name: str, data: Path = HERE) -> None:
    """Lay the kept directory of a host where its next life finds it, with the modes a checkout loses."""
    target = _root(host) / name
    shutil.copytree(data / host.name, target)
    target.chmod(0o700)
    for path in target.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


def _root(host: Host) -> Path:
    """Where the working directory of a simulated process stands on the host's disk."""
    return Path(f"{host.disk}{Path.cwd()}")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
