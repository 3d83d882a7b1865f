"""Several logs held against each other: what two offices and their broker say of the same messages.

Spec: docs/auditing.md#reconcile. Each log is verified and replayed by itself first. Then:

1. Every (size, root) that one log names of another, or of its own past, must be a prefix of that log.
2. A message of one office is joined with what another received by its message id; pair sequence and header
   hash must agree: the header names its instance, while ``msg.seal`` names the one that stands when a message
   is sealed again, which after a reset is another. It was altered only if what was received is in no set of
   sealed envelopes.
3. The broker's entries are joined through the set of envelopes that the sender's ``msg.seal`` name. What
   went by stick has none there.
4. Each clock is held against the others': as written, and with what its own log declared of it taken back.
5. A custody note that an office handed over is held against the broker's log; one that nobody handed over
   proves nothing, and the verdict says so.

One rule: that something is missing counts only when the log that should have it goes on well beyond, and
has declared no loss. Memory grows with messages and envelopes, not with entries.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from itertools import count
from typing import Final

from audit.custody import CustodyNotes
from audit.entry import glance_untrusted
from audit.fsck import Mapper, Progress, Report, Verdict, verify
from audit.policy import Policy
from audit.reader import PublishedLog
from audit.replay import Also, Entry, Oddity, Story, read_bundle, replay
from audit.tree import HASH_BYTES, TILE_WIDTH, Frontier, leaf_hash, subtree_root
from keys.errors import MalformedInput

LEEWAY_US: Final = 600_000_000
"""Copies of logs are not taken in one moment, and clocks differ: ten minutes either way prove nothing."""
ERASING_US: Final = 3_600_000_000
"""An office that was shut erases at its start, and looks now and then: an hour late is nobody's fault."""
DECLARED_LOSS: Final = "DECLARED-LOSS"


class Fate(Enum):
    """One verdict on one message. FAULTS are the findings among them."""

    CONSISTENT = "CONSISTENT"
    IN_FLIGHT = "IN-FLIGHT"
    EXPIRED_DECLARED = "EXPIRED-DECLARED"
    NEVER_REACHED_BROKER = "NEVER-REACHED-BROKER"
    DUPLICATE_BLOCKED = "DUPLICATE-BLOCKED"
    REORDERED = "REORDERED"
    LOST_DECLARED = DECLARED_LOSS
    ERASED_BOTH = "ERASED-BOTH"
    HELD_OR_DROPPED = "HELD-OR-DROPPED-AT-BROKER"
    LOST_IN_DELIVERY = "LOST-IN-DELIVERY"
    BROKER_OMISSION = "BROKER-OMISSION-PROVEN"
    BROKER_OMISSION_CLAIMED = "BROKER-OMISSION-CLAIMED"
    RECEIVER_OMISSION = "RECEIVER-OMISSION-PROVEN"
    ALTERED = "ALTERED-IN-TRANSIT"
    DUPLICATE_ACCEPTED = "DUPLICATE-ACCEPTED"
    UNSOLICITED = "UNSOLICITED"
    BACKDATED = "BACKDATED"
    POSTDATED = "POSTDATED"
    TIME_CONFLICT = "TIME-CONFLICT"
    GAP = "GAP"
    ERASURE_INCOMPLETE = "ERASURE-INCOMPLETE"


