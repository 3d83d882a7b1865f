"""What offices show of themselves: certificates, officer lists, revocations.

Spec: docs/spec/keys.md. Every document is a value with one encoding; ``parse_*_untrusted`` gives the value
and proves nothing, ``verify_*`` proves it against a key the caller already trusts. Nothing here decides whom
to trust or remembers anything: that is ``keys.trust``.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from keys import labels, layout
from keys.errors import PolicyRefused, VerificationFailed
from keys.layout import Reader
from keys.primitives import (
    COMPOSITE_PUBLIC_BYTES,
    COMPOSITE_SIGNATURE_BYTES,
    ED25519_PUBLIC_BYTES,
    HASH_BYTES,
    CompositePrivateKey,
    check_composite_public,
    check_ed25519_public,
    composite_verify,
    constant_time_equal,
    labelled_hash,
)

SUITE: Final = 0x01

OFFICE_ID_BYTES: Final = HASH_BYTES
NAME_BYTES_MAX: Final = 64
ORIGIN_BYTES_MAX: Final = 128
OFFICERS_MAX: Final = 256
OFFICER_LIST_BYTES_MAX: Final = 36 * 1024  # 256 officers with the longest aliases, and the signature
REASON_BYTES_MAX: Final = 200

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
