"""Custody notes: the broker's signed word that it holds an envelope, each standing alone as evidence.

Spec: docs/spec/broker.md#custody. One signature covers a batch: the root of a Merkle tree over its notes.
Each note carries its own path and can be shown without the others. One rule: a broker signs after its commit.
What a broker says about time orders its own acts and is trusted for nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from keys import labels
from keys.custodyproof import custody_leaf, custody_node, verify_custody_proof
from keys.errors import BrokenInvariant, MalformedInput
from keys.primitives import Ed25519PrivateKey
from protocol import limits, wire
from protocol.wire import Fields

_UNSIGNED: Final = b""
_PATH_HASHES_MAX: Final = (limits.OPS_PER_REQUEST_MAX - 1).bit_length()
_NOTE_BYTES_MAX: Final = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Custody:
    """Broker ``origin`` holds this envelope in the mailbox of this put capability since ``time_ms``.

    ``log_index`` points into the broker's own log. ``batch_index``, ``batch_count``, ``path`` and
    ``signature`` prove the note; they are filled by ``sign_custody``.
    """

    origin: str
    put_capability_hash: bytes  # 32
    envelope_hash: bytes  # 32
    size_bytes: int
    log_index: int
    time_ms: int
    batch_index: int = 0
    batch_count: int = 0
    path: tuple[bytes, ...] = ()  # 32 each, from the leaf up
    signature: bytes = _UNSIGNED  # Ed25519, 64

    def encode(self) -> bytes:
        """The note with its proof, as it is kept and exported: at most 1 KiB."""
        return wire.encode(
            {
                "v": 1,
                "o": self.origin,
                "p": self.put_capability_hash,
                "h": self.envelope_hash,
                "z": self.size_bytes,
                "i": self.log_index,
                "t": self.time_ms,
                "bi": self.batch_index,
                "bn": self.batch_count,
                "bp": b"".join(self.path),
                "s": self.signature,
            }
        )

    @staticmethod
    def decode_untrusted(data: bytes) -> "Custody":
        """The inverse of ``encode``. MalformedInput only; the signature is ``verify_custody``."""
        fields = Fields(wire.decode_untrusted(data, bytes_max=_NOTE_BYTES_MAX), "custody note")
        fields.integer("v", least=1, most=1)
        note = read_custody(fields, fields.text("o", bytes_max=limits.BROKER_ORIGIN_BYTES_MAX))
        path = fields.raw("bp", bytes_max=_PATH_HASHES_MAX * limits.HASH_BYTES)
        count = fields.integer("bn", least=1, most=limits.OPS_PER_REQUEST_MAX)
        index = fields.integer("bi", most=count - 1)
        signature = fields.raw("s", size=limits.ED25519_SIGNATURE_BYTES)
        fields.done()
        if len(path) % limits.HASH_BYTES:
            raise MalformedInput("custody_path", "a path is whole hashes")
        hashes = tuple(path[at : at + limits.HASH_BYTES] for at in range(0, len(path), limits.HASH_BYTES))
        return replace(note, batch_index=index, batch_count=count, path=hashes, signature=signature)


def read_custody(fields: Fields, origin: str) -> Custody:
    """The facts of one note out of a map; its proof is read or rebuilt by the caller."""
    return Custody(
        origin=origin,
        put_capability_hash=fields.raw("p", size=limits.HASH_BYTES),
        envelope_hash=fields.raw("h", size=limits.HASH_BYTES),
        size_bytes=fields.integer("z", most=limits.ENVELOPE_BYTES_MAX),
        log_index=fields.integer("i"),
        time_ms=fields.integer("t", most=limits.TIME_MS_MAX),
    )


def sign_custody(notes: Sequence[Custody], key: Ed25519PrivateKey) -> tuple[Custody, ...]:
    """Sign a batch of 1 to ``OPS_PER_REQUEST_MAX`` notes at once, after the commit that made them true."""
    root, _ = _tree(notes)
    return with_signature(notes, key.sign(labels.CUSTODY_NOTE, root))


def with_signature(notes: Sequence[Custody], signature: bytes) -> tuple[Custody, ...]:
    """The batch with its one signature and each note's own path; verifies nothing."""
    _, paths = _tree(notes)
    return tuple(
        replace(note, batch_index=index, batch_count=len(notes), path=path, signature=signature)
        for index, (note, path) in enumerate(zip(notes, paths, strict=True))
    )


def verify_custody(note: Custody, custody_public: bytes) -> None:
    """Raise VerificationFailed unless the broker with this custody key signed the note."""
    verify_custody_proof(
        _leaf(note),
        at=note.batch_index,
        width=note.batch_count,
        path=note.path,
        signature=note.signature,
        custody_public=custody_public,
    )


def _leaf(note: Custody) -> bytes:
    return custody_leaf(
        origin=note.origin,
        put_hash=note.put_capability_hash,
        envelope_hash=note.envelope_hash,
        size_bytes=note.size_bytes,
        log_index=note.log_index,
        time_ms=note.time_ms,
    )


def _tree(notes: Sequence[Custody]) -> tuple[bytes, list[tuple[bytes, ...]]]:
    """Root and every path of the batch, in one pass over its rows."""
    if not 1 <= len(notes) <= limits.OPS_PER_REQUEST_MAX:
        raise BrokenInvariant("custody_batch", "a batch has 1 to 256 notes")
    row = [_leaf(note) for note in notes]
    paths: list[list[bytes]] = [[] for _ in notes]
    height = 0
    while len(row) > 1:
        for index, path in enumerate(paths):
            neighbour = (index >> height) ^ 1
            if neighbour < len(row):
                path.append(row[neighbour])
        row = [
            custody_node(row[at], row[at + 1]) if at + 1 < len(row) else row[at]
            for at in range(0, len(row), 2)
        ]
        height += 1
    return row[0], [tuple(path) for path in paths]
