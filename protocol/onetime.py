"""One-time keys of one pair: one alert each, gone right after it was opened.

Spec: docs/spec/conversation.md#one-time-keys, rule 8. One rule, as for every receive key: no clock and no
guess deletes a key that a message on its way may need. ``OneTimeKeys`` is the receiver's half, ids only; the
keystore has the seeds. ``OfferedKeys`` is the sender's. Nothing here changes rules 1 to 7: a message sealed
to a one-time key states ``rk_known`` and ``rk_first`` like any other, and marks its number.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from keys.errors import BrokenInvariant
from protocol import limits
from protocol.conversation import Inbound
from protocol.items import OneTimeOffer, OneTimeUnused

_VERSION: Final = 1
_NONE: Final = -1
_COLUMN: Final = struct.Struct(">BIqqHH")
_COLUMN_KEY: Final = struct.Struct(">8sI8sQ")
_COLUMN_RETIRED: Final = struct.Struct(">8s8sQq")
_COLUMN_OFFERED: Final = struct.Struct(">BII?H")
_COLUMN_OFFERED_KEY: Final = struct.Struct(f">8s{limits.XWING_PUBLIC_BYTES}s")


# --- what we open with ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTimeKey:
    """A key the peer may seal one alert to."""

    key_id: bytes  # 8
    generation: int  # of the offer that brought it
    peer_instance: bytes  # 8, of the peer when the key was made
    offered_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetiredOneTimeKey:
    """A key the last offer left out, kept for what the peer numbered before it learnt that."""

    key_id: bytes  # 8
    peer_instance: bytes  # 8
    retired_ms: int
    hi: int | None  # the peer's first number that cannot be sealed to it; None until that is proven


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTimeKeys:
    """Every one-time key of one pair.

    ``carried_by``: our number of the message with the last offer, until the peer acknowledges it; there is at
    most one. ``owed_ms``: since when an alert asks for fresh keys, None while the supply is full.
    """

    generation: int
    carried_by: int | None
    owed_ms: int | None
    live: tuple[OneTimeKey, ...]
    retired: tuple[RetiredOneTimeKey, ...]

    def encode(self) -> bytes:
        """For one database column, 25 bytes and 28 or 32 for each key."""
        return b"".join(
            (
                _COLUMN.pack(
                    _VERSION,
                    self.generation,
                    _NONE if self.carried_by is None else self.carried_by,
                    _NONE if self.owed_ms is None else self.owed_ms,
                    len(self.live),
                    len(self.retired),
                ),
                *(_COLUMN_KEY.pack(k.key_id, k.generation, k.peer_instance, k.offered_ms) for k in self.live),
                *(
                    _COLUMN_RETIRED.pack(
                        k.key_id, k.peer_instance, k.retired_ms, _NONE if k.hi is None else k.hi
                    )
                    for k in self.retired
                ),
            )
        )

    @staticmethod
    def decode(data: bytes) -> "OneTimeKeys":
        """The inverse of ``encode``, for our own database: other bytes are BrokenInvariant."""
        try:
            version, generation, carried_by, owed_ms, live_count, retired_count = _COLUMN.unpack_from(data)
            retired_at = _COLUMN.size + live_count * _COLUMN_KEY.size
            live = tuple(
                OneTimeKey(key_id=key_id, generation=g, peer_instance=instance, offered_ms=offered_ms)
                for key_id, g, instance, offered_ms in _COLUMN_KEY.iter_unpack(
                    data[_COLUMN.size : retired_at]
                )
            )
            retired = tuple(
                RetiredOneTimeKey(
                    key_id=key_id,
                    peer_instance=instance,
                    retired_ms=retired_ms,
                    hi=None if hi == _NONE else hi,
                )
                for key_id, instance, retired_ms, hi in _COLUMN_RETIRED.iter_unpack(data[retired_at:])
            )
        except struct.error as error:
            raise BrokenInvariant("one_time_keys", "stored one-time keys cannot be read") from error
        if version != _VERSION or (len(live), len(retired)) != (live_count, retired_count):
            raise BrokenInvariant("one_time_keys", "stored one-time keys make no sense")
        return OneTimeKeys(
            generation=generation,
            carried_by=None if carried_by == _NONE else carried_by,
            owed_ms=None if owed_ms == _NONE else owed_ms,
            live=live,
            retired=retired,
        )


NO_ONE_TIME_KEYS: Final = OneTimeKeys(generation=0, carried_by=None, owed_ms=None, live=(), retired=())


def one_time_ids(keys: OneTimeKeys) -> tuple[bytes, ...]:
    """Ids whose seeds the keystore must hold; a seed more is dropped."""
    return (*(key.key_id for key in keys.live), *(key.key_id for key in keys.retired))


def wanted_count(keys: OneTimeKeys, *, peer_instance: bytes, now_ms: int) -> int:
    """How many fresh keys the next offer should bring; 0 when none is to be made.

    Asked when a receipt or a control message that is no service message leaves. An idle pair makes none: only
    an alert that arrived makes ``owed_ms``. A second offer waits until the first is acknowledged, and none is
    made while ``ONE_TIME_KEYS_MAX`` wait: a peer that leaves a hole on purpose costs itself, not us memory.
    """
    if keys.carried_by is not None or keys.owed_ms is None:
        return 0
    room = limits.ONE_TIME_KEYS_MAX - len(keys.live) - len(keys.retired)
    return max(0, min(room, limits.ONE_TIME_OFFERED_MAX - len(_kept(keys, peer_instance, now_ms))))


def fits_company(keys: OneTimeKeys, count: int, *, peer_instance: bytes, now_ms: int) -> bool:
    """Whether an offer of ``count`` keys beside a receipt is worth it.

    The next offer waits for its acknowledgement, which can take days: so not while the peer has few keys.
    """
    wanted = wanted_count(keys, peer_instance=peer_instance, now_ms=now_ms)
    return count > 0 and (count >= wanted or not _has_few(keys, peer_instance, now_ms))


def offer_due_ms(keys: OneTimeKeys, *, peer_instance: bytes, now_ms: int) -> int | None:
    """When a control message must carry the offer because receipts had no room for enough keys."""
    if (
        keys.owed_ms is None
        or not _has_few(keys, peer_instance, now_ms)
        or not wanted_count(keys, peer_instance=peer_instance, now_ms=now_ms)
    ):
        return None
    return keys.owed_ms + limits.ANNOUNCEMENT_DELAY_MS_MAX


def offer(
    keys: OneTimeKeys,
    fresh: Sequence[tuple[bytes, bytes]],
    *,
    key_version: int,
    peer_instance: bytes,
    now_ms: int,
) -> OneTimeOffer:
    """The item that brings ``fresh``, (id, public) each, and says which earlier keys still count."""
    return OneTimeOffer(
        key_version=key_version,
        generation=keys.generation + 1,
        kept_ids=tuple(key.key_id for key in _kept(keys, peer_instance, now_ms)),
        fresh=tuple(fresh),
    )


def after_offered(
    keys: OneTimeKeys, item: OneTimeOffer, *, carried_by: int, peer_instance: bytes, now_ms: int
) -> OneTimeKeys:
    """A message with this offer is durable in the outbox; the seeds were durable before.

    BrokenInvariant ``one_time_offer`` for an offer that is not the next one, or a key offered twice as fresh.
    """
    known = set(one_time_ids(keys))
    if (
        keys.carried_by is not None
        or item.generation != keys.generation + 1
        or any(key_id in known for key_id, _ in item.fresh)
    ):
        raise BrokenInvariant("one_time_offer", "one-time keys were offered out of turn")
    kept = tuple(key for key in keys.live if key.key_id in item.kept_ids)
    brought = tuple(
        OneTimeKey(key_id=key_id, generation=item.generation, peer_instance=peer_instance, offered_ms=now_ms)
        for key_id, _ in item.fresh
    )
    left_out = _retire((key for key in keys.live if key.key_id not in item.kept_ids), now_ms)
    live = (*kept, *brought)
    return OneTimeKeys(
        generation=item.generation,
        carried_by=carried_by,
        owed_ms=None if len(live) >= limits.ONE_TIME_OFFERED_MAX else keys.owed_ms,
        live=live,
        retired=(*keys.retired, *left_out),
    )


def after_offer_acknowledged(
    keys: OneTimeKeys, *, in_number: int, instance: bytes, whole: bool, now_ms: int
) -> OneTimeKeys:
    """The peer's message ``in_number`` of ``instance`` was the first to acknowledge ``carried_by``.

    It took the offer in before it gave out that number, so nothing from it on is sealed to a key left out. A
    message that went without body (``whole`` false) may have brought no offer: then its keys are left out of
    the next one, because offering them again could make the peer use one twice.
    """
    if not whole:
        doubtful = _retire((key for key in keys.live if key.generation == keys.generation), now_ms)
        live = tuple(key for key in keys.live if key.generation != keys.generation)
        owed_ms = now_ms if keys.owed_ms is None else keys.owed_ms
        return replace(keys, carried_by=None, owed_ms=owed_ms, live=live, retired=(*keys.retired, *doubtful))
    retired = tuple(
        replace(key, hi=in_number) if key.hi is None and key.peer_instance == instance else key
        for key in keys.retired
    )
    return replace(keys, carried_by=None, retired=retired)


def after_unused_stated(
    keys: OneTimeKeys, item: OneTimeUnused, *, in_number: int, instance: bytes, now_ms: int
) -> OneTimeKeys:
    """The peer's message ``in_number`` of ``instance`` named what it had not used of an offer.

    A key it did not name was used for a lower number: its envelope may be on its way, or was lost and the
    message sealed anew. So it goes when all lower numbers arrived, as a key that was left out does.
    """
    if item.generation > keys.generation:
        return keys  # not of an offer we remember: this node was restored, or the peer is mistaken
    gone = {
        key.key_id
        for key in keys.live
        if key.generation <= item.generation
        and key.peer_instance == instance
        and key.key_id not in item.unused_ids
    }
    used = _retire((key for key in keys.live if key.key_id in gone), now_ms, hi=in_number)
    live = tuple(key for key in keys.live if key.key_id not in gone)
    return replace(keys, live=live, retired=(*keys.retired, *used))


def after_alert(
    keys: OneTimeKeys, *, opened_with: bytes, peer_instance: bytes, now_ms: int
) -> tuple[OneTimeKeys, tuple[bytes, ...]]:
    """A message verified that was an alert, or was sealed to a one-time key; returns the ids that go.

    The seed goes once this is committed. Call it for duplicates too.
    """
    used = tuple(key_id for key_id in one_time_ids(keys) if key_id == opened_with)
    live = tuple(key for key in keys.live if key.key_id != opened_with)
    retired = tuple(key for key in keys.retired if key.key_id != opened_with)
    left = replace(keys, live=live, retired=retired)
    owed_ms = keys.owed_ms
    if owed_ms is None and len(_kept(left, peer_instance, now_ms)) < limits.ONE_TIME_OFFERED_MAX:
        owed_ms = now_ms
    return replace(left, owed_ms=owed_ms), used


def close_retired(
    keys: OneTimeKeys, *, inbound: Inbound, now_ms: int
) -> tuple[OneTimeKeys, tuple[bytes, ...]]:
    """Rule 4 for keys that were left out: gone when every number below their ``hi`` arrived.

    When the peer began another instance, only the time counts in which a broker can hold something (14 days
    and 2 more).
    """
    closed = tuple(key.key_id for key in keys.retired if _is_closed(key, inbound, now_ms))
    if not closed:
        return keys, ()
    return replace(keys, retired=tuple(key for key in keys.retired if key.key_id not in closed)), closed


# --- what we seal to ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedKey:
    """One of the peer's keys, not used by us."""

    key_id: bytes  # 8
    public: bytes = field(repr=False)  # X-Wing, 1216


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedKeys:
    """The peer's one-time keys we have not used, oldest first, as of the newest offer we know.

    ``unsaid``: a key was used since we last named the unused ones to the peer.
    """

    key_version: int
    generation: int
    unsaid: bool
    keys: tuple[OfferedKey, ...]

    def encode(self) -> bytes:
        """For one database column, 12 bytes and 1224 for each key."""
        return _COLUMN_OFFERED.pack(
            _VERSION, self.key_version, self.generation, self.unsaid, len(self.keys)
        ) + b"".join(_COLUMN_OFFERED_KEY.pack(key.key_id, key.public) for key in self.keys)

    @staticmethod
    def decode(data: bytes) -> "OfferedKeys":
        """The inverse of ``encode``, for our own database: other bytes are BrokenInvariant."""
        try:
            version, key_version, generation, unsaid, count = _COLUMN_OFFERED.unpack_from(data)
            keys = tuple(
                OfferedKey(key_id=key_id, public=public)
                for key_id, public in _COLUMN_OFFERED_KEY.iter_unpack(data[_COLUMN_OFFERED.size :])
            )
        except struct.error as error:
            raise BrokenInvariant("offered_keys", "stored one-time keys of a peer cannot be read") from error
        if version != _VERSION or len(keys) != count:
            raise BrokenInvariant("offered_keys", "stored one-time keys of a peer make no sense")
        return OfferedKeys(key_version=key_version, generation=generation, unsaid=unsaid, keys=keys)


