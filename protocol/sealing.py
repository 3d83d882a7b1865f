"""A signed message becomes an envelope; an envelope becomes an opened alert, or a reason why not.

Spec: docs/spec/envelope.md#opening. What is sealed is a signed message, padded to one of four sizes, under a
content key used once and kept by nobody.

One rule: ``open_envelope_untrusted`` is the only way in, and its order is the order of the spec. Two failures
are told apart there. *Junk* does not hold up to the leaf, the anchor only sender and recipient can make: it
is raised as MalformedInput or VerificationFailed and leaves no mark, because anyone who learnt a receive key
could have made it. *Refused* is the sender's own fault, signed by it: a value with a code, never a partial
alert. Storing, marking, answering and deleting at the broker belong to the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Literal, Protocol, TypeAlias, TypedDict

from keys import labels, trust
from keys.card import Certificate, OfficerEntry, verify_certificate
from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused, Unavailable, VerificationFailed
from keys.primitives import (
    XWingPrivateKey,
    blob_ciphertext_bytes,
    blob_decrypt,
    blob_encrypt,
    composite_verify,
    constant_time_equal,
    labelled_hash,
    wrap,
)
from keys.secret import SecretBytes
from keys.trust import PairState, TrustedPeer
from protocol import limits
from protocol.alert import Alert
from protocol.conversation import Judgement
from protocol.disclosures import (
    AlertCore,
    Disclosure,
    Randomness,
    alert_id,
    decode_core_untrusted,
    decode_disclosures_untrusted,
    join_alert,
)
from protocol.envelope import VERSION, Envelope, envelope_hash, parse_envelope_untrusted
from protocol.items import AudienceLeaves, AudienceOpening, Item, decode_items_untrusted
from protocol.message import (
    FLAG_BODYLESS,
    NO_INSTANCE,
    OPENING_BYTES,
    WITH_CERTIFICATE,
    Header,
    LeafOpening,
    MessageType,
    Place,
    SignedMessage,
    decode_opening_untrusted,
    parse_header_untrusted,
    place,
    split_certificate_core,
)
from protocol.receipts import Receipt, decode_receipts_untrusted
from protocol.release import ReleasePolicy, check_release, opening_among_untrusted

CONTENT_KEY_BYTES: Final = 32
# Length fields of an item: u16 of the header, u32 of each of the three body parts, the padding mark.
_FRAMING_BYTES: Final = 2 + 3 * 4 + 1

_HINT_BYTES: Final = 4  # of the pair's instance, behind the opening of a leaf of a shared header; else zeros

assert CONTENT_KEY_BYTES + OPENING_BYTES + _HINT_BYTES == limits.LEAF_PLAINTEXT_BYTES


# --- sealing ---


def _largest_plaintext(bucket_bytes: int) -> int:
    """How many bytes, padding mark included, exactly fill an item of this size."""
    blob_bytes = bucket_bytes - limits.BLOB_OFFSET_BYTES
    plaintext_bytes = blob_bytes
    while blob_ciphertext_bytes(plaintext_bytes) > blob_bytes:
        plaintext_bytes -= 1
    if blob_ciphertext_bytes(plaintext_bytes) != blob_bytes:
        raise BrokenInvariant("envelope_size", "no plaintext fills this size exactly")
    return plaintext_bytes


_PLAINTEXT_BYTES: Final = {bucket: _largest_plaintext(bucket) for bucket in limits.ENVELOPE_BUCKETS_BYTES}
# Body room of the smallest and the largest item for one recipient, as the spec states them.
BODY_BYTES_IN_SMALLEST: Final = (
    _PLAINTEXT_BYTES[limits.ENVELOPE_BUCKETS_BYTES[0]]
    - limits.HEADER_FIXED_BYTES
    - limits.HASH_BYTES
    - limits.MESSAGE_SIGNATURE_BYTES
    - _FRAMING_BYTES
)
assert (
    _PLAINTEXT_BYTES[limits.ENVELOPE_BYTES_MAX]
    - limits.HEADER_FIXED_BYTES
    - limits.HASH_BYTES
    - limits.MESSAGE_SIGNATURE_BYTES
    - _FRAMING_BYTES
    >= limits.BODY_BYTES_MAX + limits.XWING_PUBLIC_BYTES
), "the largest body leaves room for an announcement"


def sealed_bytes(message: SignedMessage) -> int:
    """Size of the item ``seal`` would make: a bucket. PolicyRefused (``too_large``) beyond the last."""
    needed_bytes = len(message.to_bytes()) + 1
    for bucket_bytes, plaintext_bytes in _PLAINTEXT_BYTES.items():
        if needed_bytes <= plaintext_bytes:
            return bucket_bytes
    over_bytes = needed_bytes - _PLAINTEXT_BYTES[limits.ENVELOPE_BYTES_MAX]
    raise PolicyRefused("too_large", f"this message is {over_bytes} bytes too large; shorten its text")


def _wrap_info(sender: bytes, recipient: bytes, key_id: bytes, blob_hash: bytes) -> bytes:
    """Everything the wrapped key is bound to; HPKE has no public associated data in this library."""
    return labels.WRAP + bytes([VERSION]) + sender + recipient + key_id + blob_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """Whom one copy of a message is sealed to: its office, the pair's instance, its leaf, and its key."""

    office_id: bytes  # 32
    instance: bytes  # 8, ours in this pair
    opening: LeafOpening
    receive_key_id: bytes  # 8
    receive_key_public: bytes = field(repr=False)  # 1216


