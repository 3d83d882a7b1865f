"""Taking turns: whatever disturbs the machine disturbs both sides of a comparison.

Cost is the processor time of this thread, which a neighbour on the same machine cannot lengthen much; rates
and latencies are taken by the clock on the wall, because waiting is part of them.
"""

import os
import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

RUNS = 3
# What the lot adds to a receipt, up to ten seconds, would be all that is measured.
RECEIPTS_AT_ONCE: Final = "receipt_spread_s = 0\n"
CPU_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cost_us(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, each: int, runs: int = RUNS
) -> dict[str, list[float]]:
    """Processor microseconds of one call, for each of ``runs``; the calls take turns ``each`` by ``each``."""
    for call in calls.values():
        call()  # what is computed once is not what is measured
    costs: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        spent_ns = dict.fromkeys(calls, 0)
        for _ in range(rounds):
            for name, call in calls.items():
                begun_ns = time.thread_time_ns()
                for _ in range(each):
                    call()
                spent_ns[name] += time.thread_time_ns() - begun_ns
        for name, total_ns in spent_ns.items():
            costs[name].append(total_ns / (rounds * each) / 1000)
    return costs


@dataclass(slots=True, kw_only=True)
class Spent:
    """Of one way to do some work: how much a second, on the wall and of processor time, in each run."""

    per_s: list[float] = field(default_factory=list)
    per_cpu_s: list[float] = field(default_factory=list)


def take_turns(
    ways: Mapping[str, Callable[[], object]], count: int, tell: Callable[[str], None]
) -> dict[str, Spent]:
    """Do ``count`` pieces of work in each way, RUNS times; with what its child processes cost."""
    spent = {name: Spent() for name in ways}
    for _ in range(RUNS):
        for name, call in ways.items():
            tell(name)
            begun_s, begun_cpu_s = time.perf_counter(), _cpu_s()
            call()
            spent[name].per_s.append(count / (time.perf_counter() - begun_s))
            spent[name].per_cpu_s.append(count / (_cpu_s() - begun_cpu_s))
    return spent


def _cpu_s() -> float:
    """Processor seconds of this process and of the children it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def process_cpu_s(pid: int) -> float:
    """User and system time of a process, threads that ended included; in ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * CPU_TICK_S


def peak_bytes_of(argv: Sequence[str | Path], environment: Mapping[str, str]) -> int:
    """Run a program that must succeed; the most memory that it, or a child it waited for, held at once."""
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment) as process:
        # Not by RUSAGE_CHILDREN, which is the largest of all children that there ever were.
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv)
    return used.ru_maxrss * 1024


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` of ``values`` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
