"""``salween-audit verify | replay | reconcile | receipt | dossier | key``: what an auditor does, offline.

Spec: docs/auditing.md. Exit codes: 0 clean, 1 a finding, 2 the input cannot be read, 64 wrong usage, 70 a
bug of ours, 74 the disk failed. An uncaught exception is 70, never 1: "refused" and "broken" must not look
alike.

Needs only ``keys`` and the pure half of ``audit``: no database, no network, no daemon.
"""

import errno
import io
import json
import multiprocessing
import os
import re
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from hashlib import sha256
from itertools import chain, islice
from typing import Any, Final, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from audit.checkpoint import parse_checkpoint_untrusted
from audit.custody import NOTES_BYTES_MAX, read_notes_untrusted
from audit.dossier import (
    KEY_FILE_BYTES_MAX,
    Checked,
    check_dossier,
    encode_auditor_public,
    encode_auditor_secret,
    parse_auditor_secret_untrusted,
)
from audit.fsck import Chunk, Report, Task, verify
from audit.note import NOTE_BYTES_MAX
from audit.policy import POLICY_BYTES_MAX, QUORUM_NONE, Policy, parse_policy_untrusted
from audit.proof import PROOF_BYTES_MAX
from audit.reader import CHECKPOINT, PublishedLog
from audit.receipt import Event, Receipt, as_written, open_receipt_untrusted
from audit.reconcile import LEEWAY_US, Judgement, Reconciled, Source, authenticate, reconcile
from audit.replay import BORDER, Message, Story, Until, no_collection, replay
from audit.report import TIMELINES_MAX, gather, when
from audit.report_page import render
from audit.statistics import as_csv, count
from audit.statistics_page import render_statistics
from keys.brokercard import parse_broker_address_untrusted
from keys.errors import MalformedInput, VerificationFailed
from keys.primitives import XWING_SEED_BYTES, XWingPrivateKey
from keys.secret import SecretBytes

INLINE_TASKS: Final = 12
"""Logs below a hundred thousand entries are checked before a second process would have started."""
PROCESSES_MAX: Final = 8
STEPS_SHOWN: Final = 200
INTERRUPTED: Final = 128 + 2  # as a shell reports SIGINT
_DISK: Final = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EPIPE})


class Exit(IntEnum):
    """Exit codes of every command of the project."""

    CLEAN = 0
    FINDING = 1
    UNREADABLE = 2
    USAGE = 64
    INTERNAL = 70
    DISK = 74


def main(arguments: Sequence[str] | None = None) -> None:
    """Console script: run the command and leave the process with its exit code."""
    sys.exit(_run(arguments))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command found: its exit code, and the whole of its output."""

    code: Exit
    text: str


def _run(arguments: Sequence[str] | None) -> int:
    try:
        answer = cli.main(args=arguments, prog_name="salween-audit", standalone_mode=False)
        if not isinstance(answer, Answer):
            return Exit.CLEAN  # help was asked for
        # Not written by click or rich: they answer a closed pipe with exit 1, which here means a finding.
        encoding = sys.stdout.encoding
        sys.stdout.write(answer.text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
        return answer.code
    except click.UsageError as error:
        error.show()
        return Exit.USAGE
    except click.exceptions.Abort:
        return INTERRUPTED
    except MalformedInput as error:
        _say(f"cannot read the input: {error.detail} ({error.code})")
        return Exit.UNREADABLE
    except OSError as error:
        if error.errno not in _DISK:
            _say(f"cannot read {error.filename}: {error.strerror}")
            return Exit.UNREADABLE
        # What is still buffered cannot be written; without this the interpreter would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        where = error.filename or "reading or writing"
        _say(f"the disk failed: {error.strerror} ({where}); copy the log to another disk, then verify that")
        return Exit.DISK
    except Exception:
        traceback.print_exc()
        _say(
            "internal error: this is a bug of salween-audit and says nothing about the log; please report it"
        )
        return Exit.INTERNAL


def _say(text: str) -> None:
    click.echo(f"salween-audit: {text}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Check and read published logs, offline, under keys that you bring yourself."""


