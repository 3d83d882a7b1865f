"""The store in one encrypted SQLite file: mailboxes, items, tombstones, tokens, and the log, in one commit.

Spec: docs/spec/broker.md#store; tables in broker/migrations. One rule: an item, its log entry and the facts
of its custody note come from one transaction. All that one request orders is one call of
``Database.transact``; the database commits the calls of concurrent requests together. Functions with a
``tx`` run in the writer's thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, assert_never

from audit.store import AuditLog
from broker.store import attachments
from broker.store.attachments import Attachments
from broker.store.base import Announce, CarriedOut, Order, StandingKind, Totals
from broker.store.notices import publish, shown_after
from broker.witness import Witness, WitnessedLog, witnessed_logs
from keys.errors import MalformedInput
from protocol import limits
from protocol.custody import Custody
from protocol.envelope import parse_envelope_untrusted
from protocol.mailbox import (
    QUOTAS,
    Accepted,
    AlreadyThere,
    Duplicate,
    MailboxState,
    accept_create,
    accept_delete,
    accept_put,
    accept_remake,
    expired,
    mailbox_expired,
)
from protocol.requests import (
    AskGrant,
    AttachmentDelete,
    AttachmentDeleted,
    Cosign,
    Create,
    Created,
    Delete,
    Deleted,
    Get,
    Got,
    Granted,
    Head,
    HeadAnswer,
    Held,
    HeldAnswer,
    List,
    Listed,
    ListedItem,
    MailboxKind,
    Notices,
    OpRefused,
    PartGet,
    PartGot,
    PartPut,
    Publish,
    Put,
    Refusal,
    Remake,
    Result,
    Stats,
    StatsAnswer,
    WitnessSays,
)
from runtime.env import Env
from runtime.sqlite import Database, Snapshot, Transaction

PSEUDONYM_BYTES: Final = 16

_BOX: Final = (
    "SELECT id, pseudonym, predecessor, lineage, kind, put_hash, get_hash, public, created_ms, items,"
    " size_bytes, first_item_ms, successor_item_ms FROM mailboxes"
)
_BOX_BY_PUT: Final = _BOX + " WHERE put_hash = ?"
_BOX_BY_GET: Final = _BOX + " WHERE get_hash = ?"
_BOX_BY_EITHER: Final = _BOX + " WHERE put_hash = ? OR get_hash = ?"
_DUE: Final = (
    "SELECT i.log_index, i.mailbox, i.hash, i.size_bytes, i.envelope IS NOT NULL, m.pseudonym"
    " FROM items i JOIN mailboxes m ON m.id = i.mailbox"
)
_DUE_ITEMS: Final = _DUE + " WHERE i.until_ms <= ? ORDER BY i.until_ms, i.log_index LIMIT ?"
_DUE_ITEM: Final = _DUE + " WHERE i.mailbox = ? AND i.hash = ? AND i.until_ms <= ?"
_BOXES_PASSING: Final = (
    _BOX + " WHERE (kind = 'rendezvous' AND created_ms <= ?) OR successor_item_ms <= ? LIMIT ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """One row of ``mailboxes``: where it is, its name in the log, and the state the rules judge."""

    id: int
    pseudonym: str
    predecessor: int | None
    lineage: bytes
    state: MailboxState


class _Turn:
    """What one call of ``carry_out`` may still put into its answer, and what it found out."""

    def __init__(self, now_ms: int, bytes_max: int) -> None:
        self.now_ms = now_ms
        self.bytes_left = bytes_max
        self.listed_left = limits.LISTED_PER_ANSWER_MAX
        self.publishes_left = limits.PUBLISHES_PER_REQUEST_MAX
        self.known = False
        self.handed_out: list[int] = []


class SqliteStore:
    """A ``Store`` over one ``Database`` and the broker's log in it."""

    def __init__(
        self, env: Env, db: Database, log: AuditLog, announce: Announce, totals: Totals, witness: Witness
    ) -> None:
        """Use ``open``."""
        self._env = env
        self._db = db
        self._log = log
        self._announce = announce
        self._witness = witness
        self._refuse_puts = False
        self._attachments = Attachments(log, self._tally)
        self._totals = totals  # counted once, then kept by ``_tally``: counting rows would hold up writers

    @classmethod
    async def open(cls, env: Env, db: Database, log: AuditLog, announce: Announce) -> "SqliteStore":
        """The store of an open database and the log in it."""
        return cls(env, db, log, announce, await db.read(_count_all), await Witness.open(env, db, log))

    def refuse_puts(self, refuse: bool) -> None:
        """Answer every new put with ``busy``: the disk is nearly full and what is promised must still fit."""
        self._refuse_puts = refuse

    async def carry_out(self, orders: Sequence[Order], *, bytes_max: int) -> CarriedOut:
        """See Store. Orders that only look take part in no commit."""
        turn = _Turn(self._env.clock.now_ms(), bytes_max)
        if any(order.writes for order in orders):
            results = await self._db.transact(
                lambda tx: tuple(self._write(tx, order, turn) for order in orders)
            )
            results = tuple(
                self._witness.cosigned(order.op, result) if isinstance(order.op, Cosign) else result
                for order, result in zip(orders, results, strict=True)
            )
        else:
            results = await self._db.read(
                lambda snapshot: tuple(self._look(snapshot, order, turn) for order in orders)
            )
        return CarriedOut(results=results, known=turn.known, handed_out=tuple(turn.handed_out))

    async def note_handed_out(self, log_indexes: Sequence[int]) -> None:
        """See Store."""
        await self._db.transact(lambda tx: self._note_handed_out(tx, log_indexes))

    async def expire(self, rows_max: int) -> int:
        """See Store."""
        now_ms = self._env.clock.now_ms()
        return await self._db.transact(lambda tx: self._expire(tx, now_ms, rows_max))

    async def load_tokens(self, token_hashes: Sequence[bytes], uses: int) -> None:
        """See Store."""
        now_ms = self._env.clock.now_ms()
        rows = [(token_hash, uses, now_ms) for token_hash in token_hashes]
        sql = "INSERT INTO tokens (hash, uses_left, loaded_ms) VALUES (?, ?, ?)"

        def load(tx: Transaction) -> None:
            tx.execute_many(sql, rows)
            self._tally(tx, token_uses_left=uses * len(rows))

        await self._db.transact(load)

    async def load_standing_tokens(self, kind: StandingKind, token_hashes: Sequence[bytes]) -> None:
        """See Store."""
        now_ms = self._env.clock.now_ms()
        rows = [(token_hash, now_ms) for token_hash in token_hashes]
        sql = f"INSERT INTO {kind}_tokens (hash, loaded_ms) VALUES (?, ?)"  # noqa: S608 - our own names
        await self._db.transact(lambda tx: tx.execute_many(sql, rows))

    async def withdraw_standing_token(self, kind: StandingKind, token_hash: bytes) -> bool:
        """See Store."""

        def withdraw(tx: Transaction) -> bool:
            tx.execute(f"DELETE FROM {kind}_tokens WHERE hash = ?", (token_hash,))  # noqa: S608 - our own names
            return tx.changes() > 0

        return await self._db.transact(withdraw)

    async def may_forward(self, token_hash: bytes) -> bool:
        """See Store."""
        sql = "SELECT 1 FROM forwarding_tokens WHERE hash = ?"
        return await self._db.read(lambda snapshot: bool(snapshot.execute(sql, (token_hash,))))

    async def witnessed(self) -> Sequence[WitnessedLog]:
        """See Store."""
        return await self._db.read(witnessed_logs)

    @property
    def witness_keys(self) -> tuple[str, ...]:
        """See Store."""
        return self._witness.keys

    def totals(self) -> Totals:
        """See Store."""
        return self._totals

    # --- in the writer's thread: one op each ---

    def _tally(self, tx: Transaction, **changes: int) -> None:
        """Change the totals by so much if this commits."""

        def apply() -> None:
            self._totals = replace(
                self._totals, **{name: getattr(self._totals, name) + by for name, by in changes.items()}
            )

        tx.on_commit(apply)

    def _write(self, tx: Transaction, order: Order, turn: _Turn) -> Result:
        match order.op:
            case Create():
                return self._create(tx, order, order.op, turn)
            case Remake():
                return self._remake(tx, order, order.op, turn)
            case Put():
                return self._put(tx, order, order.op, turn)
            case Delete():
                return self._delete(tx, order, order.op, turn)
            case Publish():
                return self._publish(tx, order, order.op, turn)
            case Cosign():
                return self._cosign(tx, order, order.op, turn)
            case PartPut():
                return self._put_part(tx, order, order.op, turn)
            case AttachmentDelete():
                return self._delete_attachment(tx, order, order.op, turn)
            case _:
                return self._look(tx, order, turn)

    def _look(self, snapshot: Snapshot, order: Order, turn: _Turn) -> Result:
        op = order.op
        if isinstance(op, Notices):
            return shown_after(snapshot, op.cursor)
        if isinstance(op, Head):
            if not self._log.published.size:
                return OpRefused(code=Refusal.NOT_FOUND)
            return HeadAnswer(body=self._log.request(snapshot, op.old_size).encode())
        box = _find_box(snapshot, _BOX_BY_PUT if isinstance(op, Held) else _BOX_BY_GET, order.box_hash, turn)
        match op:
            case Held():
                return HeldAnswer(held=box is not None and _is_held(snapshot, box, op.envelope_hash, turn))
            case List():
                return Listed(items=(), more=False) if box is None else _list(snapshot, box, op, turn)
            case Get():
                return OpRefused(code=Refusal.NOT_FOUND) if box is None else _get(snapshot, box, op, turn)
            case Stats():
                return _stats(box)
            case AskGrant():
                return _grant(box, op)
            case PartGet():
                return _get_part(snapshot, box, order, op, turn)
            case (
                Create() | Remake() | Put() | Delete() | Publish() | Cosign() | PartPut() | AttachmentDelete()
            ):
                raise AssertionError("a writing order among those that look")
            case _:
                assert_never(op)

    def _create(self, tx: Transaction, order: Order, op: Create, turn: _Turn) -> Result:
        existing = tx.execute(_BOX_BY_EITHER, (op.put_hash, op.get_hash))
        predecessor = _find_box(tx, _BOX_BY_GET, order.box_hash, turn) if order.box_hash else None
        unproven = in_lineage = 0
        if predecessor is not None:
            in_lineage = tx.value("SELECT count(*) FROM mailboxes WHERE lineage = ?", (predecessor.lineage,))
            unproven = tx.value(
                "SELECT count(*) FROM mailboxes WHERE predecessor = ? AND first_item_ms IS NULL",
                (predecessor.id,),
            )
        uses_left = tx.execute("SELECT uses_left FROM tokens WHERE hash = ?", (order.content_hash,))
        turn.known = turn.known or bool(uses_left)
        verdict = accept_create(
            op,
            existing=_box(existing[0]).state if existing else None,
            token_unspent=uses_left > [(0,)],
            predecessor=None if predecessor is None else predecessor.state,
            unproven_successors=unproven,
            lineage_mailboxes=in_lineage,
            now_ms=turn.now_ms,
        )
        if isinstance(verdict, OpRefused):
            return verdict
        if isinstance(verdict, AlreadyThere):
            return Created()
        if verdict.spend_token:
            tx.execute("UPDATE tokens SET uses_left = uses_left - 1 WHERE hash = ?", (order.content_hash,))
            self._tally(tx, token_uses_left=-1)
        self._make(tx, op, op.kind, predecessor, turn.now_ms)
        return Created()

    def _remake(self, tx: Transaction, order: Order, op: Remake, turn: _Turn) -> Result:
        existing = tx.execute(_BOX_BY_EITHER, (op.put_hash, op.get_hash))
        verdict = accept_remake(
            op,
            existing=_box(existing[0]).state if existing else None,
            is_granted=order.is_granted,
            was_retired=bool(tx.execute("SELECT 1 FROM retired WHERE put_hash = ?", (op.put_hash,))),
        )
        if isinstance(verdict, OpRefused):
            return verdict
        turn.known = True
        if isinstance(verdict, AlreadyThere):
            return Created()
        self._make(tx, op, "pair", None, turn.now_ms, is_again=True)
        tx.execute("UPDATE remade SET count = count + 1")
        self._tally(tx, remade=1)
        return Created()

    def _make(
        self,
        tx: Transaction,
        op: Create | Remake,
        kind: MailboxKind,
        predecessor: _Box | None,
        now_ms: int,
        *,
        is_again: bool = False,
    ) -> None:
        pseudonym = self._env.random(PSEUDONYM_BYTES)
        tx.execute(
            "INSERT INTO mailboxes"
            " (put_hash, get_hash, public, pseudonym, kind, created_ms, predecessor, lineage)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                op.put_hash,
                op.get_hash,
                op.mailbox_public,
                pseudonym,
                kind,
                now_ms,
                None if predecessor is None else predecessor.id,
                pseudonym if predecessor is None else predecessor.lineage,
            ),
        )
        entry = {"box": pseudonym.hex(), "step": "made"}
        self._log.append(tx, "bk.box", {**entry, "code": "remade"} if is_again else entry)
        self._tally(tx, mailboxes=1)

    def _put(self, tx: Transaction, order: Order, op: Put, turn: _Turn) -> Result:
        box = _find_box(tx, _BOX_BY_PUT, order.box_hash, turn)
        if box is not None:
            # Its time is over although no sweep came by yet: it must be told from an item that is still held.
            self._drop(tx, _DUE_ITEM, (box.id, order.content_hash, turn.now_ms))
        seen = None if box is None else _seen(tx, box, order.content_hash)
        size_bytes = len(op.envelope)
        verdict = accept_put(
            None if box is None else box.state,
            size_bytes=size_bytes,
            priority=op.priority,
            seen=seen is not None,
            now_ms=turn.now_ms,
        )
        if isinstance(verdict, OpRefused):
            return verdict
        assert box is not None
        if isinstance(verdict, Duplicate):
            assert seen is not None
            log_index, held_ms = seen
        else:
            refusal = self._why_not(box, op)
            if refusal is not None:
                return OpRefused(code=refusal)
            log_index, held_ms = self._hold(tx, box, order, op, verdict, turn.now_ms), turn.now_ms
        return Custody(
            origin=self._log.origin,
            put_capability_hash=order.box_hash,
            envelope_hash=order.content_hash,
            size_bytes=size_bytes,
            log_index=log_index,
            time_ms=held_ms,
        )

    def _why_not(self, box: _Box, op: Put) -> Refusal | None:
        """What stands against a new item besides the mailbox's own rules."""
        if self._refuse_puts:
            return Refusal.BUSY
        if box.state.kind == "pair":
            # A rendezvous carries the messages of a pairing, which are no envelopes.
            try:
                parse_envelope_untrusted(op.envelope)
            except MalformedInput:
                return Refusal.MALFORMED
        return None

    def _hold(self, tx: Transaction, box: _Box, order: Order, op: Put, verdict: Accepted, now_ms: int) -> int:
        """Store the item and its log entry; the index of the entry, which is also its cursor."""
        size_bytes = len(op.envelope)
        log_index = self._log.append(
            tx, "bk.in", {"env": order.content_hash.hex(), "box": box.pseudonym, "bucket": size_bytes}
        )
        tx.execute(
            "INSERT INTO items (log_index, mailbox, hash, size_bytes, held_ms, until_ms, envelope)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                log_index,
                box.id,
                order.content_hash,
                size_bytes,
                now_ms,
                verdict.expires_at_ms,
                op.envelope,
            ),
        )
        tx.execute(
            "UPDATE mailboxes SET items = items + 1, size_bytes = size_bytes + ?,"
            " first_item_ms = coalesce(first_item_ms, ?) WHERE id = ?",
            (size_bytes, now_ms, box.id),
        )
        if verdict.proves and box.predecessor is not None:
            tx.execute(
                "UPDATE mailboxes SET successor_item_ms = coalesce(successor_item_ms, ?) WHERE id = ?",
                (now_ms, box.predecessor),
            )
        item = ListedItem(
            cursor=log_index, envelope_hash=order.content_hash, size_bytes=size_bytes, envelope=op.envelope
        )
        self._tally(tx, items=1, size_bytes=size_bytes)
        get_hash = box.state.get_hash
        tx.on_commit(lambda: self._announce(get_hash, item))
        return log_index

    def _delete(self, tx: Transaction, order: Order, op: Delete, turn: _Turn) -> Result:
        box = _find_box(tx, _BOX_BY_GET, order.box_hash, turn)
        refusal = accept_delete(None if box is None else box.state, op)
        if refusal is not None:
            return refusal
        if box is not None:
            row = tx.one(
                "SELECT log_index, size_bytes FROM items"
                " WHERE mailbox = ? AND hash = ? AND envelope IS NOT NULL",
                (box.id, op.envelope_hash),
            )
            if row is not None:
                log_index, size_bytes = row
                # The row stays as a tombstone, so that a late copy of the same put is still a duplicate.
                tx.execute("UPDATE items SET envelope = NULL WHERE log_index = ?", (log_index,))
                _uncount(tx, box.id, size_bytes)
                entry = {
                    "env": op.envelope_hash.hex(),
                    "box": box.pseudonym,
                    "by": "mailbox-key",
                    "in": log_index,
                }
                self._log.append(tx, "bk.ack", entry)
                self._tally(tx, items=-1, size_bytes=-size_bytes, tombstones=1)
        return Deleted()

    def _put_part(self, tx: Transaction, order: Order, op: PartPut, turn: _Turn) -> Result:
        box = _find_box(tx, _BOX_BY_PUT, order.box_hash, turn)
        return self._attachments.put(
            tx,
            None if box is None else (box.id, box.pseudonym, box.state),
            op,
            order.content_hash,
            turn.now_ms,
            disk_is_low=self._refuse_puts,
        )

    def _delete_attachment(self, tx: Transaction, order: Order, op: AttachmentDelete, turn: _Turn) -> Result:
        box = _find_box(tx, _BOX_BY_PUT if op.by_sender else _BOX_BY_GET, order.box_hash, turn)
        if box is None:
            return AttachmentDeleted()
        return self._attachments.delete(tx, box.id, box.pseudonym, order.content_hash, by_sender=op.by_sender)

    def _publish(self, tx: Transaction, order: Order, op: Publish, turn: _Turn) -> Result:
        turn.publishes_left -= 1
        if turn.publishes_left < 0 or self._refuse_puts:
            return OpRefused(code=Refusal.BUSY)
        box = _find_box(tx, _BOX_BY_GET, order.box_hash, turn) if order.box_hash else None
        # A rendezvous costs a stranger one invitation that was read aloud: it vouches for nothing.
        vouches = box is not None and box.state.kind == "pair"
        return publish(tx, op.notice, box.id if box is not None and vouches else None, turn.now_ms)

    def _cosign(self, tx: Transaction, order: Order, op: Cosign, turn: _Turn) -> Result:
        if self._refuse_puts:
            return OpRefused(code=Refusal.BUSY)
        result = self._witness.judge(tx, op, order.content_hash)
        turn.known = turn.known or not isinstance(result, WitnessSays) or bool(result.keys)
        return result

    def _note_handed_out(self, tx: Transaction, log_indexes: Sequence[int]) -> None:
        for log_index in log_indexes:
            row = tx.one(
                "SELECT i.hash, i.size_bytes, m.pseudonym FROM items i JOIN mailboxes m ON m.id = i.mailbox"
                " WHERE i.log_index = ? AND i.fetched = 0",
                (log_index,),
            )
            if row is not None:
                tx.execute("UPDATE items SET fetched = 1 WHERE log_index = ?", (log_index,))
                entry = {"env": row[0].hex(), "box": row[2].hex(), "bucket": row[1], "in": log_index}
                self._log.append(tx, "bk.out", entry)

    def _expire(self, tx: Transaction, now_ms: int, rows_max: int) -> int:
        due = self._drop(tx, _DUE_ITEMS, (now_ms, rows_max))
        due += self._attachments.expire(tx, now_ms, rows_max - due)
        if due == rows_max:
            return due
        return due + self._retire(tx, now_ms, rows_max - due)

    def _drop(self, tx: Transaction, which: str, bindings: tuple[Any, ...]) -> int:
        """Remove rows whose time is over, the held ones with an entry each; how many there were."""
        due = tx.execute(which, bindings)
        for log_index, mailbox, item_hash, size_bytes, is_held, pseudonym in due:
            tx.execute("DELETE FROM items WHERE log_index = ?", (log_index,))
            if is_held:
                _uncount(tx, mailbox, size_bytes)
                entry = {"env": item_hash.hex(), "box": pseudonym.hex(), "in": log_index}
                self._log.append(tx, "bk.expire", entry)
                self._tally(tx, items=-1, size_bytes=-size_bytes)
            else:
                self._tally(tx, tombstones=-1)
        return len(due)

    def _retire(self, tx: Transaction, now_ms: int, rows_max: int) -> int:
        """Remove mailboxes whose time is over. Their items went before, or go now with an entry each."""
        rows = tx.execute(
            _BOXES_PASSING, (now_ms - limits.RENDEZVOUS_TTL_MS, now_ms - limits.MAILBOX_TTL_MS, rows_max)
        )
        retired = 0
        for box in map(_box, rows):
            if not mailbox_expired(box.state, now_ms):
                continue
            held = tx.execute(
                "SELECT log_index, hash FROM items WHERE mailbox = ? AND envelope IS NOT NULL"
                " ORDER BY log_index",
                (box.id,),
            )
            for log_index, item_hash in held:
                entry = {"env": item_hash.hex(), "box": box.pseudonym, "in": log_index}
                self._log.append(tx, "bk.expire", entry)
            self._attachments.retire(tx, box.id)
            self._log.append(tx, "bk.box", {"box": box.pseudonym, "step": "retired"})
            rows_gone = tx.value("SELECT count(*) FROM items WHERE mailbox = ?", (box.id,))
            self._tally(
                tx,
                mailboxes=-1,
                items=-len(held),
                size_bytes=-box.state.size_bytes,
                tombstones=len(held) - rows_gone,
            )
            tx.execute("DELETE FROM mailboxes WHERE id = ?", (box.id,))
            if box.state.kind == "pair":
                tx.execute("INSERT OR IGNORE INTO retired (put_hash) VALUES (?)", (box.state.put_hash,))
                self._tally(tx, retired=1)
            retired += 1
        return retired


