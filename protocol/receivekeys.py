"""The rotating receive keys of one pair: what we open with, what we seal to.

Spec: docs/spec/conversation.md#receive-keys, whose eight rules are named here. Above all: no clock and no
guess deletes a key that a message on its way may need. Holds ids and public halves only; seeds live in the
keystore, written before the transaction that announces a key and removed after the one that deletes it.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from keys.errors import BrokenInvariant, MalformedInput
from protocol import limits, wire
from protocol.conversation import Inbound
from protocol.items import KeyAnnouncement, announcement_from_wire, announcement_to_wire
from protocol.wire import Fields, Value

_ENTRY_BYTES: Final = limits.KEY_ID_BYTES + 8
_STATE_BYTES_MAX: Final = 65_536


class KeyStatus(Enum):
    """What a receive key id in an envelope means here."""

    LIVE = "live"
    DELETED = "deleted"  # a late duplicate: deleted at the broker, no nack (rule 7)
    UNKNOWN = "unknown"  # one nack at once, then hourly at most (rule 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveKey:
    """A key the peer may seal to now or soon."""

    key_id: bytes  # 8
    rk_gen: int
    public: bytes  # X-Wing, 1216
    created_ms: int
    announced_ms: int | None  # when an announcement of it last went into the outbox
    used: bool  # a verified message was sealed to it
    peer_instance: bytes  # 8, of the peer when the key was made


@dataclass(frozen=True, slots=True, kw_only=True)
class OldReceiveKey:
    """A key the peer has proven to have left, kept for what it numbered below ``hi``."""

    key_id: bytes  # 8
    hi: int
    retired_ms: int
    peer_instance: bytes  # 8, of the peer when the key was made


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveKeys:
    """Every receive key of one pair: ``cur``, at most one unproven ``next``, old ones, deleted ids.

    ``deleted`` is packed, because it is stored with every message and seldom asked: key id 8 | deleted at
    ms u64 big-endian, oldest first.
    """

    cur: ReceiveKey
    next: ReceiveKey | None
    old: tuple[OldReceiveKey, ...]
    deleted: bytes

    def encode(self) -> bytes:
        """For one database column: about 1.3 KB, up to 36 KB while many keys are old or remembered."""
        return wire.encode(
            {
                "v": 1,
                "cur": _key_to_wire(self.cur),
                "next": None if self.next is None else _key_to_wire(self.next),
                "old": [[k.key_id, k.hi, k.retired_ms, k.peer_instance] for k in self.old],
                "del": self.deleted,
            }
        )

    @staticmethod
    def decode(data: bytes) -> "ReceiveKeys":
        """The inverse of ``encode``, for our own database: other bytes are BrokenInvariant."""
        try:
            fields = Fields(wire.decode_untrusted(data, bytes_max=_STATE_BYTES_MAX), "receive keys")
            fields.integer("v", least=1, most=1)
            cur = _key_from_wire(fields.take("cur"))
            pending = fields.take("next")
            following = None if pending is None else _key_from_wire(pending)
            old = tuple(_old_from_wire(v) for v in fields.items("old", items_max=limits.OLD_RECEIVE_KEYS_MAX))
            deleted = fields.raw("del", bytes_max=limits.DELETED_KEYS_REMEMBERED_MAX * _ENTRY_BYTES)
            fields.done()
        except MalformedInput as error:
            raise BrokenInvariant("receive_keys", "stored receive keys cannot be read") from error
        if len(deleted) % _ENTRY_BYTES:
            raise BrokenInvariant("receive_keys", "the memory of deleted keys is cut")
        return ReceiveKeys(cur=cur, next=following, old=old, deleted=deleted)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerKey:
    """The newest key of the peer we know, and the first of our numbers assigned after learning it."""

    announcement: KeyAnnouncement
    rk_first: int

    def encode(self) -> bytes:
        """For one database column."""
        return wire.encode({"v": 1, "a": announcement_to_wire(self.announcement), "f": self.rk_first})

    @staticmethod
    def decode(data: bytes) -> "PeerKey":
        """The inverse of ``encode``, for our own database: other bytes are BrokenInvariant."""
        try:
            fields = Fields(wire.decode_untrusted(data, bytes_max=_STATE_BYTES_MAX), "peer key")
            fields.integer("v", least=1, most=1)
            announcement = announcement_from_wire(fields.take("a"))
            rk_first = fields.integer("f", least=1, most=limits.PAIR_SEQ_MAX)
            fields.done()
        except MalformedInput as error:
            raise BrokenInvariant("peer_key", "a stored peer key cannot be read") from error
        return PeerKey(announcement=announcement, rk_first=rk_first)


# --- what we open with ----------------------------------------------------------------------------


def first_receive_keys(
    *, key_id: bytes, public: bytes, peer_instance: bytes, now_ms: int, rk_gen: int = 1
) -> ReceiveKeys:
    """The pair's first key, exchanged in the pairing bundle (or announced by a reset)."""
    cur = ReceiveKey(
        key_id=key_id,
        rk_gen=rk_gen,
        public=public,
        created_ms=now_ms,
        announced_ms=now_ms,
        used=False,
        peer_instance=peer_instance,
    )
    return ReceiveKeys(cur=cur, next=None, old=(), deleted=b"")


