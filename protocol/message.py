"""The signed message: a header of fixed layout, its signature, and a body of three parts.

Spec: docs/spec/envelope.md#header. The header holds the hashes of core and piggyback and one *leaf* per
recipient, so that recipient, order and key acknowledgement stand under the signature while recipients of one
alert cannot see each other. Two names come out of it: the hash of the core names the alert, the same for
every recipient; ``hh`` names this delivery. An alert may be signed once for several recipients (*shared*);
``Place`` is what each of them makes of such a header. One rule: an alert is signed from its ReleasedAlert and
in no other way. Encrypts nothing and verifies nothing; ``sealing`` does.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final

from keys import labels
from keys.card import CERTIFICATE_BYTES, SUITE, Certificate, encode_certificate, parse_certificate_untrusted
from keys.errors import BrokenInvariant, MalformedInput
from keys.primitives import CompositePrivateKey, labelled_hash
from protocol import limits
from protocol.disclosures import alert_id
from protocol.items import AudienceLeaves, AudienceOpening, Item, encode_items
from protocol.release import ReleasedAlert

FLAG_BODYLESS: Final = 1
_MAGIC: Final = b"SLW1"
_HEADER: Final = struct.Struct(">4sBBH16s32sI8sQQ32sI32sH")
_OPENING: Final = struct.Struct(">16sHHQQ8s32s")
OPENING_BYTES: Final = _OPENING.size
NO_INSTANCE: Final = bytes(limits.INSTANCE_BYTES)  # in a shared header, in place of a pair's

assert _HEADER.size == limits.HEADER_FIXED_BYTES


class MessageType(IntEnum):
    """What a message is; 4 is not used."""

    ALERT = 1
    CONTROL = 2
    RECEIPT = 3
    RESET = 5
    COVER = 6
    NACK = 7
    CARD = 8


# These bring the certificate they are signed under: they announce a key version nobody knows yet.
WITH_CERTIFICATE: Final = frozenset({MessageType.RESET, MessageType.CARD})


# --- header and leaf ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the operational key signs, 154 bytes and 32 for each leaf."""

    type: MessageType
    suite: int
    msg_id: bytes  # 16
    sender: bytes  # office id, 32
    key_version: int
    instance: bytes  # 8
    created_ms: int
    expires_ms: int
    core_hash: bytes  # 32; of an alert this is the alert id
    core_bytes: int
    piggyback_hash: bytes  # 32
    leaves: tuple[bytes, ...]  # 32 each

    @property
    def is_shared(self) -> bool:
        """Whether it was signed for several recipients."""
        return len(self.leaves) > 1

    def encode(self) -> bytes:
        """The signed bytes."""
        fixed = _HEADER.pack(
            _MAGIC,
            self.type,
            self.suite,
            0,
            self.msg_id,
            self.sender,
            self.key_version,
            self.instance,
            self.created_ms,
            self.expires_ms,
            self.core_hash,
            self.core_bytes,
            self.piggyback_hash,
            len(self.leaves),
        )
        return fixed + b"".join(self.leaves)


def parse_header_untrusted(data: bytes) -> Header:
    """Read a header that fills ``data``. MalformedInput (``header_malformed``)."""
    if len(data) < limits.HEADER_FIXED_BYTES:
        raise MalformedInput("header_malformed", "a header is cut short")
    (
        magic,
        kind,
        suite,
        flags,
        msg_id,
        sender,
        key_version,
        instance,
        created_ms,
        expires_ms,
        core_hash,
        core_bytes,
        piggyback_hash,
        leaf_count,
    ) = _HEADER.unpack_from(data)
    leaves_bytes = len(data) - limits.HEADER_FIXED_BYTES
    faults = {
        "magic": magic != _MAGIC,
        "type": kind not in MessageType.__members__.values(),
        # Another suite has another signature: without this program knowing it, nothing can be verified.
        "suite": suite != SUITE,
        "flags": flags != 0,
        "times": max(created_ms, expires_ms) > limits.TIME_MS_MAX,
        "core length": core_bytes > limits.BODY_BYTES_MAX,
        "leaf count": not _is_leaf_count(leaf_count) or leaves_bytes != leaf_count * limits.HASH_BYTES,
        # Anything but an alert speaks of one pair; and no pair's instance may show in what others read.
        "type for several": leaf_count > 1 and kind != MessageType.ALERT,
        "instance": (leaf_count > 1) is not (instance == NO_INSTANCE),
    }
    for what, is_wrong in faults.items():
        if is_wrong:
            raise MalformedInput("header_malformed", f"a header has a wrong {what}")
    return Header(
        type=MessageType(kind),
        suite=suite,
        msg_id=msg_id,
        sender=sender,
        key_version=key_version,
        instance=instance,
        created_ms=created_ms,
        expires_ms=expires_ms,
        core_hash=core_hash,
        core_bytes=core_bytes,
        piggyback_hash=piggyback_hash,
        leaves=tuple(
            data[at : at + limits.HASH_BYTES]
            for at in range(limits.HEADER_FIXED_BYTES, len(data), limits.HASH_BYTES)
        ),
    )


