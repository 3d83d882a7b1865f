"""The log: durable append with a business row, structural check and semantic replay.

An append counts when ``Database.transact`` returns, which is after the fsync. Its two neighbours: the same
row without a log entry, in the same database, and the same bytes appended to a plain file and fsynced, as
many together as were waiting at once. All three write to the same disk in turns.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from audit.fsck import verify
from audit.note import NoteSigner
from audit.policy import single_log_policy
from audit.reader import PublishedLog
from audit.replay import replay
from audit.store import AuditLog
from bench import go_verifier
from bench.measure import RUNS, percentile
from bench.report import figure, line, progress, speed_ratio
from keys.primitives import Ed25519PrivateKey
from keys.secret import SecretBytes
from runtime.env import Env, real_env
from runtime.sqlite import Database, Migration, Transaction, load_migrations, open_database

BENCH = "log"
AT_ONCE = (1, 16, 256)
ORIGIN = "bench/5f0c2a9e00000000/log1"
ROW_BYTES = 300  # what the inbox keeps of an alert beside its sealed content
ENTRIES_PER_TRANSACTION = 2048
ENTRIES_PER_CHECKPOINT = 8192
_ROWS = Migration(
    component="bench",
    number=1,
    name="rows",
    sql="CREATE TABLE kept (id BLOB PRIMARY KEY, at_ms INTEGER NOT NULL, body BLOB NOT NULL) STRICT;",
)


def run(*, quick: bool) -> None:
    """Both halves, in a directory of their own."""
    with tempfile.TemporaryDirectory(prefix="salween-bench-") as name:
        place = Path(name)
        asyncio.run(_append(place / "append", seconds=0.1 if quick else 0.8))
        asyncio.run(_check_and_replay(place, alerts=500 if quick else 20_000))


@dataclass(slots=True, kw_only=True)
class _Opened:
    db: Database
    log: AuditLog
    signer: NoteSigner
    directory: Path


@asynccontextmanager
async def _open(env: Env, home: Path) -> AsyncIterator[_Opened]:
    """A log in an encrypted database, as the daemons open it."""
    env.files.mkdir(home)
    signer = NoteSigner(name=ORIGIN, key=Ed25519PrivateKey.from_seed(SecretBytes(os.urandom(32))))
    key = SecretBytes(os.urandom(32))
    db = await open_database(env, home / "bench.db", key, [*load_migrations("audit"), _ROWS])
    try:
        log = await AuditLog.open(
            env=env, db=db, directory=home / "log", high_water=home / "high-water", signer=signer
        )
        yield _Opened(db=db, log=log, signer=signer, directory=home / "log")
    finally:
        await db.close()


# --- append -------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Spent:
    """Of one way to write: rates over the runs, and every single wait."""

    per_s: list[float] = field(default_factory=list)
    waits_ms: list[float] = field(default_factory=list)


async def _append(home: Path, *, seconds: float) -> None:
    env = real_env()
    async with _open(env, home) as opened:
        with (home / "plain").open("ab", buffering=0) as plain:
            for at_once in AT_ONCE:
                progress(f"{BENCH}: append, {at_once} at once")
                await _append_at_once(env, opened, plain.fileno(), at_once, seconds)


async def _append_at_once(env: Env, opened: _Opened, plain: int, at_once: int, seconds: float) -> None:
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
        ack_p50_ms=percentile(both.waits_ms, 50),
        ack_p99_ms=percentile(both.waits_ms, 99),
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


async def _drive(call: Callable[[], Awaitable[None]], spent: _Spent, at_once: int, seconds: float) -> None:
    """Keep ``at_once`` calls waiting for ``seconds``."""
    done = 0
    end_s = time.perf_counter() + seconds

    async def one_after_another() -> None:
        nonlocal done
        while (begun_s := time.perf_counter()) < end_s:
            await call()
            spent.waits_ms.append((time.perf_counter() - begun_s) * 1000)
            done += 1

    begun_s = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    spent.per_s.append(done / (time.perf_counter() - begun_s))


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


# --- check and replay ---------------------------------------------------------------------------------------


async def _check_and_replay(place: Path, *, alerts: int) -> None:
    env = real_env()
    async with _open(env, place / "grown") as opened:
        progress(f"{BENCH}: growing a log of {alerts} alerts")
        begun_s = time.perf_counter()
        await _grow(env, opened, alerts)
        line(
            BENCH,
            "grown for what follows",
            value=opened.log.size,
            unit="entries",
            seconds=time.perf_counter() - begun_s,
        )
        size, log_key = opened.log.size, opened.signer.log_key
    directory = place / "grown" / "log"
    policy_file = place / "policy"
    policy_file.write_bytes(single_log_policy(log_key).encode())
    progress(f"{BENCH}: check and replay of {size} entries")
    go = go_verifier.build(place)

    def check() -> None:
        report = verify(PublishedLog(str(directory)), single_log_policy(log_key))
        assert not report.findings, report.findings

    def tell() -> None:
        story = replay(PublishedLog(str(directory)), size)
        assert not story.oddities, story.oddities

    def command(verb: str) -> Callable[[], None]:
        argv = [
            sys.executable,
            "-P",
            "-m",
            "audit",
            verb,
            str(directory),
            "--policy",
            str(policy_file),
            "--json",
        ]

        def run_it() -> None:
            subprocess.run(argv, check=True, capture_output=True, env=_environment())

        return run_it

    ways: dict[str, Callable[[], object]] = {
        "structural check, one process": check,
        "salween-audit verify, the whole command": command("verify"),
        "semantic replay, one process": tell,
    }
    if go.binary is not None:
        ways[_GO] = partial(go.check, directory, log_key.encode())
    rates: dict[str, list[float]] = {name: [] for name in ways}
    cpu_s: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(RUNS):
        for name, call in ways.items():
            begun_s, begun_cpu_s = time.perf_counter(), _cpu_s()
            call()
            rates[name].append(size / (time.perf_counter() - begun_s))
            cpu_s[name].append(_cpu_s() - begun_cpu_s)
    for name in ways:
        compared: dict[str, Any] = {}
        if name != _GO:
            compared = (
                speed_ratio(rates[name], rates[_GO], against=_GO)
                if _GO in rates
                else {"against": f"{_GO}: not run, {go.why_not}"}
            )
        spent_s = median(cpu_s[name])
        figure(BENCH, name, rates[name], "entries/s", entries=size, cpu_seconds=spent_s, **compared)


_GO = "the Go verifier tests/independent/tlogcheck on the same log, its whole process"


def _cpu_s() -> float:
    """Processor seconds of this process and of the children it waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).resolve().parents[1])}


