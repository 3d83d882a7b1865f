"""Pairing by voice: invitation, rendezvous, commit, reply, reveal, two codes, two confirmations.

Spec: docs/spec/pairing.md. Nothing can be delivered between two offices before this ran once. One type per
step; a step takes the other side's item and returns the next step and the item to send. ``Ceremony`` holds
the present step, moves only forward and burns at the first fault: one attempt per invitation.

Items go through two rendezvous mailboxes at a broker that may be hostile. Listening, it learns neither
office: all but the commitment is encrypted. What it could swap (and, swapping keys, read) is caught by the
codes, which two people read to each other over a telephone: each reads its own and types the other's. No I/O
here; time and randomness are arguments (the encapsulation inside the reply draws its own).
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, assert_never

from keys import labels, layout
from keys.bundle import (
    NO_NONCE,
    NO_OFFICE,
    Bundle,
    SignedBundle,
    parse_signed_bundle_untrusted,
    sign_bundle,
    verify_signed_bundle,
)
from keys.errors import MalformedInput, PolicyRefused, VerificationFailed
from keys.layout import Reader
from keys.pairok import PairOk, ResetKey, pair_ok_body, parse_pair_ok_untrusted, verify_pair_ok
from keys.primitives import (
    HASH_BYTES,
    SYMMETRIC_KEY_BYTES,
    XWING_PUBLIC_BYTES,
    CompositePrivateKey,
    XWingPrivateKey,
    constant_time_equal,
    hkdf_sha256,
    labelled_hash,
)
from keys.rendezvous import (
    ITEM_FORMAT,
    Burned,
    OneAttempt,
    from_item_untrusted,
    open_item_untrusted,
    seal_item,
    to_item,
    unwrap_bundle_untrusted,
    wrap_bundle,
)
from keys.secret import SecretBytes

CODE_DIGITS: Final = 12


# --- items ---

_OFFER: Final = b"SLP1"
_REPLY: Final = b"SLP2"
_REVEAL: Final = b"SLP3"
_CONFIRMATION: Final = b"SLP4"


def _peer_bundle_untrusted(data: bytes, own: SignedBundle) -> SignedBundle:
    """Parse and verify the other side's bundle: made for a ceremony by voice, and by another office."""
    signed = parse_signed_bundle_untrusted(data)
    if signed.peer_id != NO_OFFICE or signed.peer_nonce != NO_NONCE:
        raise VerificationFailed("pairing_bundle_foreign", "a bundle was made for another ceremony")
    if signed.own_nonce == own.own_nonce or signed.bundle.office_id == own.bundle.office_id:
        raise VerificationFailed("pairing_with_self", "the other side shows our own bundle")
    verify_signed_bundle(signed)
    return signed


# --- the steps ---

Role: TypeAlias = Literal["inviter", "joiner"]


def _other(role: Role) -> Role:
    return "joiner" if role == "inviter" else "inviter"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnSide:
    """What one side brings to a ceremony: its bundle, fixed before the other side is known."""

    signed: SignedBundle
    encoded: bytes


def own_side(operational: CompositePrivateKey, bundle: Bundle, nonce: bytes) -> OwnSide:
    """Sign a bundle for one ceremony by voice. ``nonce``: 32 random bytes, never used before."""
    encoded = sign_bundle(operational, bundle, own_nonce=nonce)
    return OwnSide(signed=parse_signed_bundle_untrusted(encoded), encoded=encoded)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InviterWaitsForReply:
    """The inviter is committed to its bundle and waits for the joiner's."""

    own: OwnSide
    offer: bytes
    ephemeral: XWingPrivateKey

    def receive_reply(self, item: bytes, seal_nonce: bytes) -> tuple["ComparesCodes", bytes]:
        """Open the joiner's bundle; reveal ours. ``seal_nonce``: 24 random bytes."""
        message = from_item_untrusted(item)
        encoded, channel_key = unwrap_bundle_untrusted(
            _REPLY, self.ephemeral, message, _reply_info(self.offer)
        )
        peer = _peer_bundle_untrusted(encoded, self.own.signed)
        reveal = seal_item(
            _REVEAL,
            _reveal_key(channel_key, self.offer),
            seal_nonce,
            self.own.encoded,
            _message_hash(message),
        )
        compares = ComparesCodes(
            role="inviter",
            own_id=self.own.signed.bundle.office_id,
            peer=peer,
            transcript=_transcript(self.offer, message, self.own.encoded, encoded, self.own.signed, peer),
            channel_key=channel_key,
        )
        return compares, reveal


