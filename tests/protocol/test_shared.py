"""One message to several: what each of them can open, and what it cannot learn of the others."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused, VerificationFailed
from protocol import limits, requests, wire
from protocol.conversation import Judgement
from protocol.evidence import (
    Clash,
    Proof,
    SignedVersion,
    check_proof,
    decode_proof_untrusted,
    encode_proof,
)
from protocol.message import LeafOpening, SignedMessage, parse_header_untrusted, place, shared_leaves
from protocol.requests import Put
from protocol.sealing import (
    OpenedAlert,
    OpenedBodyless,
    PendingPair,
    Recipient,
    open_envelope_untrusted,
    seal,
)
from tests.protocol.offices import (
    MAE_SAI,
    MYITKYINA,
    TENGCHONG,
    Desk,
    Office,
    certificate_of,
    counting_random,
    released,
    shared_opening,
    signed_shared,
    vehicle_alert,
)

MANY = limits.RECIPIENTS_MAX


@cache
def office(number: int) -> Office:
    """A partner of the sender; one root for all would give them one id."""
    return Office(f"Office {number}")


def some_ids(count: int, name: str) -> list[bytes]:
    random = counting_random(f"ids {name}")
    return [random(32) for _ in range(count)]


def addressed(
    recipients: Sequence[Office], *, name: str = "release"
) -> tuple[SignedMessage, list[Recipient]]:
    """Signed once to these, and what each copy is sealed with."""
    alert = released(vehicle_alert(), audience=[recipient.id for recipient in recipients], name=name)
    to = [
        Recipient(
            office_id=recipient.id,
            instance=MYITKYINA.instance,
            opening=shared_opening(alert, recipient),
            receive_key_id=recipient.receive_key_id,
            receive_key_public=recipient.receive_key.public_bytes,
        )
        for recipient in recipients
    ]
    return signed_shared(alert, recipients), to


send = partial(seal, sender=MYITKYINA.id, random=counting_random("shared"))


def test_256_recipients_open_one_blob_and_are_256_places() -> None:
    """Each opens its own copy and no other; every place, number in the logs and envelope differs."""
    everybody = [office(number) for number in range(MANY)]
    message, to = addressed(everybody)
    envelopes = send(message, to)
    assert len({envelope[limits.BLOB_OFFSET_BYTES :] for envelope in envelopes}) == 1
    assert {len(envelope) for envelope in envelopes} == {limits.ENVELOPE_BUCKETS_BYTES[2]}
    opened = [
        open_envelope_untrusted(envelope, Desk(me=me))
        for me, envelope in zip(everybody, envelopes, strict=True)
    ]
    assert all(isinstance(found, OpenedAlert) for found in opened)
    found = [one for one in opened if isinstance(one, OpenedAlert)]
    assert len({one.alert_id for one in found}) == 1
    assert len({one.hh for one in found}) == len({one.header.msg_id for one in found}) == MANY
    assert {one.header.instance for one in found} == {MYITKYINA.instance}
    with pytest.raises(PolicyRefused, match="audience_too_large"):
        addressed([*everybody, office(MANY)])


@settings(max_examples=25)
@given(st.integers(2, 40), st.integers(2, 40))
def test_what_a_recipient_reads_tells_only_the_power_of_two(one: int, other: int) -> None:
    """Same length and same form for every audience of the same power of two; no id in any of it."""
    messages = []
    for count in (one, other):
        ids = some_ids(count, f"{one} {other} {count}")
        alert = released(vehicle_alert(), audience=ids, name=f"hiding {one} {other} {count}")
        openings = {chosen: _opening(alert.place_of(chosen)) for chosen in ids}
        taken = {o.leaf_index: o.shared_leaf(chosen, MYITKYINA.instance) for chosen, o in openings.items()}
        leaves = shared_leaves(alert, taken, counting_random(f"leaves {count}"))
        padded = 1 << (count - 1).bit_length()
        assert len(leaves) == len(set(leaves)) == len(alert.audience_leaves) == padded
        said = b"".join(leaves) + b"".join(alert.audience_leaves) + alert.core + alert.disclosures
        assert not any(chosen in said for chosen in ids)
        # Every recipient's place is its own, and both trees agree on it.
        assert len(taken) == count
        messages.append((padded, len(said)))
    if messages[0][0] == messages[1][0]:
        assert messages[0] == messages[1]


def _opening(drawn: tuple[bytes, int]) -> LeafOpening:
    blind, leaf_index = drawn
    return LeafOpening(
        blind=blind, leaf_index=leaf_index, pair_seq=1, rk_first=1, rk_known=bytes(8), pair_prev=bytes(32)
    )


def test_five_and_eight_recipients_look_alike() -> None:
    """To whoever opens a copy, and to the broker that holds it."""
    five, eight = (addressed([office(number) for number in range(count)]) for count in (5, 8))
    assert len(five[0].to_bytes()) == len(eight[0].to_bytes())
    assert len(five[0].header) == len(eight[0].header)
    assert {len(envelope) for envelope in send(*five)} == {len(envelope) for envelope in send(*eight)}


def test_one_recipient_cannot_pass_it_on_to_another() -> None:
    """Not under its own opening, nor under one that it guesses: the leaf names the office and its pair."""
    message, (mine, theirs) = addressed([TENGCHONG, MAE_SAI])
    redirected = replace(
        mine, office_id=MAE_SAI.id, receive_key_id=theirs.receive_key_id,
        receive_key_public=theirs.receive_key_public,
    )  # fmt: skip
    for opening in (mine.opening, replace(mine.opening, leaf_index=theirs.opening.leaf_index)):
        (envelope,) = send(message, [replace(redirected, opening=opening)])
        with pytest.raises(VerificationFailed, match="not_for_me"):
            open_envelope_untrusted(envelope, Desk(me=MAE_SAI))


def test_sealed_again_alone_it_is_the_same_delivery_around_another_blob() -> None:
    """Whole, or without its body: hh, number and message id stay, the content key does not."""
    message, to = addressed([TENGCHONG, MAE_SAI])
    first = send(message, to)
    (again,) = send(message, to[:1])
    (bare,) = send(message, to[:1], bodyless=True)
    assert again[limits.BLOB_OFFSET_BYTES :] != first[0][limits.BLOB_OFFSET_BYTES :]
    whole, repeated, bodyless = (open_envelope_untrusted(e, Desk()) for e in (first[0], again, bare))
    assert isinstance(whole, OpenedAlert)
    assert isinstance(repeated, OpenedAlert)
    assert isinstance(bodyless, OpenedBodyless)
    there = place(message.header, to[0].opening, TENGCHONG.id, MYITKYINA.instance)
    for found in (whole, repeated, bodyless):
        assert (found.hh, found.header) == (there.hh, there.header)


def test_a_leaf_that_no_known_instance_opens_marks_nothing() -> None:
    """Whatever else is wrong with it: that its number was given to us is not shown yet."""
    message, to = addressed([TENGCHONG, MAE_SAI])
    (envelope,) = send(message, [replace(to[0], instance=b"another!")])
    strict = Desk(known=replace(MYITKYINA.as_peer(), minimum_suite=2), judgement=Judgement.NEW)
    found = open_envelope_untrusted(envelope, strict)
    assert isinstance(found, PendingPair)
    assert found.code == "other_instance"
    assert strict.asked == []


def test_two_shared_messages_under_one_number_are_proof() -> None:
    """Header, signature and leaf of each suffice; one of them twice, or for another instance, does not."""
    versions = []
    for name in ("one", "two"):
        message, to = addressed([TENGCHONG, MAE_SAI], name=name)
        versions.append(
            SignedVersion(
                header=message.header,
                signature=message.signature,
                opening=to[0].opening.encode(),
                instance=MYITKYINA.instance,
            )
        )
    proof = Proof(recipient=TENGCHONG.id, certificates=(certificate_of(MYITKYINA),), versions=tuple(versions))
    root = MYITKYINA.root.public_bytes
    assert check_proof(decode_proof_untrusted(encode_proof(proof)), root) is Clash.NUMBER
    with pytest.raises(VerificationFailed, match="proof_empty"):
        check_proof(replace(proof, versions=(versions[0], versions[0])), root)
    elsewhere = replace(versions[1], instance=b"another!")
    with pytest.raises(VerificationFailed, match="proof_signature"):
        check_proof(replace(proof, versions=(versions[0], elsewhere)), root)


def test_a_shared_header_is_made_for_exactly_its_audience() -> None:
    """Nobody's leaf is left out of the padding, and none stands alone."""
    alert = released(vehicle_alert(), audience=[TENGCHONG.id])
    with pytest.raises(BrokenInvariant, match="leaves_wrong"):
        signed_shared(alert, [TENGCHONG])
    message, _ = addressed([TENGCHONG, MAE_SAI])
    assert parse_header_untrusted(message.header).instance == bytes(limits.INSTANCE_BYTES)


def test_a_small_request_never_grows_large_in_memory() -> None:
    """256 heads around the largest blob are refused before one envelope is put together."""
    blob = bytes(limits.ENVELOPE_BYTES_MAX - limits.BLOB_OFFSET_BYTES)
    heads: list[wire.Value] = [[bytes(32), bytes(limits.BLOB_OFFSET_BYTES), False]] * MANY
    large: list[wire.Value] = [{"k": "puts", "b": blob, "t": heads}]
    tracemalloc.start()
    try:
        with pytest.raises(MalformedInput, match="op_count"):
            requests._ops_from_wire(large)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limits.ENVELOPE_BYTES_MAX


def test_half_of_a_shared_run_is_put_with_what_it_has_left() -> None:
    """Puts that were separated by another keep their order and their answers."""
    envelope = b"h" * limits.BLOB_OFFSET_BYTES + b"b" * 64
    puts = [Put(put_secret=bytes([n]) * 32, envelope=bytes([n]) + envelope[1:]) for n in range(4)]
    other = Put(put_secret=b"o" * 32, envelope=b"x" * len(envelope))
    asked = (puts[0], puts[1], other, puts[2], puts[3])
    assert requests._ops_from_wire(requests._ops_to_wire(asked)) == asked
