"""Photos between two real offices and a real broker in the simulator: they follow, whole or not at all."""

import asyncio
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from keys.errors import PolicyRefused
from protocol import limits
from protocol.requests import (
    Op,
    OpRefused,
    PartGet,
    PartGot,
    PartPut,
    Result,
)
from tests.node.offices import (
    Offices,
    a_victim_alert,
    alter_answers,
    an_alert,
    count,
    entries,
    link_of,
    node_of,
    play,
    read,
    write,
)
from tests.node.pictures import a_jpeg, opened, photos_of, picture, send_with_photos
from tests.simulation.daemons import BrokerHost, OfficeHost
from tests.simulation.env import EPOCH_MS

DAY_MS, HOUR_MS = limits.DAY_MS, limits.HOUR_MS


async def settled(offices: Offices, alert_id: str, *, seconds: float = 600) -> None:
    """Wait until no photo of the alert is under way any more."""
    async with asyncio.timeout(seconds):
        while True:
            views = await photos_of(offices.there, alert_id)
            if views and all(view.state != "coming" for view in views):
                return
            await asyncio.sleep(1)


async def arrived(offices: Offices) -> str:
    """The id of the first alert in the other office's inbox."""
    async with asyncio.timeout(600):
        while not (rows := await offices.there.inbox()):
            await asyncio.sleep(0.5)
    return rows[0].alert_id


def test_photos_follow_their_alert_and_are_the_very_bytes_that_were_signed(tmp_path: Path) -> None:
    """Both offices see the same pictures, without metadata; copies go once they are not needed."""

    async def script(offices: Offices) -> None:
        first, second = a_jpeg(900), a_jpeg(64)
        sent = await send_with_photos(offices.here, an_alert("KA-1"), first, second)
        assert sent.alert_id is not None
        mine = [await picture(offices.here, sent.alert_id, number) for number in range(4)]
        alert_id = await arrived(offices)
        assert alert_id == sent.alert_id
        await settled(offices, alert_id)
        theirs = [await picture(offices.there, alert_id, number) for number in range(4)]
        assert theirs == mine
        assert [kind for kind, _ in theirs] == ["jpeg"] * 4
        assert Image.open(io.BytesIO(theirs[0][1])).size == (900, 900)
        views = (await opened(offices.there, alert_id)).photos
        assert [(view.number, view.state, view.has_thumbnail) for view in views] == [
            (0, "whole", True),
            (2, "whole", True),
        ]
        await asyncio.sleep(60)
        (row,) = await offices.here.outbox()
        (recipient,) = row.recipients
        assert [view.state for view in recipient.photos] == ["fetched", "fetched"]
        # The copies kept for sending are gone, at the broker too; the thumbnails stay until erasure.
        assert [view.state for view in await photos_of(offices.here, alert_id)] == ["gone", "gone"]
        assert await picture(offices.here, alert_id, 1) == theirs[1]
        with pytest.raises(PolicyRefused, match="photo_not_here"):
            await picture(offices.here, alert_id, 0)
        assert offices.broker.broker is not None
        totals = offices.broker.broker.store.totals()
        assert (totals.attachments, totals.attachment_bytes) == (0, 0)
        ends = await entries(offices.there, "att.end")
        assert sorted((e.fields["n"], e.fields["verdict"]) for e in ends) == [(n, "ok") for n in range(4)]
        assert [e.fields["n"] for e in await entries(offices.here, "att.end")] == [0, 2]

    play(tmp_path, script)


def test_an_alert_without_photos_has_the_bytes_it_always_had(tmp_path: Path) -> None:
    """Photos change nothing for those who send none."""

    async def script(offices: Offices) -> None:
        await offices.here.send(an_alert("KA-1"))
        await asyncio.sleep(30)
        (row,) = await offices.there.inbox()
        assert (await opened(offices.there, row.alert_id)).photos == ()
        assert await count(offices.there, "photo") == 0

    play(tmp_path, script)


def slowly(office: OfficeHost, seconds: float, asked: list[list[str]]) -> None:
    """Every exchange with a part in it takes so long; what was asked is written down at its beginning."""
    client = link_of(office).client
    honest = client.exchange

    async def exchange(ops: Sequence[Op]) -> tuple[Result, ...]:
        names = [type(op).__name__ for op in ops]
        asked.append(names)
        try:
            if any(name in ("PartPut", "PartGet") for name in names):
                await asyncio.sleep(seconds)
            results = await honest(ops)
        except asyncio.CancelledError:
            asked.append(["broken", *names])
            raise
        asked.append(["done", *names])
        return results

    client.exchange = exchange  # type: ignore[method-assign]


