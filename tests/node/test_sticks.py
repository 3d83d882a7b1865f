"""Envelopes carried by hand: the same ones, with the same entries and receipts, and no broker."""

import asyncio
import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from keys.errors import MalformedInput, PolicyRefused, SalweenError, Unavailable
from node.sticks import PIECE_BYTES
from node.views import Role, ShownFrames, StickReport
from protocol.alert import Alert, FreeText
from protocol.frames import encode_frames
from protocol.stick import HEAD_BYTES, RECORD_HEAD_BYTES, StickReader, encode_stick
from runtime.env import AnyPath, Env
from runtime.exits import DiskFailed
from tests.node.offices import Offices, an_alert, count, entries, node_of, play, read, settled, shown, write
from tests.simulation.daemons import PIN, OfficeHost


async def send(office: OfficeHost, plate: str, receiver: str = "Tengchong") -> None:
    """An alert with this plate."""
    await office.log_in()
    await office.send(an_alert(plate), receiver)


async def carry(sender: OfficeHost, receiver: OfficeHost) -> dict[str, Any]:
    """Write a stick, walk over, put it in; what the screen said."""
    return await receiver.import_stick(await sender.export_stick(receiver.name))


def found(report: dict[str, Any]) -> dict[str, Any]:
    """What is not nothing in a report."""
    return {name: value for name, value in report.items() if value}


async def ladder(office: OfficeHost) -> list[str]:
    """Rungs of the only alert of an office."""
    await office.log_in()
    (row,) = await office.outbox()
    return [rung.step for rung in row.recipients[0].ladder]


async def run(office: OfficeHost, verb: str, officer: int = 1, **params: Any) -> dict[str, Any]:
    """One verb of an office's node; neither export nor import asks anything back."""
    node = node_of(office)
    asked = {"officer": officer, "pin": PIN, **params}
    return await office.host.run(lambda env: node.run_verb(verb, asked, cast(Any, None)))


def test_an_alert_and_its_receipt_travel_by_hand_alone(tmp_path: Path) -> None:
    """Without any broker an alert crosses, is opened, and its ladder at home says so."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here, there = offices.here, offices.there
        offices.broker.host.kill()
        await send(here, "KA-1")
        assert await ladder(here) == ["kept"]
        stick = await here.export_stick("Tengchong")
        assert await ladder(here) == ["kept", "on_stick"]
        report = await there.import_stick(stick)
        assert report["new"] >= 1
        assert report["is_whole"]
        assert await shown(there) == 1
        await carry(there, here)
        assert await ladder(here) == ["kept", "on_stick", "delivered"]
        await there.log_in()
        (row,) = await there.inbox()
        await there.open_alert(row.alert_id)
        await asyncio.sleep(60)
        await carry(there, here)
        assert await ladder(here) == ["kept", "on_stick", "delivered", "opened"]
        assert await count(here, "delivery", "alert_id IS NOT NULL AND phase <> 'acknowledged'") == 0
        settled_ones = "SELECT hh FROM delivery WHERE phase = 'acknowledged'"
        assert await count(here, "carried", f"hh IN ({settled_ones})") == 0

    play(tmp_path, script)


def test_what_went_by_hand_goes_by_the_broker_too_and_is_shown_once(tmp_path: Path) -> None:
    """B89 of a stick: what is on an old one was sent all the same; whichever comes second changes nothing."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here, there = offices.here, offices.there
        offices.world.network.cut(here.host.name, offices.broker.host.name)
        for number in range(3):
            await send(here, f"KA-{number}")
        stick = await here.export_stick("Tengchong")
        assert (await there.import_stick(stick))["new"] >= 3
        assert await shown(there) == 3
        offices.world.network.heal()
        await asyncio.sleep(1200)
        again = await there.import_stick(stick)
        assert (again["new"], again["seen"], again["is_outdated"]) == (0, again["envelopes"], True)
        assert await shown(there) == 3
        assert await count(there, "quarantine") == 0
        assert await count(here, "delivery", "alert_id IS NOT NULL AND phase <> 'acknowledged'") == 0

    play(tmp_path, script)


