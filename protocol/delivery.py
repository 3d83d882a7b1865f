"""Life of one outbox item: kept, held by a broker, acknowledged, or ended without its body.

Spec: docs/spec/conversation.md#delivery. Every change of phase is a row of TRANSITIONS; a pair without a row
changes nothing. One rule: an item leaves only when the peer acknowledged it; a broker's word moves timers,
never the end. No I/O: the caller brings events and time, and carries out the commands.
"""

import struct
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, assert_never

from keys.errors import BrokenInvariant
from protocol import limits


class Delivery(StrEnum):
    """Where an item stands. EXPIRED and CANCELLED still travel, as header and signature without body."""

    KEPT = "kept"
    HELD = "held"
    ADDRESS_LOST = "address_lost"
    ACKNOWLEDGED = "acknowledged"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryState:
    """One outbox item.

    ``next_at_ms``: when a TimerFired is due, None for never. ``attempt`` counts what failed or was asked
    since the last progress, for the back-off. ``bodyless``: what is sent from now on has no body (receive
    key rule 6); it stays true after the acknowledgement, when the receipts tell what the peer saw.
    ``service``: the peer may never acknowledge it by itself, so it is not asked after on a timer.
    ``resealed`` counts what was sealed anew on a broker's word alone, up to 255.
    """

    phase: Delivery
    attempt: int
    next_at_ms: int | None
    expires_ms: int
    held_since_ms: int | None  # None while no broker is known to hold the latest envelope
    bodyless: bool
    service: bool
    resealed: int = 0

    def encode(self) -> bytes:
        """For one database column, 33 bytes."""
        return _COLUMN.pack(
            _VERSION,
            _PHASES.index(self.phase),
            self.attempt,
            _NEVER if self.next_at_ms is None else self.next_at_ms,
            self.expires_ms,
            _NEVER if self.held_since_ms is None else self.held_since_ms,
            self.bodyless,
            self.service,
            self.resealed,
        )

    @staticmethod
    def decode(data: bytes) -> "DeliveryState":
        """The inverse of ``encode``, for our own database: other bytes are BrokenInvariant."""
        if data[:1] == _VERSION_1:
            data = _VERSION.to_bytes() + data[1:] + bytes(1)
        try:
            version, phase, attempt, next_at_ms, expires_ms, held_since_ms, bodyless, service, resealed = (
                _COLUMN.unpack(data)
            )
        except struct.error as error:
            raise BrokenInvariant("delivery_state", "a stored delivery state cannot be read") from error
        if version != _VERSION or phase >= len(_PHASES):
            raise BrokenInvariant("delivery_state", "a stored delivery state makes no sense")
        return DeliveryState(
            phase=_PHASES[phase],
            attempt=attempt,
            next_at_ms=None if next_at_ms == _NEVER else next_at_ms,
            expires_ms=expires_ms,
            held_since_ms=None if held_since_ms == _NEVER else held_since_ms,
            bodyless=bodyless,
            service=service,
            resealed=resealed,
        )


# The database column: a fixed layout. Phases are stored by their place here, so new ones go to the end.
_VERSION: Final = 2
_VERSION_1: Final = b"\x01"  # without ``resealed``, in older databases
_COLUMN: Final = struct.Struct(">BBIqQq??B")
_RESEALED_MAX: Final = 255
_PHASES: Final = tuple(Delivery)
_NEVER: Final = -1


# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PutAccepted:
    """The broker's custody note verified (or a stick was written and kept as proof)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutDuplicate:
    """The broker holds, or held within its TTL, exactly this envelope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutRefused:
    """The broker understood and said no; ``code`` is a requests.Refusal. ``gone`` is taken as AddressGone."""

    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressGone:
    """The broker does not know the mailbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressKnown:
    """The peer announced another mailbox, or the broker knows this one again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFailed:
    """A put or a question got no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldYes:
    """The broker says it still holds the latest envelope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldNo:
    """The broker says it does not hold the latest envelope: fetched, expired or lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAcknowledged:
    """The peer's signed acknowledgement names the item's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerMarkPassed:
    """The peer acknowledged a later number and lacks this one (conversation.passed)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nacked:
    """The peer never had the receive key of the latest envelope; the key it announced is adopted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetAsked:
    """The peer lost state and this item may be among what it lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    """``next_at_ms`` has come; may be sent early, as when the link is back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """``expires_ms`` has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """An officer withdrew the item, or its content was erased."""


Event = (
    PutAccepted
    | PutDuplicate
    | PutRefused
    | AddressGone
    | AddressKnown
    | LinkFailed
    | HeldYes
    | HeldNo
    | PeerAcknowledged
    | PeerMarkPassed
    | Nacked
    | ResetAsked
    | TimerFired
    | Expired
    | Cancelled
)

# --- commands -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PutNow:
    """Put the envelope at hand, byte for byte; seal one first if none is at hand.

    ``bodyless`` as in Reseal: an envelope at hand that has a body is no longer the right one.
    """

    bodyless: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reseal:
    """Seal anew to the peer's newest key (same header, signature and leaf), then put that."""

    bodyless: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AskHeld:
    """Ask the broker whether it still holds the latest envelope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordAcknowledged:
    """Write down the acknowledgement; the body may go 35 days later (the backup horizon)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordExpired:
    """Write down negative evidence: not acknowledged before it expired. The body may go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordCancelled:
    """Write down that it was withdrawn before an acknowledgement. The body may go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordAddressLost:
    """Tell the officer that the peer's mailbox is gone; the item is kept."""


Command = PutNow | Reseal | AskHeld | RecordAcknowledged | RecordExpired | RecordCancelled | RecordAddressLost

# --- the table ------------------------------------------------------------------------------------

_K, _H, _L, _A, _E, _C = (
    Delivery.KEPT,
    Delivery.HELD,
    Delivery.ADDRESS_LOST,
    Delivery.ACKNOWLEDGED,
    Delivery.EXPIRED,
    Delivery.CANCELLED,
)

TRANSITIONS: Final[dict[tuple[Delivery, type[Event]], Delivery]] = {
    (_K, PutAccepted): _H,
    (_K, PutDuplicate): _H,
    (_K, PutRefused): _K,
    (_K, AddressGone): _L,
    (_K, AddressKnown): _K,
    (_K, LinkFailed): _K,
    (_K, PeerAcknowledged): _A,
    (_K, Nacked): _K,
    (_K, ResetAsked): _K,
    (_K, TimerFired): _K,
    (_K, Expired): _E,
    (_K, Cancelled): _C,
    (_H, AddressGone): _L,
    (_H, LinkFailed): _H,
    (_H, HeldYes): _H,
    (_H, HeldNo): _K,
    (_H, PeerAcknowledged): _A,
    (_H, PeerMarkPassed): _K,
    (_H, Nacked): _K,
    (_H, ResetAsked): _K,
    (_H, TimerFired): _H,
    (_H, Expired): _E,
    (_H, Cancelled): _C,
    (_L, PutAccepted): _H,
    (_L, PutDuplicate): _H,
    (_L, PutRefused): _K,
    (_L, AddressGone): _L,
    (_L, AddressKnown): _K,
    (_L, LinkFailed): _L,
    (_L, PeerAcknowledged): _A,
    (_L, Nacked): _K,
    (_L, ResetAsked): _K,
    (_L, TimerFired): _L,
    (_L, Expired): _E,
    (_L, Cancelled): _C,
    # Acknowledged is the end, but a peer that lost its disk may ask again within the backup horizon.
    (_A, ResetAsked): _K,
    **{
        (ended, event): ended
        for ended in (_E, _C)
        for event in (
            PutAccepted,
            PutDuplicate,
            PutRefused,
            AddressGone,
            AddressKnown,
            LinkFailed,
            HeldYes,
            HeldNo,
            PeerMarkPassed,
            Nacked,
            ResetAsked,
            TimerFired,
        )
    },
    (_E, PeerAcknowledged): _A,
    (_C, PeerAcknowledged): _A,
}


def new_delivery(*, now_ms: int, expires_ms: int, service: bool) -> DeliveryState:
    """An item just kept; its timer is due at once."""
    return DeliveryState(
        phase=Delivery.KEPT,
        attempt=0,
        next_at_ms=now_ms,
        expires_ms=expires_ms,
        held_since_ms=None,
        bodyless=False,
        service=service,
    )