# --- rows ---


def _box(row: tuple[Any, ...]) -> _Box:
    (
        id_,
        pseudonym,
        predecessor,
        lineage,
        kind,
        put_hash,
        get_hash,
        public,
        created_ms,
        items,
        size,
        first,
        after,
    ) = row
    return _Box(
        id=id_,
        pseudonym=pseudonym.hex(),
        predecessor=predecessor,
        lineage=lineage,
        state=MailboxState(
            kind=kind,
            put_hash=put_hash,
            get_hash=get_hash,
            mailbox_public=public,
            created_ms=created_ms,
            items=items,
            size_bytes=size,
            first_item_ms=first,
            successor_first_item_ms=after,
        ),
    )


def _find_box(snapshot: Snapshot, sql: str, capability_hash: bytes, turn: _Turn) -> _Box | None:
    """The mailbox of this capability; one whose time is over is as unknown as one that never was."""
    row = snapshot.one(sql, (capability_hash,))
    if row is None:
        return None
    box = _box(row)
    if mailbox_expired(box.state, turn.now_ms):
        return None
    turn.known = True
    return box


def _seen(tx: Transaction, box: _Box, item_hash: bytes) -> tuple[int, int] | None:
    """(log index, held since) of this envelope here, or of its tombstone."""
    row = tx.one("SELECT log_index, held_ms FROM items WHERE mailbox = ? AND hash = ?", (box.id, item_hash))
    return None if row is None else (row[0], row[1])