def test_what_a_broker_holds_is_carried_as_well_and_its_custody_stands(tmp_path: Path) -> None:
    """The partner's line is down, ours is not: an item at the broker goes on a stick, sealed by itself."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here, there = offices.here, offices.there
        offices.world.network.cut(there.host.name, offices.broker.host.name)
        await send(here, "KA-1")
        await asyncio.sleep(30)
        assert await ladder(here) == ["kept", "on_broker"]
        at_broker = "SELECT envelope_hash FROM delivery WHERE alert_id IS NOT NULL"
        named = await read(here, lambda tx: tx.value(at_broker))
        assert (await carry(here, there))["new"] >= 1
        assert await ladder(here) == ["kept", "on_broker", "on_stick"]
        # The broker is asked after what it holds, not after what is on a stick: nothing is sealed once more.
        await asyncio.sleep(600)
        assert await read(here, lambda tx: tx.value(at_broker)) == named
        msg_id = await read(
            here, lambda tx: tx.value("SELECT msg_id FROM delivery WHERE alert_id IS NOT NULL")
        )
        seals = [e.fields["via"] for e in await entries(here, "msg.seal") if e.fields["msg"] == msg_id.hex()]
        assert seals == ["broker", "usb"]
        offices.world.network.heal()
        await asyncio.sleep(600)
        assert await shown(there) == 1
        assert "delivered" in await ladder(here)

    play(tmp_path, script)


def test_a_second_file_holds_the_same_envelopes_until_the_partner_shows_another_key(tmp_path: Path) -> None:
    """Files nobody reads use up no one-time keys, and each seal has its entry."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here, there = offices.here, offices.there
        offices.broker.host.kill()
        await send(here, "KA-1")
        first = await here.export_stick("Tengchong")
        sealed = len(await entries(here, "msg.seal"))
        assert await here.export_stick("Tengchong") == first
        assert len(await entries(here, "msg.seal")) == sealed
        assert len(await entries(here, "stick.out")) == 2
        await send(there, "KA-2", "Myitkyina")
        await carry(there, here)  # brings another key of theirs
        again = await here.export_stick("Tengchong")
        assert again[HEAD_BYTES + RECORD_HEAD_BYTES :][:2000] not in first
        assert (await there.import_stick(again))["new"] >= 1
        assert (await there.import_stick(first))["new"] == 0
        assert await shown(there) == 1

    play(tmp_path, script)


def test_both_logs_hold_counts_the_same_hash_and_who_did_it_and_no_name(tmp_path: Path) -> None:
    """``stick.out`` before the file is written, ``stick.in`` after it was read; the hash joins the two."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here, there = offices.here, offices.there
        offices.broker.host.kill()
        await send(here, "KA-1")
        report = await carry(here, there)
        (out,) = await entries(here, "stick.out")
        (taken,) = await entries(there, "stick.in")
        assert out.fields["digest"] == taken.fields["digest"]
        assert out.fields["n"] == taken.fields["n"] == report["envelopes"]
        assert (taken.fields["fresh"], taken.fields["known"]) == (report["new"], report["seen"])
        assert len(str(taken.fields["actor"])) == len(str(out.fields["actor"])) == 64
        assert {*taken.fields} == {"n", "fresh", "known", "via", "actor", "digest"}
        came = [entry.fields.get("via") for entry in await entries(there, "msg.recv")]
        assert came[-1] == "usb"

    play(tmp_path, script)


def test_what_comes_by_hand_proves_no_mailbox(tmp_path: Path) -> None:
    """A partner that reaches us by stick has not shown that it writes to our newest mailbox."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here, there = offices.here, offices.there
        offices.broker.host.kill()
        await send(here, "KA-1")
        look = "SELECT name, has_arrival, stage FROM mailbox"
        before = await read(there, lambda tx: tx.execute(look))
        await write(there, lambda tx: tx.execute("UPDATE mailbox SET has_arrival = 0"))
        assert (await carry(here, there))["new"] >= 1
        after = await read(there, lambda tx: tx.execute(look))
        assert after == [(name, 0, stage) for name, _, stage in before]
        assert await count(there, "broker_delete", "broker_address = ''") == 0

    play(tmp_path, script)


