"""Schedules of faults over the real daemons: nothing lost, doubled, altered or left running (I1 to I24).

The list of invariants stands in docs/testing.md; ``make simulate SEED=n`` plays one schedule.
"""

import os
import time

import pytest

from tests.simulation.campaign import BROKEN_BEFORE, find_in_processes, in_processes, play
from tests.simulation.mistakes import MISTAKES

NEW = int(os.environ.get("SALWEEN_NEW_SCHEDULES", "20"))


@pytest.mark.parametrize("seed", BROKEN_BEFORE)
def test_what_once_broke_holds(seed: int) -> None:
    """Every schedule that ever found something in the real code."""
    outcome = play(seed)
    assert outcome.broken is None, f"{BROKEN_BEFORE[seed]}: {outcome.broken}"


def test_new_schedules_hold() -> None:
    """Schedules nobody has played before, on every core; ``make simulate-300`` plays more."""
    first = int(time.time())
    lines = in_processes(range(first, first + NEW))
    broken = [line for line in lines if not line.endswith(" holds")]
    assert not broken, "play one again with: make simulate SEED=n\n" + "\n".join(broken)
    assert sum(int(line.split()[2]) for line in lines) > 10 * len(lines), "hardly an alert was sent"


def test_one_seed_is_one_run_in_any_process() -> None:
    """Same seed, same trace hash, whatever allocator lays out the memory (I20)."""
    seeds = range(500, 503)
    plain = in_processes(seeds, cores=1)
    other = in_processes(seeds, cores=1, environment={"PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "7"})
    assert plain == other
    assert len({line.split()[1] for line in plain}) == len(seeds)


def test_planted_mistakes_are_found() -> None:
    """A simulator that misses what we broke on purpose proves nothing when it finds nothing.

    Each third of them; ``make simulate-mistakes`` looks for all.
    """
    mistakes = list(MISTAKES)[::3]
    lines = find_in_processes(mistakes)
    assert len(lines) == len(mistakes) >= 10, lines
    assert not [line for line in lines if "NOT FOUND" in line or "failed" in line], lines
