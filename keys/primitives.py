"""Suite 0x01: hash, derive, sign, verify, wrap, unwrap, seal and open.

Spec: docs/spec/suite.md. Every byte of cryptography is a library call; the code here is composition, and the
only code of the project that imports cryptography and nacl. Keys and messages are plain bytes, secrets are
``SecretBytes``. A check that does not hold raises VerificationFailed; a wrong size of our own making is
BrokenInvariant. Decides nothing about trust: whose key it is, and since when, is ``keys.trust``.
"""

import hashlib
import hmac
import struct
from functools import lru_cache
from typing import Final, final

import nacl.bindings
import nacl.exceptions
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keys import known_answers
from keys.errors import BrokenInvariant, VerificationFailed
from keys.secret import Guarded, SecretBytes

_WHICH_WHEEL: Final = (
    "this build of the cryptography library lacks ML-KEM, ML-DSA, HPKE or chunked encryption; "
    "install the binary wheel of version 50 or newer (pip install --only-binary :all: 'cryptography>=50')"
)

try:
    from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
    from cryptography.hazmat.primitives import hpke
    from cryptography.hazmat.primitives.asymmetric.mldsa import (
        MLDSA44PrivateKey,
        MLDSA44PublicKey,
        MLDSA65PrivateKey,
        MLDSA65PublicKey,
    )
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
except ImportError as missing:
    raise BrokenInvariant("missing_algorithm", _WHICH_WHEEL) from missing

HASH_BYTES: Final = 32
SYMMETRIC_KEY_BYTES: Final = 32
AEAD_NONCE_BYTES: Final = 24
AEAD_OVERHEAD_BYTES: Final = 16

ED25519_PUBLIC_BYTES: Final = 32
ED25519_SIGNATURE_BYTES: Final = 64
ED25519_SEED_BYTES: Final = 32

MLDSA44_PUBLIC_BYTES: Final = 1312
MLDSA44_SIGNATURE_BYTES: Final = 2420
MLDSA44_SEED_BYTES: Final = 32

_MLDSA_PUBLIC_BYTES: Final = 1952
_MLDSA_SIGNATURE_BYTES: Final = 3309
COMPOSITE_PUBLIC_BYTES: Final = _MLDSA_PUBLIC_BYTES + ED25519_PUBLIC_BYTES
COMPOSITE_SIGNATURE_BYTES: Final = _MLDSA_SIGNATURE_BYTES + ED25519_SIGNATURE_BYTES
COMPOSITE_SEED_BYTES: Final = 64

_MLKEM_PUBLIC_BYTES: Final = 1184
XWING_PUBLIC_BYTES: Final = _MLKEM_PUBLIC_BYTES + 32
XWING_SEED_BYTES: Final = 32
# Encapsulation (ML-KEM-768 ciphertext 1088, X25519 share 32) and the AEAD tag 16.
WRAP_OVERHEAD_BYTES: Final = 1088 + 32 + 16

_CHECKED_KEYS_MAX: Final = 4096

# C2SP chunked encryption: salt and key commitment in front, then a tag of 16 per chunk of 16 KiB.
_BLOB_PREFIX_BYTES: Final = 56
_BLOB_CHUNK_BYTES: Final = 16 * 1024
_BLOB_TAG_BYTES: Final = 16

# id-MLDSA65-Ed25519-SHA512 of draft-ietf-lamps-pq-composite-sigs.
_COMPOSITE_PREFIX: Final = b"CompositeAlgorithmSignatures2025"
_COMPOSITE_LABEL: Final = b"COMPSIG-MLDSA65-Ed25519-SHA512"

assert COMPOSITE_PUBLIC_BYTES == 1984
assert COMPOSITE_SIGNATURE_BYTES == 3373
assert XWING_PUBLIC_BYTES == 1216
assert WRAP_OVERHEAD_BYTES == 1136


def _check_size(what: str, data: bytes | SecretBytes, expected_bytes: int) -> None:
    """Sizes of our own keys are our own promise; sizes of foreign bytes are checked by their parsers."""
    if len(data) != expected_bytes:
        raise BrokenInvariant("key_size", f"{what} has {len(data)} bytes, expected {expected_bytes}")


# --- hashes and derivation ---


