"""A desk in memory with the rules pages depend on: sessions, four eyes, reasons, and hostile text in its
lists."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from keys.errors import PolicyRefused
from keys.meetingcode import JoinerCode, code_text, encode_code
from keys.notice import parse_notice_text_untrusted
from keys.secret import SecretBytes
from node.broker_link import Via
from node.carrying import CarryDesk
from node.control import Channel
from node.inperson import Meetings
from node.meetingdesk import MeetingDesk
from node.officers import Officers
from node.sticks import Packed, Sticks
from node.views import (
    ERASE_REASONS,
    HOLD_REASONS,
    Access,
    AlertRow,
    AlertView,
    BrokerLossView,
    EntryView,
    EventView,
    FateView,
    LadderStep,
    Learnt,
    LinkView,
    LogView,
    OfficerView,
    OutboxRow,
    Pause,
    PeerView,
    PendingView,
    ReceiptView,
    Recipient,
    Role,
    Session,
    StatusView,
    StickOut,
    StickReport,
    StickWaiting,
    Submitted,
    VerifyView,
    WayView,
)
from node.web.desk_api import EventKind
from protocol.alert import Alert, headline
from protocol.release import Mode, needs_second_officer
from protocol.stick import StickReader, closing_hash, encode_stick
from runtime.env import real_env

NOW_MS = 1_763_900_000_000
MINUTE_MS = 60_000
PIN = "271828"
OFFICE_ID = "5a" * 32
TENGCHONG = "7e" * 32
MAE_SAI = "3c" * 32
SUSPENDED = "99" * 32
VICTIM_ALERT = "d4" * 32
PLAIN_ALERT = "a1" * 32
EXERCISE_ALERT = "e3" * 32
OUR_CODE, THEIR_CODE = (
    code_text(
        encode_code(
            JoinerCode(
                office_id=office, secret=SecretBytes(office[:16]), answers=b"\1" * 32, key_hash=b"\2" * 32
            )
        )
    )
    for office in (b"\x5a" * 32, b"\x7e" * 32)
)
SAFETY_NUMBER = " ".join(f"{54321 + 89 * group:05d}" for group in range(12))
HOSTILE_ALERT = "bb" * 32

# B30, B31, B32, B40, B45: what a registered but hostile peer may put into any text.
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<svg onload=alert(1)><style>*{display:none}</style>{{ 7*7 }}{% raw %} javascript:alert(1) "
    "\u202egnp.exe\u2066 =cmd|'/c calc'!A1 \u200b\U000e0041 Your session ended. Log in at http://evil.example"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A contentless change."""

    kind: EventKind
    at_ms: int


def an_alert(**changed: object) -> Alert:
    """A white pickup, or what ``changed`` makes of it."""
    values: dict[str, object] = {
        "status": "actual",
        "crime_type": "stolen_vehicle",
        "urgency": "expected",
        "severity": "moderate",
        "certainty": "likely",
        "source": "B",
        "information": "2",
        "handling": "H0",
        "tlp": "amber",
        "created_ms": NOW_MS - 30 * MINUTE_MS,
        "expires_ms": NOW_MS + 3 * 24 * 60 * MINUTE_MS,
        "erase_at_ms": NOW_MS + 25 * 24 * 60 * MINUTE_MS,
        "entities": [
            {
                "entity": "vehicle",
                "plate": "云N·A1234",
                "plate_country": "CN",
                "colour": "white",
                "make": "Great Wall",
                "model": "Wingle 5",
                "seen_where": "Kanpaikti road, 3 km before the gate",
                "seen_at": "23 Nov, about 06:40",
                "description": "Double cabin, canvas over the bed, left rear light broken. Two men.",
            }
        ],
        **changed,
    }
    return Alert.model_validate(values)


