"""A photo beside an alert: its manifest, its sealing and opening.

Spec: docs/spec/attachments.md. Each picture is sealed once, under a key of its own, into a ciphertext of one
of few sizes; the manifest that names and opens it is a value of the alert. One rule: nothing of a ciphertext
is used before all of it is here, has the hash of the manifest, and the last chunk has opened. Whether the
bytes are a picture is decided elsewhere, in a process of its own.
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from keys import labels
from keys.errors import BrokenInvariant, MalformedInput, VerificationFailed
from keys.primitives import (
    SYMMETRIC_KEY_BYTES,
    blob_ciphertext_bytes,
    blob_decrypt,
    blob_encrypt,
    sha256,
)
from keys.secret import SecretBytes
from protocol import limits, wire
from protocol.parts import SIZES
from protocol.wire import Fields

Randomness: TypeAlias = Callable[[int], bytes]
PictureType: TypeAlias = Literal["jpeg", "png"]

PICTURE_TYPES: Final[dict[str, PictureType]] = {"jpeg": "jpeg", "png": "png"}
_PAD: Final = b"\x80"


# --- the manifest -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One sealed picture as the alert names it."""

    read_secret: bytes = field(repr=False)  # 32, fetches it at the broker
    key: bytes = field(repr=False)  # 32, opens it
    ciphertext_sha256: bytes  # 32
    plaintext_sha256: bytes  # 32
    length_bytes: int  # of the picture
    type: PictureType

    @property
    def size_bytes(self) -> int:
        """Of the ciphertext: what is stored and carried."""
        return sealed_size_bytes(self.length_bytes)

    def encode(self) -> str:
        """The value of its disclosure: base64url, unpadded, of a canonical map."""
        value = wire.encode(
            {
                "r": self.read_secret,
                "k": self.key,
                "c": self.ciphertext_sha256,
                "p": self.plaintext_sha256,
                "n": self.length_bytes,
                "t": self.type,
            }
        )
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def decode_manifest_untrusted(text: str) -> Manifest:
    """Read what ``encode`` writes; one encoding each. MalformedInput only."""
    if len(text) > limits.MANIFEST_BYTES_MAX or not text.isascii():
        raise MalformedInput("manifest", "a manifest is short base64 text")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise MalformedInput("manifest", "a manifest is base64 text") from None
    fields = Fields(wire.decode_untrusted(data, bytes_max=limits.MANIFEST_BYTES_MAX), "manifest")
    kind = PICTURE_TYPES.get(fields.text("t", bytes_max=limits.CODE_BYTES_MAX))
    if kind is None:
        raise MalformedInput("manifest", "a photo is JPEG or PNG")
    manifest = Manifest(
        read_secret=fields.raw("r", size=limits.SECRET_BYTES),
        key=fields.raw("k", size=SYMMETRIC_KEY_BYTES),
        ciphertext_sha256=fields.raw("c", size=limits.HASH_BYTES),
        plaintext_sha256=fields.raw("p", size=limits.HASH_BYTES),
        length_bytes=fields.integer("n", least=1, most=limits.PHOTO_BYTES_MAX),
        type=kind,
    )
    fields.done()
    if manifest.encode() != text:
        raise MalformedInput("manifest", "a manifest has another, canonical encoding")
    return manifest


# --- sealing ----------------------------------------------------------------------------------------


def _plaintext_bytes(size_bytes: int) -> int:
    """How much plaintext gives exactly ``size_bytes`` of ciphertext."""
    plaintext_bytes = size_bytes - blob_ciphertext_bytes(0)
    while blob_ciphertext_bytes(plaintext_bytes) > size_bytes:
        plaintext_bytes -= 1
    return plaintext_bytes


_ROOM: Final = {size: _plaintext_bytes(size) for size in SIZES}

assert all(blob_ciphertext_bytes(room) == size for size, room in _ROOM.items())
assert max(_ROOM.values()) > limits.PHOTO_BYTES_MAX


def sealed_size_bytes(length_bytes: int) -> int:
    """The size of the ciphertext of a picture of this length."""
    return next(size for size, room in _ROOM.items() if room > length_bytes)


def seal_attachment(picture: bytes, kind: PictureType, random: Randomness) -> tuple[Manifest, bytes]:
    """Its manifest and its ciphertext, under a fresh key. Blocks: a second for 100 MiB."""
    if not 0 < len(picture) <= limits.PHOTO_BYTES_MAX:
        raise BrokenInvariant("attachment_size", "a picture was not held to its limit before it was sealed")
    room = _ROOM[sealed_size_bytes(len(picture))]
    key = random(SYMMETRIC_KEY_BYTES)
    padded = picture + _PAD + bytes(room - len(picture) - len(_PAD))
    ciphertext = blob_encrypt(SecretBytes(key), labels.ATTACHMENT, padded)
    manifest = Manifest(
        read_secret=random(limits.SECRET_BYTES),
        key=key,
        ciphertext_sha256=sha256(ciphertext),
        plaintext_sha256=sha256(picture),
        length_bytes=len(picture),
        type=kind,
    )
    return manifest, ciphertext


def open_attachment_untrusted(manifest: Manifest, ciphertext: bytes) -> bytes:
    """The picture, whole and as its sender had it, or VerificationFailed: ``attachment_size``,
    ``attachment_hash``, ``blob_invalid``, ``attachment_padding``, ``attachment_plaintext``.
    """
    if len(ciphertext) != manifest.size_bytes:
        raise VerificationFailed("attachment_size", "a photo has another size than its alert says")
    if sha256(ciphertext) != manifest.ciphertext_sha256:
        raise VerificationFailed("attachment_hash", "a photo is not the one its alert names")
    padded = blob_decrypt(SecretBytes(manifest.key), labels.ATTACHMENT, ciphertext)
    picture, padding = padded[: manifest.length_bytes], padded[manifest.length_bytes :]
    if padding[:1] != _PAD or padding.strip(b"\x00") != _PAD:
        raise VerificationFailed("attachment_padding", "a photo is padded in another way")
    if sha256(picture) != manifest.plaintext_sha256:
        raise VerificationFailed("attachment_plaintext", "a photo opens to other bytes than its alert names")
    return picture
