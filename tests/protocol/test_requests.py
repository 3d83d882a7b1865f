"""Requests to a broker: both ends agree, sizes tell little, hostile bytes cost nothing, retries are new."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused, VerificationFailed
from keys.primitives import Ed25519PrivateKey, XWingPrivateKey, aead_seal, wrap
from keys.secret import SecretBytes
from protocol import limits, requests, wire
from protocol.custody import Custody, sign_custody, verify_custody
from protocol.envelope import BUCKETS, envelope_hash
from protocol.parts import SIZES
from protocol.requests import (
    STILL_HELD,
    Answer,
    AskGrant,
    AttachmentDelete,
    AttachmentDeleted,
    Cosign,
    Create,
    Created,
    Delete,
    Deleted,
    Forward,
    Forwarded,
    Get,
    Got,
    Granted,
    Head,
    HeadAnswer,
    Held,
    HeldAnswer,
    List,
    Listed,
    ListedItem,
    Notices,
    NoticesAnswer,
    Op,
    OpRefused,
    PartGet,
    PartGot,
    PartHeld,
    PartPut,
    PendingRequest,
    Publish,
    Published,
    Put,
    Refusal,
    Remake,
    Result,
    Stats,
    StatsAnswer,
    WitnessSays,
    check_date,
    inline_budget_bytes,
    open_answer_untrusted,
    open_request_untrusted,
    put_capability_hash,
    request_bytes,
    seal_answer,
    seal_request,
    sign_delete,
    sign_successor,
    verify_delete,
    verify_successor,
    without_held,
)

NOW = 1_800_000_000_000
BROKER = XWingPrivateKey.from_seed(SecretBytes(b"\x01" * 32))
SHOWS_NONE: dict[str, wire.Value] = {"k": "note", "n": [], "c": 0, "m": False}
OTHER_BROKER = XWingPrivateKey.from_seed(SecretBytes(b"\x02" * 32))
CUSTODY_KEY = Ed25519PrivateKey.from_seed(SecretBytes(b"\x03" * 32))
MAILBOX_KEY = Ed25519PrivateKey.from_seed(SecretBytes(b"\x04" * 32))
ORIGIN = "salween/broker/test/log1"
PART = PartPut(
    put_secret=bytes(32),
    write_secret=bytes(32),
    read_hash=bytes(32),
    size_bytes=SIZES[0],
    offset=7,
    data=bytes(1_024),
)
RANGE = PartGet(get_secret=bytes(32), read_secret=bytes(32), offset=7, bytes_max=64)


def counting() -> Callable[[int], bytes]:
    """Different bytes at each call, the same in each run."""
    drawn = 0

    def random(size: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return drawn.to_bytes(size, "big")

    return random


secrets32 = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=64, max_size=64)
envelopes = st.builds(
    lambda fill, size: bytes([fill]) * size, st.integers(0, 255), st.sampled_from(BUCKETS[:2])
)
by_token = st.builds(
    Create,
    token=secrets32,
    put_hash=secrets32,
    get_hash=secrets32,
    mailbox_public=secrets32,
    kind=st.sampled_from(["pair", "rendezvous"]),
)
by_predecessor = st.builds(
    Create,
    predecessor_get_secret=secrets32,
    signature=signatures,
    put_hash=secrets32,
    get_hash=secrets32,
    mailbox_public=secrets32,
    kind=st.just("pair"),
)
ops: st.SearchStrategy[Op] = st.one_of(
    by_token,
    by_predecessor,
    st.builds(Put, put_secret=secrets32, envelope=envelopes, priority=st.booleans()),
    st.builds(Held, put_secret=secrets32, envelope_hash=secrets32),
    st.builds(
        List,
        get_secret=secrets32,
        cursor=st.integers(0, 2**64 - 1),
        wait_ms=st.integers(0, limits.LONG_POLL_MS_MAX),
        inline_bytes_max=st.integers(0, limits.U32_MAX),
    ),
    st.builds(Get, get_secret=secrets32, envelope_hash=secrets32),
    st.builds(Delete, get_secret=secrets32, envelope_hash=secrets32, signature=signatures),
    st.builds(Stats, get_secret=secrets32),
    st.builds(Notices, cursor=st.integers(0, 2**64 - 1)),
    st.builds(
        Publish,
        notice=st.binary(max_size=8_192),
        get_secret=st.one_of(st.just(b""), st.binary(min_size=32, max_size=32)),
    ),
    st.builds(
        PartPut,
        put_secret=secrets32,
        write_secret=secrets32,
        read_hash=secrets32,
        size_bytes=st.sampled_from(SIZES),
        offset=st.integers(0, SIZES[0] // 2),
        data=st.binary(max_size=2_000),
    ),
    st.builds(
        PartGet,
        get_secret=secrets32,
        read_secret=secrets32,
        offset=st.integers(0, limits.ATTACHMENT_BYTES_MAX),
        bytes_max=st.integers(0, limits.ATTACHMENT_PART_BYTES),
    ),
    st.builds(
        AttachmentDelete, mailbox_secret=secrets32, attachment_secret=secrets32, by_sender=st.booleans()
    ),
)


@cache
def exchange(*asked: Op) -> tuple[bytes, PendingRequest, requests.Request]:
    """One request sealed by a node and opened by its broker."""
    data, pending = seal_request(BROKER.public_bytes, ops=asked, date_ms=NOW, random=counting())
    return data, pending, open_request_untrusted(BROKER, data)


def answered(asked: Sequence[Op], results: Sequence[Result]) -> Answer:
    """These results, sealed by the broker and opened by the node that asked."""
    _, pending, request = exchange(*asked)
    return open_answer_untrusted(pending, seal_answer(request, results, NOW + 1, counting()))


def a_poll() -> List:
    """What a node asks most."""
    return List(
        get_secret=b"\xff" * 32, cursor=2**64 - 1, wait_ms=limits.LONG_POLL_MS_MAX, inline_bytes_max=2**32 - 1
    )


def a_put(fill: int = 7, size: int = BUCKETS[0]) -> Put:
    """One envelope for one mailbox."""
    return Put(put_secret=b"\x0a" * 32, envelope=bytes([fill]) * size)


def puts_around_one_blob(count: int, size: int = BUCKETS[0]) -> list[Put]:
    """Envelopes of one shared message, each for a mailbox of its own."""
    blob = b"\x5a" * (size - limits.BLOB_OFFSET_BYTES)
    return [
        Put(
            put_secret=number.to_bytes(32, "big"),
            envelope=bytes([number % 251]) * limits.BLOB_OFFSET_BYTES + blob,
            priority=number % 3 == 0,
        )
        for number in range(count)
    ]


def note_for(put: Put, log_index: int) -> Custody:
    """What the broker says about it, unsigned."""
    return Custody(
        origin=ORIGIN,
        put_capability_hash=put_capability_hash(put.put_secret),
        envelope_hash=envelope_hash(put.envelope),
        size_bytes=len(put.envelope),
        log_index=log_index,
        time_ms=NOW,
    )


# --- requests -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(ops, max_size=6), st.integers(0, 2**63))
def test_a_request_opens_as_it_was_asked(asked: list[Op], date_ms: int) -> None:
    """Every op survives, in order, with the date and the key for the answer."""
    data, pending = seal_request(BROKER.public_bytes, ops=asked, date_ms=date_ms, random=counting())
    request = open_request_untrusted(BROKER, data)
    assert request.ops == tuple(asked) == pending.ops
    assert request.date_ms == date_ms
    assert request.enc == pending.enc == data[1 : 1 + requests.ENC_BYTES]
    assert request.response_key.equals(pending.response_key)


def test_a_retry_is_a_new_encapsulation() -> None:
    """The same ops twice share no byte that names them, so no memory of the first refuses the second."""
    first, _ = seal_request(BROKER.public_bytes, ops=[a_poll()], date_ms=NOW, random=counting())
    again, _ = seal_request(BROKER.public_bytes, ops=[a_poll()], date_ms=NOW, random=counting())
    assert first[1 : 1 + requests.ENC_BYTES] != again[1 : 1 + requests.ENC_BYTES]


def test_a_poll_is_one_of_the_two_smallest_requests_and_its_empty_answer_128_bytes() -> None:
    """An idle office costs about 1.6 KB per poll both ways, whatever the cursor and the secret."""
    for mailboxes in range(1, 5):
        data, _, request = exchange(*[a_poll()] * mailboxes)
        answer = seal_answer(request, [Listed(items=(), more=False)] * mailboxes, NOW, counting())
        assert (len(data), len(answer)) == (1_280 if mailboxes == 1 else 1_536, 128)


def test_what_is_said_while_an_answer_is_held_back_is_told_from_the_answer() -> None:
    """Of the smallest answer and the largest, and of one whose salt begins with the same byte."""
    says_most = limits.LONG_POLL_MS_MAX // limits.STILL_HELD_MS
    for size in (limits.EMPTY_ANSWER_BYTES, 1_024, 1_280, limits.ANSWER_BYTES_MAX):
        for answer in (bytes(size), b"\xff" * size):
            for times in range(says_most + 1):
                assert without_held(STILL_HELD * times + answer) == answer
    assert all(size % limits.EMPTY_ANSWER_BYTES == 0 for size in requests._ANSWER_SIZES)


@given(st.lists(ops, min_size=1, max_size=12))
def test_requests_come_in_few_sizes(asked: list[Op]) -> None:
    """Sizes step by at most a quarter octave, so what was asked shows only roughly."""
    data, _, _ = exchange(*asked)
    assert len(data) in (1_280, 1_536) or bin(len(data)).count("1") <= 3
    plain = sum(len(op.envelope) for op in asked if isinstance(op, Put))
    assert len(data) <= max(2_048, 1.25 * (plain + 2_000 + 320 * len(asked)))


@given(
    st.lists(ops, max_size=4),
    st.integers(2, 40),
    st.sampled_from(BUCKETS[:2]),
    st.lists(ops, max_size=4),
)
def test_a_blob_that_envelopes_share_is_said_once(
    before: list[Op], count: int, size: int, after: list[Op]
) -> None:
    """The broker opens exactly the puts that were asked, whatever stands around them."""
    shared = puts_around_one_blob(count, size)
    _, _, request = exchange(*before, *shared, *after)
    assert request.ops == (*before, *shared, *after)
    encoded = len(wire.encode(requests._ops_to_wire(shared)))
    assert encoded <= request_bytes(shared) + 3 <= size + count * 1_400


def test_what_puts_become_at_a_broker_is_bounded() -> None:
    """A small request must not grow to a thousand times its size in the broker's memory."""
    size = BUCKETS[3]
    fits = limits.PUT_BYTES_PER_REQUEST_MAX // size
    exchange(*puts_around_one_blob(fits, size))
    with pytest.raises(PolicyRefused, match="request_too_large"):
        exchange(*puts_around_one_blob(fits + 1, size))
    heads: list[wire.Value] = [[bytes(32), bytes(limits.BLOB_OFFSET_BYTES), True]] * (fits + 1)
    large: wire.Value = {"k": "puts", "b": bytes(size - limits.BLOB_OFFSET_BYTES), "t": heads}
    inside = wire.encode({"r": bytes(32), "d": 1, "o": [large]}) + b"\x80"
    with pytest.raises(MalformedInput, match="op_count"):
        open_request_untrusted(BROKER, wrapped(inside, 192 * 2**10))


