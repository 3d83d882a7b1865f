"""Real alerts between two daemons and a broker, three processes: from the press of the button to the receipt.

The same alert each time but for its plate: a form of the new-alert page, sent to the sender's pages over HTTP
by an officer who is logged in, as a browser would. *Seen* is when the peer's open page is told that its inbox
changed; *receipted* is when the sender's status says that nothing waits any more, and at the end of each
burst the outbox is asked for every one of its alerts. *In flight* is pressed and not receipted.

Processor time is that of the three daemons, pages included; this process, which plays both officers, is not
counted but runs on the same cores. The bare cryptography takes its turn between the bursts, while the
daemons are idle.
"""

import asyncio
import contextlib
import itertools
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import aiohttp

from bench.bare import BareMessage
from bench.measure import RECEIPTS_AT_ONCE, RUNS, cost_us, percentile, process_cpu_s
from bench.report import cost_ratio, figure, progress, speed_ratio
from demo.office import Form, Office, Pages
from demo.playground import Playground, open_playground
from demo.published import entries_of
from demo.stage import Stage
from keys.errors import Unavailable

BENCH = "end_to_end"
IN_FLIGHT = 64
SETTLE_S = 0.03  # between two alerts that are sent one at a time
POLL_S = 0.01
CHANGE_WAIT_S = 0.25  # a change may be told together with another
STALL_S = 60.0
_TEXT = (
    "White pickup with a false plate left the old bridge northbound, two men, tarpaulin over the load. " * 8
)


def run(*, quick: bool) -> None:
    """Set up two offices, then bursts, single alerts and bare cryptography in turns."""
    progress(f"{BENCH}: starting a broker and two offices")
    work = _run(burst=24 if quick else 320, singles=5 if quick else 40, bare_rounds=2 if quick else 15)

    async def main() -> None:
        task = asyncio.ensure_future(work)
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(ending, task.cancel)
        await task  # cancelled, it still ends its daemons and removes their directory

    asyncio.run(main())