def start_inviter(own: OwnSide, ephemeral_seed: SecretBytes) -> tuple[InviterWaitsForReply, bytes]:
    """First step of the inviter, and the offer to send. ``ephemeral_seed``: 32 random bytes, used once."""
    ephemeral = XWingPrivateKey.from_seed(ephemeral_seed)
    offer = (
        _OFFER
        + layout.u8(ITEM_FORMAT)
        + ephemeral.public_bytes
        + _commitment(own.encoded, own.signed.own_nonce)
    )
    return InviterWaitsForReply(own=own, offer=offer, ephemeral=ephemeral), to_item(offer)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JoinerWaitsForOffer:
    """The joiner has nothing but the invitation."""

    own: OwnSide
    channel_key: SecretBytes  # 32 random bytes, k_B

    def receive_offer(self, item: bytes) -> tuple["JoinerWaitsForReveal", bytes]:
        """Answer the commitment with our bundle, readable by the offer's key alone."""
        offer = from_item_untrusted(item)
        reader = Reader(offer, "pairing_item_malformed")
        reader.magic(_OFFER, ITEM_FORMAT)
        ephemeral_public, commitment = reader.take(XWING_PUBLIC_BYTES), reader.take(HASH_BYTES)
        reader.end()
        reply = wrap_bundle(_REPLY, ephemeral_public, self.own.encoded, self.channel_key, _reply_info(offer))
        waits = JoinerWaitsForReveal(
            own=self.own, channel_key=self.channel_key, offer=offer, commitment=commitment, reply=reply
        )
        return waits, to_item(reply)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JoinerWaitsForReveal:
    """The joiner has shown its bundle and holds the inviter to its commitment."""

    own: OwnSide
    channel_key: SecretBytes
    offer: bytes
    commitment: bytes
    reply: bytes

    def receive_reveal(self, item: bytes) -> "ComparesCodes":
        """Open the inviter's bundle and hold it against the commitment."""
        key = _reveal_key(self.channel_key, self.offer)
        encoded = open_item_untrusted(_REVEAL, key, item, _message_hash(self.reply))
        peer = _peer_bundle_untrusted(encoded, self.own.signed)
        if not constant_time_equal(_commitment(encoded, peer.own_nonce), self.commitment):
            raise VerificationFailed(
                "pairing_commitment_broken", "the inviter shows another bundle than promised"
            )
        return ComparesCodes(
            role="joiner",
            own_id=self.own.signed.bundle.office_id,
            peer=peer,
            transcript=_transcript(self.offer, self.reply, encoded, self.own.encoded, peer, self.own.signed),
            channel_key=self.channel_key,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BothBundles:
    """What every step has from the moment that both bundles are here."""

    role: Role
    own_id: bytes
    peer: SignedBundle
    transcript: bytes
    channel_key: SecretBytes

    def confirmed(self) -> "Confirms":
        """Our officer has no doubt."""
        return Confirms(
            role=self.role,
            own_id=self.own_id,
            peer=self.peer,
            transcript=self.transcript,
            channel_key=self.channel_key,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparesCodes(BothBundles):
    """Two people compare. The only step a man in the middle cannot take for them."""

    @property
    def own_code(self) -> str:
        """Twelve digits to read aloud, never to be typed here."""
        return _code(self.transcript, self.role)

    def compare(self, typed: str) -> "Confirms":
        """Take the code that the other office read aloud, as ``read_code_untrusted`` gives it.

        PolicyRefused: ``pairing_code_echoed`` (our own code came back) or ``pairing_code_wrong``.
        """
        if constant_time_equal(typed.encode(), self.own_code.encode()):
            raise PolicyRefused(
                "pairing_code_echoed",
                "this is the code on this screen; type the one the other office reads aloud. Begin again",
            )
        if not constant_time_equal(typed.encode(), _code(self.transcript, _other(self.role)).encode()):
            raise PolicyRefused(
                "pairing_code_wrong",
                "the codes differ: a typing error or someone in between. Begin again with a new invitation",
            )
        return self.confirmed()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Confirms(BothBundles):
    """Our officer has compared; we say so, signed, and wait until the other side has said the same."""

    def confirm(
        self,
        operational: CompositePrivateKey,
        *,
        key_version: int,
        officers: tuple[int, ...],
        now_ms: int,
        reset_key: ResetKey,
        seal_nonce: bytes,
    ) -> tuple[bytes, bytes]:
        """Our ``pair-ok``, evidence for the log, and the item that carries it; ``seal_nonce``: 24 bytes."""
        body = pair_ok_body(
            self.transcript, self.own_id, self.peer.bundle.office_id, key_version, officers, now_ms, reset_key
        )
        pair_ok = body + operational.sign(labels.PAIRING_OK, body)
        key = _confirmation_key(self.channel_key, self.transcript, self.role)
        return pair_ok, seal_item(_CONFIRMATION, key, seal_nonce, pair_ok, self.transcript)

    def receive_confirmation(self, item: bytes) -> "Paired":
        """Verify the peer's ``pair-ok`` for this very ceremony."""
        key = _confirmation_key(self.channel_key, self.transcript, _other(self.role))
        encoded = open_item_untrusted(_CONFIRMATION, key, item, self.transcript)
        pair_ok = parse_pair_ok_untrusted(encoded)
        if pair_ok.transcript != self.transcript or pair_ok.peer_id != self.own_id:
            raise VerificationFailed("pair_ok_foreign", "a pair-ok belongs to another ceremony")
        verify_pair_ok(pair_ok, self.peer.bundle.certificate)
        return Paired(peer=self.peer, transcript=self.transcript, pair_ok=pair_ok, evidence=encoded)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Paired:
    """Both officers compared and both offices signed: the pairing may become active."""

    peer: SignedBundle
    transcript: bytes
    pair_ok: "PairOk"
    evidence: bytes  # the peer's pair-ok as signed


# --- derivations ---


def _message_hash(message: bytes) -> bytes:
    """Hash of one ceremony message, to tie the next one to it."""
    return labelled_hash(labels.PAIRING_MESSAGE, message)


def _commitment(encoded_bundle: bytes, nonce: bytes) -> bytes:
    return labelled_hash(labels.PAIRING_COMMITMENT, encoded_bundle, nonce)


def _reply_info(offer: bytes) -> bytes:
    return labels.PAIRING_REPLY_INFO + _message_hash(offer)


def _reveal_key(channel_key: SecretBytes, offer: bytes) -> SecretBytes:
    return hkdf_sha256(channel_key, _message_hash(offer), labels.PAIRING_REVEAL, SYMMETRIC_KEY_BYTES)


def _confirmation_key(channel_key: SecretBytes, transcript: bytes, role: Role) -> SecretBytes:
    info = labels.PAIRING_CONFIRMATION + b"|" + role.encode()
    return hkdf_sha256(channel_key, transcript, info, SYMMETRIC_KEY_BYTES)


def _transcript(
    offer: bytes,
    reply: bytes,
    inviter: bytes,
    joiner: bytes,
    inviter_side: SignedBundle,
    joiner_side: SignedBundle,
) -> bytes:
    # The reveal's ciphertext stays out: its nonce is chosen when both bundles are known and could be ground
    # until the codes agree. Everything that is in was fixed before its maker knew the other side's nonce.
    return labelled_hash(
        labels.PAIRING_TRANSCRIPT,
        offer,
        reply,
        inviter,
        inviter_side.own_nonce,
        joiner,
        joiner_side.own_nonce,
    )


def _code(transcript: bytes, role: Role) -> str:
    digest = labelled_hash(labels.PAIRING_CODE, transcript, role.encode())
    return f"{int.from_bytes(digest, 'big') % 10**CODE_DIGITS:0{CODE_DIGITS}d}"


def group_code(code: str) -> str:
    """Twelve digits as people read them: ``1234 5678 9012``."""
    return " ".join(code[at : at + 4] for at in range(0, len(code), 4))


def read_code_untrusted(text: str) -> str:
    """Twelve digits as typed, spaces and hyphens allowed; MalformedInput (``pairing_code_form``).

    Form alone: a code with a digit missing says nothing about the transcript and does not burn the ceremony.
    """
    digits = "".join(character for character in text[:64] if character not in " -\t\r\n")
    if len(text) > 64 or len(digits) != CODE_DIGITS or not (digits.isascii() and digits.isdigit()):
        raise MalformedInput("pairing_code_form", f"a pairing code is {CODE_DIGITS} digits")
    return digits


# --- one ceremony ---

Step: TypeAlias = (
    InviterWaitsForReply
    | JoinerWaitsForOffer
    | JoinerWaitsForReveal
    | ComparesCodes
    | Confirms
    | Paired
    | Burned
)


class Ceremony(OneAttempt[Step]):
    """The present step of one ceremony by voice."""

    __slots__ = ()

    def _may_burn(self) -> bool:
        return not isinstance(self.step, Confirms | Paired)

    def receive(self, item: bytes, *, seal_nonce: bytes, now_ms: int) -> bytes | None:
        """Take the other side's next item; return the item to send, if any. ``seal_nonce``: 24 random bytes.

        A confirmation is for ``Confirms``: leave it in the mailbox while the codes are being compared.
        """
        with self.burning(now_ms):
            self.step, to_send = _advance(self.step, item, seal_nonce)
        return to_send

    def type_code(self, text: str, *, now_ms: int) -> None:
        """Take the code the other office read aloud. A slip in form may be typed again, a wrong code not."""
        typed = read_code_untrusted(text)
        with self.burning(now_ms):
            if not isinstance(self.step, ComparesCodes):
                raise PolicyRefused("pairing_out_of_turn", "there are no codes to compare now; begin again")
            self.step = self.step.compare(typed)


def _advance(step: Step, item: bytes, seal_nonce: bytes) -> tuple[Step, bytes | None]:
    match step:
        case InviterWaitsForReply():
            return step.receive_reply(item, seal_nonce)
        case JoinerWaitsForOffer():
            return step.receive_offer(item)
        case JoinerWaitsForReveal():
            return step.receive_reveal(item), None
        case Confirms():
            return step.receive_confirmation(item), None
        case ComparesCodes() | Paired() | Burned():
            raise PolicyRefused(
                "pairing_out_of_turn", "nothing is expected from the other side now; begin again"
            )
        case _:
            assert_never(step)
