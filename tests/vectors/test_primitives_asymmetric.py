"""Published vectors for the signatures and the key wrap of suite 0x01, and a reference beside ours."""

import hashlib
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA44PrivateKey,
    MLDSA44PublicKey,
    MLDSA65PrivateKey,
    MLDSA65PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from keys import known_answers
from keys.errors import VerificationFailed
from keys.primitives import (
    CompositePrivateKey,
    Ed25519PrivateKey,
    XWingPrivateKey,
    composite_verify,
    ed25519_verify_raw,
    wrap,
)
from keys.secret import SecretBytes
from tests.vectors import independent
from tests.vectors.sources import pyca, pyca_json, records, wycheproof


def test_ed25519_signs_and_verifies_the_thousand_original_cases() -> None:
    """Keys, signatures and verification of the Ed25519 authors' list."""
    lines = pyca("asymmetric/Ed25519/sign.input").splitlines()
    assert len(lines) == 1024
    for line in lines:
        secret, public, message, signed, _ = line.split(":")
        key = Ed25519PrivateKey.from_seed(SecretBytes(bytes.fromhex(secret)[:32]))
        signature = bytes.fromhex(signed)[:64]
        assert key.public_bytes.hex() == public
        assert key.sign_raw(bytes.fromhex(message)) == signature
        ed25519_verify_raw(key.public_bytes, bytes.fromhex(message), signature)


def test_ed25519_refuses_all_that_wycheproof_calls_invalid() -> None:
    """Malleable, truncated, non-canonical: refused. Valid ones verify."""
    counts = {"valid": 0, "invalid": 0, "acceptable": 0}
    for case in wycheproof("Signature/wycheproof/ed25519_test.json"):
        public = bytes.fromhex(case["publicKey"]["pk"])
        message, signature = bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"])
        if case["result"] == "valid":
            ed25519_verify_raw(public, message, signature)
        else:
            with pytest.raises(VerificationFailed):
                ed25519_verify_raw(public, message, signature)
        counts[case["result"]] += 1
    assert counts["valid"] > 60
    assert counts["invalid"] > 50


@pytest.mark.parametrize(
    "public_hex",
    [
        "00" * 32,  # order 4
        "01" + "00" * 31,  # the neutral element
        "ec" + "ff" * 30 + "7f",  # order 2
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",  # order 8
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",  # order 8
        "ee" + "ff" * 30 + "7f",  # not canonical
        "02" + "00" * 31,  # not on the curve
    ],
)
def test_ed25519_refuses_keys_that_sign_for_anyone(public_hex: str) -> None:
    """A key of small order or non-canonical form would verify signatures nobody made."""
    signature = bytes.fromhex(public_hex) + bytes(32)
    with pytest.raises(VerificationFailed, match="public_key_invalid"):
        ed25519_verify_raw(bytes.fromhex(public_hex), b"message", signature)


@pytest.mark.parametrize(
    ("level", "private_key", "signature_bytes"),
    [("44", MLDSA44PrivateKey, 2420), ("65", MLDSA65PrivateKey, 3309)],
)
def test_ml_dsa_keys_and_signatures_verify_as_nist_has_them(
    level: str, private_key: Any, signature_bytes: int
) -> None:
    """Of cosignatures, and of the composite: key generation from the seed, verification with its context."""
    count = 0
    for case in records(pyca(f"asymmetric/MLDSA/kat_MLDSA_{level}_det_pure.rsp"), "count"):
        message, context = bytes.fromhex(case["msg"]), bytes.fromhex(case["ctx"])
        private = private_key.from_seed_bytes(bytes.fromhex(case["xi"]))
        assert private.public_key().public_bytes_raw().hex() == case["pk"]
        private.public_key().verify(bytes.fromhex(case["sm"])[:signature_bytes], message, context)
        count += 1
    assert count >= 25


@pytest.mark.parametrize(("level", "public_key"), [("44", MLDSA44PublicKey), ("65", MLDSA65PublicKey)])
def test_ml_dsa_refuses_all_that_wycheproof_calls_invalid(level: str, public_key: Any) -> None:
    """Verification of the library behind both, fault by fault."""
    counts = {"valid": 0, "invalid": 0}
    for case in wycheproof(f"Signature/wycheproof/mldsa_{level}_verify_test.json"):
        context = bytes.fromhex(case.get("ctx", ""))

        def verify(case: dict[str, Any] = case, context: bytes = context) -> None:
            key = public_key.from_public_bytes(bytes.fromhex(case["publicKey"]))
            key.verify(bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]), context)

        if case["result"] == "valid":
            verify()
        else:
            with pytest.raises((InvalidSignature, ValueError)):
                verify()
        counts[case["result"]] += 1
    assert counts["valid"] > 50
    assert counts["invalid"] > 50


def test_ml_kem_768_decapsulates_as_nist_has_it() -> None:
    """The ML-KEM half of X-Wing: keys from seeds, good ciphertexts, and implicit rejection of bad ones."""
    count = 0
    for case in records(pyca("asymmetric/MLKEM/kat_MLKEM_768.rsp"), "count"):
        private = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(case["d"] + case["z"]))
        assert private.public_key().public_bytes_raw().hex() == case["pk"]
        assert private.decapsulate(bytes.fromhex(case["ct"])).hex() == case["ss"]
        assert private.decapsulate(bytes.fromhex(case["ct_n"])).hex() == case["ss_n"]
        count += 1
    assert count >= 25


