"""Signed notes: a text, and signatures under named keys.

Spec: C2SP signed-note and tlog-cosignature (https://c2sp.org/tlog-cosignature); docs/spec/log.md#notes.
Signature types used here: 0x01 Ed25519 over the text (a log's own), 0x04 timestamped Ed25519 cosignature and
0x06 timestamped ML-DSA-44 cosignature (a witness's).

One rule: signatures of keys nobody gave us are ignored, and a bad signature of a key we hold refuses the
whole note. Does not: decide which keys count (policy) or what the text means (checkpoint).
"""

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol

from keys.errors import MalformedInput, VerificationFailed
from keys.primitives import (
    ED25519_PUBLIC_BYTES,
    ED25519_SIGNATURE_BYTES,
    MLDSA44_PUBLIC_BYTES,
    MLDSA44_SIGNATURE_BYTES,
    ed25519_verify_raw,
    mldsa44_verify_raw,
)

NOTE_BYTES_MAX: Final = 65_536
SIGNATURES_MAX: Final = 64
"""C2SP asks for at least 16; an ML-DSA-44 cosignature takes 3.3 kB of base64."""

KEY_NAME_BYTES_MAX: Final = 120
TYPE_ED25519: Final = 0x01
TYPE_COSIGNATURE: Final = 0x04
TYPE_COSIGNATURE_MLDSA44: Final = 0x06
COSIGNATURES: Final = frozenset({TYPE_COSIGNATURE, TYPE_COSIGNATURE_MLDSA44})
_PUBLIC_BYTES: Final = {
    TYPE_ED25519: ED25519_PUBLIC_BYTES,
    TYPE_COSIGNATURE: ED25519_PUBLIC_BYTES,
    TYPE_COSIGNATURE_MLDSA44: MLDSA44_PUBLIC_BYTES,
}
_SUBTREE_LABEL: Final = b"subtree/v1\n\x00"
_TIMESTAMP_BYTES: Final = 8

_SEPARATOR: Final = "\n\n"
_SIGNATURE_START: Final = "\u2014 "
_CONTROL: Final = re.compile("[\x00-\x09\x0b-\x1f]")
KEY_NAME: Final = re.compile(r"[!-*,-~]{1,120}")
"""Printable ASCII without space and plus: narrower than C2SP, which allows any non-space Unicode."""


class RawSigner(Protocol):
    """What signs: a private key of keys.primitives, or a token that answers alike."""

    @property
    def public_bytes(self) -> bytes:
        """32 bytes of Ed25519, 1312 of ML-DSA-44."""
        ...

    def sign_raw(self, message: bytes) -> bytes:
        """Signature over ``message`` itself, 64 or 2420 bytes."""
        ...


def key_id(name: str, type_byte: int, public: bytes) -> bytes:
    """The 4-byte hint that, with the name, says which key a signature line is for."""
    return sha256(name.encode() + b"\n" + bytes([type_byte]) + public).digest()[:4]


