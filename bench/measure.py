"""Taking turns: whatever disturbs the machine disturbs both sides of a comparison.

Cost is the processor time of this thread, which a neighbour on the same machine cannot lengthen much; rates
and latencies are taken by the clock on the wall, because waiting is part of them.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
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


def process_cpu_s(pid: int) -> float:
    """User and system time of a process, threads that ended included; in ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * CPU_TICK_S


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` of ``values`` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
