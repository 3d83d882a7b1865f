"""Erasing: content, its keys and every copy go at their time or by hand, and the other office is told.

Spec: docs/spec/log.md#erasure. Two rules: what is due is shown to nobody, erased already or not
(node/alerts.py sees to that); the rows go, the entry that says so and the signed word to the other office
are one transaction, and only then come the traces of those rows and the month keys nobody needs.

A supervisor may erase one alert before its date, or keep it beyond: each with a reason out of a list, and the
PIN again. What its sender erased by hand its recipients erase as well, unless they keep it.
"""

import asyncio
from functools import partial
from typing import Any, Final

from audit.store import AuditLog
from keys.errors import PolicyRefused
from node.alerts import id_untrusted
from node.inbox import note_erased
from node.officers import Officers
from node.outbox import Outbox
from node.photos import Photos
from node.vault import Vault
from node.views import ERASE_REASONS, HOLD_REASONS, FateView, Session
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
_ROW: Final = "SELECT alert_id, incoming, peer, hh FROM alert"
_DUE: Final = _ROW + " WHERE erase_at_ms <= ? AND erased_ms IS NULL"
_DRAFTS_DUE: Final = "SELECT draft_id, prepared FROM pending WHERE erase_at_ms <= ?"
# The oldest row is looked at alone: whoever fills this table must not slow every hour.
_OLDEST_EVIDENCE: Final = "SELECT at_ms FROM quarantine WHERE rowid = (SELECT min(rowid) FROM quarantine)"

BY_SENDER: Final = "sender"
HOLD_ENDED: Final = "ended"
HOLD_DAYS_MAX: Final = 366

log = get_logger("erasure")


