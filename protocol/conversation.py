"""One peer: numbers given out, numbers taken in, replay, gaps, acknowledgement, reset.

Spec: docs/spec/conversation.md. A ``PairState`` is one database value; each function takes it with one fact
and returns the next one. One rule: a number is given out once and taken in once, whatever the channel does.
Windows are integers used as bitmaps, so a step costs the same with 1 or 4096 in flight. Nothing here resends
(``delivery``), rotates a key (``receivekeys``) or looks at a clock.
"""

import struct
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from keys.errors import BrokenInvariant, PolicyRefused, VerificationFailed
from protocol import limits
from protocol.items import Acknowledgement, ReceivedRange, bitmap_to_bytes

WINDOW: Final = limits.WINDOW_MESSAGES
NO_PREVIOUS: Final = bytes(limits.HASH_BYTES)
# The database column: fixed layouts, because a node reads and writes one with every message.
_VERSION: Final = 1
_COLUMN: Final = struct.Struct(">B8sQ32sQH?QB")
_COLUMN_INBOUND: Final = struct.Struct(">8sQH")


class Judgement(Enum):
    """What the window says about a verified message, before its body is decoded."""

    NEW = "new"
    DUPLICATE = "duplicate"
    BEYOND_WINDOW = "beyond_window"
    OTHER_INSTANCE = "other_instance"
    # Never returned by ``judge``: the caller compares the hh it stored for this number, and for pair_prev.
    EQUIVOCATION = "equivocation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """What we number. Bit i of ``acknowledged_bitmap`` is number ``acknowledged_to + 1 + i``."""

    instance: bytes  # 8, ours
    next_seq: int
    previous_hh: bytes  # 32, of what was signed last; zeros before the first, kept over instances
    acknowledged_to: int
    acknowledged_bitmap: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """What arrived of one instance of the peer. Bit i of ``bitmap`` is number ``contiguous_to + 1 + i``."""

    instance: bytes  # 8, the peer's
    contiguous_to: int
    bitmap: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairState:
    """Both directions of one pair.

    ``ack_due``: something arrived that deserves an acknowledgement of its own. ``unreported`` counts what
    arrived since the last one, due or not: worth a place beside any other message.
    """

    outbound: Outbound
    inbound: Inbound
    earlier: tuple[Inbound, ...]  # instances the peer ended by a reset, newest first
    ack_due: bool
    unreported: int

    def encode(self) -> bytes:
        """For one database column: 87 bytes, and up to 512 more for each window with holes."""
        out = self.outbound
        acknowledged = bitmap_to_bytes(out.acknowledged_bitmap)
        parts = [
            _COLUMN.pack(
                _VERSION,
                out.instance,
                out.next_seq,
                out.previous_hh,
                out.acknowledged_to,
                len(acknowledged),
                self.ack_due,
                self.unreported,
                1 + len(self.earlier),
            ),
            acknowledged,
        ]
        for inbound in (self.inbound, *self.earlier):
            bitmap = bitmap_to_bytes(inbound.bitmap)
            parts += (_COLUMN_INBOUND.pack(inbound.instance, inbound.contiguous_to, len(bitmap)), bitmap)
        return b"".join(parts)

    @staticmethod
    def decode(data: bytes) -> "PairState":
        """The inverse of ``encode``, for our own database: other bytes are BrokenInvariant."""
        try:
            version, instance, next_seq, previous_hh, to, size, ack_due, unreported, count = (
                _COLUMN.unpack_from(data)
            )
            at = _COLUMN.size + size
            acknowledged = int.from_bytes(data[_COLUMN.size : at], "little")
            inbounds: list[Inbound] = []
            for _ in range(count):
                theirs, contiguous_to, size = _COLUMN_INBOUND.unpack_from(data, at)
                at += _COLUMN_INBOUND.size
                bitmap = int.from_bytes(data[at : at + size], "little")
                inbounds.append(Inbound(instance=theirs, contiguous_to=contiguous_to, bitmap=bitmap))
                at += size
        except struct.error as error:
            raise BrokenInvariant("pair_state", "a stored pair state cannot be read") from error
        if version != _VERSION or at != len(data) or not inbounds or not to < next_seq:
            raise BrokenInvariant("pair_state", "a stored pair state makes no sense")
        return PairState(
            outbound=Outbound(
                instance=instance,
                next_seq=next_seq,
                previous_hh=previous_hh,
                acknowledged_to=to,
                acknowledged_bitmap=acknowledged,
            ),
            inbound=inbounds[0],
            earlier=tuple(inbounds[1:]),
            ack_due=ack_due,
            unreported=unreported,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The place of the next message in our order; both parts are signed."""

    pair_seq: int
    pair_prev: bytes  # 32


