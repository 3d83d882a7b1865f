"""What an officer answers to an alert: taken on, its outcome, or refused.

Spec: docs/spec/receipts.md. One rule: an answer, its log entry and the receipt that tells the sender are one
transaction. What peers answer to ours is in node/ladder.py.
"""

from typing import Final, Literal

from audit.store import AuditLog
from keys.errors import MalformedInput, PolicyRefused
from node.alerts import id_untrusted
from node.inbox import queue_receipt
from node.officers import Officers
from node.outbox import Outbox
from node.views import Session
from protocol import codelists, limits
from protocol.receipts import OFFICER_REFUSALS, ReceiptState
from runtime.env import Env
from runtime.sqlite import Database, Transaction

Step = Literal["assigned", "outcome", "refused"]
STEPS: Final[dict[str, Step]] = {"assigned": "assigned", "outcome": "outcome", "refused": "refused"}


class Answers:
    """The answers of this office's officers."""

    def __init__(
        self,
        env: Env,
        db: Database,
        log: AuditLog,
        officers: Officers,
        outbox: Outbox,
    ) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._officers = officers
        self._outbox = outbox

    async def answer(self, session: Session, alert_id: str, step: str, code: str = "") -> None:
        """Answer an alert that came in.

        PolicyRefused: ``role_may_not``, ``alert_unknown``, ``answer_before_opening``, ``answer_again``,
        ``answer_after_outcome``, ``answers_too_many``. MalformedInput: ``answer_code``, ``id_malformed``.
        """
        if session.role not in ("officer", "supervisor"):
            raise PolicyRefused("role_may_not", "Auditors and operators read; they do not answer alerts.")
        known = STEPS.get(step)
        if known is None or code not in _codes(known):
            choices = ", ".join(code or "none" for code in (() if known is None else _codes(known)))
            raise MalformedInput(
                "answer_code", f"An answer is assigned, outcome or refused, with a code of: {choices or '-'}."
            )
        named = id_untrusted(alert_id)
        peer_id = await self._db.transact(lambda tx: self._record(tx, session, named, known, code))
        await self._outbox.send_receipts(peer_id)

    def _record(self, tx: Transaction, session: Session, alert_id: bytes, step: Step, code: str) -> bytes:
        row = tx.one(
            "SELECT peer, hh, opened_ms, urgency FROM alert WHERE alert_id = ? AND incoming = 1", (alert_id,)
        )
        if row is None:
            raise PolicyRefused("alert_unknown", "There is no such alert here.")
        peer_id, hh, opened_ms, urgency = row
        if opened_ms is None:
            raise PolicyRefused(
                "answer_before_opening", "Nobody here has opened this alert. Open it, then answer."
            )
        given = [
            found[0]
            for found in tx.execute(
                "SELECT step FROM answer WHERE alert_id = ? ORDER BY log_index", (alert_id,)
            )
        ]
        _check_order(given, step)
        now_ms = self._env.clock.now_ms()
        actor = self._officers.pseudonym(tx, session.officer)
        fields = {"alert": alert_id.hex(), "actor": actor, "step": step}
        if code:
            fields["code"] = code
        index = self._log.append(tx, "ans.given", fields)
        tx.execute(
            "INSERT INTO answer (alert_id, log_index, step, at_ms, code) VALUES (?, ?, ?, ?, ?)",
            (alert_id, index, step, now_ms, code),
        )
        due_ms = self._outbox.receipt_due_ms(at_once=urgency == "immediate")
        queue_receipt(
            tx, peer_id, alert_id, hh, ReceiptState(step), now_ms, index, code, actor, due_ms=due_ms
        )
        return bytes(peer_id)


def _codes(step: Step) -> tuple[str, ...]:
    match step:
        case "assigned":
            return ("",)
        case "outcome":
            return tuple(codelists.load("outcomes").codes)
        case "refused":
            return OFFICER_REFUSALS


def _check_order(given: list[str], step: Step) -> None:
    if step == "outcome":
        if given.count("outcome") >= limits.OUTCOMES_PER_DELIVERY_MAX:
            raise PolicyRefused(
                "answers_too_many",
                f"This alert has {limits.OUTCOMES_PER_DELIVERY_MAX} outcomes already. Write a new alert.",
            )
        return
    if "outcome" in given:
        raise PolicyRefused(
            "answer_after_outcome",
            "This alert has an outcome already. To correct it, choose another outcome.",
        )
    if step in given:
        raise PolicyRefused("answer_again", "Somebody of this office answered this already.")
