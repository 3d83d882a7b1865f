"""Pairing in person: two screens, two codes of at most 180 bytes, each read by the other office.

Spec: docs/spec/pairing.md#in-person. The inviter shows its code; the joiner reads it and shows one that
answers it; the inviter reads that. A code names its office and is new each time, so each bundle can be signed
for the one office and the two codes that were really seen: whoever stands in between has nothing to match and
nothing to search for. The bundles follow through a rendezvous that both codes open together.

One type per step, as in ``keys.pairing``, and its last two steps are the same ones. No I/O here; time and
randomness are arguments (the encapsulation draws its own).
"""

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from keys import labels, layout
from keys.bundle import (
    Bundle,
    SignedBundle,
    parse_signed_bundle_untrusted,
    sign_bundle,
    verify_signed_bundle,
)
from keys.errors import PolicyRefused, VerificationFailed
from keys.layout import Reader
from keys.meetingcode import (
    InviterCode,
    JoinerCode,
    code_hash,
    encode_code,
    expect_joiner,
    read_code_text_untrusted,
)
from keys.pairing import BothBundles, Confirms, Paired
from keys.primitives import (
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
    OneAttempt,
    Rendezvous,
    from_item_untrusted,
    open_item_untrusted,
    rendezvous_of,
    seal_item,
    to_item,
    unwrap_bundle_untrusted,
    wrap_bundle,
)
from keys.secret import SecretBytes

# --- what both codes give together ---


def derive_meeting(inviter: InviterCode, joiner: JoinerCode) -> Rendezvous:
    """The rendezvous that only who saw both screens can find."""
    secret = SecretBytes(inviter.secret.reveal() + joiner.secret.reveal())
    both = _both(encode_code(inviter), encode_code(joiner))
    root = hkdf_sha256(secret, both, labels.MEETING_RENDEZVOUS, SYMMETRIC_KEY_BYTES)
    return rendezvous_of(root)


def _both(inviter: bytes, joiner: bytes) -> bytes:
    return labelled_hash(labels.MEETING_BOTH, inviter, joiner)


def _bundle_info(inviter: bytes, joiner: bytes) -> bytes:
    return labels.MEETING_BUNDLE + _both(inviter, joiner)


def _reply_key(channel_key: SecretBytes, inviter: bytes, joiner: bytes) -> SecretBytes:
    return hkdf_sha256(channel_key, _both(inviter, joiner), labels.MEETING_REPLY, SYMMETRIC_KEY_BYTES)


# --- items ---

_KEY: Final = b"SLM1"
_BUNDLE: Final = b"SLM2"
_REPLY: Final = b"SLM3"


def _peer_bundle_untrusted(
    data: bytes, *, peer_id: bytes, peer_code: bytes, own: SignedBundle
) -> SignedBundle:
    """Parse and verify: made by the office whose code we read, for us, for these two codes."""
    signed = parse_signed_bundle_untrusted(data)
    if not (
        signed.bundle.office_id == peer_id
        and signed.peer_id == own.bundle.office_id
        and signed.own_nonce == code_hash(peer_code)
        and signed.peer_nonce == own.own_nonce
    ):
        raise VerificationFailed(
            "pairing_bundle_foreign", "a bundle was made by another office or for another ceremony"
        )
    verify_signed_bundle(signed)
    return signed