FAULTS: Final = frozenset(Fate) - {
    Fate.CONSISTENT,
    Fate.IN_FLIGHT,
    Fate.EXPIRED_DECLARED,
    Fate.NEVER_REACHED_BROKER,
    Fate.DUPLICATE_BLOCKED,
    Fate.REORDERED,
    Fate.LOST_DECLARED,
    Fate.ERASED_BOTH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the logs together say of one message, or of one envelope that belongs to none."""

    id: str
    sender: str
    """Office, as its log's origin without the epoch; empty if no log given sealed it."""
    receiver: str
    fate: Fate
    detail: str
    alert: str = ""
    """The alert that it carries; empty for other messages, and where only its receiver's log would say it."""
    envelopes: tuple[str, ...] = ()
    """Hashes of every envelope it was sealed in, or came in."""

    @property
    def is_finding(self) -> bool:
        """Whether somebody has something to explain."""
        return self.fate in FAULTS


@dataclass(slots=True, kw_only=True)
class Source:
    """One log under audit, authenticated and replayed."""

    directory: str
    report: Report
    story: Story
    crossed: list[str] = field(default_factory=list)
    """``FORKED``, ``TRUNCATED``: found by what other logs hold."""
    details: list[str] = field(default_factory=list)
    """A sentence for each of ``crossed``."""
    lost: int | None = None
    """Its owner declares a restore: how many entries of the ended log others know and he had no more."""
    office: str = field(init=False)
    """The origin without its epoch: logs before and after a restore are one office's."""

    def __post_init__(self) -> None:
        self.office = self.report.origin.rpartition("/log")[0]

    @property
    def is_broker(self) -> bool:
        """By its origin."""
        return self.report.origin.split("/")[1:2] == ["broker"]

    @property
    def oddities(self) -> list[Oddity]:
        """What its replay found."""
        return self.story.oddities

    @property
    def faults(self) -> list[str]:
        """Distinct findings: alone, and by what others hold."""
        alone = [label for label in self.report.verdicts if label != Verdict.VERIFIED.value]
        return list(dict.fromkeys([*alone, *(oddity.verdict for oddity in self.oddities), *self.crossed]))

    @property
    def verdicts(self) -> list[str]:
        """The findings, or VERIFIED; and a loss that its owner declares, which is none."""
        declared = [] if self.lost is None else [f"{DECLARED_LOSS}({self.lost})"]
        return [*(self.faults or [Verdict.VERIFIED.value]), *declared]

    @property
    def is_clean(self) -> bool:
        """No finding, alone or by what others hold."""
        return not self.faults


@dataclass(slots=True, kw_only=True)
class Reconciled:
    """The whole answer."""

    sources: list[Source]
    judgements: list[Judgement] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    """What cannot be told, and for want of what."""

    @property
    def is_clean(self) -> bool:
        """No finding about any log or message."""
        return all(source.is_clean for source in self.sources) and not any(
            judgement.is_finding for judgement in self.judgements
        )

    @property
    def fates(self) -> Counter[str]:
        """How many messages met which fate."""
        return Counter(judgement.fate.value for judgement in self.judgements)


def authenticate(
    directory: str, policies: Sequence[Policy], *, progress: Progress = lambda _: None, run: Mapper = map
) -> Source:
    """Verify a log under the first policy that knows its key, and replay it."""
    log = PublishedLog(directory)
    report = Report()
    for policy in policies:
        report = verify(log, policy, progress=progress, run=run)
        if Verdict.UNKNOWN_KEY not in {finding.verdict for finding in report.findings}:
            break
    return Source(directory=directory, report=report, story=Story())


def reconcile(
    sources: Sequence[Source],
    *,
    notes: CustodyNotes | None = None,
    leeway_us: int = LEEWAY_US,
    progress: Progress = lambda _: None,
) -> Reconciled:
    """Hold logs against each other, and against custody notes that offices handed over.

    ``leeway_us``: by how much times may differ, and how near the end of all logs nothing missing counts.
    """
    ordered = _by_epoch(sources)
    priors = {source.report.origin: _prior_of(source) for source in ordered}
    stories: dict[str, Story] = {}
    case = _Case(ordered, notes or CustodyNotes(), leeway_us)
    for source in ordered:
        source.story = replay(
            PublishedLog(source.directory),
            source.report.size,
            before=stories.get(priors[source.report.origin]),
            progress=progress,
            also=case.reader(source),
            in_words=False,
        )
        if source.report.origin in priors.values():
            stories[source.report.origin] = source.story
        else:
            source.story.messages.clear()  # many, and nobody else asks for them
    return case.close()


def _prior_of(source: Source) -> str:
    """The origin of the epoch that ended before this log began; empty for none."""
    for first in read_bundle(PublishedLog(source.directory), 0, source.report.size)[:1]:
        with suppress(MalformedInput):
            glance_untrusted(first)
            prior: str = json.loads(first).get("prior", "")
            return prior
    return ""


def _by_epoch(sources: Iterable[Source]) -> list[Source]:
    def key(source: Source) -> tuple[str, int]:
        epoch = source.report.origin.rpartition("/log")[2]
        return source.office, int(epoch) if epoch.isdecimal() else 0

    return sorted(sources, key=key)


class _Clock:
    """The clock of one log, and what the log declares of it."""

    def __init__(self) -> None:
        self.raw = 0
        """Of its newest entry."""
        self.moved: list[int] = []
        """For each ``clk.off`` what it adds to a time without declared steps; microseconds."""
        self._stretches = [_Stretch(stepped=0, compared=0)]

    def step(self, entry: Entry) -> None:
        """A ``clk.step``."""
        last = self._stretches[-1]
        stepped = last.stepped + entry["to"] - entry["from"]
        self._stretches.append(_Stretch(stepped=stepped, compared=last.compared))

    def compare(self, entry: Entry) -> None:
        """A ``clk.off``."""
        stepped = self._stretches[-1].stepped
        self.moved.append(entry["at"] * 1000 - entry["ts"] + stepped)
        self._stretches.append(_Stretch(stepped=stepped, compared=len(self.moved)))

    def now(self) -> "_Moment":
        """When the newest entry was written."""
        return _Moment(self.raw, self._stretches[-1])

    @property
    def steady(self) -> int:
        """The best guess there is, so far, of when that was."""
        return self.raw + (self.moved[-1] if self.moved else 0) - self._stretches[-1].stepped

    def settle(self) -> None:
        """Nothing follows: what the clock was at each moment is now as clear as it gets."""
        for stretch in self._stretches:
            stretch.settle(self.moved)


@dataclass(slots=True, eq=False, kw_only=True)
class _Stretch:
    """From one declaration of a clock to the next: what to add to a time, in microseconds."""

    stepped: int
    """The sum of its ``clk.step`` so far."""
    compared: int
    """How many ``clk.off`` stood before."""
    least: int = 0
    most: int = 0
    best: int = 0

    def settle(self, moved: Sequence[int]) -> None:
        """As written, without the steps, and with what was said of other clocks before and next after."""
        around = moved[max(0, self.compared - 1) : self.compared + 1]
        unstepped = [each - self.stepped for each in (0, *around)]
        self.least, self.most = min(0, *unstepped), max(0, *unstepped)
        # By the last comparison, or by the first that followed.
        self.best = (around[0] if around else 0) - self.stepped


@dataclass(slots=True, eq=False)
class _Moment:
    """A time by one clock, which others may contradict.

    A conflict counts only if it stands whichever way the clock is read: as written, with the steps that its
    log declared taken back, and with what it said of other clocks, before the entry and next after it.
    """

    raw: int
    stretch: _Stretch

    @property
    def steady(self) -> int:
        """The best guess there is."""
        return self.raw + self.stretch.best

    @property
    def earliest(self) -> int:
        """Of all readings."""
        return self.raw + self.stretch.least

    @property
    def latest(self) -> int:
        """Of all readings."""
        return self.raw + self.stretch.most


@dataclass(slots=True)
class _Seal:
    env: str
    hh: str
    ps: int
    attempt: int
    via: str
    at: _Moment


@dataclass(slots=True)
class _Custody:
    env: str
    origin: str
    index: int
    at_us: int
    written: _Moment


@dataclass(slots=True)
class _Sent:
    office: str
    id: str
    peer: str
    at: _Moment
    alert: str = ""
    erase_us: int = 0
    """When the alert was to be erased at both offices; 0 for a message that is none."""
    seals: list[_Seal] = field(default_factory=list)
    custody: list[_Custody] = field(default_factory=list)
    receipt: str = ""
    erased_at_us: int = 0
    """When its receiver says it erased it, by the receiver's clock."""
    is_over: bool = False


@dataclass(slots=True)
class _Arrival:
    office: str
    log: str
    index: int
    env: str
    verdict: str
    msg: str
    peer: str
    hh: str
    inst: str
    ps: int
    at: _Moment
    is_late: bool = False
    """Whether one that was sealed later had been taken in before."""


@dataclass(slots=True)
class _Kept:
    """One envelope at one broker."""

    broker: str
    box: str
    indices: list[int]
    in_us: int
    steady_in_us: int
    out_us: int = 0
    ack_us: int = 0
    end: str = ""


@dataclass(slots=True)
class _Named:
    by: str
    origin: str
    size: int
    root: str


class _Case:
    """Everything the logs say, gathered; ``close`` judges."""

    def __init__(self, sources: Sequence[Source], notes: CustodyNotes, leeway_us: int) -> None:
        self._leeway_us = leeway_us
        self._sources = list(sources)
        self._by_origin = {source.report.origin: source for source in self._sources}
        self._notes = notes
        self._sent: dict[tuple[str, str, str], _Sent] = {}
        self._by_message: dict[tuple[str, str], list[_Sent]] = {}
        self._sealed: dict[str, _Sent] = {}
        self._arrivals: dict[str, list[_Arrival]] = {}
        self._junk: list[_Arrival] = []
        self._arrived: dict[str, list[_Arrival]] = {}
        self._kept: dict[str, list[_Kept]] = {}
        self._fetched: dict[tuple[str, str], int] = {}
        """(broker, mailbox) -> when the newest envelope that was ever fetched from it had come in."""
        self._peers: dict[tuple[str, str], str] = {}
        self._named: list[_Named] = []
        self._clocks: list[tuple[Source, _Clock]] = []
        self._ends: dict[str, _Moment] = {}
        self._erased: set[tuple[str, str]] = set()
        """(office, alert) whose content is gone, by that office's log."""
        self._kept_back: set[tuple[str, str]] = set()
        """(office, alert) whose content is kept longer, by an entry of its own."""
        self._told_erased: dict[tuple[str, str], int] = {}
        """(office, message) -> when its sender told this office that it erased it, by the sender's clock."""
        self._priors: dict[str, str] = {}
        self._borders: dict[str, tuple[Source, int]] = {}
        """Origin of a log that ended -> who declares it, and how many entries he still had."""
        self._losses: set[str] = set()
        self._reached: dict[tuple[str, str], int] = {}
        """(log, instance) -> highest pair sequence taken in so far."""
        self._now_us = 0
        self._texts: dict[str, str] = {}

    def _one(self, text: str) -> str:
        """The same text, as one object for all entries that have it: less than half the memory."""
        return self._texts.setdefault(text, text)

    def reader(self, source: Source) -> Also:
        """What takes in every entry of one log, in order."""
        clock = _Clock()
        self._clocks.append((source, clock))
        take: dict[str, Callable[[Source, int, Entry, _Clock], None]] = {
            "log.start": self._begun,
            "pair.ok": self._paired,
            "msg.submit": self._submitted,
            "msg.seal": self._seal,
            "msg.custody": self._held,
            "msg.receipt": self._receipt,
            "msg.expired": self._over,
            "msg.cancel": self._over,
            "msg.recv": self._received,
            "content.erased": self._gone,
            "content.held": self._stays,
            "bk.in": self._came,
            "bk.out": self._went,
            "bk.ack": self._went,
            "bk.expire": self._went,
            "bk.drop": self._went,
            "wit.cosigned": self._cosigned,
            "backup.made": self._own_past,
            "backup.head": self._remembered,
            "backup.restore": self._restored,
        }

        def read(index: int, entry: Entry) -> None:
            name, clock.raw = entry["t"], entry["ts"]
            if name == "clk.step":
                clock.step(entry)
            elif name == "clk.off":
                clock.compare(entry)
            elif (taker := take.get(name)) is not None:
                taker(source, index, entry, clock)

        return read

    # --- one entry each -------------------------------------------------------------------------------------

    def _paired(self, source: Source, _: int, entry: Entry, __: _Clock) -> None:
        if "origin" in entry:
            self._peers[source.office, entry["peer"]] = entry["origin"].rpartition("/log")[0]

    def _message(self, source: Source, entry: Entry) -> _Sent | None:
        """The message that an entry of its sender speaks of."""
        sealed = self._sealed.get(entry.get("env", ""))
        if sealed is not None and sealed.office == source.office:  # another office may name it, and lie
            return sealed
        known = self._by_message.get((source.office, entry["msg"]), [])
        for sent in known:
            if entry.get("peer", sent.peer) == sent.peer:
                return sent
        return None

    def _begin(self, source: Source, entry: Entry, at: _Moment) -> _Sent:
        key = (source.office, entry["msg"], entry.get("peer", ""))
        sent = self._sent.get(key)
        if sent is None:
            office, msg, peer = key = (source.office, self._one(key[1]), self._one(key[2]))
            sent = self._sent[key] = _Sent(office, msg, peer, at)
            self._by_message.setdefault(key[:2], []).append(sent)
        return sent

    def _submitted(self, source: Source, _: int, entry: Entry, clock: _Clock) -> None:
        sent = self._begin(source, entry, clock.now())
        sent.alert, sent.erase_us = entry.get("alert", ""), entry.get("erase", 0) * 1000

    def _seal(self, source: Source, _: int, entry: Entry, clock: _Clock) -> None:
        at = clock.now()
        sent = self._begin(source, entry, at)
        env, hh, via = self._one(entry["env"]), self._one(entry["hh"]), self._one(entry["via"])
        sent.seals.append(_Seal(env, hh, entry["ps"], entry["att"], via, at))
        self._sealed.setdefault(env, sent)

    def _held(self, source: Source, _: int, entry: Entry, clock: _Clock) -> None:
        if (sent := self._message(source, entry)) is not None:
            env, origin = self._one(entry["env"]), self._one(entry["origin"])
            sent.custody.append(_Custody(env, origin, entry["idx"], entry["at"] * 1000, clock.now()))

    def _receipt(self, source: Source, _: int, entry: Entry, __: _Clock) -> None:
        sent = self._message(source, entry)
        if sent is not None:
            sent.receipt = sent.receipt or entry["step"]
        if entry["step"] != "erased":
            return
        if sent is not None:
            sent.erased_at_us = entry["at"] * 1000
        else:
            self._told_erased[source.office, entry["msg"]] = entry["at"] * 1000

    def _gone(self, source: Source, _: int, entry: Entry, __: _Clock) -> None:
        self._erased.add((source.office, entry["alert"]))

    def _stays(self, source: Source, _: int, entry: Entry, __: _Clock) -> None:
        self._kept_back.add((source.office, entry["alert"]))

    def _over(self, source: Source, _: int, entry: Entry, __: _Clock) -> None:
        for sent in self._by_message.get((source.office, entry["msg"]), []):
            sent.is_over = True

    def _received(self, source: Source, index: int, entry: Entry, clock: _Clock) -> None:
        one = self._one
        arrival = _Arrival(
            source.office,
            source.report.origin,
            index,
            one(entry["env"]),
            one(entry["verdict"]),
            one(entry.get("msg", "")),
            one(entry.get("peer", "")),
            one(entry.get("hh", "")),
            one(entry.get("inst", "")),
            entry.get("ps", 0),
            clock.now(),
        )
        self._arrived.setdefault(arrival.env, []).append(arrival)
        if arrival.verdict == "ok":
            key = (arrival.log, arrival.inst)
            arrival.is_late = self._reached.get(key, 0) > arrival.ps
            self._reached[key] = max(self._reached.get(key, 0), arrival.ps)
        if arrival.msg:
            self._arrivals.setdefault(arrival.msg, []).append(arrival)
        elif arrival.verdict == "badsig":
            self._junk.append(arrival)

    def _came(self, source: Source, index: int, entry: Entry, clock: _Clock) -> None:
        kept = self._kept.setdefault(self._one(entry["env"]), [])
        for each in kept:
            if (each.broker, each.box) == (source.office, entry["box"]):
                each.indices.append(index)
                return
        kept.append(_Kept(source.office, self._one(entry["box"]), [index], clock.raw, clock.steady))

    def _went(self, source: Source, _: int, entry: Entry, clock: _Clock) -> None:
        for each in self._kept.get(entry["env"], ()):
            if (each.broker, each.box) != (source.office, entry["box"]):
                continue
            if entry["t"] == "bk.out":
                each.out_us = each.out_us or clock.raw
            elif entry["t"] == "bk.ack":
                each.ack_us = each.ack_us or max(clock.raw, clock.steady)
            else:
                each.end = entry["t"]
                continue
            key = (each.broker, each.box)
            self._fetched[key] = max(self._fetched.get(key, 0), each.in_us)

    def _cosigned(self, source: Source, _: int, entry: Entry, __: _Clock) -> None:
        self._named.append(_Named(source.report.origin, entry["origin"], entry["size"], entry["root"]))

    def _own_past(self, source: Source, _: int, entry: Entry, __: _Clock) -> None:
        origin = source.report.origin
        self._named.append(_Named(origin, origin, entry["size"], entry["root"]))

    def _begun(self, source: Source, _: int, entry: Entry, __: _Clock) -> None:
        if "prior" in entry:
            self._priors[source.report.origin] = entry["prior"]

    def _restored(self, source: Source, _: int, entry: Entry, __: _Clock) -> None:
        self._losses.add(source.office)
        prior = self._priors.get(source.report.origin)
        if prior is None:
            return
        self._named.append(_Named(source.report.origin, prior, entry["size"], entry["root"]))
        if prior.rpartition("/log")[0] == source.office:  # nobody declares another one's loss
            self._borders[prior] = (source, entry["size"])

    def _remembered(self, source: Source, _: int, entry: Entry, __: _Clock) -> None:
        told_by = f"{source.report.origin} (told by partner {entry['peer'][:8]})"
        self._named.append(_Named(told_by, entry["origin"], entry["size"], entry["root"]))

    # --- judging --------------------------------------------------------------------------------------------

    def close(self) -> Reconciled:
        """Every verdict."""
        self._texts.clear()
        answer = Reconciled(sources=self._sources)
        for source, clock in self._clocks:
            clock.settle()
            end, before = clock.now(), self._ends.get(source.office)
            if before is None or end.steady > before.steady:
                self._ends[source.office] = end
            if minutes := max(map(abs, clock.moved), default=0) // 60_000_000:
                source.story.notes.append(
                    f"it says its clock was up to {minutes} minutes from a broker's: read with that"
                )
        self._now_us = max((end.steady for end in self._ends.values()), default=0)
        self._count_losses()
        by_origin: dict[str, list[_Named]] = {}
        for named in self._named:
            by_origin.setdefault(named.origin, []).append(named)
        vouched = {}
        for source in self._sources:
            origin = source.report.origin
            _, border = self._borders.get(origin, (None, None))
            vouched[origin] = _hold_roots(source, by_origin.get(origin, []), border)
        self._hold_witnesses()
        # A log that nobody authenticated has no origin, and says nothing.
        offices = {source.office for source in self._sources if source.office and not source.is_broker}
        brokers = {source.office for source in self._sources if source.is_broker}
        for sent in self._sent.values():
            receiver = self._peers.get((sent.office, sent.peer), "")
            fate, detail = self._judge(sent, receiver, offices, brokers)
            answer.judgements.append(
                Judgement(
                    id=sent.id,
                    sender=sent.office,
                    receiver=receiver,
                    fate=fate,
                    detail=detail,
                    alert=sent.alert,
                    envelopes=tuple(seal.env for seal in sent.seals),
                )
            )
        answer.judgements += self._judge_strangers(offices, brokers)
        answer.untold = [
            *_untold(self._sources, offices, brokers, self._peers),
            *(_unvouched(each, vouched[each.report.origin]) for each in self._sources if each.office),
            *self._after_the_end(offices),
        ]
        return answer

    def _after_the_end(self, offices: set[str]) -> list[str]:
        """What brokers took in where one office alone writes, after its log ends: a cut may hide in it."""
        writers: dict[tuple[str, str], set[str]] = {}
        for env, sent in self._sealed.items():
            for each in self._kept.get(env, ()):
                writers.setdefault((each.broker, each.box), set()).add(sent.office)
        later: Counter[tuple[str, str]] = Counter()
        for env, copies in self._kept.items():
            for each in copies:
                wrote = writers.get((each.broker, each.box), set())
                if len(wrote) != 1 or not wrote <= offices or env in self._sealed or env in self._arrived:
                    continue
                (office,) = wrote
                if each.steady_in_us > self._end_us(office):
                    later[office, each.broker] += 1
        return [
            f"of {office}: after its log ends {broker} took in {number} envelopes where it alone writes, and"
            " no log here says what they are; service leaves no entry, so whether a message that was cut"
            " away is among them cannot be known"
            for (office, broker), number in sorted(later.items())
        ]

    def _count_losses(self) -> None:
        """How far others had seen a log beyond what its restored owner had."""
        for origin, (source, border) in self._borders.items():
            known = max((named.size for named in self._named if named.origin == origin), default=border)
            source.lost = max(source.lost or 0, known - border)

    def _hold_witnesses(self) -> None:
        """A witness that cosigned two roots of one size is no witness."""
        seen: dict[tuple[str, str, int], str] = {}
        for named in self._named:
            if seen.setdefault((named.by, named.origin, named.size), named.root) != named.root:
                for source in self._sources:
                    if source.report.origin == named.by:
                        source.crossed.append(Verdict.FORKED.value)
                        source.details.append(
                            f"it cosigned two roots of {named.origin} at {named.size} entries"
                        )

    def _judge(self, sent: _Sent, receiver: str, offices: set[str], brokers: set[str]) -> tuple[Fate, str]:
        arrivals = [
            arrival
            for arrival in self._arrivals.get(sent.id, ())
            if arrival.office != sent.office and receiver in ("", arrival.office)
        ]
        if (omitted := self._omitted(sent, brokers)) is not None:
            return omitted
        if (altered := _altered(sent, arrivals)) is not None:
            return Fate.ALTERED, altered
        sealed = {seal.env for seal in sent.seals}
        if strange := [arrival.env for arrival in arrivals if arrival.env not in sealed]:
            if sent.office in self._losses:
                return Fate.LOST_DECLARED, "the sender declares a loss; what it sealed before may be gone"
            if (hole := self._hole(sent, [])) is not None:
                return hole
            return (
                Fate.ALTERED,
                f"received as envelope {strange[0][:16]}, which no msg.seal of this message names",
            )
        accepted = Counter((a.log, a.inst, a.ps) for a in arrivals if a.verdict == "ok")
        if any(count > 1 for count in accepted.values()):
            return Fate.DUPLICATE_ACCEPTED, "the receiver's log took it in twice"
        if (late := self._judge_times(sent, arrivals)) is not None:
            return late
        if (hole := self._hole(sent, arrivals)) is not None:
            return hole
        if (erasure := self._judge_erasure(sent, arrivals)) is not None:
            return erasure
        blocked = [a for seal in sent.seals for a in self._arrived.get(seal.env, ()) if a.verdict == "dup"]
        if any(a.verdict in ("ok", "stale", "refused") for a in arrivals):
            if blocked:
                return (
                    Fate.DUPLICATE_BLOCKED,
                    f"a further copy came {len(blocked)} times and was not taken in",
                )
            if any(a.is_late for a in arrivals):
                return Fate.REORDERED, "one that was sealed later was taken in first"
            return Fate.CONSISTENT, ""
        if receiver not in offices:
            return self._judge_unseen(sent, brokers, "the receiver's log is not here")
        if receiver in self._losses:
            return Fate.LOST_DECLARED, "the receiver declares a loss; what it had before may be gone"
        return self._judge_missing(sent, receiver, brokers)

    def _omitted(self, sent: _Sent, brokers: set[str]) -> tuple[Fate, str] | None:
        """A custody note names a place in a broker's log where the envelope is not."""
        for custody in sent.custody:
            broker = custody.origin.rpartition("/log")[0]
            source = self._by_origin.get(custody.origin)
            if broker not in brokers or source is None:
                continue
            places = [index for kept in self._kept.get(custody.env, ()) for index in kept.indices]
            if custody.index in places:
                continue
            if custody.index >= source.report.size and self._is_recent(custody.at_us):
                continue  # newer than the copy of the broker's log
            where = f"entry {custody.index} of {custody.origin}, where this envelope is not"
            word = self._notes.word((custody.origin, custody.index, custody.env))
            if word == "":
                return Fate.BROKER_OMISSION, f"the broker's custody key signed for {where}"
            why = word or "the note was not handed over"
            return Fate.BROKER_OMISSION_CLAIMED, f"the sender names a custody note for {where}; {why}"
        return None

    def _hole(self, sent: _Sent, arrivals: list[_Arrival]) -> tuple[Fate, str] | None:
        """A log speaks of something about this message that should stand in it and does not."""
        if sent.office not in self._losses and sent.seals:
            attempts = {seal.attempt for seal in sent.seals}
            highest = max(attempts)
            if len(attempts) < highest:
                missing = next(number for number in count(1) if number not in attempts)
                return (
                    Fate.GAP,
                    f"the sender's log has attempt {highest} to seal it and no attempt {missing}",
                )
        again = {arrival.office for arrival in arrivals if arrival.verdict == "dup"}
        taken = {arrival.office for arrival in arrivals if arrival.verdict != "dup"}
        if again - taken - self._losses:
            return Fate.GAP, "the receiver's log says that it had this before, and not when it took it in"
        return None

    def _judge_erasure(self, sent: _Sent, arrivals: list[_Arrival]) -> tuple[Fate, str] | None:
        """Erased where both said it would be; nothing for what is not due, or was never there."""
        taken = next((arrival for arrival in arrivals if arrival.verdict == "ok"), None)
        if not sent.alert or taken is None:
            return None
        receiver = taken.office
        for office, who, had, told_us in (
            (sent.office, "the sender", sent.at, self._told_erased.get((receiver, sent.id), 0)),
            (receiver, "the receiver", taken.at, sent.erased_at_us),
        ):
            key = (office, sent.alert)
            if key in self._erased or key in self._kept_back or office in self._losses:
                continue
            end = self._ends[office]
            reached = end.earliest - self._leeway_us
            if told_us and reached > told_us:
                return (
                    Fate.ERASURE_INCOMPLETE,
                    f"{who} told the other that the content is erased, and has no entry of that",
                )
            # What was written under a clock that was set since is counted anew from then.
            is_one_clock = abs((end.raw - end.steady) - (had.raw - had.steady)) <= self._leeway_us
            if is_one_clock and had.latest < sent.erase_us < reached - ERASING_US:
                return Fate.ERASURE_INCOMPLETE, f"due for erasure, and {who}'s log goes on without it"
        if {(sent.office, sent.alert), (receiver, sent.alert)} <= self._erased:
            return Fate.ERASED_BOTH, "taken in as sealed; its content is gone at both offices since"
        return None

    def _judge_times(self, sent: _Sent, arrivals: list[_Arrival]) -> tuple[Fate, str] | None:
        for custody in sent.custody:
            # The broker's clock may have been set as well: what it declared is taken back on its side too.
            here = [each.steady_in_us for each in self._kept.get(custody.env, ())]
            if custody.written.latest < min([custody.at_us, *here]) - self._leeway_us:
                return Fate.BACKDATED, "the sender noted the broker's custody before the broker had it"
        noted = {custody.env: custody.at_us for custody in sent.custody}
        # By the sender's clock, where it says earlier: two offices that agree say nothing against each other
        # when a broker's clock leaps to and fro.
        noted_here = {custody.env: custody.written.raw for custody in sent.custody}
        for seal in sent.seals:
            kept = self._kept.get(seal.env, ())
            came = min((each.in_us for each in kept), default=noted.get(seal.env))
            latest = max([came or 0, *(each.steady_in_us for each in kept)])
            earliest = min([came or 0, *(each.steady_in_us for each in kept)])
            if came is not None and seal.at.earliest > latest + self._leeway_us:
                return Fate.POSTDATED, "the sender sealed it after the broker had it"
            gone = max((each.ack_us for each in kept), default=0)
            for arrival in arrivals:
                if arrival.env != seal.env or arrival.verdict == "dup":
                    continue
                had = min(earliest, noted_here.get(seal.env, earliest))
                if came is not None and arrival.at.latest < had - self._leeway_us:
                    return Fate.BACKDATED, "the receiver took it in before the broker had it"
                if gone and arrival.at.earliest > gone + self._leeway_us:
                    return Fate.POSTDATED, "the receiver took it in after it had deleted it at the broker"
                if came is None and arrival.at.latest < seal.at.earliest - self._leeway_us:
                    return Fate.TIME_CONFLICT, "received before it was sealed: one of two clocks is wrong"
        return None

    def _judge_missing(self, sent: _Sent, receiver: str, brokers: set[str]) -> tuple[Fate, str]:
        """Nothing at the receiver, whose log is here and declares no loss."""
        if any(self._arrived.get(seal.env) for seal in sent.seals):
            return Fate.IN_FLIGHT, "it came, and the receiver could not open it yet"
        if self._end_us(receiver) + self._leeway_us < self._now_us and self._is_recent(sent.at.steady):
            return Fate.IN_FLIGHT, "the receiver's log ends earlier"
        kept = [each for seal in sent.seals for each in self._kept.get(seal.env, ())]
        if sent.receipt and not self._is_recent(sent.at.steady):
            return (
                Fate.RECEIVER_OMISSION,
                f"the sender names a receipt ({sent.receipt}) of the receiver: ask for it, it is signed",
            )
        for each in kept:
            if each.ack_us and not self._is_recent(each.ack_us):
                return (
                    Fate.RECEIVER_OMISSION,
                    "it was deleted at the broker by its recipient, whose log has none of it",
                )
        for each in kept:
            passed_by = self._fetched.get((each.broker, each.box), 0) > each.in_us + self._leeway_us
            if each.end == "bk.drop" or (not each.end and not each.out_us and passed_by):
                return (
                    Fate.HELD_OR_DROPPED,
                    "the broker took it in and did not hand it out, while later ones were fetched",
                )
            if each.out_us and passed_by and not each.end:
                return Fate.LOST_IN_DELIVERY, "handed out by the broker, and not in the receiver's log"
        return self._judge_unseen(sent, brokers, "the receiver has none of it yet")

    def _judge_unseen(self, sent: _Sent, brokers: set[str], why: str) -> tuple[Fate, str]:
        kept = any(self._kept.get(seal.env) for seal in sent.seals)
        if sent.is_over:
            return Fate.EXPIRED_DECLARED, "the sender says it is over"
        if brokers and sent.seals and not kept and not any(seal.via != "broker" for seal in sent.seals):
            return Fate.NEVER_REACHED_BROKER, "sealed, and at no broker whose log is here"
        return Fate.IN_FLIGHT, why

    def _judge_strangers(self, offices: set[str], brokers: set[str]) -> list[Judgement]:
        """What was received and belongs to no message sent."""
        found = []
        truncated: dict[str, int] = {}
        for msg, arrivals in self._arrivals.items():
            for arrival in arrivals:
                sender = self._peers.get((arrival.office, arrival.peer), "")
                if arrival.verdict != "ok" or sender not in offices or (sender, msg) in self._by_message:
                    continue
                if sender in self._losses or self._is_recent(arrival.at.steady):
                    continue
                if self._end_us(sender) < arrival.at.steady:
                    truncated[sender] = truncated.get(sender, 0) + 1
                found.append(
                    Judgement(
                        id=msg,
                        sender=sender,
                        receiver=arrival.office,
                        fate=Fate.UNSOLICITED,
                        detail=f"taken in as entry {arrival.index} of {arrival.log}",
                        envelopes=(arrival.env,),
                    )
                )
        for source in self._sources:
            if source.office in truncated:
                source.crossed.append(Verdict.TRUNCATED.value)
                number = truncated[source.office]
                source.details.append(f"messages of it that its peer took in after its end: {number}")
        for arrival in self._junk:
            if brokers and arrival.env not in self._sealed and arrival.env not in self._kept:
                found.append(
                    Judgement(
                        id=arrival.env,
                        sender="",
                        receiver=arrival.office,
                        fate=Fate.ALTERED,
                        detail="this envelope was sealed by nobody here and taken in by no broker here",
                        envelopes=(arrival.env,),
                    )
                )
        return found

    def _end_us(self, office: str) -> int:
        """When the newest entry of all its logs was written."""
        end = self._ends.get(office)
        return 0 if end is None else end.steady

    def _is_recent(self, us: int) -> bool:
        """Too close to the end of all logs for anything missing to mean something."""
        return us + self._leeway_us > self._now_us


def _altered(sent: _Sent, arrivals: list[_Arrival]) -> str | None:
    by_env = {seal.env: seal for seal in sent.seals}
    for arrival in arrivals:
        seal = by_env.get(arrival.env)
        if seal is not None and (seal.hh, seal.ps) != (arrival.hh, arrival.ps):
            return "one envelope, and header hash or pair sequence differ between the two logs"
    return None


def _hold_roots(source: Source, named: list[_Named], border: int | None) -> int:
    """Everything said of this log's (size, root) anywhere must be a prefix of what is here.

    ``border``: how many entries its owner still had, if he declares that the rest is lost. Returns for how
    many entries somebody else vouches: a cosigner, or another office's log.
    """
    vouched = max((size for size, _ in source.report.cosigned.values()), default=0)
    wanted: dict[int, list[_Named]] = {}
    for each in named:
        if each.size > source.report.size:
            if border is not None and source.report.size >= border:
                continue
            source.crossed.append(Verdict.TRUNCATED.value)
            source.details.append(f"{each.by} knows {each.size} entries, this copy has {source.report.size}")
        elif each.size:
            wanted.setdefault(each.size, []).append(each)
    for size, root in _roots_at(source, wanted):
        for each in wanted[size]:
            if each.root != root.hex():
                source.crossed.append(Verdict.FORKED.value)
                source.details.append(f"{each.by} knows another root for {each.size} entries")
            elif each.by.rpartition("/log")[0] != source.office:
                vouched = max(vouched, each.size)
    return vouched


def _unvouched(source: Source, vouched: int) -> str:
    """Up to where a cut would have shown."""
    size = source.report.size
    known = (
        f"others vouch for its first {vouched} of {size} entries"
        if vouched
        else f"nobody else vouches for any of its {size} entries"
    )
    return (
        f"of {source.report.origin}: {known}; whether something stood beyond that and was cut or replaced"
        " before anybody saw it cannot be known, except for messages that another log here names"
    )


def _roots_at(source: Source, sizes: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """The root over the first so many entries, for each of ``sizes`` >= 1 as far as entries lie here."""
    log, whole, frontier = PublishedLog(source.directory), source.report.bundle_roots, Frontier()

    @lru_cache(maxsize=1)  # several sizes may end in one bundle
    def leaves(n: int) -> bytes:
        return b"".join(map(leaf_hash, read_bundle(log, n, source.report.size)))

    for size in sorted(sizes):
        n, rest = divmod(size, TILE_WIDTH)
        if n > len(whole) or (rest and len(leaves(n)) < rest * HASH_BYTES):
            return
        while frontier.size < n * TILE_WIDTH:
            frontier.append_tile(whole[frontier.size // TILE_WIDTH])
        rising = subtree_root(leaves(n)[: rest * HASH_BYTES]) if rest else b""
        yield size, frontier.root_with(rising) if rest else frontier.root()


def _untold(
    sources: Sequence[Source], offices: set[str], brokers: set[str], peers: dict[tuple[str, str], str]
) -> list[str]:
    told = []
    if not brokers:
        told.append(
            "without the broker's log: where a message was lost (before the broker, at it, or after it),"
            " and when it passed there"
        )
    missing = sorted({peer for (office, _), peer in peers.items() if office in offices} - offices)
    told += [f"without the log of {peer}: what it received, and what it sent" for peer in missing]
    return told
