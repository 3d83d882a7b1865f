"""What offices and brokers show of themselves: certificates, officer lists, revocations, cards, bundles.

Spec: docs/spec/keys.md. Every document is a value with one encoding; ``parse_*_untrusted`` gives the value
and proves nothing, ``verify_*`` proves it against a key the caller already trusts. Nothing here decides whom
to trust or remembers anything: that is ``keys.trust``.
"""

import ipaddress
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from keys import labels, layout
from keys.errors import MalformedInput, PolicyRefused, VerificationFailed
from keys.layout import Reader
from keys.primitives import (
    COMPOSITE_PUBLIC_BYTES,
    COMPOSITE_SIGNATURE_BYTES,
    ED25519_PUBLIC_BYTES,
    HASH_BYTES,
    XWING_PUBLIC_BYTES,
    CompositePrivateKey,
    check_composite_public,
    check_ed25519_public,
    composite_verify,
    constant_time_equal,
    labelled_hash,
    sha256,
)
from keys.secret import SecretBytes

SUITE: Final = 0x01

OFFICE_ID_BYTES: Final = HASH_BYTES
NAME_BYTES_MAX: Final = 64
ORIGIN_BYTES_MAX: Final = 128
OFFICERS_MAX: Final = 256
OFFICER_LIST_BYTES_MAX: Final = 36 * 1024  # 256 officers with the longest aliases, and the signature
NOTE_BYTES_MAX: Final = 8 * 1024
REASON_BYTES_MAX: Final = 200
RECEIVE_KEY_ID_BYTES: Final = 8
INSTANCE_BYTES: Final = 8
CAPABILITY_BYTES: Final = 32
NONCE_BYTES: Final = 32
NO_OFFICE: Final = bytes(OFFICE_ID_BYTES)
NO_NONCE: Final = bytes(NONCE_BYTES)
NO_TLS: Final = bytes(HASH_BYTES)

_FORMAT: Final = 1


def office_id(root_public: bytes) -> bytes:
    """The 32-byte identity of an office: what peers pin. Changes only when the root key changes."""
    return labelled_hash(labels.OFFICE_ID, root_public)


def check_root(root_public: bytes, expected_office_id: bytes) -> None:
    """Raise VerificationFailed unless ``root_public`` is the root key that ``expected_office_id`` names."""
    check_composite_public(root_public)
    if not constant_time_equal(office_id(root_public), expected_office_id):
        raise VerificationFailed(
            "office_id_mismatch", "a root key does not belong to the office it is shown for"
        )


def safety_number(id_a: bytes, id_b: bytes) -> str:
    """60 digits in 12 groups of five over both office ids, the same whichever comes first."""
    digest = labelled_hash(labels.SAFETY_NUMBER, *sorted((id_a, id_b)))
    digits = f"{int.from_bytes(digest, 'big') % 10**60:060d}"
    return " ".join(digits[at : at + 5] for at in range(0, 60, 5))


def check_name(name: str) -> None:
    """Raise PolicyRefused (``name_invalid``) for a display name or alias that no document may carry."""
    fault = layout.text_fault(name, NAME_BYTES_MAX)
    if fault is not None:
        raise PolicyRefused("name_invalid", f"the name {fault}; choose another one")


# --- certificates: root R says which operational key O speaks for the office ---

_CERTIFICATE_MAGIC: Final = b"SLWC"
_CERTIFICATE_CODE: Final = "certificate_malformed"
_COUNTRY: Final = re.compile("[A-Z]{2}")
CERTIFICATE_BYTES: Final = (
    4 + 1 + OFFICE_ID_BYTES + 4 + COMPOSITE_PUBLIC_BYTES + 8 + 8 + 4 + 1 + 2 + 1 + NAME_BYTES_MAX
) + COMPOSITE_SIGNATURE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Root R's word that one operational key speaks for the office; 5486 bytes encoded, fixed layout."""

    office_id: bytes
    key_version: int  # from 1; only grows
    public: bytes  # O, composite, 1984 bytes
    not_before_ms: int
    not_after_ms: int
    revoked_below: int  # every key version below this one is revoked
    minimum_suite: int  # peers refuse anything signed under a lower suite; only grows
    country: str  # two capital letters, ISO 3166-1
    name: str  # display name, 1 to 64 bytes of UTF-8
    signature: bytes


