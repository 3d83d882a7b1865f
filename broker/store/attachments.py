"""Attachments beside a mailbox: parts in, ranges out, and gone when their time is over.

Spec: docs/spec/attachments.md#at-the-broker. One rule: bytes are appended and never changed, so what was
answered once stays true. They are counted apart from items: no photo ever keeps an alert out. Methods with a
``tx`` run in the writer's thread, inside its transaction.
"""

from collections.abc import Callable
from typing import Any

from audit.store import AuditLog
from protocol import limits
from protocol.mailbox import AppendPart, AttachmentState, MailboxState, accept_part, item_expires_ms
from protocol.requests import (
    AttachmentDeleted,
    OpRefused,
    PartGet,
    PartGot,
    PartHeld,
    PartPut,
    Refusal,
    Result,
)
from runtime.sqlite import Snapshot, Transaction

# ``tally(tx, attachments=1)``: change the totals by so much if this commits.
Tally = Callable[..., None]


class Attachments:
    """The attachments of one broker's mailboxes."""

    def __init__(self, log: AuditLog, tally: Tally) -> None:
        self._log = log
        self._tally = tally

    def put(
        self,
        tx: Transaction,
        mailbox: tuple[int, str, MailboxState] | None,
        op: PartPut,
        write_hash: bytes,
        now_ms: int,
        *,
        disk_is_low: bool,
    ) -> Result:
        """One part. ``mailbox``: id, pseudonym and state of the one with this put capability."""
        if mailbox is None:
            return OpRefused(code=Refusal.GONE)
        box, pseudonym, state = mailbox
        row = tx.one(
            "SELECT id, size_bytes, held_bytes, read_hash, write_hash, is_gone FROM attachments"
            " WHERE mailbox = ? AND until_ms > ? AND (write_hash = ? OR read_hash = ?)",
            (box, now_ms, write_hash, op.read_hash),
        )
        count, charged = tx.execute(
            "SELECT count(*), coalesce(sum(size_bytes), 0) FROM attachments"
            " WHERE mailbox = ? AND is_gone = 0",
            (box,),
        )[0]
        verdict = accept_part(
            state,
            op,
            write_hash=write_hash,
            known=None if row is None else _state(row),
            attachments=count,
            attachment_bytes=charged,
            now_ms=now_ms,
        )
        if not isinstance(verdict, AppendPart):
            return verdict
        if disk_is_low:
            return OpRefused(code=Refusal.BUSY)
        held_bytes = 0 if row is None else row[2]
        number: int
        if row is None:
            self._forget_due(tx, box, write_hash, op.read_hash, now_ms)
            tx.execute(
                "INSERT INTO attachments (mailbox, write_hash, read_hash, size_bytes, until_ms)"
                " VALUES (?, ?, ?, ?, ?)",
                (box, write_hash, op.read_hash, op.size_bytes, item_expires_ms(state, now_ms)),
            )
            number = tx.value("SELECT last_insert_rowid()")
            self._note(tx, pseudonym, "begun", op.size_bytes)
            self._tally(tx, attachments=1)
        else:
            number = row[0]
        data = op.data[verdict.skip :]
        tx.execute(
            "INSERT INTO attachment_parts (attachment, at, bytes) VALUES (?, ?, ?)",
            (number, held_bytes, data),
        )
        held_bytes += len(data)
        tx.execute("UPDATE attachments SET held_bytes = ? WHERE id = ?", (held_bytes, number))
        self._tally(tx, attachment_bytes=len(data))
        if held_bytes == op.size_bytes:
            self._note(tx, pseudonym, "whole", op.size_bytes)
        return PartHeld(held_bytes=held_bytes)

    def delete(
        self, tx: Transaction, box: int, pseudonym: str, secret_hash: bytes, *, by_sender: bool
    ) -> Result:
        """Drop the bytes, and remember that they were there. What is unknown counts as gone."""
        which = "write_hash" if by_sender else "read_hash"
        row = tx.one(
            f"SELECT id, size_bytes, held_bytes FROM attachments"  # noqa: S608 - our own two words
            f" WHERE mailbox = ? AND {which} = ? AND is_gone = 0",
            (box, secret_hash),
        )
        if row is not None:
            number, size_bytes, held_bytes = row
            tx.execute("DELETE FROM attachment_parts WHERE attachment = ?", (number,))
            tx.execute("UPDATE attachments SET is_gone = 1, held_bytes = 0 WHERE id = ?", (number,))
            self._note(tx, pseudonym, "deleted", size_bytes)
            self._tally(tx, attachments=-1, attachment_bytes=-held_bytes)
        return AttachmentDeleted()

    def expire(self, tx: Transaction, now_ms: int, rows_max: int) -> int:
        """Remove those whose time is over; how many there were."""
        return self._remove(tx, "a.until_ms <= ? ORDER BY a.until_ms LIMIT ?", (now_ms, rows_max))

    def retire(self, tx: Transaction, box: int) -> None:
        """Remove those of a mailbox that goes."""
        self._remove(tx, "a.mailbox = ?", (box,))

    def _forget_due(
        self, tx: Transaction, box: int, write_hash: bytes, read_hash: bytes, now_ms: int
    ) -> None:
        """One whose time is over although no sweep came by yet must not stand in the way."""
        self._remove(
            tx,
            "a.mailbox = ? AND (a.write_hash = ? OR a.read_hash = ?) AND a.until_ms <= ?",
            (box, write_hash, read_hash, now_ms),
        )

    def _remove(self, tx: Transaction, where: str, bindings: tuple[int | bytes, ...]) -> int:
        rows = tx.execute(
            "SELECT a.id, a.size_bytes, a.held_bytes, a.is_gone, m.pseudonym FROM attachments a"  # noqa: S608
            f" JOIN mailboxes m ON m.id = a.mailbox WHERE {where}",
            bindings,
        )
        for number, size_bytes, held_bytes, is_gone, pseudonym in rows:
            tx.execute("DELETE FROM attachment_parts WHERE attachment = ?", (number,))
            tx.execute("DELETE FROM attachments WHERE id = ?", (number,))
            if not is_gone:
                self._note(tx, pseudonym.hex(), "expired", size_bytes)
                self._tally(tx, attachments=-1, attachment_bytes=-held_bytes)
        return len(rows)

    def _note(self, tx: Transaction, pseudonym: str, step: str, size_bytes: int) -> None:
        self._log.append(tx, "bk.part", {"box": pseudonym, "step": step, "bytes": size_bytes})


