"""Joins the outbox and the inbox to the links: which ops leave together, and who hears their results.

One rule: deletions ride before puts, so that a broker whose mailbox is full makes room first.
"""

from collections.abc import Callable, Sequence

from keys.brokercard import BrokerCard, parse_broker_card_untrusted
from node.broker_link import Arrival, Batch, Mailbox, Part
from node.inbox import Inbox
from node.mailboxes import Mailboxes
from node.outbox import Outbox, Row
from node.photos import Photos
from protocol.requests import Result
from runtime.sqlite import Database

DELETIONS_PER_REQUEST_MAX = 96


class NodeTraffic:
    """See broker_link.Traffic."""

    def __init__(
        self,
        db: Database,
        outbox: Outbox,
        inbox: Inbox,
        mailboxes: Mailboxes,
        photos: Photos,
        *,
        link_changed: Callable[[], None],
    ) -> None:
        self._db = db
        self._outbox = outbox
        self._inbox = inbox
        self._mailboxes = mailboxes
        self._photos = photos
        self._tell_link_changed = link_changed
        self._cards: dict[str, BrokerCard] = {}

    async def due(self, address: str, *, ops_max: int, bytes_max: int) -> Batch:
        """Deletions first, then puts and questions."""
        deletions = await self._inbox.deletions(address, min(ops_max, DELETIONS_PER_REQUEST_MAX))
        sends = await self._outbox.due(address, ops_max=ops_max - len(deletions.ops), bytes_max=bytes_max)
        return Batch(ops=deletions.ops + sends.ops, marks=deletions.marks + sends.marks)

    async def next_due_ms(self, address: str) -> int | None:
        """When the outbox' next timer fires."""
        return await self._outbox.next_due_ms(address)

    async def settle(self, address: str, batch: Batch, results: Sequence[Result]) -> None:
        """Each half records its own results."""
        rows = [mark for mark in batch.marks if isinstance(mark, Row)]
        split = len(batch.ops) - len(rows)
        if split:
            told = Batch(ops=batch.ops[:split], marks=batch.marks[:split])
            await self._inbox.settle_deletions(address, told, results[:split])
        if rows:
            await self._outbox.settle(rows, batch.ops[split:], results[split:], await self._card(address))

    def abandon(self, batch: Batch) -> None:
        """What was under way and got no result is due again."""
        self._outbox.release([mark for mark in batch.marks if isinstance(mark, Row)])

    async def next_part(self, address: str, most_bytes: int) -> Part | None:
        """A part of a photo, when nothing else is due."""
        return await self._photos.next_part(address, most_bytes)

    async def next_part_due_ms(self, address: str) -> int | None:
        """When one is due again."""
        return await self._photos.next_due_ms(address)

    async def settle_part(self, address: str, work: Part, results: Sequence[Result]) -> None:
        """What came of it."""
        await self._photos.settle_part(address, work, results)

    def release_part(self, work: Part) -> None:
        """It is no longer under way."""
        self._photos.release(work)

    async def mailboxes(self, address: str) -> Sequence[Mailbox]:
        """Our mailboxes there."""
        return await self._mailboxes.readable(address)

    async def arrived(self, arrivals: Sequence[Arrival]) -> bool:
        """Take envelopes in; whether any was new."""
        return await self._inbox.arrived(arrivals)

    def link_changed(self) -> None:
        """Screens want to know."""
        self._tell_link_changed()

    async def _card(self, address: str) -> BrokerCard:
        if address not in self._cards:
            card = await self._db.read(
                lambda tx: tx.value("SELECT card FROM broker WHERE address = ?", (address,))
            )
            self._cards[address] = parse_broker_card_untrusted(card)
        return self._cards[address]
