"""Rule 8: one alert to a key, never twice, and no key goes that a message on its way may need."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import BrokenInvariant
from protocol import limits
from protocol.conversation import Inbound
from protocol.items import OneTimeOffer, OneTimeUnused
from protocol.onetime import (
    NO_ONE_TIME_KEYS,
    NOTHING_OFFERED,
    OfferedKey,
    OfferedKeys,
    OneTimeKey,
    OneTimeKeys,
    RetiredOneTimeKey,
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
    one_time_ids,
    take_one,
    unused,
    wanted_count,
    without_keys,
)

PUBLIC = b"p" * limits.XWING_PUBLIC_BYTES
PEER, LATER = b"peer 001", b"peer 002"
NOW = 100 * limits.DAY_MS
SUPPLY = limits.ONE_TIME_OFFERED_MAX


def ids(*numbers: int) -> tuple[bytes, ...]:
    """Key ids."""
    return tuple(b"key %04d" % number for number in numbers)


def make(keys: OneTimeKeys, *numbers: int, carried_by: int = 1, now_ms: int = NOW) -> OneTimeKeys:
    """These fresh keys offered in our message ``carried_by``."""
    fresh = [(key_id, PUBLIC) for key_id in ids(*numbers)]
    made = offer(keys, fresh, key_version=1, peer_instance=PEER, now_ms=now_ms)
    return after_offered(keys, made, carried_by=carried_by, peer_instance=PEER, now_ms=now_ms)


def wanting(keys: OneTimeKeys = NO_ONE_TIME_KEYS) -> OneTimeKeys:
    """After an alert that was sealed to a receive key."""
    return after_alert(keys, opened_with=b"no otk..", peer_instance=PEER, now_ms=NOW)[0]


def supplied() -> OneTimeKeys:
    """A whole supply, acknowledged in the peer's message 5."""
    keys = make(wanting(), *range(SUPPLY))
    return after_offer_acknowledged(keys, in_number=5, instance=PEER, whole=True, now_ms=NOW)


def closed(keys: OneTimeKeys, to: int, *, instance: bytes = PEER, now_ms: int = NOW) -> tuple[bytes, ...]:
    """What goes when every number of the peer up to ``to`` has arrived."""
    return close_retired(keys, inbound=Inbound(instance=instance, contiguous_to=to, bitmap=0), now_ms=now_ms)[
        1
    ]


def test_rule_8_only_an_alert_asks_for_keys_and_a_full_supply_asks_for_none() -> None:
    """Idle offices offer nothing, and one offer waits for its acknowledgement."""
    assert wanted_count(NO_ONE_TIME_KEYS, peer_instance=PEER, now_ms=NOW) == 0
    asked = wanting()
    assert wanted_count(asked, peer_instance=PEER, now_ms=NOW) == SUPPLY
    hour_ms = limits.ANNOUNCEMENT_DELAY_MS_MAX
    assert offer_due_ms(asked, peer_instance=PEER, now_ms=NOW) == NOW + hour_ms
    assert not fits_company(asked, 1, peer_instance=PEER, now_ms=NOW), "one would block the other seven"
    assert fits_company(asked, SUPPLY, peer_instance=PEER, now_ms=NOW)
    partly = make(asked, 1, 2)
    assert wanted_count(partly, peer_instance=PEER, now_ms=NOW) == 0, "the first is not acknowledged"
    full = supplied()
    assert full.owed_ms is None
    assert offer_due_ms(full, peer_instance=PEER, now_ms=NOW) is None


def test_rule_8_a_key_goes_with_the_alert_sealed_to_it() -> None:
    """Also when it was left out meanwhile; a copy of the alert finds it gone."""
    first, *_ = ids(0)
    keys, used = after_alert(supplied(), opened_with=first, peer_instance=PEER, now_ms=NOW)
    assert used == (first,)
    assert first not in one_time_ids(keys)
    assert wanted_count(keys, peer_instance=PEER, now_ms=NOW) == 1
    assert offer_due_ms(keys, peer_instance=PEER, now_ms=NOW) is None, "seven are enough to wait for company"
    assert fits_company(keys, 1, peer_instance=PEER, now_ms=NOW)
    assert after_alert(keys, opened_with=first, peer_instance=PEER, now_ms=NOW) == (keys, ())