def _state(row: tuple[Any, ...]) -> AttachmentState:
    _, size_bytes, held_bytes, read_hash, write_hash, is_gone = row
    return AttachmentState(
        size_bytes=size_bytes,
        held_bytes=held_bytes,
        read_hash=read_hash,
        write_hash=write_hash,
        is_gone=bool(is_gone),
    )


def get(snapshot: Snapshot, box: int, read_hash: bytes, op: PartGet, bytes_left: int, now_ms: int) -> Result:
    """A range, as far as it is here and fits the answer."""
    row = snapshot.one(
        "SELECT id, size_bytes FROM attachments"
        " WHERE mailbox = ? AND read_hash = ? AND is_gone = 0 AND until_ms > ?",
        (box, read_hash, now_ms),
    )
    if row is None:
        return OpRefused(code=Refusal.NOT_FOUND)
    number, size_bytes = row
    end = op.offset + min(op.bytes_max, bytes_left)
    parts = snapshot.execute(
        "SELECT at, bytes FROM attachment_parts WHERE attachment = ? AND at > ? AND at < ?"
        " AND at + length(bytes) > ?"
        " ORDER BY at",
        (number, op.offset - limits.ATTACHMENT_PART_BYTES, end, op.offset),
    )
    data = b"".join(part[max(0, op.offset - at) : end - at] for at, part in parts)
    return PartGot(size_bytes=size_bytes, data=data)


def count(snapshot: Snapshot) -> tuple[int, int]:
    """How many attachments there are, and bytes of them."""
    attachments, held_bytes = snapshot.execute(
        "SELECT count(*), coalesce(sum(held_bytes), 0) FROM attachments WHERE is_gone = 0"
    )[0]
    return attachments, held_bytes