# --- pictures -----------------------------------------------------------------------------------------------


def a_long_alert() -> Alert:
    """Too long for the pictures' room."""
    text = "လမ်း" * 2000
    return an_alert("KA-LONG").model_copy(update={"text": FreeText(language="my", text=text)})


async def film_of(office: OfficeHost, receiver: str) -> tuple[list[bytes], ShownFrames]:
    """Press the button that shows pictures: their frames, and what the page says of them."""
    node = node_of(office)
    await office.log_in()
    session = office.session
    assert session is not None
    peer = await node.desk.find_peer(f"{receiver} BLO")

    async def show(env: Env) -> tuple[list[bytes], ShownFrames]:
        carrying = node.desk.carrying
        await carrying.show(session, PIN, peer)
        view = await carrying.look(session)
        assert view is not None
        assert (await carrying.film(session)).startswith(b"\x89PNG")
        shown = carrying._shown
        assert shown is not None
        return encode_frames(shown.packed.data), view

    return await office.host.run(show)


async def was_read(office: OfficeHost, digest: str) -> ShownFrames | None:
    """Press the button that says so, in the session that shows it."""
    node = node_of(office)
    shown = node.desk.carrying._shown
    assert shown is not None
    session = await office.host.run(lambda env: node.desk.session(shown.token))
    return await office.host.run(lambda env: node.desk.carrying.was_read(session, digest))


async def hold_camera(office: OfficeHost, frames: list[bytes]) -> StickReport:
    """What the other office's page does with what its camera read."""
    node = node_of(office)
    await office.log_in()
    session = office.session
    assert session is not None
    return await office.host.run(lambda env: node.desk.carrying.take_frames(session, frames))


def test_an_alert_and_its_receipt_cross_from_screen_to_screen(tmp_path: Path) -> None:
    """No broker, no stick: the same receipts and entries, ``via`` qr; carried only when it was read there."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here, there = offices.here, offices.there
        offices.broker.host.kill()
        await send(here, "KA-1")
        frames, view = await film_of(here, "Tengchong")
        assert await count(here, "ladder", "step = 'on_stick'") == 0
        (out,) = await entries(here, "stick.out")
        assert (out.fields["via"], out.fields["n"]) == ("qr", view.out.envelopes)
        with pytest.raises(MalformedInput, match="frames_missing"):
            await hold_camera(there, frames[1:])
        assert await shown(there) == 0
        report = await hold_camera(there, frames[::-1])
        assert (report.new >= 1, report.new + report.seen, report.is_whole) == (
            True,
            view.out.envelopes,
            True,
        )
        assert await shown(there) == 1
        (taken,) = await entries(there, "stick.in")
        assert (taken.fields["via"], taken.fields["digest"]) == ("qr", out.fields["digest"])
        assert [e.fields["via"] for e in await entries(there, "msg.recv")][-1] == "qr"
        assert "qr" in [e.fields["via"] for e in await entries(here, "msg.seal")]
        await was_read(here, view.out.digest)
        assert await ladder(here) == ["kept", "on_stick"]
        (peer,) = await here.peers()
        assert peer.by_hand >= 1
        back, _ = await film_of(there, "Myitkyina")
        assert (await hold_camera(here, back)).new >= 1
        assert await ladder(here) == ["kept", "on_stick", "delivered"]
        assert (await hold_camera(there, frames)).is_outdated

    play(tmp_path, script)


def test_what_does_not_fit_is_shown_next_and_what_never_fits_is_told(tmp_path: Path) -> None:
    """A few at a time, each once; a long alert is named as too large and goes by stick; none is lost."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here, there = offices.here, offices.there
        offices.broker.host.kill()
        for number in range(3):
            await send(here, f"KA-{number}")
        await here.send(a_long_alert(), "Tengchong")
        _, view = await film_of(here, "Tengchong")
        assert (view.out.too_large, view.out.left > 0) == (1, True)
        digests, came = set(), 0
        more: ShownFrames | None = view
        while more is not None:
            digests.add(more.out.digest)
            carrying = node_of(here).desk.carrying
            assert carrying._shown is not None
            came += (await hold_camera(there, encode_frames(carrying._shown.packed.data))).new
            assert more.out.too_large == 1
            left, more = more.out.left, await was_read(here, more.out.digest)
            assert (more is None) == (left == 0)
        assert (len(digests) >= 2, came >= 3) == (True, True)
        assert await shown(there) == 3
        assert (await carry(here, there))["new"] >= 1
        assert await shown(there) == 4

    play(tmp_path, script)