def test_rule_8_a_key_left_out_goes_when_everything_numbered_before_has_arrived() -> None:
    """Until the peer acknowledged the newer offer, and until no hole is left below, it stays."""
    later_ms = NOW + limits.OLD_RECEIVE_KEY_TTL_MS
    keys = make(wanting(supplied()), *range(100, 100 + SUPPLY), carried_by=9, now_ms=later_ms)
    assert closed(keys, 10**6, now_ms=later_ms * 9) == ()
    keys = after_offer_acknowledged(keys, in_number=20, instance=PEER, whole=True, now_ms=later_ms)
    assert closed(keys, 18, now_ms=later_ms * 9) == ()
    assert closed(keys, 19, now_ms=later_ms) == ids(*range(SUPPLY))


def test_rule_8_in_another_life_of_the_peer_time_alone_counts() -> None:
    """Sixteen days after it was left out, as of old receive keys."""
    later_ms = NOW + limits.OLD_RECEIVE_KEY_TTL_MS
    keys = make(wanting(supplied()), 100, carried_by=9, now_ms=later_ms)
    until_ms = later_ms + limits.OLD_RECEIVE_KEY_TTL_MS
    assert closed(keys, 10**6, instance=LATER, now_ms=until_ms - 1) == ()
    assert closed(keys, 0, instance=LATER, now_ms=until_ms) == ids(*range(SUPPLY))


def test_rule_8_no_timer_touches_a_key_that_may_be_used() -> None:
    """An office that is shut for a year finds its keys."""
    keys = supplied()
    assert closed(keys, 10**6, now_ms=NOW + 365 * limits.DAY_MS) == ()


def test_rule_8_an_offer_that_may_never_have_been_seen_is_not_repeated() -> None:
    """Its keys are left out of the next offer: a key that is fresh twice could be used twice."""
    keys = make(wanting(), 1, 2)
    keys = after_offer_acknowledged(keys, in_number=5, instance=PEER, whole=False, now_ms=NOW)
    assert wanted_count(keys, peer_instance=PEER, now_ms=NOW) == SUPPLY
    assert closed(keys, 10**6) == ()
    made = offer(keys, [(ids(3)[0], PUBLIC)], key_version=1, peer_instance=PEER, now_ms=NOW)
    assert made.kept_ids == ()
    with pytest.raises(BrokenInvariant, match="out of turn"):
        make(keys, 1)


def test_rule_8_a_used_key_whose_envelope_was_lost_goes_once_its_alert_arrived() -> None:
    """The peer says what it has not used; what it used was for numbers below the one that says so."""
    statement = OneTimeUnused(generation=1, unused_ids=ids(*range(2, SUPPLY)))
    keys = after_unused_stated(supplied(), statement, in_number=12, instance=PEER, now_ms=NOW)
    assert set(one_time_ids(keys)) == set(ids(*range(SUPPLY))), "it may be on its way"
    assert closed(keys, 10) == ()
    assert closed(keys, 11) == ids(0, 1)
    ahead = OneTimeUnused(generation=2, unused_ids=())
    assert after_unused_stated(supplied(), ahead, in_number=12, instance=PEER, now_ms=NOW) == supplied()
    ended = after_unused_stated(supplied(), statement, in_number=12, instance=LATER, now_ms=NOW)
    assert ended == supplied(), "a number of another instance proves nothing"


def test_rule_8_an_unused_statement_says_nothing_of_later_offers() -> None:
    """Messages overtake each other: keys it could not know stay."""
    keys = make(
        wanting(after_alert(supplied(), opened_with=ids(0)[0], peer_instance=PEER, now_ms=NOW)[0]), 50
    )
    stated = OneTimeUnused(generation=1, unused_ids=())
    keys = after_unused_stated(keys, stated, in_number=12, instance=PEER, now_ms=NOW)
    assert [key.key_id for key in keys.live] == list(ids(50))


