"""The broker's rules for one mailbox: make, accept, refuse, recognise, expire, retire.

Spec: docs/spec/broker.md#mailboxes. One rule: make before break. A mailbox that may still be somebody's only
address is never removed; quotas, duplicates and time decide about items alone. Values in, verdicts out: the
broker's store counts, keeps and deletes. The broker knows hashes, sizes and times, and no office.
"""

from dataclasses import dataclass
from typing import Final

from keys.errors import VerificationFailed
from protocol import limits
from protocol.envelope import BUCKETS
from protocol.requests import (
    Create,
    Delete,
    MailboxKind,
    OpRefused,
    PartHeld,
    PartPut,
    Refusal,
    Remake,
    verify_delete,
    verify_successor,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What one mailbox may hold. The reserved part is open to priority items (immediate, control) alone."""

    items_max: int
    size_bytes_max: int
    reserved_items: int
    reserved_bytes: int


QUOTAS: Final[dict[MailboxKind, Quota]] = {
    "pair": Quota(
        items_max=limits.MAILBOX_ITEMS_MAX,
        size_bytes_max=limits.MAILBOX_BYTES_MAX,
        reserved_items=limits.MAILBOX_RESERVED_ITEMS,
        reserved_bytes=limits.MAILBOX_RESERVED_BYTES,
    ),
    "rendezvous": Quota(
        items_max=limits.RENDEZVOUS_ITEMS_MAX,
        size_bytes_max=limits.RENDEZVOUS_BYTES_MAX,
        reserved_items=0,
        reserved_bytes=0,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxState:
    """One mailbox as the store counts it.

    ``first_item_ms``: when the first item ever arrived here, which proves that the sender knows the address;
    None before. ``successor_first_item_ms``: the same of the first that is proven among its successors
    and theirs.
    """

    kind: MailboxKind
    put_hash: bytes  # 32
    get_hash: bytes  # 32
    mailbox_public: bytes  # Ed25519, 32
    created_ms: int
    items: int
    size_bytes: int
    first_item_ms: int | None = None
    successor_first_item_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Store it until ``expires_at_ms``. ``proves``: the first item ever here, so all before it may retire."""

    expires_at_ms: int
    proves: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """Exactly this envelope is here or was within its TTL: answer with the custody note of the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyThere:
    """Exactly this mailbox exists: answer as if it had been made now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeMailbox:
    """Make it; ``spend_token`` says that the one-time token is used up by it."""

    spend_token: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachmentState:
    """One attachment as the store counts it. ``is_gone``: deleted, and nobody sends it anew."""

    size_bytes: int
    held_bytes: int
    read_hash: bytes  # 32
    write_hash: bytes  # 32
    is_gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendPart:
    """Store the data from its byte ``skip`` on. ``makes``: it is the first part of its attachment."""

    skip: int
    makes: bool


# --- mailboxes ------------------------------------------------------------------------------------


def accept_create(
    op: Create,
    *,
    existing: MailboxState | None,
    token_unspent: bool,
    predecessor: MailboxState | None,
    unproven_successors: int,
    lineage_mailboxes: int,
    now_ms: int,
) -> MakeMailbox | AlreadyThere | OpRefused:
    """Judge a creation.

    ``existing``: the mailbox that has this put hash or this get hash. ``token_unspent``: the operator loaded
    this token and nobody used it. ``predecessor``: the mailbox whose get secret the op shows, with
    ``unproven_successors`` made from it that no item reached yet; ``lineage_mailboxes``: how many there are
    now that descend from the same token, or an office that has one could take the whole disk.
    """
    if existing is not None:
        same = (existing.put_hash, existing.get_hash, existing.mailbox_public, existing.kind) == (
            op.put_hash,
            op.get_hash,
            op.mailbox_public,
            op.kind,
        )
        return AlreadyThere() if same else OpRefused(code=Refusal.CONFLICT)
    if op.token:
        return MakeMailbox(spend_token=True) if token_unspent else OpRefused(code=Refusal.TOKEN_UNKNOWN)
    # A rendezvous is nobody's standing address: nothing follows one, and none follows a pair's mailbox.
    if predecessor is None or predecessor.kind != "pair" or op.kind != "pair":
        return OpRefused(code=Refusal.NOT_FOUND)
    if mailbox_expired(predecessor, now_ms):
        return OpRefused(code=Refusal.NOT_FOUND)
    try:
        verify_successor(predecessor.mailbox_public, op)
    except VerificationFailed:
        return OpRefused(code=Refusal.BAD_SIGNATURE)
    if (
        unproven_successors >= limits.UNPROVEN_SUCCESSORS_MAX
        or lineage_mailboxes >= limits.LINEAGE_MAILBOXES_MAX
    ):
        return OpRefused(code=Refusal.QUOTA)
    return MakeMailbox(spend_token=False)


def accept_remake(
    op: Remake, *, existing: MailboxState | None, is_granted: bool, was_retired: bool
) -> MakeMailbox | AlreadyThere | OpRefused:
    """Judge a mailbox that its recipient says we lost.

    ``is_granted``: our own custody key signed the grant (``requests.verify_grant``). ``was_retired``: we
    remember that its time was over; after an erased disk nobody remembers, and then it costs one mailbox.
    """
    if not is_granted:
        return OpRefused(code=Refusal.BAD_SIGNATURE)
    if existing is not None:
        known = (existing.put_hash, existing.get_hash, existing.mailbox_public, existing.kind)
        same = known == (op.put_hash, op.get_hash, op.mailbox_public, "pair")
        return AlreadyThere() if same else OpRefused(code=Refusal.CONFLICT)
    if was_retired:
        return OpRefused(code=Refusal.NOT_FOUND)
    return MakeMailbox(spend_token=False)


def may_retire(mailbox: MailboxState) -> bool:
    """Whether its recipient may stop listing it: an item arrived in a successor."""
    return mailbox.kind == "pair" and mailbox.successor_first_item_ms is not None


def mailbox_expires_ms(mailbox: MailboxState) -> int | None:
    """When the broker may remove it, None for never.

    A rendezvous lives 15 min. A pair's mailbox lives until a successor is proven, and then one TTL longer:
    what was already put drains, and a put under way with the old address is not lost.
    """
    if mailbox.kind == "rendezvous":
        return mailbox.created_ms + limits.RENDEZVOUS_TTL_MS
    if mailbox.successor_first_item_ms is None:
        return None
    return mailbox.successor_first_item_ms + limits.MAILBOX_TTL_MS


def mailbox_expired(mailbox: MailboxState, now_ms: int) -> bool:
    """Whether it is to be treated as unknown from now on."""
    expires_ms = mailbox_expires_ms(mailbox)
    return expires_ms is not None and now_ms >= expires_ms


# --- items ----------------------------------------------------------------------------------------


def accept_put(
    mailbox: MailboxState | None,
    *,
    size_bytes: int,
    priority: bool,
    seen: bool,
    now_ms: int,
    quotas: dict[MailboxKind, Quota] = QUOTAS,
) -> Accepted | Duplicate | OpRefused:
    """Judge a put whose envelope already parsed.

    ``mailbox``: the one with this put hash, None if there is none. ``seen``: this envelope hash is here, or
    left a tombstone here that has not expired. The caller counts the item into the state it passes next,
    so several puts of one request are judged in order.
    """
    if mailbox is None or mailbox_expired(mailbox, now_ms):
        return OpRefused(code=Refusal.GONE)
    if seen:
        return Duplicate()
    if size_bytes not in BUCKETS:
        return OpRefused(code=Refusal.TOO_LARGE)
    quota = quotas[mailbox.kind]
    items_max, bytes_max = quota.items_max, quota.size_bytes_max
    if not priority:
        items_max -= quota.reserved_items
        bytes_max -= quota.reserved_bytes
    if mailbox.items >= items_max or mailbox.size_bytes + size_bytes > bytes_max:
        return OpRefused(code=Refusal.QUOTA)
    return Accepted(expires_at_ms=item_expires_ms(mailbox, now_ms), proves=mailbox.first_item_ms is None)


def accept_delete(mailbox: MailboxState | None, op: Delete) -> OpRefused | None:
    """None when the recipient signed this deletion; it is then carried out whether the item is there or not.

    An unknown mailbox answers like an empty one, so the answer is None as well.
    """
    if mailbox is None:
        return None
    try:
        verify_delete(mailbox.mailbox_public, op)
    except VerificationFailed:
        return OpRefused(code=Refusal.BAD_SIGNATURE)
    return None


def accept_part(
    mailbox: MailboxState | None,
    op: PartPut,
    *,
    write_hash: bytes,
    known: AttachmentState | None,
    attachments: int,
    attachment_bytes: int,
    now_ms: int,
) -> AppendPart | PartHeld | OpRefused:
    """Judge a part.

    ``mailbox``: the one with this put hash. ``known``: the attachment beside it that has this write or this
    read hash. ``attachments`` and ``attachment_bytes``: what the mailbox is charged with, in whole sizes.
    What overlaps is not looked at: the first bytes stand.
    """
    if mailbox is None or mailbox_expired(mailbox, now_ms) or mailbox.kind != "pair":
        return OpRefused(code=Refusal.GONE)
    held_bytes = 0
    if known is not None:
        if (known.write_hash, known.read_hash, known.size_bytes) != (write_hash, op.read_hash, op.size_bytes):
            return OpRefused(code=Refusal.CONFLICT)
        if known.is_gone:
            return PartHeld(held_bytes=op.size_bytes)
        held_bytes = known.held_bytes
    end = op.offset + len(op.data)
    is_long_enough = end - held_bytes >= limits.ATTACHMENT_PART_BYTES_MIN or end == op.size_bytes
    if op.offset > held_bytes or end <= held_bytes or not is_long_enough:
        return PartHeld(held_bytes=held_bytes)
    if known is None and (
        attachments >= limits.MAILBOX_ATTACHMENTS_MAX
        or attachment_bytes + op.size_bytes > limits.MAILBOX_ATTACHMENT_BYTES_MAX
    ):
        return OpRefused(code=Refusal.QUOTA)
    return AppendPart(skip=held_bytes - op.offset, makes=known is None)


def item_expires_ms(mailbox: MailboxState, put_ms: int) -> int:
    """When an item put now is dropped: 14 days on, or with its mailbox if that goes earlier."""
    item_ms = put_ms + limits.MAILBOX_TTL_MS
    mailbox_ms = mailbox_expires_ms(mailbox)
    return item_ms if mailbox_ms is None else min(item_ms, mailbox_ms)


def tombstone_expires_ms(put_ms: int) -> int:
    """How long the hash of an item, gone or not, is remembered so that a repeated put stays a duplicate."""
    return put_ms + limits.TOMBSTONE_TTL_MS


def expired(expires_at_ms: int, now_ms: int) -> bool:
    """Whether an item or tombstone with this end is to be treated as gone."""
    return now_ms >= expires_at_ms
