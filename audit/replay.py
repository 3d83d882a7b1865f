"""Meaning of a log: what the office (or broker) knew at any moment, step by step.

Spec: docs/auditing.md#replay. Reads the entries of a published log in order and keeps, for every message,
where it stood: the table ``SENT`` for what this office sent, one record for what it received, ``HELD`` for
what a broker kept. An entry that its table does not allow becomes a finding, never an exception.

Structure is fsck's business; run that first. Here an entry that cannot be read is counted and skipped.
Memory grows with the number of messages, not of entries.
"""

import gc
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from audit.entry import glance_untrusted
from audit.fsck import FINDINGS_MAX, Progress
from audit.reader import PublishedLog
from audit.tree import ENTRIES, TILE_WIDTH, split_bundle_untrusted
from keys.errors import MalformedInput

Entry = dict[str, Any]
Also = Callable[[int, Entry], None]
"""Called with the index and the fields of each entry."""


class Sent(Enum):
    """Where a message of this office stands, in words an officer would use."""

    RECORDED = "recorded"
    SEALED = "sealed"
    HELD = "held by the broker"
    DELIVERED = "delivered"
    OPENED = "opened"
    ASSIGNED = "assigned"
    ANSWERED = "answered"
    REFUSED = "refused by the peer"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    ERASED = "erased at the peer"


class Held(Enum):
    """Where an envelope stands at a broker."""

    KEPT = "kept"
    FETCHED = "fetched"
    DELETED = "deleted by its recipient"
    EXPIRED = "expired"
    DROPPED = "dropped"


_RECEIPTS: Final[Mapping[str, Sent]] = {
    "delivered": Sent.DELIVERED,
    "stale": Sent.DELIVERED,
    "opened": Sent.OPENED,
    "assigned": Sent.ASSIGNED,
    "outcome": Sent.ANSWERED,
    "refused": Sent.REFUSED,
    "erased": Sent.ERASED,
}
_LEFT: Final = tuple(state for state in Sent if state is not Sent.RECORDED)
"""States of a message that left the office at least once."""
_LADDER: Final = (Sent.DELIVERED, Sent.OPENED, Sent.ASSIGNED, Sent.ANSWERED)


def _sent_table() -> dict[tuple[Sent, str], Sent]:
    table = {
        (Sent.RECORDED, "msg.seal"): Sent.SEALED,
        (Sent.RECORDED, "msg.expired"): Sent.EXPIRED,
        (Sent.RECORDED, "msg.cancel"): Sent.CANCELLED,
        (Sent.SEALED, "msg.seal"): Sent.SEALED,
        (Sent.SEALED, "msg.custody"): Sent.HELD,
        (Sent.HELD, "msg.seal"): Sent.SEALED,
        (Sent.HELD, "msg.custody"): Sent.HELD,
        (Sent.SEALED, "msg.expired"): Sent.EXPIRED,
        (Sent.HELD, "msg.expired"): Sent.EXPIRED,
    }
    for state in Sent:
        # That nobody answered in time says nothing of where the message stands.
        table[state, "msg.overdue"] = state
    for state in _LEFT:
        # A late copy or custody note changes nothing that a receipt, an expiry or a cancel has settled.
        table.setdefault((state, "msg.seal"), state)
        table.setdefault((state, "msg.custody"), state)
        table.setdefault((state, "msg.expired"), state)
        table[state, "msg.cancel"] = Sent.CANCELLED if state in (Sent.SEALED, Sent.HELD) else state
        for step, reached in _RECEIPTS.items():
            # Receipts may overtake each other: the ladder is only climbed.
            falls = state in _LADDER and reached in _LADDER and _LADDER.index(reached) < _LADDER.index(state)
            table[state, step] = state if falls else reached
    return table


SENT: Final[Mapping[tuple[Sent, str], Sent]] = _sent_table()
"""(state, entry type or receipt step) -> next state. Nothing can come back for what never left the office."""


def _held_table() -> dict[tuple[Held, str], Held]:
    table = {}
    for state in Held:
        table[state, "bk.in"] = Held.KEPT  # its tombstone expired, and a late copy was taken in again
        table[state, "bk.drop"] = Held.DROPPED
    for state in (Held.KEPT, Held.FETCHED):
        table[state, "bk.out"] = Held.FETCHED
        table[state, "bk.ack"] = Held.DELETED
        table[state, "bk.expire"] = Held.EXPIRED
    # Fetching is noted in batches after the answer left: the deletion that followed it may be noted first.
    table[Held.DELETED, "bk.out"] = Held.DELETED
    return table


