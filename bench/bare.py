"""The cryptography of one alert and nothing else: the calls into the libraries that no office can avoid.

Straight into cryptography and libsodium, with every key parsed beforehand, so that whatever the product does
around a primitive, point checks and composition included, counts as the product's own cost.

Sending is the author's Ed25519 signature, ML-DSA-65 and Ed25519 over the header, HPKE over X-Wing, and
chunked encryption; receiving undoes the four. A message that is no alert, such as one of receipts, has no
officer's signature.
"""

import hashlib
import os

import nacl.bindings
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocol import limits

_CONTEXT = b"salween bench"
_WRAPPED_BYTES = limits.LEAF_PLAINTEXT_BYTES
_INFO_BYTES = 130  # label, version, two office ids, key id, hash of the blob
_OFFICER_MESSAGE_BYTES = 32  # officers sign a labelled hash
# What lies around the plaintext of a blob: salt and commitment in front, a tag behind each chunk of 16 KiB.
_BLOB_AROUND_BYTES = 56 + 16


class BareMessage:
    """Both halves of one message that fills the smallest envelope."""

    def __init__(self, *, officer_signatures: int) -> None:
        """Fresh keys, and one message under way to be opened again and again."""
        self._officer_signatures = officer_signatures
        self._officer_public, self._officer = nacl.bindings.crypto_sign_keypair()
        self._ed25519_public, self._ed25519 = nacl.bindings.crypto_sign_keypair()
        self._mldsa = MLDSA65PrivateKey.generate()
        self._mldsa_public = self._mldsa.public_key()
        mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        self._receive = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
        self._receive_public = hpke.MLKEM768X25519PublicKey(mlkem.public_key(), x25519.public_key())
        self._suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
        self._header = os.urandom(limits.HEADER_FIXED_BYTES + limits.HASH_BYTES)
        self._officer_message = os.urandom(_OFFICER_MESSAGE_BYTES)
        self._info = os.urandom(_INFO_BYTES)
        self._key = os.urandom(32)
        self._padded = os.urandom(
            limits.ENVELOPE_BUCKETS_BYTES[0] - limits.BLOB_OFFSET_BYTES - _BLOB_AROUND_BYTES
        )
        self._sent = self.send()

    def send(self) -> tuple[list[bytes], bytes, bytes, bytes, bytes]:
        """Officer's signatures, ML-DSA-65 and Ed25519 signatures, blob, wrapped key."""
        officers = [
            nacl.bindings.crypto_sign(self._officer_message, self._officer)
            for _ in range(self._officer_signatures)
        ]
        digest = hashlib.sha512(self._header).digest()
        mldsa = self._mldsa.sign(digest, _CONTEXT)
        ed25519 = nacl.bindings.crypto_sign(digest, self._ed25519)
        encryptor = Cobblestone256Encryptor(self._key, _CONTEXT)
        blob = encryptor.update(self._padded) + encryptor.finalize()
        wrapped = self._suite.encrypt(
            self._key + bytes(_WRAPPED_BYTES - 32), self._receive_public, self._info
        )
        return officers, mldsa, ed25519, blob, wrapped

    def receive(self) -> bytes:
        """Undo what was sent; the plaintext."""
        officers, mldsa, ed25519, blob, wrapped = self._sent
        key = self._suite.decrypt(wrapped, self._receive, self._info)[:32]
        decryptor = Cobblestone256Decryptor(key, _CONTEXT)
        plaintext = decryptor.update(blob) + decryptor.finalize()
        digest = hashlib.sha512(self._header).digest()
        self._mldsa_public.verify(mldsa, digest, _CONTEXT)
        nacl.bindings.crypto_sign_open(ed25519, self._ed25519_public)
        for officer in officers:
            nacl.bindings.crypto_sign_open(officer, self._officer_public)
        return plaintext