def test_the_text_of_an_alert_never_waits_for_a_photo(tmp_path: Path) -> None:
    """A part in flight makes way for an alert that becomes due; one part at a time."""

    async def script(offices: Offices) -> None:
        asked: list[list[str]] = []
        slowly(offices.here, 25.0, asked)
        await send_with_photos(offices.here, an_alert("KA-1"), a_jpeg(700))
        first = await arrived(offices)
        async with asyncio.timeout(300):
            while ["PartPut"] not in asked:
                await asyncio.sleep(0.1)
        assert asked.index(["PartPut"]) > asked.index(["done", "Put"])
        # A part is in flight now and would take 25 s: the next alert does not wait for it.
        asked.clear()
        await asyncio.sleep(5)
        begun = asyncio.get_running_loop().time()
        await offices.here.send(an_alert("KA-2"))
        async with asyncio.timeout(60):
            while len(await offices.there.inbox()) < 2:
                await asyncio.sleep(0.1)
        assert asyncio.get_running_loop().time() - begun < 5
        # The part made way: it was broken off before the alert was sent, and none was begun until it was.
        put = next(place for place, names in enumerate(asked) if "Put" in names)
        assert ["broken", "PartPut"] in asked[: put + 2]
        taken = next(place for place, names in enumerate(asked) if names[0] == "done" and "Put" in names)
        assert ["PartPut"] not in asked[put:taken]
        assert ["done", "PartPut"] not in asked[:taken]
        await settled(offices, first, seconds=6000)
        assert [view.state for view in await photos_of(offices.there, first)] == ["whole"]

    play(tmp_path, script)


def test_uploads_and_downloads_go_on_over_restarts_of_all_three(tmp_path: Path) -> None:
    """F1, F11: each machine loses power again and again; no part is lost, none is sent from the beginning."""

    async def script(offices: Offices) -> None:
        world, broker = offices.world, offices.broker
        sent: list[int] = []

        def watch() -> None:
            client = link_of(offices.here).client
            honest = client.exchange

            async def exchange(ops: Sequence[Op]) -> tuple[Result, ...]:
                sent.extend(len(op.data) for op in ops if isinstance(op, PartPut))
                return await honest(ops)

            client.exchange = exchange  # type: ignore[method-assign]

        watch()
        await send_with_photos(offices.here, an_alert("KA-1"), a_jpeg(1500))
        alert_id = await arrived(offices)
        machines: list[OfficeHost | BrokerHost] = [offices.here, broker, offices.there]
        for turn in range(9):
            await asyncio.sleep(0.4)
            machine = machines[turn % 3]
            machine.host.kill(power_loss=turn % 2 == 0)
            await asyncio.sleep(1)
            await machine.restart()
            if machine is offices.here:
                watch()
        assert world
        await settled(offices, alert_id, seconds=4000)
        assert [view.state for view in await photos_of(offices.there, alert_id)] == ["whole"]
        (view,) = await photos_of(offices.there, alert_id)
        thumbnail = limits.ATTACHMENT_BYTES_MIN
        # Each crash costs at most what was in flight then, and one part is at most a quarter megabyte.
        assert sum(sent) <= view.size_bytes + thumbnail + 9 * limits.ATTACHMENT_PART_BYTES

    play(tmp_path, script)


# --- a broker that lies, a peer that lies ---


def _is_photo(op: Op) -> bool:
    return isinstance(op, PartGet)