def step(
    state: DeliveryState, event: Event, now_ms: int, jitter: float
) -> tuple[DeliveryState, tuple[Command, ...]]:
    """The next state and what to do about it. ``jitter`` in [0, 1) spreads the timers.

    A pair that is not in TRANSITIONS returns the state itself and no command: answers come late and twice.
    """
    if isinstance(event, PutRefused) and event.code == "gone":
        event = AddressGone()
    phase = TRANSITIONS.get((state.phase, type(event)))
    if phase is None:
        return state, ()
    moved = replace(state, phase=phase)
    match event:
        case PutAccepted() | PutDuplicate():
            return _held(moved, now_ms, jitter), ()
        # A late answer about an earlier envelope, or about a question already settled.
        case PutRefused() | AddressKnown() if state.held_since_ms is not None:
            return state, ()
        case HeldYes() | HeldNo() | PeerMarkPassed() if state.held_since_ms is None:
            return state, ()
        case TimerFired() if state.next_at_ms is None:
            return state, ()
        case LinkFailed() if state.held_since_ms is not None:
            return replace(state, next_at_ms=now_ms + held_retry_ms(state.attempt, jitter)), ()
        case PutRefused():
            return _wait_for_link(moved, now_ms, jitter), ()
        case AddressGone():
            told = () if state.phase in (_L, _E, _C) else (RecordAddressLost(),)
            # A link that failed before says nothing of an address; what went on failing waits ever longer.
            tries = 0 if told or state.held_since_ms is not None else state.attempt
            return _wait_for_link(replace(moved, attempt=tries, held_since_ms=None), now_ms, jitter), told
        case LinkFailed():
            return _wait_for_link(moved, now_ms, jitter), ()
        case HeldYes():
            return _ask_later(moved, now_ms, jitter), ()
        case PeerMarkPassed() if now_ms < (state.held_since_ms or 0) + limits.RESEAL_SPACING_MS:
            # Overtaken on its way, most likely: ask the broker when it should have arrived.
            soon = (state.held_since_ms or 0) + limits.RESEAL_SPACING_MS
            earlier = soon if state.next_at_ms is None else min(soon, state.next_at_ms)
            return replace(state, next_at_ms=earlier), ()
        case HeldNo():
            # The broker's word alone: each time it is believed, the next question waits twice as long.
            return _reseal(replace(moved, resealed=min(state.resealed + 1, _RESEALED_MAX)), now_ms)
        case AddressKnown() | ResetAsked():
            return _reseal(replace(moved, resealed=0), now_ms)  # another broker, or another life of the peer
        case PeerMarkPassed() | Nacked():
            return _reseal(moved, now_ms)
        case PeerAcknowledged():
            ended = replace(moved, attempt=0, next_at_ms=None, held_since_ms=None)
            return ended, (RecordAcknowledged(),)
        case TimerFired():
            waiting = replace(moved, next_at_ms=now_ms + limits.BROKER_ANSWER_WAIT_MS)
            ask = AskHeld() if state.held_since_ms is not None else PutNow(bodyless=state.bodyless)
            return waiting, (ask,)
        case Expired():
            return _without_body(moved, now_ms, RecordExpired())
        case Cancelled():
            return _without_body(moved, now_ms, RecordCancelled())
        case _:
            assert_never(event)


def link_retry_ms(attempt: int, jitter: float) -> int:
    """How long to wait after the ``attempt``-th failure in a row: 2 s doubling to 15 min, up to a half less.

    The spread keeps offices that lost one broker together from coming back together.
    """
    doubled = limits.LINK_BACKOFF_MS_MIN << min(max(attempt, 1) - 1, 20)
    return _spread(min(doubled, limits.LINK_BACKOFF_MS_MAX), jitter)


def held_retry_ms(attempt: int, jitter: float) -> int:
    """How long until the next ``held?`` after ``attempt`` of them: 1 min to 24 h, up to a half less."""
    doubled = limits.HELD_BACKOFF_MS_MIN << min(attempt, 20)
    return _spread(min(doubled, limits.HELD_BACKOFF_MS_MAX), jitter)


