"""What we know of one peer, and the only ways in which that may change.

Spec: docs/spec/keys.md#trust. A ``TrustedPeer`` is a value; every rule takes it and returns the next one, so
the caller stores the result in the same transaction as its cause. Rules: the root is pinned at pairing and
never replaced; only certificates must not go back; revocations and the minimum suite only grow; what is
unknown waits (Unavailable), what is wrong is refused (VerificationFailed). No clock decides anything here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import Final

from keys import layout
from keys.bundle import SignedBundle, verify_signed_bundle
from keys.card import (
    CERTIFICATE_BYTES,
    OFFICE_ID_BYTES,
    OFFICER_LIST_BYTES_MAX,
    SUITE,
    Certificate,
    OfficerEntry,
    OfficerList,
    Revocation,
    encode_certificate,
    encode_officer_list,
    parse_certificate_untrusted,
    parse_officer_list_untrusted,
    verify_certificate,
    verify_officer_list,
    verify_revocation,
)
from keys.errors import BrokenInvariant, PolicyRefused, Unavailable, VerificationFailed
from keys.layout import Reader
from keys.primitives import COMPOSITE_PUBLIC_BYTES

_MAGIC: Final = b"SLWT"
_FORMAT: Final = 1

# A peer signs as many of each as it likes, and all are read with each of its messages. Renewed yearly, eight
# certificates are eight years; no office changes its list 32 times while one alert is on its way.
CERTIFICATES_KEPT_MAX: Final = 8
OFFICER_LISTS_KEPT_MAX: Final = 32


class PairState(IntEnum):
    """How far a pairing is. Only ACTIVE pairs show or send anything."""

    HALF = 1  # codes compared here; the peer's pair-ok has not verified yet
    ACTIVE = 2
    SUSPENDED = 3  # the key we paired under was revoked; waits for a reset from a higher version


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedPeer:
    """One paired office. Certificates are sorted by key version, officer lists by list version."""

    office_id: bytes
    root_public: bytes
    certificates: tuple[Certificate, ...]
    officer_lists: tuple[OfficerList, ...]
    revoked_below: int
    minimum_suite: int
    state: PairState
    since_ms: int  # of the present state

    @property
    def certificate(self) -> Certificate:
        """The newest certificate: the key version new messages should carry, and the name to show."""
        if not self.certificates:
            raise Unavailable("pending_card", "every certificate we hold of this office is revoked")
        return self.certificates[-1]


def pin_bundle(signed: SignedBundle, now_ms: int, earlier: TrustedPeer | None = None) -> TrustedPeer:
    """The peer that a compared bundle makes known, state HALF.

    ``earlier`` is what was known of the same office before (a second ceremony): its revocations and minimum
    suite stay. VerificationFailed for a bundle that does not hold together or whose key is revoked.
    """
    verify_signed_bundle(signed)
    bundle = signed.bundle
    peer = TrustedPeer(
        office_id=bundle.office_id,
        root_public=bundle.root_public,
        certificates=() if earlier is None else earlier.certificates,
        officer_lists=() if earlier is None else earlier.officer_lists,
        revoked_below=0 if earlier is None else earlier.revoked_below,
        minimum_suite=SUITE if earlier is None else earlier.minimum_suite,
        state=PairState.HALF,
        since_ms=now_ms,
    )
    if earlier is not None and earlier.office_id != peer.office_id:
        raise BrokenInvariant("peer_mixed_up", "a bundle was pinned over another office")
    peer = accept_certificate(peer, bundle.certificate, now_ms)
    if peer.certificate.key_version != bundle.certificate.key_version:
        raise VerificationFailed("certificate_went_back", "a bundle shows an older key than the one known")
    # A bundle whose certificate revokes the key we knew is the fresh start a suspended pair waits for.
    return replace(accept_officer_list(peer, bundle.officers), state=PairState.HALF, since_ms=now_ms)


def activate(peer: TrustedPeer, now_ms: int) -> TrustedPeer:
    """The peer's ``pair-ok`` verified: HALF becomes ACTIVE; ACTIVE stays."""
    if peer.state is PairState.SUSPENDED:
        raise PolicyRefused("pair_suspended", "this pairing is suspended after a revocation; pair again")
    return peer if peer.state is PairState.ACTIVE else replace(peer, state=PairState.ACTIVE, since_ms=now_ms)


def check_active(peer: TrustedPeer) -> None:
    """Raise PolicyRefused (``pair_half``, ``pair_suspended``) unless messages may be shown and sent."""
    if peer.state is PairState.HALF:
        raise PolicyRefused("pair_half", "the other office has not confirmed the pairing yet")
    if peer.state is PairState.SUSPENDED:
        raise PolicyRefused("pair_suspended", "this pairing is suspended after a revocation; pair again")


