"""The auditor's work: structural check, semantic replay and reconciling; receipts made and verified.

Two offices and their broker have one history in three logs (``grown``). Every way of reading takes its turn
on the same files, and beside them the Go verifier, which checks structure alone, and a bare decoding of the
same entries, which checks nothing. A receipt is the file that an office hands over, of one event of an alert,
under a checkpoint that three witnesses cosigned.

What runs in one process is measured by its processor time, whole commands, which use all cores, by the clock
on the wall.
"""

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import click
import nacl.bindings

from audit.checkpoint import parse_checkpoint_untrusted
from audit.fsck import verify
from audit.note import NoteSigner, cosigned_message
from audit.policy import Group, Policy
from audit.reader import CHECKPOINT, PublishedLog
from audit.receipt import event_of, make_receipt, open_receipt_untrusted
from audit.replay import no_collection, read_entries, replay
from audit.tree import encode_bundle
from bench import go_verifier, log_work
from bench.grown import ENTRIES_PER_ALERT, Grown, grow
from bench.measure import Spent, peak_bytes_of, take_turns
from bench.report import figure, line, machine, progress, speed_ratio
from keys.primitives import Ed25519PrivateKey
from keys.secret import SecretBytes
from runtime.env import Env, real_env

BENCH = "audit"
ENTRIES = 120_000
GOAL_VERIFY_PER_S: Final = 400_000
GOAL_REPLAY_PER_S: Final = 100_000
GOAL_RECONCILE_PER_S: Final = 50_000
GOAL_MILLION_S: Final = 30
GOAL_RECEIPTS_PER_S: Final = 3_000
GOAL_RECEIPT_BYTES: Final = 2_000
_ROOT: Final = Path(__file__).resolve().parents[1]
_COSIGNERS = 3
_GO = "the Go verifier tests/independent/tlogcheck on the same files, its whole process"
_DECODE = "json.loads of every entry, one process"
_CHECK = "structural check, one process"
_VERIFY = "salween-audit verify, the whole command, once for each log"
_REPLAY = "semantic replay, one process"
_RECONCILE = "salween-audit reconcile, the whole command"


def run(*, quick: bool) -> None:
    """A log of moderate size; the figure for a million entries is ``make bench-audit``."""
    asyncio.run(_run(entries=2_000 if quick else ENTRIES, receipts=100 if quick else 2_000))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--entries", default=1_000_000, show_default=True, help="Entries of the three logs together.")
def main(entries: int) -> None:
    """Everything that the log has a goal for."""
    machine(quick=False)
    log_work.run(quick=False)
    asyncio.run(_run(entries=entries, receipts=5_000))


