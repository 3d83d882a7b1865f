"""How what we know of a peer may change: certificates never back, revocations only up, the unknown waits."""

import contextlib
import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.bundle import SignedBundle, parse_signed_bundle_untrusted, sign_bundle
from keys.card import (
    Certificate,
    OfficerList,
    Role,
    issue_certificate,
    issue_revocation,
    parse_certificate_untrusted,
    parse_officer_list_untrusted,
    parse_revocation_untrusted,
)
from keys.errors import (
    BrokenInvariant,
    MalformedInput,
    PolicyRefused,
    SalweenError,
    Unavailable,
    VerificationFailed,
)
from keys.trust import (
    CERTIFICATES_KEPT_MAX,
    OFFICER_LISTS_KEPT_MAX,
    PairState,
    TrustedPeer,
    accept_certificate,
    accept_officer_list,
    activate,
    apply_revocation,
    check_active,
    check_suite,
    encode_trusted_peer,
    key_for_version,
    officer_key,
    parse_trusted_peer_untrusted,
    pin_bundle,
    resume_after_reset,
    with_floor,
)
from tests.keys.builders import MALLORY, MYITKYINA, NOW_MS, TENGCHONG, YEAR_MS, Office, composite, drawn
from tests.keys.mutations import near

LATER_MS = NOW_MS + 1000


def a_bundle(office: Office = MYITKYINA) -> SignedBundle:
    return parse_signed_bundle_untrusted(
        sign_bundle(office.operational, office.bundle(), own_nonce=drawn("nonce", 32))
    )


def a_certificate(key_version: int, *, revoked_below: int = 0, office: Office = MYITKYINA) -> Certificate:
    operational = office.operational if key_version == 1 else composite(f"{office.name} O {key_version}")
    return parse_certificate_untrusted(
        office.certificate_bytes(
            key_version=key_version, operational=operational, revoked_below=revoked_below
        )
    )


def an_officer_list(list_version: int, *, officers: int = 2, key_version: int = 1) -> OfficerList:
    signer = MYITKYINA.operational if key_version == 1 else composite(f"{MYITKYINA.name} O {key_version}")
    office = replace(MYITKYINA, operational=signer)
    return parse_officer_list_untrusted(
        office.officer_list_bytes(list_version=list_version, officers=officers, key_version=key_version)
    )


def a_revocation(revoked_below: int) -> bytes:
    return issue_revocation(
        MYITKYINA.root, revoked_below=revoked_below, since_ms=NOW_MS, reason="node stolen"
    )


PINNED = pin_bundle(a_bundle(), NOW_MS)
ACTIVE = activate(PINNED, NOW_MS)


def test_a_pinned_peer_is_half_until_it_confirms() -> None:
    """Half pairs show and send nothing."""
    assert (PINNED.state, PINNED.office_id) == (PairState.HALF, MYITKYINA.id)
    with pytest.raises(PolicyRefused, match="pair_half"):
        check_active(PINNED)
    assert ACTIVE.state is PairState.ACTIVE
    check_active(ACTIVE)
    assert activate(ACTIVE, LATER_MS) == ACTIVE


def test_messages_verify_under_the_version_they_name() -> None:
    """Also under an older one when a newer is known; an unknown one waits."""
    peer = accept_certificate(ACTIVE, a_certificate(2), LATER_MS)
    assert key_for_version(peer, 1) == MYITKYINA.operational.public_bytes
    assert key_for_version(peer, 2) == a_certificate(2).public
    assert peer.certificate.key_version == 2
    with pytest.raises(Unavailable, match="pending_card"):
        key_for_version(peer, 3)


def test_a_late_certificate_never_becomes_the_current_one() -> None:
    """Certificates do not go back, in whatever order they arrive."""
    versions = [a_certificate(version) for version in (1, 2, 3)]
    for order in itertools.permutations(versions):
        peer = ACTIVE
        newest = 1
        for certificate in order:
            peer = accept_certificate(peer, certificate, LATER_MS)
            newest = max(newest, certificate.key_version)
            assert peer.certificate.key_version == newest
        assert [known.key_version for known in peer.certificates] == [1, 2, 3]


