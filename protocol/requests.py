"""What a node asks of a broker: ops and results, encapsulated to the broker's pinned request key.

Spec: docs/spec/broker.md#requests. A request is HPKE of {response key, date, ops} to the request key, its
answer is sealed under HKDF(response key, encapsulation, salt). Both are padded. One rule: a retry is a new
encapsulation, so every op may be carried out twice with the effect and the answer of once. Decides nothing
about mailboxes (``mailbox``) and keeps no memory of encapsulations seen (the broker does).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, TypeAlias, assert_never

from keys import labels
from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused
from keys.primitives import (
    AEAD_NONCE_BYTES,
    AEAD_OVERHEAD_BYTES,
    SYMMETRIC_KEY_BYTES,
    WRAP_OVERHEAD_BYTES,
    Ed25519PrivateKey,
    XWingPrivateKey,
    aead_open,
    aead_seal,
    ed25519_verify,
    hkdf_sha256,
    labelled_hash,
    wrap,
)
from keys.secret import SecretBytes
from protocol import limits, wire
from protocol.custody import Custody, read_custody, with_signature
from protocol.envelope import envelope_hash
from protocol.parts import SIZES, quarter_octaves
from protocol.wire import Fields, Value

Randomness: TypeAlias = Callable[[int], bytes]
MailboxKind: TypeAlias = Literal["pair", "rendezvous"]

VERSION: Final = 0x01
ENC_BYTES: Final = WRAP_OVERHEAD_BYTES - AEAD_OVERHEAD_BYTES
_ANSWER_SALT_BYTES: Final = 32
_REQUEST_FRAME_BYTES: Final = 1 + WRAP_OVERHEAD_BYTES
_ANSWER_FRAME_BYTES: Final = _ANSWER_SALT_BYTES + AEAD_OVERHEAD_BYTES
_PUT_FRAME_BYTES: Final = 192  # at most, beside the envelope
_PAD: Final = b"\x80"


class Refusal(StrEnum):
    """Why one op was not carried out. A code of a later broker is passed on as it came."""

    GONE = "gone"  # put to a mailbox nobody knows here
    QUOTA = "quota"  # the mailbox is full; keep the item and come back
    TOO_LARGE = "too_large"
    TOKEN_UNKNOWN = "token_unknown"  # noqa: S105 - a code, not a password
    NOT_FOUND = "not_found"
    BAD_SIGNATURE = "bad_signature"
    CONFLICT = "conflict"  # the same capability with other keys
    MALFORMED = "malformed"
    BUSY = "busy"  # the disk is nearly full, or too much is asked in one request or one hour
    UNREACHABLE = "unreachable"  # the other broker does not answer, or with nothing that could be an answer


# --- ops ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Make a mailbox, by the operator's one-time token or in succession of one that is mine.

    ``signature`` by the predecessor's mailbox key (``sign_successor``); empty with a token.
    """

    token: bytes = field(repr=False, default=b"")  # 32, or empty
    predecessor_get_secret: bytes = field(repr=False, default=b"")  # 32, or empty
    signature: bytes = b""  # 64, or empty
    put_hash: bytes  # 32, put_capability_hash(put secret)
    get_hash: bytes  # 32, get_capability_hash(get secret)
    mailbox_public: bytes  # Ed25519, 32
    kind: MailboxKind


