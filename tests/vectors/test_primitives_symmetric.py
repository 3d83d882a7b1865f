"""Published vectors for the hashes, derivations and symmetric ciphers of suite 0x01."""

import base64
import hashlib
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from keys.errors import BrokenInvariant, VerificationFailed
from keys.primitives import (
    aead_open,
    aead_seal,
    argon2id,
    blob_ciphertext_bytes,
    blob_decrypt,
    blob_encrypt,
    hkdf_sha256,
    hmac_sha256,
    sha256,
)
from keys.secret import SecretBytes
from tests.vectors import independent
from tests.vectors.sources import pyca, pyca_json, records, wycheproof


@pytest.mark.parametrize("name", ["SHA256ShortMsg", "SHA256LongMsg"])
def test_sha256_gives_the_digests_of_nist(name: str) -> None:
    """SHA-256 as NIST's byte vectors have it."""
    count = 0
    for case in records(pyca(f"hashes/SHA2/{name}.rsp"), "len"):
        message = bytes.fromhex(case["msg"])[: int(case["len"]) // 8]
        assert sha256(message).hex() == case["md"]
        count += 1
    assert count > 60


def test_hmac_gives_the_codes_of_rfc_4231() -> None:
    """HMAC-SHA256 as RFC 4231 has it; one of its cases is truncated."""
    cases = list(records(pyca("HMAC/rfc-4231-sha256.txt"), "len"))
    assert len(cases) >= 6
    for case in cases:
        found = hmac_sha256(SecretBytes(bytes.fromhex(case["key"])), bytes.fromhex(case["msg"]))
        assert found.hex().startswith(case["md"])


def test_hkdf_gives_the_keys_of_rfc_5869() -> None:
    """HKDF-SHA256 as RFC 5869 has it."""
    cases = list(records(pyca("KDF/rfc-5869-HKDF-SHA256.txt"), "count"))
    assert len(cases) == 3
    for case in cases:
        ikm, salt, info = (bytes.fromhex(case.get(field, "")) for field in ("ikm", "salt", "info"))
        assert hkdf_sha256(SecretBytes(ikm), salt, info, int(case["l"])).reveal().hex() == case["okm"]


def test_hkdf_agrees_with_wycheproof_and_refuses_what_is_too_long() -> None:
    """Every valid case gives its key; a length that HKDF cannot give is refused."""
    for case in wycheproof("Protocol/wycheproof/hkdf_sha256_test.json"):
        ikm, salt, info = (bytes.fromhex(case[field]) for field in ("ikm", "salt", "info"))
        if case["result"] == "valid":
            assert hkdf_sha256(SecretBytes(ikm), salt, info, case["size"]).reveal().hex() == case["okm"]
        else:
            with pytest.raises(BrokenInvariant, match="derived_size"):
                hkdf_sha256(SecretBytes(ikm), salt, info, case["size"])


def test_argon2id_gives_the_keys_of_the_published_cases() -> None:
    """Argon2id: every published case without a secret or associated data, which we do not use."""
    plain = [
        case
        for case in records(pyca("KDF/argon2id.txt"), "count")
        if not case.get("secret") and not case.get("ad")
    ]
    assert len(plain) >= 5
    for case in plain:
        found = argon2id(
            SecretBytes(bytes.fromhex(case["pass"])),
            bytes.fromhex(case["salt"]),
            memory_kib=int(case["memcost"]),
            iterations=int(case["iter"]),
            lanes=int(case["lanes"]),
            length=int(case["length"]),
        )
        assert found.reveal().hex() == case["output"]


def test_xchacha20_poly1305_agrees_with_wycheproof() -> None:
    """Valid cases seal to the same bytes and open; every other one is refused."""
    counts = {"valid": 0, "invalid": 0}
    for case in wycheproof("Cipher/wycheproof/xchacha20_poly1305_test.json"):
        nonce = bytes.fromhex(case["iv"])
        key = SecretBytes(bytes.fromhex(case["key"]))
        sealed, aad = bytes.fromhex(case["ct"] + case["tag"]), bytes.fromhex(case["aad"])
        if case["result"] == "valid":
            message = bytes.fromhex(case["msg"])
            assert aead_seal(key, nonce, message, aad) == sealed
            assert aead_open(key, nonce, sealed, aad) == message
        else:
            with pytest.raises(VerificationFailed, match="aead_invalid"):
                aead_open(key, nonce, sealed, aad)
        counts[case["result"]] += 1
    assert counts["valid"] > 200
    assert counts["invalid"] > 40


def _c2sp_cases() -> list[Any]:
    published = pyca_json("chunked-encryption/vectors.json")["vectors"]
    cases = [case for case in published if case["aead"] == "AEAD_AES_256_GCM"]
    assert len(cases) > 30
    return cases


def _c2sp_ciphertext(case: Any) -> bytes:
    ciphertext = base64.b64decode(case["ciphertext"] or "")
    return zlib.decompress(ciphertext) if case.get("compressed") else ciphertext


@pytest.mark.parametrize("case", _c2sp_cases(), ids=lambda case: case["name"])
def test_the_reference_opens_exactly_what_c2sp_says(case: Any) -> None:
    """Good blobs give their payload; a truncated, swapped, extended or foreign one is refused.

    These cases derive with SHA-256 and so cannot run through ``blob_decrypt``, whose suite derives with
    SHA-512: they prove the reference, and the reference proves ``blob_decrypt`` below.
    """
    key, context = bytes.fromhex(case["key"]), case["context"].encode()
    if case["expect"] == "success":
        payload = independent.blob_decrypt(key, context, _c2sp_ciphertext(case), "sha256")
        assert hashlib.sha256(payload).hexdigest() == case["payload_sha256"]
    else:
        with pytest.raises(ValueError, match=r"key or prefix|commitment|chunk"):
            independent.blob_decrypt(key, context, _c2sp_ciphertext(case), "sha256")


_CHUNK = 16 * 1024 + 16
_FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda blob: blob,
    "first byte of the salt flipped": lambda blob: bytes([blob[0] ^ 1]) + blob[1:],
    "commitment flipped": lambda blob: blob[:24] + bytes([blob[24] ^ 1]) + blob[25:],
    "last byte flipped": lambda blob: blob[:-1] + bytes([blob[-1] ^ 1]),
    "one byte short": lambda blob: blob[:-1],
    "cut after the first chunk": lambda blob: blob[: 56 + _CHUNK],
    "cut in the prefix": lambda blob: blob[:40],
    "empty": lambda blob: b"",
    "one byte more": lambda blob: blob + b"\0",
    "last chunk twice": lambda blob: blob + blob[56 + _CHUNK :],
    "chunks swapped": lambda blob: blob[:56] + blob[56 + _CHUNK :] + blob[56 : 56 + _CHUNK],
}