def seal(
    message: SignedMessage,
    recipients: Sequence[Recipient],
    *,
    sender: bytes,
    random: Randomness,
    bodyless: bool = False,
) -> tuple[bytes, ...]:
    """One item for each recipient, in order, all around one blob.

    The content key is fresh and exists only inside this call. The same message may be sealed again at any
    time, to the same or another receive key; ``bodyless`` leaves the body out. PolicyRefused ``too_large``;
    VerificationFailed ``public_key_invalid`` for an unusable key.
    """
    if bodyless:
        message = message.without_body()
    plaintext_bytes = _PLAINTEXT_BYTES[sealed_bytes(message)]
    padded = message.to_bytes() + b"\x80"
    padded += bytes(plaintext_bytes - len(padded))
    content_key = SecretBytes(random(CONTENT_KEY_BYTES))
    blob = blob_encrypt(content_key, labels.BLOB, padded)
    blob_hash = labelled_hash(labels.BLOB_HASH, blob)
    is_shared = parse_header_untrusted(message.header).is_shared
    items: list[bytes] = []
    for to in recipients:
        marked = replace(to.opening, flags=0 if message.has_body else FLAG_BODYLESS)
        hint = to.instance[:_HINT_BYTES] if is_shared else bytes(_HINT_BYTES)
        wrapped = wrap(
            to.receive_key_public,
            content_key.reveal() + marked.encode() + hint,
            _wrap_info(sender, to.office_id, to.receive_key_id, blob_hash),
        )
        items.append(Envelope(key_id=to.receive_key_id, wrap=wrapped, blob=blob).to_bytes())
    # Kept by nobody: with it, a recorded item could be opened after both offices erased its content.
    content_key.wipe()
    return tuple(items)


# --- opening ---


class Mark(StrEnum):
    """What the screen says beside a message that was nevertheless delivered."""

    CLOCK_SUSPECT = "clock_suspect"  # created far ahead of us, or outside its certificate's life
    CERTIFICATE_EXPIRED = "certificate_expired"  # the sender should have renewed; only revocation stops
    STALE = "stale"  # after expires_ms
    ERASE_DUE = "erase_due"  # after erase_at_ms: recorded and erased unshown
    EMERGENCY = "emergency"  # released by one officer alone


class OpeningContext(Protocol):
    """What opening asks of the node. Reads only; every answer is of committed state."""

    @property
    def my_office_id(self) -> bytes:
        """32 bytes."""

    @property
    def now_ms(self) -> int:
        """The later of the system clock and the newest time in the node's own log."""

    @property
    def policy(self) -> ReleasePolicy:
        """What this office asks of alerts it takes."""

    def receive_key(self, key_id: bytes) -> tuple[XWingPrivateKey, bytes] | None:
        """The private key of that id and the office id of the one peer it was announced to."""

    def key_id_status(self, key_id: bytes) -> Literal["unknown", "deleted"]:
        """Why there is no such key."""

    def peer(self, office_id: bytes) -> TrustedPeer:
        """What is known of a peer that has a receive key."""

    def instances(self, office_id: bytes) -> Sequence[bytes]:
        """Every instance of this peer that is remembered, the present one first. 8 bytes each."""

    def judge(self, office_id: bytes, header: Header, opening: LeafOpening, hh: bytes) -> Judgement:
        """The window's word, after comparing ``hh`` with the one stored for this number and predecessor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LateDuplicate:
    """For a key deleted once everything below it had arrived: delete at the broker, answer nothing."""

    key_id: bytes
    envelope_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownKey:
    """For a receive key this node never had: the sender needs a NACK with the current announcement."""

    key_id: bytes
    envelope_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingCard:
    """Signed under a key version without a certificate here: keep it, take it again when that arrives."""

    sender: bytes
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Signature and leaf hold: the sender really sent this to us, in this place."""

    sender: bytes
    key_id: bytes  # the receive key it came under
    header: Header
    hh: bytes
    opening: LeafOpening
    message: SignedMessage


