"""Tells screens that something changed, never what: the page asks again and gets what its session may see."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from runtime.env import Clock

EventKind = Literal["inbox", "outbox", "link", "pending", "lock"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskEvent:
    """One kind of list changed."""

    kind: EventKind
    at_ms: int


class _Reader:
    """What one reader has not read yet: one event of a kind, which says as much as ten."""

    def __init__(self) -> None:
        self._waiting: dict[EventKind, DeskEvent] = {}
        self._told = asyncio.Event()

    def tell(self, event: DeskEvent) -> None:
        self._waiting[event.kind] = event
        self._told.set()

    async def events(self) -> AsyncIterator[DeskEvent]:
        while True:
            await self._told.wait()
            self._told.clear()
            while self._waiting:
                yield self._waiting.pop(next(iter(self._waiting)))


class Events:
    """Hands each event to every subscriber; never waits for one. A slow reader loses repeats, never news."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._readers: list[_Reader] = []

    def tell(self, kind: EventKind) -> None:
        """Something of this kind changed."""
        event = DeskEvent(kind=kind, at_ms=self._clock.now_ms())
        for reader in self._readers:
            reader.tell(event)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[DeskEvent]]:
        """Events from now on."""
        reader = _Reader()
        self._readers.append(reader)
        try:
            yield reader.events()
        finally:
            self._readers.remove(reader)
