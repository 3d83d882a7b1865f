"""Two paired offices with every key from a fixed seed, and a forger who holds them: for tests and vectors.

``Office`` is one end as far as sealing sees it; ``Desk`` is what it knows of the other and answers what
opening asks. ``forge`` builds an envelope from parts without any of the checks that ``sealing`` makes.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from keys import labels, trust
from keys.card import (
    Certificate,
    OfficerEntry,
    Role,
    issue_certificate,
    office_id,
    parse_certificate_untrusted,
    parse_officer_list_untrusted,
    sign_officer_list,
)
from keys.primitives import (
    CompositePrivateKey,
    Ed25519PrivateKey,
    XWingPrivateKey,
    blob_encrypt,
    labelled_hash,
    wrap,
)
from keys.secret import SecretBytes
from keys.trust import PairState, TrustedPeer
from protocol import limits
from protocol.alert import Alert
from protocol.conversation import Judgement
from protocol.items import Item
from protocol.message import (
    Header,
    LeafOpening,
    MessageType,
    SignedMessage,
    shared_leaves,
    sign_alert,
    sign_message,
    sign_shared_alert,
)
from protocol.release import OfficerSigner, ReleasedAlert, ReleasePolicy, release
from protocol.sealing import Recipient, seal

NOW_MS = 1_790_000_000_000
YEAR_MS = 366 * limits.DAY_MS


def seed(name: str, length: int) -> SecretBytes:
    """The secret of that name, the same in every run."""
    return SecretBytes(hashlib.shake_256(b"salween test " + name.encode()).digest(length))


def counting_random(name: str) -> Callable[[int], bytes]:
    """Reproducible randomness: the n-th call gives the n-th part of one stream."""
    calls = iter(range(1_000_000))

    def random(length: int) -> bytes:
        return hashlib.shake_256(f"salween test {name} {next(calls)}".encode()).digest(length)

    return random


@dataclass(frozen=True)
class Office:
    """Keys of one office: root, operational key of one version, two officers and a supervisor."""

    name: str
    key_version: int = 1

    @cached_property
    def root(self) -> CompositePrivateKey:
        return CompositePrivateKey.from_seed(seed(f"{self.name} root", 64))

    @cached_property
    def operational(self) -> CompositePrivateKey:
        return CompositePrivateKey.from_seed(seed(f"{self.name} operational {self.key_version}", 64))

    @cached_property
    def id(self) -> bytes:
        return office_id(self.root.public_bytes)

    @property
    def instance(self) -> bytes:
        return seed(f"{self.name} instance", 8).reveal()

    @cached_property
    def receive_key(self) -> XWingPrivateKey:
        return XWingPrivateKey.from_seed(seed(f"{self.name} receive", 32))

    @property
    def receive_key_id(self) -> bytes:
        return seed(f"{self.name} receive key id", 8).reveal()

    def certificate(self, **changes: Any) -> bytes:
        given: dict[str, Any] = {
            "key_version": self.key_version,
            "public": self.operational.public_bytes,
            "not_before_ms": NOW_MS - YEAR_MS // 2,
            "not_after_ms": NOW_MS + YEAR_MS // 2,
            "country": "MM",
            "name": self.name,
        }
        return issue_certificate(self.root, **{**given, **changes})

    def officer_key(self, number: int) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_seed(seed(f"{self.name} officer {number}", 32))

    def officer(self, number: int, *, list_version: int = 1) -> OfficerSigner:
        role = Role.SUPERVISOR if number == 3 else Role.OFFICER
        return OfficerSigner(
            number=number, list_version=list_version, role=role, key=self.officer_key(number)
        )

    def officer_entries(self, until_ms: int = 0) -> tuple[OfficerEntry, ...]:
        return tuple(
            OfficerEntry(
                number=number,
                public=self.officer_key(number).public_bytes,
                role=Role.SUPERVISOR if number == 3 else Role.OFFICER,
                alias=f"officer {number}",
                from_ms=NOW_MS - limits.DAY_MS,
                # Number 4 has left the office.
                until_ms=NOW_MS - limits.HOUR_MS if number == 4 else until_ms,
            )
            for number in (1, 2, 3, 4)
        )

    def officer_list(self, list_version: int = 1) -> bytes:
        return sign_officer_list(
            self.operational,
            office=self.id,
            key_version=self.key_version,
            list_version=list_version,
            issued_ms=NOW_MS - limits.DAY_MS,
            officers=self.officer_entries(),
        )

    def as_peer(self, state: PairState = PairState.ACTIVE) -> TrustedPeer:
        """What another office knows of this one."""
        peer = TrustedPeer(
            office_id=self.id,
            root_public=self.root.public_bytes,
            certificates=(),
            officer_lists=(),
            revoked_below=0,
            minimum_suite=1,
            state=state,
            since_ms=NOW_MS,
        )
        peer = trust.accept_certificate(peer, parse_certificate_untrusted(self.certificate()), NOW_MS)
        return trust.accept_officer_list(peer, parse_officer_list_untrusted(self.officer_list()))


MYITKYINA = Office("Myitkyina BLO")
TENGCHONG = Office("Tengchong BLO")
MAE_SAI = Office("Mae Sai BLO")


@dataclass
class Desk:
    """What ``me`` knows when an envelope arrives; a plain OpeningContext."""

    me: Office = TENGCHONG
    them: Office = MYITKYINA
    known: TrustedPeer = field(default_factory=MYITKYINA.as_peer)
    now_ms: int = NOW_MS + limits.MINUTE_MS
    policy: ReleasePolicy = field(default_factory=ReleasePolicy)
    judgement: Judgement = Judgement.NEW
    deleted: frozenset[bytes] = frozenset()
    asked: list[bytes] = field(default_factory=list)

    @property
    def my_office_id(self) -> bytes:
        return self.me.id

    def receive_key(self, key_id: bytes) -> tuple[XWingPrivateKey, bytes] | None:
        if key_id != self.me.receive_key_id or key_id in self.deleted:
            return None
        return self.me.receive_key, self.them.id

    def key_id_status(self, key_id: bytes) -> Literal["unknown", "deleted"]:
        return "deleted" if key_id in self.deleted else "unknown"

    def peer(self, office_id: bytes) -> TrustedPeer:
        assert office_id == self.them.id
        return self.known

    def instances(self, office_id: bytes) -> Sequence[bytes]:
        assert office_id == self.them.id
        return (self.them.instance,)

    def judge(self, office_id: bytes, header: Header, opening: LeafOpening, hh: bytes) -> Judgement:
        self.asked.append(hh)
        return self.judgement


# --- what an officer fills in ---


def vehicle_fields(**changes: Any) -> dict[str, Any]:
    """A vehicle alert that one officer may release alone."""
    return {
        "status": "exercise",
        "crime_type": "stolen_vehicle",
        "urgency": "expected",
        "severity": "moderate",
        "certainty": "likely",
        "source": "B",
        "information": "2",
        "handling": "H0",
        "tlp": "amber",
        "created_ms": NOW_MS,
        "expires_ms": NOW_MS + 7 * limits.DAY_MS,
        "erase_at_ms": NOW_MS + 14 * limits.DAY_MS,
        "entities": (
            {"entity": "vehicle", "plate": "5C-1234", "colour": "white", "make": "Toyota", "model": "Hilux"},
        ),
    } | changes


def victim_fields(**changes: Any) -> dict[str, Any]:
    """An alert about a victim, which needs two officers."""
    return (
        vehicle_fields(
            crime_type="human_trafficking",
            urgency="immediate",
            urgency_reason="crosses tonight",
            entities=({"entity": "person", "role": "victim", "name": "Person One", "birth": "about 2009"},),
            text={"language": "en", "text": "Seen at the old bridge."},
        )
        | changes
    )


def vehicle_alert(**changes: Any) -> Alert:
    return Alert.model_validate(vehicle_fields(**changes))


def victim_alert(**changes: Any) -> Alert:
    return Alert.model_validate(victim_fields(**changes))


def released(
    alert: Alert,
    *,
    sender: Office = MYITKYINA,
    audience: Sequence[bytes] = (TENGCHONG.id,),
    releaser: int | None = None,
    emergency_reason: str | None = None,
    name: str = "release",
) -> ReleasedAlert:
    """The alert as officer 1 wrote it, released by ``releaser`` if given."""
    return release(
        alert,
        author=sender.officer(1),
        releaser=None if releaser is None else sender.officer(releaser),
        emergency_reason=emergency_reason,
        audience=audience,
        policy=ReleasePolicy(),
        random=counting_random(name),
        now_ms=NOW_MS,
    )


# --- on its way ---


def an_opening(pair_seq: int = 1, **changes: Any) -> LeafOpening:
    given: dict[str, Any] = {
        "blind": seed("blind", 16).reveal(),
        "leaf_index": 0,
        "pair_seq": pair_seq,
        "rk_first": 1,
        "rk_known": MYITKYINA.receive_key_id,
        "pair_prev": bytes(32),
    }
    return LeafOpening(**{**given, **changes})


def signed_alert(
    released_alert: ReleasedAlert,
    *,
    sender: Office = MYITKYINA,
    recipient: Office = TENGCHONG,
    opening: LeafOpening | None = None,
    items: Sequence[Item] = (),
    created_ms: int = NOW_MS,
) -> SignedMessage:
    return sign_alert(
        released_alert,
        msg_id=seed("message", 16).reveal(),
        sender=sender.id,
        key_version=sender.key_version,
        signer=sender.operational,
        instance=sender.instance,
        created_ms=created_ms,
        recipient=recipient.id,
        opening=opening or an_opening(),
        items=items,
    )


def shared_opening(released_alert: ReleasedAlert, recipient: Office, **changes: Any) -> LeafOpening:
    """What opens the leaf of one of several recipients."""
    blind, leaf_index = released_alert.place_of(recipient.id)
    return an_opening(**{"blind": blind, "leaf_index": leaf_index, **changes})


def signed_shared(
    released_alert: ReleasedAlert, recipients: Sequence[Office], *, sender: Office = MYITKYINA
) -> SignedMessage:
    """One message to several, each at number 1 of its pair with the sender."""
    openings = [shared_opening(released_alert, recipient) for recipient in recipients]
    taken = {
        opening.leaf_index: opening.shared_leaf(recipient.id, sender.instance)
        for recipient, opening in zip(recipients, openings, strict=True)
    }
    return sign_shared_alert(
        released_alert,
        msg_id=seed("message", 16).reveal(),
        sender=sender.id,
        key_version=sender.key_version,
        signer=sender.operational,
        created_ms=NOW_MS,
        leaves=shared_leaves(released_alert, taken, counting_random("hidden leaves")),
    )


def signed_message(
    kind: MessageType,
    core: bytes,
    *,
    sender: Office = MYITKYINA,
    recipient: Office = TENGCHONG,
    opening: LeafOpening | None = None,
    items: Sequence[Item] = (),
) -> SignedMessage:
    return sign_message(
        type=kind,
        msg_id=seed("message", 16).reveal(),
        sender=sender.id,
        key_version=sender.key_version,
        signer=sender.operational,
        instance=sender.instance,
        created_ms=NOW_MS,
        expires_ms=NOW_MS + limits.DAY_MS,
        core=core,
        recipient=recipient.id,
        opening=opening or an_opening(),
        items=items,
    )


def sealed(
    message: SignedMessage,
    *,
    sender: Office = MYITKYINA,
    recipient: Office = TENGCHONG,
    opening: LeafOpening | None = None,
    bodyless: bool = False,
    name: str = "seal",
) -> bytes:
    return seal(
        message,
        [
            Recipient(
                office_id=recipient.id,
                instance=sender.instance,
                opening=opening or an_opening(),
                receive_key_id=recipient.receive_key_id,
                receive_key_public=recipient.receive_key.public_bytes,
            )
        ],
        sender=sender.id,
        random=counting_random(name),
        bodyless=bodyless,
    )[0]


# --- the forger ---


def signed_parts(
    header: bytes,
    core: bytes,
    disclosures: bytes,
    piggyback: bytes,
    *,
    signer: CompositePrivateKey | None = None,
) -> SignedMessage:
    """Any header, really signed by Myitkyina unless another signer is given, beside any body."""
    signer = signer or MYITKYINA.operational
    return SignedMessage(
        header=header,
        signature=signer.sign(labels.MESSAGE, header),
        core=core,
        disclosures=disclosures,
        piggyback=piggyback,
    )


def header_of(
    core: bytes,
    piggyback: bytes,
    *,
    kind: MessageType = MessageType.ALERT,
    opening: LeafOpening | None = None,
    recipient: Office = TENGCHONG,
    **changes: Any,
) -> Header:
    """The header that fits these parts, with any field changed."""
    given: dict[str, Any] = {
        "type": kind,
        "suite": 1,
        "msg_id": seed("message", 16).reveal(),
        "sender": MYITKYINA.id,
        "key_version": 1,
        "instance": MYITKYINA.instance,
        "created_ms": NOW_MS,
        "expires_ms": NOW_MS + 7 * limits.DAY_MS,
        "core_hash": labelled_hash(labels.CORE, core),
        "core_bytes": len(core),
        "piggyback_hash": labelled_hash(labels.PIGGYBACK, piggyback),
        "leaves": ((opening or an_opening()).leaf(recipient.id),),
    }
    return Header(**{**given, **changes})


def forge(
    plaintext: bytes,
    *,
    wrapped_opening: bytes | None = None,
    sender_id: bytes = MYITKYINA.id,
    recipient: Office = TENGCHONG,
    padding: bytes | None = None,
    info_tail: bytes = b"",
) -> bytes:
    """Seal ``plaintext`` as it is: by hand, from the offsets of the spec page and nothing of ``sealing``.

    ``wrapped_opening`` is bytes 32 to 111 of what is wrapped; ``padding`` replaces 0x80 and zeros.
    """
    key_id, key = recipient.receive_key_id, recipient.receive_key
    # Smallest of 8, 16, 32 and 64 KiB, less 1257 outside, 56 and a tag per 16 KiB inside the blob.
    room_bytes = next(room for room in (6863, 15055, 31423, 64159) if len(plaintext) < room)
    padding = b"\x80" + bytes(room_bytes - len(plaintext) - 1) if padding is None else padding
    content_key = seed("content key", 32)
    blob = blob_encrypt(content_key, labels.BLOB, plaintext + padding)
    info = b"".join(
        (
            b"salween/v1/wrap",
            b"\x01",
            sender_id,
            recipient.id,
            key_id,
            labelled_hash(b"salween/v1/hash-of-blob", blob),
            info_tail,
        )
    )
    if wrapped_opening is None:
        wrapped_opening = an_opening().encode() + bytes(4)
    wrapped = wrap(key.public_bytes, content_key.reveal() + wrapped_opening, info)
    return b"\x01" + key_id + wrapped + blob


def plaintext_of(message: SignedMessage, *, with_body: bool = True) -> bytes:
    """u16 length | header | signature | three times u32 length | part, by hand."""
    outside = struct.pack(">H", len(message.header)) + message.header + message.signature
    if not with_body:
        return outside
    parts = (message.core, message.disclosures, message.piggyback)
    return outside + b"".join(struct.pack(">I", len(part)) + part for part in parts)


def certificate_of(office: Office, **changes: Any) -> Certificate:
    return parse_certificate_untrusted(office.certificate(**changes))
