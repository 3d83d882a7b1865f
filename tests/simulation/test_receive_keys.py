"""The whole simulation is ``make simulate-keys``; this is a slice of it, with the same promises."""

import pytest

from tests.simulation.receive_keys import AVAILABILITIES, Availability, Figures, all_together, simulate, table

PAIRS = 2
DAYS = 30


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Figures]]:
    """Every availability and kind of key over the same pairs."""
    return {a.name: simulate(a, seeds=range(1, 1 + PAIRS), days=DAYS) for a in AVAILABILITIES}


@pytest.mark.parametrize("availability", AVAILABILITIES, ids=lambda a: a.name)
def test_nothing_that_arrives_is_undecryptable(
    found: dict[str, dict[str, Figures]], availability: Availability
) -> None:
    """Outages, restarts, expiry, losses, copies and any order: no key goes that a message needs."""
    for name in ("rotating", "with one-time keys"):
        assert found[availability.name][name].read > 20, "the slice says something"
        assert found[availability.name][name].undecryptable == 0


def test_few_read_alerts_are_exposed(found: dict[str, dict[str, Figures]]) -> None:
    """Half the time at most five with receive keys alone, and none with one-time keys."""
    whole = all_together(found)
    assert whole["rotating"].median <= 5
    assert whole["with one-time keys"].median == 0
    assert whole["with one-time keys"].p90 <= whole["rotating"].p90
    # The same traffic under the usual schemes, or the figures would mean nothing.
    assert whole["weekly prekeys"].median > 10
    assert whole["one static key"].median >= whole["weekly prekeys"].median


def test_the_table_has_every_figure(found: dict[str, dict[str, Figures]]) -> None:
    """One line for each availability and kind of key."""
    assert len(table(found).splitlines()) == 2 + 4 * len(AVAILABILITIES)
