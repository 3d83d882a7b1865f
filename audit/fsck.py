"""Structural check of a published log: is what lies here what was signed, all of it, in one unbroken line?

Spec: docs/spec/log.md#verification. In this order:

1. ``checkpoint`` and every file of ``archive/`` are authenticated under the auditor's policy.
2. Every bundle is split, every entry hashed and compared with its level 0 tile, every tile with the level
   below.
3. Every entry is canonical, of its type, at its place, and no earlier than the one before (``clk.step``
   aside).
4. Every authenticated checkpoint is a prefix of the tree that the entries make, so none was rewritten.
5. Accesses to one alert form a chain: each names the one before, and counts on by one.

One rule: keys come from the policy, facts from the published files, and nothing from a database. Memory
does not grow with the log: 8192 entries are held at a time (and one small record per alert that was
accessed).
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import Any, Final

from audit.checkpoint import Checkpoint
from audit.entry import TYPES, glance_untrusted
from audit.policy import QUORUM_NONE, Policy, SignedHead, open_checkpoint_untrusted
from audit.reader import ARCHIVE, CHECKPOINT, PublishedLog
from audit.tree import (
    EMPTY_ROOT,
    ENTRIES,
    HASH_BYTES,
    LEVEL_MAX,
    TILE_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Frontier,
    parse_tile_path_untrusted,
    split_bundle_untrusted,
    subtree_root,
    tile_path,
    tiles_at_level,
)
from keys.errors import MalformedInput, VerificationFailed

CHUNK_TILES: Final = 32
"""Bundles checked at a time, by one process."""
FINDINGS_MAX: Final = 200
"""More than this helps nobody; the rest is counted."""


class Verdict(Enum):
    """What can be said of a log. VERIFIED stands alone; the others are findings."""

    VERIFIED = "VERIFIED"
    UNWITNESSED_TAIL = "UNWITNESSED-TAIL"
    STALE = "STALE"
    TRUNCATED = "TRUNCATED"
    FORKED = "FORKED"
    ROLLED_BACK = "ROLLED-BACK"
    CORRUPT = "CORRUPT"
    MALFORMED_ENTRY = "MALFORMED-ENTRY"
    BAD_SIGNATURE = "BAD-SIGNATURE"
    UNKNOWN_KEY = "UNKNOWN-KEY"
    CLOCK_SUSPECT = "CLOCK-SUSPECT"
    ACCESS_UNEXPLAINED = "ACCESS-UNEXPLAINED"


_NUMBERED: Final = {Verdict.UNWITNESSED_TAIL, Verdict.CORRUPT, Verdict.MALFORMED_ENTRY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault: a verdict, the leaf index or count it speaks of, and a sentence."""

    verdict: Verdict
    number: int | None = None
    detail: str

    @property
    def label(self) -> str:
        """As auditors write it: ``CORRUPT(1234)``."""
        if self.number is None or self.verdict not in _NUMBERED:
            return self.verdict.value
        return f"{self.verdict.value}({self.number})"


@dataclass(slots=True, kw_only=True)
class Report:
    """What was verified, up to where, and what was wrong."""

    origin: str = ""
    size: int = 0
    root: bytes = b""
    cosigners: Sequence[tuple[str, int]] = ()
    """Name in the policy and POSIX seconds, of the newest checkpoint."""
    verified_size: int = 0
    """Entries below this lead to a signed root."""
    witnessed_size: int = 0
    """Entries below this are under a checkpoint that reached the policy's quorum."""
    cosigned: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By witness: the largest size it cosigned, and when it says it did (POSIX seconds)."""
    bundle_roots: list[bytes] = field(default_factory=list)
    """The root over each whole bundle in turn, as far as there are entries."""
    checkpoints: int = 0
    first_ts_us: int | None = None
    last_ts_us: int | None = None
    types: Counter[str] = field(default_factory=Counter)
    unknown_types: int = 0
    findings: list[Finding] = field(default_factory=list)
    findings_more: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def verdicts(self) -> list[str]:
        """Every distinct finding's label in order, or VERIFIED alone."""
        return list(dict.fromkeys(finding.label for finding in self.findings)) or [Verdict.VERIFIED.value]

    def find(self, verdict: Verdict, detail: str, number: int | None = None) -> None:
        """Add a finding."""
        self.extend([Finding(verdict=verdict, number=number, detail=detail)])

    def extend(self, findings: Iterable[Finding]) -> None:
        """Add findings, up to FINDINGS_MAX."""
        for finding in findings:
            if len(self.findings) < FINDINGS_MAX:
                self.findings.append(finding)
            else:
                self.findings_more += 1