@dataclass(frozen=True, slots=True, kw_only=True)
class AskGrant:
    """Is my mailbox still there, and your word that it is: with it you would make it again (``Remake``)."""

    get_secret: bytes = field(repr=False)  # 32
    put_hash: bytes  # 32
    mailbox_public: bytes  # Ed25519, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Remake:
    """You lost this mailbox; make exactly it again. ``grant`` is what you once signed about it."""

    put_hash: bytes  # 32
    get_hash: bytes  # 32
    mailbox_public: bytes  # Ed25519, 32
    grant: bytes = field(repr=False)  # 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Lay one envelope into a mailbox. ``priority`` (immediate, control) may use the reserved part."""

    put_secret: bytes = field(repr=False)  # 32
    envelope: bytes = field(repr=False)
    priority: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Is this envelope still waiting there?"""

    put_secret: bytes = field(repr=False)  # 32
    envelope_hash: bytes  # 32


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """What lies in my mailbox after ``cursor``; waits up to ``wait_ms`` for the first item.

    Items are inlined in order while they fit ``inline_bytes_max`` altogether.
    """

    get_secret: bytes = field(repr=False)  # 32
    cursor: int
    wait_ms: int
    inline_bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """One envelope out of my mailbox."""

    get_secret: bytes = field(repr=False)  # 32
    envelope_hash: bytes  # 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """I hold this envelope durably. ``signature`` by the mailbox key (``sign_delete``)."""

    get_secret: bytes = field(repr=False)  # 32
    envelope_hash: bytes  # 32
    signature: bytes  # 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """How full is my mailbox?"""

    get_secret: bytes = field(repr=False)  # 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Notices:
    """Revocations this broker was asked to show to everybody, those after ``cursor``."""

    cursor: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Show this revocation to everybody (keys.notice).

    Anyone may ask; ``get_secret`` of a pair's mailbox here vouches for it, and what is vouched for is never
    pushed out by what is not. Empty: the office has nothing left but its paper.
    """

    notice: bytes
    get_secret: bytes = field(repr=False, default=b"")  # 32, or empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of this broker's log, with the proof that it continues the one of ``old_size`` entries."""

    old_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosign:
    """Cosign the head of my log. ``body`` is a C2SP ``add-checkpoint`` (audit.witness).

    ``token`` is of this broker's operator and good for the one log, under one key, that it is first used for.
    """

    token: bytes = field(repr=False)  # 32
    log_public: bytes  # Ed25519, 32
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPut:
    """Lay part of an attachment beside a mailbox, from ``offset`` on; without ``data`` it only asks.

    ``write_secret`` names the attachment to its sender, ``read_hash`` to its recipient. It is made by its
    first part, and nothing in it is ever written twice.
    """

    put_secret: bytes = field(repr=False)  # 32, of the mailbox that is charged
    write_secret: bytes = field(repr=False)  # 32
    read_hash: bytes  # 32, parts.read_capability_hash(read secret)
    size_bytes: int  # of the whole, one of parts.SIZES
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartGet:
    """At most so many bytes of an attachment beside my mailbox, from ``offset`` on."""

    get_secret: bytes = field(repr=False)  # 32
    read_secret: bytes = field(repr=False)  # 32
    offset: int
    bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachmentDelete:
    """I hold this attachment durably, or take it back.

    By the mailbox's get secret and the attachment's read secret, or by put and write secret.
    """

    mailbox_secret: bytes = field(repr=False)  # 32
    attachment_secret: bytes = field(repr=False)  # 32
    by_sender: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Hand these bytes to another broker of your operator's list, and me what it answers.

    Alone in its request. ``wait_ms`` is how long the other may hold its answer back (a long poll).
    """

    token: bytes = field(repr=False)  # 32, of this broker's operator
    target: str  # its name on the operator's list
    wait_ms: int
    request: bytes = field(repr=False)  # whole, for ``open_request_untrusted`` there; empty asks for its card


MailboxOp = (
    Create
    | AskGrant
    | Remake
    | Put
    | Held
    | List
    | Get
    | Delete
    | Stats
    | Notices
    | Publish
    | Head
    | Cosign
    | PartPut
    | PartGet
    | AttachmentDelete
)
Op = MailboxOp | Forward

# --- results --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The mailbox exists, made now or by an earlier copy of the same op."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The mailbox exists, and ``grant`` makes it again if this broker ever forgets it (``sign_grant``)."""

    grant: bytes = field(repr=False)  # 64


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAnswer:
    """Whether the envelope waits there."""

    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedItem:
    """One waiting item; ``envelope`` is None when it did not fit and is fetched with Get."""

    cursor: int
    envelope_hash: bytes  # 32
    size_bytes: int
    envelope: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Waiting items in order; ``more`` says that others follow the last one."""

    items: tuple[ListedItem, ...]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """The envelope asked for."""

    envelope: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """The envelope is gone, now or before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsAnswer:
    """What the mailbox holds and may hold."""

    items: int
    items_max: int
    size_bytes: int
    size_bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticesAnswer:
    """Revocations with their roots (keys.notice), oldest first. ``more`` follow after ``cursor``."""

    notices: tuple[bytes, ...]
    cursor: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadAnswer:
    """A C2SP ``add-checkpoint`` body (audit.witness): old size, proof, signed checkpoint."""

    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessSays:
    """What a C2SP witness answers: ``status`` as HTTP numbers it, and the bytes of its response.

    ``note``: with 409, the head that is held, as the log signed it. ``keys``: the vkeys of this witness; none
    where the token is not known.
    """

    status: int
    body: bytes = b""
    note: bytes = b""
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The broker shows this revocation, or a stronger one of the same office."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartHeld:
    """The broker holds the attachment's first ``held_bytes`` bytes; all of it also when it was deleted."""

    held_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartGot:
    """Bytes of an attachment of ``size_bytes``; fewer than asked for, or none, where no more is here yet."""

    size_bytes: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachmentDeleted:
    """The attachment is gone, now or before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """What the other broker said: an answer only the asker can open, or its card."""

    answer: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRefused:
    """This op was not carried out; ``code`` is a Refusal or a later broker's word."""

    code: str


Result = (
    Created
    | Granted
    | Custody
    | HeldAnswer
    | Listed
    | Got
    | Deleted
    | StatsAnswer
    | NoticesAnswer
    | HeadAnswer
    | WitnessSays
    | Published
    | PartHeld
    | PartGot
    | AttachmentDeleted
    | Forwarded
    | OpRefused
)

