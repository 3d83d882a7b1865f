"""An office that was away catches up: daemons and a broker, a process each, and what the wires carried.

While one office is off, its partners press alerts, each no more than its window takes. What the broker's
mailboxes have no room for waits in their outboxes. Then the office comes back. *Link up* is its first
connection to the broker; *caught up* is when the status of every sender says that nothing waits: every alert
is committed there, acknowledged here.

Every byte between an office and the broker passes a counting relay on loopback, which tells the offices apart
by who owns the socket. Counted is what TCP carries, HTTP and sealed requests, not the headers of TCP and IP.
"""

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean

import click

from bench.bare import BareMessage
from bench.measure import CPU_TICK_S, RECEIPTS_AT_ONCE, RUNS, cost_us, process_cpu_s
from bench.report import cost_ratio, figure, machine, progress, speed_ratio
from bench.stored import database_of
from demo.ceremony import pair
from demo.office import Form, Office, Pages
from demo.stage import Daemon, Stage
from keys.brokercard import parse_broker_address_untrusted
from protocol.message import SignedMessage

BENCH = "catch_up"
PRESSES_AT_ONCE = 16
POLL_S = 0.1
STALL_S = 1800.0
ALERTS_PER_SENDER_MAX = 3_900  # with the receipts and heartbeats beside them, within limits.WINDOW_MESSAGES
_RELAY_CHUNK_BYTES = 1 << 16
_TEXT = (
    "White pickup with a false plate left the old bridge northbound, two men, tarpaulin over the load. " * 8
)


def run(*, quick: bool) -> None:
    """Three absences of a small size; the figure for a long one is ``python -m bench.catch_up``."""
    asyncio.run(_run(alerts=8 if quick else 600, runs=RUNS, bare_rounds=1 if quick else 15))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--messages", default=10_000, show_default=True, help="Alerts of one absence.")
def main(messages: int) -> None:
    """One long absence, measured once."""
    machine(quick=False)
    asyncio.run(_run(alerts=messages, runs=1, bare_rounds=50))


# --- the wire -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Wire:
    """A relay in front of the broker; bytes by process id and direction."""

    port_behind: int
    up_bytes: dict[str, int] = field(default_factory=dict)
    down_bytes: dict[str, int] = field(default_factory=dict)
    owners: dict[str, Daemon] = field(default_factory=dict)
    seen: dict[str, asyncio.Event] = field(default_factory=dict)

    def watch(self, name: str, daemon: Daemon) -> None:
        """Count this daemon's bytes under a name, from zero."""
        self.owners[name] = daemon
        self.up_bytes[name] = self.down_bytes[name] = 0
        self.seen[name] = asyncio.Event()

    def totals(self) -> Mapping[str, tuple[int, int]]:
        """Up and down by name."""
        return {name: (self.up_bytes[name], self.down_bytes[name]) for name in self.owners}

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[int]:
        """The relay's port, while the block runs."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = self._owner_of(writer.get_extra_info("peername")[1])
        if name in self.seen:
            self.seen[name].set()
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self.port_behind)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_copy(reader, behind_writer, self.up_bytes, name))
                tasks.create_task(_copy(behind_reader, writer, self.down_bytes, name))
        except* OSError:
            pass  # either side may go whenever it likes
        finally:
            writer.close()
            behind_writer.close()

    def _owner_of(self, port: int) -> str:
        """Whose process holds the socket with this local port; pairing commands count as nobody."""
        for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            columns = row.split()
            if int(columns[1].partition(":")[2], 16) == port and int(columns[2].partition(":")[2], 16) != 0:
                held = f"socket:[{columns[9]}]"
                for name, daemon in self.owners.items():
                    if daemon.pid is not None and held in _descriptors(daemon.pid):
                        return name
        return ""


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: dict[str, int], name: str
) -> None:
    while data := await reader.read(_RELAY_CHUNK_BYTES):
        count[name] = count.get(name, 0) + len(data)
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def _descriptors(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found.add(str(entry.readlink()))
    return found


# --- an absence ---------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Absence:
    """One time away and what it took to catch up."""

    alerts: int
    seconds: float
    cpu_s: Mapping[str, float]  # from link up to caught up, by role
    offline: Mapping[str, tuple[int, int]]  # bytes up and down by role, before it came back
    online: Mapping[str, tuple[int, int]]


@dataclass(slots=True, kw_only=True)
class _Sender:
    """One partner's officers at their page."""

    pages: Pages
    peer: str
    plates: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    async def press(self, alerts: int) -> None:
        """Press so many alerts, many at once."""
        left = itertools.repeat(None, alerts)

        async def one_by_one() -> None:
            for _ in left:
                await self.pages.submit(self._form())

        async with asyncio.TaskGroup() as tasks:
            for _ in range(PRESSES_AT_ONCE):
                tasks.create_task(one_by_one())

    async def waiting(self) -> int:
        """Alerts it holds without a verified receipt."""
        return int((await self.pages.get("/status"))["outbox_waiting"])

    def _form(self) -> Form:
        return {
            "recipients": [self.peer],
            "status": "exercise",
            "crime_type": "drug_trafficking",
            "urgency": "expected",
            "source": "B",
            "information": "2",
            "kind": "vehicle",
            "vehicle.plate": f"KA-{next(self.plates):06d}",
            "vehicle.colour": "white",
            "vehicle.seen_where": "Checkpoint 4, northbound",
            "vehicle.description": _TEXT,
        }


