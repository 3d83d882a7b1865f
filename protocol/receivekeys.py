"""The rotating receive keys of one pair: what we open with, what we seal to.

Spec: docs/spec/conversation.md#receive-keys, whose eight rules are named here. Above all: no clock and no
guess deletes a key that a message on its way may need. Holds ids and public halves only; seeds live in the
keystore, written before the transaction that announces a key and removed after the one that deletes it.
"""

import struct
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from keys.errors import BrokenInvariant
from protocol import limits
from protocol.conversation import Inbound
from protocol.items import KeyAnnouncement

_ENTRY_BYTES: Final = limits.KEY_ID_BYTES + 8
# Database columns: fixed layouts, because a node reads and writes them with every message.
_VERSION: Final = 1
_COLUMN: Final = struct.Struct(">B?HH")
_COLUMN_KEY: Final = struct.Struct(f">8sIQq?8s{limits.XWING_PUBLIC_BYTES}s")
_COLUMN_OLD: Final = struct.Struct(">8sQQ8s")
_COLUMN_PEER_KEY: Final = struct.Struct(f">BIIQ8s{limits.XWING_PUBLIC_BYTES}s")
_NEVER: Final = -1


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
        """For one database column: 1.3 to 2.5 KB, up to 27 KB while many keys are old or remembered."""
        following = b"" if self.next is None else _pack(self.next)
        return b"".join(
            (
                _COLUMN.pack(
                    _VERSION, self.next is not None, len(self.old), len(self.deleted) // _ENTRY_BYTES
                ),
                _pack(self.cur),
                following,
                *(_COLUMN_OLD.pack(k.key_id, k.hi, k.retired_ms, k.peer_instance) for k in self.old),
                self.deleted,
            )
        )

    @staticmethod
    def decode(data: bytes) -> "ReceiveKeys":
        """The inverse of ``encode``, for our own database: other bytes are BrokenInvariant."""
        try:
            version, has_next, old_count, deleted_count = _COLUMN.unpack_from(data)
            at = _COLUMN.size
            cur = _unpack(data, at)
            at += _COLUMN_KEY.size
            following = None
            if has_next:
                following = _unpack(data, at)
                at += _COLUMN_KEY.size
            deleted_at = at + old_count * _COLUMN_OLD.size
            old = tuple(
                OldReceiveKey(key_id=key_id, hi=hi, retired_ms=retired_ms, peer_instance=instance)
                for key_id, hi, retired_ms, instance in _COLUMN_OLD.iter_unpack(data[at:deleted_at])
            )
        except struct.error as error:
            raise BrokenInvariant("receive_keys", "stored receive keys cannot be read") from error
        if version != _VERSION or len(data) != deleted_at + deleted_count * _ENTRY_BYTES:
            raise BrokenInvariant("receive_keys", "stored receive keys make no sense")
        return ReceiveKeys(cur=cur, next=following, old=old, deleted=data[deleted_at:])


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerKey:
    """The newest key of the peer we know, and the first of our numbers assigned after learning it."""

    announcement: KeyAnnouncement
    rk_first: int

    def encode(self) -> bytes:
        """For one database column, 1241 bytes."""
        known = self.announcement
        return _COLUMN_PEER_KEY.pack(
            _VERSION, known.key_version, known.rk_gen, self.rk_first, known.key_id, known.public
        )

    @staticmethod
    def decode(data: bytes) -> "PeerKey":
        """The inverse of ``encode``, for our own database: other bytes are BrokenInvariant."""
        try:
            version, key_version, rk_gen, rk_first, key_id, public = _COLUMN_PEER_KEY.unpack(data)
        except struct.error as error:
            raise BrokenInvariant("peer_key", "a stored peer key cannot be read") from error
        if version != _VERSION:
            raise BrokenInvariant("peer_key", "a stored peer key makes no sense")
        return PeerKey(
            announcement=KeyAnnouncement(
                key_version=key_version, rk_gen=rk_gen, key_id=key_id, public=public
            ),
            rk_first=rk_first,
        )


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


def _pack(key: ReceiveKey) -> bytes:
    announced_ms = _NEVER if key.announced_ms is None else key.announced_ms
    return _COLUMN_KEY.pack(
        key.key_id, key.rk_gen, key.created_ms, announced_ms, key.used, key.peer_instance, key.public
    )


def _unpack(data: bytes, at: int) -> ReceiveKey:
    key_id, rk_gen, created_ms, announced_ms, used, instance, public = _COLUMN_KEY.unpack_from(data, at)
    return ReceiveKey(
        key_id=key_id,
        rk_gen=rk_gen,
        public=public,
        created_ms=created_ms,
        announced_ms=None if announced_ms == _NEVER else announced_ms,
        used=used,
        peer_instance=instance,
    )