# --- both ends of one exchange --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRequest:
    """What the node keeps until the answer: the key to it, and what was asked."""

    response_key: SecretBytes  # 32
    enc: bytes  # 1120
    ops: tuple[Op, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An opened request. ``enc`` names it: the broker remembers it while its date would be taken."""

    enc: bytes  # 1120
    response_key: SecretBytes  # 32
    date_ms: int
    ops: tuple[Op, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One result per op in the order asked, or none at all when the date was refused.

    Then ``now_ms`` is all there is: the node asks again with the broker's offset.
    """

    now_ms: int
    results: tuple[Result, ...]

    @property
    def date_refused(self) -> bool:
        """Whether the broker answered nothing but its time (an empty request asks for just that)."""
        return not self.results


def put_capability_hash(put_secret: bytes) -> bytes:
    """What the broker stores of a put secret, 32 bytes; custody notes name the mailbox by it."""
    return labelled_hash(labels.PUT_CAPABILITY, put_secret)


def get_capability_hash(get_secret: bytes) -> bytes:
    """What the broker stores of a get secret, 32 bytes."""
    return labelled_hash(labels.GET_CAPABILITY, get_secret)


def forwarding_token_hash(token: bytes) -> bytes:
    """What the broker stores of a forwarding token, 32 bytes."""
    return labelled_hash(labels.FORWARDING_TOKEN, token)


def witness_token_hash(token: bytes) -> bytes:
    """What the broker stores of a witness token, 32 bytes."""
    return labelled_hash(labels.WITNESS_TOKEN, token)


def creation_token_hash(token: bytes) -> bytes:
    """What the operator loads for a one-time creation token, 32 bytes."""
    return labelled_hash(labels.CREATION_TOKEN, token)


def sign_delete(mailbox_key: Ed25519PrivateKey, envelope_hash: bytes) -> bytes:
    """The recipient's own word that it took this envelope, 64 bytes: without it a deletion proves nothing."""
    return mailbox_key.sign(labels.MAILBOX_DELETE, envelope_hash)


def verify_delete(mailbox_public: bytes, op: Delete) -> None:
    """Raise VerificationFailed unless the mailbox key signed this delete."""
    ed25519_verify(mailbox_public, labels.MAILBOX_DELETE, op.envelope_hash, op.signature)


def sign_successor(
    mailbox_key: Ed25519PrivateKey, *, put_hash: bytes, get_hash: bytes, public: bytes
) -> bytes:
    """The old mailbox's key authorises the new one, 64 bytes."""
    return mailbox_key.sign(labels.MAILBOX_SUCCESSOR, put_hash + get_hash + public)


def verify_successor(predecessor_public: bytes, op: Create) -> None:
    """Raise VerificationFailed unless the predecessor's mailbox key signed this creation."""
    message = op.put_hash + op.get_hash + op.mailbox_public
    ed25519_verify(predecessor_public, labels.MAILBOX_SUCCESSOR, message, op.signature)


def sign_grant(custody_key: Ed25519PrivateKey, *, put_hash: bytes, get_hash: bytes, public: bytes) -> bytes:
    """The broker's word that it made this mailbox of a pair, 64 bytes; it need not remember it."""
    return custody_key.sign(labels.MAILBOX_GRANT, put_hash + get_hash + public)


def verify_grant(
    custody_public: bytes, grant: bytes, *, put_hash: bytes, get_hash: bytes, public: bytes
) -> None:
    """Raise VerificationFailed unless the broker of this custody key granted exactly this mailbox."""
    ed25519_verify(custody_public, labels.MAILBOX_GRANT, put_hash + get_hash + public, grant)


def check_date(date_ms: int, *, now_ms: int, boot_ms: int) -> None:
    """PolicyRefused ``date`` when the request is more than 4 min off, or older than the broker's boot.

    The second closes the gap that a restart leaves in the memory of encapsulations.
    """
    if abs(date_ms - now_ms) > limits.DATE_SKEW_MS_MAX or date_ms < boot_ms:
        raise PolicyRefused("date", "the date of the request is too far from the broker's clock")


def seal_request(
    broker_request_public: bytes, *, ops: Sequence[Op], date_ms: int, random: Randomness
) -> tuple[bytes, PendingRequest]:
    """A request for these ops and what is needed to read its answer. Never send the same bytes twice.

    PolicyRefused ``request_too_large`` above 1 MiB, 256 ops or 4 MiB of envelopes that share blobs:
    ``request_bytes`` and ``put_bytes`` help to choose.
    """
    response_key = SecretBytes(random(SYMMETRIC_KEY_BYTES))
    if len(ops) > limits.OPS_PER_REQUEST_MAX or put_bytes(ops) > limits.PUT_BYTES_PER_REQUEST_MAX:
        raise PolicyRefused("request_too_large", f"at most {limits.OPS_PER_REQUEST_MAX} ops fit one request")
    plain = wire.encode({"r": response_key.reveal(), "d": date_ms, "o": _ops_to_wire(ops)})
    size = _padded_bytes(_REQUEST_FRAME_BYTES + len(plain) + len(_PAD), _REQUEST_SIZES)
    if size is None:
        raise PolicyRefused("request_too_large", f"{len(plain)} bytes of ops do not fit one request")
    padded = _pad(plain, size - _REQUEST_FRAME_BYTES)
    wrapped = wrap(broker_request_public, padded, labels.BROKER_REQUEST)
    pending = PendingRequest(response_key=response_key, enc=wrapped[:ENC_BYTES], ops=tuple(ops))
    return bytes([VERSION]) + wrapped, pending


def open_request_untrusted(private: XWingPrivateKey, data: bytes) -> Request:
    """A request as its sender made it. MalformedInput, or VerificationFailed when it is not for this key."""
    if len(data) not in _REQUEST_SIZES:
        raise MalformedInput("request_size", f"{len(data)} bytes is no size of a request")
    if data[0] != VERSION:
        raise MalformedInput("request_version", f"version {data[0]} is not known here")
    plain = _unpad(private.unwrap(data[1:], labels.BROKER_REQUEST))
    fields = Fields(wire.decode_untrusted(plain, bytes_max=limits.REQUEST_BYTES_MAX), "request")
    request = Request(
        enc=data[1 : 1 + ENC_BYTES],
        response_key=SecretBytes(fields.raw("r", size=SYMMETRIC_KEY_BYTES)),
        date_ms=fields.integer("d"),
        ops=_ops_from_wire(fields.items("o", items_max=limits.OPS_PER_REQUEST_MAX)),
    )
    fields.done()
    return request


def seal_answer(request: Request, results: Sequence[Result], now_ms: int, random: Randomness) -> bytes:
    """The answer to ``request``: 128 bytes when nearly empty, padded otherwise.

    All custody notes in ``results`` are one signed batch, in order. BrokenInvariant ``answer_too_large``
    above 1 MiB: the broker inlines no more than ``inline_budget_bytes``.
    """
    notes = [result for result in results if isinstance(result, Custody)]
    body: dict[str, Value] = {"n": now_ms, "r": [_result_to_wire(result) for result in results]}
    if notes:
        if len({(note.origin, note.signature) for note in notes}) != 1:
            raise BrokenInvariant("custody_batch", "the notes of one answer are one signed batch")
        body["o"], body["s"] = notes[0].origin, notes[0].signature
    plain = wire.encode(body)
    size = _padded_bytes(_ANSWER_FRAME_BYTES + len(plain) + len(_PAD), _ANSWER_SIZES)
    if size is None:
        raise BrokenInvariant("answer_too_large", f"an answer of {len(plain)} bytes was made")
    salt = random(_ANSWER_SALT_BYTES)
    key = _answer_key(request.response_key, request.enc, salt)
    return salt + aead_seal(key, _ANSWER_NONCE, _pad(plain, size - _ANSWER_FRAME_BYTES), b"")


def open_answer_untrusted(pending: PendingRequest, data: bytes) -> Answer:
    """The broker's answer: one fitting result per op, or none. MalformedInput or VerificationFailed.

    Custody notes come with their proof rebuilt but **not verified**: ``custody.verify_custody`` does that
    with the broker's pinned custody key.
    """
    if len(data) not in _ANSWER_SIZES:
        raise MalformedInput("answer_size", f"{len(data)} bytes is no size of an answer")
    salt, sealed = data[:_ANSWER_SALT_BYTES], data[_ANSWER_SALT_BYTES:]
    key = _answer_key(pending.response_key, pending.enc, salt)
    plain = _unpad(aead_open(key, _ANSWER_NONCE, sealed, b""))
    fields = Fields(wire.decode_untrusted(plain, bytes_max=limits.ANSWER_BYTES_MAX), "answer")
    now_ms = fields.integer("n", most=limits.TIME_MS_MAX)
    origin, signature = "", b""
    if fields.has("o"):
        origin = fields.text("o", bytes_max=limits.BROKER_ORIGIN_BYTES_MAX)
        signature = fields.raw("s", size=limits.ED25519_SIGNATURE_BYTES)
    listed = fields.items("r", items_max=limits.OPS_PER_REQUEST_MAX)
    fields.done()
    if listed and len(listed) != len(pending.ops):
        raise MalformedInput("answer_count", f"{len(listed)} results for {len(pending.ops)} ops")
    results = [_result_from_wire(value, op, origin) for op, value in zip(pending.ops, listed, strict=False)]
    notes = [result for result in results if isinstance(result, Custody)]
    if bool(notes) is not bool(signature):
        raise MalformedInput("answer_custody", "custody notes and their signature come together")
    if notes:
        signed = iter(with_signature(notes, signature))
        results = [next(signed) if isinstance(result, Custody) else result for result in results]
    return Answer(now_ms=now_ms, results=tuple(results))


def without_held(data: bytes) -> bytes:
    """What a broker answered, without what it said while it held the answer back."""
    # Every size of an answer is a multiple of the smallest.
    return data[len(data) % limits.EMPTY_ANSWER_BYTES :]


def request_bytes(ops: Sequence[Op]) -> int:
    """About how many bytes these ops add to a request, never less than they do; at most
    ``limits.REQUEST_BYTES_MAX - 2048`` altogether fit one.
    """
    return sum(_run_bytes(run) for run in _runs(ops))


def bytes_behind(op: Put, before: Op | None) -> int:
    """What one put adds to ``request_bytes`` right behind ``before``: little, around the same blob."""
    if isinstance(before, Put) and _share_blob(before, op):
        return limits.BLOB_OFFSET_BYTES + 96
    return len(op.envelope) + _PUT_FRAME_BYTES


def bytes_around(envelope_bytes: int) -> int:
    """How long the request is that puts one envelope of this size, and the answer that brings it."""
    inside = _REQUEST_FRAME_BYTES + _PUT_FRAME_BYTES + envelope_bytes
    return next(size for size in _REQUEST_SIZES if size >= inside)


def _run_bytes(run: Sequence[Op]) -> int:
    match run[0]:
        case Put() as first:
            return bytes_behind(first, None) + (len(run) - 1) * bytes_behind(first, first)
        case op:
            return len(run) * _op_bytes(op)


def _op_bytes(op: Op) -> int:
    match op:
        case PartPut():
            return len(op.data) + 320
        case Forward():
            return len(op.request) + 192
        case _:
            return 320


def inline_budget_bytes(asked_bytes: int) -> int:
    """How many bytes of envelopes a broker inlines into one answer at most."""
    return min(asked_bytes, limits.INLINE_BYTES_MAX)


# --- padding --------------------------------------------------------------------------------------


_REQUEST_SIZES: Final = (
    limits.REQUEST_BYTES_MIN,
    limits.POLL_REQUEST_BYTES,
    *quarter_octaves(2_048, limits.REQUEST_BYTES_MAX),
)
# What a broker says before an answer while it holds it back, every limits.STILL_HELD_MS.
STILL_HELD: Final = b"\x00"
_ANSWER_SIZES: Final = (limits.EMPTY_ANSWER_BYTES, *quarter_octaves(1_024, limits.ANSWER_BYTES_MAX))
# Fixed nonce: the key is derived fresh for each answer from a random salt.
_ANSWER_NONCE: Final = bytes(AEAD_NONCE_BYTES)


def _padded_bytes(needed: int, sizes: tuple[int, ...]) -> int | None:
    return next((size for size in sizes if size >= needed), None)


def _pad(plain: bytes, size: int) -> bytes:
    return plain + _PAD + bytes(size - len(plain) - len(_PAD))


def _unpad(padded: bytes) -> bytes:
    end = padded.rstrip(b"\x00")
    if not end.endswith(_PAD):
        raise MalformedInput("padding", "the padding does not end in its marker")
    return end[: -len(_PAD)]


def _answer_key(response_key: SecretBytes, enc: bytes, salt: bytes) -> SecretBytes:
    return hkdf_sha256(response_key, salt, labels.BROKER_RESPONSE + enc, SYMMETRIC_KEY_BYTES)


# --- wire forms -----------------------------------------------------------------------------------


def _blob(op: Put) -> bytes:
    return op.envelope[limits.BLOB_OFFSET_BYTES :]


def _share_blob(one: Put, other: Put) -> bool:
    return bool(_blob(one)) and _blob(one) == _blob(other)


def _runs(ops: Sequence[Op]) -> list[list[Op]]:
    """The ops in order, puts around one blob in a row together."""
    runs: list[list[Op]] = []
    for op in ops:
        last = runs[-1][-1] if runs else None
        if isinstance(op, Put) and isinstance(last, Put) and _share_blob(last, op):
            runs[-1].append(op)
        else:
            runs.append([op])
    return runs


def _ops_to_wire(ops: Sequence[Op]) -> list[Value]:
    """A blob that several envelopes in a row share is said once."""
    values: list[Value] = []
    for run in _runs(ops):
        if len(run) == 1:
            values.append(_op_to_wire(run[0]))
            continue
        puts = [op for op in run if isinstance(op, Put)]
        to: list[Value] = [
            [op.put_secret, op.envelope[: limits.BLOB_OFFSET_BYTES], op.priority] for op in puts
        ]
        values.append({"k": "puts", "b": _blob(puts[0]), "t": to})
    return values


def _ops_from_wire(values: Sequence[Value]) -> tuple[Op, ...]:
    """Every op, those put together each by itself: what a broker does with them, and answers, is the same."""
    ops: list[Op] = []
    for value in values:
        fields = Fields(value, "op")
        if fields.text("k", bytes_max=limits.CODE_BYTES_MAX) == "puts":
            ops += _read_puts(fields, limits.PUT_BYTES_PER_REQUEST_MAX - put_bytes(ops))
            fields.done()
        else:
            ops.append(_op_from_wire(value))
        if len(ops) > limits.OPS_PER_REQUEST_MAX or put_bytes(ops) > limits.PUT_BYTES_PER_REQUEST_MAX:
            raise MalformedInput("op_count", "the ops of one request are too many, or too large")
    return tuple(ops)


def put_bytes(ops: Sequence[Op]) -> int:
    """Bytes of the envelopes that these ops put, each counted whole."""
    return sum(len(op.envelope) for op in ops if isinstance(op, Put))


def _read_puts(fields: Fields, bytes_left: int) -> list[Put]:
    """The puts around one blob; refused before they are as large as that in memory."""
    blob = fields.raw("b", bytes_max=limits.ENVELOPE_BYTES_MAX - limits.BLOB_OFFSET_BYTES)
    puts: list[Put] = []
    listed = fields.items("t", items_max=limits.OPS_PER_REQUEST_MAX)
    if len(listed) * (limits.BLOB_OFFSET_BYTES + len(blob)) > bytes_left:
        raise MalformedInput("op_count", "the ops of one request are too many, or too large")
    for value in listed:
        match value:
            case [bytes(secret), bytes(head), bool(priority)] if (
                len(secret) == limits.SECRET_BYTES and len(head) == limits.BLOB_OFFSET_BYTES
            ):
                puts.append(Put(put_secret=secret, envelope=head + blob, priority=priority))
            case _:
                raise MalformedInput("op_wrong", "an envelope among others is capability, head and urgency")
    if len(puts) < 2:
        raise MalformedInput("op_wrong", "one envelope is put by itself")
    return puts


def _op_to_wire(op: Op) -> Value:
    match op:
        case Create():
            return {
                "k": "new",
                "t": op.token,
                "f": op.predecessor_get_secret,
                "s": op.signature,
                "p": op.put_hash,
                "g": op.get_hash,
                "m": op.mailbox_public,
                "y": op.kind,
            }
        case AskGrant():
            return {"k": "grant", "g": op.get_secret, "p": op.put_hash, "m": op.mailbox_public}
        case Remake():
            return {
                "k": "again",
                "p": op.put_hash,
                "g": op.get_hash,
                "m": op.mailbox_public,
                "s": op.grant,
            }
        case Put():
            return {"k": "put", "p": op.put_secret, "e": op.envelope, "u": op.priority}
        case Held():
            return {"k": "held", "p": op.put_secret, "h": op.envelope_hash}
        case List():
            return {
                "k": "list",
                "g": op.get_secret,
                "c": op.cursor,
                "w": op.wait_ms,
                "m": op.inline_bytes_max,
            }
        case Get():
            return {"k": "get", "g": op.get_secret, "h": op.envelope_hash}
        case Delete():
            return {"k": "del", "g": op.get_secret, "h": op.envelope_hash, "s": op.signature}
        case Stats():
            return {"k": "stat", "g": op.get_secret}
        case Notices():
            return {"k": "note", "c": op.cursor}
        case Head():
            return {"k": "head", "o": op.old_size}
        case Cosign():
            return {"k": "wit", "t": op.token, "m": op.log_public, "b": op.body}
        case Publish():
            return {"k": "pub", "n": op.notice, "g": op.get_secret}
        case PartPut():
            return {
                "k": "bput",
                "p": op.put_secret,
                "w": op.write_secret,
                "r": op.read_hash,
                "z": op.size_bytes,
                "o": op.offset,
                "d": op.data,
            }
        case PartGet():
            return {
                "k": "bget",
                "g": op.get_secret,
                "r": op.read_secret,
                "o": op.offset,
                "m": op.bytes_max,
            }
        case AttachmentDelete():
            return {
                "k": "bdel",
                "m": op.mailbox_secret,
                "b": op.attachment_secret,
                "s": op.by_sender,
            }
        case Forward():
            return {"k": "fwd", "t": op.token, "n": op.target, "w": op.wait_ms, "e": op.request}
        case _:
            assert_never(op)


def _op_from_wire(value: Value) -> Op:
    fields = Fields(value, "op")
    op = _read_op(fields.text("k", bytes_max=limits.CODE_BYTES_MAX), fields)
    fields.done()
    return op


def _read_op(tag: str, fields: Fields) -> Op:
    match tag:
        case "new":
            return _read_create(fields)
        case "grant":
            return AskGrant(
                get_secret=fields.raw("g", size=limits.SECRET_BYTES),
                put_hash=fields.raw("p", size=limits.HASH_BYTES),
                mailbox_public=fields.raw("m", size=limits.ED25519_PUBLIC_BYTES),
            )
        case "again":
            return Remake(
                put_hash=fields.raw("p", size=limits.HASH_BYTES),
                get_hash=fields.raw("g", size=limits.HASH_BYTES),
                mailbox_public=fields.raw("m", size=limits.ED25519_PUBLIC_BYTES),
                grant=fields.raw("s", size=limits.ED25519_SIGNATURE_BYTES),
            )
        case "put":
            return Put(
                put_secret=fields.raw("p", size=limits.SECRET_BYTES),
                envelope=fields.raw("e", bytes_max=limits.ENVELOPE_BYTES_MAX),
                priority=fields.boolean("u"),
            )
        case "held":
            return Held(
                put_secret=fields.raw("p", size=limits.SECRET_BYTES),
                envelope_hash=fields.raw("h", size=limits.HASH_BYTES),
            )
        case "list":
            return List(
                get_secret=fields.raw("g", size=limits.SECRET_BYTES),
                cursor=fields.integer("c"),
                wait_ms=fields.integer("w", most=limits.LONG_POLL_MS_MAX),
                inline_bytes_max=fields.integer("m", most=limits.U32_MAX),
            )
        case "get":
            return Get(
                get_secret=fields.raw("g", size=limits.SECRET_BYTES),
                envelope_hash=fields.raw("h", size=limits.HASH_BYTES),
            )
        case "del":
            return Delete(
                get_secret=fields.raw("g", size=limits.SECRET_BYTES),
                envelope_hash=fields.raw("h", size=limits.HASH_BYTES),
                signature=fields.raw("s", size=limits.ED25519_SIGNATURE_BYTES),
            )
        case "stat":
            return Stats(get_secret=fields.raw("g", size=limits.SECRET_BYTES))
        case "note":
            return Notices(cursor=fields.integer("c"))
        case "head":
            return Head(old_size=fields.integer("o", most=limits.LOG_SIZE_MAX))
        case "wit":
            return Cosign(
                token=fields.raw("t", size=limits.SECRET_BYTES),
                log_public=fields.raw("m", size=limits.ED25519_PUBLIC_BYTES),
                body=fields.raw("b", bytes_max=limits.ITEM_BYTES_MAX),
            )
        case "pub":
            op = Publish(
                notice=fields.raw("n", bytes_max=limits.NOTICE_BYTES_MAX),
                get_secret=fields.raw("g", bytes_max=limits.SECRET_BYTES),
            )
            if len(op.get_secret) not in (0, limits.SECRET_BYTES):
                raise MalformedInput("op_wrong", "a capability has 32 bytes")
            return op
        case "bput":
            return _read_part_put(fields)
        case "bget":
            return PartGet(
                get_secret=fields.raw("g", size=limits.SECRET_BYTES),
                read_secret=fields.raw("r", size=limits.SECRET_BYTES),
                offset=fields.integer("o", most=limits.ATTACHMENT_BYTES_MAX),
                bytes_max=fields.integer("m", most=limits.ATTACHMENT_PART_BYTES),
            )
        case "bdel":
            return AttachmentDelete(
                mailbox_secret=fields.raw("m", size=limits.SECRET_BYTES),
                attachment_secret=fields.raw("b", size=limits.SECRET_BYTES),
                by_sender=fields.boolean("s"),
            )
        case "fwd":
            return Forward(
                token=fields.raw("t", size=limits.SECRET_BYTES),
                target=fields.text("n", bytes_max=limits.CODE_BYTES_MAX),
                wait_ms=fields.integer("w", most=limits.FORWARD_WAIT_MS_MAX),
                request=fields.raw("e", bytes_max=limits.FORWARDED_BYTES_MAX),
            )
        case _:
            raise MalformedInput("op_unknown", "the request holds an unknown op")


def _read_part_put(fields: Fields) -> PartPut:
    op = PartPut(
        put_secret=fields.raw("p", size=limits.SECRET_BYTES),
        write_secret=fields.raw("w", size=limits.SECRET_BYTES),
        read_hash=fields.raw("r", size=limits.HASH_BYTES),
        size_bytes=fields.integer("z", most=limits.ATTACHMENT_BYTES_MAX),
        offset=fields.integer("o", most=limits.ATTACHMENT_BYTES_MAX),
        data=fields.raw("d", bytes_max=limits.ATTACHMENT_PART_BYTES),
    )
    if op.size_bytes not in SIZES or op.offset + len(op.data) > op.size_bytes:
        raise MalformedInput("op_wrong", "a part lies inside an attachment of one of few sizes")
    return op


def _read_create(fields: Fields) -> Create:
    kind = fields.text("y", bytes_max=limits.CODE_BYTES_MAX)
    if kind not in ("pair", "rendezvous"):
        raise MalformedInput("op_wrong", "a mailbox is for a pair or a rendezvous")
    op = Create(
        token=fields.raw("t", bytes_max=limits.SECRET_BYTES),
        predecessor_get_secret=fields.raw("f", bytes_max=limits.SECRET_BYTES),
        signature=fields.raw("s", bytes_max=limits.ED25519_SIGNATURE_BYTES),
        put_hash=fields.raw("p", size=limits.HASH_BYTES),
        get_hash=fields.raw("g", size=limits.HASH_BYTES),
        mailbox_public=fields.raw("m", size=limits.ED25519_PUBLIC_BYTES),
        kind="pair" if kind == "pair" else "rendezvous",
    )
    by_token = (len(op.token), len(op.predecessor_get_secret), len(op.signature))
    if by_token not in (
        (limits.SECRET_BYTES, 0, 0),
        (0, limits.SECRET_BYTES, limits.ED25519_SIGNATURE_BYTES),
    ):
        raise MalformedInput("op_wrong", "a mailbox is made by a token or by its predecessor, not both")
    return op


def _result_to_wire(result: Result) -> Value:
    match result:
        case Created():
            return {"k": "made"}
        case Granted():
            return {"k": "grant", "s": result.grant}
        case Custody():
            return {
                "k": "cus",
                "p": result.put_capability_hash,
                "h": result.envelope_hash,
                "z": result.size_bytes,
                "i": result.log_index,
                "t": result.time_ms,
            }
        case HeldAnswer():
            return {"k": "held", "y": result.held}
        case Listed():
            return {
                "k": "list",
                "m": result.more,
                "i": [[i.cursor, i.envelope_hash, i.size_bytes, i.envelope] for i in result.items],
            }
        case Got():
            return {"k": "got", "e": result.envelope}
        case Deleted():
            return {"k": "gone"}
        case StatsAnswer():
            return {
                "k": "stat",
                "i": result.items,
                "im": result.items_max,
                "z": result.size_bytes,
                "zm": result.size_bytes_max,
            }
        case NoticesAnswer():
            return {"k": "note", "n": list(result.notices), "c": result.cursor, "m": result.more}
        case HeadAnswer():
            return {"k": "head", "b": result.body}
        case WitnessSays():
            return {
                "k": "wit",
                "s": result.status,
                "b": result.body,
                "n": result.note,
                "w": list(result.keys),
            }
        case Published():
            return {"k": "pub"}
        case PartHeld():
            return {"k": "bput", "n": result.held_bytes}
        case PartGot():
            return {"k": "bget", "z": result.size_bytes, "d": result.data}
        case AttachmentDeleted():
            return {"k": "bdel"}
        case Forwarded():
            return {"k": "fwd", "e": result.answer}
        case OpRefused():
            return {"k": "no", "c": str(result.code)}  # a Refusal is a str by inheritance only
        case _:
            assert_never(result)


def _result_from_wire(value: Value, op: Op, origin: str) -> Result:
    fields = Fields(value, "result")
    tag = fields.text("k", bytes_max=limits.CODE_BYTES_MAX)
    result = _read_refused(fields) if tag == "no" else _read_result(tag, fields, op, origin)
    fields.done()
    return result


def _read_refused(fields: Fields) -> OpRefused:
    code = fields.text("c", bytes_max=limits.CODE_BYTES_MAX)
    if not code or not all("a" <= c <= "z" or "0" <= c <= "9" or c == "_" for c in code):
        raise MalformedInput("result_wrong", "a refusal has a code")
    return OpRefused(code=code)


def _read_result(tag: str, fields: Fields, op: Op, origin: str) -> Result:
    """The result that answers ``op``; one of another kind is MalformedInput."""
    match tag, op:
        case "made", Create() | Remake():
            return Created()
        case "grant", AskGrant():
            return Granted(grant=fields.raw("s", size=limits.ED25519_SIGNATURE_BYTES))
        case "cus", Put():
            note = read_custody(fields, origin)
            asked = (put_capability_hash(op.put_secret), envelope_hash(op.envelope), len(op.envelope))
            if (note.put_capability_hash, note.envelope_hash, note.size_bytes) != asked:
                raise MalformedInput("result_wrong", "a custody note names another put")
            return note
        case "held", Held():
            return HeldAnswer(held=fields.boolean("y"))
        case "list", List():
            return _read_listed(fields)
        case "got", Get():
            envelope = fields.raw("e", bytes_max=limits.ENVELOPE_BYTES_MAX)
            if envelope_hash(envelope) != op.envelope_hash:
                raise MalformedInput("result_wrong", "another envelope than the one asked for")
            return Got(envelope=envelope)
        case "gone", Delete():
            return Deleted()
        case "stat", Stats():
            return StatsAnswer(
                items=fields.integer("i"),
                items_max=fields.integer("im"),
                size_bytes=fields.integer("z"),
                size_bytes_max=fields.integer("zm"),
            )
        case "note", Notices():
            return NoticesAnswer(
                notices=_read_notices(fields), cursor=fields.integer("c"), more=fields.boolean("m")
            )
        case "head", Head():
            return HeadAnswer(body=fields.raw("b", bytes_max=limits.ITEM_BYTES_MAX))
        case "wit", Cosign():
            return _read_witness_says(fields)
        case "pub", Publish():
            return Published()
        case "bput", PartPut():
            return PartHeld(held_bytes=fields.integer("n", most=op.size_bytes))
        case "bget", PartGet():
            return _read_part_got(fields, op)
        case "bdel", AttachmentDelete():
            return AttachmentDeleted()
        case "fwd", Forward():
            return Forwarded(answer=fields.raw("e", bytes_max=limits.FORWARDED_BYTES_MAX))
        case _:
            raise MalformedInput("result_wrong", "a result does not answer its op")


def _read_witness_says(fields: Fields) -> WitnessSays:
    keys = fields.items("w", items_max=limits.COSIGNATURES_MAX)
    if not all(isinstance(key, str) and len(key) <= limits.WITNESS_KEY_CHARACTERS_MAX for key in keys):
        raise MalformedInput("result_wrong", "the key of a witness is a short text")
    return WitnessSays(
        status=fields.integer("s", least=100, most=999),
        body=fields.raw("b", bytes_max=limits.ITEM_BYTES_MAX),
        note=fields.raw("n", bytes_max=limits.ITEM_BYTES_MAX),
        keys=tuple(str(key) for key in keys),
    )


def _read_part_got(fields: Fields, op: PartGet) -> PartGot:
    got = PartGot(
        size_bytes=fields.integer("z", most=limits.ATTACHMENT_BYTES_MAX),
        data=fields.raw("d", bytes_max=op.bytes_max),
    )
    if op.offset + len(got.data) > got.size_bytes and got.data:
        raise MalformedInput("result_wrong", "a part reaches beyond its attachment")
    return got


def _read_listed(fields: Fields) -> Listed:
    items: list[ListedItem] = []
    for value in fields.items("i", items_max=limits.LISTED_PER_ANSWER_MAX):
        match value:
            case [int(cursor), bytes(name), int(size), None | bytes() as envelope] if (
                len(name) == limits.HASH_BYTES
                and type(cursor) is type(size) is int
                and 0 <= size <= limits.ENVELOPE_BYTES_MAX
                and (envelope is None or (len(envelope) == size and envelope_hash(envelope) == name))
                and cursor > (items[-1].cursor if items else -1)
            ):
                items.append(
                    ListedItem(cursor=cursor, envelope_hash=name, size_bytes=size, envelope=envelope)
                )
            case _:
                raise MalformedInput("result_wrong", "a listed item is cursor, hash, size and envelope")
    return Listed(items=tuple(items), more=fields.boolean("m"))


def _read_notices(fields: Fields) -> tuple[bytes, ...]:
    notices: list[bytes] = []
    for value in fields.items("n", items_max=limits.NOTICES_PER_ANSWER_MAX):
        if not isinstance(value, bytes) or len(value) > limits.NOTICE_BYTES_MAX:
            raise MalformedInput("result_wrong", "a notice is signed bytes")
        notices.append(value)
    return tuple(notices)