async def _grow(env: Env, opened: _Opened, alerts: int) -> None:
    """The log of an office that sent ``alerts``, each delivered and read once, published as it grew."""
    per_transaction = ENTRIES_PER_TRANSACTION // 6
    for begin in range(0, alerts, per_transaction):
        count = min(per_transaction, alerts - begin)

        def add(tx: Transaction, begin: int = begin, count: int = count) -> None:
            for number in range(begin, begin + count):
                _add_alert(env, opened.log, tx, number)

        await opened.db.transact(add)
        if opened.log.size - opened.log.published.size >= ENTRIES_PER_CHECKPOINT:
            await opened.log.publish()
    await opened.log.publish()


def _add_alert(env: Env, log: AuditLog, tx: Transaction, number: int) -> None:
    message, alert, envelope = env.random(16).hex(), env.random(32).hex(), env.random(32).hex()
    peer, actor, now_ms = "ab" * 8, "cd" * 8, env.clock.now_ms()
    log.append(tx, "rel.author", {"alert": alert, "actor": actor})
    log.append(
        tx,
        "msg.submit",
        {
            "msg": message,
            "peer": peer,
            "com": [env.random(32).hex(), env.random(32).hex()],
            "exp": now_ms + 10**9,
            "alert": alert,
            "kind": "alert",
            "urgency": "expected",
            "erase": now_ms + 2 * 10**9,
        },
    )
    log.append(
        tx,
        "msg.seal",
        {
            "msg": message,
            "hh": env.random(32).hex(),
            "inst": "ef" * 8,
            "ps": number + 1,
            "att": 1,
            "env": envelope,
            "via": "broker",
            "bytes": 8192,
            "peer": peer,
        },
    )
    log.append(
        tx,
        "msg.custody",
        {"msg": message, "env": envelope, "origin": "bench/broker/log1", "idx": number, "at": now_ms},
    )
    log.append(tx, "msg.receipt", {"msg": message, "step": "delivered", "at": now_ms, "peer": peer})
    log.append(tx, "acc.read", {"alert": alert, "actor": actor, "purpose": "duty", "k": 1})
