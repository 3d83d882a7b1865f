"""Proof that an office signed what cannot both be true, for a third person who trusts neither of the two.

Spec: docs/spec/conversation.md#evidence. A proof is a canonical msgpack map: the office's certificates and
one or two signed versions, each header, signature and leaf opening. It holds no body and so no content. One
rule: whoever checks needs the accused office's root key and nothing of the accuser.

Does not: say which of two versions is the true one. Nobody but a person can.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from keys import labels
from keys.card import (
    Certificate,
    encode_certificate,
    office_id,
    parse_certificate_untrusted,
    verify_certificate,
)
from keys.errors import MalformedInput, VerificationFailed
from keys.primitives import composite_verify, labelled_hash
from protocol import limits, wire
from protocol.items import Acknowledgement, decode_items_untrusted
from protocol.message import (
    OPENING_BYTES,
    WITH_CERTIFICATE,
    Header,
    Place,
    decode_opening_untrusted,
    parse_header_untrusted,
    place,
    split_certificate_core,
)

_VERSION: Final = 1
_PROOF_BYTES_MAX: Final = 2**20
_CERTIFICATE_BYTES_MAX: Final = 8_192
_CERTIFICATES_MAX: Final = 64


class Clash(StrEnum):
    """What two signed versions contradict, or one signed acknowledgement."""

    NUMBER = "equivocation"  # one number of one instance, two headers
    PREVIOUS = "equivocation_previous"  # two headers follow one and the same
    AHEAD = "acknowledgement_ahead"  # acknowledges what the accuser says it never numbered


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedVersion:
    """One message as its sender signed it, without its body."""

    header: bytes
    signature: bytes
    opening: bytes  # 76
    instance: bytes  # 8, the sender's in this pair; of a header for one recipient it is the one it names


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What is exported. ``said`` is the core or piggyback that holds an acknowledgement ahead, else empty."""

    recipient: bytes  # 32, the office the versions were meant for
    certificates: tuple[Certificate, ...]
    versions: tuple[SignedVersion, ...]  # one for AHEAD, else two
    said: bytes = b""


def encode_proof(proof: Proof) -> bytes:
    """The bytes of the file."""
    return wire.encode(
        {
            "v": _VERSION,
            "to": proof.recipient,
            "certificates": [encode_certificate(certificate) for certificate in proof.certificates],
            "versions": [
                {"header": v.header, "signature": v.signature, "opening": v.opening, "instance": v.instance}
                for v in proof.versions
            ],
            "said": proof.said,
        }
    )


def decode_proof_untrusted(data: bytes) -> Proof:
    """The inverse of ``encode_proof``; nothing is verified yet. MalformedInput only."""
    fields = wire.Fields(wire.decode_untrusted(data, bytes_max=_PROOF_BYTES_MAX), "proof")
    fields.integer("v", least=_VERSION, most=_VERSION)
    certificates = []
    for encoded in fields.items("certificates", items_max=_CERTIFICATES_MAX):
        if not isinstance(encoded, bytes) or len(encoded) > _CERTIFICATE_BYTES_MAX:
            raise MalformedInput("proof_malformed", "a certificate is not bytes")
        certificates.append(parse_certificate_untrusted(encoded))
    versions = []
    for value in fields.items("versions", items_max=2):
        version = wire.Fields(value, "version")
        header = version.raw("header", bytes_max=limits.HEADER_BYTES_MAX)
        if version.has("instance"):
            instance = version.raw("instance", size=limits.INSTANCE_BYTES)
        else:  # a proof of a version that knew no header for several
            instance = parse_header_untrusted(header).instance
        versions.append(
            SignedVersion(
                header=header,
                signature=version.raw("signature", size=limits.MESSAGE_SIGNATURE_BYTES),
                opening=version.raw("opening", size=OPENING_BYTES),
                instance=instance,
            )
        )
        version.done()
    proof = Proof(
        recipient=fields.raw("to", size=limits.HASH_BYTES),
        certificates=tuple(certificates),
        versions=tuple(versions),
        said=fields.raw("said", bytes_max=limits.BODY_BYTES_MAX),
    )
    fields.done()
    if not proof.versions:
        raise MalformedInput("proof_malformed", "a proof holds one version or two")
    return proof


def check_proof(proof: Proof, root_public: bytes) -> Clash:
    """What the proof shows, after every signature in it held under the accused office's root.

    VerificationFailed ``proof_signature`` or ``proof_empty`` (the versions do not contradict each other).
    An acknowledgement ahead shows what the office signed; what the accuser had numbered is in its own log.
    """
    accused = office_id(root_public)
    places = [_checked_place(proof, version, accused, root_public) for version in proof.versions]
    headers = [found.header for found in places]
    openings = [decode_opening_untrusted(version.opening) for version in proof.versions]
    if len(headers) == 1:
        _check_said(proof, headers[0])
        return Clash.AHEAD
    one, two = openings
    if places[0].hh == places[1].hh:
        raise VerificationFailed("proof_empty", "both versions are the same message")
    if (headers[0].instance, one.pair_seq) == (headers[1].instance, two.pair_seq):
        return Clash.NUMBER
    if any(one.pair_prev) and one.pair_prev == two.pair_prev and not follows_a_loss(headers[0], headers[1]):
        return Clash.PREVIOUS
    raise VerificationFailed("proof_empty", "the two versions can both be true")


def check_addressed(proof: Proof, root_public: bytes) -> Place:
    """That the office of this root signed one message to ``proof.recipient``, and where in their order.

    For an auditor who is shown one version: of a message to several it proves one recipient and tells of the
    others nothing. VerificationFailed ``proof_signature``, or ``proof_empty`` for another number of versions.
    """
    if len(proof.versions) != 1:
        raise VerificationFailed("proof_empty", "one message is shown by one version")
    return _checked_place(proof, proof.versions[0], office_id(root_public), root_public)


def follows_a_loss(one: Header, two: Header) -> bool:
    """Whether two headers may follow the same one: the sender lost state and said so under a newer key.

    Numbers start over with the new instance, and the last header it remembers may be older than its last.
    """
    return one.instance != two.instance and one.key_version != two.key_version


def _checked_place(proof: Proof, version: SignedVersion, accused: bytes, root_public: bytes) -> Place:
    header = parse_header_untrusted(version.header)
    certificate = next((c for c in proof.certificates if c.key_version == header.key_version), None)
    if header.sender != accused or certificate is None:
        raise VerificationFailed("proof_signature", "a version is not signed by the accused office")
    verify_certificate(certificate, root_public)
    composite_verify(certificate.public, labels.MESSAGE, version.header, version.signature)
    opening = decode_opening_untrusted(version.opening)
    found = place(version.header, opening, proof.recipient, version.instance)
    if opening.leaf_index >= len(header.leaves) or found.leaf != header.leaves[opening.leaf_index]:
        raise VerificationFailed("proof_signature", "a version was not meant for the accusing office")
    return found


def _check_said(proof: Proof, header: Header) -> None:
    said = proof.said
    if labelled_hash(labels.PIGGYBACK, said) != header.piggyback_hash:
        if labelled_hash(labels.CORE, said) != header.core_hash:
            raise VerificationFailed("proof_empty", "the acknowledgement is not under the signature")
        if header.type in WITH_CERTIFICATE:
            _, said = split_certificate_core(said)
    if not any(isinstance(item, Acknowledgement) for item in decode_items_untrusted(said)):
        raise VerificationFailed("proof_empty", "nothing is acknowledged in it")