class _Verified(TypedDict):
    """The fields of Verified, on their way into one of its kinds."""

    sender: bytes
    key_id: bytes
    header: Header
    hh: bytes
    opening: LeafOpening
    message: SignedMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingPair(Verified):
    """Keep it until the pairing is confirmed or resumed, or the reset it follows has arrived.

    ``code``: ``pair_half``, ``pair_suspended`` or ``other_instance``.
    """

    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingOfficerList(Verified):
    """Names an officer list that has not arrived. It may be among ``piggyback_items``: take that first."""

    piggyback_items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate(Verified):
    """Taken in before: delete at the broker, acknowledge again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivocation(Verified):
    """A second message in a place that is taken: keep both as evidence and freeze the conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Verified):
    """Authentic but not acceptable: mark its number, keep its bytes, answer ``refused`` with ``code``."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetNotNewer(Verified):
    """A reset under a version that is not above every known one: nothing of it counts, nor its number."""

    known_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedBodyless(Verified):
    """Expired, cancelled or erased at the sender: mark its number, show that it expired before delivery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedAlert(Verified):
    """An alert, whole and released to this office."""

    alert_id: bytes
    alert: Alert = field(repr=False)
    core: AlertCore = field(repr=False)
    disclosures: tuple[Disclosure, ...] = field(repr=False)
    piggyback_items: tuple[Item, ...]
    marks: frozenset[Mark]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedMessage(Verified):
    """Anything but an alert. ``items`` and ``receipts`` are the body, ``piggyback_items`` rode beside it.

    ``certificate`` is what a RESET or CARD was signed under, already verified under the peer's root.
    """

    items: tuple[Item, ...]
    receipts: tuple[Receipt, ...]
    certificate: Certificate | None
    piggyback_items: tuple[Item, ...]
    marks: frozenset[Mark]


Opened: TypeAlias = (
    OpenedAlert
    | OpenedMessage
    | OpenedBodyless
    | Duplicate
    | LateDuplicate
    | UnknownKey
    | PendingCard
    | PendingPair
    | PendingOfficerList
    | Refused
    | ResetNotNewer
    | Equivocation
)