def test_x25519_agrees_with_wycheproof() -> None:
    """The X25519 half of X-Wing; a share of small order gives an error, never a secret of zeros."""
    cases = wycheproof("Protocol/wycheproof/x25519_test.json")
    assert len(cases) > 500
    for case in cases:
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(case["private"]))
        public = X25519PublicKey.from_public_bytes(bytes.fromhex(case["public"]))
        if case["shared"] == "00" * 32:
            with pytest.raises(ValueError, match="shared key"):
                private.exchange(public)
        else:
            assert private.exchange(public).hex() == case["shared"]


def _xwing_cases() -> list[Any]:
    """Cases of X-Wing with HKDF-SHA256 and ChaCha20-Poly1305: the suite's three algorithms."""
    cases = [
        case
        for case in pyca_json("HPKE/hpke-pq-test-vectors.json")
        if (case["kem_id"], case["kdf_id"], case["aead_id"]) == (0x647A, 1, 3)
    ]
    assert cases
    return cases


def test_the_reference_gives_the_published_hpke_values() -> None:
    """X-Wing's secret, the key schedule and the ciphertexts, from the smallest parts."""
    for case in _xwing_cases():
        seed, encapsulation = bytes.fromhex(case["skRm"]), bytes.fromhex(case["enc"])
        secret = independent.xwing_shared_secret(seed, encapsulation)
        assert secret.hex() == case["shared_secret"]
        key, base_nonce = independent.hpke_base_key_and_nonce(secret, bytes.fromhex(case["info"]))
        assert (key.hex(), base_nonce.hex()) == (case["key"], case["base_nonce"])
        first = case["encryptions"][0]
        opened = ChaCha20Poly1305(key).decrypt(
            base_nonce, bytes.fromhex(first["ct"]), bytes.fromhex(first["aad"])
        )
        assert opened.hex() == first["pt"]


def test_our_receive_keys_are_the_published_ones() -> None:
    """A 32-byte seed expands to the public key that the HPKE vectors and the X-Wing draft give."""
    for case in _xwing_cases():
        key = XWingPrivateKey.from_seed(SecretBytes(bytes.fromhex(case["skRm"])))
        assert key.public_bytes.hex() == case["pkRm"]


@given(
    seed=st.binary(min_size=32, max_size=32), plaintext=st.binary(max_size=300), info=st.binary(max_size=80)
)
def test_the_reference_opens_what_we_wrap(seed: bytes, plaintext: bytes, info: bytes) -> None:
    """Our wraps open with the reference that gives the published values: base mode, empty aad."""
    key = XWingPrivateKey.from_seed(SecretBytes(seed))
    wrapped = wrap(key.public_bytes, plaintext, info)
    assert independent.unwrap(seed, wrapped, info) == plaintext
    assert key.unwrap(wrapped, info) == plaintext
    with pytest.raises(VerificationFailed, match="unwrap_failed"):
        key.unwrap(wrapped, info + b"!")


def _published_composite() -> dict[str, str]:
    text = (Path(__file__).parent / "composite_mldsa65_ed25519.txt").read_text()
    return next(records(text, "tcid"))


def test_the_composite_signature_of_the_draft_verifies() -> None:
    """One published case of the LAMPS draft: key from its seeds, empty context; any flip fails."""
    case = _published_composite()
    seeds = b64decode(case["sk"])
    assert seeds[32:34] == b"\x04\x20"  # the DER head of the Ed25519 half
    key = CompositePrivateKey.from_seed(SecretBytes(seeds[:32] + seeds[34:]))
    message, signature = b64decode(case["m"]), b64decode(case["s"])
    assert hashlib.sha256(key.public_bytes).hexdigest() == case["pk_sha256"]
    composite_verify(key.public_bytes, b"", message, signature)
    for at in (0, 3308, 3309, 3372):
        forged = signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]
        with pytest.raises(VerificationFailed, match="signature_invalid"):
            composite_verify(key.public_bytes, b"", message, forged)
    with pytest.raises(VerificationFailed, match="signature_invalid"):
        composite_verify(key.public_bytes, b"context", message, signature)


def test_the_signed_message_is_built_as_the_draft_shows() -> None:
    """M' with a context, from the draft's worked example (P-256, which differs in the label alone)."""
    built = independent.composite_message(
        bytes.fromhex("0813061205162623"), bytes(range(10)), b"COMPSIG-MLDSA65-P256-SHA512"
    )
    assert built.hex() == (
        "436f6d706f73697465416c676f726974686d5369676e61747572657332303235434f4d505349472d4d4c44534136352d50"
        "3235362d5348413531320808130612051626230f89ee1fcb7b0a4f7809d1267a029719004c5a5e5ec323a7c3523a20974f"
        "9a3f202f56fadba4cd9e8d654ab9f2e96dc5c795ea176fa20ede8d854c342f903533"
    )


@given(message=st.binary(max_size=200), label=st.binary(max_size=60))
def test_the_reference_verifies_what_we_sign(message: bytes, label: bytes) -> None:
    """Our label is the composite's context: the reference, given it as such, accepts our signatures."""
    key = CompositePrivateKey.from_seed(SecretBytes(b"s" * 64))
    independent.composite_verify(key.public_bytes, label, message, key.sign(label, message))


def test_the_start_up_answers_open_with_the_reference() -> None:
    """What the self-test knows was not made up by the code that it tests."""

    def seed(name: bytes, length: int) -> bytes:
        return hashlib.shake_256(b"salween self-test " + name).digest(length)

    context, message = known_answers.CONTEXT, known_answers.MESSAGE
    assert independent.unwrap(seed(b"x-wing", 32), known_answers.XWING_WRAP, context) == message
    assert independent.blob_decrypt(seed(b"blob", 32), context, known_answers.BLOB) == message
    public = CompositePrivateKey.from_seed(SecretBytes(seed(b"composite", 64))).public_bytes
    independent.composite_verify(public, context, message, known_answers.COMPOSITE_SIGNATURE)