# --- a mailbox without room -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FullMailbox:
    """A mailbox that refused an item as over its quota: what waits for it rests, but for so many at a time.

    ``probe``: how many are tried at ``next_at_ms``, while nothing is known of any room. ``credit``: how many
    the peer took out since, each of which left room for one. The whole envelope travels with a put, so trying
    every item costs a poor line all it has; a broker that says "full" for ever is asked for ever, with one.
    """

    attempt: int
    next_at_ms: int
    probe: int
    credit: int

    def allowance(self, now_ms: int) -> int:
        """How many may be put now. A time further ahead than any may lie is of a clock since set back."""
        if now_ms < self.next_at_ms <= now_ms + limits.LINK_BACKOFF_MS_MAX:
            return 0
        return self.credit or self.probe


def after_puts(
    full: FullMailbox | None, *, taken: int, refused: int, now_ms: int, jitter: float
) -> FullMailbox | None:
    """What is known of the mailbox after it took and refused so many items. None: there is room for all.

    Room that nobody told of, as of items whose time was over, is found by doubling what is tried.
    """
    if refused:
        attempt = 1 if full is None or taken else full.attempt + 1
        return _no_room(attempt, now_ms, jitter)
    if full is None or not taken:
        return full
    if not full.credit:
        return replace(full, attempt=0, next_at_ms=now_ms, probe=2 * taken)
    if taken >= full.credit:
        return _no_room(1, now_ms, jitter)
    return replace(full, next_at_ms=now_ms, credit=full.credit - taken)


def after_taken_out(full: FullMailbox, count: int, now_ms: int) -> FullMailbox:
    """The peer acknowledged ``count`` items, and so has deleted them."""
    return FullMailbox(attempt=0, next_at_ms=now_ms, probe=1, credit=full.credit + count)


def _no_room(attempt: int, now_ms: int, jitter: float) -> FullMailbox:
    wait_ms = link_retry_ms(attempt, jitter)
    return FullMailbox(attempt=attempt, next_at_ms=now_ms + wait_ms, probe=1, credit=0)


# --- inside ---------------------------------------------------------------------------------------


def _spread(delay_ms: int, jitter: float) -> int:
    return delay_ms - int(delay_ms * jitter / 2)


def _held(state: DeliveryState, now_ms: int, jitter: float) -> DeliveryState:
    if state.held_since_ms is not None:
        return state
    # Nobody acknowledges a service item on its own account: only a passed mark, a nack or a reset moves it.
    next_at_ms = None if state.service else now_ms + held_retry_ms(state.resealed, jitter)
    return replace(state, attempt=state.resealed, next_at_ms=next_at_ms, held_since_ms=now_ms)


def _ask_later(state: DeliveryState, now_ms: int, jitter: float) -> DeliveryState:
    if state.service:
        return replace(state, next_at_ms=None)
    attempt = state.attempt + 1
    return replace(state, attempt=attempt, next_at_ms=now_ms + held_retry_ms(attempt, jitter))


def _wait_for_link(state: DeliveryState, now_ms: int, jitter: float) -> DeliveryState:
    attempt = state.attempt + 1
    return replace(state, attempt=attempt, next_at_ms=now_ms + link_retry_ms(attempt, jitter))


def _reseal(state: DeliveryState, now_ms: int) -> tuple[DeliveryState, tuple[Command, ...]]:
    wait_ms = limits.BROKER_ANSWER_WAIT_MS
    sealed = replace(state, attempt=0, next_at_ms=now_ms + wait_ms, held_since_ms=None)
    # An expired or cancelled item that was acknowledged once stays without body when the peer asks again.
    return sealed, (Reseal(bodyless=state.bodyless),)


def _without_body(
    state: DeliveryState, now_ms: int, record: RecordExpired | RecordCancelled
) -> tuple[DeliveryState, tuple[Command, ...]]:
    bare = replace(state, bodyless=True)
    if state.held_since_ms is not None:
        # The whole item may still arrive from the broker, and then closes the number itself.
        return bare, (record,)
    resealed, commands = _reseal(bare, now_ms)
    return resealed, (record, *commands)