# --- the pair begins, or begins again -------------------------------------------------------------


def new_pair_state(my_instance: bytes, peer_instance: bytes) -> PairState:
    """A pair right after pairing: both first numbers are 1."""
    return PairState(
        outbound=Outbound(
            instance=my_instance,
            next_seq=1,
            previous_hh=NO_PREVIOUS,
            acknowledged_to=0,
            acknowledged_bitmap=0,
        ),
        inbound=Inbound(instance=peer_instance, contiguous_to=0, bitmap=0),
        earlier=(),
        ack_due=False,
        unreported=0,
    )


def with_my_instance(state: PairState, my_instance: bytes) -> PairState:
    """We lost state (restore, rollback ceremony): numbers start over, ``pair_prev`` continues if known."""
    if my_instance == state.outbound.instance:
        raise BrokenInvariant("instance_reused", "a new instance must differ from the last")
    return replace(
        state,
        outbound=replace(
            state.outbound, instance=my_instance, next_seq=1, acknowledged_to=0, acknowledged_bitmap=0
        ),
    )


def with_peer_instance(state: PairState, peer_instance: bytes) -> PairState:
    """The peer reset under a newer key: its numbers start over, late ones of before are still told apart.

    Idempotent, and an instance that ended does not come back.
    """
    known = {state.inbound.instance, *(inbound.instance for inbound in state.earlier)}
    if peer_instance in known:
        return state
    return replace(
        state,
        inbound=Inbound(instance=peer_instance, contiguous_to=0, bitmap=0),
        earlier=(state.inbound, *state.earlier)[: limits.INSTANCES_REMEMBERED_MAX - 1],
    )


def with_earlier_instance(state: PairState, held: ReceivedRange) -> PairState:
    """The peer will send messages of an instance of its own that ended; we lost whatever we had of it.

    Idempotent. Bits before the mark are of what nobody can send any more: closed holes.
    """
    known = {state.inbound.instance, *(inbound.instance for inbound in state.earlier)}
    if held.instance in known:
        return state
    ended = Inbound(instance=held.instance, contiguous_to=held.contiguous_to, bitmap=held.bitmap)
    return replace(state, earlier=(*state.earlier, ended)[: limits.INSTANCES_REMEMBERED_MAX - 1])


def seen_ranges(state: PairState) -> tuple[ReceivedRange, ...]:
    """Everything taken in of every instance of the peer that is remembered."""
    return tuple(
        ReceivedRange(instance=i.instance, contiguous_to=i.contiguous_to, bitmap=i.bitmap)
        for i in (state.inbound, *state.earlier)
    )


def with_acknowledged_as_seen(state: PairState, seen: tuple[ReceivedRange, ...]) -> PairState:
    """The peer was restored and holds only what it says: our marks go back to it, once, by its signed reset.

    VerificationFailed ``acknowledgement_ahead`` when it claims a number we never gave out.
    """
    out = state.outbound
    held = next((r for r in seen if r.instance == out.instance), None)
    if held is None:
        return replace(state, outbound=replace(out, acknowledged_to=0, acknowledged_bitmap=0))
    if held.contiguous_to + held.bitmap.bit_length() >= out.next_seq:
        raise VerificationFailed(
            "acknowledgement_ahead", "the peer says it saw a number this node never gave out"
        )
    return replace(
        state, outbound=replace(out, acknowledged_to=held.contiguous_to, acknowledged_bitmap=held.bitmap)
    )


def is_in(ranges: tuple[ReceivedRange, ...], instance: bytes, pair_seq: int) -> bool:
    """Whether these ranges name a number."""
    held = next((r for r in ranges if r.instance == instance), None)
    if held is None:
        return False
    at = pair_seq - held.contiguous_to - 1
    return at < 0 or bool(held.bitmap >> at & 1)