async def _run(*, entries: int, receipts: int) -> None:
    with tempfile.TemporaryDirectory(prefix="salween-bench-") as name:
        place, env = Path(name), real_env()
        progress(f"{BENCH}: growing three logs of {entries} entries")
        begun_s = time.perf_counter()
        logs = await grow(env, place, -(-entries // ENTRIES_PER_ALERT))
        line(
            BENCH,
            "grown for what follows",
            value=sum(log.size for log in logs),
            unit="entries",
            seconds=time.perf_counter() - begun_s,
        )
        go = go_verifier.build(place)
        _read(place, logs, go)
        _receipts(env, place, logs[0], go, receipts)


# --- reading three logs -------------------------------------------------------------------------------------


def _read(place: Path, logs: Sequence[Grown], go: go_verifier.GoVerifier) -> None:
    size = sum(log.size for log in logs)
    policy = Policy(logs=tuple(log.log_key for log in logs), witnesses={}, groups={}, quorum="none")
    policy_file = place / "policy"
    policy_file.write_bytes(policy.encode())
    peaks_bytes: list[float] = []

    def check() -> None:
        for log in logs:
            report = verify(PublishedLog(str(log.directory)), policy)
            assert not report.findings, report.findings

    def tell() -> None:
        for log in logs:
            with no_collection():
                story = replay(PublishedLog(str(log.directory)), log.size)
            assert not story.oddities, story.oddities

    def decode() -> None:
        for log in logs:
            for entry in read_entries(PublishedLog(str(log.directory)), log.size):
                json.loads(entry)

    def check_in_go() -> None:
        for log in logs:
            go.check(log.directory, log.log_key.encode())

    def command(*arguments: str | Path) -> int:
        argv = [sys.executable, "-P", "-m", "audit", *arguments, "--policy", policy_file, "--json"]
        return peak_bytes_of(argv, {"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT)})

    def verify_command() -> None:
        for log in logs:
            command("verify", log.directory)

    def reconcile_command() -> None:
        sender, receiver, broker = (log.directory for log in logs)
        peaks_bytes.append(command("reconcile", sender, receiver, "--broker", broker))

    ways: dict[str, Callable[[], object]] = {
        _CHECK: check,
        _VERIFY: verify_command,
        _REPLAY: tell,
        _RECONCILE: reconcile_command,
        _DECODE: decode,
    }
    if go.binary is not None:
        ways[_GO] = check_in_go
    spent = take_turns(ways, size, lambda way: progress(f"{BENCH}: {way}"))
    facts = {"entries": size}
    for name, goal in ((_CHECK, None), (_REPLAY, GOAL_REPLAY_PER_S)):
        compared = _beside_go(spent, name, go, by_cpu=True)
        rates = spent[name].per_cpu_s
        figure(BENCH, name, rates, "entries per core-second", goal_min=goal, **compared, **facts)
    for name, goal in ((_VERIFY, GOAL_VERIFY_PER_S), (_RECONCILE, GOAL_RECONCILE_PER_S)):
        more = {"entries_per_core_second": median(spent[name].per_cpu_s)} | facts
        compared = _beside_go(spent, name, go, by_cpu=False)
        figure(BENCH, name, spent[name].per_s, "entries/s", goal_min=goal, **compared, **more)
    rates = spent[_RECONCILE].per_s
    compared = speed_ratio(rates, spent[_DECODE].per_s, against=_DECODE)
    figure(BENCH, f"{_RECONCILE}, against decoding", rates, "entries/s", **compared, **facts)
    times_s = [size / rate for rate in rates]
    # The goal is for a million, which fewer can neither reach nor miss.
    goal = GOAL_MILLION_S if size >= 1_000_000 else None
    figure(BENCH, f"{_RECONCILE}, seconds", times_s, "s", goal_max=goal, **facts)
    peaks_mib = [peak_bytes / 2**20 for peak_bytes in peaks_bytes]
    figure(BENCH, f"{_RECONCILE}, memory of its largest process", peaks_mib, "MiB", **facts)


def _beside_go(
    spent: Mapping[str, Spent], name: str, go: go_verifier.GoVerifier, *, by_cpu: bool
) -> dict[str, Any]:
    """The fields of a comparison with Go, or why there is none."""
    if _GO not in spent:
        return {"against": f"{_GO}: not run, {go.why_not}"}
    if by_cpu:
        return speed_ratio(spent[name].per_cpu_s, spent[_GO].per_cpu_s, against=_GO)
    return speed_ratio(spent[name].per_s, spent[_GO].per_s, against=_GO)


# --- receipts -----------------------------------------------------------------------------------------------


def _receipts(env: Env, place: Path, log: Grown, go: go_verifier.GoVerifier, count: int) -> None:
    published = PublishedLog(str(log.directory))
    entries = list(read_entries(published, log.size))
    told = [index for index, entry in enumerate(entries) if event_of(json.loads(entry)) is not None]
    indices = random.Random(1).choices(told, k=count)
    witnesses = [
        NoteSigner(
            name=f"bench/{number}/witness1", key=Ed25519PrivateKey.from_seed(SecretBytes(env.random(32)))
        )
        for number in range(_COSIGNERS)
    ]
    names = {f"w{number}": witness.witness_key for number, witness in enumerate(witnesses)}
    everybody = Group(threshold=_COSIGNERS, members=tuple(names))
    policy = Policy(logs=(log.log_key,), witnesses=names, groups={"all": everybody}, quorum="all")
    note = published.read(CHECKPOINT)
    text, time_s = parse_checkpoint_untrusted(note)[0].text, env.clock.now_ms() // 1000
    note += "".join(witness.cosign(text, time_s).encode() for witness in witnesses).encode()

    def make() -> list[bytes]:
        return [make_receipt(entries[index], index, note, published.read_tile) for index in indices]

    receipts = make()

    def verify_them() -> None:
        for receipt in receipts:
            open_receipt_untrusted(receipt, policy)

    public, secret = nacl.bindings.crypto_sign_keypair()
    message = cosigned_message(text, time_s)
    signed = nacl.bindings.crypto_sign(message, secret)

    def sign_bare() -> None:
        for _ in indices:
            nacl.bindings.crypto_sign(message, secret)

    def verify_bare() -> None:
        for _ in indices:
            for _ in range(1 + _COSIGNERS):
                nacl.bindings.crypto_sign_open(signed, public)

    made, held = "receipts made from published tiles", "receipts verified, three cosigners"
    a_signature, signatures = "one bare Ed25519 signature", "their four Ed25519 signatures verified, no more"
    ways = {made: make, a_signature: sign_bare, held: verify_them, signatures: verify_bare}
    if go.binary is not None:
        file = place / "receipts"
        proofs = zip(indices, receipts, strict=True)
        file.write_bytes(encode_bundle(part for index, proof in proofs for part in (entries[index], proof)))
        keys = [witness.witness_key.encode() for witness in witnesses]
        ways[_GO] = partial(go.check_receipts, file, log.log_key.encode(), keys)
    spent = take_turns(ways, count, lambda way: progress(f"{BENCH}: {way}"))
    facts, unit = {"entries": log.size, "receipts": count}, "receipts per core-second"
    for name, other, goal in ((made, a_signature, None), (held, signatures, GOAL_RECEIPTS_PER_S)):
        rates = spent[name].per_cpu_s
        compared = speed_ratio(rates, spent[other].per_cpu_s, against=other)
        figure(BENCH, name, rates, unit, goal_min=goal, **compared, **facts)
    compared = _beside_go(spent, held, go, by_cpu=True)
    figure(BENCH, f"{held}, against Go", spent[held].per_cpu_s, unit, **compared, **facts)
    largest = max(map(len, receipts))
    line(
        BENCH,
        "the largest of these receipts",
        value=largest,
        unit="bytes",
        goal_max=GOAL_RECEIPT_BYTES,
        reached=largest <= GOAL_RECEIPT_BYTES,
        **facts,
    )


if __name__ == "__main__":
    main()
