"""What is carried by hand, as pages: a file the browser saves, files it is given, and pictures both ways.

Spec: docs/spec/stick.md, docs/operations.md#sticks. One rule: a file is taken in piece by piece while
it comes, so that what a stick gave before it was pulled out is kept; its form's token comes first.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from aiohttp import BodyPartReader, MultipartReader, web

from keys.errors import MalformedInput, PolicyRefused, SalweenError
from node.views import Session, StickReport
from node.web.guard import CAMERA_POLICY, check_csrf, has_files
from node.web.messages import Said, say, status_of
from node.web.photo_pages import BODY_FAULTS, body_faults, read_counted
from node.web.visit import Visit
from protocol.limits import FRAME_BYTES_MAX, FRAMES_MAX

FILE: Final = "file"
SHOWN: Final = "/carry/show#film"  # in sight, also below banners
FILES_MAX: Final = 16  # of one form; together at most the largest file
PIECE_BYTES: Final = 32 * 1024  # at most two of them are lost when a stick is pulled out
PIECE_SECONDS_MAX: Final = 60.0  # a slow stick may need a while for the next piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of one file: its ``report``, or why nothing was read. ``name``: as the browser calls it."""

    name: str
    report: StickReport | None = None
    error: Said | None = None


async def choose(visit: Visit, session: Session) -> web.StreamResponse:
    """For which partner, and what came by hand."""
    return await _choose(visit, session)


async def _choose(
    visit: Visit, session: Session, *, error: Said | None = None, status: int = 200
) -> web.StreamResponse:
    shown = await visit.site.desk.carrying.look(session)
    peers = await visit.site.desk.peers(session)
    if visit.wants_json:
        return visit.json(peers)
    return visit.page("carry.html", status=status, peers=peers, shown=shown, error=error)


# --- out ----------------------------------------------------------------------------------------------------


async def show_waiting(visit: Visit, session: Session) -> web.StreamResponse:
    """What a file for one partner would hold."""
    return await _waiting_page(visit, session)


async def _waiting_page(
    visit: Visit, session: Session, *, error: Said | None = None, status: int = 200
) -> web.StreamResponse:
    desk = visit.site.desk
    waiting = await desk.carrying.waiting(session, visit.request.match_info["office_id"])
    if visit.wants_json:
        return visit.json(waiting)
    headlines = {row.alert_id: row.headline for row in await desk.outbox(session)}
    return visit.page(
        "carry_to.html",
        status=status,
        waiting=waiting,
        headlines=[headlines.get(alert_id, alert_id[:8]) for alert_id in waiting.alerts],
        error=error,
    )


async def write(visit: Visit, session: Session) -> web.StreamResponse:
    """The file itself, for the browser to save; it counts as carried once the browser has all of it."""
    peer, response = visit.request.match_info["office_id"], None
    try:
        async with visit.site.desk.carrying.write(session, visit.said("pin"), peer) as file:
            response = web.StreamResponse(
                headers={
                    "Content-Type": "application/octet-stream",
                    "Content-Disposition": f'attachment; filename="{file.name}"',
                }
            )
            response.content_length = len(file.data)
            await response.prepare(visit.request)
            await response.write(file.data)
            await response.write_eof()
    except SalweenError as error:
        if response is not None:
            raise
        return await _refused(visit, session, error)
    return response


async def _refused(visit: Visit, session: Session, error: SalweenError) -> web.StreamResponse:
    if visit.wants_json or error.code == "session_ended":
        raise error
    if error.code == "pin_wrong":
        error = PolicyRefused("pin_wrong_here")
    said = say(error, visit.words)
    return await _waiting_page(visit, session, error=said, status=status_of(error))


# --- in -----------------------------------------------------------------------------------------------------


async def take(visit: Visit, session: Session) -> web.StreamResponse:
    """Files of a form, each taken in while it comes, and what became of each."""
    taken: list[Taken] = []
    token = ""
    reader = await _begin(visit)
    while part := await _next(visit, reader):
        if part.name == "csrf":
            with body_faults():
                token = (await read_counted(part, 64, "body_malformed")).decode("ascii")
            continue
        check_csrf(token, session.csrf)
        if part.name != FILE or len(taken) == FILES_MAX:
            raise MalformedInput("body_malformed")
        if part.filename:  # a field where nobody chose a file comes empty and nameless
            async with visit.site.uploads:
                taken.append(await _take_one(visit, session, part))
    check_csrf(token, session.csrf)
    if not taken:
        return await _choose(
            visit, session, error=say(PolicyRefused("file_not_chosen"), visit.words), status=422
        )
    return _report(visit, taken)


