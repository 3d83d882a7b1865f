"""The pairing bundle: all that a peer needs in order to deliver, signed for one ceremony.

Spec: docs/spec/keys.md#bundle. One rule: it holds a capability, so it travels encrypted only. As in
``keys.card``, parsing proves nothing; verifying proves that one office made it, and not which.
"""

from dataclasses import dataclass
from typing import Final

from keys import labels, layout
from keys.brokercard import (
    ADDRESS_CHARACTERS_MAX,
    BROKER_CARD_BYTES_MAX,
    BrokerAddress,
    BrokerCard,
    encode_broker_card,
    parse_broker_address_untrusted,
    parse_broker_card_untrusted,
    verify_broker_card,
)
from keys.card import (
    CERTIFICATE_BYTES,
    OFFICE_ID_BYTES,
    OFFICER_LIST_BYTES_MAX,
    ORIGIN_BYTES_MAX,
    Certificate,
    OfficerList,
    encode_certificate,
    encode_officer_list,
    parse_certificate_untrusted,
    parse_officer_list_untrusted,
    verify_certificate,
    verify_officer_list,
)
from keys.errors import MalformedInput
from keys.layout import Reader
from keys.primitives import (
    COMPOSITE_PUBLIC_BYTES,
    COMPOSITE_SIGNATURE_BYTES,
    ED25519_PUBLIC_BYTES,
    XWING_PUBLIC_BYTES,
    CompositePrivateKey,
    check_ed25519_public,
    composite_verify,
)
from keys.secret import SecretBytes

NOTE_BYTES_MAX: Final = 8 * 1024
RECEIVE_KEY_ID_BYTES: Final = 8
INSTANCE_BYTES: Final = 8
CAPABILITY_BYTES: Final = 32
NONCE_BYTES: Final = 32
NO_OFFICE: Final = bytes(OFFICE_ID_BYTES)
NO_NONCE: Final = bytes(NONCE_BYTES)

