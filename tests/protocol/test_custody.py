"""Custody notes: one signature for a batch, each note evidence by itself."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import BrokenInvariant, MalformedInput, VerificationFailed
from keys.primitives import Ed25519PrivateKey
from keys.secret import SecretBytes
from protocol import limits
from protocol.custody import Custody, sign_custody, verify_custody

KEY = Ed25519PrivateKey.from_seed(SecretBytes(b"\x03" * 32))
OTHER = Ed25519PrivateKey.from_seed(SecretBytes(b"\x04" * 32))


def note(index: int) -> Custody:
    """The broker's word about one envelope, unsigned."""
    return Custody(
        origin="salween/broker/test/log1",
        put_capability_hash=bytes([index % 7]) * 32,
        envelope_hash=index.to_bytes(32, "big"),
        size_bytes=8_192,
        log_index=100 + index,
        time_ms=1_800_000_000_000 + index,
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 31, 33, 255, 256])
def test_every_note_of_a_batch_verifies_alone(count: int) -> None:
    """Stored and exported one by one, each still rests on the broker's one signature."""
    for signed in sign_custody([note(index) for index in range(count)], KEY):
        kept = Custody.decode_untrusted(signed.encode())
        assert kept == signed
        verify_custody(kept, KEY.public_bytes)
        with pytest.raises(VerificationFailed):
            verify_custody(kept, OTHER.public_bytes)


@given(st.integers(1, 20), st.data())
def test_no_part_of_a_note_can_be_changed(count: int, data: st.DataObject) -> None:
    """Place, name, mailbox, size, index, time and the proof itself stand under the signature."""
    notes = sign_custody([note(index) for index in range(count)], KEY)
    good = notes[data.draw(st.integers(0, count - 1))]
    forged = data.draw(
        st.sampled_from(
            [
                replace(good, origin="salween/broker/other/log1"),
                replace(good, put_capability_hash=b"\xff" * 32),
                replace(good, envelope_hash=b"\xff" * 32),
                replace(good, size_bytes=16_384),
                replace(good, log_index=good.log_index + 1),
                replace(good, time_ms=good.time_ms + 1),
                replace(good, path=(*good.path, bytes(32))),
                replace(good, path=(bytes(32), *good.path[1:])),
                replace(good, signature=bytes(64)),
                replace(good, batch_index=good.batch_count),
                replace(good, batch_count=0),
            ]
        )
    )
    with pytest.raises(VerificationFailed):
        verify_custody(forged, KEY.public_bytes)


def test_a_path_that_is_cut_does_not_verify() -> None:
    """A node of the tree is no note."""
    good = sign_custody([note(index) for index in range(5)], KEY)[0]
    with pytest.raises(VerificationFailed):
        verify_custody(replace(good, path=good.path[:-1]), KEY.public_bytes)


def test_the_fullest_note_stays_within_a_kibibyte() -> None:
    """The longest origin and the longest path fit what the decoder takes."""
    fullest = replace(note(1), origin="o" * limits.BROKER_ORIGIN_BYTES_MAX, log_index=2**64 - 1)
    signed = sign_custody([fullest] * limits.OPS_PER_REQUEST_MAX, KEY)[17]
    assert Custody.decode_untrusted(signed.encode()) == signed


@pytest.mark.parametrize("count", [0, 257])
def test_a_batch_has_a_size(count: int) -> None:
    """No empty signature and no endless tree."""
    with pytest.raises(BrokenInvariant):
        sign_custody([note(index) for index in range(count)], KEY)


@given(st.binary(max_size=400))
def test_hostile_notes_are_malformed(data: bytes) -> None:
    """Whatever is shown as a note, the decoder returns one or MalformedInput."""
    with contextlib.suppress(MalformedInput):
        assert Custody.decode_untrusted(data).encode() == data


@given(st.data())
def test_a_changed_byte_of_a_note_is_malformed_or_does_not_verify(data: st.DataObject) -> None:
    """No single changed bit survives decoding and verification."""
    encoded = bytearray(sign_custody([note(index) for index in range(3)], KEY)[2].encode())
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((MalformedInput, VerificationFailed)):
        verify_custody(Custody.decode_untrusted(bytes(encoded)), KEY.public_bytes)
