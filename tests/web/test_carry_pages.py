"""What is carried by hand, as pages: whose it is, what is checked before a byte is read, what is said."""

import asyncio
import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from PIL import Image

from keys.errors import PolicyRefused
from node.views import PeerView, Session, StickReport, WayView
from node.web.carry_pages import FILES_MAX
from protocol.frames import encode_frames
from protocol.limits import FRAME_SHOWN_MS
from protocol.stick import closing_hash, encode_stick
from tests.web.fake_desk import HOSTILE, MAE_SAI, PIN, TENGCHONG, FakeDesk
from tests.web.serve import Answer, Client
from tests.web.test_pages import check_page

TO = f"/carry/to/{TENGCHONG}"
STICK = encode_stick([bytes(8192), b"\1" * 8192])
BOUNDARY = "salween-test-boundary"
NOTHING = StickReport(
    envelopes=1,
    new=0,
    seen=0,
    unknown=0,
    refused=0,
    damaged=0,
    held=0,
    missing=0,
    is_whole=True,
    broken_off=False,
)


def body_of(token: str, files: Sequence[tuple[str, bytes]], *, name: str = "file") -> bytes:
    """A form as a browser makes it."""
    parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n{token}\r\n'.encode()]
    for file, data in files:
        head = f'Content-Disposition: form-data; name="{name}"; filename="{file}"'
        parts.append(f"--{BOUNDARY}\r\n{head}\r\nContent-Type: x/y\r\n\r\n".encode() + data + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


async def give(officer: Client, *files: tuple[str, bytes], **headers: str) -> Answer:
    """Choose these files and press the button."""
    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    body = body_of(officer.csrf, files)
    return await officer.ask(
        "POST", "/carry/file", data=body, headers={"Content-Type": content_type, **headers}
    )


async def read(officer: Client, frames: Sequence[bytes]) -> Answer:
    """What the page's script sends when the camera has seen these."""
    return await officer.post("/carry/read", {"frames": " ".join(frame.hex() for frame in frames)})


# --- out ----------------------------------------------------------------------------------------------------


async def test_a_file_is_saved_after_the_pin_and_then_counts_as_carried(
    officer: Client, desk: FakeDesk
) -> None:
    """What would be in it and that nothing moves stands there before; its name tells no office."""
    page = await officer.get("/carry")
    check_page(page)
    assert f'href="{TO}"' in page.text
    page = await officer.get(TO)
    check_page(page)
    for words in ("Toyota Hilux", "2 alerts", "3 other messages", "stays in the outbox"):
        assert words in page.text
    assert HOSTILE not in page.text
    answer = await officer.post(f"{TO}/file", {"pin": PIN})
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/octet-stream"
    (data,) = desk.sticks.noted
    assert int(answer.headers["Content-Length"]) == len(data)
    named = answer.headers["Content-Disposition"]
    assert named == f'attachment; filename="{closing_hash(data).hex()[:8]}.slwx"'
    assert desk.sticks.packed == [(bytes.fromhex(TENGCHONG), "usb")]


@pytest.mark.parametrize("what", ["file", "show"])
async def test_without_the_pin_nothing_leaves(officer: Client, desk: FakeDesk, what: str) -> None:
    """None, and a wrong one: said on the page, and nothing was packed."""
    for pin, code in (("", "pin_missing"), ("918273", "pin_wrong_here")):
        answer = await officer.post(f"{TO}/{what}", {"pin": pin})
        assert answer.status in (401, 403)
        check_page(answer)
        assert code in answer.text
        assert "918273" not in answer.text
    assert desk.sticks.packed == []


async def test_what_the_desk_refuses_is_said_in_words(officer: Client, desk: FakeDesk) -> None:
    """Nothing waits; too large for pictures; a partner nobody knows."""
    for code, words in (("stick_nothing", "signed for everything"), ("frames_too_large", "on a stick")):
        desk.fails_with = PolicyRefused(code)
        for what in ("file", "show"):
            # The list of alerts is asked for again, and fails as well here.
            answer = await officer.post(f"{TO}/{what}", {"pin": PIN}, Accept="application/json")
            assert answer.status == 409
            assert words in answer.text
    desk.fails_with = None
    assert (await officer.get(f"/carry/to/{'00' * 32}")).status == 403
    assert desk.sticks.noted == []


async def test_a_broken_download_counts_as_nothing(officer: Client, desk: FakeDesk) -> None:
    """The browser goes away before it has all of the file: no rung says that it was written."""
    async with desk.carrying.write(next(iter(desk.sessions.values())), PIN, TENGCHONG) as file:
        assert desk.sticks.noted == []
    assert desk.sticks.noted == [file.data]
    with pytest.raises(ConnectionError):
        async with desk.carrying.write(next(iter(desk.sessions.values())), PIN, TENGCHONG):
            raise ConnectionError("gone")
    assert len(desk.sticks.noted) == 1


# --- in -----------------------------------------------------------------------------------------------------


async def test_files_are_taken_in_and_each_is_told_of(officer: Client, desk: FakeDesk) -> None:
    """Whole, foreign, cut short: one does not keep the next from being read; hostile names are inert."""
    await officer.get("/carry")
    answer = await give(
        officer, ("a.slwx", STICK), ("<script>alert(1)</script>", b"%PDF-1.7 "), ("c.slwx", STICK[:9000])
    )
    assert answer.status == 200
    check_page(answer)
    assert "All of it was read." in answer.text
    assert "2 new messages were taken in." in answer.text
    assert "stick_foreign" in answer.text
    assert "1 message is missing." in answer.text
    assert "cut short or damaged" in answer.text
    assert "<script>alert" not in answer.text
    assert desk.sticks.taken[0] == (STICK, "usb")


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ({"new": 1}, "All of it was read."),
        ({"seen": 3}, "3 messages were here already."),
        ({"seen": 3}, "Nothing in it is new here"),
        ({"unknown": 1}, "Give it to the office it was made for"),
        ({"held": 1}, "Keep it: read it again when the partner is resumed."),
        ({"refused": 1}, "its sender is told why"),
        ({"damaged": 1, "is_whole": False}, "1 message is damaged."),
        ({"new": 1, "missing": 2, "is_whole": False, "broken_off": True}, "Put the stick in again"),
    ],
)
async def test_each_way_a_file_can_be_has_its_words(
    officer: Client, desk: FakeDesk, report: dict[str, int], words: str
) -> None:
    """B88 and B91 of a stick, on the page: doubled, outdated, of others, held, damaged, pulled out."""
    desk.sticks.reports = [replace(NOTHING, **report)]  # type: ignore[arg-type]
    await officer.get("/carry")
    answer = await give(officer, ("a.slwx", STICK))
    check_page(answer)
    assert words in answer.text
    assert ("All of it was read." in answer.text) == ("new" in report and report.get("is_whole", True))