def test_a_second_certificate_for_a_known_version_is_refused() -> None:
    """The same content signed again is the same certificate; another key or name is not."""
    again = a_certificate(1)
    assert again.signature != ACTIVE.certificate.signature
    assert accept_certificate(ACTIVE, again, LATER_MS) == ACTIVE
    other = parse_certificate_untrusted(MYITKYINA.certificate_bytes(operational=composite("swapped")))
    with pytest.raises(VerificationFailed, match="certificate_conflict"):
        accept_certificate(ACTIVE, other, LATER_MS)


def test_another_root_is_never_accepted() -> None:
    """Not even for an office that claims the same name."""
    with pytest.raises(VerificationFailed, match="office_id_mismatch"):
        accept_certificate(ACTIVE, a_certificate(2, office=MALLORY), LATER_MS)


@pytest.mark.parametrize("channel", ["revocation", "certificate"])
def test_a_revocation_drops_and_suspends(channel: str) -> None:
    """Keys and officer lists under revoked versions are gone; the pair waits for a reset from a higher."""
    if channel == "revocation":
        revoked = apply_revocation(ACTIVE, parse_revocation_untrusted(a_revocation(2)), LATER_MS)
        with pytest.raises(Unavailable, match="pending_card"):
            _ = revoked.certificate
        peer = accept_certificate(revoked, a_certificate(2), LATER_MS)
    else:
        peer = accept_certificate(ACTIVE, a_certificate(2, revoked_below=2), LATER_MS)
    assert (peer.state, peer.since_ms, peer.revoked_below) == (PairState.SUSPENDED, LATER_MS, 2)
    assert peer.officer_lists == ()
    with pytest.raises(PolicyRefused, match="pair_suspended"):
        check_active(peer)
    with pytest.raises(PolicyRefused, match="pair_suspended"):
        activate(peer, LATER_MS)
    with pytest.raises(VerificationFailed, match="key_version_revoked"):
        key_for_version(peer, 1)
    with pytest.raises(VerificationFailed, match="key_version_revoked"):
        accept_certificate(peer, a_certificate(1), LATER_MS)
    with pytest.raises(VerificationFailed, match="key_version_revoked"):
        resume_after_reset(peer, 1, LATER_MS)
    with pytest.raises(Unavailable, match="pending_card"):
        resume_after_reset(peer, 3, LATER_MS)
    resumed = resume_after_reset(peer, 2, LATER_MS + 1)
    assert resumed.state is PairState.ACTIVE
    assert resume_after_reset(resumed, 2, LATER_MS + 2) == resumed


def test_revocations_only_grow() -> None:
    """A weaker one later, or one of a version not in use, changes nothing that matters."""
    peer = accept_certificate(ACTIVE, a_certificate(3), LATER_MS)
    peer = apply_revocation(peer, parse_revocation_untrusted(a_revocation(3)), LATER_MS)
    assert (peer.state, peer.revoked_below) == (PairState.ACTIVE, 3)
    weaker = apply_revocation(peer, parse_revocation_untrusted(a_revocation(2)), LATER_MS + 1)
    assert weaker == peer


def test_a_revocation_by_anyone_else_is_refused() -> None:
    """It comes from any channel, so it must stand on its own signature."""
    foreign = parse_revocation_untrusted(
        issue_revocation(MALLORY.root, revoked_below=9, since_ms=NOW_MS, reason="x")
    )
    with pytest.raises(VerificationFailed, match="office_id_mismatch"):
        apply_revocation(ACTIVE, foreign, LATER_MS)
    with pytest.raises(VerificationFailed, match="signature_invalid"):
        apply_revocation(ACTIVE, replace(foreign, office_id=MYITKYINA.id), LATER_MS)


def test_officer_lists_are_kept_by_version() -> None:
    """An alert names its list; lists may arrive in any order and an unknown one waits."""
    peer = accept_officer_list(ACTIVE, an_officer_list(3, officers=3))
    peer = accept_officer_list(peer, an_officer_list(2, officers=1))
    assert [known.list_version for known in peer.officer_lists] == [1, 2, 3]
    assert officer_key(peer, 1, 1).role is Role.SUPERVISOR
    assert officer_key(peer, 3, 3).alias == "Officer 3"
    with pytest.raises(VerificationFailed, match="officer_unknown"):
        officer_key(peer, 2, 2)
    with pytest.raises(Unavailable, match="pending_officer_list"):
        officer_key(peer, 4, 1)


