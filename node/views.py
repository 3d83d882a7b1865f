"""What screens, commands and the control socket are shown: plain values, no rules.

Everything here is already decided by the desk (node/desk.py). Ids are lower-case hex; times are UTC
milliseconds. Nothing in a view may be a key or another office's secret. Views never carry content the
officer did not ask to open: lists hold a headline that names no victim.
"""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["officer", "supervisor", "auditor", "operator"]
# What an alert is opened for: to be read here, on paper, or in files outside of this program's care.
Access = Literal["read", "print", "export"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A logged-in officer. ``token`` is a capability (32 bytes, hex); never logged or shown."""

    token: str = field(repr=False)
    officer: int
    alias: str
    role: Role
    started_ms: int
    csrf: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficerView:
    """One line of the officer list. ``state``: active, locked (too many wrong PINs), retired."""

    number: int
    alias: str
    role: Role
    state: Literal["active", "locked", "retired"]
    since_ms: int
    until_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Why nothing crosses with a partner.

    ``why``: revoked (``reason`` is the other office's word), by_hand, no_address, retired (``successor`` is
    the name of the partner that took its place).
    """

    why: Literal["revoked", "by_hand", "no_address", "retired"]
    since_ms: int
    reason: str | None = None
    successor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """A beginning again after a loss that is not settled between us and a partner.

    ``why``: of ours waits (no answer yet), untold (no answer, and the partner may be unable to read it),
    refused (the partner knows ``known_version``), foreign (somebody else made it under our present key); of
    the partner's not_newer (refused here: we know ``known_version``).
    """

    why: Literal["waits", "untold", "refused", "foreign", "not_newer"]
    since_ms: int
    key_version: int | None = None  # it was signed under
    known_version: int | None = None  # the next must be above


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What came of one revocation: ``about`` whom it was, and whether it was news."""

    about: Literal["partner", "ourselves", "stranger"]
    name: str
    revoked_below: int
    is_news: bool
    suspended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessView:
    """How we and a partner cosign each other's logs.

    Ours by it: ``cosigned_size`` entries, last at ``cosigned_ms`` by its clock; ``refused`` is the status it
    answered last, if not yes. Its by us: ``their_size`` entries; ``their_refusal``: why one of its
    heads was refused.
    """

    cosigned_size: int = 0
    cosigned_ms: int | None = None
    refused: int | None = None
    refused_ms: int | None = None
    their_size: int = 0
    their_refusal: str | None = None
    their_refusal_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WayView:
    """Which way mail for a partner goes: to our own broker, where it reads; straight to its own; handed
    on by ours ``through``, where that broker has ``name``; or none leads there. Brokers as host:port.
    """

    kind: Literal["own", "straight", "forwarded", "none"]
    broker: str
    through: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """A paired office. ``state``: half, active, suspended, retired.

    ``frozen_code`` and ``frozen_ms``: why and since when the conversation stands still. ``expired_in`` counts
    what expired before it reached us. ``no_proof_since_ms``: set when two heartbeats are overdue.
    ``unknown_keys_since_ms``: set when nothing but what we have no key for arrived since.
    ``late_keys_since_ms``: the same of keys that we gave up. ``key_version``: the newest known of it.
    ``way``: None while it has no address.
    """

    office_id: str
    name: str
    country: str
    state: Literal["half", "active", "suspended", "retired"]
    since_ms: int
    safety_number: str
    last_heard_ms: int | None
    waiting_out: int
    missing_in: int
    expired_in: int = 0
    no_proof_since_ms: int | None = None
    unknown_keys_since_ms: int | None = None
    late_keys_since_ms: int | None = None
    frozen_code: str | None = None
    frozen_ms: int | None = None
    pause: Pause | None = None
    address_since_ms: int | None = None  # since when we put where we put now
    address_lost_ms: int | None = None  # since when its broker knows no such mailbox
    restored_ms: int | None = None  # when the backup was made that it last began again from
    resent: int = 0  # alerts we send to it again since then
    key_version: int = 0
    beginnings: tuple[Beginning, ...] = ()
    witness: WitnessView | None = None
    way: WayView | None = None
    by_hand: int = 0  # messages that are in a file as well, and not acknowledged yet


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderStep:
    """One rung: kept, on_broker (custody note), on_stick (a file was written), delivered, opened, assigned,
    outcome, refused, erased (content and keys are gone there); or a silence: no_reply, expired.

    ``clock`` says whose clock ``at_ms`` comes from (an office name or "broker").
    """

    step: Literal[
        "kept",
        "on_broker",
        "on_stick",
        "expired",
        "delivered",
        "no_reply",
        "opened",
        "refused",
        "assigned",
        "outcome",
        "erased",
    ]
    at_ms: int
    clock: str
    log_index: int | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceView:
    """One proof that a peer signed what cannot be true; ``proof`` is the file of protocol.evidence in hex."""

    number: int
    at_ms: int
    code: str
    proof: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """One event of an alert that a receipt can be made of. ``peer_name``: whose word it is, or about whom."""

    event: str  # of audit.receipt
    peer_id: str
    peer_name: str
    at_ms: int  # when our own log says it


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptView:
    """A receipt to hand over. ``file`` is the tlog-proof, text; ``said_ms`` the peer's own word for when.

    ``type`` is the entry's, ``witnesses`` the policy's names and their times.
    """

    event: str
    type: str
    alert_id: str
    message_id: str
    peer_name: str
    log: str
    index: int
    size: int
    at_ms: int
    said_ms: int | None
    witnesses: tuple[tuple[str, int], ...]
    name: str  # for a file
    file: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DossierView:
    """A dossier that was made; ``ended``: alerts of a log that a restore ended; ``cosigners`` of its seal."""

    path: str
    opened: int
    erased: int
    ended: int
    files: int
    size_bytes: int
    log: str
    entries: int
    digest: str
    cosigners: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRow:
    """One line of the inbox. ``headline`` names no victim; ``flags``: clock_suspect, stale, emergency."""

    alert_id: str
    peer_id: str
    peer_name: str
    status: str
    crime_type: str
    urgency: str
    headline: str
    received_ms: int
    created_ms: int
    opened: bool
    needs_reason: bool
    flags: tuple[str, ...] = ()
    gone_ms: int | None = None  # its content went before its date
    gone_why: str | None = None


# Why content goes before its date (sent or kept by mistake, whom it is about asked, a court or an authority
# ordered it, nobody needs it) and why it stays beyond it. Codes, because they stand in the log.
ERASE_REASONS = ("mistake", "asked", "ordered", "needless")
HOLD_REASONS = ("court", "inquiry", "complaint")


@dataclass(frozen=True, slots=True, kw_only=True)
class FateView:
    """When the content of an alert goes. ``agreed_ms`` is its own date, ``erase_at_ms`` the one that counts.

    ``held_why``: why it stays beyond its own date, or None. ``erased_why``: why it went before it, or None.
    """

    alert_id: str
    incoming: bool
    headline: str
    erase_at_ms: int
    agreed_ms: int
    held_why: str | None
    erased_ms: int | None
    erased_why: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoView:
    """One photo beside an alert, never its keys. ``number`` is even; its thumbnail is the next.

    ``state`` of one that came: coming, whole, refused, ended. Of one we sent: kept, gone (its copy here was
    removed), and for each recipient under_way, at_broker, fetched, refused, ended. ``code``: why.
    """

    number: int
    state: str
    code: str | None
    done_bytes: int
    size_bytes: int
    has_thumbnail: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedPhoto:
    """A photo that waits to be sent with an alert; ``photo`` is its name here, 32 hex digits."""

    photo: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """Where one delivery of a sent alert stands."""

    peer_id: str
    peer_name: str
    ladder: tuple[LadderStep, ...]
    cause: str | None
    next_try_ms: int | None
    photos: tuple[PhotoView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """One line of the outbox: an alert of ours and where each delivery stands.

    ``state``: awaiting_release, waiting, or the last step of the ladder that came least far.
    ``cause``: why it is still waiting, a message code of node/web/messages.py, or None.
    """

    alert_id: str
    status: str
    crime_type: str
    urgency: str
    headline: str
    created_ms: int
    author: int
    state: str
    recipients: tuple[Recipient, ...]
    gone_ms: int | None = None  # its content went before its date
    gone_why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertView:
    """One opened alert. ``fields`` is the alert's model dumped to plain JSON values (protocol.alert.Alert).

    ``access_index`` is the log index of the access entry that was committed before the content was unwrapped.
    """

    alert_id: str
    incoming: bool
    peer_names: tuple[str, ...]
    fields: dict[str, object]
    headline: str
    author: int | None
    releaser: int | None
    emergency_reason: str | None
    recipients: tuple[Recipient, ...]
    ladder: tuple[LadderStep, ...]
    received_ms: int | None
    access_index: int
    flags: tuple[str, ...] = ()
    photos: tuple[PhotoView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingView:
    """An alert written and signed by its author, waiting for a second officer."""

    draft_id: str
    author: int
    author_alias: str
    created_ms: int
    headline: str
    fields: dict[str, object]
    recipients: tuple[str, ...]
    photos: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """Answer to sending: ``state`` is released (kept in the outbox) or awaiting_release."""

    state: Literal["released", "awaiting_release"]
    alert_id: str | None
    draft_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkView:
    """The link to the broker. ``state``: online, connecting, backing_off. ``reason``: message code."""

    state: Literal["online", "connecting", "backing_off"]
    reason: str | None
    detail: str | None
    since_ms: int
    next_try_ms: int | None
    broker_clock_offset_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteView:
    """How a broker is reached: handed on by ``through``, where it has ``name``; both None: straight."""

    address: str
    through: str | None
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrationView:
    """A program's token. ``state``: active, expired, revoked."""

    number: int
    name: str
    officer: int
    scopes: tuple[str, ...]
    state: Literal["active", "expired", "revoked"]
    made_ms: int
    expires_ms: int
    used_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeIntegration:
    """A token just made; nobody can show it a second time."""

    number: int
    token: str = field(repr=False)
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView:
    """Our own audit log: what is committed, what is published and signed, what a partner cosigned.

    ``unwitnessed_since_ms``: when the oldest entry was written that no partner covers. ``witness``: nobody
    (there is no partner), ok, late, unwitnessed.
    """

    origin: str
    size: int
    published_size: int
    root: str
    published_ms: int | None
    state: Literal["ok", "rolled_back", "broken"]
    witness: Literal["nobody", "ok", "late", "unwitnessed"]
    witnessed_size: int
    unwitnessed_since_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryView:
    """One log entry as the audit page shows it (canonical JSON parsed; no personal data is in it)."""

    index: int
    kind: str
    at_ms: int
    fields: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyView:
    """Result of verifying our own published log now."""

    verdict: str
    ok: bool
    size: int
    root: str
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSentAgain:
    """An alert that a broker had promised to keep and lost. ``state``: a rung of the ladder."""

    alert_id: str
    peer_name: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLossView:
    """A broker lost its mailboxes. ``mailboxes`` of ours were made again; ``alerts_more`` are not listed."""

    broker: str  # host:port
    at_ms: int
    mailboxes: int
    alerts: tuple[AlertSentAgain, ...]
    alerts_more: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerWitnessView:
    """A broker that was asked to cosign our log, and so knows its name, size and growth.

    ``cosigned_size`` entries, last at ``cosigned_ms`` by its clock; ``refused`` is the status it last gave
    when that was no yes; ``trouble`` the code of what kept it from answering. ``state``: see LogView.
    """

    address: str
    since_ms: int
    cosigned_size: int
    cosigned_ms: int | None
    refused: int | None
    trouble: str | None
    state: Literal["ok", "late", "unwitnessed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """The whole node at a glance."""

    office_id: str
    office_name: str
    country: str
    version: str
    now_ms: int
    started_ms: int
    link: LinkView
    log: LogView
    peers: tuple[PeerView, ...]
    outbox_waiting: int
    inbox_unopened: int
    awaiting_release: int
    disk_free_bytes: int
    clock_doubt: str | None
    quarantined: int
    broker_losses: tuple[BrokerLossView, ...] = ()
    broker_witnesses: tuple[BrokerWitnessView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StickOut:
    """A file of envelopes for a partner: alerts, answers and keys. ``left`` new items found no room in it.

    ``too_large`` ones fit no file of this kind. ``digest`` is the hash at its end, in both offices' logs.
    """

    peer_id: str
    peer_name: str
    envelopes: int
    alerts: int
    left: int
    too_large: int
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StickWaiting:
    """What a file for a partner would hold now: ids of ``alerts``, and how many ``others``."""

    peer_id: str
    peer_name: str
    alerts: tuple[str, ...]
    others: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StickFile:
    """A file to be handed to the browser, under a name that says nothing."""

    name: str
    data: bytes = field(repr=False)
    out: StickOut


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFrames:
    """A file of envelopes on the screen of one session, as ``pictures`` that take turns.

    ``side_px``: of one picture, with its border, a module each pixel.
    """

    out: StickOut
    pictures: int
    side_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StickReport:
    """What a file of envelopes brought; the counts add up to ``envelopes``.

    ``unknown``: no key of ours opens it. ``held``: not taken in, because its partner is suspended, frozen or
    not known well enough yet. ``broken_off``: the file could not be read to its end. ``is_whole``: every
    envelope it should hold was there, unchanged.
    """

    envelopes: int
    new: int
    seen: int
    unknown: int
    refused: int
    damaged: int
    held: int
    missing: int
    is_whole: bool
    broken_off: bool

    @property
    def is_outdated(self) -> bool:
        """Whether all of it arrived before, or is sealed to keys nobody has: an older file than the last."""
        return self.new + self.held + self.refused == 0 and self.seen + self.unknown > 0


MeetingStep = Literal[
    "none", "working", "show", "read", "answer", "recognise", "replace", "waiting", "paired", "failed"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeetingView:
    """Where pairing in person stands for one session.

    ``show``: our code is on the screen and the other office's is awaited; ``read``: the other's comes first;
    ``answer``: ours is shown and the other office has to read it. ``turn`` names the question that is open,
    so that an answer sent twice answers once.
    """

    step: MeetingStep
    turn: int = 0
    code: str | None = None
    name: str = ""
    country: str = ""
    safety_number: str = ""
    error: str | None = None  # why the last code was not taken, or why it failed
    error_family: str = ""
    error_detail: str = ""
    broker: str = ""  # what was typed for a pairing that failed, to be corrected
    token: str = field(default="", repr=False)