def _is_leaf_count(count: int) -> bool:
    return 1 <= count <= limits.RECIPIENTS_MAX and count & (count - 1) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafOpening:
    """What opens one leaf of a header: kept by sender and recipient, and shown to an auditor.

    ``flags`` is not under the leaf: bit 0 says that this copy travels without its body.
    """

    blind: bytes  # 16
    leaf_index: int
    flags: int = 0
    pair_seq: int
    rk_first: int
    rk_known: bytes  # 8
    pair_prev: bytes  # 32

    @property
    def is_bodyless(self) -> bool:
        """Whether this copy has no body."""
        return bool(self.flags & FLAG_BODYLESS)

    def encode(self) -> bytes:
        """76 bytes: bytes 32 to 107 of what is wrapped."""
        return _OPENING.pack(
            self.blind,
            self.leaf_index,
            self.flags,
            self.pair_seq,
            self.rk_first,
            self.rk_known,
            self.pair_prev,
        )

    def leaf(self, recipient: bytes) -> bytes:
        """The leaf it opens for ``recipient`` (office id), 32 bytes."""
        return labelled_hash(labels.LEAF, *self._parts(recipient))

    def shared_leaf(self, recipient: bytes, instance: bytes) -> bytes:
        """The same in a shared header, which does not name the pair's instance: the leaf does. 32 bytes."""
        return labelled_hash(labels.SHARED_LEAF, *self._parts(recipient), instance)

    def _parts(self, recipient: bytes) -> tuple[bytes, ...]:
        return (
            self.blind,
            recipient,
            struct.pack(">QQ", self.pair_seq, self.rk_first),
            self.rk_known,
            self.pair_prev,
        )


