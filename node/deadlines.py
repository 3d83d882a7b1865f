"""Deadlines of what we sent: at reply-by and at expiry silence itself is recorded, as evidence.

Spec: docs/spec/receipts.md#negative-evidence. One rule: never silence. Whatever should have been heard by now
and was not gets an entry in the log and a line in the ladder, once; a receipt that comes later still counts.
"""

from collections.abc import Callable
from functools import partial

from audit.store import AuditLog
from node.outbox import add_rung
from protocol.alert import Alert
from runtime.env import Env
from runtime.sqlite import Database, Transaction

# Words of the peer that answer a question by a date, and those that say it arrived at all.
_REPLIES = ("opened", "assigned", "outcome", "refused")
_ARRIVED = ("delivered", *_REPLIES)
_AT_ONCE_MAX = 256


def watch_delivery(tx: Transaction, hh: bytes, alert: Alert) -> None:
    """From the transaction that keeps a delivery: when to look at it."""
    moments = [alert.expires_ms] if alert.reply_by_ms is None else [alert.reply_by_ms, alert.expires_ms]
    tx.execute(
        "UPDATE delivery SET reply_by_ms = ?, look_ms = ? WHERE hh = ?", (alert.reply_by_ms, min(moments), hh)
    )


class Deadlines:
    """Looks at what is due."""

    def __init__(
        self, env: Env, db: Database, log: AuditLog, *, office_name: str, changed: Callable[[], None]
    ) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._office_name = office_name
        self._changed = changed

    async def record_once(self) -> None:
        """Record the silence of every delivery whose moment has come."""
        now_ms = self._env.clock.now_ms()
        due = await self._db.read(
            lambda tx: tx.execute("SELECT 1 FROM delivery WHERE look_ms <= ? LIMIT 1", (now_ms,))
        )
        if not due:
            return
        found: bool = await self._db.transact(partial(self._record, now_ms=now_ms))
        if found:
            self._changed()

    def _record(self, tx: Transaction, *, now_ms: int) -> bool:
        """Whether anything was found missing."""
        found = False
        for hh, peer, alert_id, msg_id, reply_by_ms, expires_ms in tx.execute(
            "SELECT hh, peer, alert_id, msg_id, reply_by_ms, expires_ms FROM delivery"
            " WHERE look_ms <= ? LIMIT ?",
            (now_ms, _AT_ONCE_MAX),
        ):
            heard = {
                row[0]
                for row in tx.execute(
                    "SELECT step FROM ladder WHERE alert_id = ? AND peer = ?", (alert_id, peer)
                )
            }
            if (
                reply_by_ms is not None
                and reply_by_ms <= now_ms
                and heard.isdisjoint((*_REPLIES, "no_reply"))
            ):
                self._note(tx, alert_id, peer, msg_id, "no_reply", now_ms)
                found = True
            if expires_ms <= now_ms and heard.isdisjoint((*_ARRIVED, "expired")):
                # Acknowledged, so that nothing is sent any more, and yet no signed word that it was taken in.
                self._note(tx, alert_id, peer, msg_id, "expired", now_ms)
                found = True
            next_ms = expires_ms if expires_ms > now_ms else None
            tx.execute("UPDATE delivery SET look_ms = ? WHERE hh = ?", (next_ms, hh))
        return found

    def _note(
        self, tx: Transaction, alert_id: bytes, peer: bytes, msg_id: bytes, step: str, now_ms: int
    ) -> None:
        if step == "no_reply":
            index = self._log.append(tx, "msg.overdue", {"msg": msg_id.hex(), "code": "no_reply"})
        else:
            index = self._log.append(tx, "msg.expired", {"msg": msg_id.hex(), "step": "acknowledged"})
        add_rung(tx, alert_id, peer, step, now_ms, self._office_name, index)
