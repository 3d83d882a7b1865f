"""The facts of a report over several logs: what was verified, what was found, and each message step by step.

Spec: docs/auditing.md#report. Reads the entries once more and keeps, of what may be many, the first so many
and how many were left out; findings come before everything else. ``gather`` gives one JSON object; pages are
made of that alone (report_page), so both say the same.
"""

import json
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from audit.entry import glance_untrusted
from audit.fsck import Progress
from audit.policy import Policy
from audit.reader import PublishedLog
from audit.reconcile import Judgement, Reconciled, Source
from audit.replay import Entry, read_entries
from audit.words import STEPS, meaning_of
from keys.errors import MalformedInput

FORMAT: Final = "salween-report/1"
TIMELINES_MAX: Final = 200
"""Timelines told, findings first. A page that nobody reads to its end helps nobody."""
STEPS_MAX: Final = 60
DETAILS_MAX: Final = 5
ROWS_MAX: Final = 1000
"""Accesses and erasures listed, and points of a witness's lag."""
YEAR_10000_US: Final = 253_402_300_800_000_000
_ACCESSES: Final = {
    "acc.read": "read",
    "acc.print": "printed",
    "acc.export": "exported",
    "acc.deny": "denied",
}
_ACCESS_FIELDS: Final = ("alert", "actor", "actor2", "purpose", "k", "prev", "code")


