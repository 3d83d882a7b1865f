"""Canonical msgpack: one value has one encoding, and only that one is read back.

Spec: docs/spec/wire.md. Values: nil, booleans, integers of 64 bits, text, bytes, lists, and maps whose keys
are text in ascending order of their UTF-8 bytes. Integers and lengths take the shortest form. No floats, no
extension types, no duplicate keys. One rule: ``decode_untrusted`` walks the type bytes first, without
building anything, so a lie about a length costs its sender nothing and us nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import msgpack  # type: ignore[import-untyped]  # ships neither stubs nor a py.typed mark

from keys.errors import BrokenInvariant, MalformedInput
from protocol import limits

Value: TypeAlias = bool | int | str | bytes | Sequence["Value"] | Mapping[str, "Value"] | None

_INTEGER_MIN: Final = -(2**63)


def encode(value: Value) -> bytes:
    """The one canonical encoding. A value outside the vocabulary is our own bug: BrokenInvariant."""
    try:
        packed: bytes = msgpack.packb(_ordered(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise BrokenInvariant("wire_value", "a value cannot be written canonically") from error
    return packed


_SCALARS: Final = frozenset({type(None), bool, int, str, bytes})


def _ordered(value: Value) -> Value:
    """The same value with sorted maps and plain lists; refuses what the vocabulary lacks."""
    # Exact types: a subclass, as of an enumeration, may print as one value and be written as another.
    if type(value) in _SCALARS:
        return value
    if isinstance(value, dict | Mapping):
        return {key: _ordered(value[key]) for key in sorted(value, key=str.encode)}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    raise TypeError(f"{type(value).__name__} is not in the vocabulary")


def decode_untrusted(
    data: bytes,
    *,
    bytes_max: int,
    depth_max: int = limits.WIRE_DEPTH_MAX,
    items_max: int = limits.WIRE_ITEMS_MAX,
) -> Value:
    """Read one canonical value that fills ``data``; lists come back as lists, maps as dicts.

    ``items_max`` counts every value, map keys included; ``depth_max`` counts nested lists and maps. Raises
    MalformedInput: ``wire_size``, ``wire_truncated``, ``wire_trailing``, ``wire_type``, ``wire_depth``,
    ``wire_items``, ``wire_key``, ``wire_text``, ``wire_not_canonical``.
    """
    if len(data) > bytes_max:
        raise MalformedInput("wire_size", f"{len(data)} bytes, at most {bytes_max} are allowed")
    _scan(data, depth_max=depth_max, items_max=items_max)
    try:
        value: Value = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except UnicodeDecodeError as error:
        raise MalformedInput("wire_text", "text is not UTF-8") from error
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise MalformedInput("wire_not_canonical", "the value cannot be read") from error
    # The walk saw that keys rise; all that is left is a length or number in a longer form than it needs.
    if msgpack.packb(value) != data:
        raise MalformedInput("wire_not_canonical", "the value has another, canonical encoding")
    return value


# What follows a type byte: so many bytes, so many bytes of text, so many values, so many keys and values.
_SCALAR, _TEXT, _LIST, _MAP, _REFUSED = range(5)


def _forms() -> tuple[tuple[int, int, int], ...]:
    """For each type byte: what follows, bytes of the length in front of it, and else the length itself."""
    forms = [(_REFUSED, 0, 0)] * 256
    forms[0x00:0x80] = [(_SCALAR, 0, 0)] * 128
    forms[0x80:0x90] = [(_MAP, 0, 2 * pairs) for pairs in range(16)]
    forms[0x90:0xA0] = [(_LIST, 0, values) for values in range(16)]
    forms[0xA0:0xC0] = [(_TEXT, 0, size) for size in range(32)]
    forms[0xE0:0x100] = [(_SCALAR, 0, 0)] * 32
    for kind in (0xC0, 0xC2, 0xC3):  # nil, false, true
        forms[kind] = (_SCALAR, 0, 0)
    for power, (unsigned, signed) in enumerate(((0xCC, 0xD0), (0xCD, 0xD1), (0xCE, 0xD2), (0xCF, 0xD3))):
        forms[unsigned] = forms[signed] = (_SCALAR, 0, 2**power)
    for power, (raw, text) in enumerate(((0xC4, 0xD9), (0xC5, 0xDA), (0xC6, 0xDB))):
        forms[raw], forms[text] = (_SCALAR, 2**power, 0), (_TEXT, 2**power, 0)
    for power, (values, pairs) in enumerate(((0xDC, 0xDE), (0xDD, 0xDF)), start=1):
        forms[values], forms[pairs] = (_LIST, 2**power, 0), (_MAP, 2**power, 0)
    return tuple(forms)


_FORMS: Final = _forms()


def _scan(data: bytes, *, depth_max: int, items_max: int) -> None:
    """Walk the type bytes only: bounds, depth, count, types, rising text as map keys, nothing trailing."""
    at, end = 0, len(data)
    items = 0
    # One frame per open list or map around the innermost: values still to come, whether these alternate key
    # and value, and the last key.
    open_frames: list[tuple[int, bool, bytes | None]] = []
    remaining, is_map, last_key = 1, False, None
    while remaining or open_frames:
        if not remaining:
            remaining, is_map, last_key = open_frames.pop()
            continue
        is_key = is_map and remaining % 2 == 0
        remaining -= 1
        items += 1
        if at >= end:
            raise MalformedInput("wire_truncated", "the bytes end inside a value")
        form, length_bytes, length = _FORMS[data[at]]
        if is_key and form != _TEXT:
            raise MalformedInput("wire_key", "a map key is not text")
        if form == _REFUSED:
            raise MalformedInput("wire_type", f"type byte 0x{data[at]:02x} is not allowed")
        at += 1
        if length_bytes:
            length = int.from_bytes(data[at : at + length_bytes], "big")
            at += length_bytes
            if form == _MAP:
                length *= 2
        children = 0
        if form < _LIST:
            start, at = at, at + length
        else:
            children = length
        if at > end:
            raise MalformedInput("wire_truncated", "the bytes end inside a value")
        if is_key:
            # Bytes of UTF-8 sort as their code points do; equal keys are refused with unsorted ones.
            key = data[start:at]
            if last_key is not None and key <= last_key:
                raise MalformedInput("wire_not_canonical", "map keys are not ascending and unequal")
            last_key = key
        # What a list or map announces counts at once: a lie is refused before a single child is looked at.
        if items + children > items_max:
            raise MalformedInput("wire_items", f"more than {items_max} values")
        if form >= _LIST:
            if len(open_frames) >= depth_max:
                raise MalformedInput("wire_depth", f"nested deeper than {depth_max}")
            open_frames.append((remaining, is_map, last_key))
            remaining, is_map, last_key = children, form == _MAP, None
    if at != end:
        raise MalformedInput("wire_trailing", f"{end - at} bytes follow the value")


class Fields:
    """Strict reader of one decoded map: each field is taken once with its type; ``done()`` refuses the rest.

    ``True`` is no integer and ``1`` is no boolean. All refusals are MalformedInput: ``field_missing``,
    ``field_type``, ``field_range``, ``field_unknown``; ``what`` names the object in their detail.
    """

    __slots__ = ("_left", "_what")

    def __init__(self, value: Value, what: str) -> None:
        if not isinstance(value, dict):
            raise MalformedInput("field_type", f"{what} is not a map")
        self._left: dict[str, Value] = dict(value)
        self._what = what

    def has(self, name: str) -> bool:
        """Whether ``name`` is there and not yet taken."""
        return name in self._left

    def take(self, name: str) -> Value:
        """The field as it is, for values checked elsewhere."""
        if name not in self._left:
            raise MalformedInput("field_missing", f"{self._what} lacks {name}")
        return self._left.pop(name)

    def integer(self, name: str, *, least: int = 0, most: int = limits.U64_MAX) -> int:
        """An integer in ``least..most``."""
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise MalformedInput("field_type", f"{self._what}.{name} is not an integer")
        if not least <= value <= most:
            raise MalformedInput("field_range", f"{self._what}.{name} is outside {least}..{most}")
        return value

    def boolean(self, name: str) -> bool:
        """True or false, never 0 or 1."""
        value = self.take(name)
        if not isinstance(value, bool):
            raise MalformedInput("field_type", f"{self._what}.{name} is not a boolean")
        return value

    def raw(self, name: str, *, size: int | None = None, bytes_max: int | None = None) -> bytes:
        """Bytes of exactly ``size``, or of at most ``bytes_max``."""
        value = self.take(name)
        if not isinstance(value, bytes):
            raise MalformedInput("field_type", f"{self._what}.{name} is not bytes")
        if (size is not None and len(value) != size) or (bytes_max is not None and len(value) > bytes_max):
            raise MalformedInput("field_range", f"{self._what}.{name} has {len(value)} bytes")
        return value

    def text(self, name: str, *, bytes_max: int) -> str:
        """Text of at most ``bytes_max`` UTF-8 bytes; its characters are not judged here."""
        value = self.take(name)
        if not isinstance(value, str):
            raise MalformedInput("field_type", f"{self._what}.{name} is not text")
        if len(value.encode("utf-8")) > bytes_max:
            raise MalformedInput("field_range", f"{self._what}.{name} is longer than {bytes_max} bytes")
        return value

    def items(self, name: str, *, items_max: int) -> list[Value]:
        """A list of at most ``items_max`` values."""
        value = self.take(name)
        if not isinstance(value, list):
            raise MalformedInput("field_type", f"{self._what}.{name} is not a list")
        if len(value) > items_max:
            raise MalformedInput("field_range", f"{self._what}.{name} has more than {items_max} entries")
        return value

    def fields(self, name: str) -> "Fields":
        """A nested map."""
        return Fields(self.take(name), f"{self._what}.{name}")

    def rest(self) -> dict[str, Value]:
        """Every field not taken yet, for formats that keep what a later version added."""
        left, self._left = self._left, {}
        return left

    def done(self) -> None:
        """Refuse fields nobody asked for."""
        if self._left:
            # Names of unknown fields come from outside; they are counted, not repeated.
            raise MalformedInput("field_unknown", f"{self._what} has {len(self._left)} unknown fields")