def _certificate_body(
    *,
    office: bytes,
    key_version: int,
    public: bytes,
    not_before_ms: int,
    not_after_ms: int,
    revoked_below: int,
    minimum_suite: int,
    country: str,
    name: str,
) -> bytes:
    return b"".join(
        (
            _CERTIFICATE_MAGIC,
            layout.u8(_FORMAT),
            layout.fixed(office, OFFICE_ID_BYTES),
            layout.u32(key_version),
            layout.fixed(public, COMPOSITE_PUBLIC_BYTES),
            layout.u64(not_before_ms),
            layout.u64(not_after_ms),
            layout.u32(revoked_below),
            layout.u8(minimum_suite),
            layout.fixed(country.encode("ascii", "replace"), 2),
            layout.padded_text(name, NAME_BYTES_MAX),
        )
    )


def _body_of(certificate: Certificate) -> bytes:
    return _certificate_body(
        office=certificate.office_id,
        key_version=certificate.key_version,
        public=certificate.public,
        not_before_ms=certificate.not_before_ms,
        not_after_ms=certificate.not_after_ms,
        revoked_below=certificate.revoked_below,
        minimum_suite=certificate.minimum_suite,
        country=certificate.country,
        name=certificate.name,
    )


def issue_certificate(
    root: CompositePrivateKey,
    *,
    key_version: int,
    public: bytes,
    not_before_ms: int,
    not_after_ms: int,
    country: str,
    name: str,
    revoked_below: int = 0,
    minimum_suite: int = SUITE,
) -> bytes:
    """A signed certificate, encoded. PolicyRefused for a name, country or span that no parser would take."""
    check_name(name)
    if not _COUNTRY.fullmatch(country):
        raise PolicyRefused("country_invalid", "a country is two capital letters, as MM or CN")
    if key_version < 1 or revoked_below > key_version or not_before_ms >= not_after_ms:
        raise PolicyRefused(
            "certificate_span_invalid", "key version, revocation or dates contradict each other"
        )
    body = _certificate_body(
        office=office_id(root.public_bytes),
        key_version=key_version,
        public=public,
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
        revoked_below=revoked_below,
        minimum_suite=minimum_suite,
        country=country,
        name=name,
    )
    return body + root.sign(labels.CERTIFICATE, body)


def encode_certificate(certificate: Certificate) -> bytes:
    """The one encoding, 5486 bytes."""
    return _body_of(certificate) + layout.fixed(certificate.signature, COMPOSITE_SIGNATURE_BYTES)


def parse_certificate_untrusted(data: bytes) -> Certificate:
    """Read a certificate of 5486 bytes; MalformedInput (``certificate_malformed``). Proves nothing."""
    reader = Reader(data, _CERTIFICATE_CODE)
    if len(data) != CERTIFICATE_BYTES:
        reader.fail(f"has {len(data)} bytes, expected {CERTIFICATE_BYTES}")
    reader.magic(_CERTIFICATE_MAGIC, _FORMAT)
    certificate = Certificate(
        office_id=reader.take(OFFICE_ID_BYTES),
        key_version=reader.u32(),
        public=reader.take(COMPOSITE_PUBLIC_BYTES),
        not_before_ms=reader.u64(),
        not_after_ms=reader.u64(),
        revoked_below=reader.u32(),
        minimum_suite=reader.u8(),
        country=reader.take(2).decode("latin-1"),
        name=reader.padded_text(NAME_BYTES_MAX),
        signature=reader.take(COMPOSITE_SIGNATURE_BYTES),
    )
    reader.end()
    if certificate.key_version < 1 or certificate.revoked_below > certificate.key_version:
        reader.fail("revokes itself or has key version 0")
    if certificate.not_before_ms >= certificate.not_after_ms:
        reader.fail("ends before it begins")
    if certificate.minimum_suite < 1:
        reader.fail("allows suite 0")
    if not _COUNTRY.fullmatch(certificate.country):
        reader.fail("has no country code")
    return certificate


def verify_certificate(certificate: Certificate, root_public: bytes) -> None:
    """Raise VerificationFailed unless the root key names this office, signed this, and O is a usable key."""
    check_root(root_public, certificate.office_id)
    composite_verify(root_public, labels.CERTIFICATE, _body_of(certificate), certificate.signature)
    check_composite_public(certificate.public)


# --- revocations: stand alone, may come by any channel ---