def check_suite(peer: TrustedPeer, suite: int) -> None:
    """Raise VerificationFailed for a suite below the peer's minimum: there is no way back down."""
    if suite < peer.minimum_suite:
        raise VerificationFailed(
            "suite_below_minimum", f"suite {suite} is below the peer's {peer.minimum_suite}"
        )


def accept_certificate(peer: TrustedPeer, certificate: Certificate, now_ms: int) -> TrustedPeer:
    """Learn a certificate, in whatever order certificates arrive.

    The newest version is always the one in use, so a late older one adds a version to verify old messages
    with and nothing more; beyond CERTIFICATES_KEPT_MAX the oldest is forgotten. A revoked version, and a
    second certificate for a known version, is VerificationFailed. A certificate may itself revoke, with the
    effects of ``apply_revocation``.
    """
    verify_certificate(certificate, peer.root_public)
    if certificate.key_version < peer.revoked_below:
        raise VerificationFailed("key_version_revoked", f"key version {certificate.key_version} is revoked")
    for known in peer.certificates:
        if known.key_version == certificate.key_version:
            # Two signatures over one content are the same certificate; the signature is no identity.
            if replace(known, signature=b"") != replace(certificate, signature=b""):
                raise VerificationFailed(
                    "certificate_conflict", f"two different certificates for key version {known.key_version}"
                )
            return peer
    by_version = sorted((*peer.certificates, certificate), key=lambda known: known.key_version)
    learnt = replace(
        peer,
        certificates=tuple(by_version[-CERTIFICATES_KEPT_MAX:]),
        minimum_suite=max(peer.minimum_suite, certificate.minimum_suite),
    )
    return _revoke_below(learnt, certificate.revoked_below, in_use=peer.certificates[-1:], now_ms=now_ms)


def apply_revocation(peer: TrustedPeer, revocation: Revocation, now_ms: int) -> TrustedPeer:
    """Take a revocation from any channel: certificates and officer lists under revoked versions are dropped.

    The pair is SUSPENDED if the version in use is among them. A weaker revocation than a known one changes
    nothing.
    """
    verify_revocation(revocation, peer.root_public)
    return _revoke_below(peer, revocation.revoked_below, in_use=peer.certificates[-1:], now_ms=now_ms)


def with_floor(peer: TrustedPeer, revoked_below: int) -> TrustedPeer:
    """What was just pinned, under a revocation known from before; its proof was checked when it was learnt.

    VerificationFailed (``key_version_revoked``) when the version in use is revoked: there is nothing to pair.
    """
    if peer.certificate.key_version < revoked_below:
        raise VerificationFailed(
            "key_version_revoked",
            f"the key that was shown, version {peer.certificate.key_version}, was revoked by its own office:"
            " whoever shows it now may be a thief",
        )
    return _revoke_below(peer, revoked_below, in_use=(), now_ms=peer.since_ms)


def _revoke_below(
    peer: TrustedPeer, revoked_below: int, *, in_use: tuple[Certificate, ...], now_ms: int
) -> TrustedPeer:
    floor = max(peer.revoked_below, revoked_below)
    if any(known.key_version < floor for known in in_use) and peer.state is not PairState.SUSPENDED:
        peer = replace(peer, state=PairState.SUSPENDED, since_ms=now_ms)
    return replace(
        peer,
        revoked_below=floor,
        certificates=tuple(known for known in peer.certificates if known.key_version >= floor),
        officer_lists=tuple(known for known in peer.officer_lists if known.key_version >= floor),
    )


def newest_known_version(peer: TrustedPeer) -> int:
    """The version a reset must be above: of every certificate known, and of what was revoked."""
    return max([peer.revoked_below - 1, *(known.key_version for known in peer.certificates)])


def resume_after_reset(peer: TrustedPeer, key_version: int, now_ms: int) -> TrustedPeer:
    """A verified ``reset`` signed under ``key_version`` arrived: a SUSPENDED pair becomes ACTIVE again."""
    key_for_version(peer, key_version)
    if peer.state is not PairState.SUSPENDED:
        return peer
    return replace(peer, state=PairState.ACTIVE, since_ms=now_ms)


def certificate_for_version(peer: TrustedPeer, key_version: int) -> Certificate:
    """The certificate a message's header names.

    VerificationFailed (``key_version_revoked``), or Unavailable (``pending_card``): the message waits,
    neither refused nor acknowledged, until that certificate arrives.
    """
    if key_version < peer.revoked_below:
        raise VerificationFailed("key_version_revoked", f"key version {key_version} is revoked")
    for known in peer.certificates:
        if known.key_version == key_version:
            return known
    raise Unavailable("pending_card", f"no certificate for key version {key_version} yet")


def key_for_version(peer: TrustedPeer, key_version: int) -> bytes:
    """The composite public key, 1984 bytes, of a key version; errors as ``certificate_for_version``."""
    return certificate_for_version(peer, key_version).public