def decode_opening_untrusted(data: bytes) -> LeafOpening:
    """The inverse of ``LeafOpening.encode``; MalformedInput (``leaf_opening``)."""
    if len(data) != _OPENING.size:
        raise MalformedInput("leaf_opening", "a leaf opening has the wrong length")
    blind, leaf_index, flags, pair_seq, rk_first, rk_known, pair_prev = _OPENING.unpack(data)
    if flags & ~FLAG_BODYLESS:
        raise MalformedInput("leaf_opening", "a leaf opening has a flag nobody knows")
    return LeafOpening(
        blind=blind,
        leaf_index=leaf_index,
        flags=flags,
        pair_seq=pair_seq,
        rk_first=rk_first,
        rk_known=rk_known,
        pair_prev=pair_prev,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One recipient's place under a header: its leaf, and header and ``hh`` as they are for this pair.

    Of a shared header everybody makes other ones, so that two recipients who compare what they keep find the
    alert alike and nothing else: the instance is the pair's, the message id comes out of the leaf.
    """

    leaf: bytes  # 32
    header: Header
    hh: bytes  # 32


def place(raw_header: bytes, opening: LeafOpening, recipient: bytes, instance: bytes) -> Place:
    """Where ``opening`` puts ``recipient`` under a header that parses. Whether the leaf stands there in the
    header is not looked at: ``Place.leaf`` says which one should.

    ``instance`` is the pair's; a header for one recipient names it itself.
    """
    header = parse_header_untrusted(raw_header)
    if not header.is_shared:
        return Place(leaf=opening.leaf(recipient), header=header, hh=header_hash(raw_header))
    leaf = opening.shared_leaf(recipient, instance)
    msg_id = labelled_hash(labels.SHARED_MESSAGE_ID, header.msg_id, leaf)[: limits.MESSAGE_ID_BYTES]
    return Place(
        leaf=leaf,
        header=replace(header, instance=instance, msg_id=msg_id),
        hh=labelled_hash(labels.SHARED_HEADER, raw_header, leaf),
    )


# --- the signed message ---


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedMessage:
    """Header, signature and body: what the outbox keeps until the peer's receipt, and the inbox after it.

    Without a body (erased, expired, cancelled) the three parts are empty; it still verifies.
    """

    header: bytes
    signature: bytes = field(repr=False)  # 3373
    core: bytes = field(repr=False)
    disclosures: bytes = field(repr=False)
    piggyback: bytes = field(repr=False)

    @property
    def hh(self) -> bytes:
        """Names this delivery, 32 bytes: replay and ``pair_prev`` use it. Of a shared message, see Place."""
        return header_hash(self.header)

    @property
    def alert_id(self) -> bytes:
        """Names the alert, 32 bytes, for a message of type ALERT."""
        return parse_header_untrusted(self.header).core_hash

    @property
    def has_body(self) -> bool:
        """Whether the body is still here; no body has an empty core."""
        return bool(self.core)

    def without_body(self) -> "SignedMessage":
        """The same message, its body forgotten."""
        return SignedMessage(
            header=self.header, signature=self.signature, core=b"", disclosures=b"", piggyback=b""
        )

    def to_bytes(self) -> bytes:
        """u16 length | header | signature | body; body = three times u32 length | part."""
        outside = struct.pack(">H", len(self.header)) + self.header + self.signature
        if not self.has_body:
            return outside
        parts = (self.core, self.disclosures, self.piggyback)
        return outside + b"".join(struct.pack(">I", len(part)) + part for part in parts)

    @staticmethod
    def from_bytes(data: bytes) -> "SignedMessage":
        """The inverse of ``to_bytes``; MalformedInput (``message_malformed``). Verifies nothing."""
        header, at = _take(data, 0, 2)
        signature_end = at + limits.MESSAGE_SIGNATURE_BYTES
        if signature_end > len(data):
            raise MalformedInput("message_malformed", "a message ends inside its signature")
        signature, at = data[at:signature_end], signature_end
        core = disclosures = piggyback = b""
        if at < len(data):
            core, at = _take(data, at, 4)
            disclosures, at = _take(data, at, 4)
            piggyback, at = _take(data, at, 4)
            if at != len(data) or not core:
                raise MalformedInput("message_malformed", "a body does not fill its message")
        return SignedMessage(
            header=header, signature=signature, core=core, disclosures=disclosures, piggyback=piggyback
        )


def _take(data: bytes, at: int, length_bytes: int) -> tuple[bytes, int]:
    """One length-prefixed part and where it ends."""
    start = at + length_bytes
    if start > len(data):
        raise MalformedInput("message_malformed", "a message ends inside a length")
    end = start + int.from_bytes(data[at:start], "big")
    if end > len(data):
        raise MalformedInput("message_malformed", "a message ends inside a part")
    return data[start:end], end


def header_hash(header: bytes) -> bytes:
    """hh of a header for one recipient, 32 bytes."""
    return labelled_hash(labels.HEADER, header)


def certificate_core(certificate: Certificate, items: Sequence[Item]) -> bytes:
    """The core of a RESET or CARD message: the certificate it is signed under, then items."""
    return encode_certificate(certificate) + encode_items(items)


def split_certificate_core(core: bytes) -> tuple[Certificate, bytes]:
    """The certificate a RESET or CARD brings, not yet verified, and the bytes of its items."""
    return parse_certificate_untrusted(core[:CERTIFICATE_BYTES]), core[CERTIFICATE_BYTES:]


def sign_alert(
    released: ReleasedAlert,
    *,
    msg_id: bytes,
    sender: bytes,
    key_version: int,
    signer: CompositePrivateKey,
    instance: bytes,
    created_ms: int,
    recipient: bytes,
    opening: LeafOpening,
    items: Sequence[Item] = (),
) -> SignedMessage:
    """Sign a released alert to one of its recipients; ``items`` ride beside it.

    Adds the audience opening. PolicyRefused (``not_in_audience``) for an office outside the audience.
    """
    beside = (AudienceOpening(opening=released.opening_for(recipient)), *items)
    return _sign(
        kind=MessageType.ALERT,
        msg_id=msg_id,
        sender=sender,
        key_version=key_version,
        signer=signer,
        instance=instance,
        created_ms=created_ms,
        expires_ms=released.expires_ms,
        core=released.core,
        disclosures=released.disclosures,
        piggyback=encode_items(beside),
        leaves=(opening.leaf(recipient),),
    )


def sign_shared_alert(
    released: ReleasedAlert,
    *,
    msg_id: bytes,
    sender: bytes,
    key_version: int,
    signer: CompositePrivateKey,
    created_ms: int,
    leaves: Sequence[bytes],
) -> SignedMessage:
    """Sign a released alert once, for several recipients; each will be sealed the same body.

    ``leaves``: from ``shared_leaves``. BrokenInvariant (``leaves_wrong``) for any other number of them.
    """
    if len(leaves) < 2 or len(leaves) != len(released.audience_leaves):
        raise BrokenInvariant("leaves_wrong", "a shared header has one leaf for each leaf of its audience")
    return _sign(
        kind=MessageType.ALERT,
        msg_id=msg_id,
        sender=sender,
        key_version=key_version,
        signer=signer,
        instance=NO_INSTANCE,
        created_ms=created_ms,
        expires_ms=released.expires_ms,
        core=released.core,
        disclosures=released.disclosures,
        piggyback=encode_items((AudienceLeaves(leaves=released.audience_leaves),)),
        leaves=tuple(leaves),
    )


def shared_leaves(
    released: ReleasedAlert, taken: Mapping[int, bytes], random: Callable[[int], bytes]
) -> tuple[bytes, ...]:
    """The leaves of a shared header: ``taken`` at their places, 32 random bytes at every other one."""
    count = len(released.audience_leaves)
    return tuple(taken[at] if at in taken else random(limits.HASH_BYTES) for at in range(count))


def sign_message(
    *,
    type: MessageType,
    msg_id: bytes,
    sender: bytes,
    key_version: int,
    signer: CompositePrivateKey,
    instance: bytes,
    created_ms: int,
    expires_ms: int,
    core: bytes,
    recipient: bytes,
    opening: LeafOpening,
    items: Sequence[Item] = (),
) -> SignedMessage:
    """Sign anything but an alert to one peer; ``items`` ride beside ``core``, the encoded body.

    ``core`` comes from ``encode_items``, ``encode_receipts`` or ``certificate_core``.
    An alert is signed by ``sign_alert``, from what was released: BrokenInvariant (``not_released``) here.
    """
    if type is MessageType.ALERT:
        raise BrokenInvariant("not_released", "an alert is signed from its ReleasedAlert only")
    return _sign(
        kind=type,
        msg_id=msg_id,
        sender=sender,
        key_version=key_version,
        signer=signer,
        instance=instance,
        created_ms=created_ms,
        expires_ms=expires_ms,
        core=core,
        disclosures=b"",
        piggyback=encode_items(items),
        leaves=(opening.leaf(recipient),),
    )


def _sign(
    *,
    kind: MessageType,
    msg_id: bytes,
    sender: bytes,
    key_version: int,
    signer: CompositePrivateKey,
    instance: bytes,
    created_ms: int,
    expires_ms: int,
    core: bytes,
    disclosures: bytes,
    piggyback: bytes,
    leaves: tuple[bytes, ...],
) -> SignedMessage:
    header = Header(
        type=kind,
        suite=SUITE,
        msg_id=msg_id,
        sender=sender,
        key_version=key_version,
        instance=instance,
        created_ms=created_ms,
        expires_ms=expires_ms,
        core_hash=alert_id(core),
        core_bytes=len(core),
        piggyback_hash=labelled_hash(labels.PIGGYBACK, piggyback),
        leaves=leaves,
    ).encode()
    return SignedMessage(
        header=header,
        signature=signer.sign(labels.MESSAGE, header),
        core=core,
        disclosures=disclosures,
        piggyback=piggyback,
    )
