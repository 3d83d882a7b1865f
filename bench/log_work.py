"""The log: durable append with a business row.

An append counts when ``Database.transact`` returns, which is after the fsync. Its two neighbours: the same
row without a log entry, in the same database, and the same bytes appended to a plain file and fsynced, as
many together as were waiting at once. All three write to the same disk in turns.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from bench.grown import RECEIVER, OpenLog, open_log
from bench.measure import RUNS, percentile
from bench.report import cost_ratio, figure, progress, speed_ratio
from runtime.env import Env, real_env
from runtime.sqlite import Migration, Transaction

BENCH = "log"
GOALS_PER_S: Final = {1: 2_000, 16: 20_000, 256: None}
"""Waiting at once -> entries a second to reach."""
GOAL_ACK_P99_MS: Final = 20
ROW_BYTES = 300  # what the inbox keeps of an alert beside its sealed content
_ROWS = Migration(
    component="bench",
    number=1,
    name="rows",
    sql="CREATE TABLE kept (id BLOB PRIMARY KEY, at_ms INTEGER NOT NULL, body BLOB NOT NULL) STRICT;",
)


def run(*, quick: bool) -> None:
    """In a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="salween-bench-") as name:
        asyncio.run(_append(Path(name) / "append", seconds=0.1 if quick else 0.8))


@dataclass(slots=True, kw_only=True)
class _Spent:
    """Of one way to write: the rate of each run, and its every wait."""

    per_s: list[float] = field(default_factory=list)
    waits_ms: list[list[float]] = field(default_factory=list)

    def percentile_ms(self, percent: float) -> list[float]:
        """Of each run."""
        return [percentile(waits, percent) for waits in self.waits_ms]


async def _append(home: Path, *, seconds: float) -> None:
    env = real_env()
    async with open_log(env, home, RECEIVER, _ROWS) as opened:
        with (home / "plain").open("ab", buffering=0) as plain:
            for at_once in GOALS_PER_S:
                progress(f"{BENCH}: append, {at_once} at once")
                await _append_at_once(env, opened, plain.fileno(), at_once, seconds)


async def _append_at_once(env: Env, opened: OpenLog, plain: int, at_once: int, seconds: float) -> None:
    def keep(tx: Transaction) -> None:
        body = env.random(ROW_BYTES)
        tx.execute("INSERT INTO kept VALUES (?, ?, ?)", (env.random(32), env.clock.now_ms(), body))

    def keep_and_log(tx: Transaction) -> None:
        keep(tx)
        opened.log.append(tx, "msg.recv", _received(env))

    await opened.db.transact(keep_and_log)
    entry_bytes: int = await opened.db.read(
        lambda tx: tx.value("SELECT length(entry) FROM leaf ORDER BY idx DESC LIMIT 1")
    )
    both, row, file = _Spent(), _Spent(), _Spent()
    for _ in range(RUNS):
        await _drive(lambda: opened.db.transact(keep_and_log), both, at_once, seconds)
        await _drive(lambda: opened.db.transact(keep), row, at_once, seconds)
        _append_to_file(plain, file, at_once, seconds, entry_bytes=entry_bytes)
    case = f"durable append with business row, {at_once} at once"
    figure(
        BENCH,
        case,
        both.per_s,
        "entries/s",
        goal_min=GOALS_PER_S[at_once],
        ack_p50_ms=median(both.percentile_ms(50)),
        **speed_ratio(both.per_s, row.per_s, against="the same rows without a log entry"),
    )
    figure(
        BENCH,
        f"{case}, against a file",
        both.per_s,
        "entries/s",
        **speed_ratio(
            both.per_s,
            file.per_s,
            against="the same bytes appended to a plain file, one fsync for those at once",
        ),
    )
    waits_ms, row_waits_ms = both.percentile_ms(99), row.percentile_ms(99)
    figure(
        BENCH,
        f"{case}, ack p99",
        waits_ms,
        "ms",
        goal_max=GOAL_ACK_P99_MS,
        **cost_ratio(waits_ms, row_waits_ms, against="the same rows without a log entry"),
    )


async def _drive(call: Callable[[], Awaitable[None]], spent: _Spent, at_once: int, seconds: float) -> None:
    """Keep ``at_once`` calls waiting for ``seconds``."""
    done, waits_ms = 0, []
    end_s = time.perf_counter() + seconds

    async def one_after_another() -> None:
        nonlocal done
        while (begun_s := time.perf_counter()) < end_s:
            await call()
            waits_ms.append((time.perf_counter() - begun_s) * 1000)
            done += 1

    begun_s = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    spent.per_s.append(done / (time.perf_counter() - begun_s))
    spent.waits_ms.append(waits_ms)


def _append_to_file(plain: int, spent: _Spent, at_once: int, seconds: float, *, entry_bytes: int) -> None:
    data, done = os.urandom((ROW_BYTES + 40 + entry_bytes) * at_once), 0
    begun_s = time.perf_counter()
    while time.perf_counter() - begun_s < seconds:
        os.write(plain, data)
        os.fsync(plain)
        done += at_once
    spent.per_s.append(done / (time.perf_counter() - begun_s))


def _received(env: Env) -> dict[str, str | int | list[str]]:
    """What the log says of an alert that arrived."""
    drawn = env.random(32).hex()  # what it costs to draw more is not the log's
    return {
        "env": drawn,
        "verdict": "ok",
        "msg": drawn[:32],
        "peer": "ab" * 8,
        "hh": drawn,
        "inst": "cd" * 8,
        "ps": 1,
        "via": "broker",
        "com": [drawn, drawn],
        "alert": drawn,
    }
