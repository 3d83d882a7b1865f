"""Canonical msgpack: one encoding for each value, hostile bytes refused before they cost anything."""

import contextlib
import tracemalloc
from typing import Any

import msgpack  # type: ignore[import-untyped]  # ships neither stubs nor a py.typed mark
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import BrokenInvariant, MalformedInput
from protocol import limits, wire

SMALL = 2_000

values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(st.characters(codec="utf-8"), max_size=40)
    | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inner, max_size=5)
    ),
    max_leaves=30,
)


def code_of(data: bytes, **bounds: int) -> str:
    """The one code with which ``data`` is refused."""
    with pytest.raises(MalformedInput) as caught:
        wire.decode_untrusted(data, **{"bytes_max": 1 << 20, **bounds})
    return caught.value.code


# --- one value, one encoding ---


@given(values)
def test_what_is_encoded_is_read_back(value: Any) -> None:
    """Encoding and decoding are inverse for every value of the vocabulary."""
    assert wire.decode_untrusted(wire.encode(value), bytes_max=1 << 20) == value


@given(values)
def test_another_msgpack_reader_reads_the_same(value: Any) -> None:
    """Canonical bytes are ordinary msgpack: an auditor's own tools can read them."""
    assert msgpack.unpackb(wire.encode(value), strict_map_key=False) == value


@given(st.dictionaries(st.text(max_size=6), st.integers(0, 9), min_size=2, max_size=6))
def test_the_order_in_which_a_map_was_filled_does_not_show(fields: dict[str, int]) -> None:
    """Keys stand in ascending order of their UTF-8 bytes, whatever order the program used."""
    assert wire.encode(fields) == wire.encode(dict(reversed(fields.items())))
    read = wire.decode_untrusted(wire.encode(fields), bytes_max=SMALL)
    assert isinstance(read, dict)
    assert list(read) == sorted(read, key=str.encode)


def test_tuples_and_read_only_maps_are_written_like_lists_and_dicts() -> None:
    """Our own frozen values need no conversion before they are written."""
    assert wire.encode(({"a": (1, 2)},)) == wire.encode([{"a": [1, 2]}])


@pytest.mark.parametrize(
    "value", [1.0, {1: 2}, {b"a": 1}, {1, 2}, 2**64, -(2**63) - 1, object(), "\ud800", {"\udfff": 1}]
)
def test_a_value_outside_the_vocabulary_is_our_own_bug(value: Any) -> None:
    """Floats, other keys, other types, wide integers and half characters are never written."""
    with pytest.raises(BrokenInvariant, match="wire_value"):
        wire.encode(value)


# --- hostile bytes ---


@given(st.binary(max_size=200))
def test_any_bytes_give_a_canonical_value_or_malformed_input(data: bytes) -> None:
    """Whatever arrives, the decoder returns a value whose encoding is those bytes, or MalformedInput."""
    with contextlib.suppress(MalformedInput):
        assert wire.encode(wire.decode_untrusted(data, bytes_max=SMALL)) == data