def when(ts_us: int | None) -> str:
    """A time as people and programs read it, in UTC."""
    if ts_us is None:
        return "never"
    # Entry times are numbers up to 2^53 microseconds: the year 2255 at most. A witness may say anything.
    if ts_us >= YEAR_10000_US:
        return "after the year 9999"
    moment = datetime.fromtimestamp(ts_us / 1_000_000, UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds") + "Z"


@dataclass(slots=True)
class _Timeline:
    """One message that is told step by step."""

    judgement: Judgement
    steps: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    steps_more: int = 0

    def add(self, ts_us: int, steady_us: int, party: str, source: Source, index: int, words: str) -> None:
        if len(self.steps) >= STEPS_MAX:
            self.steps_more += 1
            return
        step = {
            "at": when(ts_us),
            "clock_set_s": round((ts_us - steady_us) / 1_000_000),
            "party": party,
            "log": source.report.origin,
            "index": index,
            "words": words,
        }
        self.steps.append((steady_us, step))


class _Limited:
    """The first ROWS_MAX of a list, and the count of all."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.total = 0

    def add(self, row: Callable[[], dict[str, Any]]) -> None:
        self.total += 1
        if len(self.rows) < ROWS_MAX:
            self.rows.append(row())

    def told(self) -> dict[str, Any]:
        return {"total": self.total, "left_out": self.total - len(self.rows), "list": self.rows}


class _Reading:
    """Every log read once more."""

    def __init__(self, chosen: Sequence[_Timeline]) -> None:
        self._by_key: dict[tuple[str, str], list[_Timeline]] = {}
        for timeline in chosen:
            judgement = timeline.judgement
            keys = {("msg", judgement.id), ("alert", judgement.alert)}
            keys |= {("env", envelope) for envelope in judgement.envelopes}
            for key in keys:
                if key[1]:
                    self._by_key.setdefault(key, []).append(timeline)
        self.accesses, self.erasures = _Limited(), _Limited()
        self.times: dict[str, array[int]] = {}
        """Origin -> the time of each entry, declared steps of the clock taken back."""
        self.seen: dict[str, list[tuple[int, int, str]]] = {}
        """Origin -> (size, when a witness says it saw that much, in microseconds, who)."""

    def read(self, source: Source, progress: Progress) -> None:
        origin, shift = source.report.origin, 0
        times = self.times[origin] = array("q")
        for index, data in enumerate(read_entries(PublishedLog(source.directory), source.report.size)):
            try:
                _, ts_us, name = glance_untrusted(data)
            except MalformedInput:
                times.append(times[-1] if times else 0)
                continue  # fsck has found it
            times.append(ts_us - shift)
            if name in STEPS or name in ("clk.step", "wit.cosigned"):
                entry: Entry = json.loads(data)
                if name == "clk.step":
                    shift += entry["to"] - entry["from"]
                elif name == "wit.cosigned":
                    self.seen.setdefault(entry["origin"], []).append(
                        (entry["size"], ts_us - shift, source.office)
                    )
                else:
                    self._step(source, index, name, entry, ts_us - shift)
            if index % 4096 == 0:
                progress(index)
        progress(len(times))

    def _step(self, source: Source, index: int, name: str, entry: Entry, steady_us: int) -> None:
        where = {"log": source.report.origin, "index": index, "at": when(entry["ts"])}
        if name in _ACCESSES:
            what = {"what": _ACCESSES[name]}
            self.accesses.add(lambda: where | what | _fields(entry, _ACCESS_FIELDS))
        elif name == "content.erased":
            self.erasures.add(lambda: where | _fields(entry, ("alert", "parts", "code")))
        told: set[int] = set()
        for key in ("msg", "env", "alert"):
            for timeline in self._by_key.get((key, entry.get(key, "")), ()):
                party = _party(source, timeline.judgement)
                if party and id(timeline) not in told:
                    told.add(id(timeline))
                    timeline.add(entry["ts"], steady_us, party, source, index, STEPS[name] % entry)


def _fields(entry: Entry, names: Sequence[str]) -> dict[str, Any]:
    return {name: entry[name] for name in names if name in entry}


def _party(source: Source, judgement: Judgement) -> str:
    """Whose column; empty for an office that has nothing to do with this message."""
    if source.is_broker:
        return "broker"
    return {judgement.sender: "sender", judgement.receiver: "receiver"}.get(source.office, "")


def gather(
    answer: Reconciled,
    policies: Sequence[Policy],
    *,
    now_us: int,
    timelines: int = TIMELINES_MAX,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """The whole report, as docs/auditing.md describes it."""
    ordered = sorted(answer.judgements, key=lambda each: not each.is_finding)
    chosen = [_Timeline(judgement) for judgement in ordered[:timelines]]
    reading = _Reading(chosen)
    for source in answer.sources:
        reading.read(source, progress)
    findings = [_log_finding(source, label) for source in answer.sources for label in source.faults]
    wrong = [each for each in answer.judgements if each.is_finding]
    wrong_labels = {each.fate.value for each in wrong} | {
        each["verdict"].partition("(")[0] for each in findings
    }
    return {
        "format": FORMAT,
        "made_at": when(now_us),
        "clean": answer.is_clean,
        "names": _names(policies),
        "logs": [_log(source) for source in answer.sources],
        "log_findings": findings,
        "messages": {
            "total": len(answer.judgements),
            "findings": len(wrong),
            "counts": dict(sorted(answer.fates.items())),
            "left_out": len(answer.judgements) - len(chosen),
            "list": [_message(timeline) for timeline in chosen],
        },
        "meanings": {
            label: {**meaning_of(label)._asdict(), "finding": label in wrong_labels}
            for label in sorted(
                {label.partition("(")[0] for source in answer.sources for label in source.verdicts}
                | set(answer.fates)
            )
        },
        "witness_lag": [
            _lag(source, reading) for source in answer.sources if source.report.origin and source.report.size
        ],
        "accesses": reading.accesses.told(),
        "erasures": reading.erasures.told(),
        "cannot_be_known": [*answer.untold, *ALWAYS_UNKNOWN],
    }


ALWAYS_UNKNOWN: Final = (
    "that what was written is true: a log shows when a thing was said, not that it was so",
    "what happened on paper, by camera or in a talk: nothing of it is in a log",
    "who an officer is: logs hold pseudonyms, which only the office can resolve while it keeps the key",
    "what an alert said: logs hold commitments, which only the offices can open, until they erase it",
)
"""What no log can tell, whatever is in it."""


def _names(policies: Sequence[Policy]) -> dict[str, str]:
    """Office or broker by origin -> the word under which the auditor's own policy first lists a key of it."""
    names: dict[str, str] = {}
    for policy in policies:
        for name, key in policy.witnesses.items():
            if "/witness" in key.name:
                names.setdefault(key.name.rpartition("/witness")[0], name)
    return names


def _log_finding(source: Source, label: str) -> dict[str, Any]:
    details = [each.detail for each in source.report.findings if each.label == label]
    details += [each.detail for each in source.oddities if each.verdict == label]
    details += [
        detail for crossed, detail in zip(source.crossed, source.details, strict=True) if crossed == label
    ]
    return {
        "log": source.report.origin or source.directory,
        "verdict": label,
        "details": details[:DETAILS_MAX],
        "details_left_out": len(details[DETAILS_MAX:]),
    }


def _log(source: Source) -> dict[str, Any]:
    report = source.report
    return {
        "directory": source.directory,
        "origin": report.origin,
        "office": source.office,
        "kind": "broker" if source.is_broker else "office",
        "verdicts": source.verdicts,
        "size": report.size,
        "verified_size": report.verified_size,
        "root": report.root.hex(),
        "first_entry_at": when(report.first_ts_us),
        "newest_entry_at": when(report.last_ts_us),
        "checkpoints": report.checkpoints,
        "cosigners": [
            {"name": name, "size": size, "at": when(time_s * 1_000_000)}
            for name, (size, time_s) in sorted(report.cosigned.items())
        ],
        "entries_by_type": dict(sorted(report.types.items())),
        "notes": [*report.notes, *source.story.notes],
    }


def _message(timeline: _Timeline) -> dict[str, Any]:
    judgement = timeline.judgement
    return {
        "id": judgement.id,
        "alert": judgement.alert,
        "sender": judgement.sender,
        "receiver": judgement.receiver,
        "verdict": judgement.fate.value,
        "finding": judgement.is_finding,
        "detail": judgement.detail,
        "steps": [step for _, step in sorted(timeline.steps, key=lambda each: each[0])],
        "steps_left_out": timeline.steps_more,
    }


def _lag(source: Source, reading: _Reading) -> dict[str, Any]:
    """How long the oldest unseen entry had waited each time a witness saw more of the log."""
    origin = source.report.origin
    times = reading.times[origin]
    points: list[dict[str, Any]] = []
    seen = 0
    of_policy = [(size, time_s * 1_000_000, name) for name, (size, time_s) in source.report.cosigned.items()]
    for size, at_us, who in sorted([*reading.seen.get(origin, ()), *of_policy], key=lambda each: each[1]):
        if not seen < size <= len(times):
            continue
        waited_s = max(at_us - times[seen], 0) / 1_000_000
        points.append(
            {"at_us": at_us, "at": when(at_us), "by": who, "size": size, "waited_s": round(waited_s, 1)}
        )
        seen = size
    waits = sorted(point["waited_s"] for point in points)
    return {
        "origin": origin,
        "seen_size": seen,
        "unseen": len(times) - seen,
        "points": len(points),
        "median_s": waits[len(waits) // 2] if waits else None,
        "worst_s": waits[-1] if waits else None,
        "over_15_min": len(waits) - bisect_left(waits, 900.001),
        "list": _thinned(points),
    }


def _thinned(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most ROWS_MAX, of each neighbourhood the longest wait."""
    each = -(-len(points) // ROWS_MAX)
    if each <= 1:
        return points
    return [
        max(points[at : at + each], key=lambda point: float(point["waited_s"]))
        for at in range(0, len(points), each)
    ]
