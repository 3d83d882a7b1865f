"""A second composition of suite 0x01 from its smallest parts, to hold the first one against.

Shares no code with keys/primitives.py: X-Wing and the HPKE key schedule are written out from their documents,
chunked encryption likewise, and the composite signature is taken apart. If the library behind primitives.py
ever has to go, this is where its replacement starts.
"""

import hashlib
import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305


def hkdf_extract(salt: bytes, ikm: bytes, hash_name: str = "sha256") -> bytes:
    """RFC 5869, first half."""
    return hmac.digest(salt or bytes(hashlib.new(hash_name).digest_size), ikm, hash_name)


def hkdf_expand(prk: bytes, info: bytes, length: int, hash_name: str = "sha256") -> bytes:
    """RFC 5869, second half."""
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([counter]), hash_name)
        out += block
        counter += 1
    return out[:length]


def xwing_shared_secret(seed: bytes, encapsulation: bytes) -> bytes:
    """draft-connolly-cfrg-xwing-kem: SHA3-256 over both secrets, the X25519 share and key, and the label."""
    expanded = hashlib.shake_256(seed).digest(96)
    x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
    secret_m = MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).decapsulate(encapsulation[:1088])
    secret_x = x25519.exchange(X25519PublicKey.from_public_bytes(encapsulation[1088:]))
    own_x = x25519.public_key().public_bytes_raw()
    return hashlib.sha3_256(secret_m + secret_x + encapsulation[1088:] + own_x + b"\\.//^\\").digest()


def hpke_base_key_and_nonce(shared_secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """RFC 9180 base mode for X-Wing, HKDF-SHA256 and ChaCha20-Poly1305."""
    suite = b"HPKE" + struct.pack(">HHH", 0x647A, 0x0001, 0x0003)

    def extract(salt: bytes, label: bytes, ikm: bytes) -> bytes:
        return hkdf_extract(salt, b"HPKE-v1" + suite + label + ikm)

    def expand(prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
        return hkdf_expand(prk, struct.pack(">H", length) + b"HPKE-v1" + suite + label + info, length)

    context = b"\x00" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared_secret, b"secret", b"")
    return expand(secret, b"key", context, 32), expand(secret, b"base_nonce", context, 12)


def unwrap(seed: bytes, wrapped: bytes, info: bytes) -> bytes:
    """Open what ``keys.primitives.wrap`` made."""
    key, nonce = hpke_base_key_and_nonce(xwing_shared_secret(seed, wrapped[:1120]), info)
    return ChaCha20Poly1305(key).decrypt(nonce, wrapped[1120:], b"")


def composite_message(
    context: bytes, message: bytes, label: bytes = b"COMPSIG-MLDSA65-Ed25519-SHA512"
) -> bytes:
    """M' of draft-ietf-lamps-pq-composite-sigs."""
    prefix = b"CompositeAlgorithmSignatures2025"
    return prefix + label + bytes([len(context)]) + context + hashlib.sha512(message).digest()


def composite_verify(public: bytes, context: bytes, message: bytes, signature: bytes) -> None:
    """Both halves, through OpenSSL; raises what the library raises."""
    m_prime = composite_message(context, message)
    MLDSA65PublicKey.from_public_bytes(public[:1952]).verify(
        signature[:3309], m_prime, b"COMPSIG-MLDSA65-Ed25519-SHA512"
    )
    Ed25519PublicKey.from_public_bytes(public[1952:]).verify(signature[3309:], m_prime)


def blob_decrypt(key: bytes, context: bytes, ciphertext: bytes, hash_name: str = "sha512") -> bytes:
    """C2SP chunked-encryption with AES-256-GCM; ValueError for any fault.

    Our suite derives with SHA-512, as the library does throughout; the published cases with SHA-256.
    """
    if len(key) != 32 or len(ciphertext) < 56:
        raise ValueError("key or prefix")
    salt, commitment, chunks = ciphertext[:24], ciphertext[24:56], ciphertext[56:]
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00" + salt + context
    derived = hkdf_expand(key, info, 32 + 12 + 32, hash_name)
    if not hmac.compare_digest(derived[44:], commitment):
        raise ValueError("commitment")
    base = int.from_bytes(derived[32:44], "big")
    plaintext, at, counter = b"", 0, 0
    while True:
        chunk = chunks[at : at + 16384 + 16]
        try:
            plaintext += AESGCM(derived[:32]).decrypt((base ^ counter).to_bytes(12, "big"), chunk, b"")
        except InvalidTag as error:
            raise ValueError(f"chunk {counter}") from error
        if len(chunk) < 16384 + 16:
            return plaintext
        at, counter = at + len(chunk), counter + 1
