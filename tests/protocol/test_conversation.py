"""One pair over a channel that loses, repeats and reorders: nothing lost, nothing twice, then rest."""

import contextlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keys.errors import BrokenInvariant, PolicyRefused, VerificationFailed
from protocol import limits
from protocol.conversation import (
    NO_PREVIOUS,
    Inbound,
    Judgement,
    PairState,
    acknowledgement,
    after_acknowledgement_sent,
    after_receiving,
    after_signing,
    apply_acknowledgement,
    judge,
    missing,
    new_pair_state,
    next_slot,
    passed,
    with_my_instance,
    with_peer_instance,
)
from protocol.items import Acknowledgement, ReceivedRange
from tests.protocol.pair import End, Mailbox, Pair

MINE, PEER, LATER = b"mine 001", b"peer 001", b"peer 002"
WINDOW = limits.WINDOW_MESSAGES


class PairOverABadChannel(RuleBasedStateMachine):
    """Whatever the mailbox and the link do, healing them brings every alert across exactly once."""

    @initialize()
    def begin(self) -> None:
        self.pair = Pair()
        self.sent: dict[str, list[str]] = {"a": [], "b": []}
        self.withdrawn: set[str] = set()
        self.fetched: dict[str, list[object]] = {"a": [], "b": []}

    def end(self, first: bool) -> End:
        return self.pair.a if first else self.pair.b

    def box(self, first: bool) -> Mailbox:
        return self.pair.to_a if first else self.pair.to_b

    @rule(first=st.booleans(), count=st.integers(1, 5), short=st.booleans(), room=st.booleans())
    def write(self, first: bool, count: int, short: bool, room: bool) -> None:
        end = self.end(first)
        for _ in range(count):
            text = f"{end.name}{len(self.sent[end.name])}"
            self.sent[end.name].append(text)
            if short:
                self.withdrawn.add(text)
            end.send(text, lives_ms=90_000 if short else 10**12, room=room)

    @rule(first=st.booleans(), pick=st.randoms(use_true_random=False))
    def withdraw(self, first: bool, pick: object) -> None:
        end = self.end(first)
        rows = [row for row in end.open_rows.values() if row.signed.text is not None]
        if rows:
            row = rows[-1]
            self.withdrawn.add(row.signed.text or "")
            end.cancel(row.signed.pair_seq)

    @rule(first=st.booleans())
    def work(self, first: bool) -> None:
        self.end(first).tick()

    @rule(first=st.booleans(), at=st.integers(0, 50), keep=st.booleans())
    def deliver_one(self, first: bool, at: int, keep: bool) -> None:
        """Any item, in any order; kept means that the delete did not reach the broker."""
        box = self.box(first)
        if box.items:
            at %= len(box.items)
            envelope = box.items[at] if keep else box.items.pop(at)
            self.end(first).receive(envelope)
            self.fetched[self.end(first).name].append(envelope)

    @rule(first=st.booleans(), at=st.integers(0, 200))
    def replay(self, first: bool, at: int) -> None:
        """The broker brings back something that was fetched long ago."""
        old = self.fetched[self.end(first).name]
        if old:
            self.end(first).receive(old[at % len(old)])  # type: ignore[arg-type]

    @rule(first=st.booleans(), at=st.integers(0, 50))
    def lose(self, first: bool, at: int) -> None:
        box = self.box(first)
        if box.items:
            box.items.pop(at % len(box.items))

    @rule(first=st.booleans())
    def lose_all(self, first: bool) -> None:
        self.box(first).items.clear()

    @rule(up=st.booleans())
    def link(self, up: bool) -> None:
        self.pair.world.link_up = up

    @rule(seconds=st.sampled_from([1, 30, 120, 3_600, 86_400, 20 * 86_400]))
    def wait(self, seconds: int) -> None:
        self.pair.world.now_ms += seconds * 1_000

    @rule(first=st.booleans())
    def restart(self, first: bool) -> None:
        self.end(first).store_and_load()

    @rule(first=st.booleans())
    def nightly(self, first: bool) -> None:
        self.end(first).forget_by_timer()

    @precondition(lambda self: hasattr(self, "pair"))
    @invariant()
    def nothing_twice_and_nothing_unreadable(self) -> None:
        for end, other in ((self.pair.a, self.pair.b), (self.pair.b, self.pair.a)):
            twice = [text for text, count in Counter(end.shown).items() if count > 1]
            assert not twice
            assert not end.undecryptable
            assert set(end.shown) <= set(self.sent[other.name])

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        self.pair.settle()
        # Fresh traffic both ways repairs what only silence could hide: a lost last service item.
        for end in self.pair.ends:
            text = f"{end.name}{len(self.sent[end.name])}"
            self.sent[end.name].append(text)
            end.send(text)
            self.pair.settle()
        before = {end.name: end.state.outbound.next_seq for end in self.pair.ends}
        self.nothing_twice_and_nothing_unreadable()
        for end, other in ((self.pair.a, self.pair.b), (self.pair.b, self.pair.a)):
            lost = set(self.sent[end.name]) - set(other.shown) - self.withdrawn
            assert not lost, "every alert that was not withdrawn is shown"
            waiting = [row for row in end.open_rows.values() if row.signed.text is not None]
            assert not waiting, "every alert is acknowledged"
            assert not missing(other.state), "no hole is left"
            assert not end.keys.old, "every old key is closed"
            assert end.seeds == {end.keys.cur.key_id} | ({end.keys.next.key_id} if end.keys.next else set())
        # A month of silence: nobody answers an answer.
        self.pair.world.now_ms += 30 * limits.DAY_MS
        self.pair.settle()
        assert {end.name: end.state.outbound.next_seq for end in self.pair.ends} == before