def test_a_second_list_of_a_known_version_is_refused() -> None:
    """Unless it names the same officers: then the one under the newer key stays."""
    assert accept_officer_list(ACTIVE, an_officer_list(1)) == ACTIVE
    with pytest.raises(VerificationFailed, match="officer_list_conflict"):
        accept_officer_list(ACTIVE, an_officer_list(1, officers=3))
    with pytest.raises(Unavailable, match="pending_card"):
        accept_officer_list(ACTIVE, an_officer_list(1, key_version=2))
    renewed = accept_certificate(ACTIVE, a_certificate(2), LATER_MS)
    renewed = accept_officer_list(renewed, an_officer_list(1, key_version=2))
    assert [known.key_version for known in renewed.officer_lists] == [2]
    assert accept_officer_list(renewed, an_officer_list(1)) == renewed


def test_a_peer_cannot_make_us_keep_lists_without_end() -> None:
    """The newest lists are kept; an alert under a forgotten one is refused instead of waiting for ever."""
    peer = pin_bundle(a_bundle(), NOW_MS)
    for version in range(2, OFFICER_LISTS_KEPT_MAX + 5):
        peer = accept_officer_list(peer, an_officer_list(version))
    assert [known.list_version for known in peer.officer_lists] == list(range(5, OFFICER_LISTS_KEPT_MAX + 5))
    assert accept_officer_list(peer, an_officer_list(3)) is peer
    with pytest.raises(VerificationFailed, match="officer_unknown"):
        officer_key(peer, 3, 1)
    with pytest.raises(Unavailable, match="pending_officer_list"):
        officer_key(peer, OFFICER_LISTS_KEPT_MAX + 5, 1)


def test_a_peer_cannot_make_us_keep_certificates_without_end() -> None:
    """A root may issue certificates for ever; the newest are kept and the newest of all stays in use."""
    peer = pin_bundle(a_bundle(), NOW_MS)
    for version in range(2, CERTIFICATES_KEPT_MAX + 3):
        peer = accept_certificate(peer, a_certificate(version), NOW_MS)
    assert len(peer.certificates) == CERTIFICATES_KEPT_MAX
    assert peer.certificate.key_version == CERTIFICATES_KEPT_MAX + 2
    late = accept_certificate(peer, a_certificate(1), NOW_MS)
    assert late.certificates == peer.certificates


def test_an_officer_list_under_a_revoked_key_is_refused() -> None:
    """Whoever holds the stolen key cannot appoint officers."""
    peer = accept_certificate(ACTIVE, a_certificate(2, revoked_below=2), LATER_MS)
    with pytest.raises(VerificationFailed, match="key_version_revoked"):
        accept_officer_list(peer, an_officer_list(2))


def test_the_minimum_suite_only_rises() -> None:
    """A certificate may raise it; nothing lowers it again."""
    raised = parse_certificate_untrusted(
        issue_certificate(
            MYITKYINA.root,
            key_version=2,
            public=composite("O2").public_bytes,
            not_before_ms=NOW_MS,
            not_after_ms=NOW_MS + YEAR_MS,
            country="MM",
            name="Myitkyina BLO",
            minimum_suite=2,
        )
    )
    check_suite(ACTIVE, 1)
    peer = accept_certificate(ACTIVE, raised, LATER_MS)
    peer = accept_certificate(peer, a_certificate(3), LATER_MS)
    assert peer.minimum_suite == 2
    with pytest.raises(VerificationFailed, match="suite_below_minimum"):
        check_suite(peer, 1)


