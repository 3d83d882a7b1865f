"""Attachments beside a mailbox: by their secrets alone, appended, never changed, counted apart."""

import asyncio
from dataclasses import replace

from protocol import limits
from protocol.custody import Custody
from protocol.parts import SIZES, read_capability_hash
from protocol.requests import (
    AttachmentDelete,
    AttachmentDeleted,
    OpRefused,
    PartGet,
    PartGot,
    PartHeld,
    PartPut,
    Stats,
    StatsAnswer,
)
from tests.broker.ends import Client, House, Mailbox, an_envelope

SIZE = SIZES[3]  # 112 KiB
CONTENT = bytes(i * 37 % 251 for i in range(SIZE))
WRITE, READ = b"w" * 32, b"r" * 32


def a_put(mailbox: Mailbox, offset: int, end: int, **changed: object) -> PartPut:
    """Bytes ``offset`` to ``end`` of one attachment."""
    op = PartPut(
        put_secret=mailbox.put_secret,
        write_secret=WRITE,
        read_hash=read_capability_hash(READ),
        size_bytes=SIZE,
        offset=offset,
        data=CONTENT[offset:end],
    )
    return replace(op, **changed)  # type: ignore[arg-type]


def a_get(mailbox: Mailbox, offset: int, most: int = limits.ATTACHMENT_PART_BYTES) -> PartGet:
    """A range of it, as its recipient asks."""
    return PartGet(get_secret=mailbox.get_secret, read_secret=READ, offset=offset, bytes_max=most)


def deletion(mailbox: Mailbox, *, by_sender: bool) -> AttachmentDelete:
    """By either of the two who may."""
    if by_sender:
        return AttachmentDelete(mailbox_secret=mailbox.put_secret, attachment_secret=WRITE, by_sender=True)
    return AttachmentDelete(mailbox_secret=mailbox.get_secret, attachment_secret=READ, by_sender=False)


async def test_parts_go_in_and_any_range_comes_out_over_restarts(house: House, office: Client) -> None:
    """Of any length, from any byte on; what was answered is there after a restart."""
    mailbox = await office.make_mailbox(await house.token())
    at = 0
    for length in (1024, 5000, 1, 40_000, SIZE):
        end = min(at + length, SIZE)
        async with house.client() as client:
            held = await client.ask_one(a_put(mailbox, at, end))
        # A single byte is no part, unless it is the last.
        assert held == PartHeld(held_bytes=end if length > 1 else at)
        at = end if length > 1 else at
        await house.restart()
        async with house.client() as client:
            assert await client.ask_one(a_put(mailbox, at, at)) == PartHeld(held_bytes=at)
            for offset, most in ((0, 7), (1020, 5000), (at - 3, 3), (0, limits.ATTACHMENT_PART_BYTES)):
                got = await client.ask_one(a_get(mailbox, offset, most))
                assert got == PartGot(size_bytes=SIZE, data=CONTENT[offset : min(offset + most, at)])
    assert at == SIZE


async def test_beyond_overlapping_and_with_a_wrong_secret(house: House, office: Client) -> None:
    """B56: no gap, no byte written twice, no size but its own, nothing without both secrets."""
    mailbox = await office.make_mailbox(await house.token())
    other = await office.make_mailbox(await house.token())
    assert await office.ask_one(a_put(mailbox, 0, 10_000)) == PartHeld(held_bytes=10_000)
    lie = bytes(20_000)
    assert await office.ask_one(a_put(mailbox, 0, 0, data=lie)) == PartHeld(held_bytes=20_000)
    got = await office.ask_one(a_get(mailbox, 0))
    assert got == PartGot(size_bytes=SIZE, data=CONTENT[:10_000] + lie[10_000:])
    assert await office.ask_one(a_put(mailbox, 30_000, 40_000)) == PartHeld(held_bytes=20_000)
    for wrong in (
        a_put(mailbox, 20_000, 30_000, write_secret=b"x" * 32),
        a_put(mailbox, 20_000, 30_000, read_hash=b"x" * 32),
        a_put(mailbox, 20_000, 30_000, size_bytes=SIZES[4]),
    ):
        assert await office.ask_one(wrong) == OpRefused(code="conflict")
    gone = a_put(mailbox, 20_000, 30_000, put_secret=b"x" * 32)
    assert await office.ask_one(gone) == OpRefused(code="gone")
    unknown = OpRefused(code="not_found")
    for nothing in (
        replace(a_get(mailbox, 0), read_secret=b"x" * 32),
        replace(a_get(mailbox, 0), get_secret=b"x" * 32),
        a_get(other, 0),
    ):
        assert await office.ask_one(nothing) == unknown
    assert await office.ask_one(a_get(mailbox, SIZE)) == PartGot(size_bytes=SIZE, data=b"")
    assert await office.ask_one(a_get(mailbox, limits.ATTACHMENT_BYTES_MAX)) == PartGot(
        size_bytes=SIZE, data=b""
    )
    for nobody in (
        deletion(other, by_sender=False),
        deletion(other, by_sender=True),
        replace(deletion(mailbox, by_sender=False), attachment_secret=WRITE),
        replace(deletion(mailbox, by_sender=True), attachment_secret=READ),
    ):
        assert await office.ask_one(nobody) == AttachmentDeleted()
    assert await office.ask_one(a_get(mailbox, 0, 1)) == PartGot(size_bytes=SIZE, data=CONTENT[:1])


