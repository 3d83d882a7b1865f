"""The passphrase-sealed key file of one node: named secrets, saved whole or not at all.

Spec: docs/spec/keys.md#keystore. Layout: a header anyone can check for damage (magic, version, length,
Argon2id parameters, salt, a passphrase check, SHA-256), then one XChaCha20-Poly1305 body over all entries. So
damage to the header, a wrong passphrase and damage to the body are told apart, and parameters out of range
are refused before they cost memory. Every change rewrites the file through ``KeystoreFiles.write_atomic``
(old or new, never between) and is in force in memory only after that returned.

Names are lower-case paths chosen by the node, as ``operational/2``, ``receive/<16 hex>`` or ``officer/7``.
Protects against a node stolen while switched off. It does not keep deleted entries from flash that keeps old
sectors, and the passphrase-derived key stays in memory while the file is open.
"""

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Final, Protocol, TypeAlias, final

from keys import labels, layout
from keys.errors import MalformedInput, PolicyRefused, VerificationFailed
from keys.layout import Reader
from keys.primitives import (
    AEAD_NONCE_BYTES,
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

AnyPath: TypeAlias = str | PathLike[str]
Randomness: TypeAlias = Callable[[int], bytes]

FILE_MODE: Final = 0o600
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
ENTRIES_MAX: Final = 20_000
SECRET_BYTES_MAX: Final = 4 * 1024
PASSPHRASE_BYTES_MIN: Final = 8
PASSPHRASE_BYTES_MAX: Final = 1024

_MAGIC: Final = b"SLWS"
_FORMAT: Final = 1
_SALT_BYTES: Final = 16
_HEADER_BYTES: Final = 4 + 1 + 2 + 4 + 4 + 1 + _SALT_BYTES + HASH_BYTES + HASH_BYTES
_DAMAGED: Final = "keystore_damaged"
_PRELUDE_BYTES: Final = 4 + 1 + 2
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


@dataclass(frozen=True, slots=True, kw_only=True)
class KdfParameters:
    """Cost of one passphrase guess with Argon2id. Stored in the file, bounded before use."""

    memory_kib: int
    iterations: int
    lanes: int

    def fault(self) -> str | None:
        """Why these parameters are refused, or None. The upper bounds cap what a planted file can cost."""
        if not 1 <= self.lanes <= 8:
            return f"{self.lanes} lanes; allowed are 1 to 8"
        if not 8 * self.lanes <= self.memory_kib <= 1024 * 1024:
            return f"{self.memory_kib} KiB; allowed are {8 * self.lanes} to 1048576"
        if not 1 <= self.iterations <= 16:
            return f"{self.iterations} iterations; allowed are 1 to 16"
        return None

    def encode(self) -> bytes:
        """Nine bytes: memory u32, iterations u32, lanes u8."""
        return layout.u32(self.memory_kib) + layout.u32(self.iterations) + layout.u8(self.lanes)


# 0.4 s on a 2 GHz office PC, once per start; out of reach for guessing on a graphics card by its memory.
DEFAULT_KDF: Final = KdfParameters(memory_kib=256 * 1024, iterations=3, lanes=2)


def read_kdf(reader: Reader) -> KdfParameters:
    """Nine bytes as ``KdfParameters.encode`` writes them; the reader's code if they are out of range."""
    kdf = KdfParameters(memory_kib=reader.u32(), iterations=reader.u32(), lanes=reader.u8())
    fault = kdf.fault()
    if fault is not None:
        reader.fail(f"asks for {fault}")
    return kdf


def _stretch(passphrase: SecretBytes, salt: bytes, kdf: KdfParameters) -> SecretBytes:
    return argon2id(
        passphrase,
        salt,
        memory_kib=kdf.memory_kib,
        iterations=kdf.iterations,
        lanes=kdf.lanes,
        length=SYMMETRIC_KEY_BYTES,
    )


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
        _check_passphrase(passphrase)
        salt = random(_SALT_BYTES)
        check_key, body_key = _file_keys(passphrase, salt, kdf)
        head = _MAGIC + layout.u8(_FORMAT) + layout.u16(_HEADER_BYTES) + kdf.encode() + salt
        head += hmac_sha256(check_key, labels.KEYSTORE_CHECK + head)
        header = head + labelled_hash(labels.KEYSTORE_HEADER, head)
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
        header, kdf, salt, check = _read_header(data)
        if len(passphrase) > PASSPHRASE_BYTES_MAX:
            raise _wrong_passphrase()
        check_key, body_key = _file_keys(passphrase, salt, kdf)
        head = header[: -2 * HASH_BYTES]
        if not constant_time_equal(check, hmac_sha256(check_key, labels.KEYSTORE_CHECK + head)):
            raise _wrong_passphrase()
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


def _check_passphrase(passphrase: SecretBytes) -> None:
    if len(passphrase) < PASSPHRASE_BYTES_MIN:
        raise PolicyRefused(
            "passphrase_too_short",
            f"a passphrase has at least {PASSPHRASE_BYTES_MIN} bytes; use several words",
        )
    if len(passphrase) > PASSPHRASE_BYTES_MAX:
        raise PolicyRefused("passphrase_too_long", f"a passphrase has at most {PASSPHRASE_BYTES_MAX} bytes")


def _file_keys(passphrase: SecretBytes, salt: bytes, kdf: KdfParameters) -> tuple[SecretBytes, SecretBytes]:
    """The key that proves the passphrase and the key that seals the body."""
    stretched = _stretch(passphrase, salt, kdf)
    return (
        hkdf_sha256(stretched, b"", labels.KEYSTORE_CHECK, SYMMETRIC_KEY_BYTES),
        hkdf_sha256(stretched, b"", labels.KEYSTORE_BODY, SYMMETRIC_KEY_BYTES),
    )


def _wrong_passphrase() -> PolicyRefused:
    return PolicyRefused("keystore_wrong_passphrase", "this passphrase does not open the keystore; try again")


def _read_header(data: bytes) -> tuple[bytes, KdfParameters, bytes, bytes]:
    """(header, parameters, salt, passphrase check), checked for damage and for its version, in that order."""
    reader = Reader(data, _DAMAGED)
    if reader.take(len(_MAGIC)) != _MAGIC:
        reader.fail("it does not begin as a keystore")
    version, header_bytes = reader.u8(), reader.u16()
    # Magic, version, length and a closing hash are promised for every version, so that a newer file is told
    # from a damaged one.
    if header_bytes < _PRELUDE_BYTES + HASH_BYTES or len(data) < header_bytes:
        reader.fail("the header is cut off")
    header = data[:header_bytes]
    head, found = header[:-HASH_BYTES], header[-HASH_BYTES:]
    if not constant_time_equal(found, labelled_hash(labels.KEYSTORE_HEADER, head)):
        reader.fail("the header does not match its hash")
    if version > _FORMAT:
        raise PolicyRefused(
            "keystore_newer_version",
            f"the keystore has format {version}; this program knows {_FORMAT}. Update it",
        )
    if version != _FORMAT or header_bytes != _HEADER_BYTES:
        reader.fail("the header has an impossible version or length")
    kdf = read_kdf(reader)
    return header, kdf, reader.take(_SALT_BYTES), reader.take(HASH_BYTES)


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
