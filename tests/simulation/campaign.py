"""Schedules from the command line, many on every core: ``python -m tests.simulation.campaign --help``.

A schedule that breaks an invariant is printed with its seed and the last events before it; put the seed into
``BROKEN_BEFORE`` together with what was wrong, and it is played by every run of the tests from then on.
"""

import argparse
import functools
import gc
import os
import random
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from keys.errors import SalweenError
from runtime.exits import DiskFailed
from tests.simulation.checkers import Broken
from tests.simulation.mistakes import MISTAKES, planted
from tests.simulation.regions import RegionsSchedule
from tests.simulation.schedule import Outcome, Schedule

# Seeds that once found something in the real code, and what it was.
BROKEN_BEFORE: Final[dict[int, str]] = {
    2002: "an item waited for a time that a clock, since set back, had set",
    5004: "a broker went back between two requests, and for six hours an office did not see what it lost",
    15: "an office whose clock was set back did not say for an hour that it was kept in the dark",
    39: "a part of a photo that was chosen before an alert came began beside the alert",
    2: "a broker that went back to an older state hid what lay behind the node's cursor",
}

# Where a mistake was found last, if not in the first schedules: it is looked for there first.
FOUND_IN: Final[dict[str, int]] = {"believes_cursors": 10, "restored_and_silent": 12}

SCHEDULES_PER_MISTAKE_MAX: Final = 300


REGIONS: Final = 0.15  # share of schedules with two brokers


def kind_of(seed: int) -> type[Schedule] | type[RegionsSchedule]:
    """What this number is played as."""
    # By this word none of the seeds of BROKEN_BEFORE gets two regions: they play what they found.
    return RegionsSchedule if random.Random(f"schedule/{seed}/two").random() < REGIONS else Schedule


def play(seed: int, mistake: str | None = None) -> Outcome:
    """One schedule, with a mistake planted or without."""
    kind = kind_of(seed)
    kind.start()  # by the code as it is, whatever is planted then
    if mistake is None:
        return kind(seed).run()
    with planted(mistake):
        return kind(seed).run()


def find(mistake: str, seeds: Iterator[int]) -> tuple[int, str] | None:
    """How many schedules it took until this mistake was found, and by what; None when it was not.

    By a checker, or by the real code that refuses to go on. An error of the simulator's own finds nothing:
    it is raised, as is a schedule that does not hold without the mistake either.
    """
    for played, seed in enumerate(seeds, start=1):
        try:
            broken: Exception | None = play(seed, mistake).broken
            by = str(broken)
        except (SalweenError, DiskFailed) as refused:
            broken, by = refused, f"refused: {refused}"
        if broken is not None:
            if (without := _broken_without(seed)) is not None:
                raise RuntimeError(f"schedule {seed} does not hold without {mistake} either: {without}")
            return played, by
    return None


@functools.cache
def _broken_without(seed: int) -> Broken | None:
    return play(seed).broken


def in_processes(
    seeds: Sequence[int], *, cores: int | None = None, environment: dict[str, str] | None = None
) -> list[str]:
    """Play seeds in several processes; the lines they print, by seed: ``seed trace alerts faults broken``."""
    lines = _spread(["--terse"], [str(seed) for seed in seeds], cores, environment)
    return sorted(lines, key=lambda line: int(line.split()[0]))


def find_in_processes(mistakes: Sequence[str]) -> list[str]:
    """Planted mistakes, looked for on every core: a line each."""
    return _spread(["--find"], list(mistakes), None, None)


def _spread(
    option: list[str], work: list[str], cores: int | None, environment: dict[str, str] | None
) -> list[str]:
    cores = cores or os.cpu_count() or 1
    shares = [work[at::cores] for at in range(cores)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.simulation.campaign", *option, *share],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0", **(environment or {})},
        )
        for share in shares
        if share
    ]
    lines: list[str] = []
    for process in running:
        out, err = process.communicate()
        lines += out.splitlines()
        if process.returncode not in (0, 1) or "Traceback" in err:
            lines.append(f"0 - 0 0 a process of the campaign failed: {err[-2000:]}")
    return lines


def _terse(outcome: Outcome) -> str:
    faults = sum(outcome.faults.values())
    return f"{outcome.seed} {outcome.trace} {outcome.alerts} {faults} {outcome.broken or 'holds'}"


def main() -> int:
    """0 when every schedule held."""
    # aiohttp's connector, unwound in a host that was killed, drops its own closing coroutine.
    warnings.filterwarnings("ignore", "coroutine '_wait_for_close' was never awaited", RuntimeWarning)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", nargs="*", type=int, help="schedules to play")
    parser.add_argument("--new", type=int, default=0, metavar="N", help="play N schedules nobody has played")
    parser.add_argument("--mistake", choices=sorted(MISTAKES), help="with this mistake planted")
    parser.add_argument(
        "--find", nargs="*", metavar="MISTAKE", help="find these planted mistakes, or all of them"
    )
    parser.add_argument("--terse", action="store_true", help="one line a schedule, nothing else")
    given = parser.parse_args()
    if given.seeds or given.find is not None:
        for kind in (Schedule, RegionsSchedule):
            kind.start()
        gc.collect()
        gc.freeze()  # modules and the paired disks live to the end: no collection walks them again
    if given.find is not None:
        return _find_all(given.find or list(MISTAKES))
    if given.new:
        first = int(time.time())
        return _report(in_processes(range(first, first + given.new)))
    failed = 0
    for seed in given.seeds:
        outcome = play(seed, given.mistake)
        sys.stdout.write(_terse(outcome) + "\n")
        sys.stdout.flush()
        failed += outcome.broken is not None
        if not given.terse:
            sys.stdout.write(f"  faults: {outcome.faults}\n")
            if outcome.broken is not None:
                sys.stdout.write("  " + "\n  ".join(outcome.last[-60:]) + "\n")
    return int(failed > 0)


def _find_all(names: Sequence[str]) -> int:
    failed = 0
    for name in names:
        seeds = dict.fromkeys((FOUND_IN.get(name, 1), *range(1, SCHEDULES_PER_MISTAKE_MAX + 1)))
        found = find(name, iter(seeds))
        failed += found is None
        played, by = found or (SCHEDULES_PER_MISTAKE_MAX, "NOT FOUND")
        sys.stdout.write(f"{name:32} {played:3} schedules: {by}\n")
        sys.stdout.flush()
    return int(failed > 0)


def _report(lines: list[str]) -> int:
    words = Counter("holds" if line.endswith(" holds") else "broken" for line in lines)
    for line in lines:
        if not line.endswith(" holds"):
            sys.stdout.write(line + "\n")
    alerts = sum(int(line.split()[2]) for line in lines)
    faults = sum(int(line.split()[3]) for line in lines)
    sys.stdout.write(
        f"{len(lines)} schedules, {alerts} alerts, {faults} faults:"
        f" {words['holds']} hold, {words['broken']} do not\n"
    )
    return int(words["broken"] > 0)


if __name__ == "__main__":
    sys.exit(main())
