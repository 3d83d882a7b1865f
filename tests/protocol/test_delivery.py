"""The delivery machine of one outbox item: its whole table, its timers, and what it never does."""

import struct
import typing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import BrokenInvariant
from protocol import limits
from protocol.delivery import (
    TRANSITIONS,
    AddressGone,
    AddressKnown,
    AskHeld,
    Cancelled,
    Delivery,
    DeliveryState,
    Event,
    Expired,
    HeldNo,
    HeldYes,
    LinkFailed,
    Nacked,
    PeerAcknowledged,
    PeerMarkPassed,
    PutAccepted,
    PutDuplicate,
    PutNow,
    PutRefused,
    RecordAcknowledged,
    RecordAddressLost,
    RecordCancelled,
    RecordExpired,
    Reseal,
    ResetAsked,
    TimerFired,
    after_puts,
    after_taken_out,
    held_retry_ms,
    link_retry_ms,
    new_delivery,
    step,
)

NOW = 10_000_000
EVENT_TYPES: tuple[type[Event], ...] = typing.get_args(Event)
EVENTS: tuple[Event, ...] = (
    PutAccepted(),
    PutDuplicate(),
    PutRefused(code="quota"),
    AddressGone(),
    AddressKnown(),
    LinkFailed(),
    HeldYes(),
    HeldNo(),
    PeerAcknowledged(),
    PeerMarkPassed(),
    Nacked(),
    ResetAsked(),
    TimerFired(),
    Expired(),
    Cancelled(),
)
RECORDS = (RecordAcknowledged, RecordExpired, RecordCancelled, RecordAddressLost)


def at(phase: Delivery, *, held: bool = False, service: bool = False) -> DeliveryState:
    """A state of this phase as it is reached in life; ``held`` matters for the two bodyless phases."""
    held = held or phase is Delivery.HELD
    done = phase is Delivery.ACKNOWLEDGED
    return DeliveryState(
        phase=phase,
        attempt=2,
        next_at_ms=None if done or (service and held) else NOW,
        expires_ms=NOW + limits.DAY_MS,
        held_since_ms=NOW - limits.HOUR_MS if held else None,
        bodyless=phase in (Delivery.EXPIRED, Delivery.CANCELLED),
        service=service,
    )


STATES = [at(phase) for phase in Delivery] + [
    at(Delivery.EXPIRED, held=True),
    at(Delivery.CANCELLED, held=True),
]
sequences = st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 3 * limits.DAY_MS)), max_size=40)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("state", STATES, ids=lambda s: f"{s.phase}{'+held' if s.held_since_ms else ''}")
def test_every_state_meets_every_event(state: DeliveryState, event: Event) -> None:
    """A listed pair leads to its row's phase or stays for a stated reason; any other pair changes nothing."""
    after, commands = step(state, event, NOW, 0.5)
    row = TRANSITIONS.get((state.phase, type(event)))
    if row is None:
        assert (after, commands) == (state, ())
        return
    assert after.phase is row
    assert len([command for command in commands if isinstance(command, Reseal | PutNow | AskHeld)]) <= 1
    assert after.bodyless >= state.bodyless, "a body once dropped does not come back"
    assert after.service == state.service
    assert after.expires_ms == state.expires_ms
    told = [command for command in commands if isinstance(command, RECORDS)]
    assert len(told) == (after.phase is not state.phase and after.phase in TOLD)


TOLD = (Delivery.ACKNOWLEDGED, Delivery.EXPIRED, Delivery.CANCELLED, Delivery.ADDRESS_LOST)


def test_the_table_names_every_event_and_every_phase() -> None:
    """No event and no phase stands outside the table, so the diagram drawn from it is whole."""
    assert {event for _, event in TRANSITIONS} == set(EVENT_TYPES) == {type(event) for event in EVENTS}
    assert {phase for phase, _ in TRANSITIONS} | set(TRANSITIONS.values()) == set(Delivery)


