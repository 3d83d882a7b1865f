"""The proof inside a custody note: a leaf, its path through the batch, and one signature over the root.

Spec: docs/spec/broker.md#custody. Here and not with the note's wire form, because an auditor verifies notes
without the protocol.
"""

from collections.abc import Sequence

from keys import labels
from keys.errors import VerificationFailed
from keys.primitives import ed25519_verify, labelled_hash


def custody_leaf(
    *, origin: str, put_hash: bytes, envelope_hash: bytes, size_bytes: int, log_index: int, time_ms: int
) -> bytes:
    """What a note says, as 32 bytes."""
    return labelled_hash(
        labels.CUSTODY_LEAF,
        origin.encode(),
        put_hash,
        envelope_hash,
        size_bytes.to_bytes(4, "big"),
        log_index.to_bytes(8, "big"),
        time_ms.to_bytes(8, "big"),
    )


def custody_node(left: bytes, right: bytes) -> bytes:
    """An inner node of a batch's tree, 32 bytes."""
    return labelled_hash(labels.CUSTODY_TREE, left, right)


def verify_custody_proof(
    leaf: bytes, *, at: int, width: int, path: Sequence[bytes], signature: bytes, custody_public: bytes
) -> None:
    """Raise VerificationFailed unless the key signed a batch of ``width`` notes whose number ``at`` is this.

    ``custody_path`` for a place or path that no such batch has.
    """
    if not 0 <= at < width:
        raise VerificationFailed("custody_path", "the note stands outside its batch")
    left, node = iter(path), leaf
    while width > 1:
        # The last node of an odd row has no neighbour and goes up as it is.
        if at % 2 == 1 or at + 1 < width:
            neighbour = next(left, None)
            if neighbour is None:
                raise VerificationFailed("custody_path", "the path is too short")
            node = custody_node(neighbour, node) if at % 2 else custody_node(node, neighbour)
        at, width = at // 2, (width + 1) // 2
    if next(left, None) is not None:
        raise VerificationFailed("custody_path", "the path is too long")
    ed25519_verify(custody_public, labels.CUSTODY_NOTE, node, signature)
