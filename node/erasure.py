"""Erasing: content, its keys and every copy of them go at their time, and the other office is told.

Spec: docs/spec/log.md#erasure. Two rules: what is due is shown to nobody, erased already or not
(node/alerts.py sees to that); the rows go, the entry that says so and the signed word to the other office
are one transaction, and only then come the traces of those rows and the month keys nobody needs.
"""

from typing import Final

from audit.store import AuditLog
from node.inbox import note_erased
from node.outbox import Outbox
from node.photos import Photos
from node.vault import Vault
from protocol import limits
from protocol.release import prepared_from_bytes
from runtime.env import Env
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

AT_ONCE_MAX: Final = 64  # alerts in one transaction, so that no other waits long
# Everything that ever holds content, a key of it, or an envelope it is sealed in.
TABLES: Final = (
    "alert",
    "vault",
    "pending",
    "delivery",
    "carried",
    "quarantine",
    "photo",
    "photo_staged",
)
_DUE: Final = "SELECT alert_id, incoming, peer, hh FROM alert WHERE erase_at_ms <= ? AND erased_ms IS NULL"
_DRAFTS_DUE: Final = "SELECT draft_id, prepared FROM pending WHERE erase_at_ms <= ?"
# The oldest row is looked at alone: whoever fills this table must not slow every hour.
_OLDEST_EVIDENCE: Final = "SELECT at_ms FROM quarantine WHERE rowid = (SELECT min(rowid) FROM quarantine)"

log = get_logger("erasure")


class Erasure:
    """What goes by itself, at one office."""

    def __init__(
        self, env: Env, db: Database, audit: AuditLog, vault: Vault, outbox: Outbox, photos: Photos
    ) -> None:
        self._env = env
        self._db = db
        self._audit = audit
        self._vault = vault
        self._outbox = outbox
        self._photos = photos

    async def erase_due(self) -> int:
        """Erase everything that has reached its time, and its traces; how many alerts and drafts."""
        erased = 0
        while found := await self._erase_some():
            erased += found
        if erased:
            await self.wipe()
        return erased

    async def wipe(self) -> None:
        """No trace of a deleted row stays in the database, and no month key that nothing is sealed under.

        Also at each start: power may have gone between an erasure and this.
        """
        wiped = await self._db.wipe_traces(TABLES)
        gone = await self._vault.forget_months(lambda: self._db.read(_months_in_use))
        if wiped.left:
            log.warning("traces_left", code="disk_full", count=wiped.left)
        if wiped.rewritten or gone:
            log.info("traces_wiped", count=wiped.rewritten)

    async def forget_evidence_once(self) -> None:
        """Drop envelopes that were set aside before the backup horizon: nobody knows when theirs is due.

        What they prove stays: header and signature in the replay table, contradictions as proofs.
        """
        now_ms = self._env.clock.now_ms()
        # Of a clock that stood ahead: it would hold up all that came after it.
        kept = (now_ms - limits.BACKUP_HORIZON_MS, now_ms + limits.DAY_MS)
        oldest = await self._db.read(lambda tx: tx.one(_OLDEST_EVIDENCE))
        if oldest is not None and not kept[0] < oldest[0] <= kept[1]:
            await self._db.transact(
                lambda tx: tx.execute("DELETE FROM quarantine WHERE NOT (at_ms > ? AND at_ms <= ?)", kept)
            )

    async def _erase_some(self) -> int:
        now_ms = self._env.clock.now_ms()

        def is_due(tx: Snapshot) -> bool:
            return bool(
                tx.execute(f"{_DUE} LIMIT 1", (now_ms,)) or tx.execute(f"{_DRAFTS_DUE} LIMIT 1", (now_ms,))
            )

        return (
            await self._db.transact(lambda tx: self._erase(tx, now_ms)) if await self._db.read(is_due) else 0
        )

    def _erase(self, tx: Transaction, now_ms: int) -> int:
        alerts = tx.execute(f"{_DUE} LIMIT {AT_ONCE_MAX}", (now_ms,))
        for alert_id, incoming, peer_id, hh in alerts:
            parts = ["content"]
            tx.execute("DELETE FROM vault WHERE alert_id = ? AND incoming = ?", (alert_id, incoming))
            # The row stays: a late copy of what was erased is shown to nobody.
            tx.execute(
                "UPDATE alert SET erased_ms = ?, headline = '' WHERE alert_id = ? AND incoming = ?",
                (now_ms, alert_id, incoming),
            )
            if not incoming:
                parts += self._outbox.erase(tx, alert_id)
            if self._photos.erase(tx, alert_id, bool(incoming)):
                parts.append("photos")
            told = [(peer_id, hh)] if incoming else self._outbox.holders(tx, alert_id)
            note_erased(tx, self._audit, alert_id, parts, "due", told, now_ms)
        drafts = tx.execute(f"{_DRAFTS_DUE} LIMIT {AT_ONCE_MAX}", (now_ms,))
        for draft_id, prepared in drafts:
            tx.execute("DELETE FROM pending WHERE draft_id = ?", (draft_id,))
            parts = ["draft"]
            if self._photos.drop_draft(tx, draft_id):
                parts.append("photos")
            named = prepared_from_bytes(prepared).core.unsigned_id
            note_erased(tx, self._audit, named, parts, "due", (), now_ms)
        return len(alerts) + len(drafts)


def _months_in_use(tx: Snapshot) -> frozenset[str]:
    rows = tx.execute("SELECT kek FROM vault UNION SELECT kek FROM photo UNION SELECT kek FROM photo_staged")
    return frozenset(row[0] for row in rows)