TestPairOverABadChannel = PairOverABadChannel.TestCase
TestPairOverABadChannel.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_one_sided_traffic_never_fills_the_other_sides_window() -> None:
    """An office that only answers with acknowledgements can go on for ever, although nobody answers those."""
    pair = Pair()
    for number in range(WINDOW + 200):
        pair.a.send(f"a{number}", room=False)
        pair.settle()
    assert len(pair.b.shown) == WINDOW + 200
    assert pair.b.state.outbound.next_seq > WINDOW, "every answer took a number"
    assert next_slot(pair.b.state).pair_seq == pair.b.state.outbound.next_seq
    pair.a.world.now_ms += 30 * limits.DAY_MS
    assert pair.settle() == 0, "and then there is silence"


def test_a_burst_costs_few_acknowledgements() -> None:
    """A thousand alerts fetched together are acknowledged by one service message."""
    pair = Pair()
    for number in range(1_000):
        pair.a.send(f"a{number}")
    pair.settle()
    assert len(pair.b.shown) == 1_000
    assert pair.b.signed_service <= 2


class WindowAgainstASet(RuleBasedStateMachine):
    """The bitmap windows say at every step what plain sets of numbers say."""

    def __init__(self) -> None:
        super().__init__()
        self.a = new_pair_state(MINE, PEER)
        self.b = new_pair_state(PEER, MINE)
        self.received: set[int] = set()
        self.known: set[int] = set()
        self.notes = [acknowledgement(self.b, 1)]

    @rule(count=st.integers(1, 300))
    def number(self, count: int) -> None:
        for _ in range(count):
            if self.a.outbound.next_seq - self.a.outbound.acknowledged_to == WINDOW + 1:
                with pytest.raises(PolicyRefused):
                    next_slot(self.a)
                return
            slot = next_slot(self.a)
            self.a = after_signing(self.a, slot, slot.pair_seq.to_bytes(32, "big"))

    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        top = self.a.outbound.next_seq - 1
        if top == 0:
            return
        first = data.draw(st.integers(max(1, self.b.inbound.contiguous_to - 2), top))
        for seq in range(first, min(top, first + data.draw(st.integers(0, 40))) + 1):
            verdict = judge(self.b, instance=MINE, pair_seq=seq, rk_first=1)
            assert verdict is (Judgement.DUPLICATE if seq in self.received else Judgement.NEW)
            self.received.add(seq)
            self.b = after_receiving(self.b, instance=MINE, pair_seq=seq, service=False)

    @rule()
    def note(self) -> None:
        self.notes.append(acknowledgement(self.b, 1))

    @rule(data=st.data())
    def learn(self, data: st.DataObject) -> None:
        ack = self.notes[data.draw(st.integers(0, len(self.notes) - 1))]
        (held,) = ack.ranges
        named = set(range(1, held.contiguous_to + 1)) | {
            held.contiguous_to + 1 + i for i in range(held.bitmap.bit_length()) if held.bitmap >> i & 1
        }
        self.a, numbers = apply_acknowledgement(self.a, ack)
        assert list(numbers) == sorted(named - self.known)
        self.known |= named

    @rule()
    def reload(self) -> None:
        assert PairState.decode(self.a.encode()) == self.a
        assert PairState.decode(self.b.encode()) == self.b
        assert len(self.b.encode()) < 2_048

    @invariant()
    def marks_match(self) -> None:
        inbound, out = self.b.inbound, self.a.outbound
        mark = next(seq for seq in range(inbound.contiguous_to, 10**9) if seq + 1 not in self.received)
        assert inbound.contiguous_to == mark
        absent = [seq for hole in missing(self.b) for seq in hole]
        assert absent == [n for n in range(1, max(self.received, default=0)) if n not in self.received]
        unheard = [seq for hole in passed(self.a) for seq in hole]
        assert unheard == [n for n in range(1, max(self.known, default=0)) if n not in self.known]
        assert out.acknowledged_to + 1 not in self.known