def _uncount(tx: Transaction, mailbox: int, size_bytes: int) -> None:
    tx.execute(
        "UPDATE mailboxes SET items = items - 1, size_bytes = size_bytes - ? WHERE id = ?",
        (size_bytes, mailbox),
    )


def _is_held(snapshot: Snapshot, box: _Box, item_hash: bytes, turn: _Turn) -> bool:
    sql = "SELECT until_ms FROM items WHERE mailbox = ? AND hash = ? AND envelope IS NOT NULL"
    row = snapshot.one(sql, (box.id, item_hash))
    # One whose time is over is gone, swept or not: its sender must seal it again.
    return row is not None and not expired(row[0], turn.now_ms)


def _list(snapshot: Snapshot, box: _Box, op: List, turn: _Turn) -> Listed:
    rows = snapshot.execute(
        "SELECT log_index, hash, size_bytes FROM items"
        " WHERE mailbox = ? AND log_index > ? AND envelope IS NOT NULL AND until_ms > ?"
        " ORDER BY log_index LIMIT ?",
        (box.id, min(op.cursor, limits.PAIR_SEQ_MAX), turn.now_ms, turn.listed_left + 1),
    )
    more = len(rows) > turn.listed_left
    items: list[ListedItem] = []
    inline_left = min(op.inline_bytes_max, turn.bytes_left)
    for log_index, item_hash, size_bytes in rows[: turn.listed_left]:
        envelope = None
        # In order and without gaps: once one does not fit, the rest comes by the next list or by get.
        if size_bytes <= inline_left:
            envelope = snapshot.value("SELECT envelope FROM items WHERE log_index = ?", (log_index,))
            inline_left -= size_bytes
            turn.bytes_left -= size_bytes
            turn.handed_out.append(log_index)
        else:
            inline_left = 0
        items.append(
            ListedItem(cursor=log_index, envelope_hash=item_hash, size_bytes=size_bytes, envelope=envelope)
        )
    turn.listed_left -= len(items)
    return Listed(items=tuple(items), more=more)