NOTHING_OFFERED: Final = OfferedKeys(key_version=0, generation=0, unsaid=False, keys=())


def adopt_offer(known: OfferedKeys, item: OneTimeOffer) -> OfferedKeys:
    """The offer with the highest (key version, generation) counts; each brings its keys once.

    What it does not name is dropped. Nothing of an earlier key version is kept: its seeds may be lost.
    """
    if (item.key_version, item.generation) <= (known.key_version, known.generation):
        return known
    kept = tuple(
        key for key in known.keys if key.key_id in item.kept_ids and known.key_version == item.key_version
    )
    brought = tuple(OfferedKey(key_id=key_id, public=public) for key_id, public in item.fresh)
    keys = (*kept, *brought)[: limits.ONE_TIME_KEYS_MAX]
    return OfferedKeys(
        key_version=item.key_version, generation=item.generation, unsaid=known.unsaid, keys=keys
    )


def take_one(known: OfferedKeys, key_version: int) -> tuple[OfferedKeys, OfferedKey | None]:
    """The next unused key, which is then used: store both in the transaction that keeps the envelope.

    None without one of ``key_version``, the version of the newest receive key we know of the peer.
    """
    if not known.keys or known.key_version != key_version:
        return known, None
    return replace(known, unsaid=True, keys=known.keys[1:]), known.keys[0]