TestWindowAgainstASet = WindowAgainstASet.TestCase
TestWindowAgainstASet.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def with_received(*numbers: int) -> PairState:
    """A pair that took in these numbers of the peer."""
    state = new_pair_state(MINE, PEER)
    for number in numbers:
        state = after_receiving(state, instance=PEER, pair_seq=number, service=False)
    return state


def with_sent(count: int) -> PairState:
    """A pair that gave out this many numbers."""
    state = new_pair_state(MINE, PEER)
    for number in range(count):
        state = after_signing(state, next_slot(state), bytes([number % 251]) * 32)
    return state


@pytest.mark.parametrize(
    ("pair_seq", "rk_first", "verdict"),
    [
        (3, 1, Judgement.NEW),
        (1, 1, Judgement.DUPLICATE),
        (4, 1, Judgement.DUPLICATE),
        (2 + WINDOW, 1, Judgement.NEW),
        (3 + WINDOW, 1, Judgement.BEYOND_WINDOW),
        (0, 0, Judgement.BEYOND_WINDOW),
        (3, 0, Judgement.BEYOND_WINDOW),
        (3, 3, Judgement.NEW),
        (3, 4, Judgement.BEYOND_WINDOW),
        (2**64 - 1, 1, Judgement.BEYOND_WINDOW),
    ],
)
def test_the_window_ends_where_it_says(pair_seq: int, rk_first: int, verdict: Judgement) -> None:
    """With 1, 2 and 4 received the window reaches to 2 + 4096, and rk_first lies within 1..pair_seq."""
    assert judge(with_received(1, 2, 4), instance=PEER, pair_seq=pair_seq, rk_first=rk_first) is verdict


def test_an_unknown_instance_is_neither_new_nor_junk() -> None:
    """The caller decides: a reset under a newer key may begin it, anything else is not for this window."""
    assert judge(with_received(1), instance=LATER, pair_seq=1, rk_first=1) is Judgement.OTHER_INSTANCE


def test_the_sender_stops_at_the_window() -> None:
    """With 4096 numbers unacknowledged the officer is told to wait; one acknowledgement opens one place."""
    state = with_sent(WINDOW)
    with pytest.raises(PolicyRefused) as full:
        next_slot(state)
    assert full.value.code == "window_full"
    ack = Acknowledgement(
        key_version=1, instance=PEER, ranges=(ReceivedRange(instance=MINE, contiguous_to=1, bitmap=0),)
    )
    state, numbers = apply_acknowledgement(state, ack)
    assert numbers == (1,)
    assert next_slot(state).pair_seq == WINDOW + 1


def test_each_message_names_the_one_before() -> None:
    """pair_prev is zeros for the first message and then the hh of the one signed last."""
    state = new_pair_state(MINE, PEER)
    assert next_slot(state).pair_prev == NO_PREVIOUS
    state = after_signing(state, next_slot(state), b"\x01" * 32)
    assert next_slot(state).pair_prev == b"\x01" * 32


def test_a_slot_is_used_once() -> None:
    """Two messages with one number would be equivocation signed by ourselves: our bug, and it stops there."""
    state = new_pair_state(MINE, PEER)
    slot = next_slot(state)
    state = after_signing(state, slot, b"\x01" * 32)
    with pytest.raises(BrokenInvariant):
        after_signing(state, slot, b"\x02" * 32)


@pytest.mark.parametrize(("to", "bitmap"), [(3, 0), (0, 0b1000), (2**62, 0)])
def test_an_acknowledgement_of_what_was_never_sent_is_seen(to: int, bitmap: int) -> None:
    """Either the peer lies or this node was rolled back; both must be noticed, and nothing changes."""
    ack = Acknowledgement(
        key_version=1,
        instance=PEER,
        ranges=(ReceivedRange(instance=MINE, contiguous_to=to, bitmap=bitmap),),
    )
    with pytest.raises(VerificationFailed) as ahead:
        apply_acknowledgement(with_sent(2), ack)
    assert ahead.value.code == "acknowledgement_ahead"


@pytest.mark.parametrize(("by", "about"), [(LATER, MINE), (PEER, LATER)])
def test_acknowledgements_across_instances_are_ignored(by: bytes, about: bytes) -> None:
    """What an earlier life of the peer held, or held of an earlier life of ours, says nothing now."""
    state = with_sent(3)
    ack = Acknowledgement(
        key_version=1, instance=by, ranges=(ReceivedRange(instance=about, contiguous_to=2, bitmap=0),)
    )
    assert apply_acknowledgement(state, ack) == (state, ())