_FORMAT: Final = 1
_BUNDLE_MAGIC: Final = b"SLWP"
BUNDLE_BYTES_MAX: Final = 56 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What one office hands the other in a pairing. Holds a capability: it travels encrypted only."""

    root_public: bytes  # R, composite
    certificate: Certificate
    officers: OfficerList
    receive_generation: int  # rk_gen of the first receive key
    receive_key_id: bytes  # 8 bytes
    receive_public: bytes  # X-Wing, 1216 bytes
    put_secret: SecretBytes  # 32 bytes: lets the peer put into this office's mailbox
    mailbox_public: bytes  # Ed25519: verifies deletions of that mailbox
    broker_address: BrokerAddress
    broker_card: BrokerCard
    log_origin: str
    log_public: bytes  # Ed25519
    witness_name: str
    witness_public: bytes  # Ed25519
    checkpoint: bytes  # signed note, may be empty before the first one
    instance: bytes  # 8 bytes

    @property
    def office_id(self) -> bytes:
        """Whose bundle this claims to be."""
        return self.certificate.office_id


def _bundle_body(bundle: Bundle) -> bytes:
    return b"".join(
        (
            _BUNDLE_MAGIC,
            layout.u8(_FORMAT),
            layout.fixed(bundle.root_public, COMPOSITE_PUBLIC_BYTES),
            encode_certificate(bundle.certificate),
            layout.variable(encode_officer_list(bundle.officers)),
            layout.u32(bundle.receive_generation),
            layout.fixed(bundle.receive_key_id, RECEIVE_KEY_ID_BYTES),
            layout.fixed(bundle.receive_public, XWING_PUBLIC_BYTES),
            layout.fixed(bundle.put_secret.reveal(), CAPABILITY_BYTES),
            layout.fixed(bundle.mailbox_public, ED25519_PUBLIC_BYTES),
            layout.variable(str(bundle.broker_address).encode("ascii")),
            layout.variable(encode_broker_card(bundle.broker_card)),
            layout.ascii_text(bundle.log_origin, ORIGIN_BYTES_MAX),
            layout.fixed(bundle.log_public, ED25519_PUBLIC_BYTES),
            layout.ascii_text(bundle.witness_name, ORIGIN_BYTES_MAX),
            layout.fixed(bundle.witness_public, ED25519_PUBLIC_BYTES),
            layout.variable(bundle.checkpoint),
            layout.fixed(bundle.instance, INSTANCE_BYTES),
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBundle:
    """A bundle with the ceremony it was made for, signed by O."""

    bundle: Bundle
    peer_id: bytes  # whom it is for; NO_OFFICE when not known beforehand (by voice)
    own_nonce: bytes  # 32 bytes
    peer_nonce: bytes  # 32 bytes; NO_NONCE when not known beforehand (by voice)
    signature: bytes


def _bundle_signed_part(
    body: bytes, office: bytes, peer_id: bytes, own_nonce: bytes, peer_nonce: bytes
) -> bytes:
    return b"".join(
        (
            office,
            layout.fixed(peer_id, OFFICE_ID_BYTES),
            layout.fixed(own_nonce, NONCE_BYTES),
            layout.fixed(peer_nonce, NONCE_BYTES),
            body,
        )
    )


def sign_bundle(
    operational: CompositePrivateKey,
    bundle: Bundle,
    *,
    own_nonce: bytes,
    peer_id: bytes = NO_OFFICE,
    peer_nonce: bytes = NO_NONCE,
) -> bytes:
    """A bundle signed by O over own id, peer's id, both nonces and every field; encoded.

    By voice neither side knows the peer's nonce when it must fix its bundle; there the transcript and
    ``pair-ok`` bind both nonces.
    """
    body = _bundle_body(bundle)
    signed = _bundle_signed_part(body, bundle.office_id, peer_id, own_nonce, peer_nonce)
    return b"".join(
        (layout.variable(body), peer_id, own_nonce, peer_nonce, operational.sign(labels.BUNDLE, signed))
    )


def encode_signed_bundle(signed: SignedBundle) -> bytes:
    """The one encoding, at most 56 KiB."""
    return b"".join(
        (
            layout.variable(_bundle_body(signed.bundle)),
            signed.peer_id,
            signed.own_nonce,
            signed.peer_nonce,
            signed.signature,
        )
    )


def parse_signed_bundle_untrusted(data: bytes) -> SignedBundle:
    """Read a signed bundle; MalformedInput alone (``bundle_malformed`` or the code of an inner document)."""
    code = "bundle_malformed"
    if len(data) > BUNDLE_BYTES_MAX:
        raise MalformedInput(code, f"has {len(data)} bytes, allowed are {BUNDLE_BYTES_MAX}")
    outer = Reader(data, code)
    body = outer.variable(BUNDLE_BYTES_MAX)
    peer_id, own_nonce = outer.take(OFFICE_ID_BYTES), outer.take(NONCE_BYTES)
    peer_nonce, signature = outer.take(NONCE_BYTES), outer.take(COMPOSITE_SIGNATURE_BYTES)
    outer.end()

    reader = Reader(body, code)
    reader.magic(_BUNDLE_MAGIC, _FORMAT)
    bundle = Bundle(
        root_public=reader.take(COMPOSITE_PUBLIC_BYTES),
        certificate=parse_certificate_untrusted(reader.take(CERTIFICATE_BYTES)),
        officers=parse_officer_list_untrusted(reader.variable(OFFICER_LIST_BYTES_MAX)),
        receive_generation=reader.u32(),
        receive_key_id=reader.take(RECEIVE_KEY_ID_BYTES),
        receive_public=reader.take(XWING_PUBLIC_BYTES),
        put_secret=SecretBytes(reader.take(CAPABILITY_BYTES)),
        mailbox_public=reader.take(ED25519_PUBLIC_BYTES),
        broker_address=parse_broker_address_untrusted(
            reader.variable(ADDRESS_CHARACTERS_MAX).decode("latin-1")
        ),
        broker_card=parse_broker_card_untrusted(reader.variable(BROKER_CARD_BYTES_MAX)),
        log_origin=reader.ascii(ORIGIN_BYTES_MAX),
        log_public=reader.take(ED25519_PUBLIC_BYTES),
        witness_name=reader.ascii(ORIGIN_BYTES_MAX),
        witness_public=reader.take(ED25519_PUBLIC_BYTES),
        checkpoint=reader.variable(NOTE_BYTES_MAX),
        instance=reader.take(INSTANCE_BYTES),
    )
    reader.end()
    return SignedBundle(
        bundle=bundle, peer_id=peer_id, own_nonce=own_nonce, peer_nonce=peer_nonce, signature=signature
    )


def verify_signed_bundle(signed: SignedBundle) -> None:
    """Raise VerificationFailed unless the bundle holds together: chain, lists, keys, broker, signature.

    Proves that one office made it, not which: that is what the two codes, or the scanned office id, are for.
    """
    bundle = signed.bundle
    verify_certificate(bundle.certificate, bundle.root_public)
    body = _bundle_body(bundle)
    composite_verify(
        bundle.certificate.public,
        labels.BUNDLE,
        _bundle_signed_part(body, bundle.office_id, signed.peer_id, signed.own_nonce, signed.peer_nonce),
        signed.signature,
    )
    verify_officer_list(bundle.officers, bundle.certificate)
    verify_broker_card(bundle.broker_card, bundle.broker_address)
    for public in (bundle.mailbox_public, bundle.log_public, bundle.witness_public):
        check_ed25519_public(public)