async def test_what_is_whole_stays_as_it_is_until_one_of_the_two_deletes_it(
    house: House, office: Client
) -> None:
    """Immutable when complete; afterwards a late part of its sender makes nothing anew."""
    for by_sender in (False, True):
        mailbox = await office.make_mailbox(await house.token())
        whole = PartHeld(held_bytes=SIZE)
        assert await office.ask_one(a_put(mailbox, 0, SIZE)) == whole
        assert await office.ask_one(a_put(mailbox, 0, 0, data=bytes(SIZE))) == whole
        assert await office.ask_one(a_get(mailbox, 0)) == PartGot(size_bytes=SIZE, data=CONTENT)
        for _ in range(2):
            assert await office.ask_one(deletion(mailbox, by_sender=by_sender)) == AttachmentDeleted()
        assert await office.ask_one(a_get(mailbox, 0)) == OpRefused(code="not_found")
        assert await office.ask_one(a_put(mailbox, 0, SIZE)) == whole
        assert await office.ask_one(a_get(mailbox, 0)) == OpRefused(code="not_found")
    assert house.broker is not None
    totals = house.broker.store.totals()
    assert (totals.attachments, totals.attachment_bytes) == (0, 0)


async def test_attachments_are_charged_whole_and_never_to_the_room_of_alerts(
    house: House, office: Client
) -> None:
    """A sender that fills its allowance with promises is told so; its alerts go in as before."""
    mailbox = await office.make_mailbox(await house.token())
    large = SIZES[-1]
    fitting = limits.MAILBOX_ATTACHMENT_BYTES_MAX // large
    for number in range(fitting + 1):
        secret = bytes([number]) * 32
        op = a_put(
            mailbox,
            0,
            2000,
            write_secret=secret,
            read_hash=read_capability_hash(secret),
            size_bytes=large,
        )
        expected = PartHeld(held_bytes=2000) if number < fitting else OpRefused(code="quota")
        assert await office.ask_one(op) == expected
    assert isinstance(await office.ask_one(mailbox.put(an_envelope(house.env))), Custody)
    stats = await office.ask_one(Stats(get_secret=mailbox.get_secret))
    assert isinstance(stats, StatsAnswer)
    assert (stats.items, stats.size_bytes) == (1, 8192)


async def test_attachments_go_after_fourteen_days_and_with_their_mailbox(
    house: House, office: Client
) -> None:
    """For every answer at that moment, whether the sweep came by or not; each step is in the log."""
    mailbox = await office.make_mailbox(await house.token())
    await office.ask_one(a_put(mailbox, 0, SIZE))
    house.clock.shift_ms += limits.MAILBOX_TTL_MS
    now_ms = house.clock.now_ms()

    async def ask(op: PartPut | PartGet) -> object:
        (result,) = (await office.answer(op, date_ms=now_ms)).results
        return result

    assert await ask(a_get(mailbox, 0)) == OpRefused(code="not_found")
    assert await ask(a_put(mailbox, 0, 5000)) == PartHeld(held_bytes=5000)  # begun anew
    assert house.broker is not None
    assert house.broker.store.totals().attachment_bytes == 5000
    house.clock.shift_ms += limits.MAILBOX_TTL_MS
    while await house.broker.store.expire(100):
        pass
    assert house.broker.store.totals().attachments == 0
    await house.stop()
    steps = [entry["step"] for entry in house.entries() if entry["t"] == "bk.part"]
    assert steps == ["begun", "whole", "expired", "begun", "expired"]


async def test_many_parts_at_once_are_taken_one_after_another(house: House, office: Client) -> None:
    """Concurrent copies of one upload, as after a lost answer, end as one attachment."""
    mailbox = await office.make_mailbox(await house.token())
    ops = [a_put(mailbox, at, min(at + 9000, SIZE)) for at in range(0, SIZE, 9000)]
    for _ in range(2):
        await asyncio.gather(*(office.ask_one(op) for op in ops))
    for op in ops:
        await office.ask_one(op)
    assert await office.ask_one(a_get(mailbox, 0)) == PartGot(size_bytes=SIZE, data=CONTENT)