@given(values, st.data())
def test_one_changed_byte_never_reads_as_the_same_value(value: Any, data: st.DataObject) -> None:
    """There is no second spelling of a value: no byte can be changed without changing what is read."""
    encoded = bytearray(wire.encode(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MalformedInput):
        read = wire.decode_untrusted(bytes(encoded), bytes_max=1 << 20)
        assert wire.encode(read) == bytes(encoded)
        assert repr(read) != repr(value)


@given(values, st.data())
def test_a_value_cut_short_or_followed_by_anything_is_refused(value: Any, data: st.DataObject) -> None:
    """The value fills its bytes: neither an early end nor a tail is overlooked."""
    encoded = wire.encode(value)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    assert code_of(encoded[:cut]) == "wire_truncated"
    assert code_of(encoded + data.draw(st.binary(min_size=1, max_size=4))) == "wire_trailing"


@pytest.mark.parametrize(
    ("what", "data", "code"),
    [
        ("a key twice", b"\x82\xa1a\x01\xa1a\x02", "wire_not_canonical"),
        ("keys out of order", b"\x82\xa1b\x01\xa1a\x02", "wire_not_canonical"),
        ("5 in two bytes", b"\xcc\x05", "wire_not_canonical"),
        ("200 in three bytes", b"\xcd\x00\xc8", "wire_not_canonical"),
        ("1 as a signed byte", b"\xd0\x01", "wire_not_canonical"),
        ("-1 in nine bytes", b"\xd3" + b"\xff" * 8, "wire_not_canonical"),
        ("short text with a long length", b"\xd9\x01a", "wire_not_canonical"),
        ("short bytes with a long length", b"\xc5\x00\x01a", "wire_not_canonical"),
        ("short list with a long length", b"\xdc\x00\x01\x01", "wire_not_canonical"),
        ("short map with a long length", b"\xde\x00\x01\xa1a\x01", "wire_not_canonical"),
        ("a number as key", b"\x81\x01\x01", "wire_key"),
        ("bytes as key", b"\x81\xc4\x01a\x01", "wire_key"),
        ("true as key", b"\x81\xc3\x01", "wire_key"),
        ("a float", b"\xca\x3f\x80\x00\x00", "wire_type"),
        ("a double that is one", b"\xcb\x3f\xf0" + bytes(6), "wire_type"),
        ("not a number", b"\xcb\x7f\xf8" + bytes(6), "wire_type"),
        ("an extension", b"\xc7\x01\x05a", "wire_type"),
        ("a timestamp", b"\xd6\xff" + bytes(4), "wire_type"),
        ("the byte msgpack never uses", b"\xc1", "wire_type"),
        ("text that is not UTF-8", b"\xa1\xff", "wire_text"),
        ("text with half a character", b"\xa3\xed\xa0\x80", "wire_text"),
        ("text with an overlong slash", b"\xa2\xc0\xaf", "wire_text"),
        ("nothing", b"", "wire_truncated"),
        ("a list of 2^32 - 1", b"\xdd\xff\xff\xff\xff", "wire_items"),
        ("a map of 2^28", b"\xdf\x10\x00\x00\x00", "wire_items"),
        ("text of 2^32 - 1", b"\xdb\xff\xff\xff\xffa", "wire_truncated"),
        ("bytes of 2^31", b"\xc6\x80\x00\x00\x00a", "wire_truncated"),
        ("100,000 lists in each other", b"\x91" * 100_000, "wire_depth"),
        ("100,000 maps in each other", b"\x81\xa0" * 100_000, "wire_depth"),
    ],
)
def test_each_hostile_encoding_is_refused_with_its_code(what: str, data: bytes, code: str) -> None:
    """One fault, one stable code: second spellings, forbidden types, false lengths, bottomless nesting."""
    assert code_of(data) == code, what


def test_an_integer_may_not_be_spelt_as_true_or_one_point_nought() -> None:
    """Python finds True, 1 and 1.0 equal; the wire does not."""
    assert len({wire.encode(value) for value in (True, 1, "1")}) == 3
    assert type(wire.decode_untrusted(wire.encode(True), bytes_max=9)) is bool
    assert type(wire.decode_untrusted(wire.encode(1), bytes_max=9)) is int


def test_depth_is_counted_in_lists_and_maps() -> None:
    """Depth d holds d nested containers and no more."""
    nested = b"\x91" * 3 + b"\x90"
    wire.decode_untrusted(nested, bytes_max=SMALL, depth_max=4)
    assert code_of(nested, depth_max=3) == "wire_depth"
    wire.decode_untrusted(b"\x01", bytes_max=SMALL, depth_max=0)


def test_items_count_keys_too() -> None:
    """A map of two pairs costs five values."""
    encoded = wire.encode({"a": 1, "b": 2})
    wire.decode_untrusted(encoded, bytes_max=SMALL, items_max=5)
    assert code_of(encoded, items_max=4) == "wire_items"


def test_items_are_counted_over_all_lists_together() -> None:
    """Two lists, each within the bound, are not within it together."""
    encoded = wire.encode([[0] * 6, 0, 0, 0])
    wire.decode_untrusted(encoded, bytes_max=SMALL, items_max=11)
    assert code_of(encoded, items_max=10) == "wire_items"


def test_size_is_checked_before_anything_is_read() -> None:
    """One byte over the bound is refused whatever it holds."""
    assert code_of(b"\xc1" * 11, bytes_max=10) == "wire_size"


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\x00\x0f\x42\x40" + b"\x80" * 1_000_000,
        b"\xdf\x10\x00\x00\x00" + b"\xa0\x80" * 500_000,
        b"\x91" * 1_000_000,
        b"\xdc\x0f\xff" + b"\xdc\x0f\xff" * 300_000,
    ],
)
def test_a_megabyte_of_empty_containers_costs_nothing(data: bytes) -> None:
    """10^6 empty maps cost a common decoder 68 MB; here they are refused before a single one is built."""
    tracemalloc.start()
    assert code_of(data, bytes_max=2 << 20) in {"wire_items", "wire_depth"}
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 100_000