@given(sequences, st.booleans(), st.floats(0, 1, exclude_max=True))
def test_an_item_always_has_a_next_time_until_it_is_acknowledged(
    events: list[tuple[Event, int]], service: bool, jitter: float
) -> None:
    """Whatever happens, an unacknowledged item has a timer, unless it is a service item a broker holds."""
    now_ms = NOW
    state = new_delivery(now_ms=now_ms, expires_ms=now_ms + limits.DAY_MS, service=service)
    for event, passes_ms in events:
        now_ms += passes_ms
        state, commands = step(state, event, now_ms, jitter)
        rests = state.phase is Delivery.ACKNOWLEDGED or (service and state.held_since_ms is not None)
        assert rests or state.next_at_ms is not None
        assert state.next_at_ms is None or state.next_at_ms <= now_ms + limits.HELD_BACKOFF_MS_MAX
        assert (state.phase is Delivery.HELD) <= (state.held_since_ms is not None)
        sent = [command for command in commands if isinstance(command, Reseal | PutNow)]
        assert all(command.bodyless == state.bodyless for command in sent)
        assert DeliveryState.decode(state.encode()) == state


@given(sequences)
def test_acknowledged_stays_acknowledged(events: list[tuple[Event, int]]) -> None:
    """Nothing but a reset of the peer takes an acknowledged item up again."""
    state = at(Delivery.ACKNOWLEDGED)
    for event, passes_ms in events:
        if not isinstance(event, ResetAsked):
            assert step(state, event, NOW + passes_ms, 0.5) == (state, ())


def test_an_alert_goes_the_usual_way() -> None:
    """Kept, put, held, asked after with growing patience, acknowledged."""
    state = new_delivery(now_ms=NOW, expires_ms=NOW + limits.DAY_MS, service=False)
    assert state.next_at_ms == NOW
    state, commands = step(state, TimerFired(), NOW, 0.0)
    assert commands == (PutNow(bodyless=False),)
    state, commands = step(state, PutAccepted(), NOW, 0.0)
    assert (state.phase, state.next_at_ms, commands) == (Delivery.HELD, NOW + limits.MINUTE_MS, ())
    waits = []
    now_ms = NOW
    for _ in range(14):
        assert state.next_at_ms is not None
        now_ms = state.next_at_ms
        state, commands = step(state, TimerFired(), now_ms, 0.0)
        assert commands == (AskHeld(),)
        state, commands = step(state, HeldYes(), now_ms, 0.0)
        assert commands == ()
        assert state.next_at_ms is not None
        waits.append((state.next_at_ms - now_ms) // limits.MINUTE_MS)
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1440, 1440, 1440, 1440]
    state, commands = step(state, PeerAcknowledged(), now_ms, 0.0)
    assert (state.phase, state.next_at_ms, commands) == (Delivery.ACKNOWLEDGED, None, (RecordAcknowledged(),))


