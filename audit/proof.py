"""One entry's receipt: that it is in a log, under a signed and cosigned checkpoint.

Spec: C2SP tlog-proof; docs/spec/log.md#receipts. A text file of under 2 kB: header line, optional
``extra``, index, audit path, empty line, the checkpoint verbatim.

Does not: carry the entry. Whoever checks a proof brings the entry's bytes and a policy.
"""

import base64
import binascii
import re
from dataclasses import dataclass, replace
from typing import Final

from audit.checkpoint import SIZE_LIMIT, parse_checkpoint_untrusted
from audit.note import NOTE_BYTES_MAX
from audit.policy import Policy, SignedHead, open_checkpoint_untrusted
from audit.tree import (
    HASH_BYTES,
    ReadTile,
    inclusion_path,
    leaf_hash,
    perfect_from_tiles,
    verify_inclusion,
)
from keys.errors import MalformedInput, VerificationFailed

HEADER: Final = "c2sp.org/tlog-proof@v1"
PATH_MAX: Final = 63
EXTRA_BYTES_MAX: Final = 4096
PROOF_BYTES_MAX: Final = NOTE_BYTES_MAX + 16_384
_INDEX: Final = re.compile(r"index (0|[1-9][0-9]{0,15})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A parsed tlog-proof. ``extra`` is authenticated by nothing;

    ``checkpoint`` is a signed note, verbatim.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def with_extra(self, extra: bytes) -> "Proof":
        """The same proof with what it is about."""
        return replace(self, extra=extra)

    def encode(self) -> bytes:
        """The file's bytes; parse_proof_untrusted accepts no other spelling."""
        lines = [HEADER]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(part).decode() for part in self.path]
        return ("\n".join(lines) + "\n\n").encode() + self.checkpoint


def prove(index: int, checkpoint: bytes, read_tile: ReadTile) -> Proof:
    """The proof of leaf ``index`` under a checkpoint (a signed note) of the log that ``read_tile`` reads."""
    head, _ = parse_checkpoint_untrusted(checkpoint)
    path = inclusion_path(index, head.size, perfect_from_tiles(head.size, read_tile))
    return Proof(index=index, path=tuple(path), checkpoint=checkpoint)


def parse_proof_untrusted(data: bytes) -> Proof:
    """Read a tlog-proof. MalformedInput ``bad_proof``, ``bad_checkpoint`` or ``bad_note``."""
    if len(data) > PROOF_BYTES_MAX:
        raise MalformedInput("bad_proof", f"{len(data)} bytes, more than {PROOF_BYTES_MAX}")
    head, separator, checkpoint = data.partition(b"\n\n")
    if not separator or not head.isascii():
        raise MalformedInput("bad_proof", "no empty line before the checkpoint")
    lines = head.decode("ascii").split("\n")
    if lines[0] != HEADER:
        raise MalformedInput("bad_proof", f"the first line is not {HEADER}")
    rest = lines[1:]
    extra = None
    if rest and rest[0].startswith("extra "):
        extra = _base64_untrusted(rest.pop(0)[len("extra ") :])
        if len(extra) > EXTRA_BYTES_MAX:
            raise MalformedInput("bad_proof", f"more than {EXTRA_BYTES_MAX} extra bytes")
    found = _INDEX.fullmatch(rest[0]) if rest else None
    if found is None or int(found[1]) >= SIZE_LIMIT:
        raise MalformedInput("bad_proof", "no index line")
    if len(rest) - 1 > PATH_MAX:
        raise MalformedInput("bad_proof", f"a path of more than {PATH_MAX} hashes")
    path = tuple(_base64_untrusted(line) for line in rest[1:])
    if any(len(part) != HASH_BYTES for part in path):
        raise MalformedInput("bad_proof", "a path line is not a SHA-256 hash")
    parse_checkpoint_untrusted(checkpoint)
    return Proof(index=int(found[1]), path=path, checkpoint=checkpoint, extra=extra)


def _base64_untrusted(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise MalformedInput("bad_proof", "not base64") from error
    if base64.b64encode(decoded).decode() != text:
        raise MalformedInput("bad_proof", "base64 with stray bits")
    return decoded


def verify_proof(proof: Proof, entry: bytes, policy: Policy) -> SignedHead:
    """Check that ``entry`` is in a log of the policy, witnessed as it asks; the head that proves it.

    MalformedInput as open_checkpoint_untrusted. VerificationFailed ``unknown_key``, ``bad_signature``,
    ``not_witnessed``, ``not_included``.
    """
    head = open_checkpoint_untrusted(proof.checkpoint, policy)
    if not head.quorum:
        raise VerificationFailed("not_witnessed", "too few cosignatures for the policy's quorum")
    checkpoint = head.checkpoint
    verify_inclusion(leaf_hash(entry), proof.index, checkpoint.size, proof.path, checkpoint.root)
    return head