@pytest.mark.parametrize(
    ("about", "change", "states"),
    [
        ("bytes altered", lambda r: replace(r, data=bytes(len(r.data))), {"refused"}),
        ("a part swapped for another", lambda r: replace(r, data=r.data[::-1]), {"refused"}),
        ("another size", lambda r: replace(r, size_bytes=r.size_bytes + 1), {"coming"}),
        ("nothing, for ever", lambda r: OpRefused(code="not_found"), {"coming"}),
        ("a size and no bytes", lambda r: replace(r, data=b""), {"coming"}),
    ],
)
def test_a_photo_that_is_not_the_one_of_the_alert_is_refused_and_the_text_stands(
    tmp_path: Path, about: str, change: Callable[[PartGot], Result], states: set[str]
) -> None:
    """B56, F41, F44, F45: nothing of it is ever shown; the sender is told; the alert is there."""

    async def script(offices: Offices) -> None:
        def lie(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            return [
                change(result) if _is_photo(op) and isinstance(result, PartGot) else result
                for op, result in zip(ops, results, strict=True)
            ]

        alter_answers(offices.there, lie)
        await send_with_photos(offices.here, an_alert("KA-1"), a_jpeg(300))
        alert_id = await arrived(offices)
        await asyncio.sleep(300)
        view = await opened(offices.there, alert_id)
        assert view.fields["entities"]
        assert {photo.state for photo in view.photos} == states, about
        for number in (0, 1):
            with pytest.raises(PolicyRefused, match="photo_not_here"):
                await picture(offices.there, alert_id, number)
        (row,) = await offices.here.outbox()
        (recipient,) = row.recipients
        if states == {"refused"}:
            assert [(p.state, p.code) for p in recipient.photos] == [("refused", "attachment_hash")]
            assert await count(offices.there, "photo_part") == 0
        else:
            assert [p.state for p in recipient.photos] == ["at_broker"]
        assert await count(offices.there, "quarantine") == 0

    play(tmp_path, script)


def test_a_peer_that_sends_what_no_worker_would_make_is_refused_with_its_reason(tmp_path: Path) -> None:
    """F57, B46 and B54 from a partner: a bomb and a picture with a position; the text stands."""

    async def script(offices: Offices) -> None:
        node = node_of(offices.here)
        bombs = [b"not a picture" * 100, a_jpeg(64) + b"<html>", _with_position()]
        made = iter(bombs)

        async def sloppy(order: str, picture: bytes) -> bytes:
            photo, thumbnail = next(made), a_jpeg(32)
            del order, picture
            return f"ok jpeg {len(photo)} {len(thumbnail)}\n".encode() + photo + thumbnail

        node._photos._ask_worker = sloppy  # type: ignore[method-assign]
        await send_with_photos(offices.here, an_alert("KA-1"), b"", b"", b"")
        alert_id = await arrived(offices)
        await settled(offices, alert_id)
        views = await photos_of(offices.there, alert_id)
        assert [view.code for view in views] == ["photo_kind", "photo_extra", "photo_extra"]
        assert await count(offices.there, "photo_part", "length(blob) = 17 AND substr(blob, 17) = x'00'") == 0
        await asyncio.sleep(60)
        (row,) = await offices.here.outbox()
        assert [p.state for p in row.recipients[0].photos] == ["refused"] * 3
        assert (await opened(offices.there, alert_id)).fields["entities"]

    play(tmp_path, script)


def _with_position() -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8825)[2] = (21.0, 2.0, 3.0)
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def refuse(office: OfficeHost, kind: type[Op], code: str, on: Callable[[], bool]) -> None:
    """Ops of this kind never reach the broker while ``on``: they are refused."""
    client = link_of(office).client
    honest = client.exchange

    async def exchange(ops: Sequence[Op]) -> tuple[Result, ...]:
        if on() and any(isinstance(op, kind) for op in ops):
            return tuple(OpRefused(code=code) for _ in ops)
        return await honest(ops)

    client.exchange = exchange  # type: ignore[method-assign]


def test_a_lost_disk_of_the_broker_costs_one_more_upload(tmp_path: Path) -> None:
    """I17, F47: its sender notices and sends it again; a broker without room is waited for."""

    async def script(offices: Offices) -> None:
        stage = ["no room"]
        refuse(offices.here, PartPut, "quota", lambda: stage == ["no room"])
        refuse(offices.there, PartGet, "not_found", lambda: stage != ["open"])
        await send_with_photos(offices.here, an_alert("KA-1"), a_jpeg(200))
        alert_id = await arrived(offices)
        await asyncio.sleep(30)
        (row,) = await offices.here.outbox()
        assert row.recipients[0].photos[0].code == "broker_quota"
        stage[0] = "room"
        await asyncio.sleep(120)
        (row,) = await offices.here.outbox()
        assert row.recipients[0].photos[0].state == "at_broker"
        broker = offices.broker.broker
        assert broker is not None
        database = broker._db
        assert database is not None
        await offices.broker.host.run(
            lambda env: database.transact(lambda tx: tx.execute("DELETE FROM attachments"))
        )
        stage[0] = "open"
        await settled(offices, alert_id, seconds=8000)
        assert [view.state for view in await photos_of(offices.there, alert_id)] == ["whole"]

    play(tmp_path, script)


# --- release, reasons, erasure ---