# --- the steps ---


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnOffice:
    """What one side brings: signed only when the other's code was read."""

    operational: CompositePrivateKey = field(repr=False)
    bundle: Bundle = field(repr=False)

    @property
    def office_id(self) -> bytes:
        """Ours."""
        return self.bundle.office_id

    def sign(self, *, own_code: bytes, peer_id: bytes, peer_code: bytes) -> tuple[SignedBundle, bytes]:
        """Our bundle for the office and the two codes that were seen; parsed and encoded."""
        encoded = sign_bundle(
            self.operational,
            self.bundle,
            own_nonce=code_hash(own_code),
            peer_id=peer_id,
            peer_nonce=code_hash(peer_code),
        )
        return parse_signed_bundle_untrusted(encoded), encoded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InviterShows:
    """The inviter's code is on its screen; it has not read the joiner's."""

    own: OwnOffice
    code: InviterCode
    channel_key: SecretBytes  # 32 random bytes

    def take_code(self, joiner: JoinerCode) -> "InviterWaitsForKey":
        """Sign our bundle for the office whose code was read."""
        shown, read = encode_code(self.code), encode_code(joiner)
        signed, encoded = self.own.sign(own_code=shown, peer_id=joiner.office_id, peer_code=read)
        return InviterWaitsForKey(
            own=signed,
            encoded=encoded,
            shown=shown,
            joiner=joiner,
            channel_key=self.channel_key,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InviterWaitsForKey:
    """Both codes are read; the key that the joiner's code names is in the rendezvous."""

    own: SignedBundle
    encoded: bytes
    shown: bytes
    joiner: JoinerCode
    channel_key: SecretBytes

    def receive_key(self, item: bytes) -> tuple["InviterWaitsForBundle", bytes]:
        """Hold the key against the code; encrypt our bundle to it."""
        reader = Reader(from_item_untrusted(item), "pairing_item_malformed")
        reader.magic(_KEY, ITEM_FORMAT)
        public = reader.take(XWING_PUBLIC_BYTES)
        reader.end()
        if not constant_time_equal(_key_hash(public), self.joiner.key_hash):
            raise VerificationFailed(
                "meeting_key_foreign", "the key at the broker is not the one the other screen showed"
            )
        read = encode_code(self.joiner)
        info = _bundle_info(self.shown, read)
        message = wrap_bundle(_BUNDLE, public, self.encoded, self.channel_key, info)
        waits = InviterWaitsForBundle(
            own=self.own,
            encoded=self.encoded,
            shown=self.shown,
            read=read,
            peer_id=self.joiner.office_id,
            channel_key=self.channel_key,
        )
        return waits, to_item(message)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InviterWaitsForBundle:
    """Our bundle is on its way; the joiner's follows under the key that came with it."""

    own: SignedBundle
    encoded: bytes
    shown: bytes
    read: bytes
    peer_id: bytes
    channel_key: SecretBytes

    def receive_bundle(self, item: bytes) -> "Recognises":
        """Open and verify the joiner's bundle."""
        key = _reply_key(self.channel_key, self.shown, self.read)
        encoded = open_item_untrusted(_REPLY, key, item, _both(self.shown, self.read))
        peer = _peer_bundle_untrusted(encoded, peer_id=self.peer_id, peer_code=self.read, own=self.own)
        return Recognises(
            role="inviter",
            own_id=self.own.bundle.office_id,
            peer=peer,
            transcript=_transcript(self.shown, self.read, self.encoded, encoded),
            channel_key=self.channel_key,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JoinerWaitsForBundle:
    """The joiner has read one code and shows its own; the inviter's bundle comes when it has read that."""

    own: OwnOffice
    inviter: InviterCode
    code: JoinerCode
    ephemeral: XWingPrivateKey

    def receive_bundle(self, item: bytes, seal_nonce: bytes) -> tuple["Recognises", bytes]:
        """Open and verify the inviter's bundle; answer with ours. ``seal_nonce``: 24 random bytes."""
        read, shown = encode_code(self.inviter), encode_code(self.code)
        message = from_item_untrusted(item)
        info = _bundle_info(read, shown)
        encoded, channel_key = unwrap_bundle_untrusted(_BUNDLE, self.ephemeral, message, info)
        signed, ours = self.own.sign(own_code=shown, peer_id=self.inviter.office_id, peer_code=read)
        peer = _peer_bundle_untrusted(encoded, peer_id=self.inviter.office_id, peer_code=read, own=signed)
        reply = seal_item(_REPLY, _reply_key(channel_key, read, shown), seal_nonce, ours, _both(read, shown))
        recognises = Recognises(
            role="joiner",
            own_id=self.own.office_id,
            peer=peer,
            transcript=_transcript(read, shown, encoded, ours),
            channel_key=channel_key,
        )
        return recognises, reply


def start_joiner(
    own: OwnOffice, inviter: InviterCode, *, secret: SecretBytes, ephemeral_seed: SecretBytes
) -> tuple[JoinerWaitsForBundle, bytes]:
    """First step of the joiner, once it has read the inviter's code, and the item with its key.

    ``secret``: 16 random bytes, ``ephemeral_seed``: 32 random bytes, each used once.
    """
    ephemeral = XWingPrivateKey.from_seed(ephemeral_seed)
    code = JoinerCode(
        office_id=own.office_id,
        secret=secret,
        answers=code_hash(encode_code(inviter)),
        key_hash=_key_hash(ephemeral.public_bytes),
    )
    item = to_item(_KEY + layout.u8(ITEM_FORMAT) + ephemeral.public_bytes)
    return JoinerWaitsForBundle(own=own, inviter=inviter, code=code, ephemeral=ephemeral), item


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recognises(BothBundles):
    """The officer says whether this is the office across the table."""


def _key_hash(public: bytes) -> bytes:
    return labelled_hash(labels.MEETING_KEY, public)


def _transcript(inviter: bytes, joiner: bytes, inviter_bundle: bytes, joiner_bundle: bytes) -> bytes:
    return labelled_hash(labels.MEETING_TRANSCRIPT, inviter, joiner, inviter_bundle, joiner_bundle)


# --- one meeting ---

Step: TypeAlias = (
    InviterShows
    | InviterWaitsForKey
    | InviterWaitsForBundle
    | JoinerWaitsForBundle
    | Recognises
    | Confirms
    | Paired
)


class Meeting(OneAttempt[Step]):
    """The present step of one ceremony in person."""

    __slots__ = ()

    def take_code(self, text: str, *, now_ms: int) -> None:
        """Take the joiner's code as read or pasted.

        What is no answer to the code on our screen changes nothing and may be read again: there is nothing to
        guess. The first answer is the only one.
        """
        read: JoinerCode | None = None
        if isinstance(self.step, InviterShows):
            own_id, shown = self.step.own.office_id, encode_code(self.step.code)
            read = expect_joiner(read_code_text_untrusted(text), own_id, shown)
        with self.burning(now_ms):
            if not isinstance(self.step, InviterShows) or read is None:
                raise _out_of_turn()
            self.step = self.step.take_code(read)

    def receive(self, item: bytes, *, seal_nonce: bytes, now_ms: int) -> bytes | None:
        """Take the other side's next item; return the item to send, if any. ``seal_nonce``: 24 bytes."""
        to_send: bytes | None = None
        with self.burning(now_ms):
            match self.step:
                case InviterWaitsForKey() as step:
                    self.step, to_send = step.receive_key(item)
                case InviterWaitsForBundle() as step:
                    self.step = step.receive_bundle(item)
                case JoinerWaitsForBundle() as step:
                    self.step, to_send = step.receive_bundle(item, seal_nonce)
                case Confirms() as step:
                    self.step = step.receive_confirmation(item)
                case _:
                    raise _out_of_turn()
        return to_send

    def accept(self, *, now_ms: int) -> None:
        """The officer recognised the other office."""
        with self.burning(now_ms):
            if not isinstance(self.step, Recognises):
                raise _out_of_turn()
            self.step = self.step.confirmed()

    def _may_burn(self) -> bool:
        return not isinstance(self.step, Confirms | Paired)


def _out_of_turn() -> PolicyRefused:
    return PolicyRefused("pairing_out_of_turn", "nothing is expected from the other side now; begin again")