def test_a_second_pairing_keeps_what_was_revoked() -> None:
    """Pairing again cannot bring a revoked key or a lower suite back, and begins half again."""
    revoked = apply_revocation(ACTIVE, parse_revocation_untrusted(a_revocation(2)), LATER_MS)
    with pytest.raises(VerificationFailed, match="key_version_revoked"):
        pin_bundle(a_bundle(), LATER_MS, revoked)
    again = pin_bundle(a_bundle(), LATER_MS, ACTIVE)
    assert (again.state, again.certificates) == (PairState.HALF, ACTIVE.certificates)
    assert pin_bundle(a_bundle(), LATER_MS, replace(ACTIVE, minimum_suite=2)).minimum_suite == 2
    newer = accept_certificate(ACTIVE, a_certificate(2), LATER_MS)
    with pytest.raises(VerificationFailed, match="certificate_went_back"):
        pin_bundle(a_bundle(), LATER_MS, newer)
    with pytest.raises(BrokenInvariant, match="peer_mixed_up"):
        pin_bundle(a_bundle(TENGCHONG), LATER_MS, ACTIVE)


def test_what_is_pinned_stands_under_a_revocation_known_from_before() -> None:
    """A floor met while the office was a stranger: its old key is refused, a new one keeps the floor."""
    with pytest.raises(VerificationFailed, match="key_version_revoked"):
        with_floor(ACTIVE, 2)
    newer = with_floor(accept_certificate(ACTIVE, a_certificate(2), LATER_MS), 2)
    assert (newer.state, newer.revoked_below) == (ACTIVE.state, 2)
    assert [known.key_version for known in newer.certificates] == [2]
    assert with_floor(newer, 1).revoked_below == 2


def test_a_second_pairing_under_a_new_key_ends_the_suspension() -> None:
    """A restored office comes back with a higher version that revokes the lost one."""
    operational = composite(f"{MYITKYINA.name} O 2")
    bundle = replace(
        MYITKYINA.bundle(),
        certificate=a_certificate(2, revoked_below=2),
        officers=an_officer_list(2, key_version=2),
    )
    data = sign_bundle(operational, bundle, own_nonce=drawn("nonce", 32))
    again = pin_bundle(parse_signed_bundle_untrusted(data), LATER_MS, ACTIVE)
    assert again.state is PairState.HALF
    assert [known.key_version for known in again.certificates] == [2]
    check_active(activate(again, LATER_MS))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("certificate"), st.integers(1, 4), st.integers(0, 4)),
        st.tuples(st.just("revocation"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("officers"), st.integers(1, 3), st.integers(1, 3)),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_nothing_that_only_grows_ever_shrinks(steps: list[tuple[str, int, int]]) -> None:
    """Over any sequence of true documents: revocations and versions only rise, revoked keys never verify."""
    peer: TrustedPeer = ACTIVE
    for kind, first, second in steps:
        before = peer
        with contextlib.suppress(SalweenError):
            match kind:
                case "certificate":
                    peer = accept_certificate(
                        peer, a_certificate(first, revoked_below=min(first, second)), LATER_MS
                    )
                case "revocation":
                    peer = apply_revocation(peer, parse_revocation_untrusted(a_revocation(first)), LATER_MS)
                case _:
                    peer = accept_officer_list(peer, an_officer_list(first, key_version=second))
        assert peer.revoked_below >= before.revoked_below
        assert peer.root_public == before.root_public
        assert all(known.key_version >= peer.revoked_below for known in peer.certificates)
        assert all(known.key_version >= peer.revoked_below for known in peer.officer_lists)
        assert parse_trusted_peer_untrusted(encode_trusted_peer(peer)) == peer


STORED = encode_trusted_peer(
    accept_officer_list(accept_certificate(ACTIVE, a_certificate(2), LATER_MS), an_officer_list(2))
)


@settings(max_examples=300)
@given(near(STORED))
def test_a_stored_peer_is_read_in_its_one_encoding(data: bytes) -> None:
    """Or refused as malformed."""
    with contextlib.suppress(MalformedInput):
        assert encode_trusted_peer(parse_trusted_peer_untrusted(data)) == data


def test_a_stored_peer_with_versions_out_of_order_is_refused() -> None:
    """The newest certificate is the last one; nothing may upset that."""
    peer = parse_trusted_peer_untrusted(STORED)
    for wrong in (
        replace(peer, certificates=peer.certificates[::-1]),
        replace(peer, officer_lists=peer.officer_lists * 2),
    ):
        with pytest.raises(MalformedInput, match="trusted_peer_malformed"):
            parse_trusted_peer_untrusted(encode_trusted_peer(wrong))
