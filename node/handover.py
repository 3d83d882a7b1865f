"""Receipts to hand over: what our log says of one alert, for somebody who has neither it nor us.

Spec: docs/spec/log.md#receipts. One rule: that something was handed over is an entry before it is. A receipt
holds no content, so it opens nothing and is no access to the alert.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from audit.receipt import (
    BEGINNINGS,
    TYPES,
    Event,
    events_of,
    make_receipt,
    open_receipt_untrusted,
    worth,
)
from audit.store import AuditLog
from keys.errors import PolicyRefused
from keys.primitives import sha256
from node.alerts import id_untrusted
from node.officers import Officers
from node.views import EventView, ReceiptView, Session
from node.witness import Witnessing
from runtime.env import Env
from runtime.sqlite import Database, Snapshot, Transaction

HEADS_MAX: Final = 64
"""Published checkpoints looked at for cosignatures: an hour of a busy log, days of a quiet one."""
SEARCHED_MAX: Final = 8
_ID_SHOWN: Final = 12  # hex digits of an alert in the name of a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An entry that a receipt can be made of; ``peer`` is the office it names, empty for a deed of ours."""

    event: Event
    index: int
    raw: bytes
    entry: Mapping[str, Any]

    @property
    def peer(self) -> str:
        """Its name in our log."""
        return str(self.entry.get("peer", ""))


