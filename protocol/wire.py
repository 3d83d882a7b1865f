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


# Type byte -> bytes of the length or value that follows it.
_FIXED_BYTES: Final = {
    0xC0: 0, 0xC2: 0, 0xC3: 0,
    0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,
    0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip
_BINARY_LENGTH_BYTES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_TEXT_LENGTH_BYTES: Final = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_LIST_LENGTH_BYTES: Final = {0xDC: 2, 0xDD: 4}
_MAP_LENGTH_BYTES: Final = {0xDE: 2, 0xDF: 4}


def _scan(data: bytes, *, depth_max: int, items_max: int) -> None:
    """Walk the type bytes only: bounds, depth, count, types, rising text as map keys, nothing trailing."""
    at = 0
    items = 0
    # One frame per open list or map around the innermost: values still to come, whether these alternate key
    # and value, and the last key.
    open_frames: list[tuple[int, bool, bytes | None]] = []
    remaining, is_map, last_key = 1, False, None
    while True:
        if remaining == 0:
            if not open_frames:
                break
            remaining, is_map, last_key = open_frames.pop()
            continue
        is_key = is_map and remaining % 2 == 0
        remaining -= 1
        items += 1
        if at >= len(data):
            raise MalformedInput("wire_truncated", "the bytes end inside a value")
        kind = data[at]
        at += 1

        children, children_are_map, skip = -1, False, 0  # -1: not a list or map
        is_text = 0xA0 <= kind <= 0xBF or kind in _TEXT_LENGTH_BYTES
        if is_key and not is_text:
            raise MalformedInput("wire_key", "a map key is not text")
        if kind <= 0x7F or kind >= 0xE0:
            pass
        elif kind <= 0x8F:
            children, children_are_map = 2 * (kind & 0x0F), True
        elif kind <= 0x9F:
            children = kind & 0x0F
        elif kind <= 0xBF:
            skip = kind & 0x1F
        elif kind in _FIXED_BYTES:
            skip = _FIXED_BYTES[kind]
        else:
            length_bytes = (
                _BINARY_LENGTH_BYTES.get(kind)
                or _TEXT_LENGTH_BYTES.get(kind)
                or _LIST_LENGTH_BYTES.get(kind)
                or _MAP_LENGTH_BYTES.get(kind)
            )
            if length_bytes is None:
                raise MalformedInput("wire_type", f"type byte 0x{kind:02x} is not allowed")
            length = int.from_bytes(data[at : at + length_bytes], "big")
            at += length_bytes
            if kind in _LIST_LENGTH_BYTES:
                children = length
            elif kind in _MAP_LENGTH_BYTES:
                children, children_are_map = 2 * length, True
            else:
                skip = length
        start, at = at, at + skip
        if at > len(data):
            raise MalformedInput("wire_truncated", "the bytes end inside a value")
        if is_key:
            # Bytes of UTF-8 sort as their code points do; equal keys are refused with unsorted ones.
            key = data[start:at]
            if last_key is not None and key <= last_key:
                raise MalformedInput("wire_not_canonical", "map keys are not ascending and unequal")
            last_key = key
        # What a list or map announces counts at once: a lie is refused before a single child is looked at.
        if items + max(children, 0) > items_max:
            raise MalformedInput("wire_items", f"more than {items_max} values")
        if children >= 0:
            if len(open_frames) >= depth_max:
                raise MalformedInput("wire_depth", f"nested deeper than {depth_max}")
            open_frames.append((remaining, is_map, last_key))
            remaining, is_map, last_key = children, children_are_map, None
    if at != len(data):
        raise MalformedInput("wire_trailing", f"{len(data) - at} bytes follow the value")


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