def test_a_link_that_fails_is_tried_again_with_patience() -> None:
    """2 s doubling to 15 min; the same envelope is put again; one success starts over."""
    state = new_delivery(now_ms=NOW, expires_ms=NOW + limits.DAY_MS, service=False)
    waits = []
    for _ in range(12):
        state, commands = step(state, TimerFired(), NOW, 0.0)
        assert commands == (PutNow(bodyless=False),)
        state, _ = step(state, LinkFailed(), NOW, 0.0)
        assert state.next_at_ms is not None
        waits.append((state.next_at_ms - NOW) // 1_000)
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    state, _ = step(state, PutAccepted(), NOW, 0.0)
    assert state.attempt == 0


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_waits_are_bounded_and_spread_downwards(attempt: int, jitter: float) -> None:
    """No attempt count and no jitter leads outside the stated waits, halved at most."""
    assert limits.LINK_BACKOFF_MS_MIN // 2 <= link_retry_ms(attempt, jitter) <= limits.LINK_BACKOFF_MS_MAX
    assert limits.HELD_BACKOFF_MS_MIN // 2 <= held_retry_ms(attempt, jitter) <= limits.HELD_BACKOFF_MS_MAX


def test_nothing_is_sealed_again_while_the_broker_holds_it() -> None:
    """While a custody note stands only not-held, a passed mark, a nack or a reset seals anew."""
    held = at(Delivery.HELD)
    resealing = []
    for event in EVENTS:
        _, commands = step(held, event, NOW, 0.0)
        if any(isinstance(command, Reseal | PutNow) for command in commands):
            resealing.append(type(event))
    assert set(resealing) == {HeldNo, PeerMarkPassed, Nacked, ResetAsked}


def test_a_broker_that_always_says_no_is_believed_ever_more_seldom() -> None:
    """Each no seals anew at once; the question after that waits 1 min doubling to 24 h."""
    state = new_delivery(now_ms=NOW, expires_ms=NOW + 90 * limits.DAY_MS, service=False)
    waits, now_ms = [], NOW
    for _ in range(14):
        state, _ = step(state, PutAccepted(), now_ms, 0.0)
        assert state.next_at_ms is not None
        waits.append((state.next_at_ms - now_ms) // limits.MINUTE_MS)
        now_ms = state.next_at_ms
        state, _ = step(state, TimerFired(), now_ms, 0.0)
        state, commands = step(state, HeldNo(), now_ms, 0.0)
        assert commands == (Reseal(bodyless=False),)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1440, 1440, 1440]
    state, _ = step(state, PutAccepted(), now_ms, 0.0)
    state, _ = step(state, HeldYes(), now_ms, 0.0)
    assert state.next_at_ms == now_ms + limits.HELD_BACKOFF_MS_MAX


@pytest.mark.parametrize("event", [PeerMarkPassed(), Nacked()])
def test_the_word_of_the_peer_costs_no_patience(event: Event) -> None:
    """What the peer signed is true: sealing anew for it leaves the next question as it was."""
    held = replace(at(Delivery.HELD), resealed=3)
    state, commands = step(held, event, NOW, 0.0)
    assert (state.resealed, commands) == (3, (Reseal(bodyless=False),))


def test_another_broker_or_another_life_of_the_peer_is_believed_anew() -> None:
    """A count of the broker before says nothing about this one."""
    for phase, event in ((Delivery.ADDRESS_LOST, AddressKnown()), (Delivery.ACKNOWLEDGED, ResetAsked())):
        assert step(replace(at(phase), resealed=9), event, NOW, 0.0)[0].resealed == 0


def test_a_row_of_an_older_database_is_read() -> None:
    """Version 1 had no count of what was sealed anew."""
    old = struct.pack(">BBIqQq??", 1, 1, 7, NOW, NOW + 5, NOW - 5, False, True)
    assert DeliveryState.decode(old) == DeliveryState(
        phase=Delivery.HELD,
        attempt=7,
        next_at_ms=NOW,
        expires_ms=NOW + 5,
        held_since_ms=NOW - 5,
        bodyless=False,
        service=True,
        resealed=0,
    )


def test_a_mark_that_passes_right_after_the_put_is_looked_at_again_later() -> None:
    """An item overtaken on its way is not sent twice at once; the broker is asked when it should be there."""
    waiting = at(Delivery.KEPT)
    fresh = step(waiting, PutAccepted(), NOW, 0.0)[0]
    looked, commands = step(fresh, PeerMarkPassed(), NOW + 5_000, 0.0)
    assert commands == ()
    assert looked.phase is Delivery.HELD
    assert looked.next_at_ms == NOW + limits.RESEAL_SPACING_MS
    _, commands = step(looked, PeerMarkPassed(), NOW + limits.RESEAL_SPACING_MS, 0.0)
    assert commands == (Reseal(bodyless=False),)


def test_a_service_item_is_not_asked_after() -> None:
    """Nobody acknowledges it on its own account; a passed mark still moves it, early ones included."""
    state = new_delivery(now_ms=NOW, expires_ms=NOW + limits.DAY_MS, service=True)
    state, _ = step(state, TimerFired(), NOW, 0.0)
    state, _ = step(state, PutAccepted(), NOW, 0.0)
    assert state.next_at_ms is None
    assert step(state, TimerFired(), NOW, 0.0) == (state, ())
    early, _ = step(state, PeerMarkPassed(), NOW + 1, 0.0)
    assert early.next_at_ms == NOW + limits.RESEAL_SPACING_MS
    asked, commands = step(early, TimerFired(), NOW + limits.RESEAL_SPACING_MS, 0.0)
    assert commands == (AskHeld(),)
    assert step(asked, HeldYes(), NOW + limits.RESEAL_SPACING_MS, 0.0)[0].next_at_ms is None
    _, commands = step(asked, HeldNo(), NOW + limits.RESEAL_SPACING_MS, 0.0)
    assert commands == (Reseal(bodyless=False),)


def test_a_lost_address_keeps_the_item_and_says_so_once() -> None:
    """Gone: the officer is told, the item waits and is tried again; a new address seals it anew."""
    state = at(Delivery.KEPT)
    state, commands = step(state, PutRefused(code="gone"), NOW, 0.0)
    assert (state.phase, commands) == (Delivery.ADDRESS_LOST, (RecordAddressLost(),))
    waits = []
    for _ in range(12):
        assert state.next_at_ms is not None
        waits.append((state.next_at_ms - NOW) // 1_000)
        state, commands = step(state, TimerFired(), NOW, 0.0)
        assert commands == (PutNow(bodyless=False),)
        state, commands = step(state, AddressGone(), NOW, 0.0)
        assert (state.phase, commands) == (Delivery.ADDRESS_LOST, ())
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    state, commands = step(state, AddressKnown(), NOW, 0.0)
    assert (state.phase, commands) == (Delivery.KEPT, (Reseal(bodyless=False),))


@pytest.mark.parametrize("phase", [Delivery.KEPT, Delivery.HELD])
def test_an_address_lost_after_long_trouble_is_tried_again_at_once(phase: Delivery) -> None:
    """How often the link failed or the broker was asked before it forgot the mailbox does not count."""
    state, _ = step(replace(at(phase), attempt=20), AddressGone(), NOW, 0.0)
    assert (state.phase, state.held_since_ms) == (Delivery.ADDRESS_LOST, None)
    assert state.next_at_ms == NOW + limits.LINK_BACKOFF_MS_MIN


def test_a_full_mailbox_keeps_the_item() -> None:
    """Over quota the sender waits like for a link, and nothing is lost or told as gone."""
    state, commands = step(at(Delivery.KEPT), PutRefused(code="quota"), NOW, 0.0)
    assert (state.phase, commands) == (Delivery.KEPT, ())
    assert state.next_at_ms is not None
    assert state.next_at_ms > NOW


@pytest.mark.parametrize(
    ("event", "record", "phase"),
    [
        (Expired(), RecordExpired(), Delivery.EXPIRED),
        (Cancelled(), RecordCancelled(), Delivery.CANCELLED),
    ],
)
def test_an_ended_item_closes_its_number_without_a_body(
    event: Event, record: RecordExpired | RecordCancelled, phase: Delivery
) -> None:
    """Recorded once, sealed bare, and repeated past its expiry until the peer acknowledges the number."""
    state, commands = step(at(Delivery.KEPT), event, NOW, 0.0)
    assert (state.phase, commands) == (phase, (record, Reseal(bodyless=True)))
    state, _ = step(state, PutAccepted(), NOW, 0.0)
    assert state.held_since_ms == NOW
    state, commands = step(state, TimerFired(), NOW + limits.DAY_MS, 0.0)
    assert commands == (AskHeld(),)
    state, commands = step(state, HeldNo(), NOW + limits.DAY_MS, 0.0)
    assert commands == (Reseal(bodyless=True),)
    assert step(state, event, NOW + limits.DAY_MS, 0.0) == (state, ())
    state, commands = step(state, PeerAcknowledged(), NOW + limits.DAY_MS, 0.0)
    assert (state.phase, state.bodyless, commands) == (Delivery.ACKNOWLEDGED, True, (RecordAcknowledged(),))


@pytest.mark.parametrize("event", [Expired(), Cancelled()])
def test_an_item_that_ends_at_the_broker_is_not_doubled_there(event: Event) -> None:
    """The whole item may still arrive and close the number; a bare copy follows only if it does not."""
    state, commands = step(at(Delivery.HELD), event, NOW, 0.0)
    assert not any(isinstance(command, Reseal | PutNow) for command in commands)
    _, commands = step(state, HeldNo(), NOW, 0.0)
    assert commands == (Reseal(bodyless=True),)


def test_a_peer_that_lost_its_disk_gets_it_again() -> None:
    """Within the backup horizon a reset takes even acknowledged items up, bare ones still bare."""
    state, commands = step(at(Delivery.ACKNOWLEDGED), ResetAsked(), NOW, 0.0)
    assert (state.phase, commands) == (Delivery.KEPT, (Reseal(bodyless=False),))
    bare, _ = step(at(Delivery.EXPIRED), PeerAcknowledged(), NOW, 0.0)
    _, commands = step(bare, ResetAsked(), NOW, 0.0)
    assert commands == (Reseal(bodyless=True),)


@pytest.mark.parametrize("event", [PutRefused(code="quota"), HeldYes(), HeldNo(), PeerMarkPassed()])
def test_late_answers_change_nothing(event: Event) -> None:
    """An answer about an earlier envelope, or to a question already settled, moves no ended item."""
    held = isinstance(event, PutRefused)
    state = at(Delivery.EXPIRED, held=held)
    assert step(state, event, NOW, 0.0) == (state, ())


def test_a_repeated_custody_note_does_not_start_the_patience_over() -> None:
    """Put twice, held once."""
    state = at(Delivery.EXPIRED, held=True)
    assert step(state, PutDuplicate(), NOW, 0.0)[0] == state


@given(st.binary(max_size=100))
def test_a_damaged_row_is_our_bug_and_says_so(data: bytes) -> None:
    """A column that cannot be read stops the task; the item is never taken for delivered."""
    with pytest.raises(BrokenInvariant):
        DeliveryState.decode(data)


def test_a_full_mailbox_is_tried_with_one_until_there_is_room() -> None:
    """A refusal waits 2 s doubling to 15 min; as many follow as were taken out; unknown room is doubled."""
    full = after_puts(None, taken=3, refused=5, now_ms=NOW, jitter=0.0)
    waits, now_ms = [], NOW
    for _ in range(12):
        assert full is not None
        assert full.allowance(full.next_at_ms - 1) == 0
        waits.append((full.next_at_ms - now_ms) // 1_000)
        now_ms = full.next_at_ms
        assert full.allowance(now_ms) == 1
        full = after_puts(full, taken=0, refused=1, now_ms=now_ms, jitter=0.0)
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    assert full is not None
    full = after_taken_out(after_taken_out(full, 2, now_ms), 3, now_ms)
    assert full.allowance(now_ms) == 5
    part = after_puts(full, taken=4, refused=0, now_ms=now_ms, jitter=0.0)
    assert part is not None
    assert part.allowance(now_ms) == 1
    used_up = after_puts(part, taken=1, refused=0, now_ms=now_ms, jitter=0.0)
    assert used_up is not None
    assert used_up.allowance(now_ms) == 0
    grown = []
    for _ in range(5):
        now_ms = max(now_ms, used_up.next_at_ms)
        grown.append(used_up.allowance(now_ms))
        again = after_puts(used_up, taken=grown[-1], refused=0, now_ms=now_ms, jitter=0.0)
        assert again is not None
        used_up = again
    assert grown == [1, 2, 4, 8, 16]


def test_a_mailbox_with_room_is_not_counted() -> None:
    """Nothing is known of a mailbox that never refused, and an answer that says nothing changes nothing."""
    assert after_puts(None, taken=90, refused=0, now_ms=NOW, jitter=0.0) is None
    full = after_puts(None, taken=0, refused=1, now_ms=NOW, jitter=0.0)
    assert after_puts(full, taken=0, refused=0, now_ms=NOW, jitter=0.0) == full


def test_a_clock_set_back_does_not_keep_a_full_mailbox_shut() -> None:
    """A next try further ahead than any wait was set by a clock that stood ahead."""
    full = after_puts(None, taken=0, refused=1, now_ms=NOW + 365 * limits.DAY_MS, jitter=0.0)
    assert full is not None
    assert full.allowance(NOW) == 1
