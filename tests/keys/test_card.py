"""Certificates, officer lists, revocations; of every document, cards and bundles too, its one form."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.brokercard import (
    encode_broker_card,
    parse_broker_card_untrusted,
    verify_broker_card,
)
from keys.bundle import (
    encode_signed_bundle,
    parse_signed_bundle_untrusted,
    sign_bundle,
    verify_signed_bundle,
)
from keys.card import (
    CERTIFICATE_BYTES,
    OfficerEntry,
    Role,
    encode_certificate,
    encode_officer_list,
    encode_revocation,
    issue_certificate,
    issue_revocation,
    office_id,
    parse_certificate_untrusted,
    parse_officer_list_untrusted,
    parse_revocation_untrusted,
    safety_number,
    sign_officer_list,
    verify_certificate,
    verify_officer_list,
    verify_revocation,
)
from keys.errors import MalformedInput, PolicyRefused, VerificationFailed
from tests.keys.builders import (
    MALLORY,
    MYITKYINA,
    NOW_MS,
    TENGCHONG,
    YEAR_MS,
    a_broker_address,
    a_broker_card,
    composite,
    drawn,
    ed25519,
)
from tests.keys.mutations import near

CERTIFICATE = MYITKYINA.certificate_bytes()
OFFICERS = MYITKYINA.officer_list_bytes()
REVOCATION = issue_revocation(MYITKYINA.root, revoked_below=2, since_ms=NOW_MS, reason="node stolen")
CARD = encode_broker_card(a_broker_card())
BUNDLE = sign_bundle(MYITKYINA.operational, MYITKYINA.bundle(), own_nonce=drawn("nonce", 32))

# name, a good encoding, its parser, its encoder, the codes it may give
DOCUMENTS: list[tuple[str, bytes, Callable[[bytes], Any], Callable[[Any], bytes], set[str]]] = [
    (
        "certificate",
        CERTIFICATE,
        parse_certificate_untrusted,
        encode_certificate,
        {"certificate_malformed"},
    ),
    (
        "officer list",
        OFFICERS,
        parse_officer_list_untrusted,
        encode_officer_list,
        {"officer_list_malformed"},
    ),
    ("revocation", REVOCATION, parse_revocation_untrusted, encode_revocation, {"revocation_malformed"}),
    ("broker card", CARD, parse_broker_card_untrusted, encode_broker_card, {"broker_card_malformed"}),
    (
        "bundle",
        BUNDLE,
        parse_signed_bundle_untrusted,
        encode_signed_bundle,
        {
            "bundle_malformed",
            "certificate_malformed",
            "officer_list_malformed",
            "broker_card_malformed",
            "broker_address_malformed",
        },
    ),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document[0])
@settings(max_examples=300)
@given(data=st.data())
def test_every_parser_refuses_or_reads_the_one_encoding(document: Any, data: st.DataObject) -> None:
    """Hostile bytes give MalformedInput with a listed code, or a value that encodes to these very bytes."""
    _, good, parse, encode, codes = document
    assert encode(parse(good)) == good
    hostile = data.draw(near(good))
    try:
        again, code = encode(parse(hostile)), None
    except MalformedInput as error:
        again, code = hostile, error.code
    assert again == hostile
    assert code is None or code in codes


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document[0])
def test_every_parser_refuses_every_truncation(document: Any) -> None:
    """No prefix of a document is a document."""
    _, good, parse, _, codes = document
    for size in range(0, len(good), max(1, len(good) // 400)):
        with pytest.raises(MalformedInput) as caught:
            parse(good[:size])
        assert caught.value.code in codes


def _verify_all(name: str, data: bytes) -> None:
    root, certificate = MYITKYINA.root.public_bytes, parse_certificate_untrusted(CERTIFICATE)
    match name:
        case "certificate":
            verify_certificate(parse_certificate_untrusted(data), root)
        case "officer list":
            verify_officer_list(parse_officer_list_untrusted(data), certificate)
        case "revocation":
            verify_revocation(parse_revocation_untrusted(data), root)
        case "broker card":
            verify_broker_card(parse_broker_card_untrusted(data), a_broker_address())
        case "bundle":
            verify_signed_bundle(parse_signed_bundle_untrusted(data))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document[0])
def test_a_flipped_bit_anywhere_is_noticed(document: Any) -> None:
    """Whichever field it hits: malformed, or not verified; never accepted."""
    name, good = document[0], document[1]
    _verify_all(name, good)
    for at in range(0, len(good), max(1, len(good) // 150)):
        flipped = good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :]
        with pytest.raises((MalformedInput, VerificationFailed)):
            _verify_all(name, flipped)


# --- certificates ---


def test_a_certificate_has_one_size_and_says_what_was_signed() -> None:
    """5486 bytes: small enough for a card message of 8 KiB."""
    assert len(CERTIFICATE) == CERTIFICATE_BYTES == 5486
    read = parse_certificate_untrusted(CERTIFICATE)
    assert (read.name, read.country, read.key_version) == ("Myitkyina BLO", "MM", 1)
    assert read.office_id == office_id(MYITKYINA.root.public_bytes)
    assert read.public == MYITKYINA.operational.public_bytes


def test_a_certificate_of_another_root_is_refused() -> None:
    """Both when the root does not match the office and when the office is claimed by a foreign root."""
    certificate = parse_certificate_untrusted(CERTIFICATE)
    with pytest.raises(VerificationFailed, match="office_id_mismatch"):
        verify_certificate(certificate, MALLORY.root.public_bytes)
    forged = replace(
        parse_certificate_untrusted(MALLORY.certificate_bytes()), office_id=certificate.office_id
    )
    with pytest.raises(VerificationFailed, match="signature_invalid"):
        verify_certificate(forged, MYITKYINA.root.public_bytes)


def test_a_certificate_for_an_unusable_key_is_refused() -> None:
    """Even when the root signed it."""
    data = issue_certificate(
        MYITKYINA.root,
        key_version=1,
        public=MYITKYINA.operational.public_bytes[:1952] + bytes(32),
        not_before_ms=0,
        not_after_ms=1,
        country="MM",
        name="x",
    )
    with pytest.raises(VerificationFailed, match="public_key_invalid"):
        verify_certificate(parse_certificate_untrusted(data), MYITKYINA.root.public_bytes)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": "two\nlines"}, "name_invalid"),
        ({"name": "x" * 65}, "name_invalid"),
        ({"country": "mm"}, "country_invalid"),
        ({"country": "MMR"}, "country_invalid"),
        ({"country": "MM\n"}, "country_invalid"),
        ({"key_version": 0}, "certificate_span_invalid"),
        ({"revoked_below": 2}, "certificate_span_invalid"),
        ({"not_after_ms": NOW_MS}, "certificate_span_invalid"),
    ],
)
def test_a_certificate_no_peer_would_read_is_not_issued(change: dict[str, Any], code: str) -> None:
    """The office hears of it at set-up, not from its peers."""
    good: dict[str, Any] = {
        "key_version": 1,
        "public": MYITKYINA.operational.public_bytes,
        "not_before_ms": NOW_MS,
        "not_after_ms": NOW_MS + YEAR_MS,
        "country": "MM",
        "name": "Myitkyina BLO",
    }
    with pytest.raises(PolicyRefused, match=code):
        issue_certificate(MYITKYINA.root, **{**good, **change})


# --- officer lists ---


def test_an_officer_list_is_bound_to_office_and_key_version() -> None:
    """A list signed by another office, or read under another certificate, is refused."""
    listed = parse_officer_list_untrusted(OFFICERS)
    foreign = parse_certificate_untrusted(TENGCHONG.certificate_bytes())
    newer = parse_certificate_untrusted(MYITKYINA.certificate_bytes(key_version=2))
    for certificate in (foreign, newer):
        with pytest.raises(VerificationFailed, match="officer_list_foreign"):
            verify_officer_list(listed, certificate)
    with pytest.raises(VerificationFailed, match="signature_invalid"):
        verify_officer_list(replace(listed, office_id=foreign.office_id), foreign)


def an_officer(number: int, **changes: Any) -> OfficerEntry:
    """One officer with a usable key."""
    fields: dict[str, Any] = {
        "number": number,
        "public": ed25519(f"officer {number}").public_bytes,
        "role": Role.OFFICER,
        "alias": f"Officer {number}",
        "from_ms": NOW_MS,
        "until_ms": 0,
    }
    return OfficerEntry(**{**fields, **changes})


def _listed(*officers: OfficerEntry) -> bytes:
    return sign_officer_list(
        MYITKYINA.operational,
        office=MYITKYINA.id,
        key_version=1,
        list_version=1,
        issued_ms=NOW_MS,
        officers=officers,
    )


def test_officers_are_sorted_when_signed_and_must_be_when_read() -> None:
    """One list, one encoding: a list in another order, or with a number twice, is malformed."""
    sorted_list, shuffled = _listed(an_officer(1), an_officer(2)), _listed(an_officer(2), an_officer(1))
    body = slice(None, -3373)
    assert sorted_list[body] == shuffled[body]
    listed = parse_officer_list_untrusted(sorted_list)
    for order in (listed.officers[::-1], (listed.officers[0], listed.officers[0])):
        with pytest.raises(MalformedInput, match="order of officer numbers"):
            parse_officer_list_untrusted(encode_officer_list(replace(listed, officers=order)))


def test_an_officer_list_no_peer_would_read_is_not_signed() -> None:
    """Two officers under one number, too many officers, an alias that could mislead."""
    with pytest.raises(PolicyRefused, match="officer_number_twice"):
        _listed(an_officer(1), an_officer(1, alias="Other"))
    with pytest.raises(PolicyRefused, match="officers_too_many"):
        _listed(*(an_officer(number, public=bytes(32)) for number in range(1, 258)))
    with pytest.raises(PolicyRefused, match="name_invalid"):
        _listed(an_officer(1, alias="\u202eevil"))


def test_an_officer_key_that_signs_for_anyone_is_refused() -> None:
    """Operational key or not: a point of small order is no officer."""
    listed = parse_officer_list_untrusted(_listed(an_officer(1, public=b"\x01" + bytes(31))))
    with pytest.raises(VerificationFailed, match="public_key_invalid"):
        verify_officer_list(listed, parse_certificate_untrusted(CERTIFICATE))


@pytest.mark.parametrize("officer", [an_officer(0), an_officer(1, until_ms=NOW_MS - 1)])
def test_an_officer_with_impossible_fields_is_malformed(officer: OfficerEntry) -> None:
    """Number 0, or an end before the beginning."""
    with pytest.raises(MalformedInput, match="number 0 or an end"):
        parse_officer_list_untrusted(_listed(officer))


# --- revocations ---


def test_a_revocation_is_the_roots_word_alone() -> None:
    """The operational key, or another root, cannot revoke."""
    for forger in (MYITKYINA.operational, MALLORY.root):
        forged = replace(
            parse_revocation_untrusted(
                issue_revocation(forger, revoked_below=9, since_ms=NOW_MS, reason="x")
            ),
            office_id=MYITKYINA.id,
        )
        with pytest.raises(VerificationFailed, match="signature_invalid"):
            verify_revocation(forged, MYITKYINA.root.public_bytes)
    with pytest.raises(PolicyRefused, match="reason_invalid"):
        issue_revocation(MYITKYINA.root, revoked_below=2, since_ms=NOW_MS, reason="")


# --- the safety number ---


def test_a_safety_number_is_the_same_on_both_sides() -> None:
    """60 digits in groups of five; another root gives another number."""
    number = safety_number(MYITKYINA.id, TENGCHONG.id)
    assert number == safety_number(TENGCHONG.id, MYITKYINA.id)
    groups = number.split(" ")
    assert len(groups) == 12
    assert all(len(group) == 5 and group.isdigit() for group in groups)
    assert number != safety_number(MYITKYINA.id, MALLORY.id)
    assert number != safety_number(composite("new root").public_bytes[:32], TENGCHONG.id)
