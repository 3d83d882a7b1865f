"""Mailboxes without room: which of the items that wait for one may be put now.

Spec: docs/spec/conversation.md#delivery. One rule: only a delay is kept here; a row that is wrong or missing
costs puts or patience, never an item. Functions run inside a transaction of their caller. What waits is
whatever has an envelope at hand; what a broker holds has none.
"""

from collections.abc import Sequence

from protocol import limits
from protocol.delivery import FullMailbox, after_puts, after_taken_out
from protocol.message import MessageType
from runtime.sqlite import Snapshot, Transaction

# Items that wait for a mailbox without room, whatever their own timers say.
RESTING = (
    "SELECT d.rowid FROM full_mailbox f CROSS JOIN delivery d INDEXED BY delivery_waiting"
    " ON d.peer = f.peer AND d.urgent = f.urgent WHERE d.envelope IS NOT NULL"
)
_WAITING = "FROM delivery INDEXED BY delivery_waiting WHERE peer = ? AND urgent = ? AND envelope IS NOT NULL"


def let_through(tx: Snapshot, peers: Sequence[bytes], now_ms: int, *, most: int) -> list[int]:
    """Row ids of what may be put to full mailboxes of these peers now: alerts first, the oldest first."""
    found: list[int] = []
    for peer_id, urgent, full in _load(tx, peers):
        allowed = min(full.allowance(now_ms), most)
        order = "alert_id IS NULL, rowid" if urgent else f"type = {MessageType.COVER:d}, rowid"
        sql = f"SELECT rowid {_WAITING} ORDER BY {order} LIMIT ?"
        found += [row[0] for row in tx.execute(sql, (peer_id, urgent, allowed))]
    return found


def next_due_ms(tx: Snapshot, peers: Sequence[bytes], now_ms: int) -> int | None:
    """When something that waits for a full mailbox of these peers may be put."""
    times = [
        now_ms if full.allowance(now_ms) else full.next_at_ms
        for peer_id, urgent, full in _load(tx, peers)
        if _waits(tx, peer_id, urgent)
    ]
    return min(times, default=None)


def note_puts(
    tx: Transaction, peer_id: bytes, *, urgent: bool, taken: int, refused: int, now_ms: int, jitter: float
) -> None:
    """The broker answered puts of one class: it took so many, and had no room for so many."""
    known = _find(tx, peer_id, urgent)
    full = after_puts(known, taken=taken, refused=refused, now_ms=now_ms, jitter=jitter)
    if full is not None and _waits(tx, peer_id, urgent):
        _store(tx, peer_id, urgent, full)
    elif known is not None:
        _forget(tx, peer_id, urgent)


def is_full(tx: Snapshot, peer_id: bytes, *, urgent: bool) -> bool:
    """Whether items of this class are let through by count."""
    return _find(tx, peer_id, urgent) is not None


def note_taken_out(tx: Transaction, peer_id: bytes, *, urgent: bool, count: int, now_ms: int) -> bool:
    """The peer took so many items out; whether anything waited for their room."""
    known = _find(tx, peer_id, urgent)
    if known is None or not count:
        return False
    _store(tx, peer_id, urgent, after_taken_out(known, count, now_ms))
    return True


def note_empty(tx: Transaction, peer_id: bytes, now_ms: int) -> None:
    """It is another mailbox, or the broker lost what was in it."""
    for urgent in (False, True):
        note_taken_out(tx, peer_id, urgent=urgent, count=limits.MAILBOX_ITEMS_MAX, now_ms=now_ms)


def try_now(tx: Transaction, peer_id: bytes, now_ms: int) -> None:
    """Something urgent was kept: it does not wait for the next try."""
    tx.execute(
        "UPDATE full_mailbox SET next_at_ms = ? WHERE peer = ? AND urgent = 1 AND next_at_ms > ?",
        (now_ms, peer_id, now_ms),
    )


def forget(tx: Transaction, peer_id: bytes) -> None:
    """There is no such mailbox any more: every item finds out by itself."""
    tx.execute("DELETE FROM full_mailbox WHERE peer = ?", (peer_id,))


# --- rows ---------------------------------------------------------------------------------------------------


def _load(tx: Snapshot, peers: Sequence[bytes]) -> list[tuple[bytes, bool, FullMailbox]]:
    rows = tx.execute("SELECT peer, urgent, attempt, next_at_ms, probe, credit FROM full_mailbox")
    return [(row[0], bool(row[1]), _full(*row[2:])) for row in rows if row[0] in peers]


def _find(tx: Snapshot, peer_id: bytes, urgent: bool) -> FullMailbox | None:
    row = tx.one(
        "SELECT attempt, next_at_ms, probe, credit FROM full_mailbox WHERE peer = ? AND urgent = ?",
        (peer_id, urgent),
    )
    return None if row is None else _full(*row)


def _full(attempt: int, next_at_ms: int, probe: int, credit: int) -> FullMailbox:
    return FullMailbox(attempt=attempt, next_at_ms=next_at_ms, probe=probe, credit=credit)


def _store(tx: Transaction, peer_id: bytes, urgent: bool, full: FullMailbox) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO full_mailbox (peer, urgent, attempt, next_at_ms, probe, credit)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (peer_id, urgent, full.attempt, full.next_at_ms, full.probe, full.credit),
    )


def _forget(tx: Transaction, peer_id: bytes, urgent: bool) -> None:
    tx.execute("DELETE FROM full_mailbox WHERE peer = ? AND urgent = ?", (peer_id, urgent))


def _waits(tx: Snapshot, peer_id: bytes, urgent: bool) -> bool:
    return bool(tx.execute(f"SELECT 1 {_WAITING} LIMIT 1", (peer_id, urgent)))