def closed_range(state: PairState, missing_numbers: tuple[int, ...]) -> ReceivedRange:
    """What the peer acknowledged of our present instance, together with numbers nobody can send any more."""
    out = state.outbound
    bits = out.acknowledged_bitmap
    for number in missing_numbers:
        if 0 <= number - out.acknowledged_to - 1 < WINDOW:
            bits |= 1 << number - out.acknowledged_to - 1
    to, bitmap = _settle(out.acknowledged_to, bits)
    return ReceivedRange(instance=out.instance, contiguous_to=to, bitmap=bitmap)


def close_gone(state: PairState, closed: tuple[ReceivedRange, ...]) -> tuple[PairState, int]:
    """Numbers the peer says are closed count as arrived; how many of them we never had.

    A hole nobody can fill must not stop a window.
    """
    count = 0
    for held in closed:
        inbound = _inbound_of(state, held.instance)
        if inbound is None:
            continue
        last = min(held.contiguous_to, inbound.contiguous_to + WINDOW)
        numbers = (
            *range(inbound.contiguous_to + 1, last + 1),
            *_numbers(held.bitmap, held.contiguous_to + 1),
        )
        for number in numbers:
            if judge(state, instance=held.instance, pair_seq=number, rk_first=1) is Judgement.NEW:
                state = after_receiving(state, instance=held.instance, pair_seq=number, service=True)
                count += 1
    return state, count


# --- sending --------------------------------------------------------------------------------------


def next_slot(state: PairState) -> Slot:
    """The place of the next message. PolicyRefused ``window_full`` with 4096 numbers unacknowledged."""
    out = state.outbound
    if out.next_seq > out.acknowledged_to + WINDOW:
        raise PolicyRefused(
            "window_full",
            f"the peer has not acknowledged message {out.acknowledged_to + 1} and {WINDOW} are already "
            "waiting behind it; new messages wait until it answers",
        )
    return Slot(pair_seq=out.next_seq, pair_prev=out.previous_hh)


def after_signing(state: PairState, slot: Slot, hh: bytes) -> PairState:
    """``slot`` belongs to the message with header hash ``hh``; store both in one transaction."""
    out = state.outbound
    if slot.pair_seq != out.next_seq or slot.pair_prev != out.previous_hh:
        raise BrokenInvariant("slot_stale", "a slot was used twice or out of order")
    return replace(state, outbound=replace(out, next_seq=out.next_seq + 1, previous_hh=hh))


def apply_acknowledgement(state: PairState, ack: Acknowledgement) -> tuple[PairState, tuple[int, ...]]:
    """Merge what the peer says it holds; returns our numbers newly acknowledged, lowest first.

    Marks only grow: an older acknowledgement changes nothing. One made by an instance of the peer that ended,
    or about an earlier instance of ours, is ignored. VerificationFailed ``acknowledgement_ahead`` when it
    names a number we never gave out: either the peer lies or this node was rolled back.
    """
    out = state.outbound
    held = next((r for r in ack.ranges if r.instance == out.instance), None)
    if ack.instance != state.inbound.instance or held is None:
        return state, ()
    if held.contiguous_to + held.bitmap.bit_length() >= out.next_seq:
        raise VerificationFailed(
            "acknowledgement_ahead", "the peer acknowledges a number this node never gave out"
        )
    ahead = held.contiguous_to - out.acknowledged_to
    # Seen from our own mark; ahead is at most one window because next_seq is.
    theirs = held.bitmap << ahead | (1 << ahead) - 1 if ahead > 0 else held.bitmap >> -ahead
    fresh = theirs & ~out.acknowledged_bitmap
    if not fresh:
        return state, ()
    to, bitmap = _settle(out.acknowledged_to, out.acknowledged_bitmap | theirs)
    merged = replace(out, acknowledged_to=to, acknowledged_bitmap=bitmap)
    return replace(state, outbound=merged), _numbers(fresh, out.acknowledged_to + 1)


def passed(state: PairState) -> tuple[range, ...]:
    """Our numbers the peer lacks although it acknowledged a later one: each gets a PeerMarkPassed."""
    return _holes(state.outbound.acknowledged_to, state.outbound.acknowledged_bitmap)


# --- receiving ------------------------------------------------------------------------------------


