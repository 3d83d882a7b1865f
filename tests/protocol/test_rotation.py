"""Mailboxes are made before others are given up: from any state, whatever the clock says."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.rotation import (
    Announce,
    Announcement,
    GiveUp,
    MakeSuccessor,
    OwnMailbox,
    Prove,
    Restamp,
    Stage,
    life_ms,
    plan,
)

NOW = 1_800_000_000_000
DAY = limits.DAY_MS
PROVEN = OwnMailbox(generation=3, stage=Stage.PROVEN, since_ms=NOW)
MADE = OwnMailbox(generation=4, stage=Stage.MADE, since_ms=NOW)

mailboxes = st.lists(
    st.builds(
        OwnMailbox,
        generation=st.integers(1, 12),
        stage=st.sampled_from(Stage),
        since_ms=st.integers(NOW - 100 * DAY, NOW + 100 * DAY),
        announcement=st.sampled_from(Announcement),
        has_arrival=st.booleans(),
        is_empty=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda m: m.generation,
)


@given(mailboxes)
def test_only_what_was_passed_long_ago_is_given_up(own: list[OwnMailbox]) -> None:
    """No other stage, no other moment: the last proven mailbox never goes."""
    by_generation = {m.generation: m for m in own}
    for step in plan(own, NOW):
        if isinstance(step, GiveUp):
            mailbox = by_generation[step.generation]
            assert mailbox.stage is Stage.PASSED
            assert NOW - mailbox.since_ms >= limits.MAILBOX_TTL_MS
        if isinstance(step, MakeSuccessor):
            assert step.generation > max(by_generation)


def test_a_week_makes_one_successor_and_no_second_while_it_is_unproven() -> None:
    """However long the peer is shut."""
    assert plan([PROVEN], NOW + 7 * DAY - 1) == ()
    assert plan([PROVEN], NOW + 7 * DAY) == (MakeSuccessor(generation=4),)
    waiting = replace(MADE, announcement=Announcement.UNDER_WAY)
    assert plan([PROVEN, waiting], NOW + 400 * DAY) == ()
    assert plan([PROVEN, MADE], NOW) == (Announce(generation=4),)


def test_an_arrival_alone_proves_nothing() -> None:
    """F42: a broker can list an old item of the peer in any mailbox; it cannot make an acknowledgement."""
    arrived = replace(MADE, has_arrival=True, announcement=Announcement.UNDER_WAY)
    assert plan([PROVEN, arrived], NOW) == ()
    proven = replace(arrived, announcement=Announcement.ACKNOWLEDGED)
    assert plan([PROVEN, proven], NOW) == (Prove(generation=4),)


def test_a_peer_that_knows_a_later_one_is_overtaken_in_growing_steps() -> None:
    """After our disk was restored from a backup: 1, 2, 4 further, at most four unproven."""
    own = [PROVEN]
    made: list[int] = []
    for _ in range(6):
        ignored = replace(MADE, since_ms=NOW - DAY, announcement=Announcement.ACKNOWLEDGED)
        steps = plan([*own, replace(ignored, generation=4 if not made else made[-1])], NOW)
        if not steps:
            break
        (step,) = steps
        assert isinstance(step, MakeSuccessor)
        own.append(replace(ignored, generation=4 if not made else made[-1]))
        made.append(step.generation)
    assert made == [6, 10, 18]


def test_a_clock_that_went_back_delays_nothing_for_years() -> None:
    """A stage that began in the future is counted from now."""
    ahead = replace(PROVEN, since_ms=NOW + 365 * DAY)
    assert plan([ahead], NOW) == (Restamp(generation=3),)


def test_generations_end_without_harm() -> None:
    """At the last one nothing rotates any more."""
    last = replace(PROVEN, generation=limits.U32_MAX)
    assert plan([last], NOW + 30 * DAY) == ()
    assert limits.MAILBOX_ROTATION_MS - limits.MAILBOX_ROTATION_SPREAD_MS < life_ms(0.999) < life_ms(0.0)