def test_what_is_only_too_large_for_pictures_says_so(tmp_path: Path) -> None:
    """Nothing is sealed for them and nothing is logged: no file was made. A stick takes it."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here = offices.here
        offices.broker.host.kill()
        await here.send(a_long_alert(), "Tengchong")
        # What is owed besides would go first.
        await write(
            here, lambda tx: tx.execute("UPDATE delivery SET phase = 'acknowledged' WHERE service = 1")
        )
        sealed = await count(here, "carried")
        with pytest.raises(PolicyRefused, match="frames_too_large"):
            await film_of(here, "Tengchong")
        assert await count(here, "carried") == sealed == 0
        assert await entries(here, "stick.out") == []
        assert await here.export_stick("Tengchong")

    play(tmp_path, script)


# --- who may, and to whom -----------------------------------------------------------------------------------


def test_officers_and_supervisors_carry_and_nobody_else(tmp_path: Path) -> None:
    """An auditor and an operator neither write nor read a stick."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here = offices.here
        node = node_of(here)
        roles: tuple[Role, ...] = ("officer", "auditor", "operator")

        async def add(role: Role) -> int:
            return await here.host.run(lambda env: node.add_officer(alias=role, role=role, pin=PIN))

        for role in roles:
            officer = await add(role)
            for verb in ("export", "import"):
                work = run(here, verb, officer, to="Tengchong BLO", file="/stick")
                if role == "officer":
                    await work
                    continue
                with pytest.raises(PolicyRefused, match="role_may_not"):
                    await work

    play(tmp_path, script)