def wants_next(keys: ReceiveKeys, now_ms: int) -> bool:
    """Rule 1: asked when anything but a service message is about to be sent to this peer.

    A service message neither makes nor announces a key: with an announcement aboard it would be a reason to
    acknowledge, and two offices would answer each other for ever.
    No key is made while ``OLD_RECEIVE_KEYS_MAX`` wait for holes to close: a peer that leaves a hole on
    purpose costs itself forward secrecy, not us memory.
    """
    if keys.next is not None or len(keys.old) >= limits.OLD_RECEIVE_KEYS_MAX:
        return False
    return keys.cur.used or now_ms - keys.cur.created_ms > limits.RECEIVE_KEY_AGE_MS_MAX


def with_next(
    keys: ReceiveKeys, *, key_id: bytes, public: bytes, peer_instance: bytes, now_ms: int
) -> ReceiveKeys:
    """Take a fresh key as ``next``; its seed must already be durable in the keystore.

    BrokenInvariant ``receive_key_pending`` or ``receive_key_reused``: one next, and ids never repeat.
    """
    if keys.next is not None:
        raise BrokenInvariant("receive_key_pending", "the last announced key is not proven yet")
    if status_of(keys, key_id) is not KeyStatus.UNKNOWN:
        raise BrokenInvariant("receive_key_reused", "a receive key id was drawn twice")
    made = ReceiveKey(
        key_id=key_id,
        rk_gen=keys.cur.rk_gen + 1,
        public=public,
        created_ms=now_ms,
        announced_ms=None,
        used=False,
        peer_instance=peer_instance,
    )
    return replace(keys, next=made)


def announcement(keys: ReceiveKeys, key_version: int) -> KeyAnnouncement | None:
    """The item that announces ``next``, or None when every announced key is proven."""
    return None if keys.next is None else announce(keys.next, key_version)


def announce(key: ReceiveKey, key_version: int) -> KeyAnnouncement:
    """The item that announces ``key``; a nack names the newest one, proven or not."""
    return KeyAnnouncement(key_version=key_version, rk_gen=key.rk_gen, key_id=key.key_id, public=key.public)


def announcement_due_ms(keys: ReceiveKeys) -> int | None:
    """When a control message must carry the announcement because no other message had room for it.

    None without an unproven key. After it went out once, it is repeated daily until proven: the message that
    carried it may have expired, and then arrives without its body.
    """
    if keys.next is None:
        return None
    if keys.next.announced_ms is None:
        return keys.next.created_ms + limits.ANNOUNCEMENT_DELAY_MS_MAX
    return keys.next.announced_ms + limits.DAY_MS


def after_announced(keys: ReceiveKeys, now_ms: int) -> ReceiveKeys:
    """A message with the announcement of ``next`` is durable in the outbox."""
    if keys.next is None:
        return keys
    return replace(keys, next=replace(keys.next, announced_ms=now_ms))


def after_verified(
    keys: ReceiveKeys,
    *,
    opened_with: bytes,
    rk_known: bytes,
    rk_first: int,
    inbound: Inbound,
    instance: bytes,
    now_ms: int,
) -> tuple[ReceiveKeys, tuple[bytes, ...]]:
    """Rules 3, 4 and 7 after a message verified; returns the ids whose seeds go once this is committed.

    ``opened_with`` is the key id in the envelope, ``rk_known`` and ``rk_first`` come from its signed leaf,
    ``instance`` from its header; ``inbound`` is the peer's present instance **after** this message was
    marked.
    Call it for duplicates too: a copy may be the first to prove a key.
    """
    keys = _marked_used(keys, opened_with)
    pending = keys.next
    # Rule 3. rk_first counts in the header's instance: a late message of one that ended proves nothing.
    if pending is not None and rk_known == pending.key_id and instance == inbound.instance:
        retired = OldReceiveKey(
            key_id=keys.cur.key_id, hi=rk_first, retired_ms=now_ms, peer_instance=keys.cur.peer_instance
        )
        keys = replace(keys, cur=pending, next=None, old=(*keys.old, retired))
    return close_old(keys, inbound=inbound, now_ms=now_ms)


