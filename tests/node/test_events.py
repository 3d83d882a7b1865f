"""What a screen is told when it reads more slowly than things happen."""

import asyncio

from node.events import EventKind, Events
from runtime.env import RealClock


def test_a_reader_that_falls_behind_loses_repeats_and_no_news() -> None:
    """One change of another kind, then a hundred arrivals before the page reads again."""

    async def read() -> list[EventKind]:
        events = Events(RealClock())
        async with events.subscribe() as stream:
            events.tell("lock")
            for _ in range(100):
                events.tell("inbox")
            return [(await anext(stream)).kind for _ in range(2)]

    assert asyncio.run(read()) == ["lock", "inbox"]
