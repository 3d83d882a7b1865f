"""Tells screens that something changed, never what: the page asks again and gets what its session may see."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from runtime.env import Clock

EventKind = Literal["inbox", "outbox", "link", "pending", "lock"]
QUEUE_MAX = 16  # a reader that falls behind loses repeats, not news: one event of a kind says as much as ten


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskEvent:
    """One kind of list changed."""

    kind: EventKind
    at_ms: int


class Events:
    """Hands each event to every subscriber; never waits for one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queues: dict[int, asyncio.Queue[DeskEvent]] = {}
        self._next = 0

    def tell(self, kind: EventKind) -> None:
        """Something of this kind changed."""
        event = DeskEvent(kind=kind, at_ms=self._clock.now_ms())
        for queue in self._queues.values():
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[DeskEvent]]:
        """Events from now on."""
        number = self._next
        self._next += 1
        queue: asyncio.Queue[DeskEvent] = asyncio.Queue(QUEUE_MAX)
        self._queues[number] = queue

        async def stream() -> AsyncIterator[DeskEvent]:
            while True:
                yield await queue.get()

        try:
            yield stream()
        finally:
            del self._queues[number]