async def _run(*, alerts: int, runs: int, bare_rounds: int) -> None:
    count = math.ceil(alerts / ALERTS_PER_SENDER_MAX)
    progress(f"{BENCH}: starting a broker and {count + 1} offices")
    bare = BareMessage(officer_signatures=1)
    async with Stage.open() as stage:
        broker_home = stage.directory / "broker"
        away = Office(stage, "Tengchong BLO", "CN", "tengchong")
        partners = [
            Office(stage, f"Partner {number} BLO", "MM", f"partner{number}") for number in range(count)
        ]
        await stage.command("broker", "init", "--dir", broker_home, "--port", "0", "--health-port", "0")
        broker = stage.daemon("broker", "broker", "run", "--dir", broker_home, "--json")
        await broker.start()
        for office in (away, *partners):
            await office.init("Duty officer", "officer", RECEIPTS_AT_ONCE)
            await office.daemon.start()
        address = parse_broker_address_untrusted(str(broker.ready["address"]))
        wire = _Wire(port_behind=address.port)
        async with wire.listen() as relay_port:
            wire.watch("receiver", away.daemon)
            for partner in partners:
                wire.watch(partner.short, partner.daemon)
                tokens = (await stage.command("broker", "tokens", "--dir", broker_home))["tokens"]
                await pair(stage, partner, away, str(replace(address, port=relay_port)), tokens[0])
            senders = []
            try:
                for partner in partners:
                    pages = await partner.pages()
                    senders.append(_Sender(pages=pages, peer=(await pages.get("/partners"))[0]["office_id"]))
                absences: list[_Absence] = []
                bare_us: list[float] = []
                for number in range(runs):
                    progress(f"{BENCH}: absence {number + 1} of {runs}, {alerts} alerts")
                    bare_us += cost_us({"open": bare.receive}, rounds=bare_rounds, each=10, runs=1)["open"]
                    absences.append(await _absence(senders, wire, broker, away, alerts))
            finally:
                for partner in partners:
                    await partner.leave_pages()
            await partners[0].daemon.stop()
            payload_bytes = await _payload_bytes(partners[0])
    _tell(absences, bare_us, payload_bytes, count)


