"""Cosigning another log: what is asked of a witness, how it is judged, what is answered.

Spec: C2SP tlog-witness (https://c2sp.org/tlog-witness), docs/spec/log.md#witnessing. Requests are its exact
``add-checkpoint`` bodies and statuses its HTTP statuses, so that a witness behind HTTP can be asked as well.

One rule: what a witness holds of a log only grows, and it grows in the transaction that keeps the answer:
whoever calls ``judge_untrusted`` reads ``Held`` and writes it back in that one.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from audit.checkpoint import SIZE_LIMIT, Checkpoint, parse_checkpoint_untrusted
from audit.note import (
    NOTE_BYTES_MAX,
    SIGNATURES_MAX,
    Note,
    Signature,
    VerifierKey,
    parse_note_untrusted,
    verify_note,
)
from audit.tree import EMPTY_ROOT, HASH_BYTES, verify_consistency
from keys.errors import MalformedInput, VerificationFailed

PROOF_LINES_MAX: Final = 63
REFUSALS_MAX: Final = 100
"""Of one log, the newest: what a witness keeps of what it refused."""
REQUEST_BYTES_MAX: Final = NOTE_BYTES_MAX + 64 * (PROOF_LINES_MAX + 1)
_OLD: Final = re.compile(rb"old (0|[1-9][0-9]{0,15})")
_LINE_CHARACTERS: Final = 44  # base64 of a SHA-256


def witness_name(origin: str) -> str:
    """The witness key's name of a log: same owner, same epoch."""
    front, epoch = origin.rsplit("/log", 1)
    return f"{front}/witness{epoch}"


class Status(IntEnum):
    """Answers of a witness, numbered as HTTP does."""

    COSIGNED = 200
    MALFORMED = 400
    FORBIDDEN = 403  # the log's signature does not hold, or is not there
    NOT_FOUND = 404  # not a log this witness was told of
    CONFLICT = 409  # another size than the one held, or another root for it
    UNPROVEN = 422  # the consistency proof does not hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An ``add-checkpoint``: ``note`` is a checkpoint signed by its log, as bytes; ``old_size`` is what
    the witness should hold, and ``proof`` that the one is the beginning of the other."""

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes

    def encode(self) -> bytes:
        """The body, byte for byte."""
        lines = [f"old {self.old_size}", *(base64.b64encode(part).decode() for part in self.proof)]
        return ("\n".join(lines) + "\n\n").encode() + self.note


def parse_request_untrusted(data: bytes) -> tuple[Request, Checkpoint, Note]:
    """The request, and what its note claims. MalformedInput ``bad_witness_request`` or as a checkpoint."""
    if len(data) > REQUEST_BYTES_MAX:
        raise MalformedInput("bad_witness_request", f"{len(data)} bytes, more than {REQUEST_BYTES_MAX}")
    head, separator, note = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    old = _OLD.fullmatch(first)
    if not separator or old is None or int(old[1]) >= SIZE_LIMIT or len(lines) > PROOF_LINES_MAX:
        raise MalformedInput("bad_witness_request", "not an old size, at most 63 hashes and an empty line")
    checkpoint, parsed = parse_checkpoint_untrusted(note)
    request = Request(old_size=int(old[1]), proof=tuple(_hash_untrusted(line) for line in lines), note=note)
    return request, checkpoint, parsed


def _hash_untrusted(line: bytes) -> bytes:
    try:
        found = base64.b64decode(line, validate=True) if len(line) == _LINE_CHARACTERS else b""
    except binascii.Error:
        found = b""
    if len(found) != HASH_BYTES or base64.b64encode(found) != line:
        raise MalformedInput("bad_witness_request", "a proof line is not one hash in base64")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The newest head of a log that a witness accepted; ``note`` is the proof that its log signed it."""

    size: int
    root: bytes
    note: bytes


NOTHING_HELD: Final = Held(size=0, root=EMPTY_ROOT, note=b"")
"""Of a log that began after its owner told us of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a witness answers. ``offered`` is None where nothing could be read; ``note`` is it with its log's
    own signature alone, empty where that does not hold.

    ``refusal``: why this is held against the log, for the log's owner signed it or tried to: bad_signature,
    not_a_prefix, other_root; None where asking again is all it takes.
    """

    status: Status
    offered: Checkpoint | None
    note: bytes = b""
    refusal: str | None = None

    @property
    def held(self) -> Held:
        """What is held from now on, of a COSIGNED one."""
        assert self.status is Status.COSIGNED
        assert self.offered is not None
        return Held(size=self.offered.size, root=self.offered.root, note=self.note)


def judge_untrusted(body: bytes, log_key: VerifierKey, held: Held) -> Judgement:
    """Judge a request for the log of ``log_key``, of which ``held`` was accepted last. Raises nothing.

    In C2SP's order: form, origin, signature, old size against the new one and against the one held, proof.
    A second root for the size held is seen before anything else is compared: it needs no proof.
    """
    try:
        request, offered, note = parse_request_untrusted(body)
    except MalformedInput:
        return Judgement(status=Status.MALFORMED, offered=None)
    if offered.origin != log_key.name:
        return Judgement(status=Status.NOT_FOUND, offered=offered)

    own = _own_note(note, log_key)
    if own is None:
        return Judgement(status=Status.FORBIDDEN, offered=offered, refusal="bad_signature")

    def refuse(status: Status, refusal: str | None = None) -> Judgement:
        return Judgement(status=status, offered=offered, note=own, refusal=refusal)

    if request.old_size > offered.size:
        return refuse(Status.MALFORMED)
    if offered.size == held.size and offered.root != held.root:
        return refuse(Status.CONFLICT, "other_root")
    if request.old_size != held.size:
        return refuse(Status.CONFLICT)
    try:
        verify_consistency(held.size, held.root, offered.size, offered.root, request.proof)
    except VerificationFailed:
        return refuse(Status.UNPROVEN, "not_a_prefix")
    return Judgement(status=Status.COSIGNED, offered=offered, note=own)


def _own_note(note: Note, log_key: VerifierKey) -> bytes | None:
    """The note under its log's signature and nothing else, so that it is short whoever sent it."""
    try:
        if not verify_note(note, [log_key]):
            return None
    except VerificationFailed:
        return None
    own = next(s for s in note.signatures if (s.name, s.key_id) == (log_key.name, log_key.key_id))
    return Note(text=note.text, signatures=(own,)).encode()


def read_head_untrusted(data: bytes, log_key: VerifierKey) -> Held:
    """A checkpoint that the log of ``log_key`` signed.

    MalformedInput as parse_checkpoint_untrusted; VerificationFailed ``unknown_key``.
    """
    checkpoint, note = parse_checkpoint_untrusted(data)
    own = _own_note(note, log_key)
    if checkpoint.origin != log_key.name or own is None:
        raise VerificationFailed("unknown_key", f"not a checkpoint that {log_key.name} signed")
    return Held(size=checkpoint.size, root=checkpoint.root, note=own)


def with_cosignatures(data: bytes, cosignatures: Sequence[Signature]) -> bytes:
    """A signed checkpoint with more lines: the log's own stay first, a newer line of a key takes the place of
    its older one. The newest keys stay where there is no room for all."""
    note = parse_note_untrusted(data)
    own, *others = note.signatures
    lines = {(line.name, line.key_id): line for line in (*others, *cosignatures)}
    lines.pop((own.name, own.key_id), None)
    kept = list(lines.values())[-(SIGNATURES_MAX - 1) :]
    return Note(text=note.text, signatures=(own, *kept)).encode()