def open_envelope_untrusted(data: bytes, context: OpeningContext) -> Opened:
    """Open one item; the steps and their order are those of docs/spec/envelope.md#opening.

    Junk, which leaves no mark, is MalformedInput or VerificationFailed: whatever fails up to the leaf, and a
    number outside the window. Everything after that is a value; no other exception leaves this function.
    """
    # 1. Size is one of four, version is known.
    envelope = parse_envelope_untrusted(data)

    # 2. The key id names one receive key, and with it the only office this can come from.
    found = context.receive_key(envelope.key_id)
    if found is None:
        named = envelope_hash(data)
        if context.key_id_status(envelope.key_id) == "deleted":
            return LateDuplicate(key_id=envelope.key_id, envelope_hash=named)
        return UnknownKey(key_id=envelope.key_id, envelope_hash=named)
    private_key, sender = found

    # 3. Unwrap content key and leaf opening, bound to both offices, the key id and the blob.
    blob_hash = labelled_hash(labels.BLOB_HASH, envelope.blob)
    info = _wrap_info(sender, context.my_office_id, envelope.key_id, blob_hash)
    unwrapped = private_key.unwrap(envelope.wrap, info)
    if len(unwrapped) != limits.LEAF_PLAINTEXT_BYTES:
        raise MalformedInput("leaf_opening", "what was wrapped has the wrong form")
    content_key = SecretBytes(unwrapped[:CONTENT_KEY_BYTES])
    opening = decode_opening_untrusted(unwrapped[CONTENT_KEY_BYTES:-_HINT_BYTES])
    hint = unwrapped[-_HINT_BYTES:]
    # A traceback of a later step must not carry the key.
    del unwrapped

    # 4. Decrypt to the end: nothing is looked at before the last tag held.
    padded = blob_decrypt(content_key, labels.BLOB, envelope.blob)
    content_key.wipe()

    # 5. Padding is one 0x80 and zeros, nothing else; flags and body agree.
    unpadded = padded.rstrip(b"\x00")
    if not unpadded.endswith(b"\x80"):
        raise MalformedInput("padding", "the padding has no mark")
    message = SignedMessage.from_bytes(unpadded[:-1])
    if message.has_body is opening.is_bodyless:
        raise MalformedInput("message_malformed", "body and flag disagree")

    # 6. The header is within its bounds.
    header = parse_header_untrusted(message.header)
    if any(hint) and not header.is_shared:
        raise MalformedInput("leaf_opening", "what was wrapped has the wrong form")

    # 7. It names the office this receive key was announced to, or someone passes on what was not for us.
    if header.sender != sender:
        raise VerificationFailed("sender_mismatch", "the sender is not the office this key was given to")

    # 8. Its key version has a certificate here, or brings one, and is not revoked.
    peer = context.peer(sender)
    is_reset = header.type is MessageType.RESET
    newest_known = trust.newest_known_version(peer)
    certificate: Certificate | None = None
    if header.type in WITH_CERTIFICATE and message.has_body:
        certificate, _ = split_certificate_core(message.core)
        if certificate.key_version != header.key_version:
            raise VerificationFailed("certificate_mismatch", "the certificate is not the one signed under")
    if certificate is not None and is_reset and header.key_version <= newest_known:
        # Its office shall hear why it counts for nothing. Nothing of it is learnt, not even this certificate.
        verify_certificate(certificate, peer.root_public)
        signed_under = certificate
    else:
        if certificate is not None:
            peer = trust.accept_certificate(peer, certificate, context.now_ms)
        try:
            signed_under = trust.certificate_for_version(peer, header.key_version)
        except Unavailable:
            return PendingCard(sender=sender, version=header.key_version)

    # 9. Both halves of the signature hold.
    composite_verify(signed_under.public, labels.MESSAGE, message.header, message.signature)

    # 10. Core and piggyback are the ones under the header.
    if message.has_body:
        _check_hash("core_mismatch", alert_id(message.core), header.core_hash)
        _check_hash(
            "piggyback_mismatch",
            labelled_hash(labels.PIGGYBACK, message.piggyback),
            header.piggyback_hash,
        )
        if len(message.core) != header.core_bytes:
            raise VerificationFailed("core_mismatch", "the core is not as long as the header says")

    # 11. The leaf opens for my id: the sender meant us, with this number, order and key acknowledgement.
    #     A shared header names no instance. One that is not known yet cannot be told from a leaf of somebody
    #     else: it waits, as a message of an unknown instance does, for a reset to announce it.
    if opening.leaf_index >= len(header.leaves):
        raise VerificationFailed("not_for_me", "the header has no such leaf")
    stated = header.leaves[opening.leaf_index]
    mine, knows_instance = _my_place(message.header, header, opening, hint, context, sender)
    if knows_instance:
        _check_hash("not_for_me", mine.leaf, stated)
    header, hh = mine.header, mine.hh
    verified: _Verified = {
        "sender": sender,
        "key_id": envelope.key_id,
        "header": header,
        "hh": hh,
        "opening": opening,
        "message": message,
    }

    if not knows_instance:
        # Before anything that marks a number: nothing shows yet that this one was given to us.
        return PendingPair(**verified, code="other_instance")

    # 12. The suite has not gone back below what the peer asked for.
    try:
        trust.check_suite(peer, header.suite)
    except VerificationFailed as error:
        return Refused(**verified, code=error.code, detail=error.detail)

    # 13. Pairing, window and replay table. Only a reset may come from an instance nobody announced; a
    #     suspended pair takes new keys only.
    if peer.state is PairState.HALF:
        return PendingPair(**verified, code="pair_half")
    if peer.state is PairState.SUSPENDED and header.type not in WITH_CERTIFICATE:
        return PendingPair(**verified, code="pair_suspended")
    match context.judge(sender, header, opening, hh):
        case Judgement.DUPLICATE:
            return Duplicate(**verified)
        case Judgement.EQUIVOCATION:
            return Equivocation(**verified)
        case Judgement.BEYOND_WINDOW:
            raise VerificationFailed("beyond_window", "the number is outside the window")
        case Judgement.OTHER_INSTANCE if not is_reset:
            return PendingPair(**verified, code="other_instance")

    if not message.has_body:
        return OpenedBodyless(**verified)
    if is_reset and header.key_version <= newest_known:
        return ResetNotNewer(**verified, known_version=newest_known)

    # 14. and 15. The body is decoded under its limits and disclosures match; release and policy hold.
    piggyback_items: tuple[Item, ...] = ()
    try:
        piggyback_items = decode_items_untrusted(message.piggyback)
        marks = _marks(header, signed_under, context.now_ms)
        if header.type is not MessageType.ALERT:
            items, receipts = _decode_body(message, header)
            return OpenedMessage(
                **verified,
                items=items,
                receipts=receipts,
                certificate=certificate,
                piggyback_items=piggyback_items,
                marks=marks,
            )
        core = decode_core_untrusted(message.core)
        disclosures = decode_disclosures_untrusted(message.disclosures)
        alert = join_alert(core, disclosures)
        if core.expires_ms != header.expires_ms:
            raise PolicyRefused("expiry_differs", "header and alert expire at different times")
        audience_opening = _audience_opening(header, opening, piggyback_items, context.my_office_id)
        is_emergency = _check_released(alert, core, peer, audience_opening, context)
    except Unavailable:
        return PendingOfficerList(**verified, piggyback_items=piggyback_items)
    except (MalformedInput, VerificationFailed, PolicyRefused) as error:
        return Refused(**verified, code=error.code, detail=error.detail)
    if is_emergency:
        marks |= {Mark.EMERGENCY}
    if context.now_ms >= core.erase_at_ms:
        marks |= {Mark.ERASE_DUE}
    return OpenedAlert(
        **verified,
        alert_id=header.core_hash,
        alert=alert,
        core=core,
        disclosures=disclosures,
        piggyback_items=piggyback_items,
        marks=marks,
    )