@pytest.mark.parametrize(
    "to",
    [
        [],
        [[bytes(32), bytes(limits.BLOB_OFFSET_BYTES), False]],
        [[bytes(31), bytes(limits.BLOB_OFFSET_BYTES), False]] * 2,
        [[bytes(32), bytes(limits.BLOB_OFFSET_BYTES - 1), False]] * 2,
        [[bytes(32), bytes(limits.BLOB_OFFSET_BYTES), 1]] * 2,
        [[bytes(32), bytes(limits.BLOB_OFFSET_BYTES)]] * 2,
        [{"p": bytes(32)}] * 2,
    ],
)
def test_puts_together_have_one_form(to: list[wire.Value]) -> None:
    """One, none, a capability or a head of another length, a number for a boolean: the whole is refused."""
    inside = wire.encode({"r": bytes(32), "d": 1, "o": [{"k": "puts", "b": bytes(64), "t": to}]}) + b"\x80"
    with pytest.raises(MalformedInput, match="op_wrong"):
        open_request_untrusted(BROKER, wrapped(inside, 5 * 2**10))


@given(st.lists(ops, max_size=20))
def test_the_estimate_of_a_request_is_never_too_low(asked: list[Op]) -> None:
    """A node that fills a request by the estimate is never refused for its size."""
    encoded = wire.encode(requests._ops_to_wire(asked))
    assert len(encoded) <= request_bytes(asked) + 3