Progress = Callable[[int], None]
"""Called with the number of entries checked so far."""
Mapper = Callable[[Callable[["Task"], "Chunk"], Iterable["Task"]], Iterator["Chunk"]]
"""``map``, or something like it that uses more processes, in order and with a bounded look-ahead."""


def verify(
    log: PublishedLog,
    policy: Policy,
    *,
    known: Sequence[bytes] = (),
    newest_after_us: int | None = None,
    progress: Progress = lambda _: None,
    run: Mapper = map,
) -> Report:
    """Check a published log under a policy.

    ``known``: signed checkpoints of this log held elsewhere (a peer's copy, a receipt);
    ``newest_after_us``: the newest entry or cosignature must be later, else STALE. FileNotFoundError when
    there is no checkpoint at all; OSError for a disk that cannot be read; MalformedInput when one of
    ``known`` is not a checkpoint.
    """
    report = Report()
    heads = _Heads(report, policy)
    # Listed before ``checkpoint`` is read: a log may be written while it is checked, and ``checkpoint``
    # comes last.
    archived = _archived(log)
    heads.take(CHECKPOINT, log.read(CHECKPOINT))
    if any(finding.verdict is Verdict.UNKNOWN_KEY for finding in report.findings):
        return report
    for name in archived:
        heads.take(name, log.read(name))
    heads.judge_copies()
    head = heads.newest
    if head is None:
        return report
    heads.take_known(known, head)
    report.origin, report.size = head.checkpoint.origin, head.checkpoint.size
    report.root = head.checkpoint.root
    report.cosigners = tuple((cosigner.name, cosigner.time_s) for cosigner in head.cosigners)
    report.checkpoints = len(heads.by_size)
    _Walk(log, report, heads.by_size, head.checkpoint).go(progress, run)
    _judge_witnesses(report, policy, heads.by_size)
    _judge_age(report, newest_after_us)
    return report


def _archived(log: PublishedLog) -> list[str]:
    try:
        return [path for path in log.walk(ARCHIVE) if not _is_temporary(path)]
    except FileNotFoundError:
        return []


def _is_temporary(path: str) -> bool:
    """What an interrupted write leaves behind: never signed, never read."""
    return path.rpartition("/")[2].startswith(".")


