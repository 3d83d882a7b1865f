"""Receive keys: never a message that cannot be opened, and no key that outlives what it is for."""

import statistics
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import BrokenInvariant
from protocol import limits
from protocol.conversation import Inbound
from protocol.items import KeyAnnouncement
from protocol.receivekeys import (
    KeyStatus,
    OldReceiveKey,
    PeerKey,
    ReceiveKeys,
    adopt,
    after_announced,
    after_verified,
    announce,
    announcement,
    announcement_due_ms,
    close_old,
    first_receive_keys,
    live_key_ids,
    status_of,
    wants_next,
    with_my_new_instance,
    with_next,
)
from tests.protocol.pair import Pair

PUBLIC = b"p" * limits.XWING_PUBLIC_BYTES
K1, K2, K3 = b"key 0001", b"key 0002", b"key 0003"
PEER, LATER = b"peer 001", b"peer 002"
NOW = 100 * limits.DAY_MS


# --- whole lives ----------------------------------------------------------------------------------


class Life:
    """One pair of offices through days of traffic, outages, losses and restarts."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.pair = Pair()
        self.exposed: list[int] = []
        self.alerts_per_hour = self.chance.choice([0.02, 0.1, 0.4])
        self.online = self.chance.choice([0.3, 0.7, 0.95])
        self.losses = self.chance.choice([0.0, 0.003, 0.03])

    def hour(self) -> None:
        """An hour of both offices."""
        pair, chance = self.pair, self.chance
        pair.world.now_ms += limits.HOUR_MS
        pair.world.link_up = chance.random() < 0.95
        for end in pair.ends:
            if chance.random() < self.alerts_per_hour:
                for _ in range(chance.choice([1, 1, 1, 4])):
                    lives_ms = chance.choice([6 * limits.HOUR_MS, 30 * limits.DAY_MS])
                    end.send(
                        f"{end.name}{pair.world.number()}", lives_ms=lives_ms, room=chance.random() < 0.8
                    )
            if chance.random() < self.online:
                end.tick()
                waiting = [item for item in end.inbox.items if chance.random() >= self.losses]
                if chance.random() < 0.1:
                    chance.shuffle(waiting)
                kept = [item for item in waiting if chance.random() < 0.01]
                end.inbox.items[:] = kept
                for envelope in waiting:
                    end.receive(envelope)
                end.tick()
            if chance.random() < 0.01:
                end.store_and_load()
            end.forget_by_timer()
        self.exposed.append(pair.a.exposed_now())

    def drop_expired_at_the_broker(self) -> None:
        """Whatever waited 14 days is gone."""
        for box in (self.pair.to_a, self.pair.to_b):
            if self.chance.random() < 0.1:
                box.items.clear()


def test_forty_pairs_for_ninety_days() -> None:
    """0 undecryptable over 40 pairs and 90 days, and half the time at most three read alerts are exposed."""
    exposed: list[int] = []
    old_keys: list[int] = []
    for seed in range(40):
        life = Life(seed)
        for _day in range(90):
            for _hour in range(24):
                life.hour()
            life.drop_expired_at_the_broker()
        life.pair.settle()
        for end in life.pair.ends:
            assert not end.undecryptable, f"seed {seed}"
            old_keys.append(len(end.keys.old))
        exposed += life.exposed
    assert statistics.median(exposed) <= 3
    assert statistics.median(old_keys) == 0


@settings(max_examples=100, deadline=None)
@given(st.integers(40, 10**9), st.integers(1, 300))
def test_no_schedule_makes_a_message_unreadable(seed: int, hours: int) -> None:
    """Any run of hours, then a healed channel and fresh traffic: all is readable, all old keys are closed."""
    life = Life(seed)
    for _hour in range(hours):
        life.hour()
    pair = life.pair
    pair.settle()
    for end in pair.ends:
        end.send(f"{end.name} at last")
        pair.settle()
    for end in pair.ends:
        assert not end.undecryptable
        assert not end.keys.old
        assert set(live_key_ids(end.keys)) == end.seeds


# --- the rules one by one -------------------------------------------------------------------------


def fresh() -> ReceiveKeys:
    """The keys right after pairing."""
    return first_receive_keys(key_id=K1, public=PUBLIC, peer_instance=PEER, now_ms=NOW)


def pending(keys: ReceiveKeys | None = None, key_id: bytes = K2) -> ReceiveKeys:
    """With an unproven next key."""
    return with_next(keys or fresh(), key_id=key_id, public=PUBLIC, peer_instance=PEER, now_ms=NOW)


def verified(
    keys: ReceiveKeys,
    *,
    opened_with: bytes = K1,
    rk_known: bytes = K1,
    rk_first: int = 1,
    to: int = 1,
    instance: bytes = PEER,
    now_ms: int = NOW,
) -> tuple[ReceiveKeys, tuple[bytes, ...]]:
    """One verified message after which everything up to ``to`` has arrived."""
    return after_verified(
        keys,
        opened_with=opened_with,
        rk_known=rk_known,
        rk_first=rk_first,
        inbound=Inbound(instance=instance, contiguous_to=to, bitmap=0),
        instance=instance,
        now_ms=now_ms,
    )


def test_rule_1_a_key_is_made_when_the_last_was_used_or_is_a_week_old() -> None:
    """An unused young key stays; use or age asks for the next; there is one next at a time."""
    keys = fresh()
    assert not wants_next(keys, NOW + limits.RECEIVE_KEY_AGE_MS_MAX)
    assert wants_next(keys, NOW + limits.RECEIVE_KEY_AGE_MS_MAX + 1)
    used, _ = verified(keys)
    assert wants_next(used, NOW)
    assert not wants_next(pending(used), NOW + limits.DAY_MS * 365)
    with pytest.raises(BrokenInvariant):
        pending(pending(), K3)


def test_rule_1_an_announcement_goes_out_within_the_hour_and_until_proven() -> None:
    """It has an hour to find room beside another message, then a day until it is repeated."""
    keys = pending()
    assert announcement(fresh(), 7) is None
    assert announcement_due_ms(fresh()) is None
    assert announcement(keys, 7) == KeyAnnouncement(key_version=7, rk_gen=2, key_id=K2, public=PUBLIC)
    assert announcement_due_ms(keys) == NOW + limits.ANNOUNCEMENT_DELAY_MS_MAX
    keys = after_announced(keys, NOW + 5)
    assert announcement_due_ms(keys) == NOW + 5 + limits.DAY_MS
    assert announcement(keys, 7) is not None
    proven, _ = verified(keys, rk_known=K2, rk_first=2)
    assert announcement_due_ms(proven) is None
    assert after_announced(proven, NOW) == proven


def test_rule_3_a_key_is_proven_by_a_signed_leaf_that_names_it() -> None:
    """next becomes cur when the peer says it knows it, whichever key that message was sealed to."""
    keys, gone = verified(pending(), rk_known=K1)
    assert keys.next is not None
    assert gone == ()
    keys, gone = verified(keys, rk_known=K2, rk_first=5, to=3)
    assert keys.cur.key_id == K2
    assert keys.next is None
    assert keys.old == (OldReceiveKey(key_id=K1, hi=5, retired_ms=NOW, peer_instance=PEER),)
    assert gone == ()
    assert verified(keys, rk_known=K2, rk_first=5, to=3) == (keys, ())


def test_rule_4_an_old_key_goes_when_everything_below_its_end_arrived() -> None:
    """With 5 the first number sealed to the new key, the old one is needed until 4 is here, no longer."""
    keys, _ = verified(pending(), rk_known=K2, rk_first=5, to=3)
    keys, gone = verified(keys, to=3, now_ms=NOW + 365 * limits.DAY_MS)
    assert gone == (), "time alone deletes no key of the peer's present life"
    keys, gone = verified(keys, to=4)
    assert gone == (K1,)
    assert status_of(keys, K1) is KeyStatus.DELETED
    assert live_key_ids(keys) == (K2,)


def test_rule_4_a_key_of_an_earlier_life_of_the_peer_goes_by_time() -> None:
    """Numbers of another instance say nothing; two days after the broker dropped the last item it goes."""
    keys, _ = verified(pending(), rk_known=K2, rk_first=1, to=9, instance=LATER)
    assert keys.cur.key_id == K2
    inbound = Inbound(instance=LATER, contiguous_to=1_000, bitmap=0)
    same, gone = close_old(keys, inbound=inbound, now_ms=NOW + limits.OLD_RECEIVE_KEY_TTL_MS - 1)
    assert (same, gone) == (keys, ())
    keys, gone = close_old(keys, inbound=inbound, now_ms=NOW + limits.OLD_RECEIVE_KEY_TTL_MS)
    assert gone == (K1,)


def test_rule_4_no_timer_touches_the_present_or_the_unproven_key() -> None:
    """However long an office is shut, what its peers may seal to stays."""
    keys = pending()
    inbound = Inbound(instance=LATER, contiguous_to=10**6, bitmap=0)
    assert close_old(keys, inbound=inbound, now_ms=NOW + 10_000 * limits.DAY_MS) == (keys, ())


def test_a_late_message_of_an_ended_life_proves_nothing() -> None:
    """Its rk_first counts in numbers nobody uses any more: the new life must prove the key itself."""
    keys, gone = after_verified(
        pending(),
        opened_with=K1,
        rk_known=K2,
        rk_first=1,
        inbound=Inbound(instance=LATER, contiguous_to=50, bitmap=0),
        instance=PEER,
        now_ms=NOW,
    )
    assert keys.next is not None
    assert gone == ()


@given(st.permutations([(1, 1), (1, 2), (1, 9), (2, 1), (2, 2)]))
def test_rule_5_the_highest_announcement_wins_in_any_order(order: list[tuple[int, int]]) -> None:
    """No clock decides: whatever arrives first, the sender ends on the newest key of the newest version."""
    known = PeerKey(announcement=announce(fresh().cur, 0), rk_first=1)
    for at, (version, gen) in enumerate(order, start=2):
        made = KeyAnnouncement(key_version=version, rk_gen=gen, key_id=bytes([gen]) * 8, public=PUBLIC)
        before = known
        known = adopt(known, made, at)
        assert known.rk_first == (at if known != before else before.rk_first)
    assert (known.announcement.key_version, known.announcement.rk_gen) == (2, 2)


def test_rule_5_the_same_announcement_again_changes_nothing() -> None:
    """A repeated announcement does not move rk_first, or old keys would stay for ever."""
    known = PeerKey(announcement=announce(fresh().cur, 1), rk_first=1)
    assert adopt(known, known.announcement, 50) == known
    assert with_my_new_instance(adopt(known, announce(pending().cur, 2), 50)).rk_first == 1


def test_rule_7_deleted_ids_are_remembered_sixty_days() -> None:
    """A late duplicate is told from an envelope for a key that never was; the memory has an end and a cap."""
    keys, _ = verified(pending(), rk_known=K2, rk_first=2, to=1)
    assert status_of(keys, K1) is KeyStatus.DELETED
    assert status_of(keys, K2) is KeyStatus.LIVE
    assert status_of(keys, K3) is KeyStatus.UNKNOWN
    inbound = Inbound(instance=PEER, contiguous_to=1, bitmap=0)
    same, _ = close_old(keys, inbound=inbound, now_ms=NOW + limits.DELETED_KEY_MEMORY_MS)
    assert status_of(same, K1) is KeyStatus.DELETED
    later, _ = close_old(keys, inbound=inbound, now_ms=NOW + limits.DELETED_KEY_MEMORY_MS + 1)
    assert status_of(later, K1) is KeyStatus.UNKNOWN


def test_an_id_is_never_drawn_twice() -> None:
    """A random id that is live or remembered as deleted is refused before it is announced."""
    keys, _ = verified(pending(), rk_known=K2, rk_first=2, to=1)
    for taken in (K1, K2):
        with pytest.raises(BrokenInvariant):
            pending(keys, taken)


def test_a_peer_that_leaves_a_hole_on_purpose_costs_no_unbounded_memory() -> None:
    """Old keys wait for their holes up to a number; then no new key is made, and the state stays small."""
    keys = fresh()
    made = 0
    while True:
        keys, gone = verified(keys, opened_with=keys.cur.key_id, to=0)
        assert gone == ()
        if not wants_next(keys, NOW):
            break
        made += 1
        key_id = made.to_bytes(8, "big")
        keys, _ = verified(pending(keys, key_id), rk_known=key_id, rk_first=made + 1, to=0)
    assert made == limits.OLD_RECEIVE_KEYS_MAX
    assert ReceiveKeys.decode(keys.encode()) == keys
    keys, gone = verified(keys, to=made)
    assert len(gone) == made
    assert wants_next(keys, NOW)


def test_the_memory_of_deleted_ids_has_a_cap() -> None:
    """A very busy pair forgets the oldest ids first; such a late duplicate costs one nack."""
    keys = fresh()
    for number in range(1, limits.DELETED_KEYS_REMEMBERED_MAX + 20):
        key_id = number.to_bytes(8, "big")
        keys, _ = verified(pending(keys, key_id), rk_known=key_id, rk_first=number, to=number)
    assert len(keys.deleted) == limits.DELETED_KEYS_REMEMBERED_MAX * 16
    assert status_of(keys, K1) is KeyStatus.UNKNOWN
    assert ReceiveKeys.decode(keys.encode()) == keys


def test_an_id_that_only_looks_like_a_deleted_one_is_unknown() -> None:
    """The packed memory is read by entries: bytes that lie across two of them are no id."""
    keys, _ = verified(pending(), rk_known=K2, rk_first=2, to=1)
    keys, _ = verified(pending(keys, K3), opened_with=K2, rk_known=K3, rk_first=3, to=2)
    assert status_of(keys, K1) is status_of(keys, K2) is KeyStatus.DELETED
    for at in range(1, len(keys.deleted) - 8):
        if at % 16:
            assert status_of(keys, keys.deleted[at : at + 8]) is KeyStatus.UNKNOWN


@given(st.binary(max_size=200))
def test_damaged_columns_are_our_bug_and_say_so(data: bytes) -> None:
    """Keys that cannot be read stop the task; they are never replaced in silence."""
    with pytest.raises(BrokenInvariant):
        ReceiveKeys.decode(data)
    with pytest.raises(BrokenInvariant):
        PeerKey.decode(data)