def test_a_request_filled_by_the_estimate_fits() -> None:
    """Puts up to the stated sum go into one request; beyond the limit it is refused before any work."""
    puts: list[Op] = []
    while request_bytes([*puts, a_put(len(puts))]) <= limits.REQUEST_BYTES_MAX - 2_048:
        puts.append(a_put(len(puts)))
    data, _ = seal_request(BROKER.public_bytes, ops=puts, date_ms=NOW, random=counting())
    assert len(data) <= limits.REQUEST_BYTES_MAX
    assert len(puts) >= 120
    with pytest.raises(PolicyRefused) as refused:
        seal_request(BROKER.public_bytes, ops=[*puts, *puts], date_ms=NOW, random=counting())
    assert refused.value.code == "request_too_large"
    with pytest.raises(PolicyRefused):
        seal_request(BROKER.public_bytes, ops=[Notices()] * 257, date_ms=NOW, random=counting())


def test_a_request_for_another_broker_does_not_open() -> None:
    """The request key is pinned by the address: nobody else can read, or answer, what was asked."""
    data, _, _ = exchange(a_poll())
    with pytest.raises(VerificationFailed):
        open_request_untrusted(OTHER_BROKER, data)


def test_no_changed_byte_of_a_request_opens() -> None:
    """Every single byte is covered: changed, it is refused with one of the two allowed errors."""
    data, _, _ = exchange(a_poll())
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x40
        with pytest.raises((MalformedInput, VerificationFailed)):
            open_request_untrusted(BROKER, bytes(changed))


