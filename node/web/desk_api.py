"""What the pages ask of the office's desk: the one list of calls that the web package may make.

Spec: node/desk.py carries it out; tests of pages bring a small desk in memory. One rule: pages hold no
state of their own that matters, so everything an officer is told went through one of these calls.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from node.views import (
    Access,
    AlertRow,
    AlertView,
    EntryView,
    EventView,
    FateView,
    Learnt,
    MeetingView,
    OfficerView,
    OutboxRow,
    PeerView,
    PendingView,
    ReceiptView,
    Session,
    ShownFrames,
    StatusView,
    StickFile,
    StickReport,
    StickWaiting,
    Submitted,
    VerifyView,
)
from protocol.alert import Alert
from protocol.release import Mode

EventKind = Literal["inbox", "outbox", "link", "pending", "lock"]


class DeskEvent(Protocol):
    """Something changed; what it was is asked for afterwards. Carries no content on purpose."""

    @property
    def kind(self) -> EventKind:
        """Which list changed; ``lock`` says that some session may have ended."""
        ...

    @property
    def at_ms(self) -> int:
        """When, UTC milliseconds."""
        ...


class MeetingApi(Protocol):
    """Pairing in person; every call refuses who is no supervisor (``pairing_supervisor``)."""

    async def look(self, session: Session) -> MeetingView:
        """Where this session's ceremony stands."""
        ...

    async def picture(self, session: Session) -> bytes:
        """The code on our screen as SVG. PolicyRefused ``meeting_gone``."""
        ...

    async def begin(self, session: Session, pin: str, broker: str, token: str) -> None:
        """Show our code first. PolicyRefused as ``login``, and ``pairing_under_way``."""
        ...

    async def answer(self, session: Session, pin: str) -> None:
        """Read the other office's code first; refused as ``begin``."""
        ...

    async def reply(self, session: Session, turn: int, text: str) -> None:
        """Answer the open question ``turn``; a second answer says nothing. ``meeting_gone``."""
        ...

    async def end(self, session: Session) -> None:
        """Give up, or put away what is over."""
        ...


class CarryApi(Protocol):
    """What is carried by hand; every call refuses who is neither officer nor supervisor."""

    async def waiting(self, session: Session, peer: str) -> StickWaiting:
        """What a file for this partner would hold now. PolicyRefused ``peer_unknown``."""
        ...

    def write(self, session: Session, pin: str, peer: str) -> AbstractAsyncContextManager[StickFile]:
        """A file to hand to the browser; it counts as carried when the block ends well.

        PolicyRefused as ``login``, ``pin_missing``, ``stick_nothing``, and if nothing may leave for it.
        """
        ...

    async def take(self, session: Session, pieces: AsyncIterator[bytes]) -> StickReport:
        """Take in a file while it comes. MalformedInput ``stick_...``; an OSError of ``pieces`` ends it."""
        ...

    async def show(self, session: Session, pin: str, peer: str) -> None:
        """Begin to show a file as pictures; refused as ``write``, and ``frames_too_large``."""
        ...

    async def look(self, session: Session) -> ShownFrames | None:
        """What this session shows."""
        ...

    async def film(self, session: Session) -> bytes:
        """The pictures as one that moves, APNG. PolicyRefused ``showing_gone``."""
        ...

    async def was_read(self, session: Session, digest: str) -> ShownFrames | None:
        """The other office has read it; what is shown next. PolicyRefused ``showing_gone``."""
        ...

    async def put_away(self, session: Session) -> None:
        """Show nothing any more; what was shown does not count as carried."""
        ...

    async def take_frames(self, session: Session, frames: Sequence[bytes]) -> StickReport:
        """Take in what a camera read. MalformedInput ``frame_...``, ``frames_...``, ``stick_...``."""
        ...