def sha256(data: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def labelled_hash(label: bytes, *parts: bytes) -> bytes:
    """H(label, parts) of the spec, 32 bytes: SHA-256(u8 length | label | u32 length | part | ...)."""
    digest = hashlib.sha256(bytes([len(label)]) + label)
    for part in parts:
        digest.update(struct.pack(">I", len(part)))
        digest.update(part)
    return digest.digest()


def hmac_sha256(key: SecretBytes, data: bytes) -> bytes:
    """HMAC-SHA256, 32 bytes."""
    return hmac.digest(key.reveal(), data, "sha256")


def hkdf_sha256(key: SecretBytes, salt: bytes, info: bytes, length: int) -> SecretBytes:
    """HKDF-SHA256 (RFC 5869): ``length`` bytes, at most 8160. For full-entropy keys, never passphrases."""
    if not 1 <= length <= 255 * HASH_BYTES:
        raise BrokenInvariant("derived_size", f"HKDF-SHA256 cannot give {length} bytes")
    return SecretBytes(HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(key.reveal()))


def argon2id(
    passphrase: SecretBytes, salt: bytes, *, memory_kib: int, iterations: int, lanes: int, length: int
) -> SecretBytes:
    """Argon2id version 1.3 (RFC 9106). The caller bounds the parameters before they cost anything.

    Blocks for its whole run (0.4 s at 256 MiB, 3 iterations, 2 lanes) but releases the interpreter lock.
    """
    kdf = Argon2id(salt=salt, length=length, iterations=iterations, lanes=lanes, memory_cost=memory_kib)
    return SecretBytes(kdf.derive(passphrase.reveal()))


def constant_time_equal(a: bytes, b: bytes) -> bool:
    """Whether ``a`` and ``b`` are the same bytes, in time that depends on the lengths alone."""
    return hmac.compare_digest(a, b)


# --- Ed25519 ---


# The answer is a fact about these 32 public bytes and costs as much as a signature, while the same few keys
# are met again and again. A refusal is not kept, so bad keys cannot push out good ones.
@lru_cache(maxsize=_CHECKED_KEYS_MAX)
def check_ed25519_public(public: bytes) -> None:
    """Raise VerificationFailed unless ``public`` is a canonical point of the prime-order group."""
    if len(public) != ED25519_PUBLIC_BYTES or not nacl.bindings.crypto_core_ed25519_is_valid_point(public):
        raise VerificationFailed("public_key_invalid", "an Ed25519 public key is not a valid point")


def ed25519_verify_raw(public: bytes, message: bytes, signature: bytes) -> None:
    """Verify a bare Ed25519 signature of 64 bytes (C2SP notes only); raise VerificationFailed.

    libsodium, not OpenSSL: it refuses small-order and non-canonical inputs that OpenSSL accepts
    (docs/spec/suite.md).
    """
    check_ed25519_public(public)
    if len(signature) != ED25519_SIGNATURE_BYTES:
        raise VerificationFailed("signature_invalid", "an Ed25519 signature has the wrong length")
    try:
        nacl.bindings.crypto_sign_open(signature + message, public)
    except nacl.exceptions.BadSignatureError as error:
        raise VerificationFailed("signature_invalid", "an Ed25519 signature does not verify") from error


def ed25519_verify(public: bytes, label: bytes, message: bytes, signature: bytes) -> None:
    """Verify an Ed25519 signature over ``labelled_hash(label, message)``; raise VerificationFailed."""
    ed25519_verify_raw(public, labelled_hash(label, message), signature)


@final
class Ed25519PrivateKey(Guarded):
    """An Ed25519 signing key: officers, logs, witnesses, custody, mailboxes."""

    __slots__ = ("_expanded", "public_bytes")

    def __init__(self, expanded: SecretBytes, public: bytes) -> None:
        self._expanded = expanded
        self.public_bytes: Final = public

    @classmethod
    def from_seed(cls, seed: SecretBytes) -> "Ed25519PrivateKey":
        """The key of a 32-byte seed (RFC 8032 private key)."""
        _check_size("an Ed25519 seed", seed, ED25519_SEED_BYTES)
        public, expanded = nacl.bindings.crypto_sign_seed_keypair(seed.reveal())
        return cls(SecretBytes(expanded), public)

    def sign(self, label: bytes, message: bytes) -> bytes:
        """64-byte signature over ``labelled_hash(label, message)``."""
        return self.sign_raw(labelled_hash(label, message))

    def sign_raw(self, message: bytes) -> bytes:
        """64-byte signature over the bare message. For C2SP notes only: their text names its origin."""
        return nacl.bindings.crypto_sign(message, self._expanded.reveal())[:ED25519_SIGNATURE_BYTES]


# --- ML-DSA-44, for C2SP cosignatures alone ---


def mldsa44_verify_raw(public: bytes, message: bytes, signature: bytes) -> None:
    """Verify a pure ML-DSA-44 signature (FIPS 204, empty context); raise VerificationFailed."""
    try:
        MLDSA44PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise VerificationFailed("signature_invalid", "an ML-DSA-44 signature does not verify") from error


@final
class MlDsa44PrivateKey(Guarded):
    """A witness's post-quantum key. Signatures are randomised."""

    __slots__ = ("_key", "public_bytes")

    def __init__(self, key: MLDSA44PrivateKey) -> None:
        self._key = key
        self.public_bytes: Final = key.public_key().public_bytes_raw()

    @classmethod
    def from_seed(cls, seed: SecretBytes) -> "MlDsa44PrivateKey":
        """The key of a 32-byte seed (FIPS 204 xi)."""
        _check_size("an ML-DSA-44 seed", seed, MLDSA44_SEED_BYTES)
        return cls(MLDSA44PrivateKey.from_seed_bytes(seed.reveal()))

    def sign_raw(self, message: bytes) -> bytes:
        """2420-byte signature over the bare message, which names its purpose and signer itself."""
        return self._key.sign(message)


# --- composite ML-DSA-65 + Ed25519 ---


def _composite_message(label: bytes, message: bytes) -> bytes:
    """M' of the draft, our label as its ctx: Prefix | Label | u8 length | ctx | SHA-512(message)."""
    if len(label) > 255:
        raise BrokenInvariant("label_size", "a composite signature context has at most 255 bytes")
    return (
        _COMPOSITE_PREFIX + _COMPOSITE_LABEL + bytes([len(label)]) + label + hashlib.sha512(message).digest()
    )


@final
class CompositePrivateKey(Guarded):
    """A root or operational key: ML-DSA-65 and Ed25519 together. Signatures are randomised."""

    __slots__ = ("_ed25519", "_mldsa", "public_bytes")

    def __init__(self, mldsa: MLDSA65PrivateKey, ed25519: Ed25519PrivateKey) -> None:
        self._mldsa = mldsa
        self._ed25519 = ed25519
        self.public_bytes: Final = mldsa.public_key().public_bytes_raw() + ed25519.public_bytes

    @classmethod
    def from_seed(cls, seed: SecretBytes) -> "CompositePrivateKey":
        """The key of a 64-byte seed: ML-DSA-65 seed 32 | Ed25519 seed 32, the draft's private key."""
        _check_size("a composite seed", seed, COMPOSITE_SEED_BYTES)
        both = seed.reveal()
        return cls(
            MLDSA65PrivateKey.from_seed_bytes(both[:32]), Ed25519PrivateKey.from_seed(SecretBytes(both[32:]))
        )

    def sign(self, label: bytes, message: bytes) -> bytes:
        """3373-byte signature, ML-DSA-65 | Ed25519, of ``message`` under ``label``.

        Not strongly unforgeable: derive no identity from signature bytes.
        """
        m_prime = _composite_message(label, message)
        return self._mldsa.sign(m_prime, _COMPOSITE_LABEL) + self._ed25519.sign_raw(m_prime)


def check_composite_public(public: bytes) -> None:
    """Raise VerificationFailed unless ``public`` is a usable composite key of 1984 bytes."""
    if len(public) != COMPOSITE_PUBLIC_BYTES:
        raise VerificationFailed("public_key_invalid", "a composite public key has the wrong length")
    check_ed25519_public(public[_MLDSA_PUBLIC_BYTES:])


def composite_verify(public: bytes, label: bytes, message: bytes, signature: bytes) -> None:
    """Verify a composite signature: both halves must hold. Raise VerificationFailed."""
    check_composite_public(public)
    if len(signature) != COMPOSITE_SIGNATURE_BYTES:
        raise VerificationFailed("signature_invalid", "a composite signature has the wrong length")
    m_prime = _composite_message(label, message)
    ed25519_verify_raw(public[_MLDSA_PUBLIC_BYTES:], m_prime, signature[_MLDSA_SIGNATURE_BYTES:])
    try:
        MLDSA65PublicKey.from_public_bytes(public[:_MLDSA_PUBLIC_BYTES]).verify(
            signature[:_MLDSA_SIGNATURE_BYTES], m_prime, _COMPOSITE_LABEL
        )
    except (InvalidSignature, ValueError) as error:
        raise VerificationFailed("signature_invalid", "an ML-DSA-65 signature does not verify") from error


# --- key wrap: HPKE base mode over X-Wing ---


@final
class XWingPrivateKey(Guarded):
    """A receive key: ML-KEM-768 and X25519 together, from a 32-byte seed."""

    __slots__ = ("_key", "public_bytes")

    def __init__(self, key: hpke.MLKEM768X25519PrivateKey, public: bytes) -> None:
        self._key = key
        self.public_bytes: Final = public

    @classmethod
    def from_seed(cls, seed: SecretBytes) -> "XWingPrivateKey":
        """The key of a 32-byte seed, expanded as the X-Wing draft does: SHAKE256 to ML-KEM 64 | X25519 32."""
        _check_size("an X-Wing seed", seed, XWING_SEED_BYTES)
        expanded = hashlib.shake_256(seed.reveal()).digest(96)
        mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
        public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        return cls(hpke.MLKEM768X25519PrivateKey(mlkem, x25519), public)

    def unwrap(self, ciphertext: bytes, info: bytes) -> bytes:
        """Open ``wrap``'s output under the same ``info``; raise VerificationFailed (``unwrap_failed``)."""
        try:
            return _hpke_suite().decrypt(ciphertext, self._key, info)
        except (InvalidTag, ValueError) as error:
            raise VerificationFailed("unwrap_failed", "a wrapped key does not open") from error


def _hpke_suite() -> hpke.Suite:
    return hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


def wrap(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """HPKE base mode, single shot: encapsulation 1120 | ciphertext | tag 16.

    Everything to be bound goes into ``info``; there is no aad. An unusable public key raises
    VerificationFailed (``public_key_invalid``).
    """
    if len(public) != XWING_PUBLIC_BYTES:
        raise VerificationFailed("public_key_invalid", "an X-Wing public key has the wrong length")
    try:
        key = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:]),
        )
        return _hpke_suite().encrypt(plaintext, key, info)
    except ValueError as error:
        raise VerificationFailed("public_key_invalid", "an X-Wing public key cannot be used") from error


