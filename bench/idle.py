"""Bytes on the line when nobody sends anything, and what cover adds: two real offices in the simulator.

On virtual time, so no load of the machine is in it. Counted are all bytes of one office's connections, both
ways, with what TLS adds to each write; not TCP and IP below.
"""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.report import line, progress
from node.cover import EXAMPLE_MEAN_S, day_bytes
from tests.node.offices import Offices, play, settled
from tests.simulation.meter import Meter, cost_of_cover

BENCH = "idle"
UNIT = "bytes both ways"
HOURS, QUICK_HOURS = 24, 2
GOAL_POLL_BYTES, GOAL_DAY_BYTES = 1_638, 3_000_000


def run(*, quick: bool) -> None:
    """A day of an idle pair; one message of cover, and a day of it."""
    hours = QUICK_HOURS if quick else HOURS

    async def idle(offices: Offices) -> None:
        await settled(offices)
        meter = Meter(offices)
        await asyncio.sleep(hours * 3600)
        _against(GOAL_POLL_BYTES, "empty poll", meter.poll_bytes(), hours)
        _against(GOAL_DAY_BYTES, "day of an idle pair, one office", _day(meter, hours), hours)

    async def cover(offices: Offices) -> None:
        await settled(offices)
        meter = Meter(offices)
        sent, taken = await cost_of_cover(offices, meter)
        line(BENCH, "one message of cover, sender", value=sent, unit=UNIT)
        line(BENCH, "one message of cover, recipient", value=taken, unit=UNIT)
        meter.clear()
        await asyncio.sleep(hours * 3600)
        said = sum(day_bytes(EXAMPLE_MEAN_S))
        case = f"day of a pair with cover every {EXAMPLE_MEAN_S} s, one office"
        line(BENCH, case, value=_day(meter, hours), unit=UNIT, hours=hours, doctor_says=said)

    _play("an idle pair", idle)
    os.environ["SALWEEN_NODE_COVER_MEAN_S"] = str(EXAMPLE_MEAN_S)
    try:
        _play("a pair that sends cover", cover)
    finally:
        del os.environ["SALWEEN_NODE_COVER_MEAN_S"]


def _day(meter: Meter, hours: int) -> int:
    return max(meter.carried.values()) * 24 // hours


def _against(goal: int, case: str, value: int, hours: int) -> None:
    line(BENCH, case, value=value, unit=UNIT, hours=hours, goal_max=goal, reached=value <= goal)


def _play(what: str, script: Callable[[Offices], Awaitable[None]]) -> None:
    progress(f"{BENCH}: {what}")
    with tempfile.TemporaryDirectory() as directory:
        play(Path(directory), script)
