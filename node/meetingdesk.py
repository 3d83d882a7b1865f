"""Pairing in person from the pages: a ceremony that waits in the daemon between two requests.

Spec: docs/spec/pairing.md#in-person. One rule: a ceremony belongs to the session of the supervisor who began
it, and ends with it: nobody else sees its code or answers for that officer.
"""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from keys.errors import BrokenInvariant, PolicyRefused, SalweenError
from keys.invitation import INVITATION_LIFE_MS
from keys.meetingcode import encode_code, read_code_text_untrusted
from node.control import Channel
from node.inperson import Meetings
from node.officers import Officers
from node.qr import qr_svg
from node.views import MeetingStep, MeetingView, PeerView, Session
from runtime.env import Env
from runtime.logs import error_fields, get_logger

WATCH_S: Final = 2.0  # how soon a locked screen ends its ceremony
_STEPS: Final[dict[str, MeetingStep]] = {
    "scan": "read",
    "waiting": "waiting",
    "recognise": "recognise",
    "replace": "replace",
}
_NOTHING: Final = MeetingView(step="none")
_log = get_logger("meeting")


class _Held:
    """The channel of one ceremony; what it says is kept until somebody looks."""

    def __init__(
        self, env: Env, token: str, turns: Callable[[], int], typed: tuple[str, str] = ("", "")
    ) -> None:
        self.token = token
        self._typed = typed
        self.view = MeetingView(step="working")
        self.task: asyncio.Task[None] | None = None
        self._env = env
        self._turns = turns
        self._answer: asyncio.Future[str] | None = None

    async def emit(self, event: dict[str, Any]) -> None:
        kind = str(event["event"])
        if kind == "meeting-code":
            step: MeetingStep = "show" if event.get("asks") else "answer"
        elif kind in _STEPS:
            step = _STEPS[kind]
        else:
            return  # "paired": what the ceremony returns says more
        self.view = MeetingView(
            step=step,
            code=event.get("code"),
            name=str(event.get("name", self.view.name)),
            country=str(event.get("country", self.view.country)),
            safety_number=str(event.get("safety_number", self.view.safety_number)),
            error=event.get("again_code"),
            error_family="policy",
            error_detail=str(event.get("again", "")),
        )

    async def ask(self, event: dict[str, Any]) -> str:
        self._answer = asyncio.get_running_loop().create_future()
        await self.emit(event)
        self.view = replace(self.view, turn=self._turns())
        try:
            async with self._env.timeout(INVITATION_LIFE_MS / 1000):
                return await self._answer
        except TimeoutError:
            raise PolicyRefused("pairing_expired", "Nobody answered on this screen in time.") from None
        finally:
            self._answer = None

    def reply(self, turn: int, text: str) -> None:
        """An answer to a question that is over says nothing."""
        if self._answer is not None and not self._answer.done() and turn == self.view.turn:
            self._answer.set_result(text)
            self.view = replace(self.view, step="working", turn=0, code=None, error=None, error_detail="")

    def failed(self, error: SalweenError) -> None:
        broker, token = self._typed
        self.view = MeetingView(
            step="failed",
            error=error.code,
            error_family=error.family,
            error_detail=error.detail,
            broker=broker,
            token=token,
        )

    def paired(self, peer: PeerView) -> None:
        self.view = MeetingView(
            step="paired", name=peer.name, country=peer.country, safety_number=peer.safety_number
        )


class MeetingDesk:
    """Ceremonies in person for the pages, one at a time."""

    def __init__(self, env: Env, officers: Officers, meetings: Meetings) -> None:
        self._env = env
        self._officers = officers
        self._meetings = meetings
        self._held: _Held | None = None
        self._turns = itertools.count(1)

    async def look(self, session: Session) -> MeetingView:
        """Where this session's ceremony stands; another session's shows as none."""
        _check_supervisor(session)
        held = self._of(session)
        return _NOTHING if held is None else held.view

    async def picture(self, session: Session) -> bytes:
        """The code on our screen as SVG. PolicyRefused ``meeting_gone``."""
        code = (await self.look(session)).code
        if code is None:
            raise _gone()
        return qr_svg(encode_code(read_code_text_untrusted(code)))

    async def begin(self, session: Session, pin: str, broker: str, token: str) -> None:
        """Show our code first. PolicyRefused ``pin_wrong``, ``pairing_under_way``, ``pairing_supervisor``."""
        await self._start(
            session, pin, lambda channel: self._meetings.begin(broker, token, channel), (broker, token)
        )

    async def answer(self, session: Session, pin: str) -> None:
        """Read the other office's code first; refused as ``begin``."""
        await self._start(session, pin, self._meetings.answer)

    async def reply(self, session: Session, turn: int, text: str) -> None:
        """Answer the question ``turn``. PolicyRefused ``meeting_gone``."""
        _check_supervisor(session)
        held = self._of(session)
        if held is None:
            raise _gone()
        held.reply(turn, text)
        await self._env.sleep(0)

    async def end(self, session: Session) -> None:
        """Give up, or put away what is over."""
        held = self._of(session)
        if held is not None:
            self._held = None
            await _cancel(held)

    async def close(self) -> None:
        """The daemon ends."""
        held, self._held = self._held, None
        if held is not None:
            await _cancel(held)

    def _of(self, session: Session) -> _Held | None:
        held = self._held
        return held if held is not None and held.token == session.token else None

    async def _start(
        self,
        session: Session,
        pin: str,
        ceremony: Callable[[Channel], Coroutine[Any, Any, PeerView]],
        typed: tuple[str, str] = ("", ""),
    ) -> None:
        _check_supervisor(session)
        if self._is_under_way(session):
            return  # the button pressed twice
        await self._officers.confirm(session, pin)
        if self._is_under_way(session):
            return
        held = _Held(self._env, session.token, lambda: next(self._turns), typed)
        self._held = held
        held.task = self._env.spawn(self._run(held, ceremony), name="meeting")

    def _is_under_way(self, session: Session) -> bool:
        held = self._held
        if held is None or held.view.step in ("paired", "failed"):
            return False
        if held.token != session.token:
            raise PolicyRefused("pairing_under_way", "Another pairing is under way in this office.")
        return True

    async def _run(self, held: _Held, ceremony: Callable[[Channel], Coroutine[Any, Any, PeerView]]) -> None:
        work = self._env.spawn(ceremony(held), name="meeting-ceremony")
        try:
            while not work.done():
                try:
                    async with self._env.timeout(WATCH_S):
                        await asyncio.wait({work})
                except TimeoutError:
                    self._officers.session(held.token, touch=False)
            held.paired(work.result())
        except SalweenError as error:
            held.failed(error)
        except Exception as bug:
            _log.error("meeting_failed", **error_fields(bug))
            held.failed(BrokenInvariant("internal_error"))
        finally:
            work.cancel()
            # Its own end, however it came, was told above; waiting lets it close its connection.
            await asyncio.wait({work})


async def _cancel(held: _Held) -> None:
    if held.task is not None:
        held.task.cancel()
        await asyncio.wait({held.task})


def _check_supervisor(session: Session) -> None:
    if session.role != "supervisor":
        raise PolicyRefused("pairing_supervisor", "Only a supervisor pairs offices.")


def _gone() -> PolicyRefused:
    return PolicyRefused("meeting_gone", "No such pairing is under way in this session.")