def judge(state: PairState, *, instance: bytes, pair_seq: int, rk_first: int) -> Judgement:
    """Where a verified message stands in the window of its instance. Changes nothing."""
    if not 1 <= rk_first <= pair_seq <= limits.PAIR_SEQ_MAX:
        return Judgement.BEYOND_WINDOW
    inbound = _inbound_of(state, instance)
    if inbound is None:
        return Judgement.OTHER_INSTANCE
    at = pair_seq - inbound.contiguous_to - 1
    if at >= WINDOW:
        return Judgement.BEYOND_WINDOW
    return Judgement.DUPLICATE if at < 0 or inbound.bitmap >> at & 1 else Judgement.NEW


def after_receiving(state: PairState, *, instance: bytes, pair_seq: int, service: bool) -> PairState:
    """Mark one number, NEW or DUPLICATE; store this in the transaction that keeps what arrived.

    ``service``: a control or cover message holding service items only. Such a message is no reason to
    acknowledge; a hole it shows is, and so is a quarter of a window of them. Another message that comes again
    asks again, because the acknowledgement of its first copy may be what was lost.
    """
    inbound = _inbound_of(state, instance)
    if inbound is None or pair_seq > inbound.contiguous_to + WINDOW:
        raise BrokenInvariant("not_judged", "a message outside the window was taken in")
    at = pair_seq - inbound.contiguous_to - 1
    repeated = at < 0 or bool(inbound.bitmap >> at & 1)
    opens_hole = at > inbound.bitmap.bit_length()
    if not repeated:
        to, bitmap = _settle(inbound.contiguous_to, inbound.bitmap | 1 << at)
        taken = Inbound(instance=instance, contiguous_to=to, bitmap=bitmap)
        if instance != state.inbound.instance:
            # The peer no longer waits for numbers of an instance that ended.
            earlier = tuple(taken if i.instance == instance else i for i in state.earlier)
            return replace(state, earlier=earlier)
        inbound = taken
    elif instance != state.inbound.instance:
        return state
    unreported = max(1, state.unreported if repeated else state.unreported + 1)
    return replace(
        state,
        inbound=inbound,
        unreported=unreported,
        ack_due=state.ack_due or not service or opens_hole or unreported >= limits.SERVICE_UNREPORTED_MAX,
    )


def missing(state: PairState) -> tuple[range, ...]:
    """Numbers of the peer that have not arrived although a later one has, as ranges, lowest first."""
    return _holes(state.inbound.contiguous_to, state.inbound.bitmap)


def acknowledgement(state: PairState, key_version: int) -> Acknowledgement:
    """What we hold of the peer's present instance, signed under our ``key_version``."""
    inbound = state.inbound
    return Acknowledgement(
        key_version=key_version,
        instance=state.outbound.instance,
        ranges=(
            ReceivedRange(
                instance=inbound.instance, contiguous_to=inbound.contiguous_to, bitmap=inbound.bitmap
            ),
        ),
    )


def after_acknowledgement_sent(state: PairState) -> PairState:
    """An acknowledgement of this state is durable in the outbox."""
    return replace(state, ack_due=False, unreported=0)


# --- bitmaps --------------------------------------------------------------------------------------


def _inbound_of(state: PairState, instance: bytes) -> Inbound | None:
    if instance == state.inbound.instance:
        return state.inbound
    return next((inbound for inbound in state.earlier if inbound.instance == instance), None)


def _settle(to: int, bitmap: int) -> tuple[int, int]:
    """Move the mark over the ones at the bottom of the bitmap."""
    run = (bitmap ^ (bitmap + 1)).bit_length() - 1
    return to + run, bitmap >> run


def _numbers(bitmap: int, first: int) -> tuple[int, ...]:
    """The numbers of all set bits, bit 0 being ``first``."""
    return tuple(first + at for at, bit in enumerate(bin(bitmap)[:1:-1]) if bit == "1")


def _holes(to: int, bitmap: int) -> tuple[range, ...]:
    """The clear bits below the highest set one, as ranges of numbers."""
    if not bitmap:
        return ()
    bits = bin(bitmap)[:1:-1]
    holes: list[range] = []
    start = bits.find("0")
    while start >= 0:
        stop = bits.find("1", start)
        holes.append(range(to + 1 + start, to + 1 + stop))
        start = bits.find("0", stop)
    return tuple(holes)