@given(
    st.binary(max_size=3_000) | st.builds(lambda head: head.ljust(1_280, b"\x01"), st.binary(max_size=1_280))
)
def test_hostile_requests_raise_only_what_is_allowed(data: bytes) -> None:
    """Whatever the network sends: MalformedInput or VerificationFailed, and never a request."""
    with pytest.raises((MalformedInput, VerificationFailed)):
        open_request_untrusted(BROKER, data)


def wrapped(plain: bytes, size: int = 1_280) -> bytes:
    """A request whose inside is as given: anybody can make one."""
    return b"\x01" + wrap(
        BROKER.public_bytes, plain.ljust(size - 1_137, b"\x00"), b"salween/v1/broker-request"
    )


@given(st.binary(max_size=143))
def test_a_hostile_inside_raises_only_what_is_allowed(plain: bytes) -> None:
    """A well-sealed request with anything inside is opened or refused with an allowed error."""
    with contextlib.suppress(MalformedInput):
        open_request_untrusted(BROKER, wrapped(plain))


GOOD_OP = {"k": "stat", "g": bytes(32)}


@pytest.mark.parametrize(
    ("inside", "code"),
    [
        ({"r": bytes(32), "d": 1}, "field_missing"),
        ({"r": bytes(32), "d": 1, "o": [], "x": 1}, "field_unknown"),
        ({"r": bytes(31), "d": 1, "o": []}, "field_range"),
        ({"r": bytes(32), "d": -1, "o": []}, "field_range"),
        ({"r": bytes(32), "d": 1, "o": [{"k": "sudo"}]}, "op_unknown"),
        ({"r": bytes(32), "d": 1, "o": [{**GOOD_OP, "x": 1}]}, "field_unknown"),
        ({"r": bytes(32), "d": 1, "o": [{**GOOD_OP, "g": bytes(33)}]}, "field_range"),
        ({"r": bytes(32), "d": 1, "o": [{**GOOD_OP, "g": "text"}]}, "field_type"),
    ],
)
def test_each_fault_inside_has_its_code(inside: wire.Value, code: str) -> None:
    """One fault per vector, one code per fault."""
    with pytest.raises(MalformedInput) as refused:
        open_request_untrusted(BROKER, wrapped(wire.encode(inside) + b"\x80"))
    assert refused.value.code == code


def test_padding_without_its_marker_is_refused() -> None:
    """Where the padding begins is part of the one encoding."""
    plain = wire.encode({"r": bytes(32), "d": 1, "o": []})
    assert open_request_untrusted(BROKER, wrapped(plain + b"\x80")).ops == ()
    with pytest.raises(MalformedInput) as refused:
        open_request_untrusted(BROKER, wrapped(plain))
    assert refused.value.code == "padding"


@pytest.mark.parametrize("size", [1_279, 1_281, 2_000, 2**20 + 1])
def test_a_request_of_another_size_is_refused_before_it_is_opened(size: int) -> None:
    """Padding is not left to the sender: what opens has one of the sizes everybody has."""
    plain = wire.encode({"r": bytes(32), "d": 1, "o": []}) + b"\x80"
    with pytest.raises(MalformedInput) as refused:
        open_request_untrusted(BROKER, wrapped(plain, size))
    assert refused.value.code == "request_size"


