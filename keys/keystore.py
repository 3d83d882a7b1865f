"""The passphrase-sealed key file of one node: named secrets, saved whole or not at all.

Spec: docs/spec/keys.md#keystore. Layout: the header of every file under a passphrase (``keys.passphrase``),
then one XChaCha20-Poly1305 body over all entries. Every change rewrites the file through
``KeystoreFiles.write_atomic`` (old or new, never between) and is in force in memory only after that
returned.

Names are lower-case paths chosen by the node, as ``operational/2``, ``receive/<16 hex>`` or ``officer/7``.
Protects against a node stolen while switched off. It does not keep deleted entries from flash that keeps old
sectors, and the passphrase-derived key stays in memory while the file is open.
"""

import re
import threading
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Final, Protocol, TypeAlias, final

from keys import labels, layout
from keys.errors import MalformedInput, PolicyRefused, VerificationFailed
from keys.layout import Reader
from keys.passphrase import DEFAULT_KDF, KdfParameters, PassphraseFile, Randomness
from keys.primitives import AEAD_NONCE_BYTES, aead_open, aead_seal
from keys.secret import Guarded, SecretBytes

AnyPath: TypeAlias = str | PathLike[str]

FILE_MODE: Final = 0o600
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
ENTRIES_MAX: Final = 20_000
SECRET_BYTES_MAX: Final = 4 * 1024

_DAMAGED: Final = "keystore_damaged"
_FILE: Final = PassphraseFile(
    word="keystore",
    magic=b"SLWS",
    header_label=labels.KEYSTORE_HEADER,
    check_label=labels.KEYSTORE_CHECK,
    body_label=labels.KEYSTORE_BODY,
)
_NAME: Final = re.compile("[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")
_NAME_BYTES_MAX: Final = 120


class KeystoreFiles(Protocol):
    """The files a keystore needs; ``runtime.env.Files`` is one. Paths are passed through unread."""

    def exists(self, path: AnyPath) -> bool:
        """Whether anything stands there."""
        ...

    def read(self, path: AnyPath, bytes_max: int = ...) -> bytes:
        """Whole content; MalformedInput when larger than ``bytes_max`` or no regular file."""
        ...

    def write_atomic(self, path: AnyPath, data: bytes, mode: int = ...) -> None:
        """Replace durably: old or new content, also after a power cut."""
        ...

    def mode(self, path: AnyPath) -> int:
        """Permission bits, as 0o600."""
        ...