def test_rule_8_a_peer_that_leaves_a_hole_on_purpose_costs_no_unbounded_memory() -> None:
    """With 64 keys waiting none is made."""
    keys = wanting()
    number = 0
    while count := wanted_count(keys, peer_instance=PEER, now_ms=NOW):
        keys = make(keys, *range(number, number + count))
        number += count
        keys = after_offer_acknowledged(keys, in_number=10**9, instance=PEER, whole=True, now_ms=NOW)
        nothing = OneTimeUnused(generation=keys.generation, unused_ids=())
        keys = wanting(after_unused_stated(keys, nothing, in_number=10**9, instance=PEER, now_ms=NOW))
    assert number == limits.ONE_TIME_KEYS_MAX


# --- the sender's half ----------------------------------------------------------------------------


def an_offer(
    generation: int, fresh: tuple[int, ...], kept: tuple[int, ...] = (), version: int = 1
) -> OneTimeOffer:
    """As the peer signs it."""
    return OneTimeOffer(
        key_version=version,
        generation=generation,
        kept_ids=ids(*kept),
        fresh=tuple((key_id, PUBLIC) for key_id in ids(*fresh)),
    )


def test_rule_8_a_key_is_used_once_whatever_offers_say() -> None:
    """An offer that comes again, or late, brings nothing back."""
    known = adopt_offer(NOTHING_OFFERED, an_offer(1, (1, 2)))
    assert unused(known) is None
    known, taken = take_one(known, 1)
    assert taken is not None
    assert taken.key_id == ids(1)[0]
    assert adopt_offer(known, an_offer(1, (1, 2))) == known
    newer = adopt_offer(known, an_offer(2, (3,), kept=(1, 2)))
    assert [key.key_id for key in newer.keys] == list(ids(2, 3))
    assert adopt_offer(newer, an_offer(1, (1, 2))) == newer
    stated = unused(newer)
    assert stated == OneTimeUnused(generation=2, unused_ids=ids(2, 3))
    assert unused(after_unused_said(newer)) is None


def test_rule_8_keys_of_another_version_or_after_a_loss_are_not_used() -> None:
    """Whoever lost state, here or there, falls back to the receive key."""
    known = adopt_offer(NOTHING_OFFERED, an_offer(7, (1, 2)))
    assert take_one(known, 2)[1] is None
    renewed = adopt_offer(known, an_offer(1, (3,), kept=(1, 2), version=2))
    assert [key.key_id for key in renewed.keys] == list(ids(3))
    lost = without_keys(known)
    assert take_one(lost, 1)[1] is None
    assert unused(lost) == OneTimeUnused(generation=7, unused_ids=())
    assert adopt_offer(lost, an_offer(7, (1, 2))) == lost


# --- columns --------------------------------------------------------------------------------------

eights = st.binary(min_size=8, max_size=8)
numbers = st.integers(0, limits.PAIR_SEQ_MAX)
times = st.integers(0, limits.TIME_MS_MAX)
generations = st.integers(0, limits.U32_MAX)
own = st.builds(
    OneTimeKeys,
    generation=generations,
    carried_by=st.none() | numbers,
    owed_ms=st.none() | times,
    live=st.lists(
        st.builds(OneTimeKey, key_id=eights, generation=generations, peer_instance=eights, offered_ms=times),
        max_size=4,
    ).map(tuple),
    retired=st.lists(
        st.builds(
            RetiredOneTimeKey, key_id=eights, peer_instance=eights, retired_ms=times, hi=st.none() | numbers
        ),
        max_size=4,
    ).map(tuple),
)
theirs = st.builds(
    OfferedKeys,
    key_version=generations,
    generation=generations,
    unsaid=st.booleans(),
    keys=st.lists(st.builds(OfferedKey, key_id=eights, public=st.just(PUBLIC)), max_size=3).map(tuple),
)


@given(own, theirs)
def test_columns_come_back_as_they_were(mine: OneTimeKeys, offered: OfferedKeys) -> None:
    """What a node stores is what it loads."""
    assert OneTimeKeys.decode(mine.encode()) == mine
    assert OfferedKeys.decode(offered.encode()) == offered


@given(st.binary(max_size=80))
def test_damaged_columns_are_our_bug_and_say_so(data: bytes) -> None:
    """Other bytes raise BrokenInvariant alone, or are a column."""
    for column in (OneTimeKeys, OfferedKeys):
        try:
            read = column.decode(data)
        except BrokenInvariant:
            continue
        assert len(read.encode()) == len(data)
