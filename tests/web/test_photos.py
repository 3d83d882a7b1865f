"""Photos on the pages: chosen, staged while they are read, carried through the form, served as pictures."""

from collections.abc import Sequence

import pytest

from node.views import PhotoView
from node.web.guard import PHOTO_FORM_BYTES_MAX
from node.web.labels import photo_state
from node.web.languages import LANGUAGES, words
from node.web.photo_pages import file_name
from node.web.show import Show, zone_of
from protocol.limits import PHOTO_BYTES_MAX
from tests.web.fake_desk import PLAIN_ALERT, TENGCHONG, FakeDesk
from tests.web.serve import Answer, Client

JPEG = b"\xff\xd8 a picture"
BOUNDARY = "salween-test-boundary"
FORM = {
    "kind": "vehicle",
    "recipients": TENGCHONG,
    "urgency": "expected",
    "crime_type": "drug_trafficking",
    "vehicle.plate": "AB-1234",
    "source": "B",
    "information": "2",
}


def multipart(
    fields: dict[str, str], files: Sequence[tuple[str, bytes]] = (), *, last: dict[str, str] | None = None
) -> bytes:
    """A body as a browser makes it: fields and files in the order of the form."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    parts += [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photo"; filename="{name}"\r\n'
        f"Content-Type: image/jpeg\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    parts += [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (last or {}).items()
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


async def send(officer: Client, body: bytes, path: str = "/new", **headers: str) -> Answer:
    """Post it as the page would."""
    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    return await officer.ask("POST", path, data=body, headers={"Content-Type": content_type, **headers})


async def test_photos_travel_through_the_form_to_the_desk(officer: Client, desk: FakeDesk) -> None:
    """Chosen, shown small, one taken out again, reviewed, sent with the alert."""
    await officer.get("/new")
    two = [("a.jpg", JPEG), ("b.jpg", JPEG + b"2"), ("", b"")]
    page = await send(officer, multipart({"csrf": officer.csrf, **FORM}, two, last={"action": "photos"}))
    assert page.status == 200
    first, second = desk.staged
    for name in (first, second):
        assert f'<input type="hidden" name="photos" value="{name}">' in page.text
        assert f'<img src="/new/photo/{name}"' in page.text
    assert 'value="AB-1234"' in page.text
    small = await officer.get(f"/new/photo/{first}")
    assert small.status == 200
    assert small.headers["Content-Type"] == "image/jpeg"
    page = await send(
        officer, multipart({"csrf": officer.csrf, **FORM, "photos": first}, last={"action": f"drop.{first}"})
    )
    assert first not in desk.staged
    assert first not in page.text
    kept = {"csrf": officer.csrf, **FORM, "photos": second}
    review = await send(officer, multipart(kept, last={"action": "review"}))
    assert f'<img class="photo" src="/new/photo/{second}"' in review.text
    assert f'name="photos" value="{second}"' in review.text
    sent = await officer.post("/new", {**FORM, "photos": second, "action": "send"})
    assert sent.status == 303
    assert desk.sent_photos == [(second,)]


async def test_a_photo_that_is_refused_takes_nothing_from_the_form(officer: Client, desk: FakeDesk) -> None:
    """Its reason stands at the field; what was typed and what was staged before stay."""
    await officer.get("/new")
    files = [("good.jpg", JPEG), ("page.jpg", b"<html>"), ("later.jpg", JPEG)]
    page = await send(officer, multipart({"csrf": officer.csrf, **FORM}, files, last={"action": "send"}))
    assert page.status == 422
    assert "Choose a JPEG or PNG" in page.text
    assert 'value="AB-1234"' in page.text
    assert len(desk.staged) == 2
    assert not desk.sent
    five = [("x.jpg", JPEG)] * 5
    page = await send(officer, multipart({"csrf": officer.csrf, **FORM}, five, last={"action": "review"}))
    assert "at most four photos" in page.text


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_a_file_is_counted_while_it_is_read(officer: Client, desk: FakeDesk) -> None:
    """One byte too many and it is given up; a body larger than four photos is not read at all."""
    await officer.get("/new")
    large = [("large.jpg", JPEG + bytes(PHOTO_BYTES_MAX))]
    page = await send(officer, multipart({"csrf": officer.csrf, **FORM}, large, last={"action": "photos"}))
    assert page.status == 422
    assert "too large" in page.text
    assert not desk.staged
    refused = await officer.ask(
        "POST",
        "/new",
        headers={
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
            "Content-Length": str(PHOTO_FORM_BYTES_MAX + 1),
        },
        data=b"",
    )
    assert refused.status == 413


@pytest.mark.parametrize(
    "name",
    [
        "a" * 300 + ".jpg",
        "CON",
        "-rf.jpg",
        ".htaccess",
        "../../etc/passwd",
        "C:\\windows\\photo.jpg",
        "\u202egpj.exe",
        "two\nlines.jpg",
        "/absolute.jpg",
    ],
)
async def test_no_name_of_a_file_is_read_or_kept(officer: Client, desk: FakeDesk, name: str) -> None:
    """B55: whatever it is called, it is staged under a name of ours and saved by its number."""
    await officer.get("/new")
    body = multipart(
        {"csrf": officer.csrf, **FORM}, [(name.replace("\n", "%0A"), JPEG)], last={"action": "photos"}
    )
    page = await send(officer, body)
    assert page.status == 200
    (staged,) = desk.staged
    assert staged == "01" + "ab" * 15
    assert name not in page.text
    assert file_name("jpeg", 2) == "photo-2.jpg"
    assert file_name("png", 7) == "thumbnail-4.png"


async def test_no_file_is_read_before_the_token_and_without_a_session(
    client: Client, officer: Client, desk: FakeDesk
) -> None:
    """A foreign page cannot have pictures decoded; what was typed is carried over the login."""
    await officer.get("/new")
    wrong = await send(officer, multipart({"csrf": "0" * 64, **FORM}, [("a.jpg", JPEG)]))
    assert wrong.status == 403
    none = await send(officer, multipart(FORM, [("a.jpg", JPEG)], last={"csrf": officer.csrf}))
    assert none.status == 403
    foreign = await send(officer, multipart({"csrf": officer.csrf}, [("a.jpg", JPEG)]), Origin="http://evil")
    assert foreign.status == 403
    elsewhere = await send(officer, multipart({"csrf": officer.csrf}), path="/logout")
    assert elsewhere.status == 415
    client.cookies.clear()
    login = await send(client, multipart({"csrf": "x", **FORM}, [("a.jpg", JPEG)]))
    assert login.status == 401
    assert "AB-1234" in login.text
    assert not desk.staged


async def test_a_body_that_is_no_form_is_refused(officer: Client, desk: FakeDesk) -> None:
    """Cut, nested, or with fields no form of ours has."""
    await officer.get("/new")
    whole = multipart({"csrf": officer.csrf, **FORM}, [("a.jpg", JPEG * 100)])
    nested = multipart({"csrf": officer.csrf}).replace(
        b'name="csrf"\r\n', b'name="csrf"\r\nContent-Type: multipart/mixed; boundary=x\r\n'
    )
    forged = multipart({"csrf": officer.csrf, "photo_fault": "photo_kind"})
    for body in (whole[:200], nested, forged, b"", b"--x\r\n", multipart({"csrf": officer.csrf, "A B": "x"})):
        assert (await send(officer, body)).status in (400, 403, 413, 422)
    assert not desk.staged


async def test_pictures_are_served_as_attachments_under_strict_headers(
    officer: Client, desk: FakeDesk
) -> None:
    """Never inline by address, never sniffed, never cached, and only after the alert was opened."""
    early = await officer.get(f"/alert/{PLAIN_ALERT}/photo/0")
    assert early.status in (403, 409)
    await officer.get(f"/alert/{PLAIN_ALERT}")
    for number, name in ((0, "photo-1.jpg"), (3, "thumbnail-2.jpg")):
        answer = await officer.get(f"/alert/{PLAIN_ALERT}/photo/{number}")
        assert answer.status == 200
        assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert (await officer.get(f"/alert/{PLAIN_ALERT}/photo/8")).status == 404
    assert (await officer.get("/new/photo/" + "0" * 32)).status in (404, 409, 403)
    assert desk.opened


def test_where_a_photo_is_stands_in_words_in_every_language() -> None:
    """How much of it is here, of how much; no state without a sentence."""
    states = (
        ("coming", None),
        ("refused", "photo_kind"),
        ("ended", "photo_missing"),
        ("whole", None),
        ("kept", None),
        ("gone", None),
        ("under_way", None),
        ("at_broker", None),
        ("fetched", None),
        ("ended", None),
    )
    for language in LANGUAGES:
        spoken = words(language.tag)
        said = set()
        for state, code in states:
            view = PhotoView(
                number=2,
                state=state,
                code=code,
                done_bytes=300 * 1024,
                size_bytes=700 * 1024,
                has_thumbnail=True,
            )
            said.add(str(photo_state(view, spoken, Show(spoken, zone_of("MM")))))
        assert len(said) == len(states) - 1  # what is whole and what is kept look the same
        assert any("300" in text and "700" in text for text in said)