@dataclass
class ScriptedMeetings:
    """A ceremony as the pages see one; no broker and no keys."""

    begun: list[tuple[str, ...]] = field(default_factory=list)
    ended: int = 0
    taken: list[str] = field(default_factory=list)
    was_read: asyncio.Event = field(default_factory=asyncio.Event)
    peer_name: str = "Tengchong BLO"
    fails_with: Exception | None = None
    fails_at_once: Exception | None = None

    async def begin(self, broker: str, token: str, channel: Channel) -> PeerView:
        self.begun.append((broker, token))
        if self.fails_at_once is not None:
            raise self.fails_at_once
        try:
            await self._read(channel, {"event": "meeting-code", "code": OUR_CODE, "asks": True})
            return await self._recognise(channel)
        finally:
            self.ended += 1

    async def answer(self, channel: Channel) -> PeerView:
        self.begun.append(())
        try:
            await self._read(channel, {"event": "scan", "asks": True})
            await channel.emit({"event": "meeting-code", "code": OUR_CODE})
            await self.was_read.wait()
            return await self._recognise(channel)
        finally:
            self.ended += 1

    async def _read(self, channel: Channel, event: dict[str, object]) -> None:
        while True:
            text = await channel.ask(event)
            self.taken.append(text)
            if text == THEIR_CODE:
                return
            event = {**event, "again": "typing error", "again_code": "meeting_code_mistyped"}

    async def _recognise(self, channel: Channel) -> PeerView:
        if self.fails_with is not None:
            raise self.fails_with
        facts = {"name": self.peer_name, "country": "CN", "safety_number": SAFETY_NUMBER}
        answer = await channel.ask({"event": "recognise", **facts, "asks": True})
        self.taken.append(answer)
        if answer != "yes":
            raise PolicyRefused("pairing_not_recognised")
        return PeerView(
            office_id=TENGCHONG,
            state="active",
            since_ms=NOW_MS,
            last_heard_ms=None,
            waiting_out=0,
            missing_in=0,
            name=facts["name"],
            country=facts["country"],
            safety_number=facts["safety_number"],
        )


@dataclass
class _ScriptedOfficers:
    desk: "FakeDesk"

    async def confirm(self, session: Session, pin: str) -> None:
        await asyncio.sleep(0)
        if pin != PIN:
            raise PolicyRefused("pin_wrong", "2 tries left")

    def session(self, token: str, *, touch: bool = True) -> Session:
        if token not in self.desk.sessions:
            raise PolicyRefused("session_ended")
        return self.desk.sessions[token]


@dataclass
class ScriptedSticks:
    """What ``node.sticks`` does for the pages; files are bare bytes, and reports come from a list."""

    desk: "FakeDesk"
    left: int = 0
    too_large: int = 0
    packed: list[tuple[bytes, Via]] = field(default_factory=list)
    noted: list[bytes] = field(default_factory=list)
    taken: list[tuple[bytes, Via]] = field(default_factory=list)
    was_broken_off: bool = False
    reports: list[StickReport] = field(default_factory=list)

    async def waiting(self, peer_id: bytes) -> StickWaiting:
        if peer_id.hex() not in (TENGCHONG, MAE_SAI):
            raise PolicyRefused("peer_unknown")
        name = self.desk._peer_name(peer_id.hex())
        return StickWaiting(peer_id=peer_id.hex(), peer_name=name, alerts=("0a" * 32, "0c" * 32), others=3)

    async def pack(self, session: Session, peer_id: bytes, via: Via = "usb") -> Packed:
        self.desk._fail()
        data = encode_stick([bytes([len(self.packed)]) * 8192])
        self.packed.append((peer_id, via))
        out = StickOut(
            peer_id=peer_id.hex(),
            peer_name=self.desk._peer_name(peer_id.hex()),
            envelopes=1,
            alerts=1,
            left=self.left if via == "qr" else 0,
            too_large=self.too_large if via == "qr" else 0,
            size_bytes=len(data),
            digest=closing_hash(data).hex(),
        )
        self.left = max(0, self.left - 1)
        return Packed(data=data, hhs=(), via=via, out=out)

    async def note_out(self, packed: Packed) -> None:
        self.noted.append(packed.data)

    async def take(self, session: Session, pieces: AsyncIterator[bytes], via: Via = "usb") -> StickReport:
        reader, data = StickReader(), b""
        self.was_broken_off = False
        try:
            async for piece in pieces:
                data += piece
                reader.feed(piece)
        except OSError:
            self.was_broken_off = True
        self.taken.append((data, via))
        end = reader.finish()
        report = StickReport(
            envelopes=end.count,
            new=end.count - end.missing - end.damaged,
            seen=0,
            unknown=0,
            refused=0,
            damaged=end.damaged,
            held=0,
            missing=end.missing,
            is_whole=end.is_whole,
            broken_off=self.was_broken_off,
        )
        return self.reports.pop(0) if self.reports else report