# --- bodies and attachments: C2SP chunked encryption, key committing ---


def blob_ciphertext_bytes(plaintext_bytes: int) -> int:
    """Exact size of ``blob_encrypt``'s output for a plaintext of ``plaintext_bytes``."""
    chunks = plaintext_bytes // _BLOB_CHUNK_BYTES + 1
    return _BLOB_PREFIX_BYTES + plaintext_bytes + chunks * _BLOB_TAG_BYTES


def blob_encrypt(key: SecretBytes, context: bytes, plaintext: bytes) -> bytes:
    """Encrypt ``plaintext`` under a 32-byte key used once; the salt is drawn by the library."""
    _check_size("a content key", key, SYMMETRIC_KEY_BYTES)
    encryptor = Cobblestone256Encryptor(key.reveal(), context)
    return encryptor.update(plaintext) + encryptor.finalize()


def blob_decrypt(key: SecretBytes, context: bytes, ciphertext: bytes) -> bytes:
    """The whole plaintext or VerificationFailed (``blob_invalid``).

    Nothing is returned before ``finalize()``: until then a truncated blob looks whole.
    """
    _check_size("a content key", key, SYMMETRIC_KEY_BYTES)
    try:
        decryptor = Cobblestone256Decryptor(key.reveal(), context)
        plaintext = decryptor.update(ciphertext)
        return plaintext + decryptor.finalize()
    except (InvalidTag, ValueError) as error:
        raise VerificationFailed("blob_invalid", "a body does not open under its content key") from error


