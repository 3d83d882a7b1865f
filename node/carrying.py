"""What is carried by hand, from the pages: a file for the browser to keep, and a file shown as pictures.

Spec: docs/spec/stick.md. One rule: what is shown belongs to the session of the officer who asked for it
and goes with it, and counts as carried only when that officer says that the other office has read it.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from keys.errors import PolicyRefused
from node.officers import Officers
from node.qr import qr_film
from node.sticks import Packed, Sticks, check_may_carry
from node.views import Session, ShownFrames, StickFile, StickReport, StickWaiting
from protocol.frames import encode_frames, join_frames_untrusted
from protocol.limits import FRAME_SHOWN_MS
from runtime.env import Env


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    token: str
    packed: Packed
    film: bytes
    view: ShownFrames


class CarryDesk:
    """Sticks and pictures for the pages; one session shows pictures at a time."""

    def __init__(self, env: Env, officers: Officers, sticks: Sticks) -> None:
        self._env = env
        self._officers = officers
        self._sticks = sticks
        self._shown: _Shown | None = None

    async def waiting(self, session: Session, peer: str) -> StickWaiting:
        """What a file for this partner would hold. PolicyRefused ``role_may_not``, ``peer_unknown``."""
        self._check(session)
        return await self._sticks.waiting(_office_id(peer))

    @asynccontextmanager
    async def write(self, session: Session, pin: str, peer: str) -> AsyncIterator[StickFile]:
        """A file to hand to the browser; it counts as carried when the block ends well.

        PolicyRefused as ``Officers.confirm`` and ``Sticks.pack``.
        """
        await self._confirm(session, pin)
        packed = await self._sticks.pack(session, _office_id(peer))
        # By the hash that both logs hold, and by no office.
        yield StickFile(name=f"{packed.out.digest[:8]}.slwx", data=packed.data, out=packed.out)
        await self._sticks.note_out(packed)

    async def take(self, session: Session, pieces: AsyncIterator[bytes]) -> StickReport:
        """Take in a file while it comes; refused as ``Sticks.take``."""
        self._check(session)
        return await self._sticks.take(session, pieces)

    # --- pictures -------------------------------------------------------------------------------------------

    async def show(self, session: Session, pin: str, peer: str) -> None:
        """Begin to show a file for this partner; refused as ``write``."""
        await self._confirm(session, pin)
        await self._show(session, _office_id(peer))

    async def look(self, session: Session) -> ShownFrames | None:
        """What this session shows."""
        self._check(session)
        shown = self._of(session)
        return None if shown is None else shown.view

    async def film(self, session: Session) -> bytes:
        """The pictures as one that moves, APNG. PolicyRefused ``showing_gone``."""
        return self._showing(session).film

    async def was_read(self, session: Session, digest: str) -> ShownFrames | None:
        """The other office has read the file of this digest; the next one, or None after the last.

        PolicyRefused ``showing_gone``.
        """
        shown = self._showing(session)
        if digest != shown.view.out.digest:
            return shown.view  # the button pressed twice
        await self._sticks.note_out(shown.packed)
        self._shown = None
        if shown.view.out.left:
            await self._show(session, bytes.fromhex(shown.view.out.peer_id))
        return await self.look(session)

    async def put_away(self, session: Session) -> None:
        """Show nothing any more; what was shown does not count as carried."""
        if self._of(session) is not None:
            self._shown = None

    async def take_frames(self, session: Session, frames: Sequence[bytes]) -> StickReport:
        """Take in what a camera read; MalformedInput also as join_frames_untrusted."""
        self._check(session)
        data = join_frames_untrusted(frames)

        async def whole() -> AsyncIterator[bytes]:
            yield data

        return await self._sticks.take(session, whole(), "qr")

    async def _show(self, session: Session, peer_id: bytes) -> None:
        packed = await self._sticks.pack(session, peer_id, "qr")
        frames = encode_frames(packed.data)
        film, side_px = await self._env.run_blocking(qr_film, frames, FRAME_SHOWN_MS)
        view = ShownFrames(out=packed.out, pictures=len(frames), side_px=side_px)
        self._shown = _Shown(token=session.token, packed=packed, film=film, view=view)

    def _showing(self, session: Session) -> _Shown:
        self._check(session)
        shown = self._of(session)
        if shown is None:
            raise PolicyRefused("showing_gone", "This session shows no pictures any more.")
        return shown

    def _of(self, session: Session) -> _Shown | None:
        shown = self._shown
        return shown if shown is not None and shown.token == session.token else None

    async def _confirm(self, session: Session, pin: str) -> None:
        self._check(session)
        if not pin:
            raise PolicyRefused("pin_missing", "Type your PIN.")
        await self._officers.confirm(session, pin)

    def _check(self, session: Session) -> None:
        """The session may have been ended by another page; PolicyRefused ``session_ended``."""
        check_may_carry(self._officers.session(session.token, touch=False))


def _office_id(peer: str) -> bytes:
    try:
        return bytes.fromhex(peer)
    except ValueError:
        raise PolicyRefused("peer_unknown", "No paired office has this number.") from None