async def _begin(visit: Visit) -> MultipartReader:
    if not has_files(visit.request):
        raise MalformedInput("body_malformed")
    with body_faults():
        return await visit.request.multipart()


async def _next(visit: Visit, reader: MultipartReader) -> BodyPartReader | None:
    with body_faults():
        async with visit.site.env.timeout(PIECE_SECONDS_MAX):
            part = await reader.next()
    if part is not None and not isinstance(part, BodyPartReader):
        raise MalformedInput("body_malformed")
    return part


async def _take_one(visit: Visit, session: Session, part: BodyPartReader) -> Taken:
    name = (part.filename or "")[:80]

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            try:
                async with visit.site.env.timeout(PIECE_SECONDS_MAX):
                    piece = await part.read_chunk(PIECE_BYTES)
            except BODY_FAULTS as fault:
                raise ConnectionError("the browser could not read the file to its end") from fault
            if not piece:
                return
            yield piece

    try:
        return Taken(name=name, report=await visit.site.desk.carrying.take(session, pieces()))
    except MalformedInput as error:
        with body_faults():
            await part.release()
        return Taken(name=name, error=say(error, visit.words))


def _report(visit: Visit, taken: list[Taken], *, by_camera: bool = False) -> web.Response:
    if visit.wants_json:
        return visit.json(taken)
    return visit.page("carry_report.html", taken=taken, by_camera=by_camera)


# --- pictures -----------------------------------------------------------------------------------------------


async def begin(visit: Visit, session: Session) -> web.StreamResponse:
    """Show a file for one partner as pictures from now on."""
    try:
        peer = visit.request.match_info["office_id"]
        await visit.site.desk.carrying.show(session, visit.said("pin"), peer)
    except SalweenError as error:
        return await _refused(visit, session, error)
    return visit.json({}) if visit.wants_json else visit.see_other(SHOWN)


async def show(visit: Visit, session: Session) -> web.StreamResponse:
    """The pictures of this session; without any, the first page of what is carried."""
    shown = await visit.site.desk.carrying.look(session)
    if visit.wants_json:
        return visit.json(shown)
    return visit.see_other("/carry") if shown is None else visit.page("carry_show.html", shown=shown)


async def pictures(visit: Visit, session: Session) -> web.StreamResponse:
    """All pictures as one that moves, for this session alone."""
    return web.Response(body=await visit.site.desk.carrying.film(session), content_type="image/png")


async def act(visit: Visit, session: Session) -> web.StreamResponse:
    """It was read there: the next one. Or: put it away."""
    carrying, more = visit.site.desk.carrying, None
    if visit.request.match_info["verb"] == "next":
        more = await carrying.was_read(session, visit.said("digest"))
    else:
        await carrying.put_away(session)
    if visit.wants_json:
        return visit.json(more)
    return visit.see_other(SHOWN if more is not None else "/carry")


async def read(visit: Visit, session: Session) -> web.StreamResponse:
    """Hold the camera at the other screen."""
    del session
    return _read_page(visit)


def _read_page(visit: Visit, *, error: Said | None = None, status: int = 200) -> web.Response:
    response = visit.page("carry_read.html", error=error, status=status)
    response.headers["Permissions-Policy"] = CAMERA_POLICY
    return response


async def take_frames(visit: Visit, session: Session) -> web.StreamResponse:
    """What the camera read: frames in hex, with spaces between."""
    try:
        frames = _frames_untrusted(visit.said("frames"))
        report = await visit.site.desk.carrying.take_frames(session, frames)
    except MalformedInput as error:
        if visit.wants_json:
            raise
        return _read_page(visit, error=say(error, visit.words), status=status_of(error))
    return _report(visit, [Taken(name="", report=report)], by_camera=True)


def _frames_untrusted(text: str) -> list[bytes]:
    frames = text.split()
    if len(frames) > FRAMES_MAX or any(len(frame) > 2 * FRAME_BYTES_MAX for frame in frames):
        raise MalformedInput("frame_foreign")
    try:
        return [bytes.fromhex(frame) for frame in frames]
    except ValueError:
        raise MalformedInput("frame_foreign") from None
