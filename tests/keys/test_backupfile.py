"""The backup file as a container: what goes in comes out, and nothing else is ever taken for it."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys import labels
from keys.backupfile import (
    HEADER_BYTES,
    PART_BYTES_MAX,
    PART_HEAD_BYTES,
    begin_backup,
    damaged,
    open_header_untrusted,
    read_part_head_untrusted,
)
from keys.errors import MalformedInput, PolicyRefused
from keys.keystore import KdfParameters
from keys.primitives import AEAD_NONCE_BYTES, AEAD_OVERHEAD_BYTES, HASH_BYTES, labelled_hash
from keys.secret import SecretBytes
from tests.keys.builders import drawn

CHEAP = KdfParameters(memory_kib=8, iterations=1, lanes=1)
PASSPHRASE = SecretBytes(b"paper stone scissors well")
PARTS = st.lists(st.binary(max_size=400), min_size=1, max_size=5)


def counted(seed: int = 0) -> Callable[[int], bytes]:
    """Randomness that never repeats."""
    numbers = itertools.count()
    return lambda size: drawn(f"backup {seed} {next(numbers)}", size)


def sealed(parts: list[bytes], seed: int = 0) -> bytes:
    """A whole file."""
    random = counted(seed)
    key = begin_backup(PASSPHRASE, random=random, kdf=CHEAP)
    last = len(parts) - 1
    return key.header + b"".join(
        key.seal_part(number, part, is_last=number == last, random=random)
        for number, part in enumerate(parts)
    )


def opened(data: bytes, passphrase: SecretBytes = PASSPHRASE) -> list[bytes]:
    """Its parts, read as a restore reads them."""
    key = open_header_untrusted(data[:HEADER_BYTES], passphrase)
    parts: list[bytes] = []
    at, is_last = HEADER_BYTES, False
    while not is_last:
        size, is_last = read_part_head_untrusted(data[at : at + PART_HEAD_BYTES])
        at += PART_HEAD_BYTES
        if len(data) < at + size:
            raise damaged("it is cut off")
        parts.append(key.open_part(len(parts), data[at : at + size], is_last=is_last))
        at += size
    if at != len(data):
        raise damaged("something follows its end")
    return parts


def is_damaged(data: bytes) -> bool:
    """Whether it is refused by the one error of a file that is not whole."""
    try:
        opened(data)
    except MalformedInput as error:
        return error.code == "backup_damaged"
    return False


@settings(max_examples=40, deadline=None)
@given(parts=PARTS)
def test_any_parts_come_back(parts: list[bytes]) -> None:
    """In their order, with their lengths; empty ones too."""
    assert opened(sealed(parts)) == parts


@settings(max_examples=150, deadline=None)
@given(parts=PARTS, data=st.data())
def test_any_change_is_damage_or_another_passphrase(parts: list[bytes], data: st.DataObject) -> None:
    """One byte changed, cut anywhere, anything behind it: never other content, never another error."""
    whole = sealed(parts)
    at = data.draw(st.integers(0, len(whole) - 1))
    turned = bytearray(whole)
    turned[at] ^= data.draw(st.integers(1, 255))
    # Salt, cost and check stand under a hash without a key: whoever changes one byte did not make it anew.
    assert is_damaged(bytes(turned))
    assert is_damaged(whole[:at])
    assert is_damaged(whole + data.draw(st.binary(min_size=1, max_size=40)))


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.binary(max_size=60), min_size=2, max_size=5, unique=True), data=st.data())
def test_parts_keep_their_places(parts: list[bytes], data: st.DataObject) -> None:
    """Two of them swapped, one left out or twice, one of another file under the same passphrase."""
    whole, other = sealed(parts), sealed(parts, seed=1)
    pieces, at = [], HEADER_BYTES
    for _ in parts:
        size, _ = read_part_head_untrusted(whole[at : at + PART_HEAD_BYTES])
        pieces.append((at, at + PART_HEAD_BYTES + size))
        at = pieces[-1][1]
    cut = [whole[start:end] for start, end in pieces]
    one = data.draw(st.integers(0, len(cut) - 1))
    two = data.draw(st.integers(0, len(cut) - 1).filter(lambda number: number != one))
    swapped = cut.copy()
    swapped[one], swapped[two] = swapped[two], swapped[one]
    left_out = cut[:one] + cut[one + 1 :]
    twice = cut[: one + 1] + cut[one:]
    foreign = cut.copy()
    foreign[one] = other[pieces[one][0] : pieces[one][1]]
    # Cut between two parts, and the one before said to be the last: its flag is sealed with it.
    shorter = cut[: min(one, two) + 1]
    head, tail = shorter[-1][: PART_HEAD_BYTES - 1], shorter[-1][PART_HEAD_BYTES:]
    shorter[-1] = head + b"\x01" + tail
    for changed in (swapped, left_out, twice, foreign, shorter):
        assert is_damaged(whole[:HEADER_BYTES] + b"".join(changed))


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300), front=st.integers(0, HEADER_BYTES))
def test_any_other_bytes_are_damage(data: bytes, front: int) -> None:
    """Also behind the beginning of a real header."""
    assert is_damaged(data)
    assert is_damaged(sealed([b"content"])[:front] + data)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_header_made_anew_costs_no_more_than_is_allowed(data: st.DataObject) -> None:
    """Whoever makes the hash anew gets one of our refusals, within the bounds of memory and passes."""
    head = bytearray(sealed([b"content"])[: HEADER_BYTES - HASH_BYTES])
    # The length in the header is where its hash is looked for.
    at = data.draw(st.sampled_from([n for n in range(4, len(head)) if n not in (5, 6)]))
    head[at] ^= data.draw(st.integers(1, 255))
    planted = bytes(head) + labelled_hash(labels.BACKUP_HEADER, bytes(head))
    paid: list[tuple[int, int, int]] = []

    def free(*_: object, memory_kib: int, iterations: int, lanes: int, length: int) -> SecretBytes:
        paid.append((memory_kib, iterations, lanes))
        return SecretBytes(bytes(length))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keys.backupfile.argon2id", free)
        with pytest.raises((MalformedInput, PolicyRefused)) as caught:
            open_header_untrusted(planted, PASSPHRASE)
    assert caught.value.code == (
        "backup_newer_version" if at == 4 and head[4] > 1
        else "backup_wrong_passphrase" if paid
        else "backup_damaged"
    )  # fmt: skip
    assert all(m <= 1024 * 1024 and t <= 16 and 8 * p <= m and p <= 8 for m, t, p in paid)


@pytest.mark.parametrize(
    "size", [0, 39, AEAD_NONCE_BYTES + PART_BYTES_MAX + AEAD_OVERHEAD_BYTES + 1, 2**32 - 1]
)
def test_a_part_of_impossible_length_costs_nothing(size: int) -> None:
    """It is refused by its head, before anything is read or reserved for it."""
    with pytest.raises(MalformedInput, match="impossible length"):
        read_part_head_untrusted(size.to_bytes(4, "big") + b"\x01")


def test_a_wrong_passphrase_is_told_from_damage() -> None:
    """By the check in the header, without a part."""
    with pytest.raises(PolicyRefused) as caught:
        opened(sealed([b"content"]), SecretBytes(b"another passphrase"))
    assert caught.value.code == "backup_wrong_passphrase"