class Handover:
    """Makes receipts from this office's log."""

    def __init__(
        self, env: Env, db: Database, log: AuditLog, officers: Officers, witnessing: Witnessing
    ) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._officers = officers
        self._witnessing = witnessing

    async def events(self, session: Session, alert_id: str) -> tuple[EventView, ...]:
        """What can be proved of an alert, as it happened. PolicyRefused ``alert_unknown``."""
        check_may_hand_over(session)
        named = id_untrusted(alert_id)

        def read(tx: Snapshot) -> tuple[EventView, ...]:
            offices, (_, witnessed, _) = _offices(tx), self._witnessing.coverage(tx)
            views = []
            for found in _firsts(self.find(tx, named)):
                peer_id, name = offices.get(found.peer, ("", ""))
                events = [found.event]
                if found.entry["t"] in BEGINNINGS and found.index < witnessed:
                    events.append(Event.WITNESSED)
                at_ms = found.entry["ts"] // 1000
                views += [
                    EventView(event=event.value, peer_id=peer_id, peer_name=name, at_ms=at_ms)
                    for event in events
                ]
            return tuple(views)

        return await self._db.read(read)

    async def receipt(
        self, session: Session, alert_id: str, event: str, peer_id: str | None = None
    ) -> ReceiptView:
        """The receipt of one event; that it left is an entry first.

        PolicyRefused ``alert_unknown``, ``receipt_nothing``, ``receipt_which_office``,
        ``receipt_not_witnessed``, ``handover_role``.
        """
        check_may_hand_over(session)
        named, wanted = id_untrusted(alert_id), _event(event)
        found, name = await self._db.read(lambda tx: self._choose(tx, named, wanted, peer_id))
        data = await self.prove(found.index, found.raw)
        policy = await self._db.read(self._witnessing.policy)
        receipt = open_receipt_untrusted(data, policy)
        if not receipt.says(wanted):
            raise PolicyRefused(
                "receipt_not_witnessed",
                "No partner has countersigned this part of the log yet. Try again in some minutes.",
            )

        def record(tx: Transaction) -> None:
            actor = self._officers.pseudonym(tx, session.officer)
            fields = {"digest": sha256(data).hex(), "actor": actor, "purpose": "receipt"}
            self._log.append(tx, "audit.export", fields)

        await self._db.transact(record)
        return ReceiptView(
            event=wanted.value,
            type=found.entry["t"],
            alert_id=named.hex(),
            message_id=found.entry.get("msg", ""),
            peer_name=name,
            log=self._log.origin,
            index=found.index,
            size=receipt.head.checkpoint.size,
            at_ms=found.entry["ts"] // 1000,
            said_ms=found.entry.get("at"),
            witnesses=tuple((seen.name, seen.time_s * 1000) for seen in receipt.head.cosigners),
            name=f"{named.hex()[:_ID_SHOWN]}-{wanted.value}.tlog-proof",
            file=data.decode(),
        )

    async def prove(self, index: int, raw: bytes) -> bytes:
        """The receipt of an entry, under the earliest of the checkpoints that the most witnesses cosigned."""
        if self._log.published.size <= index:
            await self._log.publish()
        sizes = await self._db.read(lambda tx: self._log.heads_over(tx, index, HEADS_MAX))
        if self._log.published.size not in sizes:
            sizes.append(self._log.published.size)
        note = await self._env.run_blocking(self._best_note, sizes)
        return await self._db.read(lambda tx: make_receipt(raw, index, note, self._log.read_tile(tx)))

    def _best_note(self, sizes: Sequence[int]) -> bytes:
        notes = [note for size in sizes if (note := self._log.read_archived(size)) is not None]
        if not notes:
            return self._log.signed(self._log.published)
        # The first of the best: the earlier a witness saw it, the more that says.
        return max(notes, key=worth)

    def find(self, tx: Snapshot, alert_id: bytes) -> list[Found]:
        """Every event of an alert that came or went; PolicyRefused ``alert_unknown``."""
        if not tx.execute("SELECT 1 FROM alert WHERE alert_id = ?", (alert_id,)):
            raise PolicyRefused("alert_unknown", "There is no such alert here.")
        return self.find_all(tx, [alert_id])[alert_id]

    def find_all(self, tx: Snapshot, alert_ids: Collection[bytes]) -> dict[bytes, list[Found]]:
        """Every event of these alerts, in order: few are searched for, many are picked out in one pass."""
        found: dict[str, list[Found]] = {alert_id.hex(): [] for alert_id in alert_ids}
        if len(found) <= SEARCHED_MAX:
            marks = [f'"alert":"{named}"' for named in found]
            beginnings = self._entries(tx, marks)
            messages = [entry["msg"] for _, entry in beginnings.values() if entry["t"] in BEGINNINGS]
            marks += [f'"msg":"{message}"' for message in messages]
        else:
            marks = [f'"t":"{name}"' for name in TYPES]
        entries = self._entries(tx, marks)
        for named, event, entry in events_of(entry for _, entry in entries.values()):
            if named in found:
                index = entry["seq"]
                found[named].append(Found(event=event, index=index, raw=entries[index][0], entry=entry))
        return {bytes.fromhex(named): events for named, events in found.items()}

    def beginnings(self, tx: Snapshot) -> list[Mapping[str, Any]]:
        """Every entry that an alert of any time begins with, in order."""
        return [entry for _, entry in self._entries(tx, [f'"t":"{name}"' for name in BEGINNINGS]).values()]

    def _entries(self, tx: Snapshot, marks: Sequence[str]) -> dict[int, tuple[bytes, Mapping[str, Any]]]:
        rows = self._log.find(tx, [mark.encode() for mark in marks]) if marks else []
        return {index: (raw, json.loads(raw)) for index, raw in rows}

    def _choose(self, tx: Snapshot, alert_id: bytes, wanted: Event, peer_id: str | None) -> tuple[Found, str]:
        offices = _offices(tx)
        # What is witnessed is that it went or came.
        events = {Event.SUBMITTED, Event.DELIVERED} if wanted is Event.WITNESSED else {wanted}
        found = [each for each in _firsts(self.find(tx, alert_id)) if each.event in events]
        if peer_id is not None:
            found = [each for each in found if offices.get(each.peer, ("",))[0] == peer_id]
        if not found:
            raise PolicyRefused(
                "receipt_nothing", f"The log of this office has no event '{wanted.value}' of this alert."
            )
        first = next((each for each in found if not each.peer), found[0])
        if first.peer and len({each.peer for each in found}) > 1:
            raise PolicyRefused(
                "receipt_which_office", "This alert is about several offices. Say which of them is meant."
            )
        return first, offices.get(first.peer, ("", ""))[1]


def check_may_hand_over(session: Session) -> None:
    """PolicyRefused ``handover_role`` for an operator: who keeps the machine hands nothing out."""
    if session.role == "operator":
        raise PolicyRefused(
            "handover_role", "Only an officer, a supervisor or an auditor may hand anything over."
        )


def _event(text: str) -> Event:
    try:
        return Event(text)
    except ValueError as error:
        known = ", ".join(event.value for event in Event)
        raise PolicyRefused("receipt_nothing", f"An event is one of: {known}.") from error


def _firsts(found: Sequence[Found]) -> list[Found]:
    """The first entry of each event and office: a second copy or a later access proves no more."""
    firsts: dict[tuple[Event, str], Found] = {}
    for each in found:
        firsts.setdefault((each.event, each.peer), each)
    return list(firsts.values())


def _offices(tx: Snapshot) -> dict[str, tuple[str, str]]:
    """(office id in hex, name) of each partner by its name in our log."""
    rows = tx.execute("SELECT office_id, name, log_origin FROM peer")
    return {origin.split("/")[1]: (office_id.hex(), name) for office_id, name, origin in rows}
