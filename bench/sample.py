"""Two offices with fresh keys, and a real alert from one to the other, in memory.

What the nodes keep in their databases stands here in values; everything else is the product's own code.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from keys import trust
from keys.card import (
    OfficerEntry,
    Role,
    issue_certificate,
    office_id,
    parse_certificate_untrusted,
    parse_officer_list_untrusted,
    sign_officer_list,
)
from keys.primitives import COMPOSITE_SEED_BYTES, CompositePrivateKey, Ed25519PrivateKey, XWingPrivateKey
from keys.secret import SecretBytes
from keys.trust import PairState, TrustedPeer
from protocol import limits
from protocol.alert import Alert
from protocol.conversation import Judgement
from protocol.items import AudienceOpening, Item, KeyAnnouncement, encode_items
from protocol.message import Header, LeafOpening, MessageType, SignedMessage, sign_alert, sign_message
from protocol.receipts import Receipt, ReceiptState, encode_receipts
from protocol.release import OfficerSigner, ReleasedAlert, ReleasePolicy, prepare, release_prepared
from protocol.sealing import (
    OpenedAlert,
    OpenedMessage,
    Recipient,
    open_envelope_untrusted,
    seal,
    sealed_bytes,
)

NOW_MS = 1_790_000_000_000
_SENTENCE = (
    "White pickup with a false plate left the old bridge northbound, two men, tarpaulin over the load. "
)


def _secret(size_bytes: int) -> SecretBytes:
    return SecretBytes(os.urandom(size_bytes))


@dataclass(frozen=True)
class Office:
    """Every key an alert needs at one office."""

    name: str
    country: str
    root: CompositePrivateKey = field(
        default_factory=lambda: CompositePrivateKey.from_seed(_secret(COMPOSITE_SEED_BYTES))
    )
    operational: CompositePrivateKey = field(
        default_factory=lambda: CompositePrivateKey.from_seed(_secret(COMPOSITE_SEED_BYTES))
    )
    officer: Ed25519PrivateKey = field(default_factory=lambda: Ed25519PrivateKey.from_seed(_secret(32)))
    receive: XWingPrivateKey = field(default_factory=lambda: XWingPrivateKey.from_seed(_secret(32)))
    receive_key_id: bytes = field(default_factory=lambda: os.urandom(limits.KEY_ID_BYTES))
    instance: bytes = field(default_factory=lambda: os.urandom(limits.INSTANCE_BYTES))

    @cached_property
    def id(self) -> bytes:
        """Office id, 32 bytes."""
        return office_id(self.root.public_bytes)

    @property
    def signer(self) -> OfficerSigner:
        """Its one officer, logged in."""
        return OfficerSigner(number=1, list_version=1, role=Role.OFFICER, key=self.officer)

    @property
    def announcement(self) -> KeyAnnouncement:
        """What rides beside an alert when a new receive key was made."""
        return KeyAnnouncement(
            key_version=1, rk_gen=2, key_id=self.receive_key_id, public=self.receive.public_bytes
        )

    def as_peer(self) -> TrustedPeer:
        """What the other office knows of it after pairing."""
        peer = TrustedPeer(
            office_id=self.id,
            root_public=self.root.public_bytes,
            certificates=(),
            officer_lists=(),
            revoked_below=0,
            minimum_suite=1,
            state=PairState.ACTIVE,
            since_ms=NOW_MS,
        )
        certificate = issue_certificate(
            self.root,
            key_version=1,
            public=self.operational.public_bytes,
            not_before_ms=NOW_MS - limits.DAY_MS,
            not_after_ms=NOW_MS + 300 * limits.DAY_MS,
            country=self.country,
            name=self.name,
        )
        entry = OfficerEntry(
            number=1,
            public=self.officer.public_bytes,
            role=Role.OFFICER,
            alias="Duty officer",
            from_ms=NOW_MS - limits.DAY_MS,
            until_ms=0,
        )
        listed = sign_officer_list(
            self.operational,
            office=self.id,
            key_version=1,
            list_version=1,
            issued_ms=NOW_MS - limits.DAY_MS,
            officers=(entry,),
        )
        peer = trust.accept_certificate(peer, parse_certificate_untrusted(certificate), NOW_MS)
        return trust.accept_officer_list(peer, parse_officer_list_untrusted(listed))


@dataclass
class Receiver:
    """What opening asks of a node, answered from memory."""

    office: Office
    them: Office
    known: TrustedPeer
    now_ms: int = NOW_MS + limits.MINUTE_MS
    policy: ReleasePolicy = field(default_factory=ReleasePolicy)

    @property
    def my_office_id(self) -> bytes:
        return self.office.id

    def receive_key(self, key_id: bytes) -> tuple[XWingPrivateKey, bytes] | None:
        return (self.office.receive, self.them.id) if key_id == self.office.receive_key_id else None

    def key_id_status(self, key_id: bytes) -> Literal["unknown", "deleted"]:
        del key_id
        return "unknown"

    def peer(self, office_id: bytes) -> TrustedPeer:
        del office_id
        return self.known

    def instances(self, office_id: bytes) -> Sequence[bytes]:
        assert office_id == self.them.id
        return (self.them.instance,)

    def judge(self, office_id: bytes, header: Header, opening: LeafOpening, hh: bytes) -> Judgement:
        del office_id, header, opening, hh
        return Judgement.NEW


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One alert on its way, and the two halves of its life as calls."""

    sender: Office
    receiver: Receiver
    alert: Alert
    items: tuple[Item, ...] = ()

    def release(self) -> ReleasedAlert:
        """As the author's press of the button does it."""
        prepared = prepare(
            self.alert, author=self.sender.signer, audience=(self.receiver.office.id,), random=os.urandom
        )
        return release_prepared(prepared, policy=ReleasePolicy(), now_ms=NOW_MS)

    def send(self) -> bytes:
        """Release, sign and seal: the envelope."""
        opening = an_opening(self.sender)
        recipient = self.receiver.office
        message = sign_alert(
            self.release(),
            msg_id=os.urandom(limits.MESSAGE_ID_BYTES),
            sender=self.sender.id,
            key_version=1,
            signer=self.sender.operational,
            instance=self.sender.instance,
            created_ms=NOW_MS,
            recipient=recipient.id,
            opening=opening,
            items=self.items,
        )
        return seal(
            message,
            [
                Recipient(
                    office_id=recipient.id,
                    instance=self.sender.instance,
                    opening=opening,
                    receive_key_id=recipient.receive_key_id,
                    receive_key_public=recipient.receive.public_bytes,
                )
            ],
            sender=self.sender.id,
            random=os.urandom,
        )[0]

    def open(self, envelope: bytes) -> OpenedAlert:
        """Open and verify; anything but a whole alert ends the bench."""
        opened = open_envelope_untrusted(envelope, self.receiver)
        if not isinstance(opened, OpenedAlert) or opened.alert != self.alert:
            raise AssertionError(f"the sample did not open: {type(opened).__name__}")
        return opened


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainSample:
    """A message that is no alert on its way: no officer signs it."""

    sender: Office
    receiver: Receiver
    type: MessageType
    core: bytes

    def send(self) -> bytes:
        """Sign and seal: the envelope."""
        opening = an_opening(self.sender)
        recipient = self.receiver.office
        message = sign_message(
            type=self.type,
            msg_id=os.urandom(limits.MESSAGE_ID_BYTES),
            sender=self.sender.id,
            key_version=1,
            signer=self.sender.operational,
            instance=self.sender.instance,
            created_ms=NOW_MS,
            expires_ms=NOW_MS + 90 * limits.DAY_MS,
            core=self.core,
            recipient=recipient.id,
            opening=opening,
            items=(),
        )
        return seal(
            message,
            [
                Recipient(
                    office_id=recipient.id,
                    instance=self.sender.instance,
                    opening=opening,
                    receive_key_id=recipient.receive_key_id,
                    receive_key_public=recipient.receive.public_bytes,
                )
            ],
            sender=self.sender.id,
            random=os.urandom,
        )[0]

    def open(self, envelope: bytes) -> OpenedMessage:
        """Open and verify; anything but the whole message ends the bench."""
        opened = open_envelope_untrusted(envelope, self.receiver)
        if not isinstance(opened, OpenedMessage) or opened.message.core != self.core:
            raise AssertionError(f"the sample did not open: {type(opened).__name__}")
        return opened


