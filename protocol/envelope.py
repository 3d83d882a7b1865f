"""The outside of one item: everything a broker ever sees of it.

Spec: docs/spec/envelope.md#outside. One rule: nothing here names an office or needs a key, so the broker can
use this file alone. Layout: version u8 (0x01) | receive key id 8 | wrap 1248 | blob (the rest); the whole is
exactly 8, 16, 32 or 64 KiB. What is inside belongs to ``sealing``.
"""

from dataclasses import dataclass
from typing import Final

from keys import labels
from keys.errors import BrokenInvariant, MalformedInput
from keys.primitives import labelled_hash
from protocol import limits

VERSION: Final = 0x01
BUCKETS: Final = limits.ENVELOPE_BUCKETS_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One sealed item, taken apart: ``key_id`` 8 bytes, ``wrap`` 1248, ``blob`` the rest of the bucket."""

    key_id: bytes
    wrap: bytes
    blob: bytes

    def to_bytes(self) -> bytes:
        """The exact bytes of the item; raises BrokenInvariant when the parts do not make one."""
        data = bytes([VERSION]) + self.key_id + self.wrap + self.blob
        if (
            len(self.key_id) != limits.KEY_ID_BYTES
            or len(self.wrap) != limits.WRAP_BYTES
            or len(data) not in BUCKETS
        ):
            raise BrokenInvariant("envelope_size", f"{len(data)} bytes is none of the four sizes")
        return data


def parse_envelope_untrusted(data: bytes) -> Envelope:
    """Take an item apart. MalformedInput: ``envelope_size`` (not one of four), ``envelope_version``."""
    if len(data) not in BUCKETS:
        raise MalformedInput("envelope_size", f"{len(data)} bytes is none of the four sizes")
    if data[0] != VERSION:
        raise MalformedInput("envelope_version", f"version {data[0]} is not known here")
    wrap_at = 1 + limits.KEY_ID_BYTES
    return Envelope(
        key_id=data[1:wrap_at],
        wrap=data[wrap_at : limits.BLOB_OFFSET_BYTES],
        blob=data[limits.BLOB_OFFSET_BYTES :],
    )


def envelope_hash(data: bytes) -> bytes:
    """The name of these exact bytes at a broker, 32 bytes. A re-sealed message has another one."""
    return labelled_hash(labels.ENVELOPE, data)