def test_an_answer_short_of_a_result_is_refused() -> None:
    """One result per op or none at all: a missing one would shift the meaning of those after it."""
    _, pending, _ = exchange(Notices(), Notices())
    inside = wire.encode({"n": 1, "r": [SHOWS_NONE]})
    with pytest.raises(MalformedInput) as refused:
        open_answer_untrusted(pending, hostile_answer(pending, inside))
    assert refused.value.code == "answer_count"


@pytest.mark.parametrize(
    "change",
    [
        {"token": b""},
        {"token": b"\x01" * 31},
        {"predecessor_get_secret": b"\x01" * 32},
        {"signature": b"\x01" * 64},
        {"token": b"", "predecessor_get_secret": b"\x01" * 32, "signature": b"\x01" * 63},
    ],
)
def test_a_mailbox_is_asked_for_in_one_of_two_ways(change: dict[str, bytes]) -> None:
    """By a whole token or by a whole succession; anything between is malformed."""
    fields: dict[str, bytes] = {
        "token": b"\x01" * 32,
        "predecessor_get_secret": b"",
        "signature": b"",
        **change,
    }
    op = Create(put_hash=bytes(32), get_hash=bytes(32), mailbox_public=bytes(32), kind="pair", **fields)
    data, _ = seal_request(BROKER.public_bytes, ops=[op], date_ms=NOW, random=counting())
    with pytest.raises(MalformedInput) as refused:
        open_request_untrusted(BROKER, data)
    assert refused.value.code == "op_wrong"


@pytest.mark.parametrize("change", [{"size_bytes": SIZES[0] + 1}, {"offset": SIZES[0] - 1_023}])
def test_a_part_lies_inside_an_attachment_of_one_of_few_sizes(change: dict[str, int]) -> None:
    """Anything else is no request at all."""
    asked = replace(PART, **change)  # type: ignore[arg-type]
    data, _ = seal_request(BROKER.public_bytes, ops=[asked], date_ms=NOW, random=counting())
    with pytest.raises(MalformedInput) as refused:
        open_request_untrusted(BROKER, data)
    assert refused.value.code == "op_wrong"


def test_no_secret_of_a_request_can_be_printed() -> None:
    """Whoever logs a request, an op or what is pending logs no capability and no envelope."""
    secret = b"SECRETSECRETSECRETSECRETSECRET32"
    asked: list[Op] = [
        Create(token=secret, put_hash=bytes(32), get_hash=bytes(32), mailbox_public=bytes(32), kind="pair"),
        Put(put_secret=secret, envelope=secret * 256),
        Held(put_secret=secret, envelope_hash=bytes(32)),
        List(get_secret=secret, cursor=0, wait_ms=0, inline_bytes_max=0),
        Get(get_secret=secret, envelope_hash=bytes(32)),
        Delete(get_secret=secret, envelope_hash=bytes(32), signature=bytes(64)),
        Stats(get_secret=secret),
        AskGrant(get_secret=secret, put_hash=bytes(32), mailbox_public=bytes(32)),
        Remake(put_hash=bytes(32), get_hash=bytes(32), mailbox_public=bytes(32), grant=secret * 2),
        replace(PART, put_secret=secret, write_secret=secret, data=secret),
        PartGet(get_secret=secret, read_secret=secret, offset=0, bytes_max=1),
        AttachmentDelete(mailbox_secret=secret, attachment_secret=secret, by_sender=True),
    ]
    _, pending, request = exchange(*asked)
    assert "SECRET" not in repr((asked, pending, request))


@pytest.mark.parametrize(
    ("date_ms", "boot_ms", "fine"),
    [
        (NOW, 0, True),
        (NOW - limits.DATE_SKEW_MS_MAX, 0, True),
        (NOW + limits.DATE_SKEW_MS_MAX, 0, True),
        (NOW - limits.DATE_SKEW_MS_MAX - 1, 0, False),
        (NOW + limits.DATE_SKEW_MS_MAX + 1, 0, False),
        (NOW - 1, NOW, False),
        (NOW, NOW, True),
        (0, 0, False),
    ],
)
def test_a_date_is_near_and_after_the_boot(date_ms: int, boot_ms: int, fine: bool) -> None:
    """Four minutes either way, and nothing from before the memory of encapsulations began."""
    if fine:
        check_date(date_ms, now_ms=NOW, boot_ms=boot_ms)
        return
    with pytest.raises(PolicyRefused) as refused:
        check_date(date_ms, now_ms=NOW, boot_ms=boot_ms)
    assert refused.value.code == "date"