class _Heads:
    """The authentic checkpoints of one log, by size."""

    def __init__(self, report: Report, policy: Policy) -> None:
        self._report = report
        self._policy = policy
        self._shown: SignedHead | None = None
        self.newest: SignedHead | None = None
        self.by_size: dict[int, SignedHead] = {}

    def take(self, name: str, data: bytes) -> None:
        """Authenticate one file of the directory; what fails is a finding."""
        try:
            head = open_checkpoint_untrusted(data, self._policy)
        except MalformedInput as error:
            self._report.find(Verdict.CORRUPT, f"{name} is not a signed checkpoint: {error.detail}")
            return
        except VerificationFailed as error:
            unknown = error.code == "unknown_key"
            verdict = Verdict.UNKNOWN_KEY if unknown else Verdict.BAD_SIGNATURE
            self._report.find(verdict, f"{name}: {error.detail}")
            return
        size = head.checkpoint.size
        if name != CHECKPOINT and name != f"{ARCHIVE}/{size}":
            self._report.find(Verdict.CORRUPT, f"{name} holds the checkpoint of size {size}")
        self._add(name, head)
        if name == CHECKPOINT:
            self._shown = head

    def take_known(self, known: Sequence[bytes], newest: SignedHead) -> None:
        """Checkpoints from elsewhere: a longer one shows that this copy was cut."""
        for number, data in enumerate(known, start=1):
            try:
                head = open_checkpoint_untrusted(data, self._policy)
            except VerificationFailed as error:
                raise MalformedInput(
                    "bad_known_checkpoint", f"known checkpoint {number}: {error.detail}"
                ) from error
            size, here = head.checkpoint.size, newest.checkpoint.size
            if head.checkpoint.origin != newest.checkpoint.origin:
                raise MalformedInput("bad_known_checkpoint", f"known checkpoint {number} is of another log")
            if size > here:
                self._report.find(
                    Verdict.TRUNCATED, f"a known checkpoint signs {size} entries, this copy has {here}", here
                )
            else:
                self._add(f"known checkpoint {number}", head)

    def _add(self, name: str, head: SignedHead) -> None:
        checkpoint = head.checkpoint
        if self.newest is not None and checkpoint.origin != self.newest.checkpoint.origin:
            self._report.find(Verdict.CORRUPT, f"{name} is of another log, {checkpoint.origin}")
            return
        before = self.by_size.get(checkpoint.size)
        if before is None or _strength(head) > _strength(before):
            self.by_size[checkpoint.size] = head
        if before is not None and before.checkpoint.root != checkpoint.root:
            self._report.find(
                Verdict.FORKED,
                f"{name}: a second root is signed for {checkpoint.size} entries",
                checkpoint.size,
            )
        if self.newest is None or checkpoint.size > self.newest.checkpoint.size:
            self.newest = head

    def judge_copies(self) -> None:
        """An interrupted publication leaves one archived checkpoint newer than ``checkpoint``; never two."""
        if self._shown is None:
            return
        newer = sorted(size for size in self.by_size if size > self._shown.checkpoint.size)
        if len(newer) == 1:
            self._report.notes.append(
                f"a publication was interrupted or is under way: {ARCHIVE}/{newer[0]} is newer than"
                f" {CHECKPOINT}"
            )
        elif newer:
            self._report.find(
                Verdict.ROLLED_BACK,
                f"{CHECKPOINT} shows {self._shown.checkpoint.size} entries, the archive has signed"
                f" {newer[-1]}",
                self._shown.checkpoint.size,
            )


def _strength(head: SignedHead) -> tuple[bool, int]:
    return head.quorum, len(head.cosigners)


# The pass over entries and tiles

_START: Final = "log.start"
_STEP: Final = "clk.step"
_ACCESSES: Final = frozenset(name for name, known in TYPES.items() if "k" in known.required)
_LOOKED_INTO: Final = _ACCESSES | {_START, _STEP}
_NO_COPIES: Final[tuple[int, ...]] = ()

Copies = dict[tuple[int, int], tuple[int, ...]]
"""Further widths in which a tile or bundle exists beside the one that is needed: (level, n) -> widths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Bundles [first, first + count) of a log of ``size`` entries;

    ``cuts`` are signed sizes ending inside.
    """

    log: PublishedLog
    first: int
    count: int
    size: int
    cuts: tuple[int, ...]
    copies: Copies


@dataclass(frozen=True, slots=True, kw_only=True)
class _Access:
    index: int
    alert: str
    count: int
    previous: int | None


@dataclass(slots=True, kw_only=True)
class Chunk:
    """What one task found out; small, so that it may come from another process.

    ``roots``: for each bundle the roots over its hashes: one, or two where entries and tile disagree.
    ``cuts``: the same over the hashes before each signed size inside. ``end`` is set where files are
    missing.
    """

    first: int
    entries: int = 0
    roots: list[tuple[bytes, ...]] = field(default_factory=list)
    cuts: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    end: int | None = None
    first_ts_us: int | None = None
    last_ts_us: int | None = None
    step_to_us: int | None = None
    """Set after a clk.step: the entry that follows may be as early as this."""
    origin: str | None = None
    types: Counter[str] = field(default_factory=Counter)
    accesses: list[_Access] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def find(self, verdict: Verdict, number: int, detail: str) -> None:
        """Add a finding, up to FINDINGS_MAX."""
        if len(self.findings) <= FINDINGS_MAX:
            self.findings.append(Finding(verdict=verdict, number=number, detail=detail))

    def goes_back(self, ts_us: int) -> bool:
        """Whether an entry of this time is earlier than it may be."""
        if self.last_ts_us is None or ts_us >= self.last_ts_us:
            return False
        return self.step_to_us is None or ts_us < self.step_to_us