def accept_officer_list(peer: TrustedPeer, listed: OfficerList) -> TrustedPeer:
    """Learn an officer list, in whatever order lists arrive; each stays usable for what it signed.

    The newest OFFICER_LISTS_KEPT_MAX are kept; one that is older than all of them changes nothing.
    Unavailable (``pending_card``) when its key version is unknown; VerificationFailed when it does not verify
    or contradicts a known list of the same version.
    """
    verify_officer_list(listed, certificate_for_version(peer, listed.key_version))
    for known in peer.officer_lists:
        if known.list_version == listed.list_version:
            # A restored or renewed office signs the same list again under its new key version.
            if known.officers != listed.officers:
                raise VerificationFailed(
                    "officer_list_conflict", f"two different officer lists of version {known.list_version}"
                )
            if known.key_version >= listed.key_version:
                return peer
    others = (known for known in peer.officer_lists if known.list_version != listed.list_version)
    by_version = sorted((*others, listed), key=lambda known: known.list_version)
    kept = tuple(by_version[-OFFICER_LISTS_KEPT_MAX:])
    # The very same peer when nothing was learnt: its caller looks again at what waits otherwise.
    return peer if kept == peer.officer_lists else replace(peer, officer_lists=kept)


def officer_key(peer: TrustedPeer, list_version: int, number: int) -> OfficerEntry:
    """The officer key an alert names; Unavailable (``pending_officer_list``) or VerificationFailed."""
    for known in peer.officer_lists:
        if known.list_version == list_version:
            for officer in known.officers:
                if officer.number == number:
                    return officer
            raise VerificationFailed("officer_unknown", f"officer {number} is not on list {list_version}")
    is_full = len(peer.officer_lists) == OFFICER_LISTS_KEPT_MAX
    if is_full and list_version < peer.officer_lists[0].list_version:
        raise VerificationFailed("officer_unknown", f"officer list {list_version} is too old to be kept")
    raise Unavailable("pending_officer_list", f"officer list {list_version} has not arrived yet")


# Read and written with every message of a peer, changed a few times a year: both directions remember. A peer
# that changes its megabyte of officer lists all the time must not fill the memory with its past.
_PEERS_REMEMBERED: Final = 32


@lru_cache(maxsize=_PEERS_REMEMBERED)
def encode_trusted_peer(peer: TrustedPeer) -> bytes:
    """The one encoding, for the node's database."""
    return b"".join(
        (
            _MAGIC,
            layout.u8(_FORMAT),
            layout.fixed(peer.office_id, OFFICE_ID_BYTES),
            layout.fixed(peer.root_public, COMPOSITE_PUBLIC_BYTES),
            layout.u32(peer.revoked_below),
            layout.u8(peer.minimum_suite),
            layout.u8(peer.state),
            layout.u64(peer.since_ms),
            layout.u16(len(peer.certificates)),
            *(encode_certificate(known) for known in peer.certificates),
            layout.u16(len(peer.officer_lists)),
            *(layout.variable(encode_officer_list(known)) for known in peer.officer_lists),
        )
    )


@lru_cache(maxsize=_PEERS_REMEMBERED)
def parse_trusted_peer_untrusted(data: bytes) -> TrustedPeer:
    """Read a stored peer; MalformedInput (``trusted_peer_malformed`` or of an inner document).

    Signatures are not checked again: whoever can write the node's database holds its keys.
    """
    reader = Reader(data, "trusted_peer_malformed")
    reader.magic(_MAGIC, _FORMAT)
    office, root_public = reader.take(OFFICE_ID_BYTES), reader.take(COMPOSITE_PUBLIC_BYTES)
    revoked_below, minimum_suite, state = reader.u32(), reader.u8(), reader.u8()
    since_ms = reader.u64()
    certificates = tuple(
        parse_certificate_untrusted(reader.take(CERTIFICATE_BYTES)) for _ in range(reader.u16())
    )
    officer_lists = tuple(
        parse_officer_list_untrusted(reader.variable(OFFICER_LIST_BYTES_MAX)) for _ in range(reader.u16())
    )
    reader.end()
    if state not in tuple(PairState):
        reader.fail(f"has an unknown state {state}")
    if not _rising(known.key_version for known in certificates) or not _rising(
        known.list_version for known in officer_lists
    ):
        reader.fail("holds versions out of order")
    return TrustedPeer(
        office_id=office,
        root_public=root_public,
        certificates=certificates,
        officer_lists=officer_lists,
        revoked_below=revoked_below,
        minimum_suite=minimum_suite,
        state=PairState(state),
        since_ms=since_ms,
    )


def _rising(versions: Iterable[int]) -> bool:
    ordered = list(versions)
    return ordered == sorted(set(ordered))
