"""Rules of our own composition; published vectors are under tests/vectors/."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import known_answers, labels, primitives
from keys.errors import BrokenInvariant, VerificationFailed
from keys.primitives import (
    COMPOSITE_PUBLIC_BYTES,
    COMPOSITE_SIGNATURE_BYTES,
    ED25519_SIGNATURE_BYTES,
    WRAP_OVERHEAD_BYTES,
    XWING_PUBLIC_BYTES,
    XWingPrivateKey,
    aead_open,
    aead_seal,
    blob_ciphertext_bytes,
    blob_encrypt,
    composite_verify,
    ed25519_verify,
    self_test,
    wrap,
)
from keys.secret import SecretBytes
from tests.keys.builders import composite, drawn, ed25519


def test_the_self_test_passes_and_is_quick() -> None:
    """Both daemons and the verifier run it at every start."""
    self_test()
    started = time.perf_counter()
    self_test()
    assert time.perf_counter() - started < 0.5  # 3 ms where nothing else runs


@pytest.mark.parametrize(
    "name",
    [
        "SHA256_HEX",
        "HKDF_HEX",
        "ARGON2ID_HEX",
        "AEAD_HEX",
        "COMPOSITE_PUBLIC_SHA256_HEX",
        "XWING_PUBLIC_SHA256_HEX",
        "COMPOSITE_SIGNATURE",
        "XWING_WRAP",
        "BLOB",
    ],
)
def test_the_self_test_notices_every_answer_that_changes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that computes something else stops the start, whichever primitive it is."""
    right = getattr(known_answers, name)
    if isinstance(right, str):
        wrong: str | bytes = ("1" if right[0] == "0" else "0") + right[1:]
    else:
        wrong = bytes([right[0] ^ 1]) + right[1:]
    monkeypatch.setattr(known_answers, name, wrong)
    with pytest.raises(BrokenInvariant, match="self_test_failed"):
        self_test()


def test_the_self_test_notices_a_verifier_that_accepts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verification that never refuses is the worst fault of all, and no valid vector shows it."""
    monkeypatch.setattr(primitives, "composite_verify", lambda *_: None)
    with pytest.raises(BrokenInvariant, match="refusing a forged signature"):
        self_test()


def test_a_composite_signature_is_bound_to_label_message_and_key() -> None:
    """Nothing signed for one purpose passes for another."""
    key, other = composite("a"), composite("b")
    signature = key.sign(labels.HEADER, b"message")
    assert len(key.public_bytes) == COMPOSITE_PUBLIC_BYTES
    assert len(signature) == COMPOSITE_SIGNATURE_BYTES
    composite_verify(key.public_bytes, labels.HEADER, b"message", signature)
    for public, label, message in (
        (key.public_bytes, labels.MESSAGE, b"message"),
        (key.public_bytes, labels.HEADER, b"massage"),
        (other.public_bytes, labels.HEADER, b"message"),
        (key.public_bytes[:1952] + other.public_bytes[1952:], labels.HEADER, b"message"),
        (other.public_bytes[:1952] + key.public_bytes[1952:], labels.HEADER, b"message"),
    ):
        with pytest.raises(VerificationFailed, match="signature_invalid"):
            composite_verify(public, label, message, signature)


def test_half_a_composite_signature_is_none() -> None:
    """Breaking one of the two algorithms is not enough: each half alone is refused."""
    key = composite("a")
    first, second = key.sign(labels.HEADER, b"one"), key.sign(labels.HEADER, b"two")
    for mixed in (first[:3309] + second[3309:], second[:3309] + first[3309:]):
        for message in (b"one", b"two"):
            with pytest.raises(VerificationFailed, match="signature_invalid"):
                composite_verify(key.public_bytes, labels.HEADER, message, mixed)


@given(st.binary(max_size=4000), st.binary(max_size=4000))
def test_verification_of_junk_says_verification_failed(public: bytes, signature: bytes) -> None:
    """Whatever stands in a key or signature field, the error is of the one family."""
    good = composite("a").public_bytes
    for key in (public, good, good[:1952] + public[:32].ljust(32, b"\0")):
        with pytest.raises(VerificationFailed):
            composite_verify(
                key, labels.HEADER, b"m", signature.ljust(COMPOSITE_SIGNATURE_BYTES, b"\0")[:3373]
            )
    with pytest.raises(VerificationFailed):
        ed25519_verify(public[:32], labels.HEADER, b"m", signature[:64])
    with pytest.raises(VerificationFailed):
        XWingPrivateKey.from_seed(SecretBytes(bytes(32))).unwrap(signature, b"")
    with pytest.raises(VerificationFailed):
        wrap(public[:XWING_PUBLIC_BYTES].ljust(XWING_PUBLIC_BYTES, b"\xff"), b"", b"")


def test_an_ed25519_signature_is_bound_to_its_label() -> None:
    """An officer's release cannot be taken for an officer's authorship."""
    key = ed25519("officer")
    signature = key.sign(labels.OFFICER_AUTHOR, b"alert")
    assert len(signature) == ED25519_SIGNATURE_BYTES
    ed25519_verify(key.public_bytes, labels.OFFICER_AUTHOR, b"alert", signature)
    with pytest.raises(VerificationFailed, match="signature_invalid"):
        ed25519_verify(key.public_bytes, labels.OFFICER_RELEASER, b"alert", signature)


def test_a_wrap_to_a_share_of_zeros_is_refused() -> None:
    """A key whose X25519 half gives everyone the same secret is no key."""
    good = XWingPrivateKey.from_seed(SecretBytes(drawn("rk", 32))).public_bytes
    with pytest.raises(VerificationFailed, match="public_key_invalid"):
        wrap(good[:-32] + bytes(32), b"cek", b"info")


@given(st.integers(min_value=0, max_value=70_000))
def test_sizes_are_known_beforehand(size: int) -> None:
    """Envelopes fill exact buckets, so a ciphertext's size must follow from its plaintext's."""
    assert len(blob_encrypt(SecretBytes(bytes(32)), b"c", bytes(size))) == blob_ciphertext_bytes(size)


def test_a_wrap_adds_a_fixed_size() -> None:
    """112 bytes of wrap content make the 1248 of the envelope."""
    public = XWingPrivateKey.from_seed(SecretBytes(drawn("rk", 32))).public_bytes
    assert len(wrap(public, bytes(112), b"")) == 112 + WRAP_OVERHEAD_BYTES == 1248


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_the_wrong_size_is_our_own_mistake(size: int) -> None:
    """It cannot come from outside, so it is no verification failure."""
    secret = SecretBytes(bytes(size))
    for use in (
        lambda: XWingPrivateKey.from_seed(secret),
        lambda: aead_seal(secret, bytes(24), b"", b""),
        lambda: aead_open(secret, bytes(24), bytes(16), b""),
        lambda: blob_encrypt(secret, b"", b""),
    ):
        with pytest.raises(BrokenInvariant, match="key_size"):
            use()