_REVOCATION_MAGIC: Final = b"SLWV"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """Root R's word that every key version below ``revoked_below`` is void since ``since_ms``."""

    office_id: bytes
    revoked_below: int
    since_ms: int
    reason: str  # 1 to 200 bytes of UTF-8
    signature: bytes


def _revocation_body(office: bytes, revoked_below: int, since_ms: int, reason: str) -> bytes:
    return b"".join(
        (
            _REVOCATION_MAGIC,
            layout.u8(_FORMAT),
            layout.fixed(office, OFFICE_ID_BYTES),
            layout.u32(revoked_below),
            layout.u64(since_ms),
            layout.text(reason, REASON_BYTES_MAX),
        )
    )


def issue_revocation(root: CompositePrivateKey, *, revoked_below: int, since_ms: int, reason: str) -> bytes:
    """A signed revocation, encoded. PolicyRefused for a reason that no parser would take."""
    fault = layout.text_fault(reason, REASON_BYTES_MAX)
    if fault is not None:
        raise PolicyRefused("reason_invalid", f"the reason {fault}")
    body = _revocation_body(office_id(root.public_bytes), revoked_below, since_ms, reason)
    return body + root.sign(labels.REVOCATION, body)


def encode_revocation(revocation: Revocation) -> bytes:
    """The one encoding."""
    body = _revocation_body(
        revocation.office_id, revocation.revoked_below, revocation.since_ms, revocation.reason
    )
    return body + layout.fixed(revocation.signature, COMPOSITE_SIGNATURE_BYTES)


def parse_revocation_untrusted(data: bytes) -> Revocation:
    """Read a revocation; MalformedInput (``revocation_malformed``). Proves nothing."""
    reader = Reader(data, "revocation_malformed")
    reader.magic(_REVOCATION_MAGIC, _FORMAT)
    revocation = Revocation(
        office_id=reader.take(OFFICE_ID_BYTES),
        revoked_below=reader.u32(),
        since_ms=reader.u64(),
        reason=reader.text(REASON_BYTES_MAX),
        signature=reader.take(COMPOSITE_SIGNATURE_BYTES),
    )
    reader.end()
    return revocation


def verify_revocation(revocation: Revocation, root_public: bytes) -> None:
    """Raise VerificationFailed unless the root key names this office and signed this."""
    check_root(root_public, revocation.office_id)
    body = _revocation_body(
        revocation.office_id, revocation.revoked_below, revocation.since_ms, revocation.reason
    )
    composite_verify(root_public, labels.REVOCATION, body, revocation.signature)


# --- officer lists: O says which Ed25519 keys write and release ---

_OFFICERS_MAGIC: Final = b"SLWO"


class Role(IntEnum):
    """What an officer key may do: officers write, supervisors also release."""

    OFFICER = 1
    SUPERVISOR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficerEntry:
    """One officer key. A new key of the same person is a new number."""

    number: int  # from 1, unique within the office for ever
    public: bytes  # Ed25519, 32 bytes
    role: Role
    alias: str  # what peers see, 1 to 64 bytes of UTF-8
    from_ms: int
    until_ms: int  # 0: still in use


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficerList:
    """All officer keys of an office at one list version, sorted by number."""

    office_id: bytes
    key_version: int  # of the O that signed
    list_version: int  # from 1; only grows
    issued_ms: int
    officers: tuple[OfficerEntry, ...]
    signature: bytes


def _officers_body(
    office: bytes, key_version: int, list_version: int, issued_ms: int, officers: tuple[OfficerEntry, ...]
) -> bytes:
    parts = [
        _OFFICERS_MAGIC,
        layout.u8(_FORMAT),
        layout.fixed(office, OFFICE_ID_BYTES),
        layout.u32(key_version),
        layout.u32(list_version),
        layout.u64(issued_ms),
        layout.u16(len(officers)),
    ]
    for officer in officers:
        parts += (
            layout.u32(officer.number),
            layout.fixed(officer.public, ED25519_PUBLIC_BYTES),
            layout.u8(officer.role),
            layout.text(officer.alias, NAME_BYTES_MAX),
            layout.u64(officer.from_ms),
            layout.u64(officer.until_ms),
        )
    return b"".join(parts)


