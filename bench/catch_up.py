"""An office that was away catches up: two daemons and a broker, three processes, and what the wires carried.

While the second office is off, the first presses alerts until all are pressed or its window is full. What the
broker's mailbox has no room for waits in the outbox; what the window has no room for is pressed as soon as
the page takes it. Then the second office comes back. *Link up* is its first connection to the broker; *caught
up* is when the sender's status says that nothing waits: every alert is committed there, acknowledged here.

Every byte between an office and the broker passes a counting relay on loopback, which tells the offices apart
by who owns the socket. Counted is what TCP carries, HTTP and sealed requests, not the headers of TCP and IP.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean

import click

from bench.bare import BareMessage
from bench.measure import RUNS, cost_us
from bench.report import figure, machine, progress, speed_ratio
from bench.stored import database_of
from demo.ceremony import pair
from demo.office import Form, Office, PageRefused, Pages
from demo.playground import OFFICES
from demo.stage import Daemon, Stage
from keys.card import parse_broker_address_untrusted
from protocol.message import SignedMessage

BENCH = "catch_up"
PRESSES_AT_ONCE = 16
POLL_S = 0.1
FULL_WAIT_S = 0.5
STALL_S = 1800.0
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
    kept: int  # pressed before the other office came back; the rest found the window full
    seconds: float
    offline: Mapping[str, tuple[int, int]]  # bytes up and down by office, before it came back
    online: Mapping[str, tuple[int, int]]


@dataclass(slots=True, kw_only=True)
class _Pressing:
    """The sender's officers at their page."""

    pages: Pages
    peer: str
    plates: "itertools.count[int]"
    pressed: int = 0
    full: asyncio.Event = field(default_factory=asyncio.Event)

    async def press(self, alerts: int) -> None:
        """Press every alert; what the window refuses is pressed again until it is taken."""
        left = itertools.repeat(None, alerts)

        async def one_by_one() -> None:
            for _ in left:
                form = self._form()
                while True:
                    try:
                        await self.pages.submit(form)
                    except PageRefused as refused:
                        if refused.word != "window_full":
                            raise
                        self.full.set()
                        await asyncio.sleep(FULL_WAIT_S)
                    else:
                        break
                self.pressed += 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(PRESSES_AT_ONCE):
                tasks.create_task(one_by_one())

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
    progress(f"{BENCH}: starting a broker and two offices")
    bare = BareMessage(officer_signatures=1)
    async with Stage.open() as stage:
        broker_home = stage.directory / "broker"
        first, second = (Office(stage, *facts) for facts in OFFICES)
        await asyncio.gather(
            stage.command("broker", "init", "--dir", broker_home, "--port", "0", "--health-port", "0"),
            first.init("Duty officer", "officer"),
            second.init("Duty officer", "officer"),
        )
        broker = stage.daemon("broker", "broker", "run", "--dir", broker_home, "--json")
        await asyncio.gather(broker.start(), first.daemon.start(), second.daemon.start())
        address = parse_broker_address_untrusted(str(broker.ready["address"]))
        wire = _Wire(port_behind=address.port)
        async with wire.listen() as relay_port:
            tokens = (await stage.command("broker", "tokens", "--dir", broker_home))["tokens"]
            wire.watch("sender", first.daemon)
            wire.watch("receiver", second.daemon)
            await pair(stage, first, second, str(replace(address, port=relay_port)), tokens[0])
            pages = await first.pages()
            try:
                peer = (await pages.get("/partners"))[0]["office_id"]
                pressing = _Pressing(pages=pages, peer=peer, plates=itertools.count(1))
                absences: list[_Absence] = []
                bare_us: list[float] = []
                for number in range(runs):
                    progress(f"{BENCH}: absence {number + 1} of {runs}, {alerts} alerts")
                    bare_us += cost_us({"open": bare.receive}, rounds=bare_rounds, each=10, runs=1)["open"]
                    absences.append(await _absence(pressing, wire, second, alerts))
            finally:
                await first.leave_pages()
            await first.daemon.stop()
            payload_bytes = await _payload_bytes(first)
    _tell(absences, bare_us, payload_bytes)


async def _absence(pressing: _Pressing, wire: _Wire, away: Office, alerts: int) -> _Absence:
    await away.daemon.stop()
    before, wire.seen["receiver"] = wire.totals(), asyncio.Event()
    already = pressing.pressed
    pressing.full.clear()
    async with asyncio.timeout(STALL_S), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(pressing.press(alerts))
        full = tasks.create_task(pressing.full.wait())
        await asyncio.wait((task, full), return_when=asyncio.FIRST_COMPLETED)
        full.cancel()
        kept = pressing.pressed - already
        # Let the broker have what it takes: the outbox is quiet when two readings of the wire agree.
        readings = [wire.totals()]
        while len(readings) < 2 or readings[-1]["sender"] != readings[-2]["sender"]:
            await asyncio.sleep(10 * POLL_S)
            readings.append(wire.totals())
            if len(readings) > 60:
                break  # full mailboxes are tried again for ever
        offline = wire.totals()
        progress(f"{BENCH}: {kept} kept; the other office comes back")
        await away.daemon.start()
        await wire.seen["receiver"].wait()
        begun_s = told_s = time.perf_counter()
        while waiting := await _waiting(pressing.pages) or not task.done():
            await asyncio.sleep(POLL_S)
            if time.perf_counter() - told_s > 10:
                told_s = time.perf_counter()
                progress(
                    f"{BENCH}: {told_s - begun_s:.0f} s, {pressing.pressed - already} pressed, {waiting} wait"
                )
        seconds = time.perf_counter() - begun_s
    online = wire.totals()
    return _Absence(
        alerts=alerts,
        kept=kept,
        seconds=seconds,
        offline=_difference(offline, before),
        online=_difference(online, offline),
    )


def _difference(
    after: Mapping[str, tuple[int, int]], before: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    return {name: (up - before[name][0], down - before[name][1]) for name, (up, down) in after.items()}


async def _waiting(pages: Pages) -> int:
    """Alerts that the sender holds without a verified receipt."""
    return int((await pages.get("/status"))["outbox_waiting"])


async def _payload_bytes(sender: Office) -> float:
    """Mean of core and disclosures of the alerts sent."""
    async with database_of(sender) as db:
        rows = await db.read(
            lambda tx: tx.execute("SELECT message FROM delivery WHERE alert_id IS NOT NULL LIMIT 512")
        )
    messages = [SignedMessage.from_bytes(row[0]) for row in rows]
    return mean(len(message.core) + len(message.disclosures) for message in messages)


# --- telling ------------------------------------------------------------------------------------------------


def _tell(absences: list[_Absence], bare_us: list[float], payload_bytes: float) -> None:
    facts = {"alerts": absences[0].alerts, "kept_while_away": min(one.kept for one in absences)}
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
    for case, office, direction, offline in (
        ("sender to broker while the other is away", "sender", 0, True),
        ("sender to broker during catch-up", "sender", 0, False),
        ("broker to sender during catch-up", "sender", 1, False),
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
