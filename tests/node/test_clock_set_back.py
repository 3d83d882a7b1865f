"""A clock that stood far ahead and was set back: nothing waits for the time it had shown (I19)."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from protocol import limits
from protocol.requests import Listed, Op, OpRefused, Put, Result
from tests.node.offices import Offices, alter_answers, an_alert, count, play, read

AHEAD_MS = 6 * limits.HOUR_MS


def test_a_retry_time_of_a_clock_since_set_back_is_not_waited_for(tmp_path: Path) -> None:
    """Found by a schedule: an item whose next try lay an hour ahead, and could have lain a year ahead."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await asyncio.sleep(120)
        is_busy = True

        def busy(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            pairs = zip(ops, results, strict=True)
            return [OpRefused(code="busy") if is_busy and isinstance(op, Put) else r for op, r in pairs]

        alter_answers(here, busy)
        here.host.step_clock(AHEAD_MS)
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(30)
        is_busy = False
        here.host.step_clock(-AHEAD_MS)
        due_ms = await read(here, lambda tx: tx.value("SELECT max(next_at_ms) FROM delivery"))
        assert due_ms > here.now_ms() + AHEAD_MS // 2, "the next try is dated by the clock that was wrong"
        await asyncio.sleep(1200)
        assert await count(here, "delivery", "phase = 'kept'") == 0

    play(tmp_path, script)


def test_silence_is_shown_in_time_although_the_last_proof_is_dated_ahead(tmp_path: Path) -> None:
    """Found by a schedule (I18): two heartbeats were counted from a time that had not come yet."""

    async def script(offices: Offices) -> None:
        there = offices.there
        there.host.step_clock(AHEAD_MS)
        offices.here.host.step_clock(AHEAD_MS)
        await offices.here.send(an_alert("KA-1"))
        await asyncio.sleep(3700)
        there.host.step_clock(-AHEAD_MS)
        await asyncio.sleep(120)

        def withholds(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            return [replace(r, items=()) if isinstance(r, Listed) else r for r in results]

        alter_answers(there, withholds)
        await asyncio.sleep(2 * 3600 + 600)
        await there.log_in()
        (peer,) = await there.peers()
        assert peer.no_proof_since_ms is not None

    play(tmp_path, script)
