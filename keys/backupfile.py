"""The backup file: a header anyone can check for damage, then sealed parts in an order that cannot change.

Spec: docs/spec/keys.md#backup. Built as the keystore's file is: magic, version, length, Argon2id
parameters, salt, passphrase check, hash; so damage, a wrong passphrase and a newer version are told apart.
Then parts of up to 1 MiB, each XChaCha20-Poly1305 under one key, bound to the header, to its place and to
being the last. One rule: a file cut off anywhere, also between two parts, does not open. Knows nothing of
what is inside.
"""

from typing import Final, final

from keys import labels, layout
from keys.errors import MalformedInput, PolicyRefused, VerificationFailed
from keys.keystore import (
    PASSPHRASE_BYTES_MAX,
    PASSPHRASE_BYTES_MIN,
    KdfParameters,
    Randomness,
    read_kdf,
)
from keys.layout import Reader
from keys.primitives import (
    AEAD_NONCE_BYTES,
    AEAD_OVERHEAD_BYTES,
    HASH_BYTES,
    SYMMETRIC_KEY_BYTES,
    aead_open,
    aead_seal,
    argon2id,
    constant_time_equal,
    hkdf_sha256,
    hmac_sha256,
    labelled_hash,
)
from keys.secret import Guarded, SecretBytes

PART_BYTES_MAX: Final = 1024 * 1024
_MAGIC: Final = b"SLWU"
_FORMAT: Final = 1
_SALT_BYTES: Final = 16
HEADER_BYTES: Final = 4 + 1 + 2 + 9 + _SALT_BYTES + HASH_BYTES + HASH_BYTES
_PRELUDE_BYTES: Final = 4 + 1 + 2
PART_HEAD_BYTES: Final = 4 + 1
_DAMAGED: Final = "backup_damaged"


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
    """A fresh header and its key. Blocks for the key derivation (0.4 s).

    PolicyRefused for a bad passphrase.
    """
    if len(passphrase) < PASSPHRASE_BYTES_MIN:
        raise PolicyRefused(
            "passphrase_too_short",
            f"a passphrase has at least {PASSPHRASE_BYTES_MIN} bytes; use several words",
        )
    if len(passphrase) > PASSPHRASE_BYTES_MAX:
        raise PolicyRefused("passphrase_too_long", f"a passphrase has at most {PASSPHRASE_BYTES_MAX} bytes")
    salt = random(_SALT_BYTES)
    check_key, body_key = _keys(passphrase, salt, kdf)
    head = _MAGIC + layout.u8(_FORMAT) + layout.u16(HEADER_BYTES) + kdf.encode() + salt
    head += hmac_sha256(check_key, labels.BACKUP_CHECK + head)
    return BackupKey(head + labelled_hash(labels.BACKUP_HEADER, head), body_key)


def open_header_untrusted(data: bytes, passphrase: SecretBytes) -> BackupKey:
    """The key of a file that begins with ``data`` (at least HEADER_BYTES of it, if it has so many).

    MalformedInput ``backup_damaged``; PolicyRefused ``backup_wrong_passphrase``, ``backup_newer_version``.
    Blocks for the key derivation.
    """
    try:
        header, kdf, salt, check = _read_header(data)
    except MalformedInput as error:
        raise damaged(error.detail) from error
    if len(passphrase) > PASSPHRASE_BYTES_MAX:
        raise _wrong_passphrase()
    check_key, body_key = _keys(passphrase, salt, kdf)
    head = header[: -2 * HASH_BYTES]
    if not constant_time_equal(check, hmac_sha256(check_key, labels.BACKUP_CHECK + head)):
        raise _wrong_passphrase()
    return BackupKey(header, body_key)


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


def _read_header(data: bytes) -> tuple[bytes, KdfParameters, bytes, bytes]:
    reader = Reader(data, _DAMAGED)
    if reader.take(len(_MAGIC)) != _MAGIC:
        reader.fail("it does not begin as a backup")
    version, header_bytes = reader.u8(), reader.u16()
    if header_bytes < _PRELUDE_BYTES + HASH_BYTES or len(data) < header_bytes:
        reader.fail("its header is cut off")
    header = data[:header_bytes]
    if not constant_time_equal(
        header[-HASH_BYTES:], labelled_hash(labels.BACKUP_HEADER, header[:-HASH_BYTES])
    ):
        reader.fail("its header does not match its hash")
    if version > _FORMAT:
        raise PolicyRefused(
            "backup_newer_version",
            f"this backup has format {version}; this program knows {_FORMAT}. Update it",
        )
    if version != _FORMAT or header_bytes != HEADER_BYTES:
        reader.fail("its header has an impossible version or length")
    kdf = read_kdf(reader)
    return header, kdf, reader.take(_SALT_BYTES), reader.take(HASH_BYTES)


def _keys(passphrase: SecretBytes, salt: bytes, kdf: KdfParameters) -> tuple[SecretBytes, SecretBytes]:
    stretched = argon2id(
        passphrase,
        salt,
        memory_kib=kdf.memory_kib,
        iterations=kdf.iterations,
        lanes=kdf.lanes,
        length=SYMMETRIC_KEY_BYTES,
    )
    return (
        hkdf_sha256(stretched, b"", labels.BACKUP_CHECK, SYMMETRIC_KEY_BYTES),
        hkdf_sha256(stretched, b"", labels.BACKUP_PART, SYMMETRIC_KEY_BYTES),
    )


def _wrong_passphrase() -> PolicyRefused:
    return PolicyRefused("backup_wrong_passphrase", "this passphrase does not open the backup; try again")