def check_bundles(task: Task) -> Chunk:
    """Steps 2 and 3 of the module's list, for one task."""
    chunk = Chunk(first=task.first)
    for n in range(task.first, task.first + task.count):
        width = min(TILE_WIDTH, task.size - n * TILE_WIDTH)
        entries = _load_bundle(task, chunk, n, width)
        tile = _load_tile(task.log, task.copies, chunk, 0, n, width)
        if entries is not None:
            hashes = b"".join([sha256(b"\x00" + entry).digest() for entry in entries])
        elif tile is not None:
            hashes = tile
        else:
            chunk.end = n * TILE_WIDTH
            break
        candidates: tuple[bytes, ...] = (hashes,)
        altered: set[int] = set()
        if tile is not None and tile != hashes:
            candidates = (hashes, tile)
            altered = set(_differences(hashes, tile))
            for at in sorted(altered):
                chunk.find(Verdict.CORRUPT, n * TILE_WIDTH + at, "the entry's hash differs from its tile's")
        chunk.roots.append(tuple(subtree_root(each) for each in candidates))
        for cut in task.cuts:
            if n * TILE_WIDTH < cut < (n + 1) * TILE_WIDTH:
                end = (cut - n * TILE_WIDTH) * HASH_BYTES
                chunk.cuts[cut] = tuple(subtree_root(each[:end]) for each in candidates)
        _check_entries(chunk, n * TILE_WIDTH, entries or [], altered)
        chunk.entries += width
    return chunk


def _check_entries(chunk: Chunk, index: int, entries: list[bytes], altered: set[int]) -> None:
    """Canonical, of its type, at its place, not earlier than the one before."""
    names = []
    for at, entry in enumerate(entries):
        try:
            seq, ts_us, name = glance_untrusted(entry)
        except MalformedInput as error:
            if at not in altered:
                chunk.find(Verdict.MALFORMED_ENTRY, index + at, error.detail)
            continue
        if at in altered:
            continue
        if seq != index + at:
            chunk.find(Verdict.MALFORMED_ENTRY, index + at, f"it says it is entry {seq}")
        if chunk.first_ts_us is None:
            chunk.first_ts_us = ts_us
        elif chunk.goes_back(ts_us):
            chunk.find(Verdict.CLOCK_SUSPECT, index + at, f"entry {index + at} goes back in time")
        chunk.last_ts_us, chunk.step_to_us = ts_us, None
        names.append(name)
        if name in _LOOKED_INTO or not index + at:
            _look_into(chunk, index + at, name, json.loads(entry))
    chunk.types.update(names)


def _look_into(chunk: Chunk, index: int, name: str, entry: dict[str, Any]) -> None:
    """The few types whose fields matter to the structure."""
    if name == _STEP:
        chunk.step_to_us = entry["to"]
        if entry["ts"] != entry["from"]:
            chunk.find(Verdict.MALFORMED_ENTRY, index, "a clk.step carries the time it steps from")
    elif name in _ACCESSES:
        chunk.accesses.append(
            _Access(index=index, alert=entry["alert"], count=entry["k"], previous=entry.get("prev"))
        )
    if (name == _START) != (index == 0):
        chunk.find(Verdict.MALFORMED_ENTRY, index, "log.start is the first entry, and only that")
    elif index == 0:
        chunk.origin = entry["origin"]


def _differences(mine: bytes, other: bytes) -> Iterator[int]:
    """Places where two runs of hashes differ."""
    for at in range(0, min(len(mine), len(other)), HASH_BYTES):
        if mine[at : at + HASH_BYTES] != other[at : at + HASH_BYTES]:
            yield at // HASH_BYTES


