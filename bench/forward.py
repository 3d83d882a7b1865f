"""What a forwarding broker adds: from the press of the button to the inbox, through one broker or two.

Five processes: an office, its own broker, a partner there, another region's broker, a partner there. The
office reaches the other broker through its own, which hands the request on; each partner asks the broker of
its mailbox itself. The same alert goes to one partner and then to the other, and who is first takes turns
too. *Seen* is when the partner's open page is told that its inbox changed. A rest after each keeps within
what a forwarding token may ask: the wait of one that asks too much is no cost of the way.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median

from bench.end_to_end import SETTLE_S, STALL_S, LivePages, live, vehicle
from bench.measure import RECEIPTS_AT_ONCE, RUNS, percentile
from bench.report import cost_ratio, figure, progress
from demo.ceremony import pair
from demo.office import Office
from demo.region import connected, open_region
from demo.stage import Stage

BENCH = "forward"
_REST_S = 1.0  # an alert is about three requests, of which a token has 2 a second beyond its first 120
_OFFICES = (
    ("Myitkyina BLO", "MM", "myitkyina"),
    ("Tengchong BLO", "CN", "tengchong"),
    ("Mae Sai BLO", "TH", "maesai"),
)


def run(*, quick: bool) -> None:
    """Both ways by turns, in one world."""
    progress(f"{BENCH}: starting two brokers and three offices")
    asyncio.run(_run(alerts=4 if quick else 20, rest_s=0.0 if quick else _REST_S))


@dataclass(slots=True, kw_only=True)
class _Way:
    """One partner, and the stream of its open page."""

    peer: str
    changes: "asyncio.Queue[str]"


@dataclass(slots=True, kw_only=True)
class _Bench:
    sender: LivePages
    straight: _Way
    through: _Way
    plates: Iterator[int]
    check: Callable[[], None]

    async def seen_ms(self, way: _Way) -> float:
        """Press once; nothing of it is under way any more afterwards."""
        await asyncio.sleep(SETTLE_S)
        while not way.changes.empty():
            way.changes.get_nowait()
        pressed_s = time.perf_counter()
        async with asyncio.timeout(STALL_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(self.sender.submit(vehicle(way.peer, next(self.plates))))
            while await way.changes.get() != "inbox":
                pass
            seen_s = time.perf_counter()
        async with asyncio.timeout(STALL_S):
            while int((await self.sender.get("/status"))["outbox_waiting"]):  # noqa: ASYNC110 - a page is asked
                await asyncio.sleep(SETTLE_S)
        return (seen_s - pressed_s) * 1000


async def _run(*, alerts: int, rest_s: float) -> None:
    async with _opened() as bench:
        progress(f"{BENCH}: warming up")
        for way in (bench.straight, bench.through) * 3:
            await bench.seen_ms(way)
        straight_ms: list[list[float]] = []
        through_ms: list[list[float]] = []
        for number in range(RUNS):
            progress(f"{BENCH}: {number + 1} of {RUNS}")
            straight, through = list[float](), list[float]()
            turns = [(bench.straight, straight), (bench.through, through)]
            for _ in range(alerts):
                for way, times in turns:
                    times.append(await bench.seen_ms(way))
                turns.reverse()
                await asyncio.sleep(rest_s)
            straight_ms.append(straight)
            through_ms.append(through)
            bench.check()
    for percent in (50, 90):
        ours = [percentile(run, percent) for run in through_ms]
        others = [percentile(run, percent) for run in straight_ms]
        figure(
            BENCH,
            f"pressed to seen through our own broker, p{percent}",
            ours,
            "ms",
            alerts=RUNS * alerts,
            added_ms=median(our - other for our, other in zip(ours, others, strict=True)),
            **cost_ratio(ours, others, against="pressed to seen at our own broker"),
        )


@asynccontextmanager
async def _opened() -> AsyncIterator[_Bench]:
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(Stage.open())
        own, other = await asyncio.gather(open_region(stage, "own"), open_region(stage, "other"))
        here, near, far = offices = [Office(stage, *facts) for facts in _OFFICES]
        await asyncio.gather(*(o.init("Duty officer", "officer", RECEIPTS_AT_ONCE) for o in offices))
        await asyncio.gather(*(office.daemon.start() for office in offices))
        await own.hand_on("other", other)
        await own.carry(here, to=other, name="other")
        await pair(stage, here, near, own.address, await own.token())
        await pair(stage, here, far, other.address, await other.token())
        pages = [live(office) for office in offices]
        for one in pages:
            stack.push_async_callback(one.close)
            await one.login()
        sender, at_near, at_far = pages

        def check() -> None:
            assert here.daemon.pid is not None
            assert own.daemon.pid is not None
            assert other.port not in connected(here.daemon.pid), (
                "the office went straight to the other broker"
            )
            assert other.port in connected(own.daemon.pid), "nothing was handed on"

        peers = {row["name"]: row["office_id"] for row in await sender.get("/partners")}
        yield _Bench(
            sender=sender,
            straight=_Way(peer=peers[near.name], changes=await stack.enter_async_context(at_near.changes())),
            through=_Way(peer=peers[far.name], changes=await stack.enter_async_context(at_far.changes())),
            plates=itertools.count(1),
            check=check,
        )