_DIRECTORY = click.argument("directory", type=click.Path())
_POLICY = click.option(
    "--policy",
    "policy_file",
    type=click.Path(),
    help="tlog-policy file with the keys you trust. Without it nothing can be verified (UNKNOWN-KEY).",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")


@cli.command("verify")
@_DIRECTORY
@_POLICY
@_JSON
@click.option(
    "--known",
    "known_files",
    type=click.Path(),
    multiple=True,
    help="A signed checkpoint of this log that somebody else kept; may be given again.",
)
@click.option(
    "--max-age",
    "max_age_h",
    type=click.IntRange(min=1),
    help="STALE when nothing is newer than so many hours.",
)
def verify_command(
    directory: str,
    policy_file: str | None,
    as_json: bool,
    known_files: tuple[str, ...],
    max_age_h: int | None,
) -> Answer:
    """Check that DIRECTORY holds exactly what was signed, all of it, in one unbroken line."""
    report = _verify(directory, policy_file, as_json, known_files, max_age_h)
    return Answer(
        code=Exit.FINDING if report.findings else Exit.CLEAN,
        text=_json_line(_report_json(directory, report)) if as_json else _tell(directory, report),
    )


@cli.command("replay")
@_DIRECTORY
@_POLICY
@_JSON
@click.option(
    "--at", "at", metavar="INDEX|TIME", help="Stop after this entry, or at this time (ISO 8601, UTC)."
)
@click.option(
    "--steps",
    "steps",
    type=click.IntRange(min=0),
    default=STEPS_SHOWN,
    show_default=True,
    help="How many of the last steps to tell; 0 for all.",
)
@click.option(
    "--prior",
    "prior",
    metavar="DIRECTORY",
    help="The log of the epoch before this one, which ended with a restore; this one must follow from it.",
)
@click.option("--prior-policy", "prior_policy", metavar="FILE", help="Policy of the log given with --prior.")
def replay_command(
    directory: str,
    policy_file: str | None,
    as_json: bool,
    at: str | None,
    steps: int,
    prior: str | None,
    prior_policy: str | None,
) -> Answer:
    """Verify DIRECTORY, then tell what its owner knew, step by step, at the end or at a moment."""
    until = None if at is None else _parse_at(at)
    report = _verify(directory, policy_file, as_json, (), None)
    ended = before = None
    if prior is not None:
        ended = _verify(prior, prior_policy, as_json, (), None)
        with _bar("replay", [prior], quiet=as_json) as bar:
            before = replay(PublishedLog(prior), ended.size, progress=bar or (lambda _: None))
    with _bar("replay", [directory], quiet=as_json) as bar:
        story = replay(
            PublishedLog(directory),
            report.size,
            until=until,
            steps_kept=steps or report.size,
            before=before,
            progress=bar or (lambda _: None),
        )
    if ended is not None and before is not None:
        _hold_against(story, ended, before)
    return Answer(
        code=Exit.FINDING if report.findings or story.oddities else Exit.CLEAN,
        text=_json_line(_report_json(directory, report) | _story_json(story))
        if as_json
        else _tell(directory, report, story),
    )


_Command = TypeVar("_Command", bound=Callable[..., Answer])


def _several_logs(command: _Command) -> _Command:
    """What every command over several logs takes; ``_reconcile`` reads it."""
    for option in reversed(
        (
            click.argument("directories", type=click.Path(), nargs=-1, required=True),
            click.option(
                "--broker",
                "brokers",
                type=click.Path(),
                multiple=True,
                help="A broker's log; may be given again.",
            ),
            click.option(
                "--policy",
                "policy_files",
                type=click.Path(),
                multiple=True,
                required=True,
                help="tlog-policy file with the keys you trust; may be given again.",
            ),
            click.option(
                "--notes",
                "notes_files",
                type=click.Path(),
                multiple=True,
                help="Custody notes that an office handed over (salween-node custody); may be given again.",
            ),
            click.option(
                "--leeway",
                "leeway_s",
                type=click.IntRange(min=1),
                default=LEEWAY_US // 1_000_000,
                show_default=True,
                help="Seconds by which times may differ, and what is so near the end counts as under way.",
            ),
            click.option(
                "--broker-address",
                "addresses",
                multiple=True,
                help="salween://... of a broker, got some other way: it pins the key of custody notes.",
            ),
        )
    ):
        command = option(command)
    return command


@cli.command("reconcile")
@_several_logs
@_JSON
def reconcile_command(as_json: bool, **given: Any) -> Answer:
    """Verify DIRECTORIES, logs of offices, and hold them against each other, message by message."""
    answer, _ = _reconcile(**given, quiet=as_json)
    return Answer(
        code=Exit.CLEAN if answer.is_clean else Exit.FINDING,
        text=_json_line(_reconciled_json(answer)) if as_json else _tell_reconciled(answer),
    )


def _reconcile(
    *,
    directories: tuple[str, ...],
    brokers: tuple[str, ...],
    policy_files: tuple[str, ...],
    notes_files: tuple[str, ...],
    addresses: tuple[str, ...],
    leeway_s: int,
    quiet: bool,
) -> tuple[Reconciled, list[Policy]]:
    policies = [parse_policy_untrusted(_read_file(name, POLICY_BYTES_MAX)) for name in policy_files]
    notes = read_notes_untrusted(
        [_read_file(name, NOTES_BYTES_MAX) for name in notes_files],
        {parse_broker_address_untrusted(address).card_sha256 for address in addresses},
        {key.name: key.public for policy in policies for key in policy.logs},
    )
    sources = []
    with _Pool() as pool:
        for directory in (*directories, *brokers):
            with _bar("verify", [directory], quiet=quiet) as bar:
                progress = bar or (lambda _: None)
                sources.append(authenticate(directory, policies, progress=progress, run=pool.map))
    names = [source.report.origin for source in sources if source.report.origin]
    if len(set(names)) < len(names):
        raise click.UsageError("one log was given twice; compare two copies of it with verify --known")
    with no_collection(), _bar("replay", [*directories, *brokers], quiet=quiet) as bar:
        answer = reconcile(
            sources,
            notes=notes,
            leeway_us=leeway_s * 1_000_000,
            progress=bar or (lambda _: None),
        )
    return answer, policies


@cli.command("report")
@_several_logs
@click.option("--out", type=click.Path(dir_okay=False), help="Where to write the page: one HTML file.")
@click.option(
    "--timelines",
    type=click.IntRange(min=0),
    default=TIMELINES_MAX,
    show_default=True,
    help="How many messages are told step by step; findings come first.",
)
@_JSON
def report_command(out: str | None, timelines: int, as_json: bool, **given: Any) -> Answer:
    """Reconcile DIRECTORIES and write what an auditor wants to see, as one page or with --json as facts."""
    if out is None and not as_json:
        raise click.UsageError("--out FILE for a page, --json for the facts, or both.")
    answer, policies = _reconcile(**given, quiet=False)
    with _bar("report", [source.directory for source in answer.sources], quiet=False) as bar:
        facts = gather(
            answer,
            policies,
            now_us=time.time_ns() // 1000,
            timelines=timelines,
            progress=bar or (lambda _: None),
        )
    if out is not None:
        _write_file(out, render(facts))
    messages = facts["messages"]
    told = (
        f"{out}: {len(facts['logs'])} logs, {messages['total']} messages,"
        f" {len(facts['log_findings']) + messages['findings']} findings\n"
    )
    return Answer(
        code=Exit.CLEAN if answer.is_clean else Exit.FINDING, text=_json_line(facts) if as_json else told
    )


@cli.command("statistics")
@_DIRECTORY
@_POLICY
@click.option("--from", "first", metavar="YYYY-MM", help="The first month that is counted.")
@click.option("--to", "last", metavar="YYYY-MM", help="The last month that is counted.")
@click.option("--csv", "with_csv", is_flag=True, help="One line for each count on standard output.")
@click.option(
    "--out", type=click.Path(dir_okay=False), help="Where to write a page with charts: one HTML file."
)
@_JSON
def statistics_command(
    directory: str,
    policy_file: str | None,
    first: str | None,
    last: str | None,
    with_csv: bool,
    out: str | None,
    as_json: bool,
) -> Answer:
    """Count what DIRECTORY lets be counted without content; small counts are hidden."""
    if with_csv + as_json + (out is not None) == 0 or (with_csv and as_json):
        raise click.UsageError("--csv or --json for the counts, --out FILE for a page.")
    for month, option in ((first, "--from"), (last, "--to")):
        if month is not None and re.fullmatch("[0-9]{4}-(?:0[1-9]|1[0-2])", month) is None:
            raise click.BadParameter("not a month such as 2026-03", param_hint=option)
    report = _verify(directory, policy_file, False, (), None)
    with _bar("count", [directory], quiet=False) as bar:
        facts = count(
            PublishedLog(directory), report, first=first, last=last, progress=bar or (lambda _: None)
        )
    if out is not None:
        _write_file(out, render_statistics(facts))
    return Answer(
        code=Exit.FINDING if report.findings else Exit.CLEAN,
        text=as_csv(facts) if with_csv else _json_line(facts) if as_json else f"{out}\n",
    )


def _write_file(name: str, data: bytes) -> None:
    """Whole or not at all, also where a file of that name was there before."""
    half = f"{name}.{os.getpid()}.part"
    try:
        with open(half, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, name)
    except OSError:
        with suppress(OSError):
            os.unlink(half)
        raise


@cli.command("receipt")
@click.argument("files", type=click.Path(), nargs=-1, required=True)
@_POLICY
@click.option("--event", type=click.Choice([event.value for event in Event]), help="What it has to prove.")
@_JSON
def receipt_command(
    files: tuple[str, ...], policy_file: str | None, event: str | None, as_json: bool
) -> Answer:
    """Check receipts that an officer handed over, and say in words what each of them proves."""
    policy = _read_policy(policy_file)
    expected = None if event is None else Event(event)
    told: list[dict[str, Any]] = []
    for name in files:
        try:
            saved = as_written(_read_file(name, PROOF_BYTES_MAX))
            receipt = open_receipt_untrusted(saved, policy, expected)
            told.append({"file": name, "holds": True, **_receipt_json(receipt)})
        except VerificationFailed as error:
            told.append({"file": name, "holds": False, "code": error.code, "detail": error.detail})
    is_clean = all(each["holds"] for each in told)
    return Answer(
        code=Exit.CLEAN if is_clean else Exit.FINDING,
        text=_json_line({"receipts": told}) if as_json else "".join(map(_tell_receipt, told)),
    )


@cli.command("key")
@click.option("--out", type=click.Path(dir_okay=False), required=True, help="Your secret key; a new file.")
@_JSON
def key_command(out: str, as_json: bool) -> Answer:
    """Make an auditor's key. The secret stays in --out; the line printed goes to the office."""
    seed = SecretBytes(os.urandom(XWING_SEED_BYTES))
    public = XWingPrivateKey.from_seed(seed).public_bytes
    # Never over another one: what was sealed to that key would open for nobody.
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(encode_auditor_secret(seed))
        file.flush()
        os.fsync(descriptor)
    line = encode_auditor_public(public)
    told = {"public": line.strip(), "sha256": sha256(public).hexdigest(), "secret_file": out}
    return Answer(code=Exit.CLEAN, text=_json_line(told) if as_json else line)


@cli.command("dossier")
@_DIRECTORY
@_POLICY
@click.option("--key", "key_file", type=click.Path(), help="Your secret key, to check the openings.")
@_JSON
def dossier_command(directory: str, policy_file: str | None, key_file: str | None, as_json: bool) -> Answer:
    """Check the dossier in DIRECTORY: manifest, seal, log, receipts, and with --key the openings."""
    key = None
    if key_file is not None:
        text = _read_file(key_file, KEY_FILE_BYTES_MAX).decode("ascii", "replace")
        key = parse_auditor_secret_untrusted(text)
    checked = check_dossier(directory, _read_policy(policy_file), key)
    return Answer(
        code=Exit.FINDING if checked.findings else Exit.CLEAN,
        text=_json_line(_checked_json(checked)) if as_json else _tell_checked(checked, key is not None),
    )


def _hold_against(story: Story, ended: Report, before: Story) -> None:
    """What is wrong with the border between two epochs, and in the epoch that ended, added to the story."""
    if story.prior != ended.origin:
        story.odd(
            0, BORDER, f"this log follows {story.prior or 'none'}, not {ended.origin or 'an unsigned log'}"
        )
    if story.border is not None and ended.size >= story.border[0]:
        size, root = story.border
        if ended.size == size and ended.root.hex() != root:
            story.odd(1, BORDER, f"the first {size} entries of the ended log have another root than it says")
        elif ended.size > size:
            story.notes.append(
                f"the ended log goes on for {ended.size - size} entries that its owner had lost, or left out"
            )
    for finding in ended.findings:
        story.odd(0, BORDER, f"in the ended log: {finding.label}, {finding.detail}")
    for oddity in before.oddities:
        story.odd(0, BORDER, f"in the ended log: {oddity.label}, {oddity.detail}")


def _json_line(value: dict[str, Any]) -> str:
    return json.dumps(value) + "\n"


def _verify(
    directory: str, policy_file: str | None, quiet: bool, known_files: Sequence[str], max_age_h: int | None
) -> Report:
    policy = _read_policy(policy_file)
    newest_after_us = None if max_age_h is None else time.time_ns() // 1000 - max_age_h * 3_600_000_000
    with _bar("verify", [directory], quiet=quiet) as bar, _Pool() as pool:
        return verify(
            PublishedLog(directory),
            policy,
            known=[_read_file(name, NOTE_BYTES_MAX) for name in known_files],
            newest_after_us=newest_after_us,
            progress=bar or (lambda _: None),
            run=pool.map,
        )


def _read_policy(name: str | None) -> Policy:
    """The auditor's own; without one no key is known."""
    if name is None:
        return Policy(logs=(), witnesses={}, groups={}, quorum=QUORUM_NONE)
    return parse_policy_untrusted(_read_file(name, POLICY_BYTES_MAX))


def _read_file(name: str, bytes_max: int) -> bytes:
    return PublishedLog(os.path.dirname(name) or ".").read(os.path.basename(name), bytes_max)


def _parse_at(text: str) -> Until:
    if re.fullmatch("[0-9]{1,15}", text):
        return Until(index=int(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            "neither a leaf index nor a time such as 2026-03-01T08:00", param_hint="--at"
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return Until(ts_us=int(moment.timestamp() * 1_000_000))


class _Pool:
    """``map`` that runs the first tasks here and the rest, if there are more, in further processes;

    Once there are some, they take all tasks.
    """

    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def map(self, call: Callable[[Task], Chunk], tasks: Iterable[Task]) -> Iterator[Chunk]:
        """Results in order; only a few tasks are under way at a time, so memory stays flat."""
        waiting = iter(tasks)
        if self._executor is None:
            yield from map(call, islice(waiting, INLINE_TASKS))
        following = next(waiting, None)
        processes = min(PROCESSES_MAX, len(os.sched_getaffinity(0)))
        if following is None:
            return
        if processes < 2:
            yield from map(call, chain([following], waiting))
            return
        if self._executor is None:
            # spawn: a forked copy of a process that shows a progress bar from a thread could deadlock.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(max_workers=processes, mp_context=context)
        running: deque[Future[Chunk]] = deque()
        for task in chain([following], waiting):
            running.append(self._executor.submit(call, task))
            if len(running) > 3 * processes:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _bar(
    title: str, directories: Sequence[str], *, quiet: bool
) -> "AbstractContextManager[Callable[[int], None] | None]":
    """A bar on the terminal over the entries of these logs; nothing when nobody looks."""
    if quiet or not sys.stderr.isatty():
        return nullcontext()
    sizes = [_size_untrusted(directory) for directory in directories]
    return _Bar(title, None if None in sizes else sum(size or 0 for size in sizes))


def _size_untrusted(directory: str) -> int | None:
    """How many entries its checkpoint claims: how long a bar is, and nothing else."""
    with suppress(MalformedInput, OSError):
        return parse_checkpoint_untrusted(PublishedLog(directory).read(CHECKPOINT))[0].size
    return None


class _Bar:
    """How far it is, how fast, and how long it will take."""

    def __init__(self, title: str, total: int | None) -> None:
        self._progress = Progress(
            TextColumn(title),
            BarColumn(),
            TextColumn("{task.completed:,.0f} entries, {task.fields[rate]:,.0f}/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(title, total=total, rate=0.0)
        self._start_s = time.monotonic()
        self._before = self._last = 0

    def __enter__(self) -> Callable[[int], None]:
        self._progress.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _advance(self, entries: int) -> None:
        if entries < self._last:  # the next log
            self._before += self._last
        self._last = entries
        done, elapsed_s = self._before + entries, max(time.monotonic() - self._start_s, 0.001)
        self._progress.update(self._task, completed=done, rate=done / elapsed_s)


# What is shown


def _reconciled_json(answer: Reconciled) -> dict[str, Any]:
    return {
        "clean": answer.is_clean,
        "logs": [
            _report_json(source.directory, source.report)
            | {
                "verdicts": source.verdicts,
                "notes": [*source.report.notes, *source.story.notes],
                "oddities": [
                    {"verdict": oddity.label, "index": oddity.index, "detail": oddity.detail}
                    for oddity in source.oddities
                ],
                "held_against_others": source.details,
                "declared_loss": source.lost,
            }
            for source in answer.sources
        ],
        "messages": [
            {
                "id": each.id,
                "sender": each.sender,
                "receiver": each.receiver,
                "verdict": each.fate.value,
                "finding": each.is_finding,
                "detail": each.detail,
            }
            for each in answer.judgements
        ],
        "counts": dict(sorted(answer.fates.items())),
        "cannot_be_told": answer.untold,
    }


def _report_json(directory: str, report: Report) -> dict[str, Any]:
    return {
        "directory": directory,
        "verdicts": report.verdicts,
        "origin": report.origin,
        "size": report.size,
        "root": report.root.hex(),
        "verified_size": report.verified_size,
        "witnessed_size": report.witnessed_size,
        "checkpoints": report.checkpoints,
        "first_entry_at": when(report.first_ts_us),
        "newest_entry_at": when(report.last_ts_us),
        "witnesses": [
            {"name": name, "size": size, "at": when(time_s * 1_000_000)}
            for name, (size, time_s) in sorted(report.cosigned.items())
        ],
        "cosigners": [{"name": name, "at": when(time_s * 1_000_000)} for name, time_s in report.cosigners],
        "types": dict(sorted(report.types.items())),
        "findings": [
            {"verdict": finding.label, "number": finding.number, "detail": finding.detail}
            for finding in report.findings
        ],
        "findings_not_listed": report.findings_more,
        "notes": report.notes,
    }


def _story_json(story: Story) -> dict[str, Any]:
    return {
        "at": {"entries": story.entries, "time": when(story.last_ts_us)},
        "messages": [
            {
                "id": message.id,
                "direction": message.direction,
                "peer": message.peer,
                "alert": message.alert,
                "state": message.state,
                "attempts": message.attempts,
                "envelopes": sorted(message.envelopes),
                "steps": [
                    {"index": step.index, "time": when(step.ts_us), "words": step.words}
                    for step in message.steps
                ],
            }
            for message in story.messages.values()
        ],
        "oddities": [
            {"verdict": oddity.label, "index": oddity.index, "detail": oddity.detail}
            for oddity in story.oddities
        ],
        "oddities_not_listed": story.oddities_more,
        "prior": story.prior,
        "story_notes": story.notes,
    }


def _receipt_json(receipt: Receipt) -> dict[str, Any]:
    checkpoint = receipt.head.checkpoint
    return {
        "event": receipt.event.value,
        "says": _receipt_says(receipt.entry),
        "log": checkpoint.origin,
        "index": receipt.entry["seq"],
        "written_at": when(receipt.entry["ts"]),
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
        "cosigners": [
            {"name": cosigner.name, "at": when(cosigner.time_s * 1_000_000)}
            for cosigner in receipt.head.cosigners
        ],
        "entry": receipt.entry,
    }


def _receipt_says(entry: Mapping[str, Any]) -> str:
    """One sentence: what the owner of the log wrote down, in plain words."""
    peer, message = f"partner {entry.get('peer', '?')}", f"message {entry.get('msg', '?')}"
    alert = f"alert {entry.get('alert', '?')}"
    match entry["t"]:
        case "msg.submit":
            return f"This office submitted {alert} to {peer}, as {message}."
        case "msg.recv":
            return f"This office took in {alert} from {peer}, as {message}, whole and with a valid signature."
        case "msg.receipt":
            steps = {"delivered": "it is on its disk", "opened": "an officer there opened it"}
            said = steps.get(entry["step"], "its content was erased there")
            at = when(entry["at"] * 1000)
            return f"{peer.capitalize()} signed, by its clock at {at}, of {message}: {said}."
        case "content.erased":
            why = f"; reason: {entry['code']}" if "code" in entry else ""
            return f"This office erased {alert}: {', '.join(entry['parts'])}{why}."
    deed = {"acc.read": "opened", "acc.print": "printed"}.get(entry["t"], "exported")
    return f"An officer of this office {deed} {alert}; reason: {entry['purpose']}; access {entry['k']}."


def _tell_receipt(told: Mapping[str, Any]) -> str:
    if not told["holds"]:
        return f"{told['file']}: DOES NOT HOLD ({told['code']})\n  {told['detail']}\n"
    lines = [f"{told['file']}: HOLDS, event '{told['event']}'", told["says"]]
    lines.append(
        f"Written at {told['written_at']} by its own clock, as entry {told['index']} of {told['log']}."
    )
    lines += [f"Seen by witness {each['name']} at {each['at']}." for each in told["cosigners"]]
    if not told["cosigners"]:
        lines.append("No witness of the policy has seen it: only the log's own signature stands under it.")
    lines.append("It does not say that what was written is true, nor what the alert says.")
    return "\n  ".join(lines) + "\n"


def _checked_json(checked: Checked) -> dict[str, Any]:
    assert checked.manifest is not None
    manifest = checked.manifest
    return {
        "holds": not checked.findings,
        "log": manifest.origin,
        "size": manifest.size,
        "root": manifest.root,
        "made_at": when(manifest.made_us),
        "manifest": sha256(manifest.encode()).hexdigest(),
        "scope": manifest.scope,
        "complete_up_to": None if checked.complete_us is None else when(checked.complete_us),
        "alerts": [{"alert": a.alert_id, "way": a.way, "state": a.state} for a in manifest.alerts],
        "files": len(manifest.files),
        "receipts": checked.receipts,
        "openings": checked.openings,
        "cosigners": checked.cosigners,
        "findings": checked.findings,
        "notes": checked.notes,
    }


def _tell_checked(checked: Checked, with_key: bool) -> str:
    told = _checked_json(checked)
    states = Counter(alert["state"] for alert in told["alerts"])
    facts = [
        ("dossier of", f"{told['log']}, made {told['made_at']} by its own clock"),
        ("manifest", told["manifest"]),
        ("scope", f"{json.dumps(told['scope'])}, complete up to {told['complete_up_to'] or 'no known time'}"),
        ("alerts", ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"),
        ("log", f"{told['size']} entries, root {told['root']}"),
        ("files", f"{told['files']}; receipts that hold {told['receipts']}"),
        ("openings", f"{told['openings']} hold" if with_key else "not opened: no --key"),
        ("seal", f"countersigned by {', '.join(told['cosigners']) or 'no witness of the policy'}"),
        *(("note", note) for note in told["notes"]),
        *(("FINDING", finding) for finding in told["findings"]),
    ]
    lines = [f"{label:<12} {value}" for label, value in facts]
    return "\n".join([*lines, "HOLDS" if told["holds"] else "DOES NOT HOLD"]) + "\n"


def _tell(directory: str, report: Report, story: Story | None = None) -> str:
    """The whole answer for people, coloured if it goes to a terminal."""
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), highlight=False)
    with console.capture() as told:
        if story is not None:
            _show_story(console, story)
        _show_report(console, directory, report, story)
    return told.get()


def _tell_reconciled(answer: Reconciled) -> str:
    """Each log, then the messages, findings first, then what cannot be told."""
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), highlight=False)
    with console.capture() as told:
        for source in answer.sources:
            _show_source(console, source)
        judged = sorted(answer.judgements, key=lambda each: not each.is_finding)
        for each in judged[:STEPS_SHOWN]:
            _show_judgement(console, each)
        if len(judged) > STEPS_SHOWN:
            console.print(f"({len(judged) - STEPS_SHOWN} more messages not shown; --json has all)")
        counts = (f"{count} {fate}" for fate, count in sorted(answer.fates.items()))
        console.print(f"\nmessages     {', '.join(counts) or 'none'}", soft_wrap=True)
        for words in answer.untold:
            console.print(f"not told     {escape(words)}", soft_wrap=True)
        console.print(f"[bold]{'no finding' if answer.is_clean else 'FINDINGS'}[/bold]")
    return told.get()


def _show_source(console: Console, source: Source) -> None:
    _show_report(console, source.directory, source.report, source.story)
    for label, detail in zip(source.crossed, source.details, strict=True):
        console.print(f"[bold]{label}[/bold]  {escape(detail)}", soft_wrap=True)
    console.print()


def _show_judgement(console: Console, each: Judgement) -> None:
    way = f"{each.sender or 'nobody here'} to {each.receiver or 'an office not here'}"
    console.print(f"{each.id[:16]}  [bold]{each.fate.value}[/bold]  {escape(way)}", soft_wrap=True)
    if each.detail:
        console.print(f"    {escape(each.detail)}", soft_wrap=True)


def _show_report(console: Console, directory: str, report: Report, story: Story | None) -> None:
    facts = [("log", report.origin or f"unknown ({directory})")]
    if report.size:
        facts += [
            ("entries", f"{report.verified_size} of {report.size} lead to a signed root"),
            ("root", report.root.hex()),
            ("time", f"{when(report.first_ts_us)} to {when(report.last_ts_us)}, by the log's own clock"),
            ("checkpoints", str(report.checkpoints)),
            ("cosigners", ", ".join(_cosigners(report)) or "none"),
        ]
        facts += [
            ("witness", f"{name}: {size} of {report.size} entries, at {when(time_s * 1_000_000)}")
            for name, (size, time_s) in sorted(report.cosigned.items())
        ]
    facts += [("note", note) for note in (*report.notes, *(story.notes if story else ()))]
    if report.unknown_types:
        facts.append(("note", f"{report.unknown_types} entries of types that this version does not know"))
    for label, value in facts:
        console.print(f"{label:<12} {escape(value)}", soft_wrap=True)
    for finding in report.findings:
        console.print(f"[bold]{finding.label}[/bold]  {escape(finding.detail)}", soft_wrap=True)
    for oddity in story.oddities if story else ():
        console.print(f"[bold]{oddity.label}[/bold]  {escape(oddity.detail)}", soft_wrap=True)
    more = report.findings_more + (story.oddities_more if story else 0)
    if more:
        console.print(f"and {more} more findings")
    labels = report.verdicts if report.findings or not (story and story.oddities) else []
    labels += list(dict.fromkeys(oddity.verdict for oddity in story.oddities)) if story else []
    console.print(f"[bold]{', '.join(labels[:12])}[/bold]", soft_wrap=True)


def _cosigners(report: Report) -> list[str]:
    return [f"{name} at {when(time_s * 1_000_000)}" for name, time_s in report.cosigners]


def _show_story(console: Console, story: Story) -> None:
    omitted = story.entries - len(story.last_steps)
    if omitted > 0:
        console.print(f"({omitted} earlier steps not shown; --steps 0 shows all)")
    for step in story.last_steps:
        console.print(f"{when(step.ts_us)}  {step.index:>7}  {step.words}", soft_wrap=True, markup=False)
    messages = list(story.messages.values())
    if messages:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("message", "way", "peer", "state", "steps", "last"):
            table.add_column(column, no_wrap=True)
        for message in messages[-STEPS_SHOWN:]:
            table.add_row(*_message_row(message))
        console.print()
        console.print(table)
    if len(messages) > STEPS_SHOWN:
        console.print(f"({len(messages) - STEPS_SHOWN} earlier messages not shown; --json has all)")
    console.print(f"\nas of entry {story.entries - 1}, {when(story.last_ts_us)}\n")


def _message_row(message: Message) -> list[str]:
    return [
        message.id[:16],
        message.direction,
        message.peer[:16],
        message.state,
        str(len(message.steps)),
        when(message.steps[-1].ts_us),
    ]


if __name__ == "__main__":
    main()
