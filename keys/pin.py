"""What an officer's PIN opens: a seed sealed under a key from that PIN.

Spec: docs/spec/keys.md#officers. The sealed seed stands inside the passphrase keystore, so a PIN guards
against a colleague, not against a thief of the disk. One rule: the cost stored beside the seed is checked
before it is paid. Counting tries and waiting after wrong ones is the caller's.
"""

from collections.abc import Callable
from typing import Final

from keys import labels, layout
from keys.errors import PolicyRefused, VerificationFailed
from keys.keystore import KdfParameters, read_kdf
from keys.layout import Reader
from keys.primitives import AEAD_NONCE_BYTES, SYMMETRIC_KEY_BYTES, aead_open, aead_seal, argon2id
from keys.secret import SecretBytes

# A PIN is typed often and tried by hand: 0.1 s on a 2 GHz office PC.
PIN_KDF: Final = KdfParameters(memory_kib=64 * 1024, iterations=3, lanes=1)
PIN_BYTES_MAX: Final = 64

_MAGIC: Final = b"SLWN"
_FORMAT: Final = 1
_SALT_BYTES: Final = 16


def seal_under_pin(
    secret: SecretBytes,
    pin: SecretBytes,
    *,
    subject: str,
    random: Callable[[int], bytes],
    kdf: KdfParameters = PIN_KDF,
) -> SecretBytes:
    """Seal ``secret`` under ``pin``, bound to ``subject``, the name of the entry it will stand in."""
    salt, nonce = random(_SALT_BYTES), random(AEAD_NONCE_BYTES)
    head = _MAGIC + layout.u8(_FORMAT) + kdf.encode() + salt + nonce
    key = _stretch(pin, salt, kdf)
    return SecretBytes(head + aead_seal(key, nonce, secret.reveal(), _context(head, subject)))


def open_under_pin(sealed: SecretBytes, pin: SecretBytes, *, subject: str) -> SecretBytes:
    """The inverse; PolicyRefused ``pin_wrong``, MalformedInput ``pin_seal_malformed`` for anything else."""
    data = sealed.reveal()
    reader = Reader(data, "pin_seal_malformed")
    reader.magic(_MAGIC, _FORMAT)
    kdf = read_kdf(reader)
    salt, nonce = reader.take(_SALT_BYTES), reader.take(AEAD_NONCE_BYTES)
    head_bytes = len(_MAGIC) + 1 + len(kdf.encode()) + _SALT_BYTES + AEAD_NONCE_BYTES
    if len(pin) > PIN_BYTES_MAX:
        raise PolicyRefused("pin_wrong", "Officer number or PIN is wrong.")
    try:
        key = _stretch(pin, salt, kdf)
        return SecretBytes(aead_open(key, nonce, data[head_bytes:], _context(data[:head_bytes], subject)))
    except VerificationFailed as error:
        raise PolicyRefused("pin_wrong", "Officer number or PIN is wrong.") from error


def _stretch(pin: SecretBytes, salt: bytes, kdf: KdfParameters) -> SecretBytes:
    return argon2id(
        pin,
        salt,
        memory_kib=kdf.memory_kib,
        iterations=kdf.iterations,
        lanes=kdf.lanes,
        length=SYMMETRIC_KEY_BYTES,
    )


def _context(head: bytes, subject: str) -> bytes:
    return labels.OFFICER_SEED + head + subject.encode()
