"""How far an attachment has come: any answer, any order, any cut, and it still arrives once and whole."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.mailbox import AppendPart, AttachmentState, accept_part
from protocol.parts import SIZES, Transfer, held_up, next_part, reached
from protocol.requests import OpRefused, PartHeld, PartPut, Refusal, seal_request
from tests.protocol.test_mailbox import NOW, a_mailbox
from tests.protocol.test_requests import BROKER, counting

SIZE = SIZES[0]


def a_part(offset: int, length: int, *, size: int = SIZE, read_hash: bytes = b"r" * 32) -> PartPut:
    """One part; what its bytes are is nothing to the rules."""
    return PartPut(
        put_secret=bytes(32),
        write_secret=bytes(32),
        read_hash=read_hash,
        size_bytes=size,
        offset=offset,
        data=bytes(length),
    )


def judged(
    op: PartPut,
    held: int | None,
    *,
    write_hash: bytes = b"w" * 32,
    is_gone: bool = False,
    attachments: int = 0,
    attachment_bytes: int = 0,
) -> AppendPart | PartHeld | OpRefused:
    """A part judged against an attachment of which so many bytes are held, or that nobody began."""
    known = None
    if held is not None:
        known = AttachmentState(
            size_bytes=SIZE, held_bytes=held, read_hash=b"r" * 32, write_hash=b"w" * 32, is_gone=is_gone
        )
    return accept_part(
        a_mailbox(),
        op,
        write_hash=write_hash,
        known=known,
        attachments=attachments,
        attachment_bytes=attachment_bytes,
        now_ms=NOW,
    )


def test_a_part_continues_what_is_there_and_what_overlaps_is_skipped() -> None:
    """The first bytes stand; a gap is never made; the answer always says how far it is."""
    assert judged(a_part(0, 5000), None) == AppendPart(skip=0, makes=True)
    assert judged(a_part(4000, 5000), 5000) == AppendPart(skip=1000, makes=False)
    assert judged(a_part(5001, 5000), 5000) == PartHeld(held_bytes=5000)
    assert judged(a_part(0, 5000), 5000) == PartHeld(held_bytes=5000)
    assert judged(a_part(0, 0), None) == PartHeld(held_bytes=0)
    assert judged(a_part(7, 5000), None) == PartHeld(held_bytes=0)


def test_a_short_part_is_taken_as_the_last_alone() -> None:
    """A mailbox must not be filled with a row for each byte."""
    assert judged(a_part(5000, 1023), 5000) == PartHeld(held_bytes=5000)
    assert judged(a_part(5000, 1024), 5000) == AppendPart(skip=0, makes=False)
    assert judged(a_part(SIZE - 1, 1), SIZE - 1) == AppendPart(skip=0, makes=False)


def test_an_attachment_is_made_by_one_sender_charged_whole_and_stays_gone() -> None:
    """Another writer, reader or size is a conflict; a full allowance is no mailbox full of alerts."""
    assert judged(a_part(0, 2000), 0, write_hash=b"x" * 32) == OpRefused(code=Refusal.CONFLICT)
    assert judged(a_part(0, 2000, read_hash=b"s" * 32), 0) == OpRefused(code=Refusal.CONFLICT)
    assert judged(a_part(0, 2000, size=SIZES[1]), 0) == OpRefused(code=Refusal.CONFLICT)
    assert judged(a_part(0, 2000), 0, is_gone=True) == PartHeld(held_bytes=SIZE)
    full = limits.MAILBOX_ATTACHMENT_BYTES_MAX
    assert judged(a_part(0, 2000), None, attachment_bytes=full - SIZE) == AppendPart(skip=0, makes=True)
    assert judged(a_part(0, 2000), None, attachment_bytes=full - SIZE + 1) == OpRefused(code=Refusal.QUOTA)
    most = limits.MAILBOX_ATTACHMENTS_MAX
    assert judged(a_part(0, 2000), None, attachments=most) == OpRefused(code=Refusal.QUOTA)
    assert judged(a_part(2000, 2000), 2000, attachments=most) == AppendPart(skip=0, makes=False)
    for box in (None, a_mailbox(kind="rendezvous")):
        refused = accept_part(
            box,
            a_part(0, 2000),
            write_hash=b"w" * 32,
            known=None,
            attachments=0,
            attachment_bytes=0,
            now_ms=NOW,
        )
        assert refused == OpRefused(code=Refusal.GONE)


@given(
    st.sampled_from(SIZES[:12]),
    st.lists(
        st.tuples(
            st.integers(1, 600_000),
            st.sampled_from(["answered", "answer lost", "cut", "refused", "both restart"]),
        ),
        max_size=60,
    ),
)
def test_an_upload_cut_anywhere_goes_on_where_it_was_and_arrives_byte_for_byte(
    size: int, schedule: list[tuple[int, str]]
) -> None:
    """F33, F35: whatever is lost, request or answer, no byte is written twice and none is left out."""
    content = bytes(i * 31 % 251 for i in range(1024)) * (size // 1024 + 1)
    content = content[:size]
    stored = bytearray()
    transfer = Transfer(size_bytes=size)
    now_ms = NOW
    for most, event in [*schedule, *[(limits.ATTACHMENT_PART_BYTES, "answered")] * (size // 100_000 + 60)]:
        now_ms = max(now_ms, transfer.next_at_ms)
        offset, length = next_part(transfer, most)
        assert 0 < length <= limits.ATTACHMENT_PART_BYTES or transfer.is_whole
        op = replace(a_part(offset, 0, size=size), data=content[offset : offset + length])
        if event == "cut":
            transfer = held_up(transfer, now_ms)
            continue
        if event == "refused":
            transfer = held_up(transfer, now_ms)
            continue
        known = AttachmentState(
            size_bytes=size, held_bytes=len(stored), read_hash=b"r" * 32, write_hash=b"w" * 32
        )
        verdict = accept_part(
            a_mailbox(),
            op,
            write_hash=b"w" * 32,
            known=known if stored else None,
            attachments=0,
            attachment_bytes=0,
            now_ms=now_ms,
        )
        if isinstance(verdict, AppendPart):
            stored += op.data[verdict.skip :]
            verdict = PartHeld(held_bytes=len(stored))
        assert isinstance(verdict, PartHeld)
        assert content.startswith(bytes(stored))
        if event == "answered":
            transfer = reached(transfer, verdict.held_bytes, now_ms)
        elif event == "both restart":
            transfer = replace(transfer, done_bytes=min(transfer.done_bytes, len(stored)))
        if transfer.is_whole:
            break
    assert bytes(stored) == content
    assert transfer.is_whole


@given(st.lists(st.integers(-5, SIZE + 5), max_size=80))
def test_a_broker_that_goes_back_is_followed_ever_more_seldom(answers: list[int]) -> None:
    """F47: a lost disk costs one upload more; a liar cannot keep an office sending."""
    transfer, now_ms = Transfer(size_bytes=SIZE), NOW
    for answer in answers:
        before = transfer
        transfer = reached(transfer, answer, now_ms)
        assert 0 <= transfer.done_bytes <= SIZE
        assert transfer.furthest_bytes >= before.furthest_bytes
        if transfer.furthest_bytes == before.furthest_bytes and transfer.done_bytes <= before.done_bytes:
            assert transfer.setbacks == before.setbacks + 1
            assert transfer.next_at_ms > now_ms
        now_ms = max(now_ms, transfer.next_at_ms)


def test_waiting_grows_and_has_an_end() -> None:
    """From two seconds to an hour while it is under way; from a minute to a day once it is whole."""
    transfer = Transfer(size_bytes=SIZE)
    waits = []
    for _ in range(40):
        transfer = held_up(transfer, NOW)
        waits.append(transfer.next_at_ms - NOW)
    assert waits[0] == limits.ATTACHMENT_BACKOFF_MS_MIN
    assert waits == sorted(waits)
    assert waits[-1] == limits.ATTACHMENT_BACKOFF_MS_MAX
    whole = held_up(replace(transfer, done_bytes=SIZE, setbacks=0), NOW)
    assert whole.next_at_ms - NOW == limits.HELD_BACKOFF_MS_MIN


def test_a_part_fills_the_request_or_answer_it_goes_in() -> None:
    """Padding then costs nothing: the request with it has exactly the size below the bytes allowed."""
    for most in (5_000, 16_384, 50_000, limits.ATTACHMENT_PART_BYTES):
        offset, length = next_part(Transfer(size_bytes=SIZES[-1], done_bytes=7), most)
        assert offset == 7
        data, _ = seal_request(
            BROKER.public_bytes, ops=[a_part(7, length, size=SIZES[-1])], date_ms=NOW, random=counting()
        )
        assert length <= most
        assert len(data) - length < 1_460
    _, length = next_part(Transfer(size_bytes=SIZES[0]), 1)
    assert length == limits.ATTACHMENT_PART_BYTES_MIN
    assert next_part(Transfer(size_bytes=SIZES[0], done_bytes=SIZES[0] - 5), 99_999) == (SIZES[0] - 5, 5)
