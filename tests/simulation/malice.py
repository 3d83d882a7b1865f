"""A broker that lies, and a paired office that lies: what they do beyond breaking down.

The malicious broker is the real one with its answers altered just before they are sealed, so that whatever it
invents still comes from the right machine. It can do what anyone can who runs a broker: drop, delay, replay,
reorder, flip bits, hand one office what was meant for another, deny and claim. It cannot open an envelope.

The malicious peer is a real node whose own database is told to say false things, signed with its own keys.
"""

import contextlib
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from broker.daemon import Broker
from broker.store.base import CarriedOut
from keys.errors import SalweenError
from node.outbox import ToSend
from node.peers import load_peers, save_peer
from protocol import limits, wire
from protocol.custody import Custody
from protocol.envelope import envelope_hash
from protocol.items import (
    Acknowledgement,
    Item,
    KeyAnnouncement,
    OfficerListItem,
    ReceivedRange,
    UnknownItem,
)
from protocol.message import MessageType
from protocol.receipts import Receipt, ReceiptState, encode_receipts
from protocol.requests import Held, HeldAnswer, List, Listed, ListedItem, Op, OpRefused, Put, Result
from runtime.sqlite import Transaction
from tests.simulation.daemons import OfficeHost

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


class MaliciousBroker:
    """Alters what the real broker says, whether it knew at once or after a wait. ``tricks`` in force now."""

    def __init__(self, exchange: Any, choices: random.Random) -> None:
        self._honest = exchange._carry_out
        self._choices = choices
        self.tricks: tuple[str, ...] = ()
        self.withholds = False  # F41, I18: it takes everything and lists nothing to anybody
        self.played: dict[str, int] = {}
        self._swallowed: dict[bytes, None] = {}
        self._seen: list[ListedItem] = []

    async def carry_out(self, ops: Sequence[Op]) -> CarriedOut:
        """What the exchange asks instead of its own."""
        carried: CarriedOut = await self._honest(ops)
        results = [self._alter(op, result) for op, result in zip(ops, carried.results, strict=True)]
        return replace(carried, results=tuple(results))

    def _plays(self, trick: str, chance: float = 0.5) -> bool:
        if trick not in self.tricks or self._choices.random() >= chance:
            return False
        self.played[trick] = self.played.get(trick, 0) + 1
        return True

    def _alter(self, op: Op, result: Result) -> Result:
        match result:
            case Custody() if isinstance(op, Put):
                if self._plays("deny", 0.4):
                    return OpRefused(code=self._choices.choice(("gone", "quota", "busy")))
                if self._plays("swallow"):
                    self._swallowed[envelope_hash(op.envelope)] = None
                if self._plays("forge", 0.3):
                    return replace(result, time_ms=result.time_ms + 1, log_index=2**62)
            case HeldAnswer() if isinstance(op, Held):
                dropped = op.envelope_hash in self._swallowed
                return HeldAnswer(held=(result.held and not dropped) or self._plays("claim"))
            case Listed() if isinstance(op, List):
                return self._listed(result)
        return result

    def _listed(self, listed: Listed) -> Listed:
        if self.withholds:
            return replace(listed, items=(), more=False)
        items = [item for item in listed.items if item.envelope_hash not in self._swallowed]
        if items and self._plays("delay"):
            return replace(listed, items=(), more=False)
        for item in items:
            if item.envelope is not None and len(self._seen) < 500:
                self._seen.append(item)
        extra: list[ListedItem] = []
        if items and self._seen and (self._plays("replay") or self._plays("swap")):
            # Envelopes of either direction: of long ago, or of the other office. Numbers of a list must rise.
            last = listed.items[-1].cursor
            extra = [replace(self._choices.choice(self._seen), cursor=last + at) for at in range(1, 4)]
        shown = [(at, item.envelope) for at, item in enumerate(items) if item.envelope is not None]
        if shown and self._plays("flip"):
            at, envelope = self._choices.choice(shown)
            data = bytearray(envelope)
            data[self._choices.randrange(len(data))] ^= 1 << self._choices.randrange(8)
            # Under the hash of what it is now: under another the link itself would refuse it.
            items[at] = replace(items[at], envelope=bytes(data), envelope_hash=envelope_hash(bytes(data)))
        if len(items) > 1 and self._plays("reorder", 0.8):
            cursors = [item.cursor for item in items]
            self._choices.shuffle(items)
            items = [replace(item, cursor=at) for item, at in zip(items, cursors, strict=True)]
        return replace(listed, items=(*items, *extra))


