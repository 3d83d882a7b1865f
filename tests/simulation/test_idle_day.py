"""What a day costs on the line when nobody sends anything: polls, signs of life, and nothing else."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from tests.node.offices import Offices, play, settled
from tests.simulation.network import VirtualTransport

HOURS = 2
# Without TLS, which adds about 29 bytes to each write. docs/benchmarks.md says what was aimed at.
POLL_BYTES_MAX = 1_850
DAY_BYTES_MAX = 4_200_000


def test_an_idle_office_costs_little(tmp_path: Path) -> None:
    """Both directions of one office: each poll, and a day of polls, heartbeats and witnessing."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        carried: Counter[str] = Counter()
        writes: Counter[tuple[str, int]] = Counter()
        network = offices.world.network
        send = network.send

        def noted(sender: VirtualTransport, item: Any) -> None:
            if isinstance(item, bytes):
                ends = {sender.owner.name, sender.peer.owner.name} - {"broker"}
                for office in ends:
                    carried[office] += len(item)
                    writes[("up" if sender.owner.name == office else "down", len(item))] += 1
            send(sender, item)

        network.send = noted  # type: ignore[method-assign]
        await asyncio.sleep(HOURS * 3600)
        assert set(carried) == {"myitkyina", "tengchong"}
        for size_bytes in carried.values():
            assert size_bytes * 24 // HOURS <= DAY_BYTES_MAX, carried
        # What is said most often is the poll and the empty answer to it.
        poll = sum(
            max((count, size) for (way, size), count in writes.items() if way == direction)[1]
            for direction in ("up", "down")
        )
        assert 1_280 + 256 < poll <= POLL_BYTES_MAX

    play(tmp_path, script)