# --- small secrets at rest and in answers: XChaCha20-Poly1305 ---


def aead_seal(key: SecretBytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """XChaCha20-Poly1305: ciphertext | tag 16. ``nonce`` is 24 bytes and never repeats under one key."""
    _check_size("an AEAD key", key, SYMMETRIC_KEY_BYTES)
    _check_size("an AEAD nonce", nonce, AEAD_NONCE_BYTES)
    return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        plaintext, associated, nonce, key.reveal()
    )


def aead_open(key: SecretBytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    """Open ``aead_seal``'s output or raise VerificationFailed (``aead_invalid``)."""
    _check_size("an AEAD key", key, SYMMETRIC_KEY_BYTES)
    if len(nonce) != AEAD_NONCE_BYTES or len(ciphertext) < AEAD_OVERHEAD_BYTES:
        raise VerificationFailed("aead_invalid", "sealed bytes are too short")
    try:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            ciphertext, associated, nonce, key.reveal()
        )
    except nacl.exceptions.CryptoError as error:
        raise VerificationFailed("aead_invalid", "sealed bytes do not open under this key") from error


# --- start-up self-test ---


def _known_seed(name: bytes, length: int) -> SecretBytes:
    return SecretBytes(hashlib.shake_256(b"salween self-test " + name).digest(length))