def test_a_suspended_partner_gets_no_stick_and_its_own_is_kept_for_later(tmp_path: Path) -> None:
    """What a suspended partner wrote is not taken in, is said so, and comes in when it is resumed."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here, there = offices.here, offices.there
        offices.broker.host.kill()
        await send(there, "KA-1", "Myitkyina")
        stick = await there.export_stick("Myitkyina")
        node = node_of(here)
        await here.log_in()
        session = here.session
        assert session is not None
        await here.host.run(lambda env: node.desk.suspend(session, "Tengchong BLO"))
        report = await here.import_stick(stick)
        assert (report["new"], report["held"], report["is_whole"]) == (0, report["envelopes"], True)
        with pytest.raises(PolicyRefused, match="pair_held"):
            await here.export_stick("Tengchong")
        await here.host.run(lambda env: node.desk.resume(session, "Tengchong BLO"))
        assert (await here.import_stick(stick))["new"] >= 1
        assert await shown(here) == 1

    play(tmp_path, script)


# --- bad input ----------------------------------------------------------------------------------------------


async def _a_stick(offices: Offices) -> bytes:
    """Three alerts and what is owed besides, for the other office."""
    await settled(offices)
    offices.broker.host.kill()
    for number in range(3):
        await send(offices.here, f"KA-{number}")
    return await offices.here.export_stick("Tengchong")


def test_a_stick_of_somebody_else_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """B91 of a stick: the wrong office, here its own, opens nothing, keeps nothing and answers nothing."""

    async def script(offices: Offices) -> None:
        stick = await _a_stick(offices)
        here = offices.here
        tables = ("quarantine", "received", "delivery", "nack_due")
        before = {table: await count(here, table) for table in tables}
        report = await here.import_stick(stick)
        assert found(report) == {
            "envelopes": report["envelopes"],
            "unknown": report["envelopes"],
            "is_whole": True,
            "is_outdated": True,
        }
        assert {table: await count(here, table) for table in tables} == before

    play(tmp_path, script)


def test_a_file_cut_anywhere_gives_every_whole_envelope_and_tells_what_is_missing(tmp_path: Path) -> None:
    """B86 of a stick: cut at lengths all over it, each time one more alert at the most is shown."""

    async def script(offices: Offices) -> None:
        stick = await _a_stick(offices)
        there = offices.there
        ends = list(itertools.accumulate(RECORD_HEAD_BYTES + len(one) for one in StickReader().feed(stick)))
        for size in sorted({0, 1, 4, HEAD_BYTES - 1, *range(HEAD_BYTES, len(stick), 2741), len(stick) - 1}):
            if size < HEAD_BYTES:
                with pytest.raises(MalformedInput, match="stick_foreign"):
                    await there.import_stick(stick[:size])
                continue
            report = await there.import_stick(stick[:size])
            whole = sum(end <= size - HEAD_BYTES for end in ends)
            assert report["missing"] == report["envelopes"] - whole
            assert report["new"] + report["seen"] == whole
            assert not report["is_whole"]
        assert (await there.import_stick(stick))["seen"] == report["envelopes"]
        assert await shown(there) == 3

    play(tmp_path, script)


def test_a_flipped_byte_costs_the_envelope_it_is_in(tmp_path: Path) -> None:
    """B87 of a stick: in an envelope or its hash that one is damaged; in a length the rest is missing."""

    async def script(offices: Offices) -> None:
        stick = await _a_stick(offices)
        there = offices.there
        at_length, at_hash, at_bytes = HEAD_BYTES, HEAD_BYTES + 4, HEAD_BYTES + RECORD_HEAD_BYTES + 100
        for at, damaged, missing in ((at_hash, 1, 0), (at_bytes, 1, 0), (at_length, 0, None), (-1, 0, 0)):
            bad = bytearray(stick)
            bad[at] ^= 0x10
            report = await there.import_stick(bytes(bad))
            assert report["damaged"] == damaged
            assert report["missing"] == (report["envelopes"] if missing is None else missing)
            assert not report["is_whole"]
        assert (await there.import_stick(stick + b"more"))["is_whole"] is False

    play(tmp_path, script)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (b"", "stick_foreign"),
        (b"%PDF-1.7", "stick_foreign"),
        (b"SLWX", "stick_foreign"),
        (b"SLWX\x02" + bytes(4), "stick_version"),
        (b"SLWX\x01" + bytes(4), "stick_count"),
        (b"SLWX\x01\x00\x0f\x42\x40" + b"\xff" * 64, "stick_count"),  # a million
        (b"SLWX\x01\xff\xff\xff\xff", "stick_count"),
    ],
)
def test_a_foreign_or_hostile_file_is_refused_by_its_first_bytes(
    tmp_path: Path, file: bytes, code: str
) -> None:
    """B92 of a stick: another format, another version, counts of a million and of 2^32 - 1."""

    async def script(offices: Offices) -> None:
        with pytest.raises(MalformedInput, match=code):
            await offices.here.import_stick(file)

    play(tmp_path, script)


def test_hostile_lengths_cost_no_memory(tmp_path: Path) -> None:
    """A length of 2^32 - 1, and one of none of the four sizes: the rest is missing, nothing is allocated."""

    async def script(offices: Offices) -> None:
        for length in (b"\xff\xff\xff\xff", b"\x00\x00\x20\x01", bytes(4)):
            file = b"SLWX\x01\x00\x00\x02\x00" + length + bytes(3 * PIECE_BYTES)
            report = await offices.here.import_stick(file)
            assert (report["missing"], report["envelopes"], report["is_whole"]) == (512, 512, False)

    play(tmp_path, script)


def test_an_envelope_many_times_in_one_file_is_taken_in_once(tmp_path: Path) -> None:
    """B88 of a stick: 512 copies under a right end: one is new, the others were seen."""

    async def script(offices: Offices) -> None:
        envelopes = StickReader().feed(await _a_stick(offices))
        report = await offices.there.import_stick(encode_stick(envelopes[-1:] * 512))
        assert (report["new"], report["seen"], report["is_whole"]) == (1, 511, True)
        assert await shown(offices.there) == 1

    play(tmp_path, script)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("fifo", "not_a_file"),
        ("folder", "not_a_file"),
        ("link", "not_a_file"),
        ("device", "not_a_file"),
        ("nothing", "file_missing"),
    ],
)
def test_what_is_no_file_is_refused(tmp_path: Path, name: str, code: str) -> None:
    """B80 of a stick: a FIFO, a folder, a link, a link to a device, and nothing at all."""

    async def script(offices: Offices) -> None:
        root = Path(offices.here.host.disk)
        os.mkfifo(root / "fifo")
        (root / "folder").mkdir()
        (root / "link").symlink_to(root / "sheet")
        (root / "device").symlink_to("/dev/zero")
        with pytest.raises(SalweenError, match=code):
            await run(offices.here, "import", file=f"/{name}")

    play(tmp_path, script)


# --- a stick that fails -------------------------------------------------------------------------------------


class _FaultyFiles:
    """The files of a host, with a fault in what is asked of the stick."""

    def __init__(self, files: Any, fault: Callable[[str, int], None]) -> None:
        self._files = files
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def read_range(self, path: AnyPath, offset_bytes: int, length_bytes: int) -> bytes:
        self._fault("read", offset_bytes)
        data: bytes = self._files.read_range(path, offset_bytes, min(length_bytes, 20_000))
        return data

    def write_atomic(self, path: AnyPath, data: bytes, mode: int = 0o600) -> None:
        self._fault("write", 0)
        self._files.write_atomic(path, data, mode)


def put_in_a_bad_stick(office: OfficeHost, fault: Callable[[str, int], None]) -> None:
    """From now on the office's sticks fail."""
    sticks = node_of(office).sticks
    sticks._env = replace(sticks._env, files=cast(Any, _FaultyFiles(sticks._env.files, fault)))