class DeskApi(Protocol):
    """The desk of one office. Every call may raise the five families of keys/errors.py."""

    @property
    def office_name(self) -> str:
        """Display name of this office."""
        ...

    @property
    def office_id_hex(self) -> str:
        """64 hex digits."""
        ...

    @property
    def meeting(self) -> MeetingApi:
        """Pairing in person."""
        ...

    @property
    def carrying(self) -> CarryApi:
        """Sticks and pictures."""
        ...

    async def login(self, officer: int, pin: str) -> Session:
        """Open a session with a token nobody has seen before.

        PolicyRefused: ``pin_wrong``, ``officer_unknown``, ``officer_locked``.
        """
        ...

    async def session(self, token: str, *, touch: bool = True) -> Session:
        """The live session of ``token`` or PolicyRefused ``session_ended``.

        ``touch=False`` asks without counting as use: a page that refreshes itself must not keep an
        unattended screen unlocked.
        """
        ...

    async def logout(self, session: Session) -> None:
        """End the session for good."""
        ...

    async def officers(self, session: Session | None) -> Sequence[OfficerView]:
        """Officers by number; without a session only what the login page needs."""
        ...

    async def inbox(
        self,
        session: Session,
        *,
        only_unopened: bool = False,
        peer: str | None = None,
        urgency: str | None = None,
    ) -> Sequence[AlertRow]:
        """Received alerts, newest first, names of victims never among them."""
        ...

    async def open_alert(
        self, session: Session, alert_id: str, *, purpose: str, access: Access = "read"
    ) -> AlertView:
        """Open one alert; the access entry is committed first.

        PolicyRefused ``reason_needed`` for a victim.
        """
        ...

    async def answer(self, session: Session, alert_id: str, step: str, code: str = "") -> None:
        """Answer a received alert: ``assigned``, ``outcome`` or ``refused``, with a code of its list."""
        ...

    async def outbox(self, session: Session) -> Sequence[OutboxRow]:
        """Our own alerts and where each delivery stands."""
        ...

    async def peers(self, session: Session) -> Sequence[PeerView]:
        """Offices we are paired with."""
        ...

    async def suspend(self, session: Session, peer: str) -> None:
        """Hold a partner by hand; supervisors alone."""
        ...

    async def resume(self, session: Session, peer: str) -> None:
        """End a suspension by hand. PolicyRefused ``pair_suspended`` after a revocation."""
        ...

    async def apply_notice(self, session: Session, text: str) -> Learnt:
        """Take a revocation that was pasted; it proves itself."""
        ...

    async def events_of(self, session: Session, alert_id: str) -> Sequence[EventView]:
        """What happened to an alert that a receipt can be made of. PolicyRefused ``handover_role``."""
        ...

    async def receipt(
        self, session: Session, alert_id: str, event: str, peer_id: str | None = None
    ) -> ReceiptView:
        """A receipt of one event, recorded before it is given. PolicyRefused ``receipt_...``."""
        ...

    async def photo(self, session: Session, alert_id: str, number: int) -> tuple[str, bytes]:
        """Type and bytes of a picture beside an alert this session opened; odd numbers are thumbnails.

        PolicyRefused ``photo_alert_first``, ``photo_unknown``, ``photo_not_here``.
        """
        ...

    async def pending_photo(self, session: Session, draft_id: str, number: int) -> tuple[str, bytes]:
        """The same of a draft that waits for a second officer."""
        ...

    async def stage_photo(self, session: Session, picture: bytes) -> str:
        """Make a photo anew and keep it for a form; its name there. PolicyRefused ``photo_...``."""
        ...

    async def staged_thumbnail(self, session: Session, name: str) -> bytes:
        """The thumbnail, a JPEG, of a photo in a form of this officer. PolicyRefused ``photo_gone``."""
        ...

    async def unstage_photo(self, session: Session, name: str) -> None:
        """Take a photo out of a form again. PolicyRefused ``photo_gone``."""
        ...

    async def submit(
        self,
        session: Session,
        alert: Alert,
        recipients: Sequence[str],
        photos: Sequence[str] = (),
        mode: Mode | None = None,
    ) -> Submitted:
        """Release at once or put aside for a second officer. ``recipients`` are office ids in hex.

        PolicyRefused ``shared_sensitive``.
        """
        ...

    async def pending(self, session: Session) -> Sequence[PendingView]:
        """Alerts waiting for a second officer."""
        ...

    async def release(self, session: Session, draft_id: str) -> Submitted:
        """Sign as second officer and send. PolicyRefused ``same_officer``."""
        ...

    async def release_emergency(self, session: Session, draft_id: str, reason: str) -> Submitted:
        """Send with one key; marked, counted and to be reviewed."""
        ...

    async def discard(self, session: Session, draft_id: str) -> None:
        """Throw away an alert that waits."""
        ...

    async def fate(self, session: Session, alert_id: str) -> FateView:
        """When the content of an alert goes, or went, and why. PolicyRefused ``supervisor_only``."""
        ...

    async def erase(self, session: Session, alert_id: str, reason: str, pin: str) -> None:
        """Erase one alert before its date, here and at those it was sent to.

        PolicyRefused ``supervisor_only``, ``reason_unknown``, ``alert_held``, and as ``login``.
        """
        ...

    async def hold(self, session: Session, alert_id: str, reason: str, days: int, pin: str) -> None:
        """Keep one alert beyond its date, for so many days from now; 0 ends that.

        PolicyRefused as ``erase``, ``hold_days``, ``hold_none``.
        """
        ...

    async def status(self) -> StatusView:
        """The node at a glance; shown without a session only as far as the banner goes."""
        ...

    async def log_entries(
        self, session: Session, *, before: int | None, count: int = 100
    ) -> Sequence[EntryView]:
        """Entries of our own log, newest first, with an index below ``before``."""
        ...

    async def verify_log(self, session: Session) -> VerifyView:
        """Verify our own published log now."""
        ...

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterator[DeskEvent]]:
        """Events from now on; a slow reader may get several as one."""
        ...
