"""The strict reader: lengths first, one encoding per value, nothing left over."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import layout
from keys.errors import BrokenInvariant, MalformedInput
from keys.layout import Reader


def read(data: bytes) -> Reader:
    return Reader(data, "test_malformed")


@given(st.integers(0, 255), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_numbers_come_back(a: int, b: int, c: int, d: int) -> None:
    """Big-endian, each in its own width."""
    reader = read(layout.u8(a) + layout.u16(b) + layout.u32(c) + layout.u64(d))
    assert (reader.u8(), reader.u16(), reader.u32(), reader.u64()) == (a, b, c, d)
    reader.end()


@pytest.mark.parametrize("write", [layout.u8, layout.u16, layout.u32, layout.u64])
@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_number_out_of_range_is_our_mistake(write: Callable[[int], bytes], value: int) -> None:
    """Never cut to fit."""
    with pytest.raises(BrokenInvariant, match="layout_number"):
        write(value)


def test_trailing_and_missing_bytes_are_refused() -> None:
    """With the code of the format, whatever was being read."""
    with pytest.raises(MalformedInput, match="test_malformed"):
        read(b"abc").take(4)
    reader = read(b"abc")
    reader.take(2)
    with pytest.raises(MalformedInput, match="1 bytes too many"):
        reader.end()


def test_a_length_is_judged_before_anything_is_read() -> None:
    """A field may be no longer than its limit even if the bytes are there."""
    with pytest.raises(MalformedInput, match="5 bytes, allowed are 4"):
        read(layout.variable(b"12345")).variable(4)
    with pytest.raises(MalformedInput, match="4294967295 bytes"):
        read(b"\xff\xff\xff\xff").variable(100)


@pytest.mark.parametrize(
    "name",
    [
        "မြစ်ကြီးနား နယ်စပ်ဆက်ဆံရေးရုံး",
        "腾冲边境联络办公室",
        "ស្ថានីយ\u200bព្រំដែន",
        "ด่านแม่สาย",
        "Lào Cai",
    ],
)
def test_names_of_the_region_pass(name: str) -> None:
    """Zero-width spaces and joiners included: Khmer and Burmese cannot do without."""
    encoded = layout.text(name, 120)
    reader = read(encoded)
    assert reader.text(120) == name
    reader.end()


@pytest.mark.parametrize(
    "name",
    [
        "",
        " Myitkyina",
        "Myitkyina ",
        "two\nlines",
        "tab\there",
        "nul\0",
        "\u202eODB anikytiyM",  # would be shown right to left
        "a\u2066b",
        "line\u2028separator",
        "\ue000private",
        "soft\u00adhyphen",
        "x" * 65,
        "မ" * 22,  # 66 bytes
    ],
)
def test_names_that_could_mislead_are_refused(name: str) -> None:
    """On the way in and, as our own mistake, on the way out."""
    raw = name.encode()
    with pytest.raises(MalformedInput, match="test_malformed"):
        read(layout.u8(len(raw)) + raw).text(64)
    with pytest.raises(BrokenInvariant, match="layout_text"):
        layout.text(name, 64)
    with pytest.raises(BrokenInvariant, match="layout_text"):
        layout.padded_text(name, 64)


def test_text_that_is_no_unicode_is_refused() -> None:
    """Overlong forms and surrogates included."""
    for raw in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"ab\xe1\x80"):
        with pytest.raises(MalformedInput, match="not UTF-8"):
            read(layout.u8(len(raw)) + raw).text(64)
    assert layout.text_fault("\ud800", 64) == "is not valid Unicode"


def test_a_padded_text_has_one_padding() -> None:
    """Zeros, exactly behind the text."""
    good = layout.padded_text("Office", 64)
    assert len(good) == 65
    assert read(good).padded_text(64) == "Office"
    for bad in (good[:-1] + b"x", b"\x05" + good[1:], b"\x41" + good[1:]):
        with pytest.raises(MalformedInput, match="test_malformed"):
            read(bad).padded_text(64)


@pytest.mark.parametrize("name", ["", "with space", "é", "new\nline", "x" * 129])
def test_technical_names_are_printable_ascii(name: str) -> None:
    """Origins of logs go into signed notes line by line."""
    with pytest.raises(BrokenInvariant, match="layout_text"):
        layout.ascii_text(name, 128)
    if len(name) < 128:
        raw = name.encode("latin-1")
        with pytest.raises(MalformedInput, match="test_malformed"):
            read(layout.u8(len(raw)) + raw).ascii(128)


def test_a_fixed_field_takes_its_size_alone() -> None:
    """A short or long value never shifts the fields behind it."""
    assert layout.fixed(b"12", 2) == b"12"
    with pytest.raises(BrokenInvariant, match="layout_size"):
        layout.fixed(b"123", 2)


@given(st.binary(max_size=80), st.text(alphabet="abcdefghijklmnopqrstuvwxyz234567AB1=ı\u212a", max_size=20))
def test_base32_has_one_spelling(data: bytes, letters: str) -> None:
    """What is written reads back; whatever reads is what would be written."""
    assert layout.base32_bytes(layout.base32(data)) == data
    read = layout.base32_bytes(letters)
    assert read is None or layout.base32(read) == letters
