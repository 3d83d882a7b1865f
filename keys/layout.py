"""Strict reading and writing of the fixed layouts of keys/: big-endian, lengths first, nothing left over.

Spec: docs/spec/keys.md#layouts. One rule: a value has exactly one encoding, so whatever a reader accepts is
what the writer would write. These layouts are signed or hashed as raw bytes; messages between offices use
msgpack (protocol/wire.py) instead.
"""

import base64
import struct
import unicodedata
from typing import Final, NoReturn

from keys.errors import BrokenInvariant, MalformedInput

# Zero-width space, non-joiner and joiner: Burmese, Khmer and Thai names need them, all other format
# characters (direction overrides above all) could make one name look like another.
_FORMAT_CHARACTERS_ALLOWED: Final = frozenset("\u200b\u200c\u200d")
_CATEGORIES_REFUSED: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def text_fault(text: str, bytes_max: int) -> str | None:
    """Why ``text`` cannot be a name shown on screens (1 to ``bytes_max`` bytes of UTF-8), or None."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not 1 <= size <= bytes_max:
        return f"has {size} bytes of UTF-8, allowed are 1 to {bytes_max}"
    if text != text.strip():
        return "begins or ends with a space"
    for character in text:
        if (
            character not in _FORMAT_CHARACTERS_ALLOWED
            and unicodedata.category(character) in _CATEGORIES_REFUSED
        ):
            return "holds a control or direction character"
    return None


def ascii_fault(text: str, bytes_max: int) -> str | None:
    """Why ``text`` cannot be a technical name (printable ASCII without spaces), or None."""
    if not 1 <= len(text) <= bytes_max:
        return f"has {len(text)} characters, allowed are 1 to {bytes_max}"
    if any(not "!" <= character <= "~" for character in text):
        return "holds something else than printable ASCII"
    return None


class Reader:
    """Walks over untrusted bytes; every fault is MalformedInput with the one code of its format."""

    __slots__ = ("_at", "_code", "_data")

    def __init__(self, data: bytes, code: str) -> None:
        self._data = data
        self._code = code
        self._at = 0

    def fail(self, why: str) -> NoReturn:
        """Refuse the whole input."""
        raise MalformedInput(self._code, why)

    def take(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        end = self._at + size
        if end > len(self._data):
            self.fail(f"ends after {len(self._data)} bytes where {end} were needed")
        part = self._data[self._at : end]
        self._at = end
        return part

    def u8(self) -> int:
        """One byte."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Two bytes, big-endian."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """Four bytes, big-endian."""
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        """Eight bytes, big-endian."""
        return int.from_bytes(self.take(8), "big")

    def magic(self, expected: bytes, *versions: int) -> int:
        """A magic word and the format version, one of ``versions``, which is returned."""
        if self.take(len(expected)) != expected:
            self.fail("begins with another magic word")
        found = self.u8()
        if found not in versions:
            self.fail(f"has format version {found}, known is {versions[-1]}")
        return found

    def variable(self, bytes_max: int) -> bytes:
        """u32 length, at most ``bytes_max``, then the bytes."""
        size = self.u32()
        if size > bytes_max:
            self.fail(f"holds a field of {size} bytes, allowed are {bytes_max}")
        return self.take(size)

    def text(self, bytes_max: int) -> str:
        """u8 length, then UTF-8 fit for screens (see ``text_fault``)."""
        return self._text(self.take(self.u8()), bytes_max)

    def padded_text(self, field_bytes: int) -> str:
        """u8 length, then a field of ``field_bytes`` holding the text and zeros."""
        size = self.u8()
        field = self.take(field_bytes)
        if size > field_bytes or any(field[size:]):
            self.fail("holds a text field whose length and padding disagree")
        return self._text(field[:size], field_bytes)

    def _text(self, raw: bytes, bytes_max: int) -> str:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            self.fail("holds a text that is not UTF-8")
        fault = text_fault(text, bytes_max)
        if fault is not None:
            self.fail(f"holds a text that {fault}")
        return text

    def ascii(self, bytes_max: int) -> str:
        """u8 length, then printable ASCII without spaces."""
        raw = self.take(self.u8())
        text = raw.decode("latin-1")
        fault = ascii_fault(text, bytes_max)
        if fault is not None:
            self.fail(f"holds a name that {fault}")
        return text

    def end(self) -> None:
        """Refuse trailing data."""
        if self._at != len(self._data):
            self.fail(f"has {len(self._data) - self._at} bytes too many")


def base32_bytes(letters: str) -> bytes | None:
    """The inverse of ``base32``; None for what it would not write, unused bits at the end included."""
    try:
        data = base64.b32decode(letters.upper().encode("ascii") + b"=" * (-len(letters) % 8))
    except ValueError:
        return None
    return data if base32(data) == letters else None


def base32(data: bytes) -> str:
    """Base32 as people copy and type it: lower case, without padding."""
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def u8(value: int) -> bytes:
    """One byte. A value out of range is our own mistake: struct.error becomes BrokenInvariant."""
    return _pack(">B", value)


def u16(value: int) -> bytes:
    """Two bytes, big-endian."""
    return _pack(">H", value)


def u32(value: int) -> bytes:
    """Four bytes, big-endian."""
    return _pack(">I", value)


def u64(value: int) -> bytes:
    """Eight bytes, big-endian."""
    return _pack(">Q", value)


def _pack(form: str, value: int) -> bytes:
    try:
        return struct.pack(form, value)
    except struct.error as error:
        raise BrokenInvariant("layout_number", f"{value} does not fit its field") from error


def variable(data: bytes) -> bytes:
    """u32 length, then the bytes."""
    return u32(len(data)) + data


def text(value: str, bytes_max: int) -> bytes:
    """u8 length, then UTF-8; BrokenInvariant for what a reader would refuse; callers check first."""
    _must(value, text_fault(value, bytes_max))
    raw = value.encode()
    return u8(len(raw)) + raw


def padded_text(value: str, field_bytes: int) -> bytes:
    """u8 length, then ``field_bytes`` holding the text and zeros."""
    _must(value, text_fault(value, field_bytes))
    raw = value.encode()
    return u8(len(raw)) + raw.ljust(field_bytes, b"\0")


def ascii_text(value: str, bytes_max: int) -> bytes:
    """u8 length, then printable ASCII without spaces."""
    _must(value, ascii_fault(value, bytes_max))
    return u8(len(value)) + value.encode("ascii")


def fixed(value: bytes, size: int) -> bytes:
    """``value`` itself, which must have ``size`` bytes."""
    if len(value) != size:
        raise BrokenInvariant("layout_size", f"a field of {size} bytes was given {len(value)}")
    return value


def _must(value: str, fault: str | None) -> None:
    if fault is not None:
        raise BrokenInvariant("layout_text", f"a text of {len(value)} characters {fault}")