def sign_officer_list(
    operational: CompositePrivateKey,
    *,
    office: bytes,
    key_version: int,
    list_version: int,
    issued_ms: int,
    officers: tuple[OfficerEntry, ...],
) -> bytes:
    """A signed officer list, encoded; ``officers`` in any order. PolicyRefused: too many, or a bad alias."""
    if len(officers) > OFFICERS_MAX:
        raise PolicyRefused("officers_too_many", f"an office has at most {OFFICERS_MAX} officer keys")
    if len({officer.number for officer in officers}) != len(officers):
        raise PolicyRefused("officer_number_twice", "two officers have the same number")
    for officer in officers:
        check_name(officer.alias)
    in_order = tuple(sorted(officers, key=lambda officer: officer.number))
    body = _officers_body(office, key_version, list_version, issued_ms, in_order)
    return body + operational.sign(labels.OFFICER_LIST, body)


def encode_officer_list(listed: OfficerList) -> bytes:
    """The one encoding, at most 34 KB."""
    body = _officers_body(
        listed.office_id, listed.key_version, listed.list_version, listed.issued_ms, listed.officers
    )
    return body + layout.fixed(listed.signature, COMPOSITE_SIGNATURE_BYTES)


def parse_officer_list_untrusted(data: bytes) -> OfficerList:
    """Read an officer list; MalformedInput (``officer_list_malformed``). Proves nothing."""
    reader = Reader(data, "officer_list_malformed")
    reader.magic(_OFFICERS_MAGIC, _FORMAT)
    office = reader.take(OFFICE_ID_BYTES)
    key_version, list_version, issued_ms = reader.u32(), reader.u32(), reader.u64()
    if key_version < 1 or list_version < 1:
        reader.fail("has version 0")
    count = reader.u16()
    if count > OFFICERS_MAX:
        reader.fail(f"names {count} officers, allowed are {OFFICERS_MAX}")
    officers = tuple(_read_officer(reader) for _ in range(count))
    numbers = [officer.number for officer in officers]
    if numbers != sorted(set(numbers)):
        reader.fail("is not in the order of officer numbers")
    signature = reader.take(COMPOSITE_SIGNATURE_BYTES)
    reader.end()
    return OfficerList(
        office_id=office,
        key_version=key_version,
        list_version=list_version,
        issued_ms=issued_ms,
        officers=officers,
        signature=signature,
    )


def _read_officer(reader: Reader) -> OfficerEntry:
    number, public, role = reader.u32(), reader.take(ED25519_PUBLIC_BYTES), reader.u8()
    if role not in (Role.OFFICER, Role.SUPERVISOR):
        reader.fail(f"names an unknown role {role}")
    officer = OfficerEntry(
        number=number,
        public=public,
        role=Role(role),
        alias=reader.text(NAME_BYTES_MAX),
        from_ms=reader.u64(),
        until_ms=reader.u64(),
    )
    if number < 1 or (officer.until_ms and officer.until_ms < officer.from_ms):
        reader.fail("holds an officer with number 0 or an end before the beginning")
    return officer


def verify_officer_list(listed: OfficerList, certificate: Certificate) -> None:
    """Raise VerificationFailed unless the certified O signed this list and every officer key is usable.

    The certificate itself must already be verified.
    """
    if listed.office_id != certificate.office_id or listed.key_version != certificate.key_version:
        raise VerificationFailed(
            "officer_list_foreign", "an officer list names another office or key version"
        )
    body = _officers_body(
        listed.office_id, listed.key_version, listed.list_version, listed.issued_ms, listed.officers
    )
    composite_verify(certificate.public, labels.OFFICER_LIST, body, listed.signature)
    for officer in listed.officers:
        check_ed25519_public(officer.public)


# --- brokers: the address pins the card, the card pins the keys and TLS ---

_BROKER_MAGIC: Final = b"SLWB"
_ADDRESS: Final = re.compile(
    r"salween://(?P<host>\[[0-9a-f:]{2,39}\]|[a-z0-9.-]{1,253}):(?P<port>[1-9][0-9]{0,4})#(?P<card>[a-z2-7]{52})"
)
_HOST_LABEL: Final = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
BROKER_CARD_BYTES_MAX: Final = 2 * 1024
ADDRESS_CHARACTERS_MAX: Final = 330


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where a broker listens and the card it must show: ``salween://host:port#<base32 SHA-256 of card>``."""

    host: str  # lower-case name, IPv4, or IPv6 without brackets
    port: int
    card_sha256: bytes

    @property
    def is_loopback(self) -> bool:
        """Whether the host can only be this machine; elsewhere a broker without TLS is refused."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"salween://{host}:{self.port}#{fingerprint_text(self.card_sha256)}"


def fingerprint_text(digest: bytes) -> str:
    """32 bytes as 52 letters of lower-case base32 without padding."""
    return layout.base32(digest)


def check_host(host: str) -> None:
    """Raise MalformedInput (``broker_address_malformed``) unless ``host`` is in BrokerAddress's one form."""
    code = "broker_address_malformed"
    if ":" in host or host.rpartition(".")[2].isdigit():
        try:
            canonical = str(ipaddress.ip_address(host))
        except ValueError as error:
            raise MalformedInput(code, "the host is not a valid IP address") from error
        if canonical != host:
            raise MalformedInput(code, f"the host is not written as {canonical}")
        return
    if len(host) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in host.split(".")):
        raise MalformedInput(code, "the host is not a valid name in lower case")