def _expect(what: str, holds: bool) -> None:
    if not holds:
        raise BrokenInvariant("self_test_failed", f"{what} does not give its known answer on this machine")


def self_test() -> None:
    """Run one known answer of every primitive, and one refusal; takes about 10 ms.

    Raises BrokenInvariant: ``missing_algorithm`` names the wheel to install, ``self_test_failed`` means that
    a library is present but wrong, and nothing may be signed or decrypted with it.
    """
    try:
        _run_known_answers()
    except UnsupportedAlgorithm as error:
        raise BrokenInvariant("missing_algorithm", _WHICH_WHEEL) from error
    except VerificationFailed as error:
        raise BrokenInvariant("self_test_failed", f"a known answer is refused: {error.detail}") from error


def _run_known_answers() -> None:
    message, context = known_answers.MESSAGE, known_answers.CONTEXT
    key, nonce = _known_seed(b"symmetric", 32), _known_seed(b"nonce", AEAD_NONCE_BYTES).reveal()

    _expect("SHA-256", sha256(message).hex() == known_answers.SHA256_HEX)
    _expect("HKDF", hkdf_sha256(key, b"salt", context, 32).reveal().hex() == known_answers.HKDF_HEX)
    stretched = argon2id(key, message[:16], memory_kib=64, iterations=1, lanes=1, length=32)
    _expect("Argon2id", stretched.reveal().hex() == known_answers.ARGON2ID_HEX)

    sealed = aead_seal(key, nonce, message, context)
    _expect("XChaCha20-Poly1305", sealed.hex() == known_answers.AEAD_HEX)
    _expect("XChaCha20-Poly1305", aead_open(key, nonce, sealed, context) == message)

    composite = CompositePrivateKey.from_seed(_known_seed(b"composite", COMPOSITE_SEED_BYTES))
    _expect(
        "the composite key",
        sha256(composite.public_bytes).hex() == known_answers.COMPOSITE_PUBLIC_SHA256_HEX,
    )
    composite_verify(composite.public_bytes, context, message, known_answers.COMPOSITE_SIGNATURE)
    composite_verify(composite.public_bytes, context, message, composite.sign(context, message))
    for flipped_at in (0, COMPOSITE_SIGNATURE_BYTES - 1):
        forged = bytearray(known_answers.COMPOSITE_SIGNATURE)
        forged[flipped_at] ^= 1
        try:
            composite_verify(composite.public_bytes, context, message, bytes(forged))
        except VerificationFailed:
            continue
        _expect("refusing a forged signature", holds=False)

    receive = XWingPrivateKey.from_seed(_known_seed(b"x-wing", XWING_SEED_BYTES))
    _expect("the X-Wing key", sha256(receive.public_bytes).hex() == known_answers.XWING_PUBLIC_SHA256_HEX)
    _expect("HPKE", receive.unwrap(known_answers.XWING_WRAP, context) == message)
    _expect("HPKE", receive.unwrap(wrap(receive.public_bytes, message, context), context) == message)

    content_key = _known_seed(b"blob", SYMMETRIC_KEY_BYTES)
    _expect("chunked encryption", blob_decrypt(content_key, context, known_answers.BLOB) == message)
