"""The order of the ladder: the last line is how far it came, whatever order the words arrived in."""

import random
from typing import Any

import pytest

from node.ladder import sorted_ladder
from node.views import LadderStep


def _steps(*names: Any) -> list[LadderStep]:
    return [
        LadderStep(step=name, at_ms=at, clock="x", code=code)
        for at, (name, code) in enumerate(
            entry if isinstance(entry, tuple) else (entry, None) for entry in names
        )
    ]


@pytest.mark.parametrize(
    "ladder",
    [
        _steps("kept", "on_broker", "delivered", "opened", "assigned", "outcome"),
        _steps("kept", "on_broker", "expired", "delivered", "no_reply", "opened"),
        _steps("kept", "on_broker", "no_reply", "expired"),
        _steps("kept", "on_broker", ("refused", "same_officer"), "delivered", "opened"),
        _steps("kept", "delivered", "opened", ("refused", "no_capacity"), "assigned"),
        _steps("kept", ("refused", "same_officer")),
        _steps("kept", "delivered", "no_reply", "opened", ("refused", "not_our_area")),
    ],
)
def test_the_last_line_is_how_far_it_came(ladder: list[LadderStep]) -> None:
    """Silence and a refusal by the program stand below what an officer said later, however it arrived."""
    for seed in range(20):
        mixed = ladder.copy()
        random.Random(seed).shuffle(mixed)
        assert list(sorted_ladder(mixed)) == ladder
