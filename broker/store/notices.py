"""The revocations a broker shows to everybody: who may add one, and what a flood cannot push out.

Spec: docs/spec/broker.md#notices. One rule: of each office the strongest revocation that verifies under
that office's own root is kept, so nobody can replace a true one with less. Roots cost nothing to make, so a
stranger can fill any store with offices that never were: what a mailbox here vouches for is counted apart and
never gives way to what nobody vouches for. Functions run in the writer's thread, inside its transaction.
"""

from keys.errors import MalformedInput, VerificationFailed
from keys.notice import parse_notice_untrusted, verify_notice
from protocol import limits
from protocol.requests import NoticesAnswer, OpRefused, Published, Refusal, Result
from runtime.sqlite import Snapshot, Transaction


def shown_after(snapshot: Snapshot, cursor: int) -> NoticesAnswer:
    """One page of what is shown, oldest first."""
    rows = snapshot.execute(
        "SELECT number, notice FROM notices WHERE number > ? ORDER BY number LIMIT ?",
        (min(cursor, limits.PAIR_SEQ_MAX), limits.NOTICES_PER_ANSWER_MAX + 1),
    )
    page = rows[: limits.NOTICES_PER_ANSWER_MAX]
    return NoticesAnswer(
        notices=tuple(notice for _, notice in page),
        cursor=page[-1][0] if page else cursor,
        more=len(rows) > len(page),
    )


def publish(tx: Transaction, data: bytes, mailbox: int | None, now_ms: int) -> Result:
    """Take one notice in; ``mailbox`` vouches for it. Cheap refusals come before the costly check."""
    try:
        notice = parse_notice_untrusted(data)
    except MalformedInput:
        return OpRefused(code=Refusal.MALFORMED)
    if mailbox is not None and _vouches_for_too_many(tx, mailbox):
        mailbox = None
    office_id, below = notice.revocation.office_id, notice.revocation.revoked_below
    known = tx.one("SELECT revoked_below, mailbox FROM notices WHERE office_id = ?", (office_id,))
    is_vouched = mailbox is not None or (known is not None and known[1] is not None)
    if known is not None and below <= known[0] and (mailbox is None or known[1] is not None):
        return Published()
    if not is_vouched and _strangers_are_too_many(tx, now_ms):
        return OpRefused(code=Refusal.BUSY)
    try:
        verify_notice(notice)
    except VerificationFailed:
        return OpRefused(code=Refusal.MALFORMED)
    if known is not None and known[0] > below:
        # Vouched for is the office, and the stronger word of it stays.
        data = tx.value("SELECT notice FROM notices WHERE office_id = ?", (office_id,))
        below = known[0]
    voucher = mailbox if mailbox is not None else None if known is None else known[1]
    tx.execute("DELETE FROM notices WHERE office_id = ?", (office_id,))
    tx.execute(
        "INSERT INTO notices (office_id, revoked_below, notice, mailbox, came_ms) VALUES (?, ?, ?, ?, ?)",
        (office_id, below, data, voucher, now_ms),
    )
    _make_room(tx, voucher)
    return Published()


def _strangers_are_too_many(tx: Transaction, now_ms: int) -> bool:
    lately: int = tx.value(
        # A clock that was set back must not close this door for good.
        "SELECT count(*) FROM notices WHERE mailbox IS NULL AND came_ms > ? AND came_ms <= ?",
        (now_ms - limits.HOUR_MS, now_ms),
    )
    return lately >= limits.NOTICES_UNVOUCHED_PER_HOUR_MAX


def _vouches_for_too_many(tx: Transaction, mailbox: int) -> bool:
    """Whether the word of this mailbox, with all that descend from the same one, is used up.

    Its oldest do not give way: a thief would vouch for what revokes him, and push it out with others.
    """
    vouched: int = tx.value(
        "SELECT count(*) FROM notices n JOIN mailboxes m ON m.id = n.mailbox"
        " WHERE m.lineage = (SELECT lineage FROM mailboxes WHERE id = ?)",
        (mailbox,),
    )
    return vouched >= limits.NOTICES_PER_MAILBOX_MAX


def _make_room(tx: Transaction, voucher: int | None) -> None:
    """The oldest of the same kind give way: of all vouched for, or of all the others."""
    if voucher is None:
        _keep(tx, "mailbox IS NULL", limits.NOTICES_UNVOUCHED_MAX)
    else:
        _keep(tx, "mailbox IS NOT NULL", limits.NOTICES_VOUCHED_MAX)


def _keep(tx: Transaction, which: str, rows_max: int) -> None:
    tx.execute(
        f"DELETE FROM notices WHERE {which} AND number NOT IN"  # noqa: S608 - our own conditions
        f" (SELECT number FROM notices WHERE {which} ORDER BY number DESC LIMIT ?)",
        (rows_max,),
    )
