"""Photos on the pages: read from a form while they come, shown by routes of their own.

One rule: a file is counted while it is read and given to the desk, which has it made anew in another process.
Its name and its type are whatever the sender's machine wrote and are never used. What is served was made by
an office of this system, is called by its number alone, and is never shown as anything but a picture.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

from aiohttp import BodyPartReader, web

from keys.errors import MalformedInput, PolicyRefused
from node.views import Session
from node.web.forms import FIELDS_MAX, Form, is_field_name
from node.web.guard import BODY_BYTES_MAX, PHOTO_FORM_SECONDS_MAX, check_csrf
from node.web.visit import Visit
from protocol.limits import PHOTO_BYTES_MAX, PHOTOS_PER_ALERT_MAX

PHOTOS: Final = "photos"  # names of staged photos, hidden fields of a form
FILE: Final = "photo"  # files just chosen
# What reading a body raises when its sender goes away or wrote nonsense; UnicodeError is a ValueError.
BODY_FAULTS: Final = (web.RequestPayloadError, ConnectionError, ValueError)
FAULT: Final = "photo_fault"  # set here, never read from a form


async def read_multipart_untrusted(visit: Visit) -> Form:
    """A form with files: its fields, and the names of photos staged from its files.

    The form's token comes before the first file, or nothing of a file is read. A photo that is refused leaves
    its code in the field ``photo_fault``; everything else of the form stays. MalformedInput, or PolicyRefused
    ``csrf_wrong``.
    """
    form: dict[str, tuple[str, ...]] = {}
    text_bytes = 0
    with body_faults():
        async with visit.site.env.timeout(PHOTO_FORM_SECONDS_MAX):
            reader = await visit.request.multipart()
            async for part in reader:
                if not isinstance(part, BodyPartReader) or part.name is None:
                    raise MalformedInput("body_malformed")
                if part.name == FILE:
                    if visit.session is None:
                        break  # to the login, with what was typed; files are chosen again
                    check_csrf(form.get("csrf", ("",))[0], visit.session.csrf)
                    await _take(visit, visit.session, part, form)
                    continue
                data = await read_counted(part, BODY_BYTES_MAX - text_bytes, "body_too_large")
                text_bytes += len(data)
                if not is_field_name(part.name) or part.name == FAULT or len(form) >= FIELDS_MAX:
                    raise MalformedInput("body_malformed")
                form[part.name] = (*form.get(part.name, ()), data.decode("utf-8"))
    return form


@contextlib.contextmanager
def body_faults() -> Iterator[None]:
    """Whatever is wrong with a body is MalformedInput in here: ``body_too_slow``, ``body_malformed``."""
    try:
        yield
    except TimeoutError:
        raise MalformedInput("body_too_slow") from None
    except BODY_FAULTS:
        raise MalformedInput("body_malformed") from None


async def _take(
    visit: Visit, session: Session, part: BodyPartReader, form: dict[str, tuple[str, ...]]
) -> None:
    """One file: kept under a name of our own, or a code why not. A file nobody chose is empty."""
    staged = form.get(PHOTOS, ())
    try:
        async with visit.site.uploads:
            picture = await read_counted(part, PHOTO_BYTES_MAX, "photo_too_large")
            if not picture:
                return
            if len(staged) >= PHOTOS_PER_ALERT_MAX:
                raise PolicyRefused("photos_too_many")
            form[PHOTOS] = (*staged, await visit.site.desk.stage_photo(session, picture))
    except PolicyRefused as refused:
        form[FAULT] = (refused.code,)
        await part.release()


async def read_counted(part: BodyPartReader, bytes_max: int, code: str) -> bytes:
    """A whole part of a form. MalformedInput ``code``, or PolicyRefused ``photo_too_large``."""
    data = bytearray()
    while chunk := await part.read_chunk(64 * 1024):
        data += chunk
        if len(data) > bytes_max:
            raise PolicyRefused(code) if code == "photo_too_large" else MalformedInput(code)
    return bytes(data)


def photos_of(form: Form) -> tuple[str, ...]:
    """Names of staged photos in a form, each once, whatever else it says."""
    return tuple(
        dict.fromkeys(
            name for name in form.get(PHOTOS, ()) if len(name) == 32 and name.isascii() and name.isalnum()
        )
    )


async def drop(visit: Visit, session: Session, name: str) -> Form:
    """The form without this photo, which is forgotten."""
    with contextlib.suppress(PolicyRefused):  # gone already: what was wanted
        await visit.site.desk.unstage_photo(session, name)
    return {**visit.form, PHOTOS: tuple(kept for kept in photos_of(visit.form) if kept != name)}


# --- showing ------------------------------------------------------------------------------------------------


async def show_staged(visit: Visit, session: Session) -> web.StreamResponse:
    """The thumbnail of a photo in a form."""
    name = visit.request.match_info["name"]
    return _picture("jpeg", await visit.site.desk.staged_thumbnail(session, name), 0)


async def show_photo(visit: Visit, session: Session) -> web.StreamResponse:
    """A picture beside an alert this session opened."""
    number = int(visit.request.match_info["number"])
    kind, data = await visit.site.desk.photo(session, visit.request.match_info["alert_id"], number)
    return _picture(kind, data, number)


async def show_pending(visit: Visit, session: Session) -> web.StreamResponse:
    """A picture of a draft: nobody signs what they have not seen."""
    number = int(visit.request.match_info["number"])
    kind, data = await visit.site.desk.pending_photo(session, visit.request.match_info["draft_id"], number)
    return _picture(kind, data, number)


def _picture(kind: str, data: bytes, number: int) -> web.Response:
    return web.Response(
        body=data,
        content_type={"jpeg": "image/jpeg", "png": "image/png"}[kind],
        headers={"Content-Disposition": f'attachment; filename="{file_name(kind, number)}"'},
    )


def file_name(kind: str, number: int) -> str:
    """What a saved picture is called: by its place in the alert, never by what somebody called it."""
    return f"{'thumbnail' if number % 2 else 'photo'}-{number // 2 + 1}.{'jpg' if kind == 'jpeg' else 'png'}"