async def _absence(
    senders: list[_Sender], wire: _Wire, broker: Daemon, away: Office, alerts: int
) -> _Absence:
    await away.daemon.stop()
    before, wire.seen["receiver"] = wire.totals(), asyncio.Event()
    async with asyncio.timeout(STALL_S):
        shares = [alerts // len(senders) + (place < alerts % len(senders)) for place in range(len(senders))]
        await asyncio.gather(*(sender.press(share) for sender, share in zip(senders, shares, strict=True)))
        # Let the broker have what it takes: the outboxes are quiet when two readings of the wire agree.
        readings = [wire.totals()]
        while len(readings) < 2 or readings[-1] != readings[-2]:
            await asyncio.sleep(10 * POLL_S)
            readings.append(wire.totals())
        offline = wire.totals()
        progress(f"{BENCH}: the office comes back")
        await away.daemon.start()
        await wire.seen["receiver"].wait()
        begun_s = told_s = time.perf_counter()
        cpu_before_s = _cpu_s(wire, broker)
        while waiting := sum([await sender.waiting() for sender in senders]):
            await asyncio.sleep(POLL_S)
            if time.perf_counter() - told_s > 10:
                told_s = time.perf_counter()
                progress(f"{BENCH}: {told_s - begun_s:.0f} s, {waiting} wait")
        seconds = time.perf_counter() - begun_s
        cpu_s = {role: spent - cpu_before_s[role] for role, spent in _cpu_s(wire, broker).items()}
    online = wire.totals()
    return _Absence(
        alerts=alerts,
        seconds=seconds,
        cpu_s=cpu_s,
        offline=_by_role(before, offline),
        online=_by_role(offline, online),
    )


def _cpu_s(wire: _Wire, broker: Daemon) -> dict[str, float]:
    """Processor time so far, by role."""
    spent = {"receiver": 0.0, "senders": 0.0, "broker": 0.0}
    for name, daemon in (*wire.owners.items(), ("broker", broker)):
        assert daemon.pid is not None
        spent[name if name in spent else "senders"] += process_cpu_s(daemon.pid)
    return spent


def _by_role(
    before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """What was carried up and down between two readings, by the receiver and by all senders together."""
    carried = {"receiver": (0, 0), "senders": (0, 0)}
    for name, (up, down) in after.items():
        role = name if name == "receiver" else "senders"
        carried[role] = (carried[role][0] + up - before[name][0], carried[role][1] + down - before[name][1])
    return carried


async def _payload_bytes(sender: Office) -> float:
    """Mean of core and disclosures of the alerts sent."""
    async with database_of(sender) as db:
        rows = await db.read(
            lambda tx: tx.execute("SELECT message FROM delivery WHERE alert_id IS NOT NULL LIMIT 512")
        )
    messages = [SignedMessage.from_bytes(row[0]) for row in rows]
    return mean(len(message.core) + len(message.disclosures) for message in messages)


# --- telling ------------------------------------------------------------------------------------------------


def _tell(absences: list[_Absence], bare_us: list[float], payload_bytes: float, senders: int) -> None:
    facts = {"alerts": absences[0].alerts, "senders": senders}
    per_s = [one.alerts / one.seconds for one in absences]
    figure(
        BENCH,
        "messages, from link up to the last one acknowledged",
        per_s,
        "messages/s",
        **facts,
        **speed_ratio(
            per_s,
            [1e6 / us for us in bare_us],
            against="bare opening and verifying of the same messages on one core",
        ),
    )
    for role in absences[0].cpu_s:
        # Of a few messages it may be less than a tick.
        per_message_us = [max(one.cpu_s[role], CPU_TICK_S) / one.alerts * 1e6 for one in absences]
        compared = cost_ratio(per_message_us, bare_us, against="bare opening and verifying of one message")
        figure(
            BENCH,
            f"processor time of the {role} during catch-up",
            per_message_us,
            "us of one core per message",
            **facts,
            **(compared if role == "receiver" else {}),
        )
    for case, office, direction, offline in (
        ("sender to broker while the other is away", "senders", 0, True),
        ("sender to broker during catch-up", "senders", 0, False),
        ("broker to sender during catch-up", "senders", 1, False),
        ("broker to receiver during catch-up", "receiver", 1, False),
        ("receiver to broker during catch-up", "receiver", 0, False),
    ):
        per_message = [
            (one.offline if offline else one.online)[office][direction] / one.alerts for one in absences
        ]
        figure(
            BENCH,
            f"bytes on the wire, {case}",
            per_message,
            "bytes/message",
            **facts,
            **speed_ratio(
                per_message,
                [payload_bytes] * len(per_message),
                against="payload bytes: core and disclosures of the alert; above 1 is overhead",
            ),
        )


if __name__ == "__main__":
    main()