@final
class Keystore(Guarded):
    """The open key file: named secrets in memory, each change on disk before it counts.

    May be used from several threads: a save blocks for an fsync, so callers run it beside their event loop.
    """

    __slots__ = ("_body_key", "_files", "_header", "_lock", "_path", "_random", "_secrets")

    def __init__(
        self,
        files: KeystoreFiles,
        path: AnyPath,
        header: bytes,
        body_key: SecretBytes,
        secrets: dict[str, SecretBytes],
        random: Randomness,
    ) -> None:
        self._files = files
        self._path = path
        self._header = header
        self._body_key = body_key
        self._secrets = secrets
        self._random = random
        # Without it two saves at once would each write the other's new key away.
        self._lock = threading.Lock()

    @classmethod
    def create(
        cls,
        files: KeystoreFiles,
        path: AnyPath,
        passphrase: SecretBytes,
        secrets: Mapping[str, SecretBytes],
        *,
        random: Randomness,
        kdf: KdfParameters = DEFAULT_KDF,
    ) -> "Keystore":
        """Make a new file, mode 0600, and leave it open. Blocks for the key derivation (0.4 s).

        PolicyRefused: ``keystore_exists``, ``passphrase_too_short`` (under 8 bytes), ``passphrase_too_long``.
        """
        if files.exists(path):
            raise PolicyRefused("keystore_exists", "a keystore already stands there; it is never overwritten")
        header, body_key = _FILE.begin(passphrase, random=random, kdf=kdf)
        store = cls(files, path, header, body_key, {}, random)
        store._save(_checked(secrets))
        return store

    @classmethod
    def open(
        cls, files: KeystoreFiles, path: AnyPath, passphrase: SecretBytes, *, random: Randomness
    ) -> "Keystore":
        """Open an existing file. Blocks for the key derivation (0.4 s).

        PolicyRefused: ``keystore_missing``, ``keystore_too_open`` (mode bits beyond 0600),
        ``keystore_wrong_passphrase``, ``keystore_newer_version``. MalformedInput: ``keystore_damaged``.
        """
        if not files.exists(path):
            raise PolicyRefused(
                "keystore_missing",
                "there is no keystore here. For a new office: init. If it was lost, its keys are in the"
                " last backup:"
                " restore FILE --dir NEW --recovery-sheet SHEET",
            )
        mode = files.mode(path)
        if mode & ~FILE_MODE:
            raise PolicyRefused(
                "keystore_too_open", f"the keystore has mode {mode:04o}; others could read it. Set it to 0600"
            )
        try:
            return cls._open(files, path, files.read(path, FILE_BYTES_MAX), passphrase, random)
        except MalformedInput as error:
            raise MalformedInput(
                _DAMAGED,
                f"the keystore file is damaged: {error.detail}; put back the copy from the last backup",
            ) from error

    @classmethod
    def _open(
        cls, files: KeystoreFiles, path: AnyPath, data: bytes, passphrase: SecretBytes, random: Randomness
    ) -> "Keystore":
        header, body_key = _FILE.open_untrusted(data, passphrase)
        nonce = data[len(header) : len(header) + AEAD_NONCE_BYTES]
        try:
            body = aead_open(
                body_key, nonce, data[len(header) + AEAD_NONCE_BYTES :], labels.KEYSTORE_BODY + header
            )
        except VerificationFailed as error:
            raise MalformedInput(
                _DAMAGED, "its sealed part does not open although the passphrase is right"
            ) from error
        return cls(files, path, header, body_key, _read_entries(body), random)

    def get(self, name: str) -> SecretBytes:
        """One secret; PolicyRefused (``key_missing``) if there is none of that name."""
        secret = self._secrets.get(name)
        if secret is None:
            raise PolicyRefused("key_missing", f"the keystore holds no key named {name}")
        return secret

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """Names that begin with ``prefix``, sorted."""
        return tuple(sorted(name for name in self._secrets if name.startswith(prefix)))

    def put(self, name: str, secret: SecretBytes) -> None:
        """Add or replace one secret; durable on return."""
        self.put_many({name: secret})

    def put_many(self, secrets: Mapping[str, SecretBytes]) -> None:
        """Add or replace several secrets in one save: all or none."""
        checked = _checked(secrets)
        with self._lock:
            self._save({**self._secrets, **checked})

    def remove(self, name: str) -> None:
        """Remove one secret; durable on return. A missing name is no error: a crash may repeat a removal."""
        self.remove_many((name,))

    def remove_many(self, names: Iterable[str]) -> None:
        """Remove several secrets in one save; nothing is written when none of them exists."""
        with self._lock:
            gone = self._secrets.keys() & set(names)
            if gone:
                self._save({name: secret for name, secret in self._secrets.items() if name not in gone})

    def _save(self, secrets: dict[str, SecretBytes]) -> None:
        if len(secrets) > ENTRIES_MAX:
            raise PolicyRefused("keystore_full", f"a keystore holds at most {ENTRIES_MAX} keys")
        nonce = self._random(AEAD_NONCE_BYTES)
        sealed = aead_seal(self._body_key, nonce, _entries(secrets), labels.KEYSTORE_BODY + self._header)
        data = self._header + nonce + sealed
        if len(data) > FILE_BYTES_MAX:
            raise PolicyRefused("keystore_full", f"a keystore has at most {FILE_BYTES_MAX} bytes")
        self._files.write_atomic(self._path, data, FILE_MODE)
        self._secrets = secrets


def _checked(secrets: Mapping[str, SecretBytes]) -> dict[str, SecretBytes]:
    for name, secret in secrets.items():
        if len(name) > _NAME_BYTES_MAX or not _NAME.fullmatch(name):
            raise PolicyRefused("key_name_invalid", f"{name!r} is no name for a key")
        if not 1 <= len(secret) <= SECRET_BYTES_MAX:
            raise PolicyRefused("key_size_invalid", f"a key has 1 to {SECRET_BYTES_MAX} bytes")
    return dict(secrets)


def _entries(secrets: Mapping[str, SecretBytes]) -> bytes:
    parts = [layout.u32(len(secrets))]
    for name in sorted(secrets):
        parts += (layout.ascii_text(name, _NAME_BYTES_MAX), layout.variable(secrets[name].reveal()))
    return b"".join(parts)


def _read_entries(body: bytes) -> dict[str, SecretBytes]:
    reader = Reader(body, _DAMAGED)
    count = reader.u32()
    if count > ENTRIES_MAX:
        reader.fail(f"it claims {count} keys")
    secrets: dict[str, SecretBytes] = {}
    for _ in range(count):
        name = reader.ascii(_NAME_BYTES_MAX)
        secrets[name] = SecretBytes(reader.variable(SECRET_BYTES_MAX))
    reader.end()
    return secrets
