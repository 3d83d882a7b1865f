"""Receipts: what the receiving office signs about an alert, and the ladder the sender sees.

Spec: docs/spec/receipts.md. One rule: the ladder only climbs, and every rung but ``held`` rests on the peer's
signature. A receipt is signed as the body of a receipt message, many to a message. Knows no key, no screen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from keys.errors import MalformedInput
from protocol import limits, wire
from protocol.wire import Fields, Value


class ReceiptState(StrEnum):
    """Rungs as they travel and as they are stored."""

    HELD = "held"  # broker's custody note; never inside a receipt
    DELIVERED = "delivered"
    OPENED = "opened"
    ASSIGNED = "assigned"
    OUTCOME = "outcome"
    REFUSED = "refused"
    ERASED = "erased"  # content and keys are gone at whoever says it, receiver or sender


# Order in which an alert climbs. Refused is the other end: nothing follows it but a later delivery.
LADDER: Final = (
    ReceiptState.HELD,
    ReceiptState.DELIVERED,
    ReceiptState.OPENED,
    ReceiptState.ASSIGNED,
    ReceiptState.OUTCOME,
    ReceiptState.ERASED,
)
# Refusals that are a person's to choose; every other code of the list is what the program found.
OFFICER_REFUSALS: Final = (
    "not_our_area",
    "not_enough_information",
    "already_known",
    "no_capacity",
    "not_allowed_here",
)
_RUNG: Final = {state: rung for rung, state in enumerate(LADDER)}
_CODE: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")
_HEX: Final = frozenset("0123456789abcdef")
_IN_RECEIPTS: Final = frozenset(state.value for state in ReceiptState) - {ReceiptState.HELD.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One thing the peer says happened to one delivery of an alert.

    ``log_index`` points into the peer's own log; ``code`` is the outcome or the reason of a refusal, empty
    otherwise; ``actor`` is a pseudonym of the officer in hex, empty when the node itself speaks.
    """

    alert_id: bytes  # 32, zeros when the body could not be read
    hh: bytes  # 32, the delivery it answers
    state: ReceiptState
    at_ms: int
    log_index: int
    code: str = ""
    actor: str = ""


def encode_receipts(receipts: Sequence[Receipt]) -> bytes:
    """Canonical bytes of at least one receipt."""
    return wire.encode(
        [
            {
                "a": r.alert_id,
                "h": r.hh,
                "s": r.state.value,
                "t": r.at_ms,
                "i": r.log_index,
                "c": r.code,
                "w": r.actor,
            }
            for r in receipts
        ]
    )


def decode_receipts_untrusted(data: bytes) -> tuple[Receipt, ...]:
    """Receipts as the peer listed them, at least one. MalformedInput only."""
    listed = wire.decode_untrusted(data, bytes_max=limits.BODY_BYTES_MAX)
    if not isinstance(listed, list) or not 1 <= len(listed) <= limits.RECEIPTS_PER_MESSAGE_MAX:
        raise MalformedInput(
            "receipts_wrong", f"a receipt message holds 1 to {limits.RECEIPTS_PER_MESSAGE_MAX} receipts"
        )
    return tuple(_from_wire(value) for value in listed)


def advance(ladder: ReceiptState | None, state: ReceiptState) -> ReceiptState:
    """The rung shown after ``state`` is learnt: never a lower one.

    ``refused`` of the program stands above ``held`` only: if a delivery of the same alert is accepted later,
    or was before, the acceptance is shown (both receipts stay in the log). An officer's refusal, one of
    ``OFFICER_REFUSALS``, stands above ``opened``, where only ``assigned`` and ``outcome`` go over it.
    """
    if ladder is None:
        return state
    return max(ladder, state, key=_height)


def _height(state: ReceiptState) -> float:
    return 0.5 if state is ReceiptState.REFUSED else float(_RUNG[state])


def _from_wire(value: Value) -> Receipt:
    fields = Fields(value, "receipt")
    state = fields.text("s", bytes_max=limits.CODE_BYTES_MAX)
    if state not in _IN_RECEIPTS:
        raise MalformedInput("receipt_wrong", "a receipt names a state of the ladder")
    receipt = Receipt(
        alert_id=fields.raw("a", size=limits.HASH_BYTES),
        hh=fields.raw("h", size=limits.HASH_BYTES),
        state=ReceiptState(state),
        at_ms=fields.integer("t", most=limits.TIME_MS_MAX),
        log_index=fields.integer("i"),
        code=fields.text("c", bytes_max=limits.CODE_BYTES_MAX),
        actor=fields.text("w", bytes_max=limits.ACTOR_BYTES_MAX),
    )
    fields.done()
    if not _CODE.issuperset(receipt.code):
        raise MalformedInput("receipt_wrong", "a code is lower case letters, digits and underscores")
    if len(receipt.actor) % 2 or not _HEX.issuperset(receipt.actor):
        raise MalformedInput("receipt_wrong", "an actor is a pseudonym in lower case hex")
    return receipt
