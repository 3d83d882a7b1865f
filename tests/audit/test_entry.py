"""Entries: one encoding, closed kinds, no free text."""

import contextlib
import json
import re
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.entry import (
    COMMON,
    ENTRY_BYTES_MAX,
    INT_LIMIT,
    TYPES,
    Kind,
    decode_entry_untrusted,
    encode_entry,
    glance_untrusted,
)
from keys.errors import BrokenInvariant, MalformedInput

A_SEAL: dict[str, Any] = {
    "v": 1,
    "t": "msg.seal",
    "seq": 7,
    "ts": 1_800_000_000_000_000,
    "bt": "00112233445566ff",
    "mo": 12,
    "z": "0f" * 16,
    "msg": "aa" * 16,
    "hh": "bb" * 32,
    "inst": "cc" * 8,
    "ps": 1,
    "att": 1,
    "env": "dd" * 32,
    "via": "usb",
}


@cache
def a_value(kind: Kind) -> st.SearchStrategy[Any]:
    """Any value of a kind."""
    return st.from_regex(kind.pattern, fullmatch=True).map(json.loads)


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    """Any entry of any known type."""
    name = draw(st.sampled_from(sorted(TYPES)))
    known = TYPES[name]
    entry: dict[str, Any] = {key: draw(a_value(kind)) for key, kind in COMMON.items() if key != "t"}
    entry["t"] = name
    entry |= {key: draw(a_value(kind)) for key, kind in known.required.items()}
    chosen = draw(st.sets(st.sampled_from(sorted(known.optional)))) if known.optional else set()
    return entry | {key: draw(a_value(known.optional[key])) for key in sorted(chosen)}


@given(entries())
def test_every_known_entry_comes_back_as_it_was(entry: dict[str, Any]) -> None:
    """Encoding and decoding are each other's inverse, and the quick look agrees with the slow one."""
    data = encode_entry(entry)
    assert decode_entry_untrusted(data) == entry
    assert glance_untrusted(data) == (entry["seq"], entry["ts"], entry["t"])


@given(st.binary(max_size=200) | st.text().map(str.encode) | entries().map(json.dumps).map(str.encode))
def test_decoding_raises_nothing_but_malformed_input(data: bytes) -> None:
    """Whatever lies in a bundle, an entry decodes to its own canonical bytes or is MalformedInput."""
    for read in (decode_entry_untrusted, glance_untrusted):
        with contextlib.suppress(MalformedInput):
            read(data)
            entry = json.loads(data)
            assert json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() == data


@given(entries(), st.data())
def test_the_quick_look_accepts_nothing_the_decoder_refuses(
    entry: dict[str, Any], data: st.DataObject
) -> None:
    """One byte replaced, removed or inserted: both readers decide alike."""
    encoded = bytearray(encode_entry(entry))
    at = data.draw(st.integers(0, len(encoded) - 1))
    change = data.draw(st.sampled_from([b"", b"0", b'"', b",", b"}", b"\\", b" ", b"\x80", b"00", b"1."]))
    encoded[at : at + 1] = change
    outcomes = []
    for read in (decode_entry_untrusted, glance_untrusted):
        try:
            read(bytes(encoded))
            outcomes.append(True)
        except MalformedInput:
            outcomes.append(False)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    "change",
    [
        {"via": "pigeon"},
        {"msg": "AA" * 16},
        {"msg": "aa" * 15},
        {"ps": -1},
        {"ps": INT_LIMIT},
        {"ps": 1.0},
        {"ps": True},
        {"ps": "1"},
        {"note": "white pickup"},
        {"t": "msg.unknown"},
        {"v": 2},
        {"z": None},
        {"bt": "0011"},
    ],
)
def test_our_own_code_cannot_record_what_a_verifier_would_refuse(change: dict[str, Any]) -> None:
    """A wrong kind, an unknown field or free text is our bug, found before it is committed."""
    with pytest.raises(BrokenInvariant, match="bad_entry"):
        encode_entry(A_SEAL | change)


def test_a_missing_field_is_named() -> None:
    """The error says which field of which type is missing."""
    with pytest.raises(BrokenInvariant, match=r"msg\.seal lacks hh"):
        encode_entry({key: value for key, value in A_SEAL.items() if key != "hh"})