def unused(known: OfferedKeys) -> OneTimeUnused | None:
    """What rides beside an alert, a receipt or another offer once keys were used: the ones that were not."""
    if not known.unsaid:
        return None
    return OneTimeUnused(generation=known.generation, unused_ids=tuple(key.key_id for key in known.keys))


def after_unused_said(known: OfferedKeys) -> OfferedKeys:
    """A message that names the unused keys is durable in the outbox."""
    return replace(known, unsaid=False)


def without_keys(known: OfferedKeys) -> OfferedKeys:
    """We lost state, or the peer did not know a key we used: none we remember can be trusted to be unused."""
    return replace(known, unsaid=known.generation > 0, keys=())


# --- inside ---------------------------------------------------------------------------------------


def _kept(keys: OneTimeKeys, peer_instance: bytes, now_ms: int) -> tuple[OneTimeKey, ...]:
    """Keys the next offer still names. A key used for an envelope that was lost would else wait for ever."""
    return tuple(
        key
        for key in keys.live
        if key.peer_instance == peer_instance and now_ms - key.offered_ms < limits.OLD_RECEIVE_KEY_TTL_MS
    )


def _has_few(keys: OneTimeKeys, peer_instance: bytes, now_ms: int) -> bool:
    return len(_kept(keys, peer_instance, now_ms)) * 2 < limits.ONE_TIME_OFFERED_MAX


def _retire(keys: Iterable[OneTimeKey], now_ms: int, hi: int | None = None) -> tuple[RetiredOneTimeKey, ...]:
    return tuple(
        RetiredOneTimeKey(key_id=key.key_id, peer_instance=key.peer_instance, retired_ms=now_ms, hi=hi)
        for key in keys
    )


def _is_closed(key: RetiredOneTimeKey, inbound: Inbound, now_ms: int) -> bool:
    if key.peer_instance == inbound.instance:
        return key.hi is not None and inbound.contiguous_to + 1 >= key.hi
    return now_ms - key.retired_ms >= limits.OLD_RECEIVE_KEY_TTL_MS
