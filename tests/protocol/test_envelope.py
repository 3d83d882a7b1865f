"""The outside of an envelope, as a broker reads it."""

import contextlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import BrokenInvariant, MalformedInput
from protocol import limits
from protocol.envelope import BUCKETS, Envelope, envelope_hash, parse_envelope_untrusted


@pytest.mark.parametrize("size_bytes", BUCKETS)
def test_an_item_is_taken_apart_at_the_offsets_of_the_spec(size_bytes: int) -> None:
    """Version at 0, receive key id at 1, wrap at 9, blob at 1257, and back to the same bytes."""
    data = b"\x01" + bytes(i % 251 for i in range(size_bytes - 1))
    envelope = parse_envelope_untrusted(data)
    assert (envelope.key_id, envelope.wrap, envelope.blob) == (data[1:9], data[9:1257], data[1257:])
    assert envelope.to_bytes() == data


@pytest.mark.parametrize(
    "size_bytes", sorted({0, 1, 1257, *(b + d for b in BUCKETS for d in (-1, 1)), 131_072})
)
def test_any_other_size_is_refused(size_bytes: int) -> None:
    """Only four sizes exist: one byte more or less is not an envelope."""
    with pytest.raises(MalformedInput, match="envelope_size"):
        parse_envelope_untrusted(b"\x01" * size_bytes)


@given(st.integers(0, 255))
def test_any_other_version_is_refused(version: int) -> None:
    """There is no negotiation: one version, everything else is malformed."""
    data = bytes([version]) + bytes(8191)
    if version == 1:
        parse_envelope_untrusted(data)
    else:
        with pytest.raises(MalformedInput, match="envelope_version"):
            parse_envelope_untrusted(data)


@given(st.binary(max_size=300) | st.binary(min_size=8192, max_size=8192))
def test_any_bytes_are_an_envelope_or_malformed_input(data: bytes) -> None:
    """Whatever a broker is handed, it gets an envelope or MalformedInput."""
    with contextlib.suppress(MalformedInput):
        assert parse_envelope_untrusted(data).to_bytes() == data


def test_every_bit_is_in_the_hash() -> None:
    """The name of an item at a broker changes with any of its bits."""
    data = b"\x01" + bytes(8191)
    flipped = {envelope_hash(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) for at in range(0, 8192, 97)}
    assert envelope_hash(data) not in flipped
    assert len(flipped) == len(range(0, 8192, 97))


@pytest.mark.parametrize(("key_id_bytes", "wrap_bytes", "blob_bytes"), [(7, 1248, 6936), (8, 1248, 6934)])
def test_parts_that_make_no_item_are_our_own_bug(key_id_bytes: int, wrap_bytes: int, blob_bytes: int) -> None:
    """A sealed item of a fifth size never leaves."""
    envelope = Envelope(key_id=bytes(key_id_bytes), wrap=bytes(wrap_bytes), blob=bytes(blob_bytes))
    with pytest.raises(BrokenInvariant, match="envelope_size"):
        envelope.to_bytes()


def test_the_outside_is_read_without_anything_that_could_open_it() -> None:
    """A broker that imports this file has imported neither sealing, alert, disclosures nor release."""
    script = "import sys, protocol.envelope; print(*(n for n in sys.modules if n.startswith('protocol')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"protocol", "protocol.envelope", "protocol.limits"}


def test_the_spec_numbers_stand_in_one_place() -> None:
    """The offsets used here are those of limits."""
    assert (1 + limits.KEY_ID_BYTES, limits.BLOB_OFFSET_BYTES) == (9, 1257)