def close_old(keys: ReceiveKeys, *, inbound: Inbound, now_ms: int) -> tuple[ReceiveKeys, tuple[bytes, ...]]:
    """Rule 4 alone, also from a daily timer: delete each old key nothing on its way can need.

    A key made under the peer's present instance goes when every number below its ``hi`` arrived. One made
    under an earlier instance goes when the broker can hold nothing sealed to it any more (14 days + 2).
    """
    closed = tuple(key.key_id for key in keys.old if _is_closed(key, inbound, now_ms))
    start = 0
    while _deleted_ms(keys, start) < now_ms - limits.DELETED_KEY_MEMORY_MS:
        start += _ENTRY_BYTES
    if not closed and not start:
        return keys, ()
    deleted = keys.deleted[start:] + b"".join(key_id + now_ms.to_bytes(8, "big") for key_id in closed)
    return (
        replace(
            keys,
            old=tuple(key for key in keys.old if key.key_id not in closed),
            # Beyond the cap a late duplicate costs one nack, which the sender answers with nothing.
            deleted=deleted[-limits.DELETED_KEYS_REMEMBERED_MAX * _ENTRY_BYTES :],
        ),
        closed,
    )


def status_of(keys: ReceiveKeys, key_id: bytes) -> KeyStatus:
    """Whether ``key_id`` opens, once opened, or was never ours."""
    if key_id in live_key_ids(keys):
        return KeyStatus.LIVE
    at = keys.deleted.find(key_id)
    while at >= 0 and at % _ENTRY_BYTES:
        # Found across two entries, or inside a time.
        at = keys.deleted.find(key_id, at + 1)
    return KeyStatus.UNKNOWN if at < 0 else KeyStatus.DELETED


def live_key_ids(keys: ReceiveKeys) -> tuple[bytes, ...]:
    """Ids whose seeds the keystore must hold: one missing means reset, one more is dropped."""
    pending = () if keys.next is None else (keys.next.key_id,)
    return (keys.cur.key_id, *pending, *(key.key_id for key in keys.old))


# --- what we seal to ------------------------------------------------------------------------------


def adopt(known: PeerKey, announced: KeyAnnouncement, next_seq: int) -> PeerKey:
    """Rule 5: the announcement with the highest (key version, rk_gen) wins.

    ``next_seq`` is our next number (``Outbound.next_seq``): from it on, everything is sealed to the new key.
    """
    present = known.announcement
    if (announced.key_version, announced.rk_gen) <= (present.key_version, present.rk_gen):
        return known
    return PeerKey(announcement=announced, rk_first=next_seq)


def with_my_new_instance(known: PeerKey) -> PeerKey:
    """Our numbers start over, so the first one assigned after learning the key is 1."""
    return replace(known, rk_first=1)


# --- inside ---------------------------------------------------------------------------------------


def _marked_used(keys: ReceiveKeys, opened_with: bytes) -> ReceiveKeys:
    if opened_with == keys.cur.key_id and not keys.cur.used:
        return replace(keys, cur=replace(keys.cur, used=True))
    if keys.next is not None and opened_with == keys.next.key_id and not keys.next.used:
        return replace(keys, next=replace(keys.next, used=True))
    return keys


def _is_closed(key: OldReceiveKey, inbound: Inbound, now_ms: int) -> bool:
    if key.peer_instance == inbound.instance:
        return inbound.contiguous_to + 1 >= key.hi
    return now_ms - key.retired_ms >= limits.OLD_RECEIVE_KEY_TTL_MS


def _deleted_ms(keys: ReceiveKeys, start: int) -> int:
    """When the key remembered at ``start`` was deleted; the end of time after the last."""
    if start >= len(keys.deleted):
        return limits.U64_MAX
    return int.from_bytes(keys.deleted[start + limits.KEY_ID_BYTES : start + _ENTRY_BYTES], "big")


def _key_to_wire(key: ReceiveKey) -> Value:
    return {
        "i": key.key_id,
        "g": key.rk_gen,
        "p": key.public,
        "c": key.created_ms,
        "a": key.announced_ms,
        "u": key.used,
        "n": key.peer_instance,
    }


def _key_from_wire(value: Value) -> ReceiveKey:
    fields = Fields(value, "receive key")
    announced = fields.take("a")
    if announced is not None and type(announced) is not int:
        raise MalformedInput("field_type", "a time is an integer")
    key = ReceiveKey(
        key_id=fields.raw("i", size=limits.KEY_ID_BYTES),
        rk_gen=fields.integer("g", most=limits.U32_MAX),
        public=fields.raw("p", size=limits.XWING_PUBLIC_BYTES),
        created_ms=fields.integer("c"),
        announced_ms=announced,
        used=fields.boolean("u"),
        peer_instance=fields.raw("n", size=limits.INSTANCE_BYTES),
    )
    fields.done()
    return key


def _old_from_wire(value: Value) -> OldReceiveKey:
    match value:
        case [bytes(key_id), int(hi), int(retired_ms), bytes(peer_instance)]:
            return OldReceiveKey(key_id=key_id, hi=hi, retired_ms=retired_ms, peer_instance=peer_instance)
        case _:
            raise MalformedInput("field_type", "an old receive key has four parts")
