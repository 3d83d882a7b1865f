"""A photo over a slow line that is cut: how long, what it costs beside its own bytes, how often it resumes.

Two real offices and a real broker in the simulator, on virtual time: what an office's link to the broker
carries takes its time at 64 kbit/s, each way by itself and one thing after another, and the line is cut every
minute on the average. An exchange that is cut has cost what was carried of it until then: half of the cuts
lose the question, half the answer. Counted are bodies of requests and answers as they are on the wire,
without HTTP and TLS around them. An alert is sent in the middle of it, to see that it does not wait.
"""

import asyncio
import io
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from bench.report import line, progress
from keys.brokercard import BrokerCard
from keys.errors import Unavailable
from node.broker_link import BrokerClient, BrokerLink
from protocol.requests import Op, PartGet, PartPut
from tests.node.offices import Offices, an_alert, link_of
from tests.node.pictures import photos_of, send_with_photos
from tests.simulation.daemons import OfficeHost
from tests.simulation.world import World

BENCH = "photo"
BYTES_PER_S = 8_000.0  # 64 kbit/s
BETWEEN_CUTS_S = 60.0
LARGE_SIDE, SMALL_SIDE = 2_950, 300  # the worker makes 5 MiB of the first


def run(*, quick: bool) -> None:
    """One photo, with and without cuts."""
    for cuts in (False, True):
        _measure(SMALL_SIDE if quick else LARGE_SIDE, cuts=cuts)


@dataclass(slots=True)
class _Wire:
    """What one office's link has carried."""

    random: random.Random
    cuts: bool
    up_bytes: int = 0
    down_bytes: int = 0
    part_bytes: int = 0  # of photos, sent or asked for, whatever came of it
    broken: int = 0  # exchanges with a part that a cut or an alert ended
    turns: dict[str, asyncio.Lock] = field(
        default_factory=lambda: {"up_bytes": asyncio.Lock(), "down_bytes": asyncio.Lock()}
    )


def _slow(office: OfficeHost, wire: _Wire) -> None:
    """From now on what this office exchanges takes its time, and may be cut."""
    link: BrokerLink = link_of(office)
    client: BrokerClient = link.client
    honest_carry, honest_exchange = client._line.carry, client.exchange

    async def take_time(size: int, way: str) -> None:
        until_cut_s = wire.random.expovariate(1 / BETWEEN_CUTS_S) if wire.cuts else float("inf")
        seconds = size / BYTES_PER_S
        async with wire.turns[way]:
            begun = asyncio.get_running_loop().time()
            try:
                await asyncio.sleep(min(seconds, until_cut_s))
            finally:
                carried_s = asyncio.get_running_loop().time() - begun
                setattr(wire, way, getattr(wire, way) + int(carried_s * BYTES_PER_S))
        if until_cut_s < seconds:
            raise Unavailable("broker_lost", "The line was cut.")

    async def carry(card: BrokerCard, body: bytes, *, wait_ms: int) -> bytes:
        await take_time(len(body), "up_bytes")
        data = await honest_carry(card, body, wait_ms=wait_ms)
        await take_time(len(data), "down_bytes")
        return data

    async def exchange(ops: Sequence[Op]) -> Any:
        has_part = any(isinstance(op, PartPut | PartGet) for op in ops)
        wire.part_bytes += sum(len(op.data) for op in ops if isinstance(op, PartPut))
        try:
            return await honest_exchange(ops)
        except (Unavailable, asyncio.CancelledError):
            wire.broken += has_part
            raise

    client._line.carry = carry  # type: ignore[method-assign]
    client.exchange = exchange  # type: ignore[method-assign]


def _a_photo(side: int) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((side, side), 60).convert("RGB").save(file, "JPEG", quality=85)
    return file.getvalue()


def _measure(side: int, *, cuts: bool) -> None:
    wires = [_Wire(random=random.Random(seed), cuts=cuts) for seed in (1, 2)]
    facts: dict[str, float] = {}

    async def script(offices: Offices) -> None:
        _slow(offices.here, wires[0])
        _slow(offices.there, wires[1])
        clock = asyncio.get_running_loop()
        begun = clock.time()
        sent = await send_with_photos(offices.here, an_alert("KA-1"), _a_photo(side))
        assert sent.alert_id is not None
        while not await offices.there.inbox():  # noqa: ASYNC110 - the lists are what officers see
            await asyncio.sleep(0.5)
        facts["text_s"] = clock.time() - begun
        await asyncio.sleep(60)
        begun_second = clock.time()
        await offices.here.send(an_alert("KA-2"))
        while len(await offices.there.inbox()) < 2:  # noqa: ASYNC110 - the lists are what officers see
            await asyncio.sleep(0.5)
        facts["second_text_s"] = clock.time() - begun_second
        while (await photos_of(offices.there, sent.alert_id))[0].state == "coming":  # noqa: ASYNC110 - the lists are what officers see
            await asyncio.sleep(1)
        (view,) = await photos_of(offices.there, sent.alert_id)
        assert view.state == "whole", view
        facts["photo_s"] = clock.time() - begun
        facts["sealed_bytes"] = view.size_bytes + 65_536  # and its thumbnail

    with tempfile.TemporaryDirectory() as directory, World(seed=1, directory=Path(directory)) as world:
        offices = Offices(world)

        async def whole() -> None:
            await offices.make()
            await script(offices)

        progress(f"photo of {side} x {side}, {'with' if cuts else 'without'} cuts")
        world.run(whole())
    up, down = wires
    sealed = facts["sealed_bytes"]
    line(
        BENCH,
        "64 kbit/s, cut every minute" if cuts else "64 kbit/s",
        value=round(facts["photo_s"]),
        unit="s until whole",
        sealed_bytes=int(sealed),
        text_s=facts["text_s"],
        second_text_s=facts["second_text_s"],
        up_overhead=up.up_bytes / sealed - 1,
        down_overhead=down.down_bytes / sealed - 1,
        sent_again_bytes=int(up.part_bytes - sealed),
        resumed_up=up.broken,
        resumed_down=down.broken,
    )
