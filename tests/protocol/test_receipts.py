"""Receipts and the ladder the sender sees."""

import contextlib
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import MalformedInput
from protocol import limits, wire
from protocol.receipts import (
    LADDER,
    Receipt,
    ReceiptState,
    advance,
    decode_receipts_untrusted,
    encode_receipts,
)

receipts = st.builds(
    Receipt,
    alert_id=st.binary(min_size=32, max_size=32),
    hh=st.binary(min_size=32, max_size=32),
    state=st.sampled_from([state for state in ReceiptState if state is not ReceiptState.HELD]),
    at_ms=st.integers(0, limits.TIME_MS_MAX),
    log_index=st.integers(0, 2**64 - 1),
    code=st.text("abcdefghijklmnopqrstuvwxyz0123456789_", max_size=limits.CODE_BYTES_MAX),
    actor=st.binary(max_size=limits.ACTOR_BYTES_MAX // 2).map(bytes.hex),
)


@given(st.lists(receipts, min_size=1, max_size=8))
def test_receipts_come_back_as_they_were_signed(listed: list[Receipt]) -> None:
    """Many receipts share one signature; each survives, in order."""
    data = encode_receipts(listed)
    assert decode_receipts_untrusted(data) == tuple(listed)


def test_the_fullest_receipt_message_fits_one_body_and_the_decoder() -> None:
    """256 receipts with the longest code and actor stay within the limits that sealing and wire set."""
    fullest = Receipt(
        alert_id=b"\xff" * 32,
        hh=b"\xff" * 32,
        state=ReceiptState.DELIVERED,
        at_ms=limits.TIME_MS_MAX,
        log_index=2**64 - 1,
        code="c" * limits.CODE_BYTES_MAX,
        actor="f" * limits.ACTOR_BYTES_MAX,
    )
    listed = [fullest] * limits.RECEIPTS_PER_MESSAGE_MAX
    data = encode_receipts(listed)
    assert len(data) <= limits.BODY_BYTES_MAX
    assert decode_receipts_untrusted(data) == tuple(listed)


@given(st.binary(max_size=300))
def test_hostile_receipts_are_malformed_or_canonical(data: bytes) -> None:
    """Whatever a peer signs, the decoder returns receipts or MalformedInput."""
    with contextlib.suppress(MalformedInput):
        assert encode_receipts(decode_receipts_untrusted(data)) == data


def a_receipt(**changed: wire.Value) -> wire.Value:
    """The wire form of a good receipt with some fields changed."""
    return {"a": bytes(32), "h": bytes(32), "s": "opened", "t": 1, "i": 2, "c": "", "w": "", **changed}


@pytest.mark.parametrize(
    "value",
    [
        [],
        a_receipt(),
        [a_receipt()] * 257,
        [a_receipt(s="held")],
        [a_receipt(s="read")],
        [a_receipt(a=bytes(31))],
        [a_receipt(t=limits.TIME_MS_MAX + 1)],
        [a_receipt(c="Not a code")],
        [a_receipt(c="c" * 49)],
        [a_receipt(w="abc")],
        [a_receipt(w="AB")],
        [a_receipt(extra=1)],
    ],
)
def test_a_wrong_receipt_is_refused(value: wire.Value) -> None:
    """No rung but the five, no held from a peer, no text where a code or a pseudonym stands."""
    with pytest.raises(MalformedInput):
        decode_receipts_untrusted(wire.encode(value))


def test_the_ladder_only_climbs() -> None:
    """In whatever order receipts arrive, the screen ends on the highest rung of them."""
    for order in permutations(LADDER):
        rung: ReceiptState | None = None
        for state in order:
            higher = advance(rung, state)
            assert rung is None or LADDER.index(higher) >= LADDER.index(rung)
            rung = higher
        assert rung is ReceiptState.ERASED


def test_a_refusal_stands_above_the_brokers_word_and_below_every_acceptance() -> None:
    """An item refused in one delivery and accepted in another was delivered."""
    assert advance(ReceiptState.HELD, ReceiptState.REFUSED) is ReceiptState.REFUSED
    assert advance(ReceiptState.REFUSED, ReceiptState.HELD) is ReceiptState.REFUSED
    assert advance(ReceiptState.REFUSED, ReceiptState.DELIVERED) is ReceiptState.DELIVERED
    assert advance(ReceiptState.OPENED, ReceiptState.REFUSED) is ReceiptState.OPENED