# --- answers --------------------------------------------------------------------------------------


def test_every_result_comes_back_to_its_op() -> None:
    """One answer may hold one of each; notes carry their proof and verify with the custody key alone."""
    first, second = a_put(1), a_put(2, BUCKETS[1])
    waiting = b"\x05" * BUCKETS[0]
    asked: list[Op] = [
        Create(
            token=bytes(32), put_hash=bytes(32), get_hash=bytes(32), mailbox_public=bytes(32), kind="pair"
        ),
        first,
        Held(put_secret=bytes(32), envelope_hash=bytes(32)),
        a_poll(),
        Get(get_secret=bytes(32), envelope_hash=envelope_hash(waiting)),
        Delete(get_secret=bytes(32), envelope_hash=bytes(32), signature=bytes(64)),
        Stats(get_secret=bytes(32)),
        Notices(),
        Head(old_size=3),
        Cosign(token=bytes(32), log_public=bytes(32), body=b"old 3\n"),
        Publish(notice=b"revocation"),
        AskGrant(get_secret=bytes(32), put_hash=bytes(32), mailbox_public=bytes(32)),
        Remake(put_hash=bytes(32), get_hash=bytes(32), mailbox_public=bytes(32), grant=bytes(64)),
        Forward(token=bytes(32), target="west", wait_ms=1, request=b"sealed"),
        second,
        a_put(3),
        PART,
        RANGE,
        AttachmentDelete(mailbox_secret=bytes(32), attachment_secret=bytes(32), by_sender=False),
    ]
    notes = sign_custody([note_for(first, 10), note_for(second, 11)], CUSTODY_KEY)
    results: list[Result] = [
        Created(),
        notes[0],
        HeldAnswer(held=True),
        Listed(
            items=(
                ListedItem(
                    cursor=4, envelope_hash=envelope_hash(waiting), size_bytes=8_192, envelope=waiting
                ),
                ListedItem(cursor=9, envelope_hash=bytes(32), size_bytes=16_384, envelope=None),
            ),
            more=True,
        ),
        Got(envelope=waiting),
        Deleted(),
        StatsAnswer(items=1, items_max=512, size_bytes=8_192, size_bytes_max=2**26),
        NoticesAnswer(notices=(b"revocation",), cursor=7, more=True),
        HeadAnswer(body=b"old 3\n"),
        WitnessSays(status=409, body=b"7\n", note=b"held", keys=("name+id+key",)),
        Published(),
        Granted(grant=bytes(range(64))),
        Created(),
        Forwarded(answer=b"sealed too"),
        notes[1],
        OpRefused(code=Refusal.QUOTA),
        PartHeld(held_bytes=5),
        PartGot(size_bytes=SIZES[0], data=b"part"),
        AttachmentDeleted(),
    ]
    answer = answered(asked, results)
    assert answer == Answer(now_ms=NOW + 1, results=tuple(results))
    assert not answer.date_refused
    for result in answer.results:
        if isinstance(result, Custody):
            verify_custody(result, CUSTODY_KEY.public_bytes)
    assert {type(result) for result in results} == set(get_args(Result))


def test_a_refused_date_is_an_answer_with_a_time_and_nothing_else() -> None:
    """The node learns the broker's clock and asks again with the offset."""
    answer = answered([a_poll(), Notices()], [])
    assert answer.date_refused
    assert answer.now_ms == NOW + 1


def test_no_changed_byte_of_an_answer_opens() -> None:
    """Only the broker that opened the request can answer it, every byte of it."""
    _, pending, request = exchange(a_poll())
    data = seal_answer(request, [Listed(items=(), more=False)], NOW, counting())
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x01
        with pytest.raises(VerificationFailed):
            open_answer_untrusted(pending, bytes(changed))


def test_an_answer_to_another_request_does_not_open() -> None:
    """Answers cannot be swapped between two requests of one node."""
    _, pending, _ = exchange(a_poll())
    _, _, other = exchange(Notices())
    data = seal_answer(other, [NoticesAnswer(notices=())], NOW, counting())
    with pytest.raises(VerificationFailed):
        open_answer_untrusted(pending, data)


@given(st.binary(max_size=600) | st.builds(lambda head: head.ljust(256, b"\x01"), st.binary(max_size=256)))
def test_hostile_answers_raise_only_what_is_allowed(data: bytes) -> None:
    """Whatever comes back: MalformedInput or VerificationFailed, and never an answer."""
    _, pending, _ = exchange(a_poll())
    with pytest.raises((MalformedInput, VerificationFailed)):
        open_answer_untrusted(pending, data)