HELD: Final[Mapping[tuple[Held, str], Held]] = _held_table()
"""(state, entry type) -> next state of one envelope in one mailbox."""

_OF_SENDER: Final = (
    "msg.submit",
    "msg.seal",
    "msg.custody",
    "msg.receipt",
    "msg.expired",
    "msg.overdue",
    "msg.cancel",
)
_OF_BROKER: Final = ("bk.in", "bk.out", "bk.ack", "bk.expire", "bk.drop")
_ACCESSES: Final = ("acc.read", "acc.print", "acc.export", "acc.deny")

# The same tables by the words that a Message carries: looked up once for every entry.
_SENT: Final = {(state.value, event): reached.value for (state, event), reached in SENT.items()}
_HELD: Final = {(state.value, name): reached.value for (state, name), reached in HELD.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One entry of a message's story."""

    index: int
    ts_us: int
    words: str


@dataclass(slots=True, kw_only=True)
class Message:
    """The story of one message (at an office) or of one envelope in one mailbox (at a broker)."""

    id: str
    direction: str
    peer: str
    state: str
    alert: str | None = None
    submitted: bool = False
    """Whether a msg.submit recorded it: acknowledgements and other service messages have none."""
    before: bool = False
    """Whether it began in the epoch that ended."""
    attempts: int = 0
    envelopes: set[str] = field(default_factory=set)
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddity:
    """An entry that cannot have happened as it stands."""

    index: int
    verdict: str
    detail: str

    @property
    def label(self) -> str:
        """``IMPOSSIBLE-STEP(17)``."""
        return f"{self.verdict}({self.index})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Until:
    """Where to stop: after leaf ``index``, or before the first entry later than ``ts_us``."""

    index: int | None = None
    ts_us: int | None = None

    def ends(self, index: int, ts_us: int) -> bool:
        """Whether this entry lies beyond."""
        return (self.index is not None and index > self.index) or (
            self.ts_us is not None and ts_us > self.ts_us
        )


@dataclass(slots=True, kw_only=True)
class Story:
    """What the log's owner knew, as of its last entry read."""

    entries: int = 0
    skipped: int = 0
    last_ts_us: int | None = None
    types: Counter[str] = field(default_factory=Counter)
    messages: dict[str, Message] = field(default_factory=dict)
    erased: dict[str, int] = field(default_factory=dict)
    """Alert -> index of its first content.erased."""
    prior: str | None = None
    """The origin of the epoch that ended before this log began, if one did."""
    border: tuple[int, str] | None = None
    """How many entries that epoch had at the office, and their root in hex: what the second entry says."""
    last_steps: deque[Step] = field(default_factory=deque)
    notes: list[str] = field(default_factory=list)
    """What an auditor should know that is no finding."""
    oddities: list[Oddity] = field(default_factory=list)
    oddities_more: int = 0

    def odd(self, index: int, verdict: str, detail: str) -> None:
        """Add a finding, up to FINDINGS_MAX."""
        if len(self.oddities) < FINDINGS_MAX:
            self.oddities.append(Oddity(index=index, verdict=verdict, detail=detail))
        else:
            self.oddities_more += 1


IMPOSSIBLE: Final = "IMPOSSIBLE-STEP"
DUPLICATE: Final = "DUPLICATE-ACCEPTED"
BORDER: Final = "BORDER-MISMATCH"
UNEXPLAINED: Final = "ACCESS-UNEXPLAINED"


@contextmanager
def no_collection() -> Iterator[None]:
    """For replays: millions of records that all live to the end and form no cycles are not searched for some.

    That would take a tenth to a third more time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def read_bundle(log: PublishedLog, n: int, size: int) -> list[bytes]:
    """The entries of bundle ``n`` of a log of ``size``; none where it is missing or does not split."""
    width = min(TILE_WIDTH, size - n * TILE_WIDTH)
    with suppress(MalformedInput):
        for each in (width, TILE_WIDTH):
            with suppress(FileNotFoundError):
                return split_bundle_untrusted(log.read_tile(ENTRIES, n, each))[:width]
    return []


def read_entries(log: PublishedLog, size: int) -> Iterator[bytes]:
    """The first ``size`` entries, in order. Ends early where a bundle is missing or does not split."""
    for n in range(-(-size // TILE_WIDTH)):
        entries = read_bundle(log, n, size)
        if not entries:
            return
        yield from entries


_decode: Final[Callable[[str], tuple[Entry, int]]] = json.JSONDecoder().raw_decode


def replay(
    log: PublishedLog,
    size: int,
    *,
    until: Until | None = None,
    steps_kept: int = 0,
    before: "Story | None" = None,
    progress: Progress = lambda _: None,
    also: Also | None = None,
    in_words: bool = True,
) -> Story:
    """Read the first ``size`` entries and tell what they mean;

    The last ``steps_kept`` steps are kept in words. ``before`` is the whole story of the epoch that ended:
    with it, what this log says of earlier messages must follow from there; without it, it may. ``also``
    is shown each entry that was told, so that whoever looks for something else need not read twice.
    Without ``in_words`` no steps are kept, for whoever reads only what is odd.
    """
    teller = _Teller(steps_kept, before, in_words)
    story = teller.story
    for index, data in enumerate(read_entries(log, size)):
        try:
            _, ts_us, name = glance_untrusted(data)
        except MalformedInput:
            story.skipped += 1
            continue
        if until is not None and until.ends(index, ts_us):
            break
        entry, _ = _decode(data.decode("ascii"))
        teller.tell(index, ts_us, name, entry)
        if also is not None:
            also(index, entry)
        if index % (TILE_WIDTH * 16) == 0:
            progress(index)
    progress(size)
    return story


class _Teller:
    """Takes entries in order; ``story`` is what they amount to so far."""

    def __init__(self, steps_kept: int, before: Story | None, in_words: bool) -> None:
        self.story = Story(last_steps=deque(maxlen=steps_kept))
        self._accepted: dict[tuple[object, ...], int] = {}
        self._envelopes: dict[str, str] = {}
        self._is_border_open = False  # this epoch followed another, which nobody told us
        self._before = before
        self._in_words = in_words
        self._step: Step | None = None
        """The entry that is being told, if steps are kept."""

    def tell(self, index: int, ts_us: int, name: str, entry: Entry) -> None:
        story = self.story
        story.entries = index + 1
        story.last_ts_us = ts_us
        story.types[name] += 1
        if self._in_words:
            self._step = Step(index=index, ts_us=ts_us, words=_words_of(name, entry))
            story.last_steps.append(self._step)
        taker = _TAKERS.get(name)
        if taker is not None:
            taker(self, index, name, entry)

    def _keep(self, message: Message) -> None:
        if self._step is not None:
            message.steps.append(self._step)

    def _begun(self, _: int, __: str, entry: Entry) -> None:
        if "prior" in entry:
            self._begin_after(entry["prior"])

    def _restored(self, _: int, __: str, entry: Entry) -> None:
        self.story.border = (entry["size"], entry["root"])

    def _erased(self, index: int, _: str, entry: Entry) -> None:
        self.story.erased.setdefault(entry["alert"], index)

    def _begin_after(self, prior: str) -> None:
        """The epoch named ``prior`` ended: its messages go on here."""
        self.story.prior = prior
        if self._before is None:
            self._is_border_open = True
            return
        for key, known in self._before.messages.items():
            if known.direction == "sent":
                self.story.messages[key] = replace(
                    known, before=True, envelopes=set(known.envelopes), steps=list(known.steps)
                )
        # Content that is gone stays gone; the index is of the other log.
        self.story.erased.update(self._before.erased)

    def _sent(self, index: int, name: str, entry: Entry) -> None:
        story, key = self.story, entry["msg"]
        message = story.messages.get(key)
        if message is None and name == "msg.receipt" and entry["step"] == "erased":
            # The sender of what this office received says so too; of an earlier epoch, no story is kept here.
            received = story.messages.get(f"in:{key}")
            if received is not None:
                self._keep(received)
            if received is not None or story.prior is not None:
                return
        if message is None and self._is_border_open and name != "msg.submit":
            # Where it stood when the other epoch ended is not to be seen here: as far as a message can be.
            message = story.messages[key] = Message(
                id=key, direction="sent", peer=entry.get("peer", ""), state=Sent.HELD.value, before=True
            )
        elif message is None and name in ("msg.submit", "msg.seal"):
            state = Sent.RECORDED if name == "msg.submit" else Sent.SEALED
            peer = entry.get("peer", "")
            message = story.messages[key] = Message(id=key, direction="sent", peer=peer, state=state.value)
        if message is None:
            story.odd(index, IMPOSSIBLE, f"{name} of message {key}, which was never recorded")
            return
        if name == "msg.submit":
            if message.submitted:
                story.odd(index, IMPOSSIBLE, f"message {key} was already recorded")
            message.submitted, message.alert = True, entry.get("alert")
            self._keep(message)
            return
        self._keep(message)
        event = entry["step"] if name == "msg.receipt" else name
        reached = _SENT.get((message.state, event))
        if reached is None:
            story.odd(index, IMPOSSIBLE, f"{event} of message {key} while it is only {message.state}")
            return
        if name == "msg.seal":
            if entry["att"] <= message.attempts:
                story.odd(index, IMPOSSIBLE, f"attempt {entry['att']} of message {key} does not count on")
            message.attempts = max(message.attempts, entry["att"])
            message.envelopes.add(entry["env"])
        elif (
            name == "msg.custody"
            and entry["env"] not in message.envelopes
            and not (message.before and self._is_border_open)
        ):
            story.odd(index, IMPOSSIBLE, f"custody of an envelope that no msg.seal of {key} names")
        message.state = reached

    def _received(self, index: int, _: str, entry: Entry) -> None:
        story, envelope = self.story, entry["env"]
        key = self._envelopes.get(envelope) or f"in:{entry.get('msg') or envelope}"
        self._envelopes[envelope] = key
        message = story.messages.get(key)
        if message is None:
            message = story.messages[key] = Message(
                id=entry.get("msg") or envelope,
                direction="received",
                peer=entry.get("peer", ""),
                state=entry["verdict"],
            )
        if entry["verdict"] == "ok":
            self._check_accepted_once(index, entry)
            message.alert, message.peer = entry.get("alert"), entry.get("peer", "")
        if message.state != "ok":
            message.state = entry["verdict"]
        message.envelopes.add(envelope)
        self._keep(message)

    def _check_accepted_once(self, index: int, entry: Entry) -> None:
        """One delivery is one (peer, instance, pair_seq) and one (peer, header hash)."""
        peer = entry.get("peer", "")
        for identity in ((peer, entry.get("inst"), entry.get("ps")), (peer, entry.get("hh"))):
            if None in identity:
                continue
            first = self._accepted.setdefault(identity, index)
            if first != index:
                self.story.odd(index, DUPLICATE, f"entry {first} already accepted this delivery")
                return

    def _held(self, index: int, name: str, entry: Entry) -> None:
        story, key = self.story, f"{entry['box']}:{entry['env']}"
        envelope = story.messages.get(key)
        if envelope is None:
            if name == "bk.in":
                envelope = story.messages[key] = Message(
                    id=entry["env"], direction="held", peer=entry["box"], state=Held.KEPT.value
                )
                self._keep(envelope)
            elif name != "bk.drop":
                # Refused at the door (quota, say): dropped without ever having been kept.
                story.odd(index, IMPOSSIBLE, f"{name} of an envelope that never came in")
            return
        self._keep(envelope)
        reached = _HELD.get((envelope.state, name))
        if reached is None:
            story.odd(index, IMPOSSIBLE, f"{name} of an envelope that is {envelope.state}")
        else:
            envelope.state = reached

    def _accessed(self, index: int, name: str, entry: Entry) -> None:
        gone = self.story.erased.get(entry["alert"])
        if name != "acc.deny" and gone is not None:
            self.story.odd(
                index, UNEXPLAINED, f"content of {entry['alert']} was erased at entry {gone} already"
            )


_TAKERS: Final[Mapping[str, Callable[[_Teller, int, str, Entry], None]]] = {
    "msg.recv": _Teller._received,
    **dict.fromkeys(_OF_SENDER, _Teller._sent),
    **dict.fromkeys(_OF_BROKER, _Teller._held),
    **dict.fromkeys(_ACCESSES, _Teller._accessed),
    "content.erased": _Teller._erased,
    "log.start": _Teller._begun,
    "backup.restore": _Teller._restored,
}


def _words_of(name: str, entry: Entry) -> str:
    words = WORDS.get(name)
    told = words % entry if words else f"{name} (unknown type)"
    return f"{told}, message {entry['msg'][:8]}…" if name == "msg.recv" and "msg" in entry else told


WORDS: Final[Mapping[str, str]] = {
    "log.start": "log begun",
    "log.freeze": "log frozen: %(code)s",
    "log.prune": "entries below %(below)s pruned",
    "key.rotate": "key %(what)s replaced by %(new).8s…",
    "clk.step": "clock stepped",
    "clk.off": "clock differs from that of %(origin)s",
    "cfg.change": "setting %(what)s changed",
    "backup.made": "backup of the first %(size)s entries made",
    "backup.loss": "peer %(peer).8s… answered a reset: %(sent)s alerts of ours lost, %(gone)s numbers gone",
    "backup.head": "peer %(peer).8s… holds a head of %(origin)s, the log that ended, with %(size)s entries",
    "backup.refused": "peer %(peer).8s… refused a reset under key version %(ver)s; it knows %(known)s",
    "peer.reset": "peer %(peer).8s… began again under key version %(ver)s; %(n)s alerts sent again",
    "backup.restore": "restored from a backup that ended at entry %(size)s",
    "audit.export": "log exported for audit",
    "pair.begin": "pairing with %(peer).8s… begun (%(role)s)",
    "pair.ok": "paired with %(peer).8s…",
    "peer.suspend": "peer %(peer).8s… suspended: %(code)s",
    "peer.resume": "peer %(peer).8s… resumed",
    "peer.retire": "peer %(peer).8s… retired",
    "peer.freeze": "conversation with peer %(peer).8s… frozen: %(code)s",
    "peer.thaw": "conversation with peer %(peer).8s… goes on: %(code)s",
    "peer.revoke": "keys of peer %(peer).8s… below version %(below)s revoked",
    "officer.add": "officer %(actor).8s… added as %(role)s",
    "officer.retire": "officer %(actor).8s… retired",
    "officer.pin-reset": "PIN of officer %(actor).8s… reset",
    "ses.login": "officer %(actor).8s… logged in",
    "ses.fail": "failed login number %(n)s",
    "ses.lock": "session of officer %(actor).8s… locked: %(code)s",
    "ses.logout": "officer %(actor).8s… logged out",
    "msg.submit": "message %(msg).8s… to %(peer).8s… recorded",
    "msg.seal": "message %(msg).8s… sealed, attempt %(att)s, envelope %(env).8s…, via %(via)s",
    "msg.custody": "broker holds envelope %(env).8s… of message %(msg).8s…",
    "msg.receipt": "peer's receipt for message %(msg).8s…: %(step)s",
    "msg.expired": "message %(msg).8s… expired",
    "msg.overdue": "message %(msg).8s… not answered in time: %(code)s",
    "msg.cancel": "message %(msg).8s… cancelled",
    "msg.recv": "envelope %(env).8s… received: %(verdict)s",
    "stick.out": "file of %(n)s envelopes for peer %(peer).8s… written by %(actor).8s…",
    "stick.in": "file of %(n)s envelopes read by %(actor).8s…: %(fresh)s new, %(known)s known",
    "att.end": "photo %(n)s of alert %(alert).8s…: %(verdict)s",
    "rel.author": "alert %(alert).8s… signed by its author %(actor).8s…",
    "rel.release": "alert %(alert).8s… released by %(actor).8s…",
    "rel.refuse": "release of alert %(alert).8s… refused by %(actor).8s…: %(code)s",
    "rel.emergency": "alert %(alert).8s… released in emergency by %(actor).8s…: %(code)s",
    "ans.given": "alert %(alert).8s… answered by %(actor).8s…: %(step)s",
    "acc.read": "alert %(alert).8s… read by %(actor).8s…, purpose %(purpose)s, access %(k)s",
    "acc.print": "alert %(alert).8s… printed by %(actor).8s…, purpose %(purpose)s, access %(k)s",
    "acc.export": "alert %(alert).8s… exported by %(actor).8s…, purpose %(purpose)s, access %(k)s",
    "acc.deny": "access to alert %(alert).8s… denied to %(actor).8s…: %(code)s",
    "content.erased": "content of alert %(alert).8s… erased",
    "content.held": "content of alert %(alert).8s… kept: %(code)s",
    "wit.cosigned": "log %(origin)s cosigned at %(size)s entries",
    "wit.refused": "cosignature refused to log %(origin)s at %(size)s entries: %(code)s",
    "bk.in": "envelope %(env).8s… taken into mailbox %(box).8s…",
    "bk.out": "envelope %(env).8s… fetched from mailbox %(box).8s…",
    "bk.ack": "envelope %(env).8s… deleted from mailbox %(box).8s… by %(by)s",
    "bk.expire": "envelope %(env).8s… in mailbox %(box).8s… expired",
    "bk.purge": "%(n)s envelopes of mailbox %(box).8s… purged",
    "bk.drop": "envelope %(env).8s… for mailbox %(box).8s… dropped: %(code)s",
    "bk.part": "attachment of %(bytes)s bytes beside mailbox %(box).8s… %(step)s",
    "bk.box": "mailbox %(box).8s… %(step)s",
}
"""One sentence for each entry type, ids cut to eight characters; only required fields stand in them."""
