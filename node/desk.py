"""What officers can do: the one API behind the pages, the control socket and the commands.

One rule: every call carries a live session; whoever calls, the same rules hold. Says nothing to people itself
(node/web/messages.py does) and knows no HTTP.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from audit.entry import decode_entry_untrusted
from audit.fsck import verify
from audit.note import VerifierKey
from audit.policy import single_log_policy
from audit.reader import PublishedLog
from audit.store import AuditLog
from keys.errors import MalformedInput, PolicyRefused
from keys.notice import parse_notice_text_untrusted
from node.alerts import Alerts
from node.answers import Answers
from node.broker_witness import broker_witnesses
from node.carrying import CarryDesk
from node.clock_doubt import CLOCK_DOUBT_MS
from node.erasure import Erasure
from node.events import DeskEvent, Events
from node.evidence import EvidenceRoom
from node.handover import Handover
from node.identity import Identity
from node.losses import broker_losses
from node.meetingdesk import MeetingDesk
from node.officers import Officers
from node.peers import load_peers, peer_view
from node.photos import STAGED_MAX, Photos
from node.resets import beginnings
from node.revocations import Revocations
from node.views import (
    Access,
    AlertRow,
    AlertView,
    BrokerLossView,
    BrokerWitnessView,
    EntryView,
    EventView,
    EvidenceView,
    FateView,
    Learnt,
    LinkView,
    LogView,
    OfficerView,
    OutboxRow,
    PeerView,
    PendingView,
    PhotoView,
    ReceiptView,
    Session,
    StatusView,
    Submitted,
    VerifyView,
    WayView,
)
from node.watch import Heartbeats
from node.witness import Witnessing
from protocol import limits
from protocol.alert import Alert
from protocol.release import Mode
from runtime.env import Env
from runtime.sqlite import Database, Snapshot

DISK_LOOK_MS = 5_000
ENTRIES_MAX = 500
ID_PREFIX_MIN = 8  # hex digits of an office id that name it on a command line
EXPIRES_AFTER_MS = 7 * limits.DAY_MS
ERASE_AFTER_MS = 30 * limits.DAY_MS


class Desk:
    """The desk of one office."""

    def __init__(
        self,
        env: Env,
        db: Database,
        log: AuditLog,
        identity: Identity,
        officers: Officers,
        alerts: Alerts,
        answers: Answers,
        evidence: EvidenceRoom,
        handover: Handover,
        heartbeats: Heartbeats,
        events: Events,
        revocations: Revocations,
        meeting: MeetingDesk,
        photos: Photos,
        witnessing: Witnessing,
        carrying: CarryDesk,
        erasure: Erasure,
        *,
        thawed: Callable[[], None],
        version: str,
        directory: Path,
        log_directory: Path,
        log_key: VerifierKey,
        links: Callable[[], Sequence[LinkView]],
        way: Callable[[str, str], WayView],
    ) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._identity = identity
        self._officers = officers
        self._alerts = alerts
        self._answers = answers
        self._evidence = evidence
        self._handover = handover
        self._heartbeats = heartbeats
        self._thawed = thawed
        self._events = events
        self._revocations = revocations
        self._meeting = meeting
        self._photos = photos
        self._witnessing = witnessing
        self._erasure = erasure
        self._carrying = carrying
        self._version = version
        self._directory = directory
        self._log_directory = log_directory
        self._log_key = log_key
        self._links = links
        self._way = way
        self._started_ms = env.clock.now_ms()
        self._disk_free = (0, -1)  # when it was asked (monotonic), and the answer

    @property
    def office_name(self) -> str:
        """Display name of this office."""
        return self._identity.name

    @property
    def office_id_hex(self) -> str:
        """64 hex digits."""
        return self._identity.office_id.hex()

    @property
    def meeting(self) -> MeetingDesk:
        """Pairing in person, as the pages do it."""
        return self._meeting

    @property
    def carrying(self) -> CarryDesk:
        """Sticks and pictures, as the pages do it."""
        return self._carrying

    # --- sessions -------------------------------------------------------------------------------------------

    async def login(self, officer: int, pin: str) -> Session:
        """Open a session; see Officers.login."""
        return await self._officers.login(officer, pin)

    async def session(self, token: str, *, touch: bool = True) -> Session:
        """The live session of a token."""
        return self._officers.session(token, touch=touch)

    async def logout(self, session: Session) -> None:
        """End a session."""
        await self._meeting.end(session)
        await self._carrying.put_away(session)
        await self._officers.logout(session)
        self._events.tell("lock")

    async def officers(self, session: Session | None) -> tuple[OfficerView, ...]:
        """Officers by number; without a session only those who can log in."""
        listed = await self._officers.list_all()
        return listed if session is not None else tuple(o for o in listed if o.state != "retired")

    # --- alerts ---------------------------------------------------------------------------------------------

    async def inbox(
        self,
        session: Session,
        *,
        only_unopened: bool = False,
        peer: str | None = None,
        urgency: str | None = None,
    ) -> tuple[AlertRow, ...]:
        """What came in, newest first."""
        self._alive(session)
        return await self._alerts.inbox(only_unopened=only_unopened, peer=peer, urgency=urgency)

    async def open_alert(
        self, session: Session, alert_id: str, *, purpose: str, access: Access = "read"
    ) -> AlertView:
        """Open one alert; the access entry is committed first."""
        self._alive(session)
        view = await self._alerts.open_alert(session, alert_id, purpose=purpose, access=access)
        self._events.tell("inbox")
        return view

    async def answer(self, session: Session, alert_id: str, step: str, code: str = "") -> None:
        """Answer an alert that came in: assigned, outcome or refused, with a code of its list."""
        self._alive(session)
        await self._answers.answer(session, alert_id, step, code)
        self._events.tell("inbox")

    async def outbox(self, session: Session) -> tuple[OutboxRow, ...]:
        """Our own alerts and where each stands."""
        self._alive(session)
        return await self._alerts.outbox()

    async def sent_one(self, session: Session, alert_id: str) -> OutboxRow:
        """One of our own alerts and where it stands."""
        self._alive(session)
        return await self._alerts.sent_one(alert_id)

    async def photo(self, session: Session, alert_id: str, number: int) -> tuple[str, bytes]:
        """Type and bytes of a picture beside an alert this session opened; odd numbers are thumbnails."""
        self._alive(session)
        return await self._alerts.photo(session, alert_id, number)

    async def photos(self, session: Session, alert_id: str) -> tuple[PhotoView, ...]:
        """The photos beside an alert this session opened, and how far each is."""
        self._alive(session)
        return await self._alerts.photos(session, alert_id)

    async def pending_photo(self, session: Session, draft_id: str, number: int) -> tuple[str, bytes]:
        """The same of a draft that waits for a second officer."""
        self._alive(session)
        return await self._photos.open_draft(draft_id, number)

    async def stage_photo(self, session: Session, picture: bytes, *, waiting_max: int = STAGED_MAX) -> str:
        """Make a photo anew and keep it for a form; its name there."""
        self._alive(session)
        if session.role not in ("officer", "supervisor"):
            raise PolicyRefused(
                "role_may_not", "Auditors and operators read; they do not write or release alerts."
            )
        return await self._photos.stage(session.officer, picture, waiting_max=waiting_max)

    async def staged_thumbnail(self, session: Session, name: str) -> bytes:
        """The thumbnail, a JPEG, of a photo in a form."""
        self._alive(session)
        return await self._photos.staged_thumbnail(session.officer, name)

    async def unstage_photo(self, session: Session, name: str) -> None:
        """Take a photo out of a form again."""
        self._alive(session)
        await self._photos.unstage(session.officer, name)

    async def submit(
        self,
        session: Session,
        alert: Alert,
        recipients: Sequence[str],
        photos: Sequence[str] = (),
        mode: Mode | None = None,
    ) -> Submitted:
        """Release at once, or put aside for a second officer; ``photos`` are names of staged ones.

        ``mode``: how it goes to several offices; None leaves that to their number.
        """
        self._alive(session)
        submitted = await self._alerts.submit(session, alert, recipients, photos, mode)
        self._events.tell("outbox" if submitted.state == "released" else "pending")
        return submitted

    async def pending(self, session: Session) -> tuple[PendingView, ...]:
        """What waits for a second officer."""
        self._alive(session)
        return await self._alerts.pending(session)

    async def release(self, session: Session, draft_id: str) -> Submitted:
        """Sign as second officer."""
        self._alive(session)
        submitted = await self._alerts.release(session, draft_id)
        self._told_released()
        return submitted

    async def release_emergency(self, session: Session, draft_id: str, reason: str) -> Submitted:
        """Let the author release alone."""
        self._alive(session)
        submitted = await self._alerts.release_emergency(session, draft_id, reason)
        self._told_released()
        return submitted

    async def discard(self, session: Session, draft_id: str) -> None:
        """Throw away what waits."""
        self._alive(session)
        await self._alerts.discard(session, draft_id)
        self._events.tell("pending")

    # --- erasing by hand ------------------------------------------------------------------------------------

    async def fate(self, session: Session, alert_id: str) -> FateView:
        """When the content of an alert goes, or went, and why."""
        return await self._erasure.fate(self._alive(session), alert_id)

    async def erase(self, session: Session, alert_id: str, reason: str, pin: str) -> None:
        """Erase one alert before its date, here and at those it was sent to."""
        await self._erasure.by_hand(self._alive(session), alert_id, reason, pin)
        self._told_erased()

    async def hold(self, session: Session, alert_id: str, reason: str, days: int, pin: str) -> None:
        """Keep one alert beyond its date, for so many days from now; 0 ends that."""
        await self._erasure.hold(self._alive(session), alert_id, reason, days, pin)
        self._told_erased()

    def _told_erased(self) -> None:
        self._events.tell("inbox")
        self._events.tell("outbox")

    def _told_released(self) -> None:
        self._events.tell("pending")
        self._events.tell("outbox")

    # --- the office -----------------------------------------------------------------------------------------

    async def peers(self, session: Session) -> tuple[PeerView, ...]:
        """Offices we are paired with."""
        self._alive(session)
        return await self._peers()

    async def find_peer(self, name_or_id: str) -> str:
        """Office id in hex of a peer named on a command line; PolicyRefused says whom there is."""
        peers = await self._peers()
        found = [p for p in peers if name_or_id in (p.office_id, p.name)] or [
            p for p in peers if len(name_or_id) >= ID_PREFIX_MIN and p.office_id.startswith(name_or_id)
        ]
        if len(found) == 1:
            return found[0].office_id
        known = ", ".join(p.name for p in peers) or "none yet"
        raise PolicyRefused(
            "peer_unknown", f"No single paired office is called that. Paired offices: {known}."
        )

    async def suspend(self, session: Session, peer: str) -> None:
        """Hold a partner by hand."""
        await self._revocations.suspend(self._alive(session), bytes.fromhex(await self.find_peer(peer)))

    async def resume(self, session: Session, peer: str) -> None:
        """End a suspension by hand."""
        await self._revocations.resume(self._alive(session), bytes.fromhex(await self.find_peer(peer)))

    async def retire(self, session: Session, peer: str, succeeded_by: str | None) -> None:
        """End a pair for good; its history stays under its name."""
        successor = None if succeeded_by is None else bytes.fromhex(succeeded_by)
        await self._revocations.retire(self._alive(session), bytes.fromhex(peer), successor)

    async def apply_notice(self, session: Session, text: str) -> Learnt:
        """Take a revocation that was pasted; it proves itself."""
        self._alive(session)
        return await self._revocations.take_notice(parse_notice_text_untrusted(text), "paper")

    async def unfreeze(self, session: Session, peer_id: str) -> None:
        """Let a frozen conversation go on, after a supervisor spoke with the other office."""
        self._alive(session)
        await self._evidence.unfreeze(session, bytes.fromhex(peer_id))
        self._thawed()
        self._events.tell("link")

    async def evidence(self, session: Session, peer_id: str) -> tuple[EvidenceView, ...]:
        """Proofs about one peer, to be given to a third person."""
        self._alive(session)
        return await self._evidence.export(session, bytes.fromhex(peer_id))

    async def events_of(self, session: Session, alert_id: str) -> tuple[EventView, ...]:
        """What happened to an alert that a receipt can be made of."""
        return await self._handover.events(self._alive(session), alert_id)

    async def receipt(
        self, session: Session, alert_id: str, event: str, peer_id: str | None = None
    ) -> ReceiptView:
        """A receipt of one event of an alert, to hand over."""
        return await self._handover.receipt(self._alive(session), alert_id, event, peer_id)

    async def custody_notes(self, session: Session, messages: Sequence[str]) -> str:
        """Brokers' notes about messages of ours, by id in hex, as a file for an auditor."""
        self._alive(session)
        try:
            ids = [bytes.fromhex(message) for message in messages]
        except ValueError as error:
            raise MalformedInput("messages_wrong", "Messages are named by their ids in hex.") from error
        return await self._evidence.custody_notes(session, ids)

    async def _peers(self) -> tuple[PeerView, ...]:
        return await self._db.read(self._peer_views)

    def _peer_views(self, tx: Snapshot) -> tuple[PeerView, ...]:
        us = self._identity.office_id
        return tuple(
            replace(
                self._heartbeats.watched(tx, peer, peer_view(tx, peer, us)),
                beginnings=beginnings(tx, peer),
                witness=self._witnessing.view(tx, peer),
                way=self._way(peer.broker_address, peer.own_broker_address) if peer.broker_address else None,
            )
            for peer in load_peers(tx)
        )

    async def _disk_free_bytes(self) -> int:
        """At most DISK_LOOK_MS old: every page shows it."""
        now_ms = self._env.clock.monotonic_ms()
        at_ms, free_bytes = self._disk_free
        if free_bytes < 0 or now_ms - at_ms >= DISK_LOOK_MS:
            free_bytes = await self._env.run_blocking(self._env.files.free_bytes, str(self._directory))
            self._disk_free = (now_ms, free_bytes)
        return free_bytes

    async def status(self) -> StatusView:
        """The node at a glance."""

        def look(
            tx: Snapshot,
        ) -> tuple[
            int,
            int,
            int,
            int,
            tuple[PeerView, ...],
            tuple[BrokerLossView, ...],
            tuple[BrokerWitnessView, ...],
            LogView,
        ]:
            return (
                tx.value(
                    "SELECT count(*) FROM delivery INDEXED BY delivery_unsettled"
                    " WHERE alert_id IS NOT NULL AND phase IN ('kept', 'held', 'address_lost')"
                ),
                tx.value(
                    "SELECT count(*) FROM alert INDEXED BY alert_unopened"
                    " WHERE incoming = 1 AND opened_ms IS NULL AND erased_ms IS NULL"
                ),
                tx.value("SELECT count(*) FROM pending"),
                tx.value("SELECT count(*) FROM quarantine"),
                self._peer_views(tx),
                broker_losses(tx, self._env.clock.now_ms()),
                broker_witnesses(tx, self._witnessing),
                self._log_view(tx),
            )

        (
            waiting,
            unopened,
            pending,
            quarantined,
            peers,
            losses,
            witnesses,
            log,
        ) = await self._db.read(look)
        link = self._worst_link()
        offset = link.broker_clock_offset_ms
        doubt = None
        if offset is not None and abs(offset) > CLOCK_DOUBT_MS:
            doubt = f"The broker's clock differs by {offset // 1000} s. Check the clock of this machine."
        return StatusView(
            office_id=self.office_id_hex,
            office_name=self.office_name,
            country=self._identity.country,
            version=self._version,
            now_ms=self._env.clock.now_ms(),
            started_ms=self._started_ms,
            link=link,
            log=log,
            peers=peers,
            outbox_waiting=waiting,
            inbox_unopened=unopened,
            awaiting_release=pending,
            disk_free_bytes=await self._disk_free_bytes(),
            clock_doubt=doubt,
            quarantined=quarantined,
            broker_losses=losses,
            broker_witnesses=witnesses,
        )

    def _worst_link(self) -> LinkView:
        links = self._links()
        if not links:
            return LinkView(
                state="connecting",
                reason="not_paired",
                detail="Not paired with any office yet.",
                since_ms=self._started_ms,
                next_try_ms=None,
                broker_clock_offset_ms=None,
            )
        return max(links, key=lambda link: ("online", "connecting", "backing_off").index(link.state))

    # --- the log --------------------------------------------------------------------------------------------

    def _log_view(self, tx: Snapshot) -> LogView:
        witness, witnessed_size, since_ms = self._witnessing.coverage(tx)
        published = self._log.published
        refusal = self._log.refusal
        return LogView(
            origin=self._log.origin,
            size=self._log.size,
            published_size=published.size,
            root=published.root.hex(),
            published_ms=None,
            state="ok"
            if refusal is None
            else "rolled_back"
            if refusal.code == "log_rolled_back"
            else "broken",
            witness=witness,
            witnessed_size=witnessed_size,
            unwitnessed_since_ms=since_ms,
        )

    async def log_entries(
        self, session: Session, *, before: int | None, count: int = 100
    ) -> tuple[EntryView, ...]:
        """Entries of our own log, newest first."""
        self._alive(session)
        rows = await self._db.read(
            lambda tx: tx.execute(
                "SELECT idx, entry FROM leaf WHERE idx < ? ORDER BY idx DESC LIMIT ?",
                (self._log.size if before is None else before, min(count, ENTRIES_MAX)),
            )
        )
        views = []
        for index, data in rows:
            entry: dict[str, Any] = dict(decode_entry_untrusted(data))
            views.append(
                EntryView(
                    index=index,
                    kind=entry["t"],
                    at_ms=entry["ts"] // 1000,
                    fields={
                        k: v for k, v in entry.items() if k not in ("v", "t", "seq", "ts", "bt", "mo", "z")
                    },
                )
            )
        return tuple(views)

    async def verify_log(self, session: Session) -> VerifyView:
        """Publish, then verify our own published log as an auditor would."""
        self._alive(session)
        await self._log.publish()
        report = await self._env.run_blocking(
            verify, PublishedLog(str(self._log_directory)), single_log_policy(self._log_key)
        )
        return VerifyView(
            verdict=" ".join(report.verdicts),
            ok=not report.findings,
            size=report.size,
            root=report.root.hex(),
            findings=tuple(f"{finding.label}: {finding.detail}" for finding in report.findings),
        )

    # --- events ---------------------------------------------------------------------------------------------

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterator[DeskEvent]]:
        """Contentless events from now on."""
        return self._events.subscribe()

    def with_times(self, fields: dict[str, Any]) -> dict[str, Any]:
        """An alert's fields with the times a person on a command line leaves out."""
        now_ms = self._env.clock.now_ms()
        times = {
            "created_ms": now_ms,
            "expires_ms": now_ms + EXPIRES_AFTER_MS,
            "erase_at_ms": now_ms + ERASE_AFTER_MS,
        }
        return {**times, **fields}

    def _alive(self, session: Session) -> Session:
        """The session may have been ended by another page or by retiring the officer."""
        return self._officers.session(session.token, touch=False)
