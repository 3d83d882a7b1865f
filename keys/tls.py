"""The certificate a broker shows in TLS: self-signed, because its address pins it.

Spec: docs/spec/keys.md#broker-card. One rule: nobody judges this certificate by its names or dates; a client
compares its SHA-256 with the one in the broker's card, which the address pins. Seed, serial and time are
arguments: the same ones give the same certificate. Beside ``primitives`` the only importer of cryptography.
"""

import datetime
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from keys.errors import BrokenInvariant
from keys.primitives import ED25519_SEED_BYTES, sha256
from keys.secret import SecretBytes

SERIAL_BYTES: Final = 16
# Dates are not judged by our clients; a stranger's tool shall not stumble over them either.
VALID_DAYS: Final = 3650
_SKEW_DAYS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsCertificate:
    """A certificate and its key, both PEM, and the 32-byte SHA-256 of the DER form that cards carry."""

    certificate_pem: bytes
    private_key_pem: SecretBytes
    sha256: bytes


def self_signed(*, seed: SecretBytes, serial: bytes, common_name: str, now_ms: int) -> TlsCertificate:
    """A self-signed Ed25519 certificate for TLS servers, valid ten years from ``now_ms``.

    ``seed`` 32 bytes, ``serial`` 16 random bytes, ``common_name`` at most 64 characters.
    """
    if len(seed) != ED25519_SEED_BYTES or len(serial) != SERIAL_BYTES:
        raise BrokenInvariant("key_size", "a TLS seed has 32 bytes and a serial 16")
    key = Ed25519PrivateKey.from_private_bytes(seed.reveal())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    made_at = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(serial, "big") >> 1 | 1)
        .not_valid_before(made_at - datetime.timedelta(days=_SKEW_DAYS))
        .not_valid_after(made_at + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, None)
    )
    return TlsCertificate(
        certificate_pem=certificate.public_bytes(Encoding.PEM),
        private_key_pem=SecretBytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
        sha256=sha256(certificate.public_bytes(Encoding.DER)),
    )