def hostile_answer(pending: PendingRequest, inside: bytes) -> bytes:
    """A well-sealed answer of a broker that lies."""
    key = requests._answer_key(pending.response_key, pending.enc, bytes(32))
    size = next(size for size in requests._ANSWER_SIZES if size >= len(inside) + 49)
    return bytes(32) + aead_seal(key, bytes(24), (inside + b"\x80").ljust(size - 48, b"\x00"), b"")


@given(st.binary(max_size=200))
def test_a_hostile_inside_of_an_answer_is_malformed(inside: bytes) -> None:
    """A broker that seals nonsense is told from one that answers, by MalformedInput alone."""
    _, pending, _ = exchange(a_poll())
    with contextlib.suppress(MalformedInput):
        open_answer_untrusted(pending, hostile_answer(pending, inside))


PUT = a_put()
GOOD_NOTE = {
    "k": "cus",
    "p": put_capability_hash(PUT.put_secret),
    "h": envelope_hash(PUT.envelope),
    "z": BUCKETS[0],
    "i": 1,
    "t": 1,
}
LISTED = {"k": "list", "m": False}


@pytest.mark.parametrize(
    ("op", "inside", "code"),
    [
        (
            Notices(),
            {
                "n": 1,
                "r": [SHOWS_NONE, SHOWS_NONE],
            },
            "answer_count",
        ),
        (Notices(), {"n": 1, "r": [{"k": "held", "y": True}]}, "result_wrong"),
        (Notices(), {"n": 1, "r": [{**SHOWS_NONE, "n": [1]}]}, "result_wrong"),
        (Notices(), {"n": 1, "r": [{**SHOWS_NONE, "n": [bytes(8_193)]}]}, "result_wrong"),
        (Notices(), {"n": 1, "r": [{"k": "no", "c": "Not A Code"}]}, "result_wrong"),
        (Notices(), {"n": 1, "r": [{"k": "no", "c": ""}]}, "result_wrong"),
        (Notices(), {"n": 1, "r": [], "x": 1}, "field_unknown"),
        (Notices(), {"n": 2**60, "r": []}, "field_range"),
        (PUT, {"n": 1, "r": [GOOD_NOTE]}, "answer_custody"),
        (PUT, {"n": 1, "r": [], "o": ORIGIN, "s": bytes(64)}, "answer_custody"),
        (PUT, {"n": 1, "r": [GOOD_NOTE], "o": ORIGIN, "s": bytes(63)}, "field_range"),
        (PUT, {"n": 1, "r": [{**GOOD_NOTE, "h": bytes(32)}], "o": ORIGIN, "s": bytes(64)}, "result_wrong"),
        (PUT, {"n": 1, "r": [{**GOOD_NOTE, "p": bytes(32)}], "o": ORIGIN, "s": bytes(64)}, "result_wrong"),
        (PUT, {"n": 1, "r": [{**GOOD_NOTE, "z": 1}], "o": ORIGIN, "s": bytes(64)}, "result_wrong"),
        (
            Get(get_secret=bytes(32), envelope_hash=bytes(32)),
            {"n": 1, "r": [{"k": "got", "e": b"other"}]},
            "result_wrong",
        ),
        (PART, {"n": 1, "r": [{"k": "bput", "n": SIZES[0] + 1}]}, "field_range"),
        (PART, {"n": 1, "r": [{"k": "bget", "z": SIZES[0], "d": b""}]}, "result_wrong"),
        (RANGE, {"n": 1, "r": [{"k": "bget", "z": SIZES[0], "d": bytes(65)}]}, "field_range"),
        (RANGE, {"n": 1, "r": [{"k": "bget", "z": 8, "d": bytes(2)}]}, "result_wrong"),
        (a_poll(), {"n": 1, "r": [{**LISTED, "i": [[1, bytes(32), 5, b"other"]]}]}, "result_wrong"),
        (a_poll(), {"n": 1, "r": [{**LISTED, "i": [[1, bytes(31), 5, None]]}]}, "result_wrong"),
        (a_poll(), {"n": 1, "r": [{**LISTED, "i": [[True, bytes(32), 5, None]]}]}, "result_wrong"),
        (a_poll(), {"n": 1, "r": [{**LISTED, "i": [[1, bytes(32), -5, None]]}]}, "result_wrong"),
        (a_poll(), {"n": 1, "r": [{**LISTED, "i": [[1, bytes(32), 5]]}]}, "result_wrong"),
        (
            a_poll(),
            {"n": 1, "r": [{**LISTED, "i": [[2, bytes(32), 5, None], [2, bytes(32), 5, None]]}]},
            "result_wrong",
        ),
    ],
)
def test_a_lying_answer_has_its_code(op: Op, inside: wire.Value, code: str) -> None:
    """A broker may refuse and withhold; an envelope, note or result other than asked for is refused."""
    _, pending, _ = exchange(op)
    with pytest.raises(MalformedInput) as refused:
        open_answer_untrusted(pending, hostile_answer(pending, wire.encode(inside)))
    assert refused.value.code == code


