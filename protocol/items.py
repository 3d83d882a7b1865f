"""Items: the small signed things that ride beside an alert or fill a control message.

Spec: docs/spec/items.md. A list of items is canonical msgpack, each a map with its tag under ``k``. One rule:
an unknown tag is kept as it came, an unknown tag beginning ``!`` refuses the whole list.
*Service* items are never a reason to acknowledge, otherwise acknowledgements of acknowledgements would run
for ever. Nothing here decides what an item does; ``conversation`` and ``receivekeys`` do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from keys.errors import MalformedInput
from protocol import limits, wire
from protocol.wire import Fields, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAnnouncement:
    """A receive key to seal to from now on. The highest (key_version, rk_gen) wins; no clock decides."""

    key_version: int
    rk_gen: int
    key_id: bytes  # 8
    public: bytes  # X-Wing, 1216


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTimeOffer:
    """Keys to seal one alert each to. The highest (key_version, generation) counts, and brings its keys once.

    Of earlier offers only ``kept_ids`` may still be used.
    """

    key_version: int
    generation: int
    kept_ids: tuple[bytes, ...]  # 8 each
    fresh: tuple[tuple[bytes, bytes], ...]  # id 8 and X-Wing public 1216 each


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTimeUnused:
    """Of the offers up to this generation the signer has used every key but these."""

    generation: int
    unused_ids: tuple[bytes, ...]  # 8 each


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRange:
    """What arrived of one sender instance: every number up to ``contiguous_to``, then a bitmap.

    Bit i of ``bitmap`` (least significant first) is number ``contiguous_to + 1 + i``; bit 0 is always clear.
    """

    instance: bytes  # 8, of the sender whose numbers these are
    contiguous_to: int
    bitmap: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """Which numbers the signer of this item holds durably. Service item."""

    key_version: int  # of the office that acknowledges
    instance: bytes  # 8, of the office that acknowledges
    ranges: tuple[ReceivedRange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficerListItem:
    """The signer's current officer list, itself signed (keys.card)."""

    officer_list: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxSuccessor:
    """Put to this mailbox from now on; the one it follows is retired once an item arrived here.

    The highest ``generation`` wins: messages overtake each other, and nobody goes back to an older address.
    """

    generation: int
    put_secret: bytes = field(repr=False)  # 32
    mailbox_public: bytes  # Ed25519, 32: signs the deletes
    broker_address: str  # salween://host:port#fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class AudienceOpening:
    """Shows this recipient that the officers released the alert to it (protocol.release)."""

    opening: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AudienceLeaves:
    """The same for several recipients at once: every leaf of the audience, hidden ones among them.

    Each recipient knows what opens its own, and of the others only that they are as many as a power of two.
    """

    leaves: tuple[bytes, ...]  # 32 each


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartBeat:
    """The highest number the signer has assigned, and when it said so. Service item."""

    highest_seq: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CardItem:
    """A certificate of the signer's office, raw fixed-layout bytes (keys.card)."""

    certificate: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationItem:
    """A revocation that stands alone: signed by its own root, taken from anyone (keys.card)."""

    revocation: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownKeyNotice:
    """These envelopes named a receive key the signer never had (body of a nack, with its announcement)."""

    envelope_hashes: tuple[bytes, ...]  # 32 each, at most 32 of them


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOkItem:
    """The signer's ``pair-ok`` once more, for a peer that may have missed it in the ceremony (keys.pairing).

    The one item a half pair looks at.
    """

    pair_ok: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenItem:
    """In a reset: what the restored signer last saw, of both directions. What is not in it is sent again."""

    ranges: tuple[ReceivedRange, ...]  # of the other office's instances
    ended: bytes  # 8, the signer's own instance that ended
    next_seq: int  # the next number of that instance, as far as the signer remembers
    at_ms: int  # when the backup was made


