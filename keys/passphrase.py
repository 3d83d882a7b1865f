"""What a passphrase opens: the cost of a guess, and the header of every file under a passphrase.

Spec: docs/spec/keys.md#keystore. Header: magic, version, length, Argon2id parameters, salt, a passphrase
check, a closing hash. So damage, a wrong passphrase and a newer version are told apart, and parameters out of
range are refused before they cost memory. Knows nothing of what follows the header.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from keys import layout
from keys.errors import PolicyRefused
from keys.layout import Reader
from keys.primitives import (
    HASH_BYTES,
    SYMMETRIC_KEY_BYTES,
    argon2id,
    constant_time_equal,
    hkdf_sha256,
    hmac_sha256,
    labelled_hash,
)
from keys.secret import SecretBytes

Randomness: TypeAlias = Callable[[int], bytes]

PASSPHRASE_BYTES_MIN: Final = 8
PASSPHRASE_BYTES_MAX: Final = 1024

_FORMAT: Final = 1
_SALT_BYTES: Final = 16
_PRELUDE_BYTES: Final = 4 + 1 + 2
HEADER_BYTES: Final = _PRELUDE_BYTES + 9 + _SALT_BYTES + HASH_BYTES + HASH_BYTES


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

    def stretch(self, secret: SecretBytes, salt: bytes) -> SecretBytes:
        """32 bytes out of a passphrase or PIN, at this cost. Blocks for it."""
        return argon2id(
            secret,
            salt,
            memory_kib=self.memory_kib,
            iterations=self.iterations,
            lanes=self.lanes,
            length=SYMMETRIC_KEY_BYTES,
        )


# 0.4 s on a 2 GHz office PC, once per start; out of reach for guessing on a graphics card by its memory.
DEFAULT_KDF: Final = KdfParameters(memory_kib=256 * 1024, iterations=3, lanes=2)


def read_kdf(reader: Reader) -> KdfParameters:
    """Nine bytes as ``KdfParameters.encode`` writes them; the reader's code if they are out of range."""
    kdf = KdfParameters(memory_kib=reader.u32(), iterations=reader.u32(), lanes=reader.u8())
    fault = kdf.fault()
    if fault is not None:
        reader.fail(f"asks for {fault}")
    return kdf


@dataclass(frozen=True, slots=True, kw_only=True)
class PassphraseFile:
    """One kind of file under a passphrase: its word for people and in codes, its magic and its labels."""

    word: str
    magic: bytes
    header_label: bytes
    check_label: bytes
    body_label: bytes

    def begin(
        self, passphrase: SecretBytes, *, random: Randomness, kdf: KdfParameters
    ) -> tuple[bytes, SecretBytes]:
        """A fresh header and the key of what follows. Blocks for the key derivation (0.4 s).

        PolicyRefused ``passphrase_too_short`` (under 8 bytes), ``passphrase_too_long``.
        """
        if len(passphrase) < PASSPHRASE_BYTES_MIN:
            raise PolicyRefused(
                "passphrase_too_short",
                f"a passphrase has at least {PASSPHRASE_BYTES_MIN} bytes; use several words",
            )
        if len(passphrase) > PASSPHRASE_BYTES_MAX:
            raise PolicyRefused(
                "passphrase_too_long", f"a passphrase has at most {PASSPHRASE_BYTES_MAX} bytes"
            )
        salt = random(_SALT_BYTES)
        check_key, body_key = self._keys(passphrase, salt, kdf)
        head = self.magic + layout.u8(_FORMAT) + layout.u16(HEADER_BYTES) + kdf.encode() + salt
        head += hmac_sha256(check_key, self.check_label + head)
        return head + labelled_hash(self.header_label, head), body_key

    def open_untrusted(self, data: bytes, passphrase: SecretBytes) -> tuple[bytes, SecretBytes]:
        """The header that ``data`` begins with and the key of what follows. Blocks for the key derivation.

        MalformedInput ``<word>_damaged``; PolicyRefused ``<word>_newer_version``,
        ``<word>_wrong_passphrase``.
        """
        header, kdf, salt, check = self._read(data)
        if len(passphrase) <= PASSPHRASE_BYTES_MAX:
            check_key, body_key = self._keys(passphrase, salt, kdf)
            head = header[: -2 * HASH_BYTES]
            if constant_time_equal(check, hmac_sha256(check_key, self.check_label + head)):
                return header, body_key
        raise PolicyRefused(
            f"{self.word}_wrong_passphrase", f"this passphrase does not open the {self.word}; try again"
        )

    def _read(self, data: bytes) -> tuple[bytes, KdfParameters, bytes, bytes]:
        """(header, parameters, salt, passphrase check), checked for damage and then for its version."""
        reader = Reader(data, f"{self.word}_damaged")
        if reader.take(len(self.magic)) != self.magic:
            reader.fail(f"it does not begin as a {self.word}")
        version, header_bytes = reader.u8(), reader.u16()
        # Magic, version, length and a closing hash are promised for every version, so that a newer file is
        # told from a damaged one.
        if header_bytes < _PRELUDE_BYTES + HASH_BYTES or len(data) < header_bytes:
            reader.fail("its header is cut off")
        header = data[:header_bytes]
        head, found = header[:-HASH_BYTES], header[-HASH_BYTES:]
        if not constant_time_equal(found, labelled_hash(self.header_label, head)):
            reader.fail("its header does not match its hash")
        if version > _FORMAT:
            raise PolicyRefused(
                f"{self.word}_newer_version",
                f"this {self.word} has format {version}; this program knows {_FORMAT}. Update it",
            )
        if version != _FORMAT or header_bytes != HEADER_BYTES:
            reader.fail("its header has an impossible version or length")
        kdf = read_kdf(reader)
        return header, kdf, reader.take(_SALT_BYTES), reader.take(HASH_BYTES)

    def _keys(
        self, passphrase: SecretBytes, salt: bytes, kdf: KdfParameters
    ) -> tuple[SecretBytes, SecretBytes]:
        """The key that proves the passphrase and the key that seals what follows."""
        stretched = kdf.stretch(passphrase, salt)
        return (
            hkdf_sha256(stretched, b"", self.check_label, SYMMETRIC_KEY_BYTES),
            hkdf_sha256(stretched, b"", self.body_label, SYMMETRIC_KEY_BYTES),
        )
