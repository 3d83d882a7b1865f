"""The signed word that officers compared: evidence of one ceremony, by voice or in person.

Spec: docs/spec/pairing.md#messages. One rule: it names the transcript, both offices and the key version, so
it belongs to one ceremony, which it proves to whoever holds the certificate. It also brings the key that a
reset will be sealed to, so that a backup made a second after the pairing can be restored.
"""

from dataclasses import dataclass
from typing import Final

from keys import labels, layout
from keys.card import OFFICE_ID_BYTES, OFFICERS_MAX, Certificate
from keys.errors import VerificationFailed
from keys.layout import Reader
from keys.primitives import (
    COMPOSITE_SIGNATURE_BYTES,
    HASH_BYTES,
    XWING_PUBLIC_BYTES,
    composite_verify,
    wrap,
)

_PAIR_OK: Final = b"SLWK"
_FORMAT: Final = 2
_FORMAT_WITHOUT_KEY: Final = 1  # kept evidence of earlier ceremonies
RESET_KEY_ID_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetKey:
    """What this peer seals a RESET to: an id of 8 bytes and an X-Wing public key of 1216."""

    key_id: bytes
    public: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOk:
    """One office's signed word that its officers compared the codes of one ceremony."""

    transcript: bytes
    own_id: bytes
    peer_id: bytes
    key_version: int
    officers: tuple[int, ...]  # officer numbers present, rising
    time_ms: int
    reset_key: ResetKey | None  # None in format 1 alone
    signature: bytes


def pair_ok_body(
    transcript: bytes,
    own_id: bytes,
    peer_id: bytes,
    key_version: int,
    officers: tuple[int, ...],
    time_ms: int,
    reset_key: ResetKey | None,
) -> bytes:
    """What is signed; ``officers`` in any order. Without a reset key it is of format 1."""
    key = b""
    if reset_key is not None:
        key = layout.fixed(reset_key.key_id, RESET_KEY_ID_BYTES) + layout.fixed(
            reset_key.public, XWING_PUBLIC_BYTES
        )
    return b"".join(
        (
            _PAIR_OK,
            layout.u8(_FORMAT if key else _FORMAT_WITHOUT_KEY),
            layout.fixed(transcript, HASH_BYTES),
            layout.fixed(own_id, OFFICE_ID_BYTES),
            layout.fixed(peer_id, OFFICE_ID_BYTES),
            layout.u32(key_version),
            layout.u64(time_ms),
            layout.u16(len(officers)),
            *(layout.u32(number) for number in sorted(set(officers))),
            key,
        )
    )


def encode_pair_ok(pair_ok: PairOk) -> bytes:
    """The one encoding."""
    body = pair_ok_body(
        pair_ok.transcript,
        pair_ok.own_id,
        pair_ok.peer_id,
        pair_ok.key_version,
        pair_ok.officers,
        pair_ok.time_ms,
        pair_ok.reset_key,
    )
    return body + layout.fixed(pair_ok.signature, COMPOSITE_SIGNATURE_BYTES)


def parse_pair_ok_untrusted(data: bytes) -> PairOk:
    """Read a pair-ok; MalformedInput (``pair_ok_malformed``). Proves nothing."""
    reader = Reader(data, "pair_ok_malformed")
    version = reader.magic(_PAIR_OK, _FORMAT_WITHOUT_KEY, _FORMAT)
    transcript = reader.take(HASH_BYTES)
    own_id, peer_id = reader.take(OFFICE_ID_BYTES), reader.take(OFFICE_ID_BYTES)
    key_version, time_ms, count = reader.u32(), reader.u64(), reader.u16()
    if count > OFFICERS_MAX:
        reader.fail(f"names {count} officers")
    officers = tuple(reader.u32() for _ in range(count))
    if list(officers) != sorted(set(officers)):
        reader.fail("is not in the order of officer numbers")
    reset_key = None
    if version == _FORMAT:
        reset_key = ResetKey(key_id=reader.take(RESET_KEY_ID_BYTES), public=reader.take(XWING_PUBLIC_BYTES))
    signature = reader.take(COMPOSITE_SIGNATURE_BYTES)
    reader.end()
    return PairOk(
        transcript=transcript,
        own_id=own_id,
        peer_id=peer_id,
        key_version=key_version,
        officers=officers,
        time_ms=time_ms,
        reset_key=reset_key,
        signature=signature,
    )


def verify_pair_ok(pair_ok: PairOk, certificate: Certificate) -> None:
    """Raise VerificationFailed unless the certified O signed this and its reset key can be sealed to.

    Verify the certificate first.
    """
    if pair_ok.own_id != certificate.office_id or pair_ok.key_version != certificate.key_version:
        raise VerificationFailed("pair_ok_foreign", "a pair-ok names another office or key version")
    body = encode_pair_ok(pair_ok)[:-COMPOSITE_SIGNATURE_BYTES]
    composite_verify(certificate.public, labels.PAIRING_OK, body, pair_ok.signature)
    if pair_ok.reset_key is not None:
        wrap(pair_ok.reset_key.public, b"", b"")