# Reading what the tree needs


def _read_needed(log: PublishedLog, level: int, n: int, width: int) -> bytes | None:
    """The file of this width, or the full one that has replaced it; None when there is neither."""
    for each in (width, TILE_WIDTH):
        try:
            return log.read_tile(level, n, each)
        except FileNotFoundError:
            continue
    return None


def _read_copy(log: PublishedLog, level: int, n: int, width: int) -> bytes | None:
    """A file that was there when the check began; a running log removes partial tiles that became full."""
    try:
        return log.read_tile(level, n, width)
    except FileNotFoundError:
        return None


def _load_tile(
    log: PublishedLog, copies: Copies, chunk: Chunk, level: int, n: int, width: int
) -> bytes | None:
    """The first ``width`` hashes of a tile, compared with every other copy of it."""
    path, first_leaf = tile_path(level, n, width), n << (TILE_HEIGHT * (level + 1))
    try:
        data = _read_needed(log, level, n, width)
        if data is None:
            chunk.find(Verdict.CORRUPT, first_leaf, f"{path} is missing")
            return None
        if len(data) not in (width * HASH_BYTES, TILE_BYTES):
            raise MalformedInput("bad_file", f"{path} has {len(data)} bytes")
        hashes = data[: width * HASH_BYTES]
        for other in copies.get((level, n), _NO_COPIES):
            copy = _read_copy(log, level, n, other)
            if copy is None:
                continue
            differing = next(_differences(hashes, copy), None)
            if differing is not None or len(copy) != other * HASH_BYTES:
                at = first_leaf + ((differing or 0) << (TILE_HEIGHT * level))
                chunk.find(Verdict.CORRUPT, at, f"{tile_path(level, n, other)} differs from {path}")
    except MalformedInput as error:
        chunk.find(Verdict.CORRUPT, first_leaf, error.detail)
        return None
    return hashes


def _load_bundle(task: Task, chunk: Chunk, n: int, width: int) -> list[bytes] | None:
    """The first ``width`` entries of a bundle, compared with every other copy of it."""
    path = tile_path(ENTRIES, n, width)
    try:
        data = _read_needed(task.log, ENTRIES, n, width)
        if data is None:
            chunk.find(Verdict.CORRUPT, n * TILE_WIDTH, f"{path} is missing")
            return None
        entries = split_bundle_untrusted(data)
        if len(entries) not in (width, TILE_WIDTH):
            raise MalformedInput("bad_bundle", f"{path} holds {len(entries)} entries")
        for other in task.copies.get((ENTRIES, n), _NO_COPIES):
            data = _read_copy(task.log, ENTRIES, n, other)
            if data is None:
                continue
            copy, shared = split_bundle_untrusted(data), min(width, other)
            if len(copy) != other or copy[:shared] != entries[:shared]:
                chunk.find(
                    Verdict.CORRUPT, n * TILE_WIDTH, f"{tile_path(ENTRIES, n, other)} differs from {path}"
                )
    except MalformedInput as error:
        chunk.find(Verdict.CORRUPT, n * TILE_WIDTH, error.detail)
        return None
    return entries[:width]


def _inventory(log: PublishedLog, size: int) -> tuple[Copies, int, list[str]]:
    """Copies beside the files that the tree needs; one past the last bundle there is; files of no log."""
    copies: dict[tuple[int, int], list[int]] = {}
    bundles, strays = 0, []
    try:
        for path in log.walk("tile"):
            if _is_temporary(path):
                continue
            try:
                tile = parse_tile_path_untrusted(path)
            except MalformedInput:
                strays.append(path)
                continue
            full, width = tiles_at_level(size, max(tile.level, 0))
            needed = TILE_WIDTH if tile.n < full else width if tile.n == full else 0
            if needed and tile.width != needed:
                copies.setdefault((tile.level, tile.n), []).append(tile.width)
            if tile.level == ENTRIES:
                bundles = max(bundles, tile.n + 1)
    except FileNotFoundError:
        return {}, 0, []
    return {key: tuple(widths) for key, widths in copies.items()}, bundles, strays


