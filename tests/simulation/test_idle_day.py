"""What a day costs on the line when nobody sends anything: polls, signs of life, and nothing else."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from node.broker_link import BrokerLink
from protocol.requests import List, Op, Result
from runtime.broker_line import EXCHANGE_TIMEOUT_S, POLL_WAIT_MS, SHORT_POLL_WAIT_MS
from tests.node.offices import Offices, an_alert, link_of, play, settled
from tests.simulation.meter import Meter

HOURS = 2
# docs/benchmarks.md says what was aimed at.
POLL_BYTES_MAX = 1_638  # 1.6 KB
DAY_BYTES_MAX = 2_500_000


def test_an_idle_office_costs_little(tmp_path: Path) -> None:
    """Both directions of one office: each poll, and a day of polls, heartbeats and witnessing."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        meter = Meter(offices)
        await asyncio.sleep(HOURS * 3600)
        assert set(meter.carried) == {"myitkyina", "tengchong"}
        for size_bytes in meter.carried.values():
            assert size_bytes * 24 // HOURS <= DAY_BYTES_MAX, meter.carried
        assert 1_280 + 128 < meter.poll_bytes() <= POLL_BYTES_MAX

    play(tmp_path, script)


async def _offline_s(link: BrokerLink, at_most_s: int) -> int:
    """After how many seconds the screens say that the link is down."""
    for second in range(at_most_s):
        if link.view.state != "online":
            return second
        await asyncio.sleep(1)
    raise AssertionError("nobody noticed")


def test_a_dead_line_is_noticed_and_one_that_is_cut_gets_shorter_polls(tmp_path: Path) -> None:
    """What says nothing is seen after a minute, not when the poll ends.

    Where something on the way ends what takes a minute, whatever is said meanwhile, polls take less.
    """
    assert POLL_WAIT_MS > 1.5 * EXCHANGE_TIMEOUT_S * 1000

    async def script(offices: Offices) -> None:
        await settled(offices)
        link = link_of(offices.here)
        network = offices.world.network
        for held_s in (5, 60):
            link.reread()
            await asyncio.sleep(held_s)
            assert link.view.state == "online"
            network.cut("myitkyina", "broker")
            assert await _offline_s(link, 200) <= EXCHANGE_TIMEOUT_S + 1
            network.heal()
            await asyncio.sleep(2.5 * POLL_WAIT_MS / 1000)
            assert link.view.state == "online"

        honest = link.client.exchange
        waits: list[int] = []

        async def exchange(ops: Sequence[Op]) -> tuple[Result, ...]:
            wait_ms = max((op.wait_ms for op in ops if isinstance(op, List)), default=0)
            if not wait_ms:
                return await honest(ops)
            waits.append(wait_ms)
            cut_s = SHORT_POLL_WAIT_MS / 1000 + 15
            ends = ("myitkyina", "broker")
            cutter = asyncio.get_running_loop().call_later(cut_s, network.reset_connections, *ends)
            try:
                return await honest(ops)
            finally:
                cutter.cancel()

        link.client.exchange = exchange  # type: ignore[method-assign]
        link.reread()
        await asyncio.sleep(600)
        assert waits[:2] == [POLL_WAIT_MS] * 2
        assert set(waits[2:]) == {SHORT_POLL_WAIT_MS}
        assert link.view.state == "online"
        assert len(waits) > 8
        await offices.there.log_in()
        await offices.there.send(an_alert("YN-1"))
        await asyncio.sleep(5)
        await offices.here.log_in()
        assert len(await offices.here.inbox()) == 1

    play(tmp_path, script)