def test_photos_of_a_draft_wait_for_its_second_officer_and_for_the_reason_to_open(tmp_path: Path) -> None:
    """Four eyes hold for pictures too: nothing of them leaves before, nobody sees them without a reason."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        node, peer_node = node_of(here), node_of(there)
        author = await offices.second_officer()
        supervisor = here.session
        assert supervisor is not None
        (office,) = await here.peers()
        alert = a_victim_alert("Ma Example")
        jpeg = a_jpeg(128)

        async def put() -> str:
            name = await here.host.run(lambda env: node.desk.stage_photo(author, jpeg))
            with pytest.raises(PolicyRefused, match="photo_gone"):
                await here.host.run(
                    lambda env: node.desk.submit(supervisor, alert, [office.office_id], [name])
                )
            done = await here.host.run(
                lambda env: node.desk.submit(author, alert, [office.office_id], [name])
            )
            assert done.draft_id is not None
            with pytest.raises(PolicyRefused, match="photo_gone"):
                await here.host.run(lambda env: node.desk.submit(author, alert, [office.office_id], [name]))
            return done.draft_id

        dropped, draft = await put(), await put()
        assert await count(here, "photo_staged") == 2
        await here.host.run(lambda env: node.desk.discard(author, dropped))
        assert await count(here, "photo_staged") == 1
        assert await count(here, "photo_upload") == 0
        released = await here.host.run(lambda env: node.desk.release(supervisor, draft))
        assert await count(here, "photo_staged") == 0
        alert_id = released.alert_id
        assert alert_id is not None
        await arrived(offices)
        await settled(offices, alert_id)
        session = there.session
        assert session is not None
        with pytest.raises(PolicyRefused, match="photo_alert_first"):
            await there.host.run(lambda env: peer_node.desk.photo(session, alert_id, 0))
        await there.host.run(lambda env: peer_node.desk.open_alert(session, alert_id, purpose="case"))
        kind, _ = await there.host.run(lambda env: peer_node.desk.photo(session, alert_id, 0))
        assert kind == "jpeg"
        for number in (2, 7, -1):
            with pytest.raises(PolicyRefused, match="photo_unknown"):
                await there.host.run(lambda env, n=number: peer_node.desk.photo(session, alert_id, n))  # type: ignore[misc]

    play(tmp_path, script)


def test_erasing_an_alert_erases_photo_thumbnail_and_key_at_both_offices_and_the_broker(
    tmp_path: Path,
) -> None:
    """Fetched or not, by the alert's own time; what was never fetched is taken back at the alert's end."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        times = {"expires_ms": EPOCH_MS + HOUR_MS, "erase_at_ms": EPOCH_MS + 3 * HOUR_MS}
        await send_with_photos(here, an_alert("KA-1").model_copy(update=times), a_jpeg(200))
        fetched = await arrived(offices)
        await settled(offices, fetched)

        def withhold(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            return [
                OpRefused(code="not_found") if isinstance(op, PartGet) else result
                for op, result in zip(ops, results, strict=True)
            ]

        alter_answers(there, withhold)
        await send_with_photos(here, an_alert("KA-2").model_copy(update=times), a_jpeg(200))
        await asyncio.sleep(120)
        assert offices.broker.broker is not None
        store = offices.broker.broker.store
        assert store.totals().attachments == 2
        assert await count(here, "photo_part") >= 3
        await asyncio.sleep(HOUR_MS / 1000)  # past the end of both
        await here.log_in()
        (late, _) = await here.outbox()
        assert [p.state for p in late.recipients[0].photos] == ["ended"]
        assert store.totals().attachments == 0
        assert await count(here, "photo_part", "substr(blob, 17) = x'00'") == 0
        await write(there, lambda tx: tx.execute("UPDATE alert SET expires_ms = 0"))  # as a fortnight later
        await asyncio.sleep(120)
        assert await count(there, "photo", "code = 'photo_missing'") == 2
        await asyncio.sleep(3 * HOUR_MS / 1000)
        for office in (here, there):
            for table in ("photo", "photo_part", "photo_upload", "photo_delete", "vault"):
                assert await count(office, table) == 0, table
        for office, parts in ((here, ["content", "outbox", "photos"]), (there, ["content", "photos"])):
            (erased, _) = await entries(office, "content.erased")
            assert erased.fields["parts"] == parts

    play(tmp_path, script)


def test_what_lies_at_rest_is_sealed_and_forms_nobody_sends_are_forgotten(tmp_path: Path) -> None:
    """No row holds a pixel in plain, although the whole database is encrypted; a day ends a form."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await send_with_photos(here, an_alert("KA-1"), a_jpeg(200))
        alert_id = await arrived(offices)
        _, whole = await picture(here, alert_id, 0)
        parts = await read(here, lambda tx: tx.execute("SELECT bytes FROM photo_part"))
        assert not any(whole[100:200] in part for (part,) in parts)
        node, session = node_of(here), here.session
        assert session is not None
        name = await here.host.run(lambda env: node.desk.stage_photo(session, a_jpeg(64)))
        thumbnail = await here.host.run(lambda env: node.desk.staged_thumbnail(session, name))
        assert thumbnail.startswith(b"\xff\xd8")
        gone = await here.host.run(lambda env: node.desk.stage_photo(session, a_jpeg(64)))
        await here.host.run(lambda env: node.desk.unstage_photo(session, gone))
        here.host.step_clock(-DAY_MS // 24)  # while the form is open: nothing of it goes
        await asyncio.sleep(120)
        assert await count(here, "photo_staged") == 1
        await write(here, lambda tx: tx.execute("UPDATE photo_staged SET at_ms = at_ms - ?", (2 * DAY_MS,)))
        await asyncio.sleep(120)
        assert await count(here, "photo_staged") == 0
        await write(here, lambda tx: tx.execute("UPDATE photo SET state = 'gone' WHERE number = 0"))

    play(tmp_path, script)