def test_a_later_brokers_refusal_is_passed_on_as_it_came() -> None:
    """An unknown code reaches the officer as a code; it breaks nothing."""
    _, pending, _ = exchange(Notices())
    inside = wire.encode({"n": 1, "r": [{"k": "no", "c": "paused_for_flood_2"}]})
    answer = open_answer_untrusted(pending, hostile_answer(pending, inside))
    assert answer.results == (OpRefused(code="paused_for_flood_2"),)


def test_the_notes_of_one_answer_are_one_batch() -> None:
    """Two signatures in one answer could not both be carried: a bug of the broker stops there."""
    one, two = a_put(1), a_put(2)
    _, _, request = exchange(one, two)
    apart = [*sign_custody([note_for(one, 1)], CUSTODY_KEY), *sign_custody([note_for(two, 2)], CUSTODY_KEY)]
    with pytest.raises(BrokenInvariant):
        seal_answer(request, apart, NOW, counting())


def test_a_full_answer_fits_and_a_larger_one_is_our_bug() -> None:
    """What the budget for inlining allows always fits, with 255 other results beside it."""
    polls: list[Op] = [a_poll(), *[a_put(fill) for fill in range(100)]]
    _, _, request = exchange(*polls)
    envelope = b"\x05" * BUCKETS[0]
    count = inline_budget_bytes(2**32) // len(envelope)
    item = ListedItem(
        cursor=2**64 - 1, envelope_hash=envelope_hash(envelope), size_bytes=8_192, envelope=envelope
    )
    notes = sign_custody([note_for(op, 2**63) for op in polls if isinstance(op, Put)], CUSTODY_KEY)
    listed = Listed(items=(item,) * count, more=True)
    assert len(seal_answer(request, [listed, *notes], NOW, counting())) <= limits.ANSWER_BYTES_MAX
    assert inline_budget_bytes(5) == 5
    with pytest.raises(BrokenInvariant):
        seal_answer(request, [Listed(items=(item,) * (count + 10), more=True)], NOW, counting())


# --- signatures of a mailbox ----------------------------------------------------------------------


def test_only_the_mailbox_key_deletes() -> None:
    """A delete is the recipient's own word about one envelope; it cannot be moved to another."""
    signature = sign_delete(MAILBOX_KEY, b"\x01" * 32)
    verify_delete(
        MAILBOX_KEY.public_bytes,
        Delete(get_secret=bytes(32), envelope_hash=b"\x01" * 32, signature=signature),
    )
    for public, name in ((MAILBOX_KEY.public_bytes, b"\x02" * 32), (CUSTODY_KEY.public_bytes, b"\x01" * 32)):
        with pytest.raises(VerificationFailed):
            verify_delete(public, Delete(get_secret=bytes(32), envelope_hash=name, signature=signature))


@pytest.mark.parametrize("changed", [None, "put_hash", "get_hash", "mailbox_public"])
def test_only_the_mailbox_key_names_a_successor(changed: str | None) -> None:
    """The old mailbox's key signs all three parts of the new address."""
    parts = {"put_hash": b"\x01" * 32, "get_hash": b"\x02" * 32, "mailbox_public": b"\x03" * 32}
    signature = sign_successor(
        MAILBOX_KEY, put_hash=parts["put_hash"], get_hash=parts["get_hash"], public=parts["mailbox_public"]
    )
    if changed:
        parts[changed] = b"\x09" * 32
    op = Create(predecessor_get_secret=bytes(32), signature=signature, kind="pair", **parts)
    if changed is None:
        verify_successor(MAILBOX_KEY.public_bytes, op)
        return
    with pytest.raises(VerificationFailed):
        verify_successor(MAILBOX_KEY.public_bytes, op)
