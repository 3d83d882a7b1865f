"""A restart with many messages stored: from the start of the process to ready, and to the inbox's first page.

The first alerts are real: pressed, carried and received by daemons. The rest are copies of what the receiver
keeps of those, under ids of their own: its rows of ``alert``, ``vault``, ``received`` and ``ladder``, and one
``msg.recv`` each, appended to the audit log by the log itself. A copy's content does not open; no start and
no inbox opens one. The empty office has an officer, no peer and no message; the two take turns.
"""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click

from audit.entry import decode_entry_untrusted
from audit.store import AuditLog
from bench.measure import RECEIPTS_AT_ONCE, RUNS
from bench.report import cost_ratio, figure, line, machine, progress
from bench.stored import database_and_log_of
from demo.office import Office
from demo.playground import ALERT, open_playground
from demo.stage import Stage
from node.layout import DATABASE_NAME
from runtime.sqlite import Transaction

BENCH = "restart"
REAL = 16
COPIES_PER_TRANSACTION = 1000
POLL_S = 0.05
STALL_S = 120.0
_TABLES = ("alert", "vault", "received", "ladder")
# What the daemon's own log says of its start, in this order; what is before and after, the clock says.
_STEPS = {
    "self_tested": "known answers of the primitives",
    "keystore_opened": "key derivation and keystore",
    "database_opened": "database, every page checked",
    "log_opened": "audit log",
    "keys_loaded": "keys and mailboxes",
}
_LEFT_OUT = ("v", "t", "seq", "ts", "bt", "mo", "z")  # what the log adds to every entry


def run(*, quick: bool) -> None:
    """A directory of a size that does not take long to fill; ``python -m bench.restart`` for the full one."""
    asyncio.run(_run(200 if quick else 5_000))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--messages", default=100_000, show_default=True, help="Messages stored.")
def main(messages: int) -> None:
    """Restart a node with so many messages."""
    machine(quick=False)
    asyncio.run(_run(messages))


@dataclass(slots=True, kw_only=True)
class _Starts:
    """Of one office."""

    ready_s: list[float] = field(default_factory=list)
    inbox_s: list[float] = field(default_factory=list)  # login included: a key derivation made to be slow
    page_s: list[float] = field(default_factory=list)
    steps_s: dict[str, list[float]] = field(default_factory=dict)


async def _run(messages: int) -> None:
    progress(f"{BENCH}: starting a broker and two offices")
    async with Stage.open() as stage:
        ground = await open_playground(stage, RECEIPTS_AT_ONCE)
        first, full = ground.offices
        empty = Office(stage, "Muse BLO", "MM", "muse")
        await empty.init("Duty officer", "officer")
        await _send_real(first)
        for office in (first, full):
            await office.daemon.stop()
        progress(f"{BENCH}: filling in {messages} messages")
        await _fill(full, messages)
        starts = {office.short: _Starts() for office in (full, empty)}
        file = full.directory / DATABASE_NAME
        reads_s: list[float] = []
        for number in range(RUNS):
            progress(f"{BENCH}: {number + 1} of {RUNS}")
            for office in (full, empty):
                await _start(office, starts[office.short])
            _read_once(file)  # into the cache
            reads_s.append(_read_once(file))
        _tell(starts[full.short], starts[empty.short], reads_s, messages, file.stat().st_size)


async def _send_real(sender: Office) -> None:
    pages = await sender.pages("officer")
    try:
        peer = (await pages.get("/partners"))[0]["office_id"]
        for _ in range(REAL):
            await pages.submit({**ALERT, "recipients": [peer]})
        async with asyncio.timeout(STALL_S):
            while True:
                await asyncio.sleep(POLL_S)
                if not int((await pages.get("/status"))["outbox_waiting"]):
                    break
    finally:
        await sender.leave_pages()


async def _start(office: Office, spent: _Starts) -> None:
    log = office.daemon.log
    read_before = log.stat().st_size if log.exists() else 0
    begun_s = time.perf_counter()
    await office.daemon.start()
    spent.ready_s.append(time.perf_counter() - begun_s)
    _note_steps(spent, log, read_before)
    pages = await office.pages("officer")
    asked_s = time.perf_counter()
    await pages.inbox()
    shown_s = time.perf_counter()
    spent.inbox_s.append(shown_s - begun_s)
    spent.page_s.append(shown_s - asked_s)
    await office.leave_pages()
    await office.daemon.stop()


def _note_steps(spent: _Starts, log: Path, read_before: int) -> None:
    """What the daemon said of the steps of its start; the rest is the interpreter and the pages."""
    with log.open("rb") as opened:
        opened.seek(read_before)
        events = [json.loads(row) for row in opened if row.startswith(b"{")]
    told_s = {
        _STEPS[event["event"]]: event["duration_ms"] / 1000 for event in events if event["event"] in _STEPS
    }
    told_s["interpreter, imports and pages: the rest"] = spent.ready_s[-1] - sum(told_s.values())
    for step, seconds in told_s.items():
        spent.steps_s.setdefault(step, []).append(seconds)