def receipts_sample(count: int) -> PlainSample:
    """So many receipts under one signature."""
    receipts = [
        Receipt(
            alert_id=os.urandom(limits.HASH_BYTES),
            hh=os.urandom(limits.HASH_BYTES),
            state=ReceiptState.DELIVERED,
            at_ms=NOW_MS,
            log_index=number,
            code="",
            actor="",
        )
        for number in range(count)
    ]
    return _plain(MessageType.RECEIPT, lambda sender: encode_receipts(receipts))


def control_sample() -> PlainSample:
    """A key announcement that found no company."""
    return _plain(MessageType.CONTROL, lambda sender: encode_items([sender.announcement]))


def _plain(type_: MessageType, core: Callable[[Office], bytes]) -> PlainSample:
    sender, recipient = Office("Myitkyina BLO", "MM"), Office("Tengchong BLO", "CN")
    receiver = Receiver(office=recipient, them=sender, known=sender.as_peer())
    return PlainSample(sender=sender, receiver=receiver, type=type_, core=core(sender))


def an_opening(sender: Office, *, blind: bytes | None = None, leaf_index: int = 0) -> LeafOpening:
    """The first message of a conversation; of a shared one, ``blind`` and place come from its release."""
    return LeafOpening(
        blind=blind or os.urandom(limits.SALT_BYTES),
        leaf_index=leaf_index,
        pair_seq=1,
        rk_first=1,
        rk_known=sender.receive_key_id,
        pair_prev=bytes(limits.HASH_BYTES),
    )