@pytest.mark.parametrize("pulled", [OSError(19, "no such device"), DiskFailed("disk_error", "gone")])
def test_a_stick_pulled_out_midway_keeps_what_was_read_and_says_so(tmp_path: Path, pulled: Exception) -> None:
    """F13 of a stick: the read fails half-way; the alerts before it are shown, the rest comes later."""

    async def script(offices: Offices) -> None:
        stick = await _a_stick(offices)
        there = offices.there

        def fault(what: str, offset: int) -> None:
            if what == "read" and offset > len(stick) // 2:
                raise pulled

        sticks = node_of(there).sticks
        whole = sticks._env
        put_in_a_bad_stick(there, fault)
        report = await there.import_stick(stick)
        assert report["broken_off"]
        assert not report["is_whole"]
        assert 0 < report["missing"] < report["envelopes"]
        assert report["new"] + report["seen"] + report["missing"] == report["envelopes"]
        assert not node_of(there).failed.done()
        sticks._env = whole
        assert (await there.import_stick(stick))["new"] == report["missing"]

        def late(what: str, offset: int) -> None:
            if what == "read" and offset == len(stick):
                raise pulled

        # Behind the last byte nothing was lost any more.
        put_in_a_bad_stick(there, late)
        report = await there.import_stick(stick)
        assert (report["is_whole"], report["broken_off"]) == (True, False)
        assert await shown(there) == 3

    play(tmp_path, script)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (DiskFailed("disk_full", "no space"), "stick_full"),
        (DiskFailed("disk_error", "read-only"), "stick_unwritable"),
        (PermissionError(13, "denied"), "stick_unwritable"),
    ],
)
def test_a_stick_that_takes_nothing_is_said_so_and_nothing_is_marked(
    tmp_path: Path, fault: Exception, code: str
) -> None:
    """F14 and F15 of a stick: full, read-only, not ours; the node goes on and the next stick holds all."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here = offices.here
        offices.broker.host.kill()
        await send(here, "KA-1")
        sticks = node_of(here).sticks
        whole = sticks._env

        def refuse(what: str, offset: int) -> None:
            raise fault

        put_in_a_bad_stick(here, refuse)
        with pytest.raises((Unavailable, PolicyRefused), match=code):
            await here.export_stick("Tengchong")
        assert await ladder(here) == ["kept"]
        assert await count(here, "carried", "out_ms IS NOT NULL") == 0
        assert not node_of(here).failed.done()
        sticks._env = whole
        await here.export_stick("Tengchong")
        assert await ladder(here) == ["kept", "on_stick"]

    play(tmp_path, script)


def test_a_file_that_is_there_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    """Also with --force nothing but an ordinary file is written over."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here = offices.here
        await send(here, "KA-1")
        root = Path(here.host.disk)
        (root / "there").write_bytes(b"letters of a grandmother")
        (root / "folder").mkdir()
        os.mkfifo(root / "fifo")
        for name, force in (("there", False), ("folder", True), ("fifo", True)):
            with pytest.raises(PolicyRefused, match="stick_exists"):
                await run(here, "export", to="Tengchong BLO", file=f"/{name}", force=force)
        assert (root / "there").read_bytes() == b"letters of a grandmother"
        await run(here, "export", to="Tengchong BLO", file="/there", force=True)
        assert (root / "there").read_bytes().startswith(b"SLWX")
        with pytest.raises(PolicyRefused, match="stick_unwritable"):
            await run(here, "export", to="Tengchong BLO", file="/no/such/folder")

    play(tmp_path, script)


