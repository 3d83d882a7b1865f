"""Proofs that an office signed what cannot both be true, checked by somebody who trusts neither."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import labels
from keys.card import encode_certificate
from keys.errors import MalformedInput, VerificationFailed
from protocol.evidence import (
    Clash,
    Proof,
    SignedVersion,
    check_proof,
    decode_proof_untrusted,
    encode_proof,
    follows_a_loss,
)
from protocol.items import Acknowledgement, HeartBeat, ReceivedRange, encode_items
from protocol.message import LeafOpening, MessageType, parse_header_untrusted
from tests.protocol.offices import MAE_SAI, MYITKYINA, TENGCHONG, an_opening, certificate_of, signed_message

ROOT = MYITKYINA.root.public_bytes
HERE = MYITKYINA.instance
ACKNOWLEDGES = encode_items(
    [
        Acknowledgement(
            key_version=1,
            instance=b"8 bytes.",
            ranges=(ReceivedRange(instance=b"8 bytes!", contiguous_to=9, bitmap=0),),
        )
    ]
)


def _version(opening: LeafOpening, core: bytes) -> SignedVersion:
    message = signed_message(MessageType.CONTROL, core, opening=opening)
    return SignedVersion(
        header=message.header,
        signature=message.signature,
        opening=opening.encode(),
        instance=MYITKYINA.instance,
    )


def _beat(number: int) -> bytes:
    return encode_items([HeartBeat(highest_seq=number, at_ms=number)])


def _proof(*versions: SignedVersion, said: bytes = b"") -> Proof:
    certificates = (certificate_of(MYITKYINA),)
    return Proof(recipient=TENGCHONG.id, certificates=certificates, versions=versions, said=said)


SAME_NUMBER = _proof(_version(an_opening(7), _beat(1)), _version(an_opening(7), _beat(2)))


def test_a_proof_shows_what_it_is_about() -> None:
    """One number, one predecessor, one acknowledgement: each by its name, through its bytes."""
    previous = an_opening(7, pair_prev=b"p" * 32), an_opening(8, pair_prev=b"p" * 32)
    after_one = _proof(*(_version(opening, _beat(1)) for opening in previous))
    ahead = _proof(_version(an_opening(3), ACKNOWLEDGES), said=ACKNOWLEDGES)
    for proof, shown in (
        (SAME_NUMBER, Clash.NUMBER),
        (after_one, Clash.PREVIOUS),
        (ahead, Clash.AHEAD),
    ):
        assert check_proof(decode_proof_untrusted(encode_proof(proof)), ROOT) is shown


@pytest.mark.parametrize("kind", [MessageType.RESET, MessageType.CARD])
def test_an_acknowledgement_behind_a_certificate_is_shown_too(kind: MessageType) -> None:
    """A peer does not escape its proof by saying it where the core begins with a certificate."""
    core = encode_certificate(certificate_of(MYITKYINA)) + ACKNOWLEDGES
    message = signed_message(kind, core, opening=an_opening(3))
    version = SignedVersion(
        header=message.header,
        signature=message.signature,
        opening=an_opening(3).encode(),
        instance=MYITKYINA.instance,
    )
    proof = decode_proof_untrusted(encode_proof(_proof(version, said=core)))
    assert check_proof(proof, ROOT) is Clash.AHEAD


def test_what_can_be_true_proves_nothing() -> None:
    """Two first messages, two numbers, one message twice, an acknowledgement nobody signed."""
    one, two = _version(an_opening(1), _beat(1)), _version(an_opening(2), _beat(2))
    for proof in (
        _proof(one, two),
        _proof(one, one),
        _proof(one, said=ACKNOWLEDGES),
        _proof(one, said=_beat(1)),
    ):
        with pytest.raises(VerificationFailed, match="proof_empty"):
            check_proof(proof, ROOT)


def _in_the_name_of_another(number: int) -> SignedVersion:
    """Signed by the accused, as a message of a third office."""
    header = parse_header_untrusted(_version(an_opening(7), _beat(number)).header)
    encoded = replace(header, sender=MAE_SAI.id).encode()
    signature = MYITKYINA.operational.sign(labels.MESSAGE, encoded)
    return SignedVersion(header=encoded, signature=signature, opening=an_opening(7).encode(), instance=HERE)


def test_only_signatures_of_the_accused_meant_for_the_accuser_count() -> None:
    """Another root, another recipient, no certificate, a flipped bit of signature, header or opening."""
    first, second = SAME_NUMBER.versions

    def flipped(data: bytes, at: int) -> bytes:
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    for proof, root in (
        (SAME_NUMBER, TENGCHONG.root.public_bytes),
        (replace(SAME_NUMBER, recipient=MYITKYINA.id), ROOT),
        (replace(SAME_NUMBER, certificates=()), ROOT),
        (_proof(replace(first, signature=flipped(first.signature, 0)), second), ROOT),
        (_proof(replace(first, signature=flipped(first.signature, 3372)), second), ROOT),
        (_proof(replace(first, header=flipped(first.header, 10)), second), ROOT),
        (_proof(replace(first, opening=flipped(first.opening, 0)), second), ROOT),
        (_proof(*(_in_the_name_of_another(number) for number in (1, 2))), ROOT),
    ):
        with pytest.raises(VerificationFailed):
            check_proof(proof, root)


def test_a_loss_declared_under_a_newer_key_excuses_one_predecessor_twice() -> None:
    """Another instance alone does not, and another key alone does not."""
    header = parse_header_untrusted(SAME_NUMBER.versions[0].header)
    elsewhere, later = replace(header, instance=b"another."), replace(header, key_version=2)
    assert follows_a_loss(header, replace(elsewhere, key_version=2))
    assert not follows_a_loss(header, elsewhere)
    assert not follows_a_loss(header, later)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_proof_are_malformed(data: bytes) -> None:
    """Whatever is handed in as a file, nothing but MalformedInput leaves the reader."""
    with contextlib.suppress(MalformedInput):
        decode_proof_untrusted(data)


@given(st.data())
def test_a_damaged_proof_is_malformed_or_proves_nothing(data: st.DataObject) -> None:
    """One changed byte anywhere: it does not decode, or does not verify, or says exactly the same."""
    whole = bytearray(encode_proof(SAME_NUMBER))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    try:
        damaged = decode_proof_untrusted(bytes(whole))
    except MalformedInput:
        return
    with pytest.raises((VerificationFailed, MalformedInput)):
        check_proof(damaged, ROOT)