def check_key_name(name: str) -> str:
    """``name`` itself, or MalformedInput ``bad_key_name``."""
    if KEY_NAME.fullmatch(name) is None:
        raise MalformedInput(
            "bad_key_name", "a key name is 1 to 120 printable ASCII characters, no space or plus"
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """A public key with its name and signature type: what a policy lists and a verifier trusts."""

    name: str
    type_byte: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        """4 bytes."""
        return key_id(self.name, self.type_byte, self.public)

    def encode(self) -> str:
        """The C2SP vkey: ``name+hex(key id)+base64(type || public key)``."""
        material = base64.b64encode(bytes([self.type_byte]) + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{material}"


def parse_vkey_untrusted(text: str) -> VerifierKey:
    """Read a vkey. MalformedInput ``bad_vkey``; only the three signature types of this file are known."""
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise MalformedInput("bad_vkey", "a verifier key is written name+id+key")
    name = check_key_name(parts[0])
    material = _base64_untrusted(parts[2], "bad_vkey")
    if not material or len(material) - 1 != _PUBLIC_BYTES.get(material[0]):
        raise MalformedInput("bad_vkey", "not a note key (type 1) or cosignature key (type 4 or 6)")
    key = VerifierKey(name=name, type_byte=material[0], public=material[1:])
    if parts[1] != key.key_id.hex():
        raise MalformedInput("bad_vkey", f"the key id of {name} does not match its key: mistyped or altered")
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature line, unverified: key name, 4-byte key id, the bytes after the id."""

    name: str
    key_id: bytes
    blob: bytes

    def encode(self) -> str:
        """The line, newline included."""
        return f"{_SIGNATURE_START}{self.name} {base64.b64encode(self.key_id + self.blob).decode()}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A parsed note. ``text`` ends in a newline. Nothing here is verified yet."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The canonical bytes; parse_note_untrusted accepts no others."""
        return (self.text + "\n" + "".join(s.encode() for s in self.signatures)).encode()


def parse_note_untrusted(data: bytes) -> Note:
    """Split a note into text and signature lines. MalformedInput ``bad_note``."""
    if len(data) > NOTE_BYTES_MAX:
        raise MalformedInput("bad_note", f"{len(data)} bytes, more than {NOTE_BYTES_MAX}")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedInput("bad_note", "not UTF-8") from error
    if _CONTROL.search(whole):
        raise MalformedInput("bad_note", "control characters")
    head, separator, tail = whole.rpartition(_SEPARATOR)
    if not separator or not head or not tail.endswith("\n"):
        raise MalformedInput("bad_note", "no blank line between text and signatures")
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise MalformedInput("bad_note", f"more than {SIGNATURES_MAX} signatures")
    return Note(text=head + "\n", signatures=tuple(_parse_signature(line) for line in lines))


def _parse_signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_SIGNATURE_START).partition(" ")
    if not line.startswith(_SIGNATURE_START) or not space or KEY_NAME.fullmatch(name) is None:
        raise MalformedInput("bad_note", "a signature line is: em dash, key name, base64")
    blob = _base64_untrusted(encoded, "bad_note")
    if len(blob) < 5:
        raise MalformedInput("bad_note", "a signature line without a signature")
    return Signature(name=name, key_id=blob[:4], blob=blob[4:])


def _base64_untrusted(text: str, code: str) -> bytes:
    """Standard base64 in its only canonical spelling (padding bits zero)."""
    try:
        decoded = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise MalformedInput(code, "not base64") from error
    if base64.b64encode(decoded).decode() != text:
        raise MalformedInput(code, "base64 with stray bits")
    return decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """One signature that holds. ``time_s`` is a cosignature's own time (POSIX seconds), None for a log's."""

    key: VerifierKey
    time_s: int | None


def verify_note(note: Note, keys: Iterable[VerifierKey]) -> list[Verified]:
    """Every signature of ``note`` under one of ``keys``, in note order, each key once.

    VerificationFailed ``bad_signature`` when a line names one of the keys and does not verify: a note is
    refused whole. Lines of other keys are ignored; an empty result means that no key of ours signed.
    """
    known = {(key.name, key.key_id): key for key in keys}
    verified: dict[tuple[str, bytes], Verified] = {}
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is None:
            continue
        time_s = _verify_signature(note.text, signature, key)
        verified.setdefault((key.name, key.key_id), Verified(key=key, time_s=time_s))
    return list(verified.values())


def _verify_signature(text: str, signature: Signature, key: VerifierKey) -> int | None:
    time_s, raw = None, signature.blob
    if key.type_byte != TYPE_ED25519:
        time_s, raw = int.from_bytes(raw[:_TIMESTAMP_BYTES], "big"), raw[_TIMESTAMP_BYTES:]
    is_post_quantum = key.type_byte == TYPE_COSIGNATURE_MLDSA44
    size = MLDSA44_SIGNATURE_BYTES if is_post_quantum else ED25519_SIGNATURE_BYTES
    if len(raw) != size or (time_s or 0) >= 2**63:
        raise VerificationFailed("bad_signature", f"the signature of {key.name} has the wrong form")
    try:
        if is_post_quantum:
            mldsa44_verify_raw(key.public, subtree_message(key.name, text, time_s or 0), raw)
        elif time_s is None:
            ed25519_verify_raw(key.public, text.encode(), raw)
        else:
            ed25519_verify_raw(key.public, cosigned_message(text, time_s), raw)
    except VerificationFailed as error:
        raise VerificationFailed("bad_signature", f"the signature of {key.name} does not hold") from error
    return time_s


def cosigned_message(text: str, time_s: int) -> bytes:
    """What a witness signs: header line, time line, the note text (C2SP tlog-cosignature)."""
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def subtree_message(name: str, text: str, time_s: int) -> bytes:
    """What a witness of this name signs with ML-DSA-44: C2SP tlog-cosignature, "ML-DSA-44 signed message".

    ``struct { uint8 label[12]; opaque cosigner_name<1..255>; uint64 timestamp; opaque log_origin<1..255>;
    uint64 start, end; uint8 hash[32]; }``, start being 0 for a checkpoint. VerificationFailed
    ``bad_signature`` for a text that is none.
    """
    try:
        origin, size, root = text.removesuffix("\n").split("\n")
        return b"".join(
            (
                _SUBTREE_LABEL,
                len(name).to_bytes() + name.encode("ascii"),
                time_s.to_bytes(8, "big"),
                len(origin).to_bytes() + origin.encode("ascii"),
                bytes(8),
                int(size).to_bytes(8, "big"),
                _base64_untrusted(root, "bad_note"),
            )
        )
    except (ValueError, OverflowError, MalformedInput) as error:
        raise VerificationFailed("bad_signature", "only a checkpoint is cosigned") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class PostQuantumSigner:
    """A witness's ML-DSA-44 key under its name, which is that of its Ed25519 key."""

    name: str
    key: RawSigner

    @property
    def witness_key(self) -> VerifierKey:
        """The verifier key of ``cosign``."""
        return VerifierKey(name=self.name, type_byte=TYPE_COSIGNATURE_MLDSA44, public=self.key.public_bytes)

    def cosign(self, text: str, time_s: int) -> Signature:
        """Cosign a checkpoint's text at ``time_s`` (POSIX seconds)."""
        raw = self.key.sign_raw(subtree_message(self.name, text, time_s))
        blob = time_s.to_bytes(_TIMESTAMP_BYTES, "big") + raw
        return Signature(name=check_key_name(self.name), key_id=self.witness_key.key_id, blob=blob)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSigner:
    """A log's or witness's key under its name. Holds no secret itself: ``key`` signs."""

    name: str
    key: RawSigner

    @property
    def log_key(self) -> VerifierKey:
        """The verifier key of ``sign``."""
        return VerifierKey(name=self.name, type_byte=TYPE_ED25519, public=self.key.public_bytes)

    @property
    def witness_key(self) -> VerifierKey:
        """The verifier key of ``cosign``."""
        return VerifierKey(name=self.name, type_byte=TYPE_COSIGNATURE, public=self.key.public_bytes)

    def sign(self, text: str) -> Signature:
        """Sign a note text, which ends in a newline."""
        return Signature(
            name=check_key_name(self.name), key_id=self.log_key.key_id, blob=self.key.sign_raw(text.encode())
        )

    def cosign(self, text: str, time_s: int) -> Signature:
        """Cosign a checkpoint's text at ``time_s`` (POSIX seconds)."""
        raw = self.key.sign_raw(cosigned_message(text, time_s))
        blob = time_s.to_bytes(_TIMESTAMP_BYTES, "big") + raw
        return Signature(name=check_key_name(self.name), key_id=self.witness_key.key_id, blob=blob)