def _read_once(file: Path) -> float:
    begun_s = time.perf_counter()
    with file.open("rb") as opened:
        hashlib.file_digest(opened, "sha256")
    return time.perf_counter() - begun_s


# --- filling ------------------------------------------------------------------------------------------------


async def _fill(office: Office, messages: int) -> None:
    """Copies of what the office received, until it has ``messages``."""
    async with database_and_log_of(office) as (db, log):
        samples = await db.transact(_samples)
        received = await db.transact(_entries)
        for begin in range(REAL, messages, COPIES_PER_TRANSACTION):
            numbers = range(begin, min(begin + COPIES_PER_TRANSACTION, messages))

            def copy(tx: Transaction, numbers: range = numbers) -> None:
                for number in numbers:
                    _copy(tx, log, samples[number % len(samples)], received[number % len(received)], number)

            await db.transact(copy)
        stored = await db.transact(lambda tx: tx.value("SELECT count(*) FROM alert WHERE incoming = 1"))
        assert stored == messages, stored


def _samples(tx: Transaction) -> list[dict[str, list[dict[str, Any]]]]:
    """For each alert received, its rows by table."""
    found = []
    for alert_id, hh in tx.execute("SELECT alert_id, hh FROM alert WHERE incoming = 1"):
        rows: dict[str, list[dict[str, Any]]] = {}
        for table in _TABLES:
            names = [row[0] for row in tx.execute("SELECT name FROM pragma_table_info(?)", (table,))]
            column, value = ("hh", hh) if table == "received" else ("alert_id", alert_id)
            rows[table] = [
                dict(zip(names, row, strict=True))
                for row in tx.execute(f"SELECT * FROM {table} WHERE {column} = ?", (value,))
            ]
        found.append(rows)
    return found


def _entries(tx: Transaction) -> list[Mapping[str, Any]]:
    """Every ``msg.recv`` of the log, without what the log adds."""
    entries = [decode_entry_untrusted(row[0]) for row in tx.execute("SELECT entry FROM leaf ORDER BY idx")]
    return [
        {name: value for name, value in entry.items() if name not in _LEFT_OUT}
        for entry in entries
        if entry["t"] == "msg.recv"
    ]


def _copy(
    tx: Transaction,
    log: AuditLog,
    sample: Mapping[str, list[dict[str, Any]]],
    entry: Mapping[str, Any],
    number: int,
) -> None:
    # The instance is one the peer never had, so that no number of the copies is a number of the peer's.
    hh = os.urandom(32)
    anew: dict[str, Any] = {
        "alert_id": os.urandom(32),
        "hh": hh,
        "pair_prev": os.urandom(32),
        "pair_seq": number,
    }
    for table, rows in sample.items():
        for row in rows:
            new = {name: anew.get(name, value) for name, value in row.items()}
            if "instance" in new:
                new["instance"] = bytes(len(row["instance"]))
            marks = ", ".join("?" * len(new))
            tx.execute(
                f"INSERT INTO {table} ({', '.join(new)}) VALUES ({marks})",
                tuple(new.values()),
            )
    log.append(tx, "msg.recv", {**entry, "hh": hh.hex()})


# --- telling ------------------------------------------------------------------------------------------------


def _tell(full: _Starts, empty: _Starts, reads_s: list[float], messages: int, file_bytes: int) -> None:
    facts = {"messages": messages, "file_bytes": file_bytes}
    line(BENCH, "the database file", value=float(file_bytes), unit="bytes", messages=messages)
    read = "reading the database file once from the cache, with SHA-256"
    for case, ours, others in (
        ("start to serving", full.ready_s, empty.ready_s),
        ("start to the inbox's first page, login included", full.inbox_s, empty.inbox_s),
        ("the inbox's first page", full.page_s, empty.page_s),
    ):
        figure(
            BENCH, f"{case}, against an empty office", ours, "s", **facts,
            **cost_ratio(ours, others, against="the same at an office without messages"),
        )  # fmt: skip
        figure(
            BENCH, f"{case}, against the file", ours, "s", **facts,
            **cost_ratio(ours, reads_s, against=read),
        )  # fmt: skip
    for step, ours in full.steps_s.items():
        figure(
            BENCH, f"start to serving, of which {step}", ours, "s", **facts,
            against_value=median(empty.steps_s[step]), against="the same at an office without messages",
        )  # fmt: skip
    figure(BENCH, "start to serving, what the messages add", [
        our - other for our, other in zip(full.ready_s, empty.ready_s, strict=True)
    ], "s", **facts, against_value=median(reads_s), against=read)  # fmt: skip


if __name__ == "__main__":
    main()