# --- the strict reader of maps ---


def a_map() -> wire.Fields:
    encoded = wire.encode(
        {"n": 7, "t": "text", "b": b"1234", "f": True, "l": [1, 2], "m": {"x": 1}, "one": 1, "none": None}
    )
    return wire.Fields(wire.decode_untrusted(encoded, bytes_max=SMALL), "a map")


def test_fields_are_taken_once_with_their_types() -> None:
    """Each field is read by the type its format states, and nothing may be left."""
    fields = a_map()
    assert fields.integer("n") == 7
    assert fields.text("t", bytes_max=4) == "text"
    assert fields.raw("b", size=4) == b"1234"
    assert fields.boolean("f") is True
    assert fields.items("l", items_max=2) == [1, 2]
    inner = fields.fields("m")
    assert inner.integer("x", least=1, most=1) == 1
    inner.done()
    assert fields.has("one")
    assert not fields.has("n")
    assert fields.rest() == {"one": 1, "none": None}
    fields.done()


@pytest.mark.parametrize(
    ("read", "code"),
    [
        (lambda f: f.integer("f"), "field_type"),
        (lambda f: f.integer("t"), "field_type"),
        (lambda f: f.boolean("one"), "field_type"),
        (lambda f: f.raw("t", size=4), "field_type"),
        (lambda f: f.text("b", bytes_max=9), "field_type"),
        (lambda f: f.items("m", items_max=9), "field_type"),
        (lambda f: f.fields("l"), "field_type"),
        (lambda f: f.integer("none"), "field_type"),
        (lambda f: f.integer("n", most=6), "field_range"),
        (lambda f: f.integer("n", least=8), "field_range"),
        (lambda f: f.raw("b", size=3), "field_range"),
        (lambda f: f.raw("b", bytes_max=3), "field_range"),
        (lambda f: f.text("t", bytes_max=3), "field_range"),
        (lambda f: f.items("l", items_max=1), "field_range"),
        (lambda f: f.take("absent"), "field_missing"),
        (lambda f: f.done(), "field_unknown"),
    ],
)
def test_a_field_of_another_type_or_size_is_refused(read: Any, code: str) -> None:
    """True is no 1, 1 is no True, text is no bytes; a field too many is as wrong as one too few."""
    with pytest.raises(MalformedInput) as caught:
        read(a_map())
    assert caught.value.code == code


def test_only_a_map_has_fields() -> None:
    """A list where a map belongs is refused, not searched."""
    with pytest.raises(MalformedInput, match="field_type"):
        wire.Fields([1], "a map")


def test_the_default_limits_hold_a_full_message() -> None:
    """The largest body a message may have is within what the decoder takes by default."""
    encoded = wire.encode([b"x" * 90] * 600)
    assert len(encoded) < limits.BODY_BYTES_MAX
    wire.decode_untrusted(encoded, bytes_max=limits.BODY_BYTES_MAX)