def parse_broker_address_untrusted(text: str) -> BrokerAddress:
    """Read ``salween://host:port#fingerprint``, nothing else. MalformedInput ``broker_address_malformed``."""
    code = "broker_address_malformed"
    if len(text) > ADDRESS_CHARACTERS_MAX:
        raise MalformedInput(code, "the address is too long")
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise MalformedInput(code, "a broker address is salween://host:port#fingerprint, all in lower case")
    host, port = found["host"].strip("[]"), int(found["port"])
    if found["host"].startswith("[") != (":" in host):
        raise MalformedInput(code, "only an IPv6 address stands in brackets")
    check_host(host)
    if port > 65535:
        raise MalformedInput(code, "the port is larger than 65535")
    digest = layout.base32_bytes(found["card"])
    if digest is None:
        raise MalformedInput(code, "the fingerprint is not written in its one form")
    return BrokerAddress(host=host, port=port, card_sha256=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerCard:
    """A broker's public identity. Not signed: the address names its SHA-256."""

    name: str  # what operators call the network, 1 to 64 bytes of UTF-8
    request_public: bytes  # X-Wing, 1216 bytes: requests are encapsulated to it
    custody_public: bytes  # Ed25519: custody notes and grants
    log_origin: str  # origin line of the broker's log
    log_public: bytes  # Ed25519
    tls_certificate_sha256: bytes  # of the DER certificate; zeros: plain HTTP, loopback only


def encode_broker_card(card: BrokerCard) -> bytes:
    """The one encoding, at most 2 KiB."""
    return b"".join(
        (
            _BROKER_MAGIC,
            layout.u8(_FORMAT),
            layout.fixed(card.request_public, XWING_PUBLIC_BYTES),
            layout.fixed(card.custody_public, ED25519_PUBLIC_BYTES),
            layout.fixed(card.log_public, ED25519_PUBLIC_BYTES),
            layout.fixed(card.tls_certificate_sha256, HASH_BYTES),
            layout.ascii_text(card.log_origin, ORIGIN_BYTES_MAX),
            layout.text(card.name, NAME_BYTES_MAX),
        )
    )


def parse_broker_card_untrusted(data: bytes) -> BrokerCard:
    """Read a broker card; MalformedInput (``broker_card_malformed``). Proves nothing."""
    reader = Reader(data, "broker_card_malformed")
    reader.magic(_BROKER_MAGIC, _FORMAT)
    card = BrokerCard(
        request_public=reader.take(XWING_PUBLIC_BYTES),
        custody_public=reader.take(ED25519_PUBLIC_BYTES),
        log_public=reader.take(ED25519_PUBLIC_BYTES),
        tls_certificate_sha256=reader.take(HASH_BYTES),
        log_origin=reader.ascii(ORIGIN_BYTES_MAX),
        name=reader.text(NAME_BYTES_MAX),
    )
    reader.end()
    return card


def broker_card_fingerprint(card: BrokerCard) -> bytes:
    """The 32 bytes that an address carries for this card."""
    return sha256(encode_broker_card(card))


def verify_broker_card(card: BrokerCard, address: BrokerAddress) -> None:
    """Raise VerificationFailed unless ``address`` names exactly this card and its keys are usable."""
    if not constant_time_equal(broker_card_fingerprint(card), address.card_sha256):
        raise VerificationFailed("broker_card_mismatch", "the broker's card is not the one its address names")
    check_ed25519_public(card.custody_public)
    check_ed25519_public(card.log_public)


# --- the pairing bundle: all that a peer needs in order to deliver ---

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