class _Walk:
    """Puts the chunks together: the tree above them, the checkpoints it must pass through, the chains."""

    def __init__(
        self, log: PublishedLog, report: Report, heads: Mapping[int, SignedHead], newest: Checkpoint
    ) -> None:
        self._log = log
        self._report = report
        self._heads = heads
        self._newest = newest
        self._copies, self._bundles, strays = _inventory(log, newest.size)
        self._frontier = Frontier()
        self._upper = [bytearray() for _ in range(LEVEL_MAX + 2)]
        self._upper_done = [0] * (LEVEL_MAX + 2)
        self._clock = Chunk(first=0)
        self._accesses: dict[str, tuple[int, int]] = {}
        self._missed: list[int] = []
        if strays:
            report.notes.append(f"{len(strays)} files under tile/ are no tiles, for example {strays[0]!a}")

    def go(self, progress: Progress, run: Mapper) -> None:
        self._judge_size(0, (EMPTY_ROOT,))
        checked, end = 0, None
        for chunk in run(check_bundles, self._tasks()):
            self._add(chunk)
            checked += chunk.entries
            progress(checked)
            if chunk.end is not None:
                end = chunk.end
                break
        if end is None:
            self._finish_upper()
        self._judge_end(end)
        self._report.unknown_types = sum(
            count for name, count in self._report.types.items() if name not in TYPES
        )

    def _tasks(self) -> Iterator[Task]:
        size, cuts = self._newest.size, sorted(cut for cut in self._heads if cut % TILE_WIDTH)
        at = 0
        bundles = -(-size // TILE_WIDTH)
        for first in range(0, bundles, CHUNK_TILES):
            count = min(CHUNK_TILES, bundles - first)
            begin = at
            while at < len(cuts) and cuts[at] < (first + count) * TILE_WIDTH:
                at += 1
            yield Task(
                log=self._log,
                first=first,
                count=count,
                size=size,
                cuts=tuple(cuts[begin:at]),
                copies={
                    key: widths
                    for n in range(first, first + count)
                    for key in ((0, n), (ENTRIES, n))
                    if (widths := self._copies.get(key))
                },
            )

    def _add(self, chunk: Chunk) -> None:
        report, clock = self._report, self._clock
        missing = chunk.end is not None
        # Missing files are judged once, at the end: the tail may be cut, or a piece may be out of the middle.
        report.extend(f for f in chunk.findings if not (missing and f.number == chunk.end))
        report.types.update(chunk.types)
        if chunk.first == 0 and chunk.origin not in (None, self._newest.origin):
            report.find(Verdict.MALFORMED_ENTRY, "log.start names another log", 0)
        if chunk.first_ts_us is not None:
            if clock.goes_back(chunk.first_ts_us):
                index = chunk.first * TILE_WIDTH
                report.find(Verdict.CLOCK_SUSPECT, f"entry {index} goes back in time", index)
            clock.last_ts_us, clock.step_to_us = chunk.last_ts_us, chunk.step_to_us
            if report.first_ts_us is None:
                report.first_ts_us = chunk.first_ts_us
            report.last_ts_us = chunk.last_ts_us
        for access in chunk.accesses:
            self._follow(access)
        for n, roots in enumerate(chunk.roots, start=chunk.first):
            for cut in [cut for cut in chunk.cuts if cut // TILE_WIDTH == n]:
                self._judge_size(cut, tuple(self._frontier.root_with(root) for root in chunk.cuts[cut]))
            if (n + 1) * TILE_WIDTH <= self._newest.size:
                report.bundle_roots.append(roots[0])
                root = roots[0] if len(roots) == 1 else self._choose(n, roots)
                self._frontier.append_tile(root)
                self._rise(1, root)
                self._judge_size((n + 1) * TILE_WIDTH, (self._frontier.root(),))

    def _choose(self, n: int, roots: tuple[bytes, ...]) -> bytes:
        """Which of entries and tile is the damaged one: the tile above knows."""
        full, width = tiles_at_level(self._newest.size, 1)
        above, at = divmod(n, TILE_WIDTH)
        with contextlib.suppress(MalformedInput):
            data = _read_needed(self._log, 1, above, TILE_WIDTH if above < full else width) or b""
            if data[at * HASH_BYTES : (at + 1) * HASH_BYTES] == roots[1]:
                return roots[1]
        return roots[0]

    def _judge_size(self, size: int, roots: tuple[bytes, ...]) -> None:
        head = self._heads.get(size)
        if head is None:
            return
        if head.checkpoint.root in roots:
            self._report.verified_size = max(self._report.verified_size, size)
        else:
            self._missed.append(size)

    def _rise(self, level: int, root: bytes) -> None:
        """Add one hash to a level; a level that fills a tile is compared and passes its root up."""
        hashes = self._upper[level]
        hashes += root
        if len(hashes) == TILE_BYTES:
            self._compare_upper(level, bytes(hashes))
            self._rise(level + 1, subtree_root(bytes(hashes)))
            hashes.clear()
            self._upper_done[level] += 1

    def _finish_upper(self) -> None:
        for level, hashes in enumerate(self._upper):
            if hashes:
                self._compare_upper(level, bytes(hashes))

    def _compare_upper(self, level: int, hashes: bytes) -> None:
        n, width = self._upper_done[level], len(hashes) // HASH_BYTES
        chunk = Chunk(first=0)
        tile = _load_tile(self._log, self._copies, chunk, level, n, width)
        if tile is not None and tile != hashes:
            at = (n * TILE_WIDTH + next(_differences(hashes, tile))) << (TILE_HEIGHT * level)
            chunk.find(Verdict.CORRUPT, at, f"{tile_path(level, n, width)} does not match the level below")
        self._report.extend(chunk.findings)

    def _judge_end(self, end: int | None) -> None:
        report, size = self._report, self._newest.size
        if end is not None:
            later = self._bundles > end // TILE_WIDTH + 1
            verdict = Verdict.CORRUPT if later else Verdict.TRUNCATED
            where = "in the middle" if later else "to the end"
            report.find(
                verdict, f"{size} entries are signed, but files are missing from entry {end} {where}", end
            )
        elif size in self._missed:
            report.find(
                Verdict.CORRUPT,
                f"the entries do not lead to the signed root of {size}; the first bad one is entry"
                f" {report.verified_size} or later",
                report.verified_size,
            )
        else:
            for missed in self._missed:
                report.find(
                    Verdict.FORKED, f"the signed checkpoint of {missed} entries is not a prefix", missed
                )

    def _follow(self, access: _Access) -> None:
        """Step 5: accesses to one alert."""
        previous, count = self._accesses.get(access.alert, (None, 0))
        if (access.previous, access.count) != (previous, count + 1):
            self._report.find(
                Verdict.ACCESS_UNEXPLAINED,
                f"entry {access.index} is access {access.count} after entry {access.previous}; access"
                f" {count + 1} after entry {previous} was expected",
                access.index,
            )
        self._accesses[access.alert] = (access.index, access.count)


def _judge_witnesses(report: Report, policy: Policy, heads: Mapping[int, SignedHead]) -> None:
    report.witnessed_size = max((size for size, head in heads.items() if head.quorum), default=0)
    for size in sorted(heads):
        for cosigner in heads[size].cosigners:
            report.cosigned[cosigner.name] = (size, cosigner.time_s)
    tail = report.size - report.witnessed_size
    if policy.quorum != QUORUM_NONE and tail > 0:
        report.find(
            Verdict.UNWITNESSED_TAIL,
            f"the last {tail} entries are under no checkpoint that reached the quorum",
            tail,
        )


def _judge_age(report: Report, newest_after_us: int | None) -> None:
    times_us = [time_s * 1_000_000 for _, time_s in report.cosigners]
    if report.last_ts_us is not None:
        times_us.append(report.last_ts_us)
    if newest_after_us is not None and max(times_us, default=0) < newest_after_us:
        report.find(Verdict.STALE, "the newest entry or cosignature is older than asked for")
