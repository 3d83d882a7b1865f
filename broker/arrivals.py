"""Waking long polls when an item has been committed, and handing it to them without another look.

Spec: docs/spec/broker.md#long-poll. One rule: a poll registers before it looks, so that an arrival between
looking and waiting cannot be missed. Mailboxes are known by the hash of their reading capability; one that
does not exist can be waited for like any other, because a poll must not tell the two apart.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator

from protocol import limits
from protocol.requests import ListedItem


class Listening:
    """One poll: what arrived for it since it registered."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.items: dict[bytes, list[ListedItem]] = {}
        self.overflowed = False  # more arrived than one answer can list
        self._count = 0

    def take(self, get_hash: bytes, item: ListedItem) -> None:
        """Note an arrival and wake the poll."""
        if self._count < limits.LISTED_PER_ANSWER_MAX:
            self._count += 1
            self.items.setdefault(get_hash, []).append(item)
        else:
            self.overflowed = True
        self.changed.set()


class Arrivals:
    """Who waits for which mailbox. Used from the event loop only."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, list[Listening]] = {}
        self._closed = False

    @contextlib.contextmanager
    def listening(self, get_hashes: Iterable[bytes]) -> Iterator[Listening]:
        """Register for the next arrival in any of the mailboxes."""
        poll = Listening()
        if self._closed:
            poll.changed.set()
        names = tuple(dict.fromkeys(get_hashes))
        for name in names:
            self._waiting.setdefault(name, []).append(poll)
        try:
            yield poll
        finally:
            for name in names:
                polls = self._waiting[name]
                polls.remove(poll)
                if not polls:
                    del self._waiting[name]

    def announce(self, get_hash: bytes, item: ListedItem) -> None:
        """A committed item: wake everyone who waits for its mailbox."""
        for poll in self._waiting.get(get_hash, ()):
            poll.take(get_hash, item)

    def close(self) -> None:
        """Let every poll answer now, and later ones at once: the broker is stopping."""
        self._closed = True
        for polls in self._waiting.values():
            for poll in polls:
                poll.changed.set()