async def test_a_stick_pulled_out_while_the_browser_reads_keeps_what_came(
    officer: Client, desk: FakeDesk
) -> None:
    """F13 on the page: the browser breaks its request off; what was read went to the desk, as broken off."""
    await officer.get("/carry")
    stick = encode_stick([bytes(8192)] * 40)
    body = body_of(officer.csrf, [("a.slwx", stick)])
    cookies = "; ".join(f"{name}={value}" for name, value in officer.cookies.items())
    _, writer = await asyncio.open_connection("127.0.0.1", officer.port)
    writer.write(
        f"POST /carry/file HTTP/1.1\r\nHost: localhost:{officer.port}\r\nOrigin: {officer.origin}\r\n"
        f"Cookie: {cookies}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body[:200_000]
    )
    await writer.drain()
    writer.close()
    async with asyncio.timeout(5):
        while not desk.sticks.taken:
            await asyncio.sleep(0.01)
    ((data, via),) = desk.sticks.taken
    assert (stick.startswith(data), via) == (True, "usb")
    assert 100_000 < len(data) < len(stick)
    assert desk.sticks.was_broken_off


async def test_no_file_chosen_is_said(officer: Client, desk: FakeDesk) -> None:
    """A field left alone comes empty and without a name."""
    await officer.get("/carry")
    answer = await give(officer, ("", b""))
    assert answer.status == 422
    check_page(answer)
    assert "file_not_chosen" in answer.text
    assert (await give(officer, ("empty.slwx", b""))).status == 200
    assert len(desk.sticks.taken) == 1


