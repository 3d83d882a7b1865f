"""A small file of envelopes as pictures: cut into frames, and put together from frames in any order.

Spec: docs/spec/stick.md#pictures. One rule: every frame names its file, its number and how many there are,
so that none is missed, taken twice or mixed with another file's. What comes together is a file like any other
and is believed as little: ``stick`` takes it apart.
"""

from collections.abc import Iterable
from typing import Final

from keys import labels, layout
from keys.errors import BrokenInvariant, MalformedInput
from keys.primitives import labelled_hash
from protocol import limits
from protocol.stick import HEAD_BYTES, closing_hash

_MAGIC: Final = b"SLWF"
_FORMAT: Final = 1
CHECK_BYTES: Final = 4
NAME_BYTES: Final = 8
_REST_AT: Final = len(_MAGIC) + 1 + CHECK_BYTES
FRAME_HEAD_BYTES: Final = _REST_AT + NAME_BYTES + 2
PART_BYTES: Final = limits.FRAME_BYTES_MAX - FRAME_HEAD_BYTES
# What records may take of the largest file: two of the smallest envelopes, or one of the next size.
ROOM_BYTES: Final = limits.FRAMES_MAX * PART_BYTES - HEAD_BYTES - limits.HASH_BYTES


def encode_frames(data: bytes) -> list[bytes]:
    """A file whose records took at most ROOM_BYTES, cut into at most FRAMES_MAX frames."""
    parts = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
    if not 1 <= len(parts) <= limits.FRAMES_MAX:
        raise BrokenInvariant("frames_size", f"{len(data)} bytes do not go into pictures")
    name = closing_hash(data)[:NAME_BYTES]
    frames = []
    for number, part in enumerate(parts):
        rest = name + layout.u8(number) + layout.u8(len(parts)) + part
        frames.append(_MAGIC + layout.u8(_FORMAT) + _check(rest) + rest)
    return frames


def _check(rest: bytes) -> bytes:
    return labelled_hash(labels.STICK_FRAME, rest)[:CHECK_BYTES]


def join_frames_untrusted(frames: Iterable[bytes]) -> bytes:
    """The file of these frames, which come in any order and any number of times.

    One that was altered is left out, as if it had not been read. MalformedInput: ``frame_foreign`` (none is a
    frame), ``frame_version``, ``frames_mixed`` (of several files), ``frames_missing``, ``frames_altered``
    (each holds; together they are not the file they name).
    """
    names: set[bytes] = set()
    parts: dict[int, bytes] = {}
    for frame in frames:
        if len(frame) > limits.FRAME_BYTES_MAX or not frame.startswith(_MAGIC):
            continue
        if len(frame) > len(_MAGIC) and frame[len(_MAGIC)] != _FORMAT:
            raise MalformedInput("frame_version", f"picture format {frame[len(_MAGIC)]} is unknown")
        check, rest = frame[_REST_AT - CHECK_BYTES : _REST_AT], frame[_REST_AT:]
        if len(frame) <= FRAME_HEAD_BYTES or check != _check(rest):
            continue
        number, count = rest[NAME_BYTES], rest[NAME_BYTES + 1]
        # The number of frames is part of what they name: a screen shows one file in one way only.
        names.add(rest[:NAME_BYTES] + layout.u8(count))
        if parts.setdefault(number, rest[NAME_BYTES + 2 :]) != rest[NAME_BYTES + 2 :]:
            raise MalformedInput("frames_altered", "two pictures of one number differ")
        if len(names) > 1:
            raise MalformedInput("frames_mixed", "these pictures are of more than one file")
    if not names:
        raise MalformedInput("frame_foreign", "none of this is a picture of a file of envelopes")
    ((*named, count),) = names
    missing = set(range(count)) - parts.keys()
    if missing:
        raise MalformedInput("frames_missing", f"{len(missing)} of {count} pictures were not read")
    data = b"".join(parts[number] for number in range(count))
    if count > limits.FRAMES_MAX or len(parts) > count or closing_hash(data)[:NAME_BYTES] != bytes(named):
        raise MalformedInput("frames_altered", "the pictures together are not the file they name")
    return data
