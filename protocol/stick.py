"""Envelopes in a file, to be carried by hand.

Spec: docs/spec/stick.md. One rule: a file tells nothing that its envelopes do not show to a broker, and
whatever becomes of it on its way, every envelope that is whole in it can be used. Each has its own hash, and
a hash at the end says that nothing is missing. Opens nothing; ``sealing`` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from keys import labels, layout
from keys.errors import BrokenInvariant, MalformedInput
from keys.primitives import labelled_hash
from protocol import limits
from protocol.envelope import BUCKETS, envelope_hash

_MAGIC: Final = b"SLWX"
_FORMAT: Final = 1
HEAD_BYTES: Final = 9
RECORD_HEAD_BYTES: Final = 4 + limits.HASH_BYTES
FILE_BYTES_MAX: Final = (
    HEAD_BYTES
    + limits.STICK_ENVELOPES_MAX * (RECORD_HEAD_BYTES + limits.ENVELOPE_BYTES_MAX)
    + limits.HASH_BYTES
)


def encode_stick(envelopes: Sequence[bytes]) -> bytes:
    """The file that holds these, at least one and at most STICK_ENVELOPES_MAX."""
    if not 1 <= len(envelopes) <= limits.STICK_ENVELOPES_MAX:
        raise BrokenInvariant("stick_overfull", f"a file cannot hold {len(envelopes)} envelopes")
    head = _MAGIC + layout.u8(_FORMAT) + layout.u32(len(envelopes))
    hashes = [envelope_hash(envelope) for envelope in envelopes]
    records = [
        layout.u32(len(envelope)) + named + envelope
        for envelope, named in zip(envelopes, hashes, strict=True)
    ]
    return head + b"".join(records) + _closing(head, hashes)


def closing_hash(data: bytes) -> bytes:
    """The hash at the end of a file that ``encode_stick`` made: it names the file in both offices' logs."""
    return data[-limits.HASH_BYTES :]


def _closing(head: bytes, hashes: Sequence[bytes]) -> bytes:
    return labelled_hash(labels.STICK, head, b"".join(hashes))


@dataclass(frozen=True, slots=True, kw_only=True)
class StickEnd:
    """How a file ended. ``digest``: its closing hash, when the file is whole.

    ``damaged`` records have another hash than theirs, ``missing`` ones are not there at all.
    """

    count: int
    damaged: int
    missing: int
    digest: bytes | None

    @property
    def is_whole(self) -> bool:
        """Every envelope was there, unchanged, and nothing behind."""
        return self.digest is not None


@dataclass(slots=True)
class StickReader:
    """Takes a file apart while it comes; holds one envelope at most, and what it was just fed."""

    count: int | None = None
    _head: bytes = b""
    _held: bytearray = field(default_factory=bytearray, repr=False)
    _hashes: list[bytes] = field(default_factory=list, repr=False)
    _damaged: int = 0
    _is_lost: bool = False  # what comes now is neither a record nor the end

    def feed(self, data: bytes) -> list[bytes]:
        """The envelopes that became whole with these bytes.

        MalformedInput from the first bytes on: ``stick_foreign``, ``stick_version``, ``stick_count``.
        """
        self._held += data
        if self.count is None and not self._read_head():
            return []
        found: list[bytes] = []
        while not self._is_lost and len(self._hashes) < (self.count or 0):
            envelope = self._next_record()
            if envelope is None:
                break
            found += envelope
        if len(self._hashes) == self.count and len(self._held) > limits.HASH_BYTES:
            self._is_lost = True  # more than the end of a file
        if self._is_lost:
            self._held.clear()
        return found

    def finish(self) -> StickEnd:
        """Nothing more comes. MalformedInput ``stick_foreign`` when not even a head was there."""
        if self.count is None:
            raise MalformedInput("stick_foreign", "this is no file of envelopes, or only its first bytes")
        closed = not self._is_lost and bytes(self._held) == _closing(self._head, self._hashes)
        missing = self.count - len(self._hashes)
        is_whole = closed and not missing and not self._damaged
        return StickEnd(
            count=self.count,
            damaged=self._damaged,
            missing=missing,
            digest=bytes(self._held) if is_whole else None,
        )

    def _read_head(self) -> bool:
        if not _MAGIC.startswith(self._held[: len(_MAGIC)]):
            raise MalformedInput("stick_foreign", "this is no file of envelopes")
        if len(self._held) < HEAD_BYTES:
            return False
        self._head = bytes(self._held[:HEAD_BYTES])
        if self._head[len(_MAGIC)] != _FORMAT:
            raise MalformedInput("stick_version", f"file format {self._head[len(_MAGIC)]} is not known here")
        count = int.from_bytes(self._head[-4:], "big")
        if not 1 <= count <= limits.STICK_ENVELOPES_MAX:
            raise MalformedInput("stick_count", f"no file holds {count} envelopes")
        self.count = count
        del self._held[:HEAD_BYTES]
        return True

    def _next_record(self) -> list[bytes] | None:
        """The next envelope in a list, an empty one for a damaged one; None until it is here."""
        if len(self._held) < RECORD_HEAD_BYTES:
            return None
        size = int.from_bytes(self._held[:4], "big")
        if size not in BUCKETS:
            self._is_lost = True
            return None
        if len(self._held) < RECORD_HEAD_BYTES + size:
            return None
        named = bytes(self._held[4:RECORD_HEAD_BYTES])
        envelope = bytes(self._held[RECORD_HEAD_BYTES : RECORD_HEAD_BYTES + size])
        del self._held[: RECORD_HEAD_BYTES + size]
        self._hashes.append(named)
        if envelope_hash(envelope) != named:
            self._damaged += 1
            return []
        return [envelope]