def _my_place(
    raw_header: bytes,
    header: Header,
    opening: LeafOpening,
    hint: bytes,
    context: OpeningContext,
    sender: bytes,
) -> tuple[Place, bool]:
    """Our place under the header, and whether the instance it is in is known here."""
    here = context.my_office_id
    if not header.is_shared:
        return place(raw_header, opening, here, header.instance), True
    known = [instance for instance in context.instances(sender) if instance.startswith(hint)]
    places = [place(raw_header, opening, here, instance) for instance in known or [NO_INSTANCE]]
    right = [found for found in places if found.leaf == header.leaves[opening.leaf_index]]
    return (right or places)[0], bool(known)


def _check_hash(code: str, computed: bytes, stated: bytes) -> None:
    if not constant_time_equal(computed, stated):
        raise VerificationFailed(code, "a hash under the signature does not hold")


def _decode_body(message: SignedMessage, header: Header) -> tuple[tuple[Item, ...], tuple[Receipt, ...]]:
    """Items and receipts of a message that is no alert."""
    if message.disclosures:
        # Nothing signed commits to them here.
        raise PolicyRefused("disclosures_unsigned", "only an alert has disclosures")
    if header.type is MessageType.RECEIPT:
        return (), decode_receipts_untrusted(message.core)
    if header.type in WITH_CERTIFICATE:
        return decode_items_untrusted(split_certificate_core(message.core)[1]), ()
    return decode_items_untrusted(message.core), ()


def _audience_opening(
    header: Header, opening: LeafOpening, items: tuple[Item, ...], office_id: bytes
) -> bytes | None:
    """What shows that the officers released it to this office; of a shared message everybody's leaves do,
    together with the recipient's own salt and place, which are those of its leaf in the header."""
    if not header.is_shared:
        openings = [item.opening for item in items if isinstance(item, AudienceOpening)]
        return openings[0] if len(openings) == 1 else None
    match items:
        case (AudienceLeaves(leaves=leaves),) if len(leaves) == len(header.leaves):
            return opening_among_untrusted(leaves, office_id, opening.blind, opening.leaf_index)
        case _:
            # Whatever else rode on it would be read by everybody although it speaks of one pair.
            raise PolicyRefused("piggyback_shared", "items for one peer ride on a message to several")


def _check_released(
    alert: Alert,
    core: AlertCore,
    peer: TrustedPeer,
    audience_opening: bytes | None,
    context: OpeningContext,
) -> bool:
    def officer(list_version: int, number: int) -> OfficerEntry:
        return trust.officer_key(peer, list_version, number)

    return check_release(
        alert,
        core,
        officer=officer,
        office_id=context.my_office_id,
        opening=audience_opening,
        policy=context.policy,
    )


def _marks(header: Header, certificate: Certificate, now_ms: int) -> frozenset[Mark]:
    """Clocks mark and never stop: an office with a flat battery on its main board must get through."""
    found: set[Mark] = set()
    is_outside = not certificate.not_before_ms <= header.created_ms < certificate.not_after_ms
    if header.created_ms > now_ms + limits.CLOCK_AHEAD_MS_MAX or is_outside:
        found.add(Mark.CLOCK_SUSPECT)
    if now_ms >= certificate.not_after_ms:
        found.add(Mark.CERTIFICATE_EXPIRED)
    if now_ms >= header.expires_ms:
        found.add(Mark.STALE)
    return frozenset(found)