class LivePages(Pages):
    """An officer's pages, and the stream that tells an open page what changed."""

    @asynccontextmanager
    async def changes(self) -> AsyncIterator["asyncio.Queue[str]"]:
        """Names of lists that changed, as the stream tells them; open when the context is entered."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as session,
            session.get(
                f"{self._address}/events", headers={"Origin": self._address, "Cookie": self._cookie}
            ) as stream,
        ):
            if stream.status != 200:
                raise Unavailable("no_events", f"the event stream answered {stream.status}")

            async def read() -> None:
                async for row in stream.content:
                    if row.startswith(b"event: "):
                        queue.put_nowait(row[len(b"event: ") :].strip().decode())

            reading = asyncio.create_task(read())
            try:
                yield queue
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)


def vehicle(peer: str, number: int) -> Form:
    """An alert of about 1.9 KB as it is signed, unlike the others by its plate."""
    return {
        "recipients": [peer],
        "status": "exercise",
        "crime_type": "drug_trafficking",
        "urgency": "expected",
        "source": "B",
        "information": "2",
        "kind": "vehicle",
        "vehicle.plate": f"KA-{number:06d}",
        "vehicle.colour": "white",
        "vehicle.seen_where": "Checkpoint 4, northbound",
        "vehicle.description": _TEXT,
    }


@dataclass(slots=True, kw_only=True)
class _Bench:
    """Everything a burst needs, and what was measured."""

    ground: Playground
    sender: LivePages
    receiver: LivePages
    sender_changes: "asyncio.Queue[str]"
    receiver_changes: "asyncio.Queue[str]"
    peer: str
    plates: Any = field(default_factory=lambda: itertools.count(1))
    windows_us: list[tuple[int, int]] = field(default_factory=list)

    @property
    def processes(self) -> Mapping[str, int]:
        """Process ids by role."""
        first, second = self.ground.offices
        found = {"sender": first.daemon.pid, "broker": self.ground.broker.pid, "receiver": second.daemon.pid}
        return {name: pid for name, pid in found.items() if pid is not None}

    async def waiting(self) -> int:
        """Alerts that the sender holds without a verified receipt."""
        return int((await self.sender.get("/status"))["outbox_waiting"])

    async def until_receipted(self) -> int:
        """Wait until nothing waits at the sender; how often it was asked."""
        # An alert changes the outbox when it is kept, when the broker has it, and with the receipt: asking
        # before the third change would only cost the sender a page.
        async with asyncio.timeout(STALL_S):
            for _ in range(3):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CHANGE_WAIT_S):
                        await self.sender_changes.get()
            asked = 1
            while await self.waiting():
                await _changed(self.sender_changes)
                asked += 1
        return asked


@dataclass(slots=True, kw_only=True)
class _Burst:
    """One repetition of one way to send."""

    alerts: int
    seconds: float
    cpu_s: Mapping[str, float]
    polls: int  # status pages asked for on the way; the sender's time includes them

    @property
    def core_seconds(self) -> float:
        return sum(self.cpu_s.values())


async def _changed(changes: "asyncio.Queue[str]") -> None:
    """Wait for the next change, swallow what is queued behind it, and never ask more often than POLL_S."""
    await asyncio.sleep(POLL_S)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CHANGE_WAIT_S):
            await changes.get()
    _drain(changes)


async def _run(*, burst: int, singles: int, bare_rounds: int) -> None:
    async with Stage.open() as stage:
        ground = await open_playground(stage, RECEIPTS_AT_ONCE)
        first, second = ground.offices
        sender, receiver = live(first), live(second)
        try:
            await sender.login()
            await receiver.login()
            peer = (await sender.get("/partners"))[0]["office_id"]
            async with sender.changes() as sender_changes, receiver.changes() as receiver_changes:
                bench = _Bench(
                    ground=ground,
                    sender=sender,
                    receiver=receiver,
                    sender_changes=sender_changes,
                    receiver_changes=receiver_changes,
                    peer=peer,
                )
                await _measure(bench, burst=burst, singles=singles, bare_rounds=bare_rounds)
        finally:
            await sender.close()
            await receiver.close()


def live(office: Office) -> LivePages:
    """The pages of its officer."""
    return LivePages(office.address, office.officer("officer"))


async def _measure(bench: _Bench, *, burst: int, singles: int, bare_rounds: int) -> None:
    alert, message = BareMessage(officer_signatures=1), BareMessage(officer_signatures=0)
    progress(f"{BENCH}: warming up")
    await _send_at_once(bench, IN_FLIGHT)
    await _send_singly(bench, 2, [], [])
    bursts: list[_Burst] = []
    single_bursts: list[_Burst] = []
    seen_ms: list[list[float]] = []
    receipted_ms: list[list[float]] = []
    bare: dict[str, list[float]] = {}
    for number in range(RUNS):
        progress(f"{BENCH}: {number + 1} of {RUNS}")
        costs = await asyncio.to_thread(
            cost_us,
            {
                "send": alert.send,
                "receive": alert.receive,
                "receipt": lambda: (message.send(), message.receive()),
            },
            rounds=bare_rounds,
            each=10,
            runs=1,
        )
        for name, values in costs.items():
            bare.setdefault(name, []).extend(values)
        begun_us = time.time_ns() // 1000
        bursts.append(await _send_at_once(bench, burst))
        bench.windows_us.append((begun_us, time.time_ns() // 1000))
        seen: list[float] = []
        receipted: list[float] = []
        single_bursts.append(await _send_singly(bench, singles, seen, receipted))
        seen_ms.append(seen)
        receipted_ms.append(receipted)
    await _check_all_delivered(bench)
    receipt_messages = await _receipt_messages(bench)
    alert_us = [a + b for a, b in zip(bare["send"], bare["receive"], strict=True)]
    at_once_us = [
        one + receipt * messages / burst
        for one, receipt, messages in zip(alert_us, bare["receipt"], receipt_messages, strict=True)
    ]
    one_by_one_us = [one + receipt for one, receipt in zip(alert_us, bare["receipt"], strict=True)]
    _tell_latency(seen_ms, receipted_ms, alert_us, one_by_one_us)
    _tell_throughput(bursts, at_once_us, receipt_messages)
    _tell_cost(f"{IN_FLIGHT} in flight", bursts, at_once_us)
    _tell_cost("one at a time", single_bursts, one_by_one_us)


# --- sending ------------------------------------------------------------------------------------------------


async def _send_at_once(bench: _Bench, alerts: int) -> _Burst:
    """Keep IN_FLIGHT in flight until ``alerts`` are sent, then wait for the last receipt."""
    before, begun_s = _cpu_s(bench), time.perf_counter()
    left, in_flight, polls = alerts, 0, 0
    pressing: set[asyncio.Task[Any]] = set()
    async with asyncio.timeout(STALL_S + alerts), asyncio.TaskGroup() as tasks:
        while left or in_flight:
            for _ in range(min(left, IN_FLIGHT - in_flight)):
                task = tasks.create_task(bench.sender.submit(vehicle(bench.peer, next(bench.plates))))
                pressing.add(task)
                task.add_done_callback(pressing.discard)
                left, in_flight = left - 1, in_flight + 1
            await _changed(bench.sender_changes)
            # A press whose answer is under way may be counted twice: never more than IN_FLIGHT, rather less.
            in_flight = await bench.waiting() + len(pressing)
            polls += 1
    return _Burst(
        alerts=alerts, seconds=time.perf_counter() - begun_s, cpu_s=_since(bench, before), polls=polls
    )


async def _send_singly(bench: _Bench, alerts: int, seen_ms: list[float], receipted_ms: list[float]) -> _Burst:
    """One alert after another, each after the receipt of the one before and a short rest."""
    before, begun_s, polls = _cpu_s(bench), time.perf_counter(), 0
    for _ in range(alerts):
        await asyncio.sleep(SETTLE_S)
        _drain(bench.receiver_changes)
        _drain(bench.sender_changes)
        pressed_s = time.perf_counter()
        async with asyncio.timeout(STALL_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(bench.sender.submit(vehicle(bench.peer, next(bench.plates))))
            while await bench.receiver_changes.get() != "inbox":
                pass
            seen_ms.append((time.perf_counter() - pressed_s) * 1000)
        polls += await bench.until_receipted()
        receipted_ms.append((time.perf_counter() - pressed_s) * 1000)
    return _Burst(
        alerts=alerts, seconds=time.perf_counter() - begun_s, cpu_s=_since(bench, before), polls=polls
    )


def _drain(changes: "asyncio.Queue[str]") -> None:
    while not changes.empty():
        changes.get_nowait()


async def _check_all_delivered(bench: _Bench) -> None:
    """Every alert the outbox still lists (it lists the newest 500) has its receipt."""
    states = {row["state"] for row in await bench.sender.outbox()}
    assert states == {"delivered"}, states


async def _receipt_messages(bench: _Bench) -> list[int]:
    """How many messages the receiver sealed during each burst, from its published log: the receipts."""
    receiver = bench.ground.offices[1]
    await receiver.command("publish")
    sealed_us = [entry["ts"] for entry in entries_of(receiver.log) if entry["t"] == "msg.seal"]
    return [sum(begun <= at <= ended for at in sealed_us) for begun, ended in bench.windows_us]


# --- processor time -----------------------------------------------------------------------------------------


def _cpu_s(bench: _Bench) -> dict[str, float]:
    return {name: process_cpu_s(pid) for name, pid in bench.processes.items()}


def _since(bench: _Bench, before: Mapping[str, float]) -> dict[str, float]:
    return {name: spent - before[name] for name, spent in _cpu_s(bench).items()}


# --- telling ------------------------------------------------------------------------------------------------


def _tell_latency(
    seen_ms: Sequence[Sequence[float]],
    receipted_ms: Sequence[Sequence[float]],
    alert_us: Sequence[float],
    one_by_one_us: Sequence[float],
) -> None:
    for what, runs, bare_us, against in (
        ("pressed to seen", seen_ms, alert_us, "bare signing, sealing, opening and verifying of the alert"),
        ("pressed to receipted", receipted_ms, one_by_one_us, "the same and that of a receipt by itself"),
    ):
        for percent in (50, 99):
            values = [percentile(run, percent) for run in runs]
            figure(
                BENCH,
                f"{what}, one at a time, p{percent}",
                values,
                "ms",
                alerts=sum(map(len, runs)),
                **cost_ratio(values, [us / 1000 for us in bare_us], against=f"{against}, in ms"),
            )


_BARE = "bare cryptography of the same alerts and of their share of receipts, on one core"


def _tell_throughput(
    bursts: Sequence[_Burst], bare_us: Sequence[float], receipt_messages: Sequence[int]
) -> None:
    per_s = [burst.alerts / burst.seconds for burst in bursts]
    figure(
        BENCH,
        f"alerts, {IN_FLIGHT} in flight",
        per_s,
        "alerts/s",
        alerts=bursts[0].alerts,
        alerts_per_receipt=median(
            b.alerts / max(1, n) for b, n in zip(bursts, receipt_messages, strict=True)
        ),
        cores_busy=median(burst.core_seconds / burst.seconds for burst in bursts),
        **speed_ratio(per_s, [1e6 / us for us in bare_us], against=_BARE),
    )


def _tell_cost(way: str, bursts: Sequence[_Burst], bare_us: Sequence[float]) -> None:
    per_core_s = [burst.alerts / burst.core_seconds for burst in bursts]
    figure(
        BENCH,
        f"alerts per core-second, {way}",
        per_core_s,
        "alerts/core-s",
        alerts=bursts[0].alerts,
        status_pages=median(burst.polls for burst in bursts),
        **speed_ratio(per_core_s, [1e6 / us for us in bare_us], against=_BARE),
    )
    for name in bursts[0].cpu_s:
        per_alert_ms = [burst.cpu_s[name] / burst.alerts * 1000 for burst in bursts]
        figure(BENCH, f"processor time of the {name}, {way}", per_alert_ms, "ms of one core per alert")
