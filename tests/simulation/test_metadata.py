"""Days of work between two regions: what lies on both brokers' disks, and what the lines carried.

``SALWEEN_DAYS`` says how many: a tenth of one, or seven by ``make simulate-week``. A search that finds
nothing counts only beside one that finds: each needle is first found where it may be.
"""

import asyncio
import base64
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.peers import load_peers
from protocol.requests import _ANSWER_SIZES, _REQUEST_SIZES
from runtime.sqlite import Database, Snapshot, Transaction
from tests.node.offices import an_alert, read
from tests.node.test_routes import Region
from tests.simulation.daemons import BrokerHost, OfficeHost
from tests.simulation.network import VirtualTransport
from tests.simulation.world import World

DAYS = float(os.environ.get("SALWEEN_DAYS", "0.1"))
ALERTS = 6
CARD_BYTES = 1_359  # of a broker: public, and the same to everybody
_LENGTH = re.compile(rb"Content-Length: ([0-9]+)\r\n")


def _values(tx: Snapshot) -> Iterator[bytes]:
    """Every value of every row, and the words of the schema."""
    for (table,) in list(tx.execute("SELECT name FROM sqlite_master WHERE type = 'table'")):
        for row in tx.execute(f"SELECT * FROM {table}"):
            for value in row:
                yield value if isinstance(value, bytes) else str(value).encode()


async def _secrets_of(office: OfficeHost) -> dict[str, bytes]:
    """What names an office, an officer, a pair or an alert: none of it is a broker's affair."""

    def look(tx: Snapshot) -> dict[str, bytes]:
        us = tx.one("SELECT office_id, root_public, certificate FROM office")
        assert us is not None
        found = {"office id": us[0], "root key": us[1], "certificate": us[2][200:264]}
        (officer,) = tx.execute("SELECT public_key, pseudonym_key FROM officer")
        found |= {"officer key": officer[0], "officer pseudonym key": officer[1]}
        (peer,) = load_peers(tx)
        found["instance"] = peer.pair.outbound.instance
        found["log name"] = tx.value("SELECT origin FROM log_state").encode()
        found["peer pseudonym"] = bytes.fromhex(peer.pseudonym)
        alerts = list(tx.execute("SELECT alert_id, hh, msg_id FROM delivery WHERE alert_id IS NOT NULL"))
        for number, (alert_id, hh, msg_id) in enumerate(alerts):
            found |= {f"alert {number}": alert_id, f"header {number}": hh, f"message {number}": msg_id}
        return found

    return await read(office, look)


def _found(needles: dict[str, bytes], hay: Iterable[bytes]) -> set[str]:
    """Names of the needles that occur, in any form a program would write without meaning harm."""
    forms = {
        name: {data, data.hex().encode(), data.hex().upper().encode(), base64.b64encode(data)[:-3]}
        for name, data in needles.items()
    }
    return {name for piece in hay for name, shapes in forms.items() if any(s in piece for s in shapes)}


async def _disk_of(world: World, broker: BrokerHost) -> list[bytes]:
    """Its database as its own key opens it, and its files as they lie there."""
    database = _database_of(broker)
    rows = await broker.host.run(lambda env: database.read(lambda tx: list(_values(tx))))
    files = [path for path in (world.directory / broker.host.name).rglob("*") if path.is_file()]
    assert len(files) > 5
    return [*rows, *(path.read_bytes() for path in files)]


def _database_of(broker: BrokerHost) -> Database:
    assert broker.broker is not None
    assert broker.broker._db is not None
    return broker.broker._db


def test_brokers_and_lines_hold_nothing_that_names_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of two brokers, nor who listens on any line: no office, officer, pair, message or alert."""
    with World(seed=11, directory=tmp_path) as world:
        region = Region(world)
        carried: list[bytes] = []
        send = world.network.send

        def noted(sender: VirtualTransport, item: Any) -> None:
            if isinstance(item, bytes) and sender.owner is not sender.peer.owner:
                carried.append(item)
            send(sender, item)

        async def script() -> None:
            await region.make()
            await region.pair_and_part()
            monkeypatch.setattr(world.network, "send", noted)
            for number in range(ALERTS):
                for office, place in ((region.here, "KA"), (region.there, "YN")):
                    await office.log_in()
                    await office.send(an_alert(f"{place}-{number}4711"))
                await asyncio.sleep(DAYS * 86_400 / ALERTS)
                for office in (region.here, region.there):
                    await office.log_in()
                    await office.open_alert((await office.inbox())[0].alert_id)
            await asyncio.sleep(120)
            needles: dict[str, bytes] = {"text": b"White pickup, false plate", "plate": b"KA-04711"}
            needles |= {"name": b"Myitkyina BLO", "other name": b"Tengchong BLO"}
            for office in (region.here, region.there):
                found = await _secrets_of(office)
                own = await read(office, lambda tx: list(_values(tx)))
                kept = {name for name in found if name not in ("instance", "peer pseudonym")}
                assert kept <= _found(found, own), "the search is blind"
                needles |= {f"{name} of {office.name}": data for name, data in found.items()}
            for broker in (region.east, region.west):
                assert _found(needles, await _disk_of(world, broker)) == set()
            assert _found(needles, carried) == set()
            # A broker's card is public, and the same for everybody.
            stated = {int(size) for piece in carried for size in _LENGTH.findall(piece)} - {CARD_BYTES}
            assert stated <= {*_REQUEST_SIZES, *_ANSWER_SIZES}
            # A broker that keeps what it should not is found out by the same search.
            database = _database_of(region.west)

            def careless(tx: Transaction) -> None:
                tx.execute("CREATE TABLE careless (said TEXT) STRICT")
                tx.execute("INSERT INTO careless VALUES (?)", (needles["office id of Myitkyina"].hex(),))

            await region.west.host.run(lambda env: database.transact(careless))
            assert _found(needles, await _disk_of(world, region.west)) == {"office id of Myitkyina"}

        world.run(script())