def test_no_stick_is_written_over_the_files_of_the_node(tmp_path: Path) -> None:
    """With --force neither the database nor a new file beside it, and not by way of a link."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        here = offices.here
        await send(here, "KA-1")
        root = Path(here.host.disk)
        sticks = node_of(here).sticks
        home = str(sticks._directory)
        inside = Path(sticks._env.files.native_path(home))
        (root / "way").symlink_to(inside)
        before = {path.name: path.stat().st_ino for path in inside.iterdir()}
        for place in (
            *(f"{home}/{name}" for name in before),
            f"{home}/new",
            f"{home}/../{home}/new",
            "/way/new",
        ):
            with pytest.raises(PolicyRefused, match="stick_in_node"):
                await run(here, "export", to="Tengchong BLO", file=place, force=True)
        assert {path.name: path.stat().st_ino for path in inside.iterdir()} == before
        assert await entries(here, "stick.out") == []

    play(tmp_path, script)


def test_a_failing_disk_of_the_node_is_not_taken_for_a_bad_stick(tmp_path: Path) -> None:
    """What the inbox cannot keep is an end of the node, not a file to put in again."""

    async def script(offices: Offices) -> None:
        stick = await _a_stick(offices)
        sticks = node_of(offices.there).sticks
        tries = 0

        async def fail(*_: Any) -> Any:
            nonlocal tries
            tries += 1
            raise DiskFailed("disk_full", "no space left to write node.db")

        cast(Any, sticks)._take_in = fail
        copies = encode_stick(StickReader().feed(stick)[-1:] * 40)
        with pytest.raises(DiskFailed):
            await offices.there.import_stick(copies)
        assert tries == 1

    play(tmp_path, script)
