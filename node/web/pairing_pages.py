"""Pairing in person, step by step, as pages: a code to show, a code to read, a name to recognise.

Spec: docs/spec/pairing.md#in-person. One rule: these handlers carry words between the officer and the desk;
the ceremony, its time and its rights are the desk's, and a page may be reloaded at every step.
"""

from aiohttp import web

from keys.errors import SalweenError
from node.control import error_from_json
from node.views import MeetingView, Session
from node.web.guard import CAMERA_POLICY
from node.web.messages import Said, say, status_of
from node.web.visit import Visit

WAITING = frozenset({"working", "answer", "waiting"})
READING = frozenset({"show", "read"})


async def show(visit: Visit, session: Session) -> web.StreamResponse:
    """The step this session's pairing is at."""
    meeting = await visit.site.desk.meeting.look(session)
    if visit.wants_json:
        return visit.json(meeting)
    return _page(visit, meeting)


async def picture(visit: Visit, session: Session) -> web.StreamResponse:
    """Our code as a picture, for this session alone."""
    svg = await visit.site.desk.meeting.picture(session)
    return web.Response(body=svg, content_type="image/svg+xml")


async def act(visit: Visit, session: Session) -> web.StreamResponse:
    """Every button: begin either way, answer what is asked, give up."""
    verb, meetings = visit.request.match_info["verb"], visit.site.desk.meeting
    try:
        if verb == "begin":
            broker, token = visit.said("broker").strip(), visit.said("token").strip()
            await meetings.begin(session, visit.said("pin"), broker, token)
        elif verb == "answer":
            await meetings.answer(session, visit.said("pin"))
        elif verb == "reply":
            turn = visit.said("turn")
            is_number = turn.isascii() and turn.isdigit() and len(turn) <= 9
            await meetings.reply(session, int(turn) if is_number else 0, visit.said("text"))
        else:
            await meetings.end(session)
    except SalweenError as error:
        # A log-in that is over, or a right that is missing, is no matter of this form.
        if visit.wants_json or error.code in ("session_ended", "pairing_supervisor"):
            raise
        meeting = await meetings.look(session)
        said = say(error, visit.words)
        return _page(visit, meeting, error=said, status=status_of(error))
    if visit.wants_json:
        return visit.json(await meetings.look(session))
    return visit.see_other("/pair")


def _page(
    visit: Visit, meeting: MeetingView, *, error: Said | None = None, status: int = 200
) -> web.Response:
    if error is None and meeting.error is not None:
        kept = {"family": meeting.error_family, "code": meeting.error, "detail": meeting.error_detail}
        error = say(error_from_json(kept), visit.words)
    response = visit.page(
        "pair.html",
        status=status,
        meeting=meeting,
        error=error,
        is_waiting=meeting.step in WAITING,
        is_reading=meeting.step in READING,
    )
    if meeting.step in READING:
        response.headers["Permissions-Policy"] = CAMERA_POLICY
    return response