def _get(snapshot: Snapshot, box: _Box, op: Get, turn: _Turn) -> Result:
    row = snapshot.one(
        "SELECT envelope, size_bytes, log_index FROM items"
        " WHERE mailbox = ? AND hash = ? AND envelope IS NOT NULL AND until_ms > ?",
        (box.id, op.envelope_hash, turn.now_ms),
    )
    if row is None:
        return OpRefused(code=Refusal.NOT_FOUND)
    envelope, size_bytes, log_index = row
    if size_bytes > turn.bytes_left:
        # It fits an answer of its own: the client asks for it again with fewer others.
        return OpRefused(code=Refusal.BUSY)
    turn.bytes_left -= size_bytes
    turn.handed_out.append(log_index)
    return Got(envelope=envelope)


def _get_part(snapshot: Snapshot, box: _Box | None, order: Order, op: PartGet, turn: _Turn) -> Result:
    if box is None:
        return OpRefused(code=Refusal.NOT_FOUND)
    result = attachments.get(snapshot, box.id, order.content_hash, op, turn.bytes_left, turn.now_ms)
    if isinstance(result, PartGot):
        turn.bytes_left -= len(result.data)
    return result


def _grant(box: _Box | None, op: AskGrant) -> Result:
    """Permission to sign, as an empty grant; for nothing but a mailbox of a pair that is exactly this one."""
    if box is None or box.state.kind != "pair":
        return OpRefused(code=Refusal.NOT_FOUND)
    if (box.state.put_hash, box.state.mailbox_public) != (op.put_hash, op.mailbox_public):
        return OpRefused(code=Refusal.CONFLICT)
    return Granted(grant=b"")


def _stats(box: _Box | None) -> StatsAnswer:
    quota = QUOTAS["pair" if box is None else box.state.kind]
    return StatsAnswer(
        items=0 if box is None else box.state.items,
        items_max=quota.items_max,
        size_bytes=0 if box is None else box.state.size_bytes,
        size_bytes_max=quota.size_bytes_max,
    )


def _count_all(snapshot: Snapshot) -> Totals:
    mailboxes, items, size_bytes = snapshot.execute(
        "SELECT count(*), coalesce(sum(items), 0), coalesce(sum(size_bytes), 0) FROM mailboxes"
    )[0]
    # Counted over an index: rows with their envelopes would be megabytes of reading.
    rows = snapshot.value("SELECT count(*) FROM items INDEXED BY items_due")
    begun, part_bytes = attachments.count(snapshot)
    return Totals(
        mailboxes=mailboxes,
        items=items,
        size_bytes=size_bytes,
        tombstones=rows - items,
        token_uses_left=snapshot.value("SELECT coalesce(sum(uses_left), 0) FROM tokens"),
        retired=snapshot.value("SELECT count(*) FROM retired"),
        remade=snapshot.value("SELECT count FROM remade"),
        attachments=begun,
        attachment_bytes=part_bytes,
    )