@pytest.mark.parametrize("fault", _FAULTS)
@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 40_000])
def test_blobs_open_whole_or_not_at_all_and_as_the_reference_does(fault: str, size: int) -> None:
    """With any fault nothing comes out; without one, both compositions give the same plaintext."""
    key, context, plaintext = b"k" * 32, b"salween/v1/blob", bytes(i % 251 for i in range(size))
    blob = blob_encrypt(SecretBytes(key), context, plaintext)
    assert len(blob) == blob_ciphertext_bytes(size)
    changed = _FAULTS[fault](blob)
    if changed == blob:
        assert blob_decrypt(SecretBytes(key), context, changed) == plaintext
        assert independent.blob_decrypt(key, context, changed) == plaintext
    else:
        with pytest.raises(VerificationFailed, match="blob_invalid"):
            blob_decrypt(SecretBytes(key), context, changed)
        with pytest.raises(ValueError, match=r"key or prefix|commitment|chunk"):
            independent.blob_decrypt(key, context, changed)


def test_a_blob_is_bound_to_its_context_and_key() -> None:
    """An attachment never opens as a message body, nor under another content key."""
    blob = blob_encrypt(SecretBytes(b"k" * 32), b"salween/v1/blob", b"text")
    for key, context in ((b"k" * 32, b"salween/v1/attachment"), (b"l" * 32, b"salween/v1/blob")):
        with pytest.raises(VerificationFailed, match="blob_invalid"):
            blob_decrypt(SecretBytes(key), context, blob)