async def test_nothing_of_a_file_is_read_before_the_token_held(officer: Client, desk: FakeDesk) -> None:
    """A wrong token, none, a file before it, another page's origin, more files than may be, other fields."""
    await officer.get("/carry")
    kept, headers = officer.csrf, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}

    async def post(body: bytes, **more: str) -> int:
        return (await officer.ask("POST", "/carry/file", data=body, headers={**headers, **more})).status

    whole = body_of(kept, [("a.slwx", STICK)])
    token_part = body_of(kept, []).removesuffix(f"--{BOUNDARY}--\r\n".encode())
    assert await post(body_of("0" * 32, [("a.slwx", STICK)])) == 403
    assert await post(whole.removeprefix(token_part)) == 403
    assert await post(body_of("\u00e9", [("a.slwx", STICK)])) == 400
    assert await post(whole, **{"Sec-Fetch-Site": "same-site"}) == 403
    assert await post(body_of(kept, [("a.slwx", STICK)], name="photo")) == 400
    assert (await officer.post("/carry/file", {"file": "no file"})).status == 400
    assert desk.sticks.taken == []
    assert await post(body_of(kept, [("a.slwx", STICK)] * (FILES_MAX + 1))) == 400
    assert len(desk.sticks.taken) == FILES_MAX


async def test_only_this_form_brings_so_many_bytes(officer: Client) -> None:
    """Another address, and a length no file has, are refused before anything is read."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    for path, length, status in (("/carry/read", "100", 415), ("/carry/file", "99000000", 413)):
        answer = await officer.ask(
            "POST", path, data=b"", headers={**headers, "Content-Length": length}, without=()
        )
        assert answer.status == status


# --- pictures -----------------------------------------------------------------------------------------------


async def test_pictures_take_turns_until_the_officer_says_they_were_read(
    officer: Client, desk: FakeDesk
) -> None:
    """One picture that moves; carried only when it was read there; then what is left, then none."""
    desk.sticks.left = 1
    shown = await officer.post(f"{TO}/show", {"pin": PIN})
    assert (shown.status, shown.location) == (303, "/carry/show#film")
    page = await officer.get("/carry/show")
    check_page(page)
    assert "show the next" in page.text
    assert desk.sticks.noted == []
    film = await desk.carrying.film(next(iter(desk.sessions.values())))
    with Image.open(io.BytesIO(film)) as picture:
        data = encode_stick([bytes(8192)])
        assert picture.n_frames == len(encode_frames(data))  # type: ignore[attr-defined]
        assert picture.size == (85, 85)
        assert picture.info["duration"] == FRAME_SHOWN_MS
        assert picture.info["loop"] == 0
    assert (await officer.get("/carry/pictures.png")).headers["Content-Type"] == "image/png"
    digest = closing_hash(data).hex()
    for _ in range(2):  # pressed twice
        answer = await officer.post("/carry/show/next", {"digest": digest})
        assert answer.location == "/carry/show#film"
    assert desk.sticks.noted == [data]
    page = await officer.get("/carry/show")
    assert "show the next" not in page.text
    last = closing_hash(encode_stick([b"\1" * 8192])).hex()
    assert (await officer.post("/carry/show/next", {"digest": last})).location == "/carry"
    assert len(desk.sticks.noted) == 2
    assert (await officer.get("/carry/show")).location == "/carry"
    assert (await officer.get("/carry/pictures.png")).status == 409


async def test_what_is_shown_belongs_to_its_session(officer: Client, client: Client, desk: FakeDesk) -> None:
    """Stopped, it counts as nothing; logged out, it is gone."""
    await officer.post(f"{TO}/show", {"pin": PIN})
    stranger = replace(next(iter(desk.sessions.values())), token="ff" * 32)
    desk.sessions[stranger.token] = stranger
    assert await desk.carrying.look(stranger) is None
    await officer.post("/carry/show/end", {})
    assert (await officer.get("/carry/show")).location == "/carry"
    await officer.post(f"{TO}/show", {"pin": PIN})
    await officer.post("/logout", {})
    await officer.login()
    assert (await officer.get("/carry/show")).location == "/carry"
    assert desk.sticks.noted == []


async def test_what_a_camera_read_is_taken_in_as_a_file_is(officer: Client, desk: FakeDesk) -> None:
    """In any order, twice; said in the same words."""
    frames = encode_frames(encode_stick([bytes(8192)]))
    await officer.get("/carry/read")
    answer = await read(officer, [*reversed(frames)])
    assert answer.status == 200
    check_page(answer)
    assert "1 new message was taken in." in answer.text
    assert desk.sticks.taken == [(encode_stick([bytes(8192)]), "qr")]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([], "frame_foreign"),
        ([b"SLWM not a frame"], "frame_foreign"),
        ([b"SLWF\2" + bytes(40)], "frame_version"),
        (encode_frames(STICK)[1:], "frames_missing"),
        ([*encode_frames(STICK)[:3], *encode_frames(encode_stick([bytes(8192)]))[3:]], "frames_mixed"),
    ],
)
async def test_pictures_that_make_no_file_are_refused_in_words(
    officer: Client, desk: FakeDesk, frames: list[bytes], code: str
) -> None:
    """And the camera is there to read again."""
    await officer.get("/carry/read")
    answer = await read(officer, frames)
    assert answer.status == 400
    check_page(answer)
    assert code in answer.text
    assert "camera=(self)" in answer.headers["Permissions-Policy"]
    assert desk.sticks.taken == []


async def test_only_the_page_that_reads_may_use_the_camera(officer: Client) -> None:
    """Showing needs none."""
    for path, allowed in (("/carry", False), (TO, False), ("/carry/read", True)):
        policy = (await officer.get(path)).headers["Permissions-Policy"]
        assert ("camera=(self)" in policy) is allowed, path


async def test_who_may_not_carry_is_neither_shown_nor_let(client: Client, desk: FakeDesk) -> None:
    """An auditor: no way in the menu, and 403 at every address; nobody at all: to the login."""
    assert (await client.get("/carry")).location == "/login?next=/carry"
    await client.login(3)
    assert 'href="/carry"' not in (await client.get("/inbox")).text
    assert (await client.get("/carry")).status == 403
    assert (await client.get(TO)).status == 403
    assert (await client.get("/carry/show")).status == 403
    assert (await client.post(f"{TO}/file", {"pin": PIN})).status == 403
    assert (await read(client, encode_frames(STICK))).status == 403
    assert (await give(client, ("a.slwx", STICK))).status == 403
    assert desk.sticks.packed == []
    assert desk.sticks.taken == []


async def test_partners_that_nothing_leaves_for_are_no_choice(officer: Client) -> None:
    """They are named with the reason."""
    page = await officer.get("/carry")
    assert page.text.count('href="/carry/to/') == 2
    assert f"/carry/to/{MAE_SAI}" in page.text
    assert "Nothing leaves for it now." in page.text


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (WayView(kind="own", broker="b:1"), "Our own broker, where it fetches its mail too: b:1"),
        (WayView(kind="straight", broker="b:1"), "Straight to its broker: b:1"),
        (
            WayView(kind="forwarded", broker="b:1", through="a:1", name="west"),
            "By our own broker (a:1), which hands it on to the broker it calls west (b:1)",
        ),
        (WayView(kind="none", broker="b:1"), "None: our own broker does not hand on to b:1."),
    ],
)
async def test_the_partners_page_says_which_way_mail_goes(
    officer: Client, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch, way: WayView, words: str
) -> None:
    """In words, with what is carried by hand besides."""
    peers = await desk.peers(next(iter(desk.sessions.values())))

    async def one(session: Session) -> list[PeerView]:
        return [replace(peers[0], way=way, by_hand=2)]

    monkeypatch.setattr(desk, "peers", one)
    page = await officer.get("/partners")
    found = check_page(page)
    assert words in found.words
    assert "2 of our messages are carried by hand as well" in found.words
