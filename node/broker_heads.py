"""Heads of brokers' logs, entered into our own: what a broker says it did gets a witness.

Spec: docs/spec/log.md#witnessing. One rule: a head is held to the one before, under the key that the
broker's address pins, exactly as a partner's is. Nothing is sent back: a cosignature would tell the broker
which of its users is one and the same office for years. What we accepted stands in our log, which partners
cosign.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from audit.note import TYPE_ED25519, VerifierKey
from audit.store import AuditLog
from audit.witness import NOTHING_HELD, Held, Judgement, Status, judge_untrusted
from keys.errors import MalformedInput, PolicyRefused, Unavailable, VerificationFailed
from node.broker_link import BrokerClient
from protocol.requests import Head, HeadAnswer
from runtime.env import Env
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

FIRST_LOOK_S = 300.0
LOOK_S = 3600.0

log = get_logger("broker_heads")


class BrokerHeads:
    """Asks each broker for its head, once an hour in which our own log grew by itself."""

    def __init__(
        self, env: Env, db: Database, audit_log: AuditLog, *, clients: Callable[[], Sequence[BrokerClient]]
    ) -> None:
        self._env = env
        self._db = db
        self._log = audit_log
        self._clients = clients

    async def run(self) -> None:
        """Until cancelled. A broker that does not answer is asked again an hour later."""
        wait_s = FIRST_LOOK_S
        while True:
            await self._env.sleep(wait_s)
            wait_s = LOOK_S
            for client in self._clients():
                with contextlib.suppress(MalformedInput, VerificationFailed, PolicyRefused, Unavailable):
                    await self.look(client)

    async def look(self, client: BrokerClient) -> None:
        """One broker, unless nothing of our own was recorded since the last time: idle logs stay idle."""
        address = str(client.address)
        known = await self._db.read(
            lambda tx: tx.one(
                "SELECT size, root, note, at_size FROM broker_head WHERE address = ?", (address,)
            )
        )
        held = NOTHING_HELD if known is None else Held(size=known[0], root=known[1], note=known[2])
        since = 0 if known is None else known[3]
        if not await self._db.read(lambda tx: self._log.has_own_entry(tx, since, self._log.size)):
            return
        card = await client.card()
        key = VerifierKey(name=card.log_origin, type_byte=TYPE_ED25519, public=card.log_public)
        (answer,) = await client.exchange([Head(old_size=held.size)])
        if isinstance(answer, HeadAnswer):
            judged = judge_untrusted(answer.body, key, held)
            await self._db.transact(lambda tx: self._record(tx, address, held, judged))

    def _record(self, tx: Transaction, address: str, held: Held, judged: Judgement) -> None:
        now_ms = self._env.clock.now_ms()
        offered = judged.offered
        if judged.status is Status.COSIGNED and offered is not None:
            if offered.size == held.size:
                return
            index = self._log.append(
                tx,
                "wit.cosigned",
                {"origin": offered.origin, "size": offered.size, "root": offered.root.hex()},
            )
            tx.execute(
                "INSERT INTO broker_head (address, size, root, note, at_ms, at_size)"
                " VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (address) DO UPDATE SET size = excluded.size, root = excluded.root,"
                " note = excluded.note, at_ms = excluded.at_ms, at_size = excluded.at_size",
                (address, offered.size, offered.root, judged.note, now_ms, index + 1),
            )
            return
        code = judged.refusal
        if code is None and offered is not None and offered.size < held.size:
            code = "went_back"  # it answers us alone, and now: no earlier answer can have overtaken
        if code is None or offered is None:
            log.warning("broker_head_unusable", code=f"status_{int(judged.status)}")
            return
        if tx.execute("SELECT 1 FROM broker_head WHERE address = ? AND refused = ?", (address, code)):
            return
        tx.execute(
            "INSERT INTO broker_head"
            " (address, size, root, note, at_ms, at_size, refused, refused_ms, offered)"
            " VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?5, ?7) ON CONFLICT (address) DO UPDATE"
            " SET refused = ?6, refused_ms = ?5, offered = ?7",
            (address, held.size, held.root, held.note, now_ms, code, judged.note),
        )
        self._log.append(
            tx,
            "wit.refused",
            {"origin": offered.origin, "size": offered.size, "root": offered.root.hex(), "code": code},
        )
        log.error("broker_head_refused", code=code)


def refused_heads(tx: Snapshot) -> list[tuple[str, str, int]]:
    """Address, code and time of each broker whose log is not the one it showed before."""
    rows: list[Any] = tx.execute(
        "SELECT address, refused, refused_ms FROM broker_head WHERE refused IS NOT NULL ORDER BY address"
    )
    return [(address, code, at_ms) for address, code, at_ms in rows]