@dataclass(frozen=True, slots=True, kw_only=True)
class LogItem:
    """The signer's new log epoch and its witness key; they replace what was pinned."""

    origin: str
    log_public: bytes  # Ed25519, 32
    witness_name: str
    witness_public: bytes  # Ed25519, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetKeyItem:
    """Seal a reset to this key: it opens nothing else and is never rotated."""

    key_id: bytes  # 8
    public: bytes  # X-Wing, 1216


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAlert:
    """An alert the signer holds of an instance that ended: its id and when it was written."""

    alert_id: bytes  # 32
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetAnswer:
    """What the office that was told of a reset holds, sends again, and can no longer send."""

    instance: bytes  # 8, the new instance of the office that was restored
    ranges: tuple[ReceivedRange, ...]  # of that office's instances, as they stand here
    after: tuple[HeldAlert, ...]  # what it sent and does not remember, the newest at most
    after_count: int
    resent: int  # alerts sent again
    closed: tuple[
        ReceivedRange, ...
    ]  # of the signer's instance: seen by the other office, or sent by nobody any more


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetRefused:
    """A reset in the reader's name that the signer did not follow, and the version the next must be above."""

    instance: bytes  # 8, the one that reset began
    key_version: int  # it was signed under
    known_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierInstance:
    """The signer will send messages of these instances of its own again; they go on where the ranges end."""

    ranges: tuple[ReceivedRange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoReport:
    """What became of one picture of the receiver's alert at the signer: kept, or refused with a code."""

    alert_id: bytes  # 32
    number: int  # into Alert.manifests
    code: str  # empty: it is whole and kept


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessRequest:
    """Please cosign this head of our log: a C2SP ``add-checkpoint`` body (audit.witness). Service item."""

    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessAnswer:
    """What the signer says to a request about a head of ``size`` entries. Service item.

    ``status`` as HTTP numbers it. ``held_size``: of the head it holds, with 409. ``cosignatures``: the lines
    of the response, with 200: key name, and what its base64 stands for. ``note``: the head it holds, as our
    own log signed it, where it is not shorter than the one asked about.
    """

    status: int
    size: int
    held_size: int
    cosignatures: tuple[tuple[str, bytes], ...]
    note: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessKey:
    """The signer's post-quantum witness key of its present log epoch. Service item."""

    name: str  # that of its Ed25519 witness key
    public: bytes  # ML-DSA-44, 1312


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessMemory:
    """To an office that lost state: what it cosigned last of the signer's log, with its cosignature under it,
    and what the signer holds of the log it ended. Signed notes; empty where there is none. Service item."""

    cosigned: bytes
    ended: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownItem:
    """An item of a later version, kept whole so that it re-encodes to the same bytes."""

    k: str
    encoded: bytes  # the item's own canonical map


Item = (
    KeyAnnouncement
    | OneTimeOffer
    | OneTimeUnused
    | Acknowledgement
    | OfficerListItem
    | MailboxSuccessor
    | AudienceOpening
    | AudienceLeaves
    | HeartBeat
    | CardItem
    | RevocationItem
    | UnknownKeyNotice
    | PairOkItem
    | SeenItem
    | LogItem
    | ResetKeyItem
    | ResetAnswer
    | ResetRefused
    | EarlierInstance
    | PhotoReport
    | WitnessRequest
    | WitnessAnswer
    | WitnessKey
    | WitnessMemory
    | UnknownItem
)

# Tags of items that later versions may bring and that are service by their family.
_SERVICE_PREFIX: Final = "wit/"
_SERVICE: Final = (Acknowledgement, HeartBeat, WitnessRequest, WitnessAnswer, WitnessKey, WitnessMemory)


def is_service(items: Sequence[Item]) -> bool:
    """Whether a control or cover body holds only items that are never a reason to acknowledge.

    An empty body counts as service. Alerts and receipts never are, whatever rides beside them: ask for
    control and cover messages only. A key announcement is no service item, so it never joins an
    acknowledgement that is sent for its own sake (receivekeys.wants_next).
    """
    return all(
        isinstance(item, _SERVICE) or (isinstance(item, UnknownItem) and item.k.startswith(_SERVICE_PREFIX))
        for item in items
    )


def encode_items(items: Sequence[Item]) -> bytes:
    """Canonical bytes of a list of items; the empty list is one byte."""
    return wire.encode([_to_wire(item) for item in items])


def decode_items_untrusted(data: bytes) -> tuple[Item, ...]:
    """Items as the peer listed them. MalformedInput only; ``critical_item_unknown`` names a later version."""
    listed = wire.decode_untrusted(data, bytes_max=limits.BODY_BYTES_MAX)
    if not isinstance(listed, list) or len(listed) > limits.ITEMS_PER_MESSAGE_MAX:
        raise MalformedInput(
            "items_wrong", f"a list of at most {limits.ITEMS_PER_MESSAGE_MAX} items was expected"
        )
    return tuple(_from_wire(value) for value in listed)


def ranges_to_wire(ranges: Sequence[ReceivedRange]) -> Value:
    """Ranges as [instance, contiguous_to, bitmap bytes little-endian without trailing zeros]."""
    return [[r.instance, r.contiguous_to, bitmap_to_bytes(r.bitmap)] for r in ranges]


def ranges_from_wire(value: Value) -> tuple[ReceivedRange, ...]:
    """The inverse of ``ranges_to_wire``: no instance twice, no bitmap beyond the window."""
    if not isinstance(value, list) or len(value) > limits.INSTANCES_REMEMBERED_MAX:
        raise MalformedInput("range_wrong", "too many sender instances")
    ranges: list[ReceivedRange] = []
    for entry in value:
        if not isinstance(entry, list) or len(entry) != 3:
            raise MalformedInput("range_wrong", "a range has an instance, a number and a bitmap")
        instance, contiguous_to, bitmap = entry
        if not isinstance(instance, bytes) or len(instance) != limits.INSTANCE_BYTES:
            raise MalformedInput("range_wrong", f"an instance has {limits.INSTANCE_BYTES} bytes")
        if type(contiguous_to) is not int or not 0 <= contiguous_to <= limits.PAIR_SEQ_MAX:
            raise MalformedInput("range_wrong", "a range begins at a sequence number")
        ranges.append(
            ReceivedRange(instance=instance, contiguous_to=contiguous_to, bitmap=bitmap_from_bytes(bitmap))
        )
    if len({r.instance for r in ranges}) != len(ranges):
        raise MalformedInput("range_wrong", "one instance is listed twice")
    return tuple(ranges)


def bitmap_to_bytes(bitmap: int) -> bytes:
    """Least significant byte first, no trailing zero byte."""
    return bitmap.to_bytes((bitmap.bit_length() + 7) // 8, "little")


def bitmap_from_bytes(value: Value) -> int:
    """The inverse of ``bitmap_to_bytes``; at most one window of bits, bit 0 clear, one encoding each."""
    if not isinstance(value, bytes) or len(value) > limits.WINDOW_MESSAGES // 8:
        raise MalformedInput("bitmap_wrong", "a bitmap covers at most one window")
    if value and (value[-1] == 0 or value[0] & 1):
        raise MalformedInput("bitmap_wrong", "a bitmap has no trailing zero byte and begins after a hole")
    return int.from_bytes(value, "little")


def _to_wire(item: Item) -> Value:
    match item:
        case KeyAnnouncement():
            return {"k": "rk", "v": item.key_version, "g": item.rk_gen, "i": item.key_id, "p": item.public}
        case OneTimeOffer():
            return {
                "k": "otk",
                "v": item.key_version,
                "g": item.generation,
                "o": b"".join(item.kept_ids),
                "i": b"".join(key_id for key_id, _ in item.fresh),
                "p": b"".join(public for _, public in item.fresh),
            }
        case OneTimeUnused():
            return {"k": "otu", "g": item.generation, "o": b"".join(item.unused_ids)}
        case Acknowledgement():
            return {
                "k": "ack",
                "v": item.key_version,
                "i": item.instance,
                "r": ranges_to_wire(item.ranges),
            }
        case OfficerListItem():
            return {"k": "ofl", "b": item.officer_list}
        case MailboxSuccessor():
            return {
                "k": "mbx",
                "g": item.generation,
                "p": item.put_secret,
                "m": item.mailbox_public,
                "a": item.broker_address,
            }
        case AudienceOpening():
            return {"k": "aud", "b": item.opening}
        case AudienceLeaves():
            return {"k": "auds", "b": b"".join(item.leaves)}
        case HeartBeat():
            return {"k": "hb", "h": item.highest_seq, "t": item.at_ms}
        case CardItem():
            return {"k": "card", "b": item.certificate}
        case RevocationItem():
            return {"k": "rev", "b": item.revocation}
        case UnknownKeyNotice():
            return {"k": "nokey", "h": list(item.envelope_hashes)}
        case PairOkItem():
            return {"k": "pok", "b": item.pair_ok}
        case SeenItem():
            return {
                "k": "seen",
                "r": ranges_to_wire(item.ranges),
                "i": item.ended,
                "n": item.next_seq,
                "t": item.at_ms,
            }
        case LogItem():
            return {
                "k": "log",
                "o": item.origin,
                "p": item.log_public,
                "w": item.witness_name,
                "q": item.witness_public,
            }
        case ResetKeyItem():
            return {"k": "rsk", "i": item.key_id, "p": item.public}
        case ResetAnswer():
            return {
                "k": "rsa",
                "i": item.instance,
                "r": ranges_to_wire(item.ranges),
                "a": [[held.alert_id, held.created_ms] for held in item.after],
                "c": item.after_count,
                "s": item.resent,
                "g": ranges_to_wire(item.closed),
            }
        case ResetRefused():
            return {"k": "rsx", "i": item.instance, "v": item.key_version, "n": item.known_version}
        case EarlierInstance():
            return {"k": "inst", "r": ranges_to_wire(item.ranges)}
        case PhotoReport():
            return {"k": "att", "a": item.alert_id, "n": item.number, "c": item.code}
        case WitnessRequest():
            return {"k": "wit/req", "b": item.body}
        case WitnessAnswer():
            return {
                "k": "wit/rsp",
                "s": item.status,
                "z": item.size,
                "w": item.held_size,
                "l": [[name, signature] for name, signature in item.cosignatures],
                "n": item.note,
            }
        case WitnessKey():
            return {"k": "wit/key", "o": item.name, "p": item.public}
        case WitnessMemory():
            return {"k": "wit/mem", "n": item.cosigned, "e": item.ended}
        case UnknownItem():
            return wire.decode_untrusted(item.encoded, bytes_max=limits.BODY_BYTES_MAX)


def _from_wire(value: Value) -> Item:
    fields = Fields(value, "item")
    tag = fields.text("k", bytes_max=limits.ITEM_TAG_BYTES_MAX)
    item = _read_known(tag, fields)
    if item is not None:
        fields.done()
        return item
    if not tag.strip("!"):
        raise MalformedInput("item_wrong", "an item has no tag")
    if tag.startswith("!"):
        raise MalformedInput("critical_item_unknown", f"item {tag!r} needs a later version")
    return UnknownItem(k=tag, encoded=wire.encode(value))


def _read_known(tag: str, fields: Fields) -> Item | None:
    match tag:
        case "rk":
            return KeyAnnouncement(
                key_version=fields.integer("v", most=limits.U32_MAX),
                rk_gen=fields.integer("g", most=limits.U32_MAX),
                key_id=fields.raw("i", size=limits.KEY_ID_BYTES),
                public=fields.raw("p", size=limits.XWING_PUBLIC_BYTES),
            )
        case "otk":
            return _read_offer(fields)
        case "otu":
            return OneTimeUnused(
                generation=fields.integer("g", most=limits.U32_MAX), unused_ids=_read_key_ids(fields, "o")
            )
        case "ack":
            return Acknowledgement(
                key_version=fields.integer("v", most=limits.U32_MAX),
                instance=fields.raw("i", size=limits.INSTANCE_BYTES),
                ranges=ranges_from_wire(fields.take("r")),
            )
        case "ofl":
            return OfficerListItem(officer_list=fields.raw("b", bytes_max=limits.ITEM_BYTES_MAX))
        case "mbx":
            return MailboxSuccessor(
                generation=fields.integer("g", most=limits.U32_MAX),
                put_secret=fields.raw("p", size=limits.SECRET_BYTES),
                mailbox_public=fields.raw("m", size=limits.ED25519_PUBLIC_BYTES),
                broker_address=fields.text("a", bytes_max=limits.BROKER_ADDRESS_BYTES_MAX),
            )
        case "aud":
            return AudienceOpening(opening=fields.raw("b", bytes_max=limits.ITEM_BYTES_MAX))
        case "auds":
            return _read_audience_leaves(fields)
        case "hb":
            return HeartBeat(
                highest_seq=fields.integer("h", most=limits.PAIR_SEQ_MAX),
                at_ms=fields.integer("t", most=limits.TIME_MS_MAX),
            )
        case "card":
            return CardItem(certificate=fields.raw("b", bytes_max=limits.ITEM_BYTES_MAX))
        case "rev":
            return RevocationItem(revocation=fields.raw("b", bytes_max=limits.ITEM_BYTES_MAX))
        case "nokey":
            return UnknownKeyNotice(envelope_hashes=_read_hashes(fields))
        case "pok":
            return PairOkItem(pair_ok=fields.raw("b", bytes_max=limits.ITEM_BYTES_MAX))
        case "seen":
            return SeenItem(
                ranges=ranges_from_wire(fields.take("r")),
                ended=fields.raw("i", size=limits.INSTANCE_BYTES),
                next_seq=fields.integer("n", most=limits.PAIR_SEQ_MAX),
                at_ms=fields.integer("t", most=limits.TIME_MS_MAX),
            )
        case "log":
            return LogItem(
                origin=fields.text("o", bytes_max=limits.BROKER_ORIGIN_BYTES_MAX),
                log_public=fields.raw("p", size=limits.ED25519_PUBLIC_BYTES),
                witness_name=fields.text("w", bytes_max=limits.BROKER_ORIGIN_BYTES_MAX),
                witness_public=fields.raw("q", size=limits.ED25519_PUBLIC_BYTES),
            )
        case "rsk":
            return ResetKeyItem(
                key_id=fields.raw("i", size=limits.KEY_ID_BYTES),
                public=fields.raw("p", size=limits.XWING_PUBLIC_BYTES),
            )
        case "rsa":
            return ResetAnswer(
                instance=fields.raw("i", size=limits.INSTANCE_BYTES),
                ranges=ranges_from_wire(fields.take("r")),
                after=_read_held(fields),
                after_count=fields.integer("c", most=limits.PAIR_SEQ_MAX),
                resent=fields.integer("s", most=limits.PAIR_SEQ_MAX),
                closed=ranges_from_wire(fields.take("g")),
            )
        case "rsx":
            return ResetRefused(
                instance=fields.raw("i", size=limits.INSTANCE_BYTES),
                key_version=fields.integer("v", most=limits.U32_MAX),
                known_version=fields.integer("n", most=limits.U32_MAX),
            )
        case "inst":
            return EarlierInstance(ranges=ranges_from_wire(fields.take("r")))
        case "att":
            return PhotoReport(
                alert_id=fields.raw("a", size=limits.HASH_BYTES),
                number=fields.integer("n", most=2 * limits.PHOTOS_PER_ALERT_MAX - 1),
                code=_read_code(fields),
            )
        case "wit/req":
            return WitnessRequest(body=fields.raw("b", bytes_max=limits.ITEM_BYTES_MAX))
        case "wit/rsp":
            return WitnessAnswer(
                status=fields.integer("s", least=100, most=999),
                size=fields.integer("z", most=limits.LOG_SIZE_MAX),
                held_size=fields.integer("w", most=limits.LOG_SIZE_MAX),
                cosignatures=_read_cosignatures(fields),
                note=fields.raw("n", bytes_max=limits.ITEM_BYTES_MAX),
            )
        case "wit/key":
            return WitnessKey(
                name=fields.text("o", bytes_max=limits.KEY_NAME_BYTES_MAX),
                public=fields.raw("p", size=limits.MLDSA44_PUBLIC_BYTES),
            )
        case "wit/mem":
            return WitnessMemory(
                cosigned=fields.raw("n", bytes_max=limits.ITEM_BYTES_MAX),
                ended=fields.raw("e", bytes_max=limits.ITEM_BYTES_MAX),
            )
        case _:
            return None


def _read_cosignatures(fields: Fields) -> tuple[tuple[str, bytes], ...]:
    lines: list[tuple[str, bytes]] = []
    for value in fields.items("l", items_max=limits.COSIGNATURES_MAX):
        match value:
            case [str(name), bytes(signature)] if len(name) <= limits.KEY_NAME_BYTES_MAX and (
                len(signature) <= limits.COSIGNATURE_BYTES_MAX
            ):
                lines.append((name, signature))
            case _:
                raise MalformedInput("item_wrong", "a cosignature is a key name and bytes")
    return tuple(lines)


def _read_code(fields: Fields) -> str:
    code = fields.text("c", bytes_max=limits.CODE_BYTES_MAX)
    if not all("a" <= c <= "z" or "0" <= c <= "9" or c == "_" for c in code):
        raise MalformedInput("item_wrong", "a code is lower-case letters, digits and underscores")
    return code


def _read_audience_leaves(fields: Fields) -> AudienceLeaves:
    data = fields.raw("b", bytes_max=limits.RECIPIENTS_MAX * limits.HASH_BYTES)
    if not data or len(data) % limits.HASH_BYTES:
        raise MalformedInput("item_wrong", "the leaves of an audience are hashes")
    starts = range(0, len(data), limits.HASH_BYTES)
    return AudienceLeaves(leaves=tuple(data[at : at + limits.HASH_BYTES] for at in starts))


def _read_offer(fields: Fields) -> OneTimeOffer:
    version = fields.integer("v", most=limits.U32_MAX)
    generation = fields.integer("g", most=limits.U32_MAX)
    kept = _read_key_ids(fields, "o")
    fresh = _read_key_ids(fields, "i")
    publics = _split(fields.raw("p", bytes_max=limits.BODY_BYTES_MAX), limits.XWING_PUBLIC_BYTES)
    named = (*kept, *fresh)
    if not fresh or len(fresh) != len(publics):
        raise MalformedInput("item_wrong", "an offer brings one-time keys, one public key for each id")
    if len(named) > limits.ONE_TIME_KEYS_MAX or len(set(named)) != len(named):
        raise MalformedInput("item_wrong", "an offer names too many one-time keys, or one twice")
    return OneTimeOffer(
        key_version=version,
        generation=generation,
        kept_ids=kept,
        fresh=tuple(zip(fresh, publics, strict=True)),
    )


def _read_key_ids(fields: Fields, name: str) -> tuple[bytes, ...]:
    ids_bytes_max = limits.ONE_TIME_KEYS_MAX * limits.KEY_ID_BYTES
    ids = _split(fields.raw(name, bytes_max=ids_bytes_max), limits.KEY_ID_BYTES)
    if len(set(ids)) != len(ids):
        raise MalformedInput("item_wrong", "one key is named twice")
    return ids


def _split(data: bytes, size: int) -> tuple[bytes, ...]:
    if len(data) % size:
        raise MalformedInput("item_wrong", f"parts of {size} bytes were expected")
    return tuple(data[at : at + size] for at in range(0, len(data), size))


def _read_held(fields: Fields) -> tuple[HeldAlert, ...]:
    held: list[HeldAlert] = []
    for value in fields.items("a", items_max=limits.RESET_ALERTS_MAX):
        match value:
            case [bytes(alert_id), int(created_ms)] if len(alert_id) == limits.HASH_BYTES and (
                0 <= created_ms <= limits.TIME_MS_MAX
            ):
                held.append(HeldAlert(alert_id=alert_id, created_ms=created_ms))
            case _:
                raise MalformedInput("item_wrong", "a held alert is an id and a time")
    return tuple(held)


def _read_hashes(fields: Fields) -> tuple[bytes, ...]:
    hashes: list[bytes] = []
    for value in fields.items("h", items_max=limits.NACK_HASHES_MAX):
        if not isinstance(value, bytes) or len(value) != limits.HASH_BYTES:
            raise MalformedInput("item_wrong", "an envelope is named by a hash of 32 bytes")
        hashes.append(value)
    return tuple(hashes)
