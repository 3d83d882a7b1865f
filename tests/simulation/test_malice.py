"""One lie at a time, for a quarter of an hour and beside crashes: what a broker and a paired office can do.

Whole schedules mix them (``test_schedules``); here each is alone, so that it is known to have been told.
"""

from collections import Counter
from typing import Any

import pytest

from node.inbox import Inbox
from tests.simulation.schedule import Schedule

CRASHES = ("kill", "power_loss", "fuse")
TRIES = 4


def holds(
    seed: int, *, faults: tuple[str, ...], tricks: tuple[str, ...] = (), lies: tuple[str, ...] = ()
) -> None:
    """Every invariant holds although each of these was done.

    A schedule in which there was no occasion for one of them proves nothing: then another is played.
    """
    for another in range(seed, seed + 1_000 * TRIES, 1_000):
        outcome = Schedule(another, faults=(*faults, *CRASHES), tricks=tricks, lies=lies, turns=()).run()
        assert outcome.broken is None, (another, outcome.broken)
        if {*tricks, *lies, *faults} <= outcome.faults.keys():
            return
    raise AssertionError(f"there was no occasion in {TRIES} schedules: {outcome.faults}")


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What became of each envelope that reached an inbox: a trick that the link refuses shows nothing."""
    counted: Counter[str] = Counter()
    record = Inbox._record

    def count(self: Inbox, *arguments: Any, **named: Any) -> Any:
        outcome = record(self, *arguments, **named)
        counted[outcome.verdict] += 1
        return outcome

    monkeypatch.setattr(Inbox, "_record", count)
    return counted


@pytest.mark.parametrize("trick", ["swallow", "delay"])
def test_what_a_broker_drops_or_delays_arrives(trick: str) -> None:
    """F41: custody given and never listed, or listed late."""
    holds(41, faults=("trick",), tricks=(trick,))


def test_what_a_broker_replays_is_shown_once(judged: Counter[str]) -> None:
    """F42: old envelopes listed again, also those that this office had sent."""
    holds(42, faults=("trick",), tricks=("replay",))
    assert judged["seen"]
    assert judged["unknown"]


def test_what_a_broker_reorders_stands_in_its_place() -> None:
    """F43: lists in any order."""
    holds(143, faults=("trick",), tricks=("reorder",))


def test_what_a_broker_alters_is_junk(judged: Counter[str]) -> None:
    """F44: a bit turned in what it lists."""
    holds(44, faults=("trick",), tricks=("flip",))
    assert judged["damaged"]


def test_what_a_broker_swaps_reaches_nobody_it_was_not_for(judged: Counter[str]) -> None:
    """F45: one office is listed the envelopes of another conversation."""
    holds(45, faults=("trick",), tricks=("swap",))
    assert judged["unknown"]


@pytest.mark.parametrize("trick", ["forge", "claim", "deny"])
def test_no_tick_rests_on_what_a_broker_forges(trick: str) -> None:
    """F46: custody nobody signed, "I hold it" of what it dropped, refusals out of nothing."""
    holds(46, faults=("trick",), tricks=(trick,))


@pytest.mark.parametrize("fault", ["rollback", "erase"])
def test_a_broker_that_goes_back_or_loses_its_disk_loses_nobody_an_alert(fault: str) -> None:
    """F47: an older state of its own, or none at all (I17)."""
    holds(47, faults=(fault,))


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param("critical_item", id="F52"),
        pytest.param("equivocate", id="F53"),
        pytest.param("seq_jump", id="F54"),
        pytest.param("flood", id="F55"),
        pytest.param("false_receipts", id="F56"),
        pytest.param("future_ack", id="F56-acknowledgement"),
        pytest.param("attachment", id="F57"),
        pytest.param("unusable_key", id="F58"),
        pytest.param("wrong_clock", id="clock"),
    ],
)
def test_a_lying_partner_harms_no_other_conversation(lie: str) -> None:
    """F52, F53, F54, F55, F56, F57, F58: signed with its own keys, between two offices that go on."""
    holds(52, faults=(), lies=(lie,))
