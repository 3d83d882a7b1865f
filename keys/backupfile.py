"""The backup file: a header anyone can check for damage, then sealed parts in an order that cannot change.

Spec: docs/spec/keys.md#backup. The header of every file under a passphrase (``keys.passphrase``), then parts
of up to 1 MiB, each XChaCha20-Poly1305 under one key, bound to the header, to its place and to being the
last. One rule: a file cut off anywhere, also between two parts, does not open. Knows nothing of what is
inside.
"""

from typing import Final, final

from keys import labels, layout
from keys.errors import MalformedInput, VerificationFailed
from keys.passphrase import KdfParameters, PassphraseFile, Randomness
from keys.primitives import AEAD_NONCE_BYTES, AEAD_OVERHEAD_BYTES, aead_open, aead_seal
from keys.secret import Guarded, SecretBytes

PART_BYTES_MAX: Final = 1024 * 1024
PART_HEAD_BYTES: Final = 4 + 1
_DAMAGED: Final = "backup_damaged"
_FILE: Final = PassphraseFile(
    word="backup",
    magic=b"SLWU",
    header_label=labels.BACKUP_HEADER,
    check_label=labels.BACKUP_CHECK,
    body_label=labels.BACKUP_PART,
)


@final
class BackupKey(Guarded):
    """Seals or opens the parts of one file."""

    __slots__ = ("_body_key", "header")

    def __init__(self, header: bytes, body_key: SecretBytes) -> None:
        self.header = header
        self._body_key = body_key

    def seal_part(self, number: int, data: bytes, *, is_last: bool, random: Randomness) -> bytes:
        """u32 length | u8 last | nonce | sealed; the length counts what follows the flag."""
        nonce = random(AEAD_NONCE_BYTES)
        sealed = nonce + aead_seal(self._body_key, nonce, data, self._place(number, is_last))
        return layout.u32(len(sealed)) + layout.u8(is_last) + sealed

    def open_part(self, number: int, sealed: bytes, *, is_last: bool) -> bytes:
        """The content of one part; MalformedInput ``backup_damaged``."""
        nonce = sealed[:AEAD_NONCE_BYTES]
        try:
            return aead_open(self._body_key, nonce, sealed[AEAD_NONCE_BYTES:], self._place(number, is_last))
        except VerificationFailed as error:
            raise damaged(f"part {number + 1} does not open although the passphrase is right") from error

    def _place(self, number: int, is_last: bool) -> bytes:
        return labels.BACKUP_PART + self.header + layout.u32(number) + layout.u8(is_last)


def begin_backup(passphrase: SecretBytes, *, random: Randomness, kdf: KdfParameters) -> BackupKey:
    """A fresh header and its key; errors of ``PassphraseFile.begin``."""
    return BackupKey(*_FILE.begin(passphrase, random=random, kdf=kdf))


def open_header_untrusted(data: bytes, passphrase: SecretBytes) -> BackupKey:
    """The key of a file that begins with ``data`` (at least HEADER_BYTES of it, if it has so many).

    MalformedInput ``backup_damaged``; PolicyRefused ``backup_wrong_passphrase``, ``backup_newer_version``.
    Blocks for the key derivation.
    """
    try:
        return BackupKey(*_FILE.open_untrusted(data, passphrase))
    except MalformedInput as error:
        raise damaged(error.detail) from error


def read_part_head_untrusted(head: bytes) -> tuple[int, bool]:
    """(bytes that follow, whether it is the last part); MalformedInput ``backup_damaged``."""
    if len(head) != PART_HEAD_BYTES:
        raise damaged("it is cut off")
    size, last = int.from_bytes(head[:4], "big"), head[4]
    most = AEAD_NONCE_BYTES + PART_BYTES_MAX + AEAD_OVERHEAD_BYTES
    if not AEAD_NONCE_BYTES + AEAD_OVERHEAD_BYTES <= size <= most or last > 1:
        raise damaged("a part has an impossible length")
    return size, bool(last)


def damaged(why: str) -> MalformedInput:
    """The one error of a file that is not whole."""
    return MalformedInput(_DAMAGED, f"this backup is damaged: {why}; take another copy or an earlier backup")
