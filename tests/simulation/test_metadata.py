"""Nine days of work between two regions: what lies on both brokers' disks, and what the lines carried.

Officers write each day, singly and three at once, with a photo now and then; both offices send cover; what a
cut line kept goes by stick; mailboxes and receive keys change. By itself every machine is switched on for
some minutes of some days; ``make simulate-week`` leaves them on. A search that finds nothing counts only
beside one that finds: everything looked for is found where it may be, and where it was planted.
"""

import asyncio
import base64
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from broker import exchange
from node.peers import load_peers
from protocol import limits, requests
from protocol.alert import Alert
from protocol.message import MessageType
from protocol.requests import Get, Op, Publish, Put
from runtime import broker_line, logs
from runtime.env import Env
from runtime.sqlite import Snapshot, Transaction
from tests.node.offices import an_alert, count, read
from tests.node.test_routes import Region, bytes_in
from tests.simulation.daemons import BrokerHost, OfficeHost
from tests.simulation.eavesdrop import (
    CARD_BYTES,
    Taps,
    all_of,
    database_of,
    found,
    handles,
    odd_heads,
    odd_sizes,
    repeated,
    rows_of,
    values,
)
from tests.simulation.photos import pictures
from tests.simulation.regions import two_regions
from tests.simulation.schedule import ask_for_cover, disk_of
from tests.simulation.world import World

