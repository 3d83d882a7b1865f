"""What the broker asks of a store, and what a store promises.

Spec: docs/spec/broker.md#store. One rule: a result that says something changed is returned only after the
change and its log entry are durable together. A store finds mailboxes by hashes of their capabilities and
keeps nothing else of them; the rules by which it answers are ``protocol.mailbox``'s.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, assert_never

from broker.witness import WitnessedLog
from keys.errors import VerificationFailed
from protocol.envelope import envelope_hash
from protocol.parts import read_capability_hash, write_capability_hash
from protocol.requests import (
    AskGrant,
    AttachmentDelete,
    Cosign,
    Create,
    Delete,
    Get,
    Head,
    Held,
    List,
    ListedItem,
    MailboxOp,
    Notices,
    PartGet,
    PartPut,
    Publish,
    Put,
    Remake,
    Result,
    Stats,
    creation_token_hash,
    get_capability_hash,
    put_capability_hash,
    verify_grant,
    witness_token_hash,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One op with the hashes it needs, computed before the writer's turn comes."""

    op: MailboxOp
    box_hash: bytes = b""  # of the capability shown: put for Put and Held, get for the others
    content_hash: bytes = b""  # of the envelope of a Put, a token, an attachment's secret
    is_granted: bool = False  # a Remake whose grant our custody key signed

    @property
    def writes(self) -> bool:
        """Whether carrying it out changes anything."""
        return isinstance(
            self.op, Create | Remake | Put | Delete | Publish | Cosign | PartPut | AttachmentDelete
        )


def order_of(op: MailboxOp, custody_public: bytes) -> Order:
    """The order that carries out ``op``; ``custody_public`` is our own key, under which grants are signed."""
    match op:
        case Put():
            return Order(
                op=op, box_hash=put_capability_hash(op.put_secret), content_hash=envelope_hash(op.envelope)
            )
        case Held():
            return Order(op=op, box_hash=put_capability_hash(op.put_secret))
        case List() | Get() | Delete() | Stats() | AskGrant():
            return Order(op=op, box_hash=get_capability_hash(op.get_secret))
        case Create():
            shown = op.predecessor_get_secret
            return Order(
                op=op,
                box_hash=get_capability_hash(shown) if shown else b"",
                content_hash=creation_token_hash(op.token) if op.token else b"",
            )
        case Remake():
            return Order(op=op, is_granted=_is_granted(op, custody_public))
        case Notices() | Head():
            return Order(op=op)
        case Cosign():
            return Order(op=op, content_hash=witness_token_hash(op.token))
        case Publish():
            return Order(op=op, box_hash=get_capability_hash(op.get_secret) if op.get_secret else b"")
        case PartPut():
            return Order(
                op=op,
                box_hash=put_capability_hash(op.put_secret),
                content_hash=write_capability_hash(op.write_secret),
            )
        case PartGet():
            return Order(
                op=op,
                box_hash=get_capability_hash(op.get_secret),
                content_hash=read_capability_hash(op.read_secret),
            )
        case AttachmentDelete() if op.by_sender:
            return Order(
                op=op,
                box_hash=put_capability_hash(op.mailbox_secret),
                content_hash=write_capability_hash(op.attachment_secret),
            )
        case AttachmentDelete():
            return Order(
                op=op,
                box_hash=get_capability_hash(op.mailbox_secret),
                content_hash=read_capability_hash(op.attachment_secret),
            )
        case _:
            assert_never(op)


def _is_granted(op: Remake, custody_public: bytes) -> bool:
    try:
        verify_grant(
            custody_public, op.grant, put_hash=op.put_hash, get_hash=op.get_hash, public=op.mailbox_public
        )
    except VerificationFailed:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedOut:
    """Results in the order of the orders. Custody notes and grants among them are not signed yet.

    ``known``: one of the orders showed a capability or token that exists here; never told to the client.
    ``handed_out``: log indexes of the items whose envelopes are in the results.
    """

    results: tuple[Result, ...]
    known: bool
    handed_out: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What the store holds altogether; counts only."""

    mailboxes: int
    items: int
    size_bytes: int
    tombstones: int
    token_uses_left: int
    retired: int  # mailboxes whose time was over, since this database began
    remade: int  # mailboxes made again with a grant, since then
    attachments: int  # begun and not deleted
    attachment_bytes: int  # of them that are here


StandingKind = Literal["forwarding", "witness"]
"""Tokens that are good until they are withdrawn: to reach other brokers, to have a log cosigned."""

# Called on the event loop for each new item once its commit is durable: hash of the get capability, the item.
Announce = Callable[[bytes, ListedItem], None]


class Store(Protocol):
    """Durable mailboxes with their log."""

    async def carry_out(self, orders: Sequence[Order], *, bytes_max: int) -> CarriedOut:
        """Carry out ``orders`` in order, as one: all results are durable when this returns.

        Envelopes in the results have at most ``bytes_max`` bytes altogether. DiskFailed ends the process.
        """
        ...

    async def note_handed_out(self, log_indexes: Sequence[int]) -> None:
        """Record that these items left the broker for their recipient (``bk.out``), once each."""
        ...

    async def expire(self, rows_max: int) -> int:
        """Drop what is past its time, at most ``rows_max`` rows; how many there were."""
        ...

    async def load_tokens(self, token_hashes: Sequence[bytes], uses: int) -> None:
        """Let each token make ``uses`` mailboxes."""
        ...

    async def load_standing_tokens(self, kind: StandingKind, token_hashes: Sequence[bytes]) -> None:
        """Let whoever shows one of these tokens do what it is for."""
        ...

    async def withdraw_standing_token(self, kind: StandingKind, token_hash: bytes) -> bool:
        """Take such a token back; whether there was one."""
        ...

    async def may_forward(self, token_hash: bytes) -> bool:
        """Whether there is such a forwarding token."""
        ...

    async def witnessed(self) -> Sequence[WitnessedLog]:
        """The logs that were cosigned here."""
        ...

    @property
    def witness_keys(self) -> tuple[str, ...]:
        """The vkeys under which this broker cosigns."""
        ...

    def totals(self) -> Totals:
        """How much is there now."""
        ...
