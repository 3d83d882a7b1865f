"""kill -9 of anybody at any moment, on real processes: nothing is lost, nothing is doubled (I1, I2).

SALWEEN_KILLS says how many kills, SALWEEN_SEED which ones: ``make kills KILLS=1000 SEED=7`` runs a longer
campaign of the same test, KILLS_PER_WORLD to a fresh copy. The seed decides who is killed when; what the
processes were doing then is theirs, so a seed names a campaign and does not replay it.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from demo.office import Form, PageRefused, Pages, PagesGone
from tests.scenarios.world import World, delivered, entity

KILLS = int(os.environ.get("SALWEEN_KILLS", "10"))
SEED = int(os.environ.get("SALWEEN_SEED", "1"))
KILLS_PER_WORLD = 10
ALERTS_PER_KILL_MAX = 40  # the pages list the newest 500
WRITERS = 8


class Officer:
    """An officer who keeps writing; what was confirmed, and what never got an answer."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._plates: Iterator[str] = (f"{seed}-{number:05d}" for number in range(10**5))
        self._pages: Pages | None = None
        self._logging_in = asyncio.Lock()
        self._paper = asyncio.Semaphore(0)
        self.confirmed: dict[str, Form] = {}
        self.unanswered: dict[str, Form] = {}  # by plate

    def hand_out(self, sheets: int) -> None:
        """Let so many more alerts be written."""
        for _ in range(sheets):
            self._paper.release()

    async def write_for_ever(self) -> None:
        while True:
            await self._paper.acquire()
            form = self._world.form(next(self._plates))
            pages = await self._logged_in()
            try:
                answer = await pages.submit(form)
            except PagesGone:
                self.unanswered[str(form["vehicle.plate"])] = form
                await self._leave(pages)
            except PageRefused as refused:
                if refused.word != "session_ended":  # the node was started again: nothing was kept
                    raise
                await self._leave(pages)
            else:
                self.confirmed[answer["alert_id"]] = form

    async def _logged_in(self) -> Pages:
        async with self._logging_in:
            while self._pages is None:
                try:
                    self._pages = await self._world.sender.pages()
                except PagesGone:
                    await asyncio.sleep(0.05)
            return self._pages

    async def _leave(self, pages: Pages) -> None:
        async with self._logging_in:
            if self._pages is pages:
                self._pages = None


@pytest.mark.scenario
@pytest.mark.parametrize("campaign", range(-(-KILLS // KILLS_PER_WORLD)))
async def test_killed_at_random_moments_nothing_is_lost_or_doubled(world: World, campaign: int) -> None:
    """Officers write without pause while broker, sender and receiver are killed and started again.

    Every alert whose sending was confirmed is shown at the other office, once, as it was typed; one that got
    no answer is there once or not at all, and then the sender's outbox says the same.
    """
    chance = random.Random(SEED + campaign)
    officer = Officer(world, SEED + campaign)
    await world.start()
    writers = [asyncio.create_task(officer.write_for_ever()) for _ in range(WRITERS)]
    for _ in range(min(KILLS, KILLS_PER_WORLD)):
        officer.hand_out(ALERTS_PER_KILL_MAX)
        await asyncio.sleep(chance.uniform(0.0, 0.6))
        daemon = chance.choice(world.daemons)
        await daemon.kill()
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        await daemon.start()
        for writer in writers:
            assert not writer.done(), writer.exception()
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)

    at_sender, at_receiver = await world.sender.pages(), await world.receiver.pages()
    outbox = await delivered(at_sender, len(officer.confirmed))
    shown = Counter(row["alert_id"] for row in await at_receiver.inbox())
    assert shown == Counter(row["alert_id"] for row in outbox), "both offices show the same, each once"
    lost = set(officer.confirmed) - set(shown)
    assert not lost, f"{len(lost)} confirmed alerts are lost, the first: {sorted(lost)[:1]}"
    opened = await asyncio.gather(*(at_receiver.open(alert_id) for alert_id in shown))
    plates = Counter(entity(view, "plate") for view in opened)
    assert max(plates.values()) == 1, "nothing is doubled"
    confirmed = {str(form["vehicle.plate"]) for form in officer.confirmed.values()}
    assert confirmed <= set(plates) <= confirmed | set(officer.unanswered), "as they were typed"
    assert all(not daemon.ended_alone for daemon in world.daemons), "nobody ended but by a kill"