def test_service_messages_are_no_reason_to_acknowledge() -> None:
    """A stream of acknowledgements, heartbeats and cover is silent until a quarter of a window of them."""
    state = new_pair_state(MINE, PEER)
    for number in range(1, limits.SERVICE_UNREPORTED_MAX):
        state = after_receiving(state, instance=PEER, pair_seq=number, service=True)
        assert not state.ack_due
    state = after_receiving(state, instance=PEER, pair_seq=limits.SERVICE_UNREPORTED_MAX, service=True)
    assert state.ack_due
    assert after_acknowledgement_sent(state).unreported == 0


def test_a_hole_is_a_reason_to_acknowledge() -> None:
    """A service message that shows a hole asks for an acknowledgement once, so that the hole is filled."""
    state = after_receiving(new_pair_state(MINE, PEER), instance=PEER, pair_seq=2, service=True)
    assert state.ack_due
    state = after_acknowledgement_sent(state)
    assert not after_receiving(state, instance=PEER, pair_seq=3, service=True).ack_due
    assert not after_receiving(state, instance=PEER, pair_seq=1, service=True).ack_due


def test_a_repeated_message_asks_again_and_a_repeated_service_message_does_not() -> None:
    """The first acknowledgement may be what was lost; of acknowledgements nobody keeps count."""
    state = after_acknowledgement_sent(with_received(1))
    assert after_receiving(state, instance=PEER, pair_seq=1, service=False).ack_due
    assert not after_receiving(state, instance=PEER, pair_seq=1, service=True).ack_due


def test_a_late_item_of_an_ended_instance_is_still_told_from_a_new_one() -> None:
    """After a reset of the peer its old numbers keep their own window, and end no wait of the new one."""
    state = after_acknowledgement_sent(with_received(1, 2))
    state = with_peer_instance(state, LATER)
    assert state.inbound == Inbound(instance=LATER, contiguous_to=0, bitmap=0)
    assert judge(state, instance=PEER, pair_seq=2, rk_first=1) is Judgement.DUPLICATE
    assert judge(state, instance=PEER, pair_seq=3, rk_first=1) is Judgement.NEW
    assert judge(state, instance=LATER, pair_seq=1, rk_first=1) is Judgement.NEW
    state = after_receiving(state, instance=PEER, pair_seq=3, service=False)
    assert not state.ack_due
    assert after_receiving(state, instance=PEER, pair_seq=3, service=False) == state
    assert judge(state, instance=PEER, pair_seq=3, rk_first=1) is Judgement.DUPLICATE
    assert PairState.decode(state.encode()) == state
    (held,) = acknowledgement(state, 1).ranges
    assert held.instance == LATER


def test_an_ended_instance_does_not_come_back() -> None:
    """A repeated or late reset changes nothing; old lives are remembered up to a number."""
    state = with_peer_instance(with_received(1), LATER)
    assert with_peer_instance(state, LATER) == state
    assert with_peer_instance(state, PEER) == state
    for life in range(20):
        state = with_peer_instance(state, bytes([life]) * 8)
    assert len(state.earlier) == limits.INSTANCES_REMEMBERED_MAX - 1
    assert PairState.decode(state.encode()) == state


def test_my_new_instance_numbers_from_one_and_continues_pair_prev() -> None:
    """After a restore the numbers begin again under another instance; the chain of hh does not."""
    state = with_my_instance(with_sent(3), LATER)
    assert next_slot(state).pair_seq == 1
    assert next_slot(state).pair_prev == bytes([2]) * 32
    with pytest.raises(BrokenInvariant):
        with_my_instance(state, LATER)


@pytest.mark.parametrize(("instance", "pair_seq"), [(PEER, WINDOW + 1), (LATER, 1)])
def test_only_what_was_judged_is_taken_in(instance: bytes, pair_seq: int) -> None:
    """Marking a message outside the window is our own bug, never a silent change."""
    with pytest.raises(BrokenInvariant):
        after_receiving(new_pair_state(MINE, PEER), instance=instance, pair_seq=pair_seq, service=False)


@given(st.binary(max_size=300))
def test_a_damaged_state_is_our_bug_and_says_so(data: bytes) -> None:
    """A column that cannot be read stops the task; it is never taken for an empty pair."""
    with contextlib.suppress(BrokenInvariant):
        PairState.decode(data)


@pytest.mark.parametrize("cut", [0, 1, 50, -1])
def test_a_cut_state_is_our_bug_and_says_so(cut: int) -> None:
    """Nor is half a column taken for a whole one."""
    with pytest.raises(BrokenInvariant):
        PairState.decode(with_received(1, 4).encode()[:cut])