CANONICAL = encode_entry(A_SEAL)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        CANONICAL + b" ",
        CANONICAL + b"\n",
        b" " + CANONICAL,
        CANONICAL[:-1],
        CANONICAL.replace(b'"ps":1', b'"ps": 1'),
        CANONICAL.replace(b'"ps":1', b'"ps":01'),
        CANONICAL.replace(b'"ps":1', b'"ps":1.0'),
        CANONICAL.replace(b'"ps":1', b'"ps":1e0'),
        CANONICAL.replace(b'"ps":1', b'"ps":-0'),
        CANONICAL.replace(b'"ps":1', b'"ps":NaN'),
        CANONICAL.replace(b'"ps":1', b'"ps":true'),
        CANONICAL.replace(b'"ps":1', b'"ps":null'),
        CANONICAL.replace(b'"ps":1', b'"ps":9007199254740992'),
        CANONICAL.replace(b'"ps":1', b'"ps":1,"ps":1'),
        CANONICAL.replace(b'"usb"', b'"\\u0075sb"'),
        CANONICAL.replace(b'"usb"', '"u\u0455b"'.encode()),
        CANONICAL.replace(b'"v":1', b'"v":2'),
        CANONICAL.replace(b"msg.seal", b"later.thing").replace(b'"via":"usb",', b'"via":null,'),
        b'{"a":' * 600 + b"1" + b"}" * 600,
        b"[" * ENTRY_BYTES_MAX,
        b"9" * ENTRY_BYTES_MAX,
        CANONICAL + b" " * ENTRY_BYTES_MAX,
    ],
)
def test_any_other_spelling_is_refused(data: bytes) -> None:
    """Bytes that differ from their re-encoding are refused: an entry has one hash."""
    for read in (decode_entry_untrusted, glance_untrusted):
        with pytest.raises(MalformedInput, match="bad_entry"):
            read(data)


def test_a_later_type_is_read_when_it_is_canonical() -> None:
    """An old verifier still checks a new log:

    Unknown types pass with sound common fields, any depth and field.
    """
    entry = {**A_SEAL, "t": "later.thing", "deep": {"a": [1, "b", {"c": []}]}}
    data = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    assert decode_entry_untrusted(data) == entry
    assert glance_untrusted(data) == (7, 1_800_000_000_000_000, "later.thing")


LATER = json.dumps(
    {**A_SEAL, "t": "later.thing", "a": {"n": 1}}, sort_keys=True, separators=(",", ":")
).encode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'{"n":1}', b'{"n": 1}'),
        (b'{"n":1}', b'{"n":1,"n":1}'),
        (b'{"n":1}', b'{"n":1,"m":1}'),
        (b'{"n":1}', b'{"n":9007199254740992}'),
        (b'{"n":1}', b'{"n":-1}'),
        (b'{"n":1}', b'{"n":-0}'),
        (b'{"n":1}', b'{"n":01}'),
        (b'{"n":1}', b'{"n":[true]}'),
        (b'{"n":1}', b'{"n":[null]}'),
        (b'{"n":1}', b'{"n":[0.5]}'),
        (b'"ts":', b'"tt":'),
    ],
)
def test_a_later_type_has_one_spelling_too(old: bytes, new: bytes) -> None:
    """Canonical form and the common fields hold for types that nobody knows yet, at any depth."""
    decode_entry_untrusted(LATER)
    changed = LATER.replace(old, new)
    assert changed != LATER
    for read in (decode_entry_untrusted, glance_untrusted):
        with pytest.raises(MalformedInput, match="bad_entry"):
            read(changed)


@pytest.mark.parametrize("value", [0, 1, 9, 10, 10**15 - 1, 10**15, 9 * 10**15, INT_LIMIT - 2, INT_LIMIT - 1])
def test_integers_reach_exactly_to_the_limit(value: int) -> None:
    """Every integer below 2^53 is allowed, none from there on."""
    assert decode_entry_untrusted(encode_entry(A_SEAL | {"ps": value}))["ps"] == value


@given(st.integers(0, 2 * INT_LIMIT) | st.integers(INT_LIMIT - 2000, INT_LIMIT + 2000))
def test_the_integer_pattern_means_below_two_to_the_53(value: int) -> None:
    """The pattern is arithmetic written as a regular expression; it must agree with arithmetic."""
    assert COMMON["seq"].holds(value) == (value < INT_LIMIT)


def test_no_kind_can_hold_free_text() -> None:
    """Codes, words and hex only: no field of any type takes a space or a capital, so no name or plate."""
    for name, known in TYPES.items():
        for key, kind in {**COMMON, **known.required, **known.optional}.items():
            for text in ("Ko Aung", "KA 1234", "ကားနံပါတ်", "粤B12345", "a b"):
                assert re.fullmatch(kind.pattern, json.dumps(text)) is None, f"{name}.{key}"


LONGEST: list[Any] = [
    ["ab" * 32] * 24,
    ["a" * 48] * 32,
    *("f" * length for length in (64, 32, 16)),
    *("a" * length for length in (120, 48)),
    INT_LIMIT - 1,
]


def test_every_type_stays_within_an_entry() -> None:
    """The longest entry of every type, every optional field included, fits in 4096 bytes."""
    for name, known in TYPES.items():
        entry = {key: A_SEAL[key] for key in COMMON} | {"t": name, "seq": INT_LIMIT - 1, "ts": INT_LIMIT - 1}
        for key, kind in {**known.required, **known.optional}.items():
            words = sorted(re.findall("[a-z-]+", kind.pattern.replace("\\", "")), key=len, reverse=True)
            entry[key] = next(value for value in [*LONGEST, *words] if kind.holds(value))
        encode_entry(entry)
