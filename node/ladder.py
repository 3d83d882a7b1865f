"""The ladder as it is shown: which line stands above which, and how far a delivery came.

Spec: docs/spec/receipts.md#ladder. One rule: the last line is how far it came. Our own word that
something was not heard in time stands below every later word of the peer: still true, no longer the last.
"""

from collections.abc import Sequence
from typing import Any

from audit.entry import INT_LIMIT
from node.views import LadderStep
from protocol import limits
from protocol.receipts import OFFICER_REFUSALS, Receipt, ReceiptState
from runtime.sqlite import Snapshot, Transaction

_STEPS = (
    "kept",
    "on_broker",
    "on_stick",
    "expired",
    "delivered",
    "no_reply",
    "opened",
    "refused",
    "assigned",
    "outcome",
    "erased",
)
ORDER = {step: place for place, step in enumerate(_STEPS)}
# Nothing was heard at all: then the end is what counts, not the question that stayed open before it.
_ORDER_UNHEARD = {**ORDER, "expired": ORDER["no_reply"] + 0.5}
OVERDUE = frozenset({"no_reply", "expired"})


def sorted_ladder(steps: Sequence[LadderStep]) -> tuple[LadderStep, ...]:
    """Lowest first; of several outcomes the first one first.

    What the other program refused stands below ``delivered``: another copy of the alert was taken in.
    """
    order = ORDER if any(step.step == "delivered" for step in steps) else _ORDER_UNHEARD

    def height(rung: LadderStep) -> float:
        refused_unread = rung.step == "refused" and rung.code not in OFFICER_REFUSALS
        return order["delivered"] - 0.5 if refused_unread else order[rung.step]

    return tuple(sorted(steps, key=height))


def ladders_of(tx: Snapshot, alert_id: bytes) -> dict[bytes, tuple[LadderStep, ...]]:
    """The ladder of every delivery of one of our alerts, by peer."""
    found: dict[bytes, list[LadderStep]] = {}
    rows: list[tuple[Any, ...]] = [
        *tx.execute(
            "SELECT peer, step, at_ms, clock, log_index, code FROM ladder WHERE alert_id = ?", (alert_id,)
        ),
        *tx.execute(
            "SELECT peer, 'outcome', at_ms, clock, log_index, code FROM outcome_later WHERE alert_id = ?"
            " ORDER BY rowid",
            (alert_id,),
        ),
    ]
    for peer, step, at_ms, clock, log_index, code in rows:
        found.setdefault(peer, []).append(
            LadderStep(step=step, at_ms=at_ms, clock=clock, log_index=log_index, code=code)
        )
    return {peer: sorted_ladder(steps) for peer, steps in found.items()}


def answers_of(tx: Snapshot, alert_id: bytes, clock: str) -> tuple[LadderStep, ...]:
    """What this office answered to an alert that came in, in the order it did."""
    return tuple(
        LadderStep(step=step, at_ms=at_ms, clock=clock, log_index=log_index, code=code or None)
        for step, at_ms, log_index, code in tx.execute(
            "SELECT step, at_ms, log_index, code FROM answer WHERE alert_id = ? ORDER BY log_index",
            (alert_id,),
        )
    )


def apply_receipt(tx: Transaction, clock: str, peer_id: bytes, alert_id: bytes, receipt: Receipt) -> bool:
    """Put a peer's receipt into the ladder; whether it said anything new.

    The first word on each rung stands. A later outcome is another line, up to a bounded number of them.
    """
    values = (alert_id, peer_id, receipt.at_ms, clock, receipt.log_index, receipt.code or None)
    tx.execute(
        "INSERT OR IGNORE INTO ladder (alert_id, peer, at_ms, clock, log_index, code, step)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*values, receipt.state.value),
    )
    if tx.changes() or receipt.state is not ReceiptState.OUTCOME:
        return bool(tx.changes())
    tx.execute(
        "INSERT OR IGNORE INTO outcome_later (alert_id, peer, at_ms, clock, log_index, code)"
        " SELECT ?, ?, ?, ?, ?, ?"
        " WHERE (SELECT count(*) FROM outcome_later WHERE alert_id = ? AND peer = ?) < ?"
        " AND NOT EXISTS (SELECT 1 FROM ladder WHERE alert_id = ? AND peer = ? AND step = 'outcome'"
        " AND log_index = ?)",
        (
            *values,
            alert_id,
            peer_id,
            limits.OUTCOMES_PER_DELIVERY_MAX - 1,
            alert_id,
            peer_id,
            receipt.log_index,
        ),
    )
    return bool(tx.changes())


def is_usable(receipt: Receipt) -> bool:
    """Whether a receipt says something that can be: its code fits its state, its place a log can have."""
    needs_code = receipt.state in (ReceiptState.OUTCOME, ReceiptState.REFUSED)
    # Only what could not be read is refused without naming the alert.
    is_named = any(receipt.alert_id) or receipt.state is ReceiptState.REFUSED
    return is_named and bool(receipt.code) is needs_code and receipt.log_index < INT_LIMIT