@dataclass
class FakeDesk:
    """Implements node.web.desk_api.DeskApi."""

    office_name: str = "Myitkyina BLO"
    office_id_hex: str = OFFICE_ID
    link_state: str = "online"
    losses: tuple[BrokerLossView, ...] = ()
    sessions: dict[str, Session] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
    drafts: dict[str, PendingView] = field(default_factory=dict)
    erased: list[tuple[str, str]] = field(default_factory=list)
    kept: list[tuple[str, str, int]] = field(default_factory=list)
    held_why: str | None = None
    answers: list[tuple[str, str, str]] = field(default_factory=list)
    sent: list[tuple[Alert, tuple[str, ...]]] = field(default_factory=list)
    receipt_peer: str = f"Tengchong {HOSTILE}"
    receipt_file: str = "c2sp.org/tlog-proof@v1\n"
    handed_over: list[tuple[str, str, str | None]] = field(default_factory=list)
    sent_photos: list[tuple[str, ...]] = field(default_factory=list)
    sent_modes: list[Mode | None] = field(default_factory=list)
    staged: dict[str, bytes] = field(default_factory=dict)
    opened: list[tuple[str, ...]] = field(default_factory=list)
    touches: list[bool] = field(default_factory=list)
    logins: list[tuple[int, str]] = field(default_factory=list)
    fails_with: Exception | None = None
    login_gate: asyncio.Event | None = None
    log_state: str = "ok"
    log_witness: str = "ok"
    listeners: list["asyncio.Queue[Event]"] = field(default_factory=list)
    extra_inbox: list[AlertRow] = field(default_factory=list)
    inbox_is_empty: bool = False
    made: int = 0
    meetings: ScriptedMeetings = field(default_factory=ScriptedMeetings)

    def __post_init__(self) -> None:
        # The real one, so that its rules are tested through the pages; only what it drives is scripted.
        officers = cast(Officers, _ScriptedOfficers(self))
        self.meeting = MeetingDesk(real_env(), officers, cast(Meetings, self.meetings))
        self.sticks = ScriptedSticks(self)
        self.carrying = CarryDesk(real_env(), officers, cast(Sticks, self.sticks))

    # --- sessions ---

    async def login(self, officer: int, pin: str) -> Session:
        self.logins.append((officer, pin))
        if self.login_gate is not None:
            await self.login_gate.wait()
        known = {view.number: view for view in await self.officers(None)}
        if officer not in known:
            raise PolicyRefused("officer_unknown", "no such officer")
        if known[officer].state == "locked":
            raise PolicyRefused("officer_locked", "Wait 30 s.")
        if pin != PIN:
            raise PolicyRefused("pin_wrong", "2 tries left")
        self.made += 1
        session = Session(
            token=f"{self.made:064x}",
            officer=officer,
            alias=known[officer].alias,
            role=known[officer].role,
            started_ms=NOW_MS,
            csrf=f"{self.made:032x}",
        )
        self.sessions[session.token] = session
        return session

    async def session(self, token: str, *, touch: bool = True) -> Session:
        self.touches.append(touch)
        if token not in self.sessions:
            raise PolicyRefused("session_ended")
        return self.sessions[token]

    async def logout(self, session: Session) -> None:
        await self.meeting.end(session)
        await self.carrying.put_away(session)
        self.sessions.pop(session.token, None)

    def lock_all(self) -> None:
        """What the idle lock does."""
        self.sessions.clear()
        self.tell("lock")

    async def officers(self, session: Session | None) -> Sequence[OfficerView]:
        def officer(
            number: int, alias: str, role: Role, state: Literal["active", "locked", "retired"] = "active"
        ) -> OfficerView:
            return OfficerView(
                number=number, alias=alias, role=role, state=state, since_ms=NOW_MS, until_ms=None
            )

        return (
            officer(1, "Duty desk A", "officer"),
            officer(2, "Shift lead", "supervisor"),
            officer(3, "Auditor", "auditor"),
            officer(4, "Duty desk B", "officer", "locked"),
            officer(5, "Former", "officer", "retired"),
        )

    # --- reading ---

    async def inbox(
        self,
        session: Session,
        *,
        only_unopened: bool = False,
        peer: str | None = None,
        urgency: str | None = None,
    ) -> Sequence[AlertRow]:
        self._fail()
        if self.inbox_is_empty:
            return ()

        def row(alert_id: str, minutes: int, headline: str, **changed: object) -> AlertRow:
            plain = AlertRow(
                alert_id=alert_id,
                peer_id=TENGCHONG,
                peer_name="Tengchong BLO",
                status="actual",
                crime_type="stolen_vehicle",
                urgency="expected",
                headline=headline,
                received_ms=NOW_MS - minutes * MINUTE_MS,
                created_ms=NOW_MS - (minutes + 1) * MINUTE_MS,
                opened=False,
                needs_reason=False,
            )
            return replace(plain, **changed)  # type: ignore[arg-type]

        rows = [
            *self.extra_inbox,
            row(
                VICTIM_ALERT,
                4,
                "Victim ·a1b2",
                crime_type="human_trafficking",
                urgency="immediate",
                needs_reason=True,
                flags=("emergency",),
            ),
            row(PLAIN_ALERT, 31, "Vehicle 云N·A1234 White Great Wall Wingle 5"),
            row(
                "c2" * 32,
                77,
                "Two drums of acetone, no papers, truck turned back at the gate",
                opened=True,
                crime_type="precursor_trafficking",
                urgency="future",
                peer_id=MAE_SAI,
                peer_name="Mae Sai BLO",
            ),
            row(
                EXERCISE_ALERT,
                140,
                "Missing ·77fe",
                status="exercise",
                crime_type="missing_person",
                opened=True,
            ),
            row(
                HOSTILE_ALERT,
                200,
                HOSTILE,
                flags=("clock_suspect", "stale"),
                peer_name=HOSTILE[:60],
                crime_type="new_code_2031",
            ),
            row(
                "f0" * 32,
                1500,
                "Line check",
                status="test",
                crime_type="online_fraud",
                urgency="future",
                opened=True,
            ),
        ]
        return [
            found
            for found in rows
            if (not only_unopened or not found.opened)
            and peer in (None, found.peer_id)
            and urgency in (None, found.urgency)
        ]

    async def events_of(self, session: Session, alert_id: str) -> tuple[EventView, ...]:
        self._fail()
        del session, alert_id
        return tuple(
            EventView(event=event, peer_id=TENGCHONG, peer_name=self.receipt_peer, at_ms=NOW_MS)
            for event in ("submitted", "witnessed", "delivered", "read", "erased")
        )

    async def receipt(
        self, session: Session, alert_id: str, event: str, peer_id: str | None = None
    ) -> ReceiptView:
        self._fail()
        self.handed_over.append((alert_id, event, peer_id))
        kinds = {"submitted": "msg.submit", "witnessed": "msg.recv", "erased": "content.erased"}
        return ReceiptView(
            event=event,
            type=kinds.get(event, "msg.receipt"),
            alert_id=alert_id,
            message_id="b2" * 16,
            peer_name=self.receipt_peer,
            log="salween/0011223344556677/log1",
            index=41,
            size=50,
            at_ms=NOW_MS,
            said_ms=NOW_MS if event in ("delivered", "read") else None,
            witnesses=() if event == "submitted" else ((self.receipt_peer, NOW_MS),),
            name="a1a1-delivered.tlog-proof",
            file=self.receipt_file,
        )

    async def open_alert(
        self, session: Session, alert_id: str, *, purpose: str, access: Access = "read"
    ) -> AlertView:
        self._fail()
        rows = {row.alert_id: row for row in await self.inbox(session)}
        ours = {row.alert_id: row for row in await self.outbox(session)}
        if alert_id not in rows and alert_id not in ours:
            raise PolicyRefused("alert_unknown")
        if purpose not in ("duty", "case", "handover", "supervision", "court", "other"):
            raise PolicyRefused("reason_unknown")
        if alert_id in rows and rows[alert_id].needs_reason and purpose == "duty":
            raise PolicyRefused("reason_needed")
        self.opened.append((alert_id, purpose) if access == "read" else (alert_id, purpose, access))
        fields: dict[str, object] = an_alert().model_dump(mode="python")
        if alert_id == VICTIM_ALERT:
            victim = {
                "entity": "person",
                "role": "victim",
                "name": "阿",
                "name_romanised": "A",
                "sex": "female",
                "birth": "about 17",
                "last_seen": "Ruili bus station with two men, yesterday evening",
                "description": "Small scar on the left hand. Frightened; do not contact the family.",
            }
            fields = an_alert(
                urgency="immediate",
                urgency_reason="Seen today, may cross tonight",
                crime_type="human_trafficking",
                entities=[victim],
                handling="H2",
                tlp="red",
            ).model_dump(mode="python")
        if alert_id == EXERCISE_ALERT:
            fields = an_alert(status="exercise").model_dump(mode="python")
        if alert_id == HOSTILE_ALERT:
            fields = {
                **fields,
                "crime_type": "new_code_2031",
                "entities": [
                    {"entity": "drone", "name": HOSTILE},
                    {"entity": "vehicle", "plate": HOSTILE, "wings": 2},
                ],
                "text": {
                    "language": "xx-hostile",
                    "text": HOSTILE + "\n" + "w" * 4096 + "a" + "\u0301" * 1000,
                },
                HOSTILE: HOSTILE,
            }
        incoming = alert_id in rows
        return AlertView(
            alert_id=alert_id,
            incoming=incoming,
            peer_names=("Tengchong BLO",),
            fields=fields,
            headline=rows[alert_id].headline if incoming else ours[alert_id].headline,
            author=3,
            releaser=5 if alert_id == VICTIM_ALERT else None,
            emergency_reason=HOSTILE if alert_id == HOSTILE_ALERT else None,
            recipients=() if incoming else ours[alert_id].recipients,
            ladder=_ladder("delivered", "opened") if incoming else (),
            received_ms=NOW_MS - 4 * MINUTE_MS if incoming else None,
            access_index=1203,
            flags=("clock_suspect",) if alert_id == HOSTILE_ALERT else (),
        )

    async def answer(self, session: Session, alert_id: str, step: str, code: str = "") -> None:
        self._fail()
        self.answers.append((alert_id, step, code))

    async def outbox(self, session: Session) -> Sequence[OutboxRow]:
        self._fail()
        if self.inbox_is_empty:
            return ()

        def row(
            alert_id: str, headline: str, state: str, recipients: Sequence[Recipient], **changed: object
        ) -> OutboxRow:
            plain = OutboxRow(
                alert_id=alert_id,
                status="actual",
                crime_type="stolen_vehicle",
                urgency="expected",
                headline=headline,
                created_ms=NOW_MS - 20 * MINUTE_MS,
                author=1,
                state=state,
                recipients=tuple(recipients),
            )
            return replace(plain, **changed)  # type: ignore[arg-type]

        tengchong = _recipient(
            TENGCHONG, "Tengchong BLO", _ladder("kept", "on_broker", "delivered", "opened")
        )
        waiting = _recipient(MAE_SAI, "Mae Sai BLO", _ladder("kept"), None, NOW_MS + 40_000)
        refused = _recipient(
            TENGCHONG,
            "Tengchong BLO",
            (
                *_ladder("kept", "on_broker"),
                LadderStep(
                    step="refused",
                    at_ms=NOW_MS,
                    clock="Tengchong BLO",
                    log_index=9,
                    code="second_officer_missing",
                ),
            ),
        )
        sent = [
            row(
                f"{number:064x}",
                headline(alert),
                "waiting",
                [_recipient(to, self._peer_name(to), _ladder("kept"), None) for to in recipients],
                urgency=alert.urgency,
                crime_type=alert.crime_type,
                status=alert.status,
                created_ms=alert.created_ms,
            )
            for number, (alert, recipients) in reversed(list(enumerate(self.sent)))
        ]
        return [
            *sent,
            row(
                "0a" * 32,
                "Vehicle 7G 4821 Black Toyota Hilux",
                "opened",
                [tengchong, waiting],
                urgency="immediate",
            ),
            row(
                "0b" * 32, "Suspect known as “Uncle”", "refused", [refused], crime_type="wildlife_trafficking"
            ),
            row("0c" * 32, HOSTILE, "awaiting_release", [], status="exercise"),
        ]

    def _peer_name(self, office_id: str) -> str:
        return {TENGCHONG: "Tengchong BLO", MAE_SAI: "Mae Sai BLO"}.get(office_id, office_id)

    async def peers(self, session: Session) -> Sequence[PeerView]:
        def peer(office_id: str, name: str, country: str, state: str, **changed: object) -> PeerView:
            plain = PeerView(
                office_id=office_id,
                name=name,
                country=country,
                state=state,  # type: ignore[arg-type]
                since_ms=NOW_MS - 40 * 24 * 60 * MINUTE_MS,
                safety_number=" ".join(f"{12345 + 97 * group:05d}" for group in range(12)),
                last_heard_ms=NOW_MS - 3 * MINUTE_MS,
                waiting_out=0,
                missing_in=0,
            )
            return replace(plain, **changed)  # type: ignore[arg-type]

        return (
            peer(
                TENGCHONG, "Tengchong BLO", "CN", "active", way=WayView(kind="own", broker="203.0.113.7:7440")
            ),
            peer(
                MAE_SAI,
                "Mae Sai BLO",
                "TH",
                "active",
                waiting_out=2,
                missing_in=1,
                last_heard_ms=None,
                by_hand=2,
                way=WayView(
                    kind="forwarded",
                    broker="198.51.100.2:7440",
                    through="203.0.113.7:7440",
                    name="chiang-rai",
                ),
            ),
            peer(
                SUSPENDED,
                HOSTILE[:48],
                "LA",
                "suspended",
                pause=Pause(why="revoked", since_ms=NOW_MS, reason="node_stolen"),
                frozen_code="equivocation",
                frozen_ms=NOW_MS - MINUTE_MS,
                unknown_keys_since_ms=NOW_MS - MINUTE_MS,
                no_proof_since_ms=NOW_MS - 300 * MINUTE_MS,
                expired_in=2,
            ),
        )

    async def suspend(self, session: Session, peer: str) -> None:
        self._fail()
        self.held.append(peer)

    async def resume(self, session: Session, peer: str) -> None:
        self._fail()
        self.held.remove(peer)

    async def apply_notice(self, session: Session, text: str) -> Learnt:
        self._fail()
        parse_notice_text_untrusted(text)
        return Learnt(about="partner", name="", revoked_below=2, is_news=True, suspended=True)

    # --- writing ---

    async def photo(self, session: Session, alert_id: str, number: int) -> tuple[str, bytes]:
        if alert_id not in {named for named, _ in self.opened}:
            raise PolicyRefused("photo_alert_first")
        return "jpeg", b"\xff\xd8 picture %d" % number

    async def pending_photo(self, session: Session, draft_id: str, number: int) -> tuple[str, bytes]:
        self._draft(draft_id)
        return "png", b"\x89PNG picture %d" % number

    async def stage_photo(self, session: Session, picture: bytes) -> str:
        if not picture.startswith(b"\xff\xd8"):
            raise PolicyRefused("photo_kind")
        name = f"{len(self.staged) + 1:02x}" + "ab" * 15
        self.staged[name] = picture
        return name

    async def staged_thumbnail(self, session: Session, name: str) -> bytes:
        if name not in self.staged:
            raise PolicyRefused("photo_gone")
        return self.staged[name]

    async def unstage_photo(self, session: Session, name: str) -> None:
        if self.staged.pop(name, None) is None:
            raise PolicyRefused("photo_gone")

    async def submit(
        self,
        session: Session,
        alert: Alert,
        recipients: Sequence[str],
        photos: Sequence[str] = (),
        mode: Mode | None = None,
    ) -> Submitted:
        self._fail()
        self.sent_modes.append(mode)
        self.sent_photos.append(tuple(photos))
        await asyncio.sleep(0)
        if needs_second_officer(alert):
            draft_id = f"{len(self.drafts) + 1:032x}"
            self.drafts[draft_id] = PendingView(
                draft_id=draft_id,
                author=session.officer,
                author_alias=session.alias,
                created_ms=NOW_MS,
                headline=headline(alert),
                fields=alert.model_dump(mode="python"),
                recipients=tuple(recipients),
                photos=len(photos),
            )
            return Submitted(state="awaiting_release", alert_id=None, draft_id=draft_id)
        self.sent.append((alert, tuple(recipients)))
        return Submitted(state="released", alert_id=f"{len(self.sent):064x}", draft_id=None)

    async def pending(self, session: Session) -> Sequence[PendingView]:
        return tuple(self.drafts.values())

    async def release(self, session: Session, draft_id: str) -> Submitted:
        draft = self._draft(draft_id)
        if draft.author == session.officer:
            raise PolicyRefused("same_officer")
        del self.drafts[draft_id]
        return Submitted(state="released", alert_id="ab" * 32, draft_id=None)

    async def release_emergency(self, session: Session, draft_id: str, reason: str) -> Submitted:
        if self._draft(draft_id).author != session.officer:
            raise PolicyRefused("emergency_author")
        del self.drafts[draft_id]
        return Submitted(state="released", alert_id="ac" * 32, draft_id=None)

    async def discard(self, session: Session, draft_id: str) -> None:
        self._draft(draft_id)
        del self.drafts[draft_id]

    # --- erasing by hand ---

    async def fate(self, session: Session, alert_id: str) -> FateView:
        if session.role != "supervisor":
            raise PolicyRefused("supervisor_only")
        return FateView(
            alert_id=alert_id,
            incoming=True,
            headline=HOSTILE,
            erase_at_ms=NOW_MS + 90 * 24 * 60 * MINUTE_MS,
            agreed_ms=NOW_MS + 20 * 24 * 60 * MINUTE_MS,
            held_why=self.held_why,
            erased_ms=NOW_MS if self.erased else None,
            erased_why=self.erased[-1][1] if self.erased else None,
        )

    async def erase(self, session: Session, alert_id: str, reason: str, pin: str) -> None:
        await self._judge_fate(session, alert_id, reason, pin)
        self.erased.append((alert_id, reason))

    async def hold(self, session: Session, alert_id: str, reason: str, days: int, pin: str) -> None:
        await self._judge_fate(session, alert_id, reason, pin)
        if days < 0:
            raise PolicyRefused("hold_days")
        self.held_why = reason if days else None
        self.kept.append((alert_id, reason, days))

    async def _judge_fate(self, session: Session, alert_id: str, reason: str, pin: str) -> None:
        await self.fate(session, alert_id)
        if reason not in ("", *ERASE_REASONS, *HOLD_REASONS):
            raise PolicyRefused("reason_unknown")
        if pin != PIN:
            raise PolicyRefused("pin_wrong")

    def _draft(self, draft_id: str) -> PendingView:
        if draft_id not in self.drafts:
            raise PolicyRefused("draft_gone")
        return self.drafts[draft_id]

    # --- the machine ---

    async def status(self) -> StatusView:
        online = self.link_state == "online"
        peers = await self.peers(next(iter(self.sessions.values()), _NOBODY))
        return StatusView(
            office_id=self.office_id_hex,
            office_name=self.office_name,
            country="MM",
            version="0.1.0",
            now_ms=NOW_MS,
            started_ms=NOW_MS - 5 * 60 * MINUTE_MS,
            link=LinkView(
                state=self.link_state,  # type: ignore[arg-type]
                reason=None if online else "broker_timeout",
                detail=None if online else "no answer from 203.0.113.7:7440 within 10 s",
                since_ms=NOW_MS - 42 * MINUTE_MS,
                next_try_ms=None if online else NOW_MS + 95_000,
                broker_clock_offset_ms=-120,
            ),
            log=LogView(
                origin="salween.example/7f3a/log1",
                size=1_204,
                published_size=1_190,
                root="0f" * 32,
                published_ms=NOW_MS - MINUTE_MS,
                state=self.log_state,  # type: ignore[arg-type]
                witness=self.log_witness,  # type: ignore[arg-type]
                witnessed_size=1_188,
                unwitnessed_since_ms=NOW_MS - 26 * 60 * MINUTE_MS,
            ),
            peers=tuple(peers),
            outbox_waiting=1 + len(self.sent),
            inbox_unopened=3 + len(self.extra_inbox),
            awaiting_release=len(self.drafts),
            disk_free_bytes=41 * 2**30 if online else 100 * 2**20,
            clock_doubt=None if online else "The broker's clock differs by 190 s.",
            quarantined=0 if online else 1,
            broker_losses=self.losses,
        )

    async def log_entries(
        self, session: Session, *, before: int | None, count: int = 100
    ) -> Sequence[EntryView]:
        top = 1204 if before is None else min(before, 1204)
        kinds = (
            "acc.read",
            "msg.receipt",
            "msg.custody",
            "msg.seal",
            "msg.submit",
            "rel.release",
            "zz.new",
            "clk.step",
        )
        return tuple(
            EntryView(
                index=index,
                kind=kinds[index % len(kinds)],
                at_ms=NOW_MS - (1204 - index) * MINUTE_MS,
                fields={"v": 1, "seq": index, "alert": "a1" * 32, "code": "duty"},
            )
            for index in range(top - 1, max(-1, top - 1 - count), -1)
        )

    async def verify_log(self, session: Session) -> VerifyView:
        ok = self.log_state == "ok"
        return VerifyView(
            verdict="VERIFIED" if ok else "CORRUPT(17)",
            ok=ok,
            size=1_190,
            root="0f" * 32,
            findings=() if ok else ("leaf 17 differs from its tile",),
        )

    # --- events ---

    def tell(self, kind: EventKind) -> None:
        """Let every open page know."""
        for queue in self.listeners:
            queue.put_nowait(Event(kind=kind, at_ms=NOW_MS))

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[Event]]:
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self.listeners.append(queue)

        async def events() -> AsyncIterator[Event]:
            while True:
                yield await queue.get()

        try:
            yield events()
        finally:
            self.listeners.remove(queue)

    def _fail(self) -> None:
        if self.fails_with is not None:
            raise self.fails_with


_NOBODY = Session(token="", officer=0, alias="", role="officer", started_ms=0, csrf="")


def _ladder(*steps: str) -> tuple[LadderStep, ...]:
    clocks = {"kept": "Myitkyina BLO", "on_broker": "broker"}
    return tuple(
        LadderStep(
            step=step,  # type: ignore[arg-type]
            at_ms=NOW_MS - (10 - place) * MINUTE_MS,
            clock=clocks.get(step, "Tengchong BLO"),
            log_index=None if step in clocks else 410 + place,
        )
        for place, step in enumerate(steps)
    )


def _recipient(
    peer_id: str,
    name: str,
    ladder: tuple[LadderStep, ...],
    cause: str | None = None,
    next_try_ms: int | None = None,
) -> Recipient:
    return Recipient(peer_id=peer_id, peer_name=name, ladder=ladder, cause=cause, next_try_ms=next_try_ms)