LIES: Final = (
    "false_receipts",  # F56: about deliveries nobody made
    "future_ack",  # F56: acknowledges numbers nobody gave out
    "seq_jump",  # F54
    "flood",  # F55
    "unusable_key",  # F58: announces a key nothing can be sealed to
    "equivocate",  # F53: another message under a number that is taken
    "critical_item",  # F52: authentic, and not to be understood
    "attachment",  # F57: of a version that knows them, as large as an envelope takes
    "wrong_clock",
)


async def tell_a_lie(office: OfficeHost, lie: str, choices: random.Random) -> None:
    """A paired office signs something false, with its own keys and from its own database."""
    node = office.node
    if node is None:
        return
    if lie == "wrong_clock":
        office.host.step_clock(choices.choice((-1, 1)) * 10 * 365 * limits.DAY_MS)
        return
    outbox = node._outbox
    until_ms = office.now_ms() + limits.DAY_MS

    def record(tx: Transaction) -> None:
        for peer in load_peers(tx):
            out = peer.pair.outbound
            items: list[Item] = []
            match lie:
                case "false_receipts":
                    said = [
                        Receipt(
                            alert_id=choices.randbytes(32),
                            hh=choices.randbytes(32),
                            state=choices.choice((ReceiptState.DELIVERED, ReceiptState.OPENED)),
                            at_ms=1,
                            log_index=2**40,
                        )
                        for _ in range(50)
                    ]
                    message = ToSend(
                        type=MessageType.RECEIPT, core=encode_receipts(said), expires_ms=until_ms
                    )
                    outbox.compose(tx, peer, message)
                case "future_ack":
                    claim = ReceivedRange(instance=peer.pair.inbound.instance, contiguous_to=2**40, bitmap=0)
                    items = [
                        Acknowledgement(key_version=1, instance=out.instance, ranges=(claim,)),
                    ]
                case "seq_jump":
                    jumped = replace(
                        out, next_seq=out.next_seq + 2**40, acknowledged_to=out.next_seq + 2**40 - 1
                    )
                    peer.pair = replace(peer.pair, outbound=jumped)
                    outbox.compose_control(tx, peer, [], service=False)
                    peer.pair = replace(peer.pair, outbound=out)
                case "flood":
                    for _ in range(40):
                        outbox.compose_control(
                            tx, peer, [OfficerListItem(officer_list=choices.randbytes(500))], service=False
                        )
                case "unusable_key":
                    items = [
                        KeyAnnouncement(
                            key_version=1, rk_gen=10_000, key_id=choices.randbytes(8), public=b"\xff" * 1216
                        )
                    ]
                case "equivocate" if out.next_seq > 1:
                    tx.execute(
                        "DELETE FROM delivery WHERE peer = ? AND instance = ? AND pair_seq = ?",
                        (peer.office_id, out.instance, out.next_seq - 1),
                    )
                    peer.pair = replace(peer.pair, outbound=replace(out, next_seq=out.next_seq - 1))
                    outbox.compose_control(tx, peer, [], service=False)
                case "critical_item":
                    items = [UnknownItem(k="!later", encoded=wire.encode({"k": "!later", "x": 1}))]
                case "attachment":
                    bomb: wire.Value = {"k": "!attachment", "b": bytes(limits.ITEM_BYTES_MAX)}
                    items = [UnknownItem(k="!attachment", encoded=wire.encode(bomb))]
                case _:
                    pass
            if items:
                outbox.compose_control(tx, peer, items, service=False)
            save_peer(tx, peer)

    # What its own program refuses to say, it does not say.
    with contextlib.suppress(SalweenError):
        await office.host.run(lambda env: node.database.transact(record))


def corrupt(broker: Broker, choices: random.Random) -> MaliciousBroker:
    """Put the liar between a running broker and its own door, until it is started again."""
    exchange: Any = broker._exchange
    liar = MaliciousBroker(exchange, choices)
    exchange._carry_out = liar.carry_out
    return liar
