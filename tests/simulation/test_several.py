"""Five offices, alerts to some of them in both modes, under faults: ``make simulate-several`` plays more."""

import pytest

from tests.simulation.several import five, one_stands_for_all, play

MINUTES = 3  # a slice; the whole is longer


@pytest.mark.parametrize("seed", [4])
def test_an_alert_reaches_exactly_those_chosen_once(seed: int) -> None:
    """Each by itself or shared, whatever breaks meanwhile (I1, I2, I4, I6, I12)."""
    outcome, modes = play(seed, minutes=MINUTES)
    assert outcome.broken is None, outcome.broken
    assert min(modes["separate"], modes["shared"]) > 3
    assert outcome.faults


def test_the_checker_finds_one_recipient_counted_for_all() -> None:
    """With the mistake planted an alert is missing at somebody who was chosen; nothing else says so."""
    five()
    with one_stands_for_all():
        # Not in every slice is somebody chosen whom the mistake forgets.
        played = (play(seed, minutes=MINUTES)[0].broken for seed in range(4, 12))
        broken = next((found for found in played if found is not None), None)
    assert broken is not None
    assert broken.invariant == "I1"
    assert "never reached" in broken.what