DAY_S = 86_400
ON_S = int(os.environ.get("SALWEEN_ON_S", "300"))  # of each day
IS_SWITCHED_OFF = ON_S < DAY_S
DAYS_ON = (
    (0, 1, 3, 5, 8, 9) if IS_SWITCHED_OFF else range(10)
)  # mailboxes are made anew after seven, or eight
COVER_MEAN_S = max(90, ON_S // 144)
RECEIPT_SPREAD_MS, LOOK_MS = 10_000, 2_000  # unless set; an office may be busy just then
BURST = 3
TEXT = "White pickup, false plate"
# By what a broker knows something again, as the threat model says: a mailbox that is written to or read, a
# photo while its parts travel, the office whose requests it hands on, and what is said twice because an
# answer was lost.
HANDLES = {
    *("Put.put_secret", "Held.put_secret", "PartPut.put_secret"),
    *("List.get_secret", "Delete.get_secret", "PartGet.get_secret"),
    *("AttachmentDelete.mailbox_secret", "AttachmentDelete.attachment_secret"),
    *("AskGrant.get_secret", "AskGrant.put_hash", "AskGrant.mailbox_public"),
    *("PartPut.write_secret", "PartPut.read_hash", "PartPut.data", "PartGet.read_secret"),
    *("Delete.envelope_hash", "Delete.signature", "Forward.token"),
}
# And by what two can tell that an office reads at both of them, as after a move.
BOTH_KNOW = {"PartGet.read_secret", "AttachmentDelete.attachment_secret"}
SAMPLE_MAX = 1_000
ALERTS_STEP = 5  # each fifth alert, and each fortieth receive key, is searched for
PLANTED = bytes(range(100, 132))


class Week:
    """Two regions from the moment after pairing, and somebody who listens everywhere."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.region = Region(world)
        self.brokers = (self.region.east, self.region.west)
        self.offices = (self.region.here, self.region.there)
        hosts = [one.host for one in (*self.brokers, *self.offices)]
        start = two_regions()
        self.taps = Taps(world, hosts, monkeypatch)
        for broker in self.brokers:
            broker.host.simulated_disk = start.brokers[broker.host.name].copy()
        for office in self.offices:
            office.host.simulated_disk = start.offices[office.name].copy()
            ask_for_cover(disk_of(office.host), COVER_MEAN_S)
        self.sticks: list[bytes] = []
        self.alerts = 0

    async def on(self) -> None:
        """Everything is switched on."""
        for one in (*self.brokers, *self.offices):
            await one.restart()

    def off(self) -> None:
        """And off."""
        for one in (*self.offices, *self.brokers):
            one.host.kill()

    async def day(self, number: int) -> None:
        """Minutes of a day: each office writes, reads what came, and one day takes a stick."""
        for office, place in zip(self.offices, ("KA", "YN"), strict=True):
            await office.log_in()
            for which in range(BURST if number % 3 == 0 else 1):
                names = []
                if number % 4 == 1:
                    names = [await office.stage_photo(pictures()[0][0])]
                await office.send(self.alert(f"{place}-{number}{which}4711"), photos=names)
                self.alerts += 1
        if number == 5:
            await self._carry()
        await asyncio.sleep(ON_S / 2)
        for office in self.offices:
            await office.log_in()
            for row in (await office.inbox())[:1]:
                await office.open_alert(row.alert_id)
        await asyncio.sleep(ON_S / 2)

    def alert(self, plate: str) -> Alert:
        """Written today."""
        now_ms = self.offices[0].now_ms()
        ends = {"expires_ms": now_ms + 7 * limits.DAY_MS, "erase_at_ms": now_ms + 30 * limits.DAY_MS}
        return an_alert(plate).model_copy(update={"created_ms": now_ms, **ends})

    async def _carry(self) -> None:
        """The line to the broker is cut; what waits goes over the border in somebody's pocket."""
        here, there = self.offices
        self.world.network.cut("myitkyina", "east")
        await here.send(self.alert("KA-94711"))
        self.alerts += 1
        self.sticks.append(await here.export_stick(there.name))
        taken = await there.import_stick(self.sticks[-1])
        assert taken["new"] >= 1, taken
        await asyncio.sleep(60)
        self.world.network.heal()

    # --- what is looked for, and where ----------------------------------------------------------------------

    async def names(self, office: OfficeHost) -> dict[str, bytes]:
        """What names an office, an officer, a pair, a message or an alert."""

        def look(tx: Snapshot) -> dict[str, bytes]:
            us = tx.one("SELECT office_id, root_public, certificate, name FROM office")
            assert us is not None
            names = {"id": us[0], "root key": us[1], "certificate": us[2][200:264], "name": us[3].encode()}
            names["log name"] = tx.value("SELECT origin FROM log_state").encode()
            (officer,) = tx.execute("SELECT public_key, pseudonym_key FROM officer")
            names |= {"officer key": officer[0], "officer pseudonym key": officer[1]}
            (peer,) = load_peers(tx)
            names |= {
                "instance": peer.pair.outbound.instance,
                "peer pseudonym": bytes.fromhex(peer.pseudonym),
            }
            names |= {"peer log": peer.log_public, "peer witness": peer.witness_public}
            names |= {"log": tx.value("SELECT origin FROM log_state").encode()}
            rows = tx.execute("SELECT alert_id, hh, msg_id FROM delivery WHERE alert_id IS NOT NULL")
            for number, row in enumerate(list(rows)[::ALERTS_STEP]):
                names |= {
                    f"{of} {number}": data
                    for of, data in zip(("alert", "header", "message"), row, strict=True)
                }
            return names

        return {f"{name} of {office.name}": data for name, data in (await read(office, look)).items()}

    def capabilities(self) -> dict[str, bytes]:
        """Every secret a broker was shown: it keeps their hashes."""
        shown = {
            getattr(op, field.name)
            for ops in self.taps.asked.values()
            for op in ops
            for field in fields(op)
            if field.name.endswith("_secret") or field.name == "token"
        } - {b""}
        return {f"capability {secret.hex()[:6]}": secret for secret in shown}

    def envelopes(self) -> list[bytes]:
        """Every envelope that a broker saw, each once."""
        return list({put.envelope: None for ops in self.taps.asked.values() for put in _puts(ops)})

    def content(self) -> dict[str, bytes]:
        """Of alerts."""
        made = pictures()[0][1]
        return {"text": TEXT.encode(), "plate": b"KA-004711", "photo": made[1_000:1_064]}

    async def boxes(self, broker: BrokerHost) -> dict[str, bytes]:
        """Pseudonyms of its mailboxes: its own affair."""

        def look(tx: Snapshot) -> list[bytes]:
            return [row[0] for row in tx.execute("SELECT pseudonym FROM mailboxes")]

        database = database_of(broker)
        boxes = await broker.host.run(lambda env: database.read(look))
        return {f"mailbox {box.hex()[:6]} at {broker.host.name}": box for box in boxes}

    async def faults(self) -> set[str]:
        """Whatever the threat model does not admit, in words."""
        needles = self.content()
        for office in self.offices:
            needles |= await self.names(office)
        secret = needles | self.capabilities()
        faults: set[str] = set()
        on_lines, spoken = dict(secret), list(self.taps.spoken())
        on_lines |= {f"receive key {one[1:9].hex()}": one[1:9] for one in self.envelopes()[::40]}
        boxes = {broker.host.name: await self.boxes(broker) for broker in self.brokers}
        for broker in self.brokers:
            name = broker.host.name
            on_lines |= boxes[name]
            foreign = {of: box for other in boxes if other != name for of, box in boxes[other].items()}
            faults |= {f"disk of {name}: {one}" for one in found(secret | foreign, await all_of(broker))}
            logged = "\n".join(self.taps.logged[name]).encode()
            faults |= {f"operations log of {name}: {one}" for one in found(secret, [logged])}
            faults |= {f"{name} knows again: {one}" for one in handles(self.taps.asked[name]) - HANDLES}
        faults |= {f"stick: {one}" for one in found(secret, self.sticks)}
        faults |= {f"line: {one}" for one in found(on_lines, self.taps.carried)}
        faults |= {f"size: {one}" for one in odd_sizes(spoken)}
        faults |= {f"head: {one.decode()}" for one in odd_heads(spoken)}
        seen = [run for ops in self.taps.asked.values() for op in ops for run in bytes_in(op)]
        faults |= {f"brokers see: {one}" for one in found(needles, seen)}
        east, west = (values(self.taps.asked[broker.host.name]) for broker in self.brokers)
        both = {(east[value], west[value]) for value in east.keys() & west.keys()}
        faults |= {f"both know: {one}, {other}" for one, other in both if not {one, other} <= BOTH_KNOW}
        sample = [one.body for one in spoken if len(one.body) not in (0, CARD_BYTES)][-SAMPLE_MAX:]
        faults |= {f"line: twice {one.hex()}" for one in repeated(sample)}
        faults |= {
            f"envelope: twice {one.hex()}"
            for one in repeated(one[9:] for one in self.envelopes()[-SAMPLE_MAX:])
        }
        return faults


def _puts(ops: Iterable[Op]) -> list[Put]:
    return [op for op in ops if isinstance(op, Put)]


@pytest.fixture
def week(monkeypatch: pytest.MonkeyPatch) -> Iterator[Week]:
    """Before its first morning."""
    with World(seed=11, directory=Path(), has_simulated_disks=True) as world:
        yield Week(world, monkeypatch)


def test_nine_days_name_nobody(week: Week) -> None:
    """Padded sizes, no name, no key, no pseudonym and nothing else to follow, beyond what is admitted."""

    async def script() -> None:
        until: list[dict[str, int]] = []
        for number, after in zip(DAYS_ON, (*DAYS_ON[1:], None), strict=True):
            if IS_SWITCHED_OFF or not until:
                await week.on()
            await week.day(number)
            until.append({name: len(ops) for name, ops in week.taps.asked.items()})
            if IS_SWITCHED_OFF and after is not None:
                week.off()
                await asyncio.sleep((after - number) * DAY_S - ON_S)
        assert await week.faults() == set()

        # The days were what they should be, and nothing was looked for where it cannot be found.
        own = [*await rows_of(week.offices[0]), *await rows_of(week.offices[1])]
        names = week.content()
        for office in week.offices:
            names |= await week.names(office)
            assert await count(office, "delivery", "alert_id IS NOT NULL AND phase <> 'acknowledged'") == 0
        assert set(names) - found(names, own) <= {"photo"}  # its file is encrypted, as all files are
        shown = [run for ops in week.taps.asked.values() for op in ops for run in bytes_in(op)]
        assert found(week.capabilities(), shown) == set(week.capabilities())
        arrived = [await count(office, "alert", "incoming") for office in week.offices]
        assert sum(arrived) == week.alerts
        for broker in week.brokers:
            boxes = await week.boxes(broker)
            assert len(boxes) > 1
            assert found(boxes, await all_of(broker)) == set(boxes)
        spoken = list(week.taps.spoken())
        assert {one.sender for one in spoken if one.is_request} == {"myitkyina", "tengchong", "east", "west"}
        assert sum(b"chunked" in one.head for one in spoken) > len(DAYS_ON)
        covers = [await count(office, "delivery", f"type = {MessageType.COVER:d}") for office in week.offices]
        assert min(covers) > 2
        kinds = {type(op).__name__ for ops in week.taps.asked.values() for op in ops}
        assert kinds >= {"Put", "List", "Delete", "Forward", "PartPut", "PartGet", "Create"}
        # An address and a key do not last: what was seen on the first day leads to nothing on the last.
        for broker in week.brokers:
            asked = week.taps.asked[broker.host.name]
            first, last = asked[: until[0][broker.host.name]], asked[until[-2][broker.host.name] :]
            for put in (of_first := _puts(first)):
                assert put.envelope[1:9] not in {one.envelope[1:9] for one in _puts(last)}
            assert not {put.put_secret for put in of_first} & {put.put_secret for put in _puts(last)}
        # What comes together is receipted together, after a moment drawn by lot.
        waits = [wait for office in week.offices for wait in await _receipts(office)]
        assert max(waits) <= RECEIPT_SPREAD_MS + LOOK_MS
        assert max(waits) - min(waits) > RECEIPT_SPREAD_MS // 2
        assert len({wait // 1_000 for wait in waits}) > 5

    week.world.run(script())


async def _receipts(office: OfficeHost) -> list[int]:
    """After how many ms each alert was receipted, by the office's own clock; they left in fewer messages."""

    def look(tx: Snapshot) -> tuple[list[int], list[int]]:
        came = [row[0] for row in tx.execute("SELECT at_ms FROM received WHERE type = 1 ORDER BY at_ms")]
        receipts = tx.execute("SELECT message FROM delivery WHERE type = 3 ORDER BY rowid")
        return came, [int.from_bytes(row[0][70:78], "big") for row in receipts]  # when signed, in the header

    came, said = await read(office, look)
    answered = [min(at for at in said if at >= arrived) for arrived in came]
    assert len(set(answered)) < len(came) - 2
    return [at - arrived for at, arrived in zip(answered, came, strict=True)]


def test_what_is_careless_is_found(week: Week, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same searches, where a broker keeps what it should not and an office says too much."""
    identity: dict[str, bytes] = {}

    async def script() -> None:
        await week.on()
        for office in week.offices:
            identity.update(await week.names(office))
        east, west = week.brokers
        spoken_id = identity["id of Myitkyina"]

        def row(tx: Transaction) -> None:
            tx.execute("CREATE TABLE careless (said TEXT) STRICT")
            tx.execute("INSERT INTO careless VALUES (?)", (spoken_id.hex(),))

        async def line(env: Env) -> None:
            logs.get_logger("broker", {"asked_by"}).info(
                "asked", asked_by=identity["instance of Tengchong"].hex()
            )

        async def file(env: Env) -> None:
            env.files.append_fsync(
                "broker/access.log", b"GET " + base64.b64encode(identity["name of Tengchong"])
            )

        await east.host.run(lambda env: database_of(east).transact(row))
        await east.host.run(line)
        await west.host.run(file)
        # An office that says who it is, a broker whose random numbers are none, and no padding.
        monkeypatch.setattr(broker_line, "PATH", f"/v1?by={spoken_id.hex()}")
        sealed = requests.seal_answer
        monkeypatch.setattr(
            exchange, "seal_answer", lambda asked, said, at, _: sealed(asked, said, at, bytes)
        )
        monkeypatch.setattr(requests, "_REQUEST_SIZES", sorted((*requests._REQUEST_SIZES, 1_400)))
        await week.day(0)
        # What no program of ours can be brought to do is planted where it would be seen.
        envelopes = [bytes([1, *range(8), which]) * 100 + PLANTED for which in (1, 2)]
        week.taps.asked["west"] += [Put(put_secret=bytes([7] * 32), envelope=one) for one in envelopes]
        week.taps.asked["west"] += [Publish(notice=PLANTED)] * 2
        week.taps.asked["east"].append(Get(get_secret=bytes([8] * 32), envelope_hash=bytes([7] * 32)))
        week.sticks.append("x".encode("utf-16-le") + TEXT.encode("utf-16-le"))
        # Numbers differ; what stands twice is found at many places.
        faults = {re.sub("[0-9a-f]{16,}|[0-9]+$", "N", fault) for fault in await week.faults()}
        assert faults == {
            *("disk of east: id of Myitkyina", "disk of west: name of Tengchong"),
            "operations log of east: instance of Tengchong",
            *("head: POST /v1?by=N HTTP/1.1\r\n\r\n", "line: id of Myitkyina"),
            *("line: twice N", "size: myitkyina asks N", "size: tengchong asks N"),
            *("envelope: twice N", "west knows again: Publish.notice"),
            *("stick: text", "both know: Get.envelope_hash, Put.put_secret"),
        }

    week.world.run(script())