def text_alert(text: str) -> Alert:
    """A vehicle and what an officer wrote about it; one officer may release it."""
    return Alert.model_validate(
        {
            "status": "exercise",
            "crime_type": "drug_trafficking",
            "urgency": "expected",
            "severity": "moderate",
            "certainty": "likely",
            "source": "B",
            "information": "2",
            "handling": "H0",
            "tlp": "amber",
            "created_ms": NOW_MS,
            "expires_ms": NOW_MS + 7 * limits.DAY_MS,
            "erase_at_ms": NOW_MS + 30 * limits.DAY_MS,
            "entities": (
                {
                    "entity": "vehicle",
                    "plate": "YGN 7K-4821",
                    "colour": "white",
                    "make": "Toyota",
                    "model": "Hilux",
                },
            ),
            "text": {"language": "en", "text": text},
        }
    )


def message_of(sample: Sample) -> SignedMessage:
    """The message that ``send`` would sign, without its signature: for its sizes."""
    released = sample.release()
    beside = (AudienceOpening(opening=released.opening_for(sample.receiver.office.id)), *sample.items)
    return SignedMessage(
        header=bytes(limits.HEADER_FIXED_BYTES + limits.HASH_BYTES),
        signature=bytes(limits.MESSAGE_SIGNATURE_BYTES),
        core=released.core,
        disclosures=released.disclosures,
        piggyback=encode_items(beside),
    )


def largest_sample(*, announces: bool) -> Sample:
    """An alert with the longest text that still makes the smallest envelope, with or without a new key."""
    sender, recipient = Office("Myitkyina BLO", "MM"), Office("Tengchong BLO", "CN")
    receiver = Receiver(office=recipient, them=sender, known=sender.as_peer())
    items: tuple[Item, ...] = (sender.announcement,) if announces else ()
    smallest_bytes = limits.ENVELOPE_BUCKETS_BYTES[0]

    def sample(text_points: int) -> Sample:
        text = (_SENTENCE * (text_points // len(_SENTENCE) + 1))[: text_points - 1] + "."
        return Sample(sender=sender, receiver=receiver, alert=text_alert(text), items=items)

    fits, too_long = 1, smallest_bytes
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if sealed_bytes(message_of(sample(middle))) == smallest_bytes:
            fits = middle
        else:
            too_long = middle
    return sample(fits)
