"""Checkpoints: a log's claim "my first <size> entries have this root", as the text of a signed note.

Spec: C2SP tlog-checkpoint; docs/spec/log.md#checkpoints. Exactly three lines: origin, size, root. Extension
lines are refused: nobody can audit them, and time comes from cosigners.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from audit.note import KEY_NAME, Note, NoteSigner, parse_note_untrusted
from audit.tree import EMPTY_ROOT, HASH_BYTES
from keys.errors import MalformedInput

SIZE_LIMIT: Final = 2**53
TEXT_BYTES_MAX: Final = 256
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A log's head: origin (= log key name), number of entries, 32-byte root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The note text, ending in a newline."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def sign_checkpoint(checkpoint: Checkpoint, signer: NoteSigner) -> bytes:
    """The signed note under the log's own key, whose name must be the origin."""
    if signer.name != checkpoint.origin:
        raise ValueError("a checkpoint is signed under its origin's name")
    return Note(text=checkpoint.text, signatures=(signer.sign(checkpoint.text),)).encode()


def parse_checkpoint_untrusted(data: bytes) -> tuple[Checkpoint, Note]:
    """The head a note claims, and the note for verification.

    MalformedInput ``bad_checkpoint`` or ``bad_note``.
    """
    note = parse_note_untrusted(data)
    return parse_checkpoint_text_untrusted(note.text.encode()), note


def parse_checkpoint_text_untrusted(data: bytes) -> Checkpoint:
    """The head in a checkpoint's text, without signatures. MalformedInput ``bad_checkpoint``."""
    if len(data) > TEXT_BYTES_MAX or not data.isascii():
        raise MalformedInput("bad_checkpoint", "too long, or not ASCII")
    lines = data.decode("ascii").split("\n")
    if len(lines) != 4:
        raise MalformedInput("bad_checkpoint", "a checkpoint has three lines: origin, size, root")
    origin, size_text, root_text, _ = lines
    if KEY_NAME.fullmatch(origin) is None:
        raise MalformedInput("bad_checkpoint", "the origin is not a key name")
    if _SIZE.fullmatch(size_text) is None or int(size_text) >= SIZE_LIMIT:
        raise MalformedInput("bad_checkpoint", "the size is not a number below 2^53")
    try:
        root = base64.b64decode(root_text, validate=True)
    except binascii.Error as error:
        raise MalformedInput("bad_checkpoint", "the root is not base64") from error
    checkpoint = Checkpoint(origin=origin, size=int(size_text), root=root)
    if len(root) != HASH_BYTES or checkpoint.text.encode() != data:
        raise MalformedInput("bad_checkpoint", "not in canonical form")
    if checkpoint.size == 0 and root != EMPTY_ROOT:
        raise MalformedInput("bad_checkpoint", "an empty tree has one root only")
    return checkpoint