class Erasure:
    """What goes by itself or by hand, at one office."""

    def __init__(
        self,
        env: Env,
        db: Database,
        audit: AuditLog,
        officers: Officers,
        vault: Vault,
        outbox: Outbox,
        photos: Photos,
    ) -> None:
        self._env = env
        self._db = db
        self._audit = audit
        self._officers = officers
        self._vault = vault
        self._outbox = outbox
        self._photos = photos
        self._unwiped = 0  # alerts that went by their sender's word, and whose traces are still there
        self._one_wipe = asyncio.Lock()

    async def erase_due(self) -> int:
        """Erase everything that has reached its time, and its traces; how many alerts and drafts are gone."""
        erased, self._unwiped = self._unwiped, 0
        while found := await self._erase_some():
            erased += found
        if erased:
            await self.wipe()
        return erased

    # --- by hand --------------------------------------------------------------------------------------------

    async def fate(self, session: Session, alert_id: str) -> FateView:
        """When one alert goes, or went, and why. PolicyRefused ``supervisor_only``, ``alert_unknown``."""
        _check_role(session)
        return await self._db.read(lambda tx: _fate(tx, id_untrusted(alert_id)))

    async def by_hand(self, session: Session, alert_id: str, reason: str, pin: str) -> None:
        """Erase one alert now, here, and at the offices it was sent to as soon as they hear of it.

        PolicyRefused ``supervisor_only``, ``reason_unknown``, ``alert_unknown``, ``alert_erased``,
        ``alert_held``, and as ``Officers.confirm``.
        """
        _check_role(session)
        if reason not in ERASE_REASONS:
            raise PolicyRefused("reason_unknown", f"A reason is one of: {', '.join(ERASE_REASONS)}.")
        named = id_untrusted(alert_id)
        await self._officers.confirm(session, pin)
        await self._db.transact(
            partial(self._by_hand, alert_id=named, reason=reason, officer=session.officer)
        )
        await self.wipe()

    async def hold(self, session: Session, alert_id: str, reason: str, days: int, pin: str) -> None:
        """Keep one alert for so many days from now, beyond its date; 0 ends that.

        PolicyRefused ``supervisor_only``, ``reason_unknown``, ``hold_days``, ``hold_none``,
        ``alert_unknown``, ``alert_erased``, and as ``Officers.confirm``.
        """
        _check_role(session)
        if days and reason not in HOLD_REASONS:
            raise PolicyRefused("reason_unknown", f"A reason is one of: {', '.join(HOLD_REASONS)}.")
        if not 0 <= days <= HOLD_DAYS_MAX:
            raise PolicyRefused("hold_days", f"An alert is kept for at most {HOLD_DAYS_MAX} days at a time.")
        named = id_untrusted(alert_id)
        await self._officers.confirm(session, pin)
        await self._db.transact(
            partial(self._hold, alert_id=named, reason=reason, days=days, officer=session.officer)
        )

    def _by_hand(self, tx: Transaction, *, alert_id: bytes, reason: str, officer: int) -> None:
        fate = self._living(tx, alert_id)
        if fate.held_why is not None:
            raise PolicyRefused("alert_held", "This alert is kept beyond its date. End that first.")
        actor = self._officers.pseudonym(tx, officer)
        for row in tx.execute(f"{_ROW} WHERE alert_id = ? AND erased_ms IS NULL", (alert_id,)):
            self._erase_one(tx, row, reason, self._env.clock.now_ms(), actor)

    def _hold(self, tx: Transaction, *, alert_id: bytes, reason: str, days: int, officer: int) -> None:
        fate = self._living(tx, alert_id)
        until_ms = self._env.clock.now_ms() + days * limits.DAY_MS
        if not days:
            if fate.held_why is None:
                raise PolicyRefused("hold_none", "This alert is not kept beyond its date.")
            reason, until_ms = HOLD_ENDED, fate.agreed_ms
        elif until_ms <= fate.agreed_ms:
            raise PolicyRefused("hold_days", "This alert stays as long as that without being kept.")
        tx.execute(
            "UPDATE alert SET agreed_ms = coalesce(agreed_ms, erase_at_ms), erase_at_ms = ?2, held_code = ?3"
            " WHERE alert_id = ?1 AND erased_ms IS NULL",
            (alert_id, until_ms, reason if days else None),
        )
        self._audit.append(
            tx,
            "content.held",
            {
                "alert": alert_id.hex(),
                "code": reason,
                "until": until_ms,
                "actor": self._officers.pseudonym(tx, officer),
            },
        )

    def _living(self, tx: Snapshot, alert_id: bytes) -> FateView:
        fate = _fate(tx, alert_id)
        if fate.erased_ms is not None or fate.erase_at_ms <= self._env.clock.now_ms():
            raise PolicyRefused("alert_erased", "The content of this alert was erased already.")
        return fate

    def by_sender(self, tx: Transaction, alert_id: bytes, peer_id: bytes) -> None:
        """An officer of its sender erased it there: it goes here too, or with the end of its being kept."""
        now_ms = self._env.clock.now_ms()
        row = tx.one(
            f"{_ROW} WHERE alert_id = ? AND incoming = 1 AND peer = ? AND erased_ms IS NULL",
            (alert_id, peer_id),
        )
        if row is None:
            return
        tx.execute(
            "UPDATE alert SET agreed_ms = min(agreed_ms, ?2)"
            " WHERE alert_id = ?1 AND incoming = 1 AND held_code IS NOT NULL",
            (alert_id, now_ms),
        )
        if not tx.changes():
            self._erase_one(tx, row, BY_SENDER, now_ms)
            tx.on_commit(self._note_unwiped)

    def _note_unwiped(self) -> None:
        self._unwiped += 1

    async def wipe(self) -> None:
        """No trace of a deleted row stays in the database, and no month key that nothing is sealed under.

        Also at each start: power may have gone between an erasure and this.
        """
        async with self._one_wipe:
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
        for row in alerts:
            self._erase_one(tx, row, "due", now_ms)
        drafts = tx.execute(f"{_DRAFTS_DUE} LIMIT {AT_ONCE_MAX}", (now_ms,))
        for draft_id, prepared in drafts:
            tx.execute("DELETE FROM pending WHERE draft_id = ?", (draft_id,))
            parts = ["draft"]
            if self._photos.drop_draft(tx, draft_id):
                parts.append("photos")
            named = prepared_from_bytes(prepared).core.unsigned_id
            note_erased(tx, self._audit, named, parts, "due", (), now_ms)
        return len(alerts) + len(drafts)

    def _erase_one(self, tx: Transaction, row: Any, why: str, now_ms: int, actor: str = "") -> None:
        """Everything of one alert, in this transaction; ``row`` as _ROW selects."""
        alert_id, incoming, peer_id, hh = row
        parts = ["content"]
        tx.execute("DELETE FROM vault WHERE alert_id = ? AND incoming = ?", (alert_id, incoming))
        # The row stays: a late copy of what was erased is shown to nobody.
        tx.execute(
            "UPDATE alert SET erased_ms = ?, erased_code = ?, headline = ''"
            " WHERE alert_id = ? AND incoming = ?",
            (now_ms, None if why == "due" else why, alert_id, incoming),
        )
        if not incoming:
            parts += self._outbox.erase(tx, alert_id)
        if self._photos.erase(tx, alert_id, bool(incoming)):
            parts.append("photos")
        told = [(peer_id, hh)] if incoming else self._outbox.holders(tx, alert_id)
        index = note_erased(tx, self._audit, alert_id, parts, why, told, now_ms, actor)
        if actor and not incoming:
            tx.execute(
                "UPDATE alert SET erased_index = ?, erased_actor = ? WHERE alert_id = ? AND incoming = 0",
                (index, actor, alert_id),
            )


def _check_role(session: Session) -> None:
    if session.role != "supervisor":
        raise PolicyRefused(
            "supervisor_only", "Only a supervisor erases an alert by hand or keeps it beyond its date."
        )


def _fate(tx: Snapshot, alert_id: bytes) -> FateView:
    rows = tx.execute(
        "SELECT incoming, headline, erase_at_ms, coalesce(agreed_ms, erase_at_ms), held_code, erased_ms,"
        " erased_code FROM alert WHERE alert_id = ? ORDER BY erased_ms IS NOT NULL, incoming DESC",
        (alert_id,),
    )
    if not rows:
        raise PolicyRefused("alert_unknown", "There is no such alert here.")
    incoming, headline, erase_at_ms, agreed_ms, held_why, erased_ms, erased_why = rows[0]
    return FateView(
        alert_id=alert_id.hex(),
        incoming=bool(incoming),
        headline=headline,
        erase_at_ms=erase_at_ms,
        agreed_ms=agreed_ms,
        held_why=held_why,
        erased_ms=erased_ms,
        erased_why=erased_why,
    )


def _months_in_use(tx: Snapshot) -> frozenset[str]:
    rows = tx.execute("SELECT kek FROM vault UNION SELECT kek FROM photo UNION SELECT kek FROM photo_staged")
    return frozenset(row[0] for row in rows)
