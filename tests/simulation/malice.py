"""A broker that lies, and a paired office that lies: what they do beyond breaking down.

The malicious broker is the real one with its answers altered just before they are sealed, so that whatever it
invents still comes from the right machine. It can do what anyone can who runs a broker: drop, delay, replay,
reorder, flip bits, hand one office what was meant for another, deny and claim. It cannot open an envelope.

The malicious peer is a real node whose own database is told to say false things, signed with its own keys.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from broker.daemon import Broker
from broker.store.base import CarriedOut, Order
from protocol.custody import Custody
from protocol.requests import HeldAnswer, List, Listed, ListedItem, OpRefused, Put, Result

TRICKS: Final = (
    "swallow",  # F41: custody is given, the item never listed
    "delay",  # F41: items are listed late
    "replay",  # F42: what was deleted long ago is listed again
    "reorder",  # F43
    "flip",  # F44
    "swap",  # F45: one office's items are listed to the other
    "forge",  # F46: custody that no key of the broker signed, or about other bytes
    "deny",  # refuses puts: gone, quota, busy
    "claim",  # F46: says that it still holds what it dropped
)


class MaliciousStore:
    """Stands before the real store and alters what it says. ``tricks`` in force now; empty is honest."""

    def __init__(self, inner: Any, choices: random.Random) -> None:
        self._inner = inner
        self._choices = choices
        self.tricks: tuple[str, ...] = ()
        self.played: dict[str, int] = {}
        self._swallowed: dict[bytes, None] = {}
        self._seen: list[ListedItem] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def carry_out(self, orders: Sequence[Order], *, bytes_max: int) -> CarriedOut:
        """See Store."""
        carried: CarriedOut = await self._inner.carry_out(orders, bytes_max=bytes_max)
        results = [self._alter(order, result) for order, result in zip(orders, carried.results, strict=True)]
        return replace(carried, results=tuple(results))

    def _plays(self, trick: str, chance: float = 0.5) -> bool:
        if trick not in self.tricks or self._choices.random() >= chance:
            return False
        self.played[trick] = self.played.get(trick, 0) + 1
        return True

    def _alter(self, order: Order, result: Result) -> Result:
        match result:
            case Custody() if isinstance(order.op, Put):
                if self._plays("deny", 0.4):
                    return OpRefused(code=self._choices.choice(("gone", "quota", "busy")))
                if self._plays("swallow"):
                    self._swallowed[order.content_hash] = None
                if self._plays("forge", 0.3):
                    return replace(result, time_ms=result.time_ms + 1, log_index=2**62)
            case HeldAnswer(held=False) if self._plays("claim"):
                return HeldAnswer(held=True)
            case Listed() if isinstance(order.op, List):
                return self._listed(result)
        return result

    def _listed(self, listed: Listed) -> Listed:
        items = [item for item in listed.items if item.envelope_hash not in self._swallowed]
        if items and self._plays("delay"):
            return replace(listed, items=(), more=False)
        for item in items:
            if item.envelope is not None and len(self._seen) < 500:
                self._seen.append(item)
        cursor = listed.items[-1].cursor if listed.items else 0
        extra: list[ListedItem] = []
        if items and self._seen and (self._plays("replay") or self._plays("swap")):
            # Envelopes of either direction: of long ago, or of the other office.
            extra = [replace(self._choices.choice(self._seen), cursor=cursor) for _ in range(3)]
        if items and self._plays("flip"):
            broken = self._choices.choice(items)
            if broken.envelope is not None:
                data = bytearray(broken.envelope)
                data[self._choices.randrange(len(data))] ^= 1 << self._choices.randrange(8)
                extra.append(replace(broken, envelope=bytes(data), cursor=cursor))
        if len(items) > 1 and self._plays("reorder", 0.8):
            cursors = [item.cursor for item in items]
            self._choices.shuffle(items)
            items = [replace(item, cursor=at) for item, at in zip(items, cursors, strict=True)]
        return replace(listed, items=tuple([*extra, *items]))


def corrupt(broker: Broker, choices: random.Random) -> MaliciousStore:
    """Put the liar in front of a running broker's store, until it is started again."""
    exchange: Any = broker._exchange
    liar = MaliciousStore(exchange._store, choices)
    exchange._store = liar
    return liar


