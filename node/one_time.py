"""One-time keys of each pair inside a transaction: offered, used, opened with, gone.

Spec: docs/spec/conversation.md#one-time-keys. One rule: a key of the peer is marked used in the transaction
that keeps the envelope sealed to it, and ours are forgotten in the one that takes the alert in.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from node.peers import Peer
from protocol import limits
from protocol.conversation import PairState
from protocol.delivery import DeliveryState
from protocol.items import Item, OneTimeOffer, OneTimeUnused
from protocol.message import MessageType
from protocol.onetime import (
    NO_ONE_TIME_KEYS,
    NOTHING_OFFERED,
    OfferedKeys,
    OneTimeKeys,
    adopt_offer,
    after_alert,
    after_offer_acknowledged,
    after_offered,
    after_unused_said,
    after_unused_stated,
    close_retired,
    fits_company,
    offer,
    offer_due_ms,
    take_one,
    unused,
    wanted_count,
    without_keys,
)
from protocol.sealing import Verified
from runtime.sqlite import Snapshot, Transaction


class FreshKeys(Protocol):
    """Where keys come from whose seeds are durable and that no peer knows yet."""

    def one_time_ready(self, peer_id: bytes) -> Sequence[tuple[bytes, bytes]]:
        """(id, public) of each."""

    def one_time_taken(self, tx: Transaction, peer_id: bytes, key_ids: Sequence[bytes]) -> None:
        """These are announced once this transaction is committed."""


# --- rows ---------------------------------------------------------------------------------------------------


def load_own(tx: Snapshot, peer_id: bytes) -> OneTimeKeys:
    """Our keys for one peer."""
    row = tx.one("SELECT keys FROM one_time_own WHERE peer = ?", (peer_id,))
    return NO_ONE_TIME_KEYS if row is None else OneTimeKeys.decode(row[0])


def is_gone(tx: Snapshot, peer_id: bytes, key_id: bytes) -> bool:
    """Whether this was a one-time key of ours within the memory of rule 7."""
    return bool(tx.execute("SELECT 1 FROM one_time_gone WHERE peer = ? AND key_id = ?", (peer_id, key_id)))


def _save_own(tx: Transaction, peer_id: bytes, before: OneTimeKeys, keys: OneTimeKeys) -> None:
    if keys != before:
        tx.execute("INSERT OR REPLACE INTO one_time_own (peer, keys) VALUES (?, ?)", (peer_id, keys.encode()))


def _load_offered(tx: Snapshot, peer_id: bytes) -> OfferedKeys:
    row = tx.one("SELECT keys FROM one_time_offered WHERE peer = ?", (peer_id,))
    return NOTHING_OFFERED if row is None else OfferedKeys.decode(row[0])


def _save_offered(tx: Transaction, peer_id: bytes, before: OfferedKeys, keys: OfferedKeys) -> None:
    if keys != before:
        tx.execute(
            "INSERT OR REPLACE INTO one_time_offered (peer, keys) VALUES (?, ?)", (peer_id, keys.encode())
        )


# --- sending ------------------------------------------------------------------------------------------------


def key_for_alert(tx: Transaction, peer: Peer) -> tuple[bytes, bytes]:
    """(id, public) to seal one alert to: an unused one-time key, else the newest receive key."""
    newest = peer.peer_key.announcement
    before = _load_offered(tx, peer.office_id)
    left, taken = take_one(before, newest.key_version)
    if taken is None:
        return newest.key_id, newest.public
    _save_offered(tx, peer.office_id, before, left)
    return taken.key_id, taken.public


def wanted(tx: Snapshot, peer: Peer, now_ms: int) -> int:
    """How many fresh keys should be ready before something is sent to this peer."""
    return wanted_count(load_own(tx, peer.office_id), peer_instance=peer.pair.inbound.instance, now_ms=now_ms)


def is_offer_due(tx: Snapshot, peer: Peer, now_ms: int) -> bool:
    """Whether a control message should bring this peer fresh keys."""
    own = load_own(tx, peer.office_id)
    due_ms = offer_due_ms(own, peer_instance=peer.pair.inbound.instance, now_ms=now_ms)
    return due_ms is not None and due_ms <= now_ms


def company(
    tx: Transaction,
    peer: Peer,
    fresh: FreshKeys,
    *,
    message_type: MessageType,
    key_version: int,
    now_ms: int,
    grows: Callable[[Sequence[Item]], bool],
) -> list[Item]:
    """What rides beside an alert or a receipt: nothing that makes its envelope grow.

    An alert never carries an offer: it may expire, and then travels without what rode beside it.
    """
    items: list[Item] = []
    offered = _load_offered(tx, peer.office_id)
    stated = unused(offered)
    if stated is not None and not grows([stated]):
        items.append(stated)
        _save_offered(tx, peer.office_id, offered, after_unused_said(offered))
    if message_type is MessageType.RECEIPT:
        own = load_own(tx, peer.office_id)
        for count in range(len(fresh.one_time_ready(peer.office_id)), 0, -1):
            made = _offer(own, peer, fresh, count, key_version=key_version, now_ms=now_ms)
            if made is not None and not grows([*items, made]):
                _record_offer(tx, peer, fresh, own, made, now_ms)
                items.append(made)
                break
    return items


def unused_alone(tx: Transaction, peer: Peer) -> OneTimeUnused | None:
    """What it was not told yet of keys used, for a control message that is composed next.

    A shared alert says nothing of one pair: what was used for it is told here.
    """
    offered = _load_offered(tx, peer.office_id)
    stated = unused(offered)
    if stated is not None:
        _save_offered(tx, peer.office_id, offered, after_unused_said(offered))
    return stated


def offer_alone(
    tx: Transaction, peer: Peer, fresh: FreshKeys, *, key_version: int, now_ms: int
) -> OneTimeOffer | None:
    """The offer for a control message that is composed next in this transaction."""
    own = load_own(tx, peer.office_id)
    made = _offer(own, peer, fresh, limits.ONE_TIME_OFFERED_MAX, key_version=key_version, now_ms=now_ms)
    if made is not None:
        _record_offer(tx, peer, fresh, own, made, now_ms)
    return made


def _offer(
    own: OneTimeKeys, peer: Peer, fresh: FreshKeys, count_max: int, *, key_version: int, now_ms: int
) -> OneTimeOffer | None:
    instance = peer.pair.inbound.instance
    count = min(count_max, wanted_count(own, peer_instance=instance, now_ms=now_ms))
    ready = fresh.one_time_ready(peer.office_id)[:count]
    if not fits_company(own, len(ready), peer_instance=instance, now_ms=now_ms):
        return None
    return offer(own, ready, key_version=key_version, peer_instance=instance, now_ms=now_ms)


def _record_offer(
    tx: Transaction, peer: Peer, fresh: FreshKeys, own: OneTimeKeys, made: OneTimeOffer, now_ms: int
) -> None:
    offered = after_offered(
        own,
        made,
        carried_by=peer.pair.outbound.next_seq,
        peer_instance=peer.pair.inbound.instance,
        now_ms=now_ms,
    )
    _save_own(tx, peer.office_id, own, offered)
    fresh.one_time_taken(tx, peer.office_id, [key_id for key_id, _ in made.fresh])


# --- receiving ----------------------------------------------------------------------------------------------


def after_marked(tx: Transaction, peer: Peer, opened: Verified, now_ms: int) -> tuple[bytes, ...]:
    """The number of a verified message was marked; returns the ids whose seeds go after the commit."""
    before = own = load_own(tx, peer.office_id)
    used: tuple[bytes, ...] = ()
    if opened.header.type is MessageType.ALERT:
        own, used = after_alert(
            own, opened_with=opened.key_id, peer_instance=peer.pair.inbound.instance, now_ms=now_ms
        )
    return used + _close(tx, peer, before, own, now_ms, used)


def after_items(
    tx: Transaction, peer: Peer, opened: Verified, items: Iterable[Item], now_ms: int
) -> tuple[bytes, ...]:
    """What a new message said of one-time keys, and what it acknowledged; ids as of ``after_marked``."""
    before = own = load_own(tx, peer.office_id)
    in_number, instance = opened.opening.pair_seq, opened.header.instance
    if own.carried_by is not None and _is_acknowledged(peer.pair, own.carried_by):
        own = after_offer_acknowledged(
            own,
            in_number=in_number,
            instance=instance,
            whole=_went_whole(tx, peer, own.carried_by),
            now_ms=now_ms,
        )
    for item in items:
        if isinstance(item, OneTimeUnused):
            own = after_unused_stated(own, item, in_number=in_number, instance=instance, now_ms=now_ms)
    return _close(tx, peer, before, own, now_ms)


def adopt(tx: Transaction, peer: Peer, item: OneTimeOffer) -> None:
    """The peer offered fresh keys; the caller found each one usable."""
    before = _load_offered(tx, peer.office_id)
    _save_offered(tx, peer.office_id, before, adopt_offer(before, item))


def drop_offered(tx: Transaction, peer_id: bytes) -> None:
    """The peer says that it never had a key we sealed to: none of those it offered is sealed to again."""
    before = _load_offered(tx, peer_id)
    _save_offered(tx, peer_id, before, without_keys(before))


def drop_all(tx: Transaction, peer_id: bytes) -> None:
    """After a restore: our seeds are gone, and keys of the peer that we remember unused may be used."""
    tx.execute("DELETE FROM one_time_own WHERE peer = ?", (peer_id,))
    drop_offered(tx, peer_id)


def close(tx: Transaction, peer: Peer, now_ms: int) -> tuple[bytes, ...]:
    """The daily pass over keys that were left out."""
    own = load_own(tx, peer.office_id)
    return _close(tx, peer, own, own, now_ms)


def forget_gone(tx: Transaction, now_ms: int) -> None:
    """Drop ids from the memory of rule 7 after its 60 days."""
    tx.execute("DELETE FROM one_time_gone WHERE gone_ms < ?", (now_ms - limits.DELETED_KEY_MEMORY_MS,))


def _close(
    tx: Transaction,
    peer: Peer,
    before: OneTimeKeys,
    own: OneTimeKeys,
    now_ms: int,
    used: tuple[bytes, ...] = (),
) -> tuple[bytes, ...]:
    own, closed = close_retired(own, inbound=peer.pair.inbound, now_ms=now_ms)
    _save_own(tx, peer.office_id, before, own)
    tx.execute_many(
        "INSERT OR IGNORE INTO one_time_gone (peer, key_id, gone_ms) VALUES (?, ?, ?)",
        [(peer.office_id, key_id, now_ms) for key_id in (*used, *closed)],
    )
    return closed


def _is_acknowledged(pair: PairState, number: int) -> bool:
    out = pair.outbound
    at = number - out.acknowledged_to - 1
    return at < 0 or bool(out.acknowledged_bitmap >> at & 1)


def _went_whole(tx: Snapshot, peer: Peer, number: int) -> bool:
    row = tx.one(
        "SELECT state FROM delivery WHERE peer = ? AND instance = ? AND pair_seq = ?",
        (peer.office_id, peer.pair.outbound.instance, number),
    )
    return row is not None and not DeliveryState.decode(row[0]).bodyless
