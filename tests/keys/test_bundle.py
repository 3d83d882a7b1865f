"""A bundle holds together, is signed for its ceremony, and shows nothing when printed."""

from dataclasses import replace

import pytest

from keys.bundle import (
    NO_NONCE,
    NO_OFFICE,
    parse_signed_bundle_untrusted,
    sign_bundle,
    verify_signed_bundle,
)
from keys.errors import VerificationFailed
from keys.secret import SecretBytes
from tests.keys.builders import (
    MALLORY,
    MYITKYINA,
    TENGCHONG,
    drawn,
)

BUNDLE = sign_bundle(MYITKYINA.operational, MYITKYINA.bundle(), own_nonce=drawn("nonce", 32))


def test_a_bundle_shows_no_capability_when_printed() -> None:
    """It holds the right to put into a mailbox, and error messages print values."""
    text = repr(parse_signed_bundle_untrusted(BUNDLE))
    secret = drawn("Myitkyina BLO put", 32)
    assert "<secret 32 bytes>" in text
    assert repr(secret) not in text
    assert secret.hex() not in text


def test_a_bundle_is_signed_for_its_ceremony() -> None:
    """Another peer, another nonce, another field: the signature of the old one does not fit."""
    signed = parse_signed_bundle_untrusted(BUNDLE)
    verify_signed_bundle(signed)
    assert (signed.peer_id, signed.peer_nonce) == (NO_OFFICE, NO_NONCE)
    for changed in (
        replace(signed, peer_id=TENGCHONG.id),
        replace(signed, own_nonce=drawn("other", 32)),
        replace(signed, peer_nonce=drawn("other", 32)),
        replace(signed, bundle=replace(signed.bundle, put_secret=SecretBytes(bytes(32)))),
        replace(signed, bundle=replace(signed.bundle, instance=bytes(8))),
    ):
        with pytest.raises(VerificationFailed, match="signature_invalid"):
            verify_signed_bundle(changed)


def test_a_bundle_of_borrowed_parts_is_refused() -> None:
    """Someone else's root, certificate, officers or broker in one's own bundle."""
    own, victim = MALLORY.bundle(), MYITKYINA.bundle()
    for borrowed, code in (
        (replace(own, root_public=victim.root_public), "office_id_mismatch"),
        (replace(own, certificate=victim.certificate), "office_id_mismatch"),
        (
            replace(own, root_public=victim.root_public, certificate=victim.certificate),
            "signature_invalid",
        ),
        (replace(own, officers=victim.officers), "officer_list_foreign"),
        (replace(own, broker_card=replace(own.broker_card, name="other")), "broker_card_mismatch"),
        (replace(own, mailbox_public=bytes(32)), "public_key_invalid"),
        (replace(own, log_public=bytes(32)), "public_key_invalid"),
        (replace(own, witness_public=bytes(32)), "public_key_invalid"),
    ):
        data = sign_bundle(MALLORY.operational, borrowed, own_nonce=drawn("n", 32))
        with pytest.raises(VerificationFailed, match=code):
            verify_signed_bundle(parse_signed_bundle_untrusted(data))
