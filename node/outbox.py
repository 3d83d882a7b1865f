"""What leaves: numbered, signed, sealed and kept in one transaction; then sent until it is acknowledged.

Spec: docs/spec/conversation.md#delivery. One rule: nothing is sent that is not committed, and every act here
may be repeated safely. The table of ``protocol.delivery`` says what is due; this file carries it out.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from audit.entry import INT_LIMIT, Json
from audit.store import AuditLog
from keys.brokercard import BrokerCard
from keys.errors import BrokenInvariant, PolicyRefused, VerificationFailed
from keys.primitives import sha256
from node import full_mailboxes, one_time
from node.addresses import note_gone, note_taken
from node.broker_link import Batch, Via
from node.config import RECEIPT_SPREAD_S_MAX
from node.identity import Identity
from node.peers import Peer, check_not_frozen, load_peer, load_peers, naming, save_peer
from node.receive_keys import ReceiveKeyRing
from node.reset_keys import note_carried, own_item, theirs
from protocol import limits
from protocol.conversation import (
    Slot,
    acknowledgement,
    after_acknowledgement_sent,
    after_signing,
    next_slot,
    passed,
)
from protocol.custody import Custody, verify_custody
from protocol.delivery import (
    AddressKnown,
    AskHeld,
    Cancelled,
    Delivery,
    DeliveryState,
    Event,
    Expired,
    HeldNo,
    HeldYes,
    LinkFailed,
    PeerAcknowledged,
    PeerMarkPassed,
    PutAccepted,
    PutRefused,
    RecordCancelled,
    RecordExpired,
    Reseal,
    TimerFired,
    new_delivery,
    step,
)
from protocol.envelope import envelope_hash
from protocol.items import AudienceOpening, Item, OfficerListItem, ResetKeyItem, encode_items
from protocol.message import (
    LeafOpening,
    MessageType,
    SignedMessage,
    decode_opening_untrusted,
    parse_header_untrusted,
    place,
    shared_leaves,
    sign_alert,
    sign_message,
    sign_shared_alert,
)
from protocol.receipts import Receipt, ReceiptState, encode_receipts
from protocol.receivekeys import after_announced, announcement, announcement_due_ms
from protocol.release import ReleasedAlert
from protocol.requests import Held, HeldAnswer, Op, OpRefused, Put, Refusal, Result, bytes_behind
from protocol.sealing import Recipient, seal, sealed_bytes
from protocol.stick import RECORD_HEAD_BYTES
from runtime.env import Env
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

RECEIPTS_PER_MESSAGE = 128
CONTROL_LIFE_MS = 90 * limits.DAY_MS
ACK_DELAY_MS = 20_000


log = get_logger("outbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToSend:
    """One message to one peer, not numbered yet."""

    type: MessageType
    released: ReleasedAlert | None = field(repr=False, default=None)  # of an alert
    core: bytes = field(repr=False, default=b"")  # of anything else
    items: tuple[Item, ...] = ()
    expires_ms: int
    urgent: bool = False
    service: bool = False  # writes no msg.* entry: otherwise two idle offices would fill each other's logs
    seal_to: tuple[bytes, bytes] | None = None  # key id and public key, not the newest known; the first time
    submitted: Mapping[str, Json] | None = None  # of an alert: what msg.submit says besides message and peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One delivery row, as the loop reads it."""

    hh: bytes
    peer: bytes
    type: MessageType
    alert_id: bytes | None
    msg_id: bytes
    urgent: bool
    envelope: bytes | None = field(repr=False)
    envelope_hash: bytes
    attempt: int
    state: DeliveryState


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What goes into one file, in its order.

    ``left`` items no file had yet found no room, ``too_large`` ones never will on this way.
    """

    hhs: tuple[bytes, ...]
    envelopes: tuple[bytes, ...] = field(repr=False)
    alerts: int
    left: int
    too_large: int


# Only what was never acknowledged can expire; the rest of the line is history.
_EXPIRED = "expires_ms <= ? AND phase IN ('kept', 'held', 'address_lost')"
# No retry of a link waits longer than the first of these, no question to a broker longer than the second.
_STRANDED = (
    "INDEXED BY delivery_due WHERE next_at_ms > ? AND (phase IN ('kept', 'address_lost') OR next_at_ms > ?)"
)
# Peers at one broker for whom something may leave now.
_TALKING = "FROM peer WHERE broker_address = ? AND state = 'active' AND frozen_ms IS NULL"
_DUE = (
    # The planner would rather read every delivery there ever was to these peers.
    f"FROM delivery INDEXED BY delivery_due WHERE next_at_ms <= ? AND rowid NOT IN ({full_mailboxes.RESTING})"
    f" AND peer IN (SELECT office_id {_TALKING})"
)
# Past, or further ahead than any spread: only a clock that was since set back can have drawn that.
_RECEIPT_DUE = "NOT (due_ms > ? AND due_ms <= ?)"
_LOST = "address_lost"
_COVER_LAST = f"type = {MessageType.COVER:d}"
_ROW = "hh, peer, type, alert_id, msg_id, urgent, envelope, envelope_hash, attempt, state"


class Outbox:
    """Everything that waits to leave this office."""

    def __init__(
        self,
        env: Env,
        db: Database,
        log: AuditLog,
        identity: Identity,
        keys: ReceiveKeyRing,
        *,
        receipt_spread_ms: int,
        wake: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._identity = identity
        self._keys = keys
        self._receipt_spread_ms = receipt_spread_ms
        self._looked_ms = 0
        self._wake = wake
        self._changed = changed
        self._in_flight: dict[bytes, None] = {}

    # --- keeping --------------------------------------------------------------------------------------------

    def compose(self, tx: Transaction, peer: Peer, message: ToSend) -> tuple[bytes, bytes]:
        """Number, sign, seal and keep one message; returns (hh, msg_id). The caller saves ``peer``.

        PolicyRefused ``window_full``, ``too_large`` or ``pair_frozen``. Sending follows the commit.
        """
        check_not_frozen(peer)
        now_ms = self._env.clock.now_ms()
        if not message.service:
            self._keys.use(tx, peer)
        slot = next_slot(peer.pair)
        items = self._with_company(tx, peer, message)
        opening = _opening(peer, slot, blind=self._env.random(limits.SALT_BYTES), leaf_index=0)
        msg_id = self._env.random(limits.MESSAGE_ID_BYTES)
        signed = self._sign(peer, message, items, opening, msg_id, now_ms)
        peer.pair = after_signing(peer.pair, slot, signed.hh)
        self.note_company(peer, items, now_ms)
        if any(isinstance(item, ResetKeyItem) for item in items):
            note_carried(tx, peer, signed.hh)
        to = self._seal_to(tx, peer, signed, opening, is_alert=message.released is not None)
        if message.seal_to is not None:
            key_id, public = message.seal_to
            to = replace(to, receive_key_id=key_id, receive_key_public=public)
        envelope = self._seal(signed, [to])[0]
        self._keep(tx, peer, message, signed, opening, signed.hh, msg_id, envelope)
        return signed.hh, msg_id

    def compose_each(
        self, tx: Transaction, peers: Sequence[Peer], message: ToSend
    ) -> tuple[tuple[bytes, bytes], ...]:
        """The same as ``compose_shared``, but one message for each, signed and sealed by itself."""
        names: list[tuple[bytes, bytes]] = []
        for peer in peers:
            with naming(peer):
                names.append(self.compose(tx, peer, message))
        return tuple(names)

    def compose_shared(
        self, tx: Transaction, peers: Sequence[Peer], message: ToSend
    ) -> tuple[tuple[bytes, bytes], ...]:
        """One alert for several peers under one signature and around one blob; (hh, msg_id) of each.

        Nothing rides along: whatever a body says of one pair, everybody would read. The caller saves the
        peers. PolicyRefused as ``compose``, its text begins with the peer's name, and then nothing leaves.
        """
        released = message.released
        assert released is not None, "only an alert goes to several"
        now_ms = self._env.clock.now_ms()
        openings: list[LeafOpening] = []
        for peer in peers:
            with naming(peer):
                check_not_frozen(peer)
                self._keys.use(tx, peer)
                blind, leaf_index = released.place_of(peer.office_id)
                openings.append(_opening(peer, next_slot(peer.pair), blind=blind, leaf_index=leaf_index))
        us = self._identity
        leaves = {
            opening.leaf_index: opening.shared_leaf(peer.office_id, peer.pair.outbound.instance)
            for peer, opening in zip(peers, openings, strict=True)
        }
        signed = sign_shared_alert(
            released,
            msg_id=self._env.random(limits.MESSAGE_ID_BYTES),
            sender=us.office_id,
            key_version=us.key_version,
            signer=us.operational,
            created_ms=now_ms,
            leaves=shared_leaves(released, leaves, self._env.random),
        )
        to = [
            self._seal_to(tx, peer, signed, opening, is_alert=True)
            for peer, opening in zip(peers, openings, strict=True)
        ]
        names: list[tuple[bytes, bytes]] = []
        for peer, opening, envelope in zip(peers, openings, self._seal(signed, to), strict=True):
            there = place(signed.header, opening, peer.office_id, peer.pair.outbound.instance)
            peer.pair = after_signing(peer.pair, next_slot(peer.pair), there.hh)
            names.append((there.hh, there.header.msg_id))
            self._keep(tx, peer, message, signed, opening, *names[-1], envelope)
        return tuple(names)

    def _keep(
        self,
        tx: Transaction,
        peer: Peer,
        message: ToSend,
        signed: SignedMessage,
        opening: LeafOpening,
        hh: bytes,
        msg_id: bytes,
        envelope: bytes,
    ) -> None:
        now_ms = self._env.clock.now_ms()
        sealed_hash = envelope_hash(envelope)
        state = new_delivery(now_ms=now_ms, expires_ms=message.expires_ms, service=message.service)
        tx.execute(
            "INSERT INTO delivery (hh, peer, instance, pair_seq, type, alert_id, msg_id, service, urgent,"
            " message, opening, envelope, envelope_hash, attempt, state, phase, next_at_ms, expires_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?)",
            (
                hh,
                peer.office_id,
                peer.pair.outbound.instance,
                opening.pair_seq,
                int(message.type),
                None if message.released is None else message.released.alert_id,
                msg_id,
                int(message.service),
                int(message.urgent),
                signed.to_bytes(),
                opening.encode(),
                envelope,
                sealed_hash,
                state.encode(),
                state.phase.value,
                state.next_at_ms,
                message.expires_ms,
            ),
        )
        if message.submitted is not None:
            entry = {"msg": msg_id.hex(), "peer": peer.pseudonym, **message.submitted}
            self._log.append(tx, "msg.submit", entry)
        if not message.service:
            self._log_seal(tx, peer, msg_id, hh, opening.pair_seq, 1, envelope, sealed_hash)
        if message.urgent and message.released is not None:
            full_mailboxes.try_now(tx, peer.office_id, now_ms)
        address = peer.broker_address
        tx.on_commit(lambda: self._wake(address))

    def _sign(
        self,
        peer: Peer,
        message: ToSend,
        items: Sequence[Item],
        opening: LeafOpening,
        msg_id: bytes,
        now_ms: int,
    ) -> SignedMessage:
        us = self._identity
        if message.released is not None:
            return sign_alert(
                message.released,
                msg_id=msg_id,
                sender=us.office_id,
                key_version=us.key_version,
                signer=us.operational,
                instance=peer.pair.outbound.instance,
                created_ms=now_ms,
                recipient=peer.office_id,
                opening=opening,
                items=items,
            )
        return sign_message(
            type=message.type,
            msg_id=msg_id,
            sender=us.office_id,
            key_version=us.key_version,
            signer=us.operational,
            instance=peer.pair.outbound.instance,
            created_ms=now_ms,
            expires_ms=message.expires_ms,
            core=message.core,
            recipient=peer.office_id,
            opening=opening,
            items=items,
        )

    def compose_receipts(self, tx: Transaction, peer: Peer) -> None:
        """Put every receipt that waits for this peer under one signature."""
        rows = tx.execute(
            "SELECT number, alert_id, hh, state, at_ms, log_index, code, actor FROM receipt_due"
            " WHERE peer = ? ORDER BY number LIMIT ?",
            (peer.office_id, RECEIPTS_PER_MESSAGE),
        )
        if not rows:
            return
        receipts = [
            Receipt(alert_id=a, hh=h, state=ReceiptState(s), at_ms=t, log_index=i, code=c, actor=w)
            for _, a, h, s, t, i, c, w in rows
        ]
        self.compose(
            tx,
            peer,
            ToSend(
                type=MessageType.RECEIPT,
                core=encode_receipts(receipts),
                expires_ms=self._env.clock.now_ms() + CONTROL_LIFE_MS,
                urgent=True,
            ),
        )
        tx.execute("DELETE FROM receipt_due WHERE peer = ? AND number <= ?", (peer.office_id, rows[-1][0]))

    def receipt_due_ms(self, *, at_once: bool) -> int:
        """When a receipt that is owed now must leave, without company or with it.

        A time drawn by lot: at once, it would tell a broker which mailbox answers which, and when an officer
        reads. Not for what is immediate: there a minute counts.
        """
        spread_ms = 0 if at_once else self._receipt_spread_ms
        return self._env.clock.now_ms() + int(self._env.jitter() * spread_ms)

    async def send_receipts(self, peer_id: bytes) -> None:
        """Sign what waits for this peer, if some of it is due; all of it leaves together, now or then.

        What cannot leave now stays due and leaves with what comes next.
        """

        def record(tx: Transaction) -> None:
            peer = load_peer(tx, peer_id)
            if not tx.execute(
                f"SELECT 1 FROM receipt_due WHERE peer = ? AND {_RECEIPT_DUE} LIMIT 1",  # noqa: S608
                (peer_id, *self._receipts_due()),
            ):
                tx.on_commit(partial(self._wake, peer.broker_address))  # whoever waits must wait no longer
                return
            self.compose_receipts(tx, peer)
            save_peer(tx, peer)

        with contextlib.suppress(PolicyRefused):  # window_full, or nobody to talk to
            await self._keys.prepare((peer_id,))
            await self._db.transact(record)

    def _receipts_due(self) -> tuple[int, int]:
        now_ms = self._env.clock.now_ms()
        return now_ms, now_ms + RECEIPT_SPREAD_S_MAX * limits.SECOND_MS

    def compose_control(self, tx: Transaction, peer: Peer, items: Sequence[Item], *, service: bool) -> bytes:
        """Send items that found no company, as a control message; its hh."""
        hh, _ = self.compose(
            tx,
            peer,
            ToSend(
                type=MessageType.CONTROL,
                core=encode_items(items),
                expires_ms=self._env.clock.now_ms() + CONTROL_LIFE_MS,
                urgent=True,
                service=service,
            ),
        )
        return hh

    def _with_company(self, tx: Transaction, peer: Peer, message: ToSend) -> tuple[Item, ...]:
        """The message's own items, and what may ride along: an acknowledgement, a key announcement.

        The announcement rides whenever the envelope does not grow for it.
        """
        items = list(message.items)
        if message.type in (MessageType.CONTROL, MessageType.COVER):
            return message.items  # made of such items itself
        if peer.pair.unreported:
            items.append(acknowledgement(peer.pair, self._identity.key_version))
        announced = announcement(peer.receive_keys, self._identity.key_version)
        if announced is not None and _sealed_bytes(peer, message, [*items, announced]) == _sealed_bytes(
            peer, message, items
        ):
            items.append(announced)
        items += one_time.company(
            tx,
            peer,
            self._keys,
            message_type=message.type,
            key_version=self._identity.key_version,
            now_ms=self._env.clock.now_ms(),
            grows=lambda more: (
                _sealed_bytes(peer, message, [*items, *more]) != _sealed_bytes(peer, message, items)
            ),
        )
        reset_key = own_item(tx, peer.office_id)
        if reset_key is not None and _sealed_bytes(peer, message, [*items, reset_key]) == _sealed_bytes(
            peer, message, items
        ):
            items.append(reset_key)
        return tuple(items)

    def note_company(self, peer: Peer, items: Sequence[Item], now_ms: int) -> None:
        """These items left with a message that is durable now."""
        names = {type(item).__name__ for item in items}
        if "Acknowledgement" in names:
            peer.pair = after_acknowledgement_sent(peer.pair)
            peer.ack_due_ms = None
        if "KeyAnnouncement" in names:
            peer.receive_keys = after_announced(peer.receive_keys, now_ms)

    def _seal_to(
        self,
        tx: Transaction,
        peer: Peer,
        signed: SignedMessage,
        opening: LeafOpening,
        *,
        is_alert: bool,
        instance: bytes | None = None,
    ) -> Recipient:
        """To which key of this peer. ``is_alert``: with a body. ``instance``: when not our present one."""
        newest = peer.peer_key.announcement
        key_id, public = newest.key_id, newest.public
        if is_alert:
            key_id, public = one_time.key_for_alert(tx, peer)
        elif parse_header_untrusted(signed.header).type is MessageType.RESET:
            key_id, public = theirs(tx, peer)
        return Recipient(
            office_id=peer.office_id,
            instance=instance or peer.pair.outbound.instance,
            opening=opening,
            receive_key_id=key_id,
            receive_key_public=public,
        )

    def _seal(
        self, signed: SignedMessage, to: Sequence[Recipient], *, bodyless: bool = False
    ) -> tuple[bytes, ...]:
        return seal(signed, to, sender=self._identity.office_id, random=self._env.random, bodyless=bodyless)

    def _log_seal(
        self,
        tx: Transaction,
        peer: Peer,
        msg_id: bytes,
        hh: bytes,
        pair_seq: int,
        attempt: int,
        envelope: bytes,
        sealed_hash: bytes,
        via: Via = "broker",
    ) -> None:
        self._log.append(
            tx,
            "msg.seal",
            {
                "msg": msg_id.hex(),
                "hh": hh.hex(),
                "inst": peer.pair.outbound.instance.hex(),
                "ps": pair_seq,
                "att": attempt,
                "env": sealed_hash.hex(),
                "via": via,
                "bytes": len(envelope),
                "peer": peer.pseudonym,
            },
        )

    # --- sending (called by the link) -----------------------------------------------------------------------

    async def due(self, address: str, *, ops_max: int, bytes_max: int) -> Batch:
        """Puts, questions and deletions for one broker that should leave now."""
        now_ms = self._env.clock.now_ms()

        def read(tx: Snapshot) -> tuple[list[Row], dict[bytes, bytes]]:
            secrets: dict[bytes, bytes] = dict(
                tx.execute(f"SELECT office_id, put_secret {_TALKING}", (address,))
            )
            # Envelopes are read of those alone that are chosen.
            found = tx.execute(
                f"SELECT rowid {_DUE} ORDER BY urgent DESC, {_COVER_LAST}, rowid LIMIT ?",
                (now_ms, address, ops_max + len(self._in_flight)),
            )
            chosen = [row[0] for row in found]
            chosen += full_mailboxes.let_through(tx, list(secrets), now_ms, most=ops_max)
            rows = tx.execute(
                f"SELECT {_ROW} FROM delivery WHERE rowid IN (SELECT value FROM json_each(?))"  # noqa: S608
                f" ORDER BY urgent DESC, {_COVER_LAST}, rowid",
                (json.dumps(chosen),),
            )
            return [_row(row) for row in rows], secrets

        rows, secrets = await self._db.read(read)
        unsealed = [row.hh for row in rows if row.envelope is None and row.state.held_since_ms is None]
        if unsealed:
            await self._db.transact(partial(self._seal_missing, hhs=unsealed))
            rows, secrets = await self._db.read(read)
        ops: list[Put | Held] = []
        marks: list[Row] = []
        room, whole = bytes_max, 0
        for row in rows:
            if row.hh in self._in_flight or len(ops) == ops_max:
                continue
            if row.type is MessageType.COVER and ops:
                break  # nothing waits for it
            _, commands = step(row.state, TimerFired(), now_ms, 0.0)
            if row.envelope is None or any(isinstance(command, AskHeld) for command in commands):
                ops.append(Held(put_secret=secrets[row.peer], envelope_hash=row.envelope_hash))
            else:
                put = Put(put_secret=secrets[row.peer], envelope=row.envelope, priority=row.urgent)
                # Around the blob of the one before it takes little of the line, at the broker as much as any.
                needed = bytes_behind(put, ops[-1] if ops else None)
                whole += len(row.envelope)
                if room < min(needed, len(row.envelope)) or whole > limits.PUT_BYTES_PER_REQUEST_MAX:
                    break
                room -= needed
                ops.append(put)
            marks.append(row)
        for row in marks:
            self._in_flight[row.hh] = None
        return Batch(ops=tuple(ops), marks=tuple(marks))

    async def next_due_ms(self, address: str) -> int | None:
        """When the next timer of an item for this broker fires."""

        now_ms = self._env.clock.now_ms()

        def read(tx: Snapshot) -> int | None:
            peers = [row[0] for row in tx.execute(f"SELECT office_id {_TALKING}", (address,))]
            times: list[int | None] = [
                tx.value(f"SELECT min(next_at_ms) {_DUE}", (limits.TIME_MS_MAX, address)),
                full_mailboxes.next_due_ms(tx, peers, now_ms),
            ]
            return min((at_ms for at_ms in times if at_ms is not None), default=None)

        return await self._db.read(read)

    async def settle(
        self, rows: Sequence[Row], ops: Sequence[Op], results: Sequence[Result], card: BrokerCard
    ) -> None:
        """Record what the broker of this card said about each item."""
        verified = [_verified(result, card) for result in results]

        def record(tx: Transaction) -> None:
            for row, op, result in zip(rows, ops, verified, strict=True):
                self._settle_one(tx, row, op, result)
            self._note_room(tx, rows, ops, verified)

        try:
            await self._db.transact(record)
        finally:
            self.release(rows)
        self._changed()

    def wake(self, address: str) -> None:
        """What waits for a partner at this broker may leave again."""
        self._wake(address)

    def release(self, rows: Sequence[Row]) -> None:
        """These are no longer under way, whatever came of them."""
        for row in rows:
            self._in_flight.pop(row.hh, None)

    def _settle_one(self, tx: Transaction, asked: Row, op: Op, result: Result) -> None:
        row = self._load(tx, asked.hh)
        if row is None or row.envelope_hash != asked.envelope_hash:
            return  # sealed anew meanwhile; this answer is about an envelope that no longer counts
        match result:
            case Custody():
                self.apply(tx, row, PutAccepted())
                if note_taken(tx, row.peer):
                    self._try_lost(tx, row.peer)
                if not row.state.service:
                    self._record_custody(tx, row, result)
                if row.alert_id is not None:
                    add_rung(
                        tx, row.alert_id, row.peer, "on_broker", result.time_ms, "broker", result.log_index
                    )
            case HeldAnswer(held=True):
                self.apply(tx, row, HeldYes())
            case HeldAnswer(held=False):
                self._note_taken_back(tx, row)
                self.apply(tx, row, HeldNo())
            case OpRefused(code="gone") if isinstance(op, Put | Held) and not note_gone(
                tx, row.peer, op.put_secret, self._env.clock.now_ms()
            ):
                self.apply(tx, row, LinkFailed())  # the peer moved while this was under way
            case OpRefused(code=code) if isinstance(op, Held) and code != "gone":
                self.apply(tx, row, LinkFailed(), cause=f"broker_{code}")
            case OpRefused(code=code):
                if code == "gone":
                    full_mailboxes.forget(tx, row.peer)
                    self._note_taken_back(tx, row)
                cause = _LOST if code == "gone" else f"broker_{code}"
                self.apply(tx, row, PutRefused(code=code), cause=cause)
            case _:
                raise BrokenInvariant("result_unmatched", "A result of another kind came for a put.")

    def _note_room(
        self, tx: Transaction, rows: Sequence[Row], ops: Sequence[Op], results: Sequence[Result]
    ) -> None:
        """What these answers say of the room in each mailbox."""
        now_ms = self._env.clock.now_ms()
        words: dict[tuple[bytes, bool], list[Result]] = {}
        for row, op, result in zip(rows, ops, results, strict=True):
            if isinstance(op, Put):
                words.setdefault((row.peer, row.urgent), []).append(result)
        for (peer_id, urgent), said in words.items():
            taken = sum(isinstance(result, Custody) for result in said)
            # To a mailbox that is full already, whatever is no custody is one more try for nothing.
            is_full = full_mailboxes.is_full(tx, peer_id, urgent=urgent)
            refused = sum(
                isinstance(result, OpRefused) and (is_full or result.code == Refusal.QUOTA) for result in said
            )
            if is_full or refused:
                full_mailboxes.note_puts(
                    tx,
                    peer_id,
                    urgent=urgent,
                    taken=taken,
                    refused=refused,
                    now_ms=now_ms,
                    jitter=self._env.jitter(),
                )

    def _note_taken_back(self, tx: Transaction, row: Row) -> None:
        """A broker does not know what it promised to keep; whether it lost all of it is not known yet."""
        if row.alert_id is None or row.state.held_since_ms is None:
            return
        tx.execute(
            "INSERT OR IGNORE INTO taken_back (hh, broker_address, held_since_ms, attempt, at_ms)"
            " SELECT ?, broker_address, ?, ?, ? FROM peer WHERE office_id = ?",
            (row.hh, row.state.held_since_ms, row.attempt, self._env.clock.now_ms(), row.peer),
        )

    def _record_custody(self, tx: Transaction, row: Row, note: Custody) -> None:
        """Keep the broker's signed word as evidence."""
        self._log.append(
            tx,
            "msg.custody",
            {
                "msg": row.msg_id.hex(),
                "env": row.envelope_hash.hex(),
                "origin": note.origin,
                "idx": note.log_index,
                "at": note.time_ms,
                "note": sha256(note.encode()).hex(),
            },
        )
        tx.execute(
            "INSERT OR REPLACE INTO custody (envelope_hash, hh, note) VALUES (?, ?, ?)",
            (row.envelope_hash, row.hh, note.encode()),
        )

    # --- what moves an item ---------------------------------------------------------------------------------

    def apply(
        self, tx: Transaction, row: Row, event: Event, *, cause: str | None = None, peer: Peer | None = None
    ) -> None:
        """One event on one item: step, carry out, store.

        ``peer`` is its peer when the caller knows more of it than the database does, as a key just announced.
        """
        now_ms = self._env.clock.now_ms()
        state, commands = step(row.state, event, now_ms, self._env.jitter())
        if state == row.state and not commands:
            return  # a late answer, or one more word on what is known
        envelope, sealed_hash, attempt = row.envelope, row.envelope_hash, row.attempt
        for command in commands:
            match command:
                case Reseal(bodyless=bodyless):
                    attempt += 1
                    envelope = self._reseal(tx, row, attempt, bodyless=bodyless, peer=peer)
                    sealed_hash = envelope_hash(envelope)
                    # The machine gives the put two minutes to be answered; it is we who must send it first.
                    state = replace(state, next_at_ms=now_ms)
                case RecordExpired():
                    self._record_end(tx, row, "expired", now_ms)
                case RecordCancelled():
                    self._record_end(tx, row, "cancelled", now_ms)
                case _:
                    # PutNow and AskHeld are what ``due`` reads; an acknowledgement is the state itself, and a
                    # lost address is told by the cause.
                    pass
        if state.phase is Delivery.ACKNOWLEDGED:
            tx.execute("DELETE FROM carried WHERE hh = ?", (row.hh,))
        if state.held_since_ms is not None or state.phase is Delivery.ACKNOWLEDGED:
            envelope = None  # the message stays until acknowledged, and can be sealed anew
        tx.execute(
            "UPDATE delivery SET state = ?, phase = ?, next_at_ms = ?, envelope = ?, envelope_hash = ?,"
            " attempt = ?, cause = ?, settled_ms = ? WHERE hh = ?",
            (
                state.encode(),
                state.phase.value,
                state.next_at_ms,
                envelope,
                sealed_hash,
                attempt,
                cause,
                now_ms if state.phase is Delivery.ACKNOWLEDGED else None,
                row.hh,
            ),
        )
        if state.next_at_ms is not None:
            address = tx.value("SELECT broker_address FROM peer WHERE office_id = ?", (row.peer,))
            tx.on_commit(lambda: self._wake(address))

    def acknowledged(self, tx: Transaction, peer: Peer, numbers: Sequence[int]) -> None:
        """The peer acknowledged these numbers of ours; what it passed over is looked at again."""
        taken_out = {False: 0, True: 0}
        for number in numbers:
            row = self._load_by_seq(tx, peer, number)
            if row is not None:
                taken_out[row.urgent] += row.state.held_since_ms is not None
                self.apply(tx, row, PeerAcknowledged())
        now_ms = self._env.clock.now_ms()
        for urgent, count in taken_out.items():
            if full_mailboxes.note_taken_out(tx, peer.office_id, urgent=urgent, count=count, now_ms=now_ms):
                tx.on_commit(partial(self._wake, peer.broker_address))
        for gap in passed(peer.pair):
            for number in gap:
                row = self._load_by_seq(tx, peer, number)
                if row is not None:
                    self.apply(tx, row, PeerMarkPassed(), peer=peer)

    def readdress(self, tx: Transaction, peer: Peer, *, ask_again: bool) -> None:
        """The peer's address is known, or known again: nothing waits for it any longer.

        ``ask_again``: its broker is another one or lost its mailboxes, so what it said it holds is asked for.
        """
        now_ms = self._env.clock.now_ms()
        full_mailboxes.note_empty(tx, peer.office_id, now_ms)
        rows = tx.execute(
            f"SELECT {_ROW} FROM delivery INDEXED BY delivery_due"  # noqa: S608 - our own constant
            " WHERE next_at_ms IS NOT NULL AND peer = ?",
            (peer.office_id,),
        )
        for row in map(_row, rows):
            if row.state.held_since_ms is not None:
                if ask_again:
                    self._ask_now(tx, row, now_ms)
            elif row.state.phase is not Delivery.KEPT:
                self.apply(tx, row, AddressKnown(), peer=peer)
            else:
                tx.execute("UPDATE delivery SET state = ?, next_at_ms = ? WHERE hh = ?", _due_at(row, now_ms))

    def _try_lost(self, tx: Transaction, peer_id: bytes) -> None:
        """The broker knows the mailbox again: what waits for it need not wait out its own timer.

        As it is, and with the wait it has reached: a broker that takes one item and forgets the rest each
        time has us seal nothing anew.
        """
        now_ms = self._env.clock.now_ms()
        rows = tx.execute(
            f"SELECT {_ROW} FROM delivery INDEXED BY delivery_due"  # noqa: S608 - our own constant
            " WHERE next_at_ms > ? AND peer = ? AND cause = ?",
            (now_ms, peer_id, _LOST),
        )
        for row in map(_row, rows):
            self._ask_now(tx, row, now_ms)

    def _ask_now(self, tx: Transaction, row: Row, now_ms: int) -> None:
        tx.execute("UPDATE delivery SET state = ?, next_at_ms = ? WHERE hh = ?", _due_at(row, now_ms))
        address = tx.value("SELECT broker_address FROM peer WHERE office_id = ?", (row.peer,))
        tx.on_commit(lambda: self._wake(address))

    def note_broker_loss(self, tx: Transaction, address: str, loss: int, up_since_ms: int) -> None:
        """A broker lost what it held: note each alert it had promised to keep, and ask for everything now.

        What it took since the link came up, it took after the loss: that is not sent again.
        """
        now_ms = self._env.clock.now_ms()
        for (peer_id,) in tx.execute("SELECT office_id FROM peer WHERE broker_address = ?", (address,)):
            full_mailboxes.note_empty(tx, peer_id, now_ms)
        rows = tx.execute(
            f"SELECT {_ROW} FROM delivery INDEXED BY delivery_due WHERE next_at_ms IS NOT NULL"  # noqa: S608
            " AND peer IN (SELECT office_id FROM peer WHERE broker_address = ?)",
            (address,),
        )
        tx.execute(
            "INSERT INTO broker_loss_item (loss, hh, attempt)"
            " SELECT ?, hh, attempt FROM taken_back WHERE broker_address = ? AND held_since_ms < ?",
            (loss, address, up_since_ms),
        )
        tx.execute("DELETE FROM taken_back WHERE broker_address = ?", (address,))
        for row in map(_row, rows):
            if row.state.held_since_ms is None:
                continue
            if row.alert_id is not None and row.state.held_since_ms < up_since_ms:
                tx.execute(
                    "INSERT OR IGNORE INTO broker_loss_item (loss, hh, attempt) VALUES (?, ?, ?)",
                    (loss, row.hh, row.attempt),
                )
            self._ask_now(tx, row, now_ms)

    def end(self, tx: Transaction, hh: bytes) -> None:
        """Known to have arrived by other evidence than an acknowledgement, or without meaning any more."""
        row = self._load(tx, hh)
        if row is not None:
            self.apply(tx, row, PeerAcknowledged())

    def _seal_missing(self, tx: Transaction, *, hhs: Sequence[bytes]) -> None:
        """Items that must be put and have no envelope at hand, as after a mailbox was lost."""
        for hh in hhs:
            row = self._load(tx, hh)
            if row is not None and row.envelope is None:
                envelope = self._reseal(tx, row, row.attempt + 1, bodyless=row.state.bodyless)
                tx.execute(
                    "UPDATE delivery SET envelope = ?, envelope_hash = ?, attempt = ? WHERE hh = ?",
                    (envelope, envelope_hash(envelope), row.attempt + 1, hh),
                )

    def _reseal(
        self,
        tx: Transaction,
        row: Row,
        attempt: int,
        *,
        bodyless: bool,
        peer: Peer | None = None,
        via: Via = "broker",
    ) -> bytes:
        peer = peer or load_peer(tx, row.peer)
        stored = tx.one("SELECT message, opening, pair_seq, instance FROM delivery WHERE hh = ?", (row.hh,))
        if stored is None or stored[0] is None:
            raise BrokenInvariant("message_missing", "An item to be sealed again has lost its message.")
        signed = SignedMessage.from_bytes(stored[0])
        opening = decode_opening_untrusted(stored[1])
        has_body = row.alert_id is not None and not bodyless
        to = self._seal_to(tx, peer, signed, opening, is_alert=has_body, instance=stored[3])
        envelope = self._seal(signed, [to], bodyless=bodyless)[0]
        if not row.state.service:
            named = envelope_hash(envelope)
            self._log_seal(tx, peer, row.msg_id, row.hh, stored[2], attempt, envelope, named, via)
        return envelope

    # --- carried by hand ------------------------------------------------------------------------------------

    async def say_what_is_owed(self, peer_id: bytes) -> None:
        """Compose now what would wait a while for company: a stick leaves once."""
        await self._keys.prepare((peer_id,))
        with contextlib.suppress(PolicyRefused):  # window_full: what is owed stays owed
            await self._db.transact(
                partial(self._control, peer_id=peer_id, now_ms=self._env.clock.now_ms(), at_once=True)
            )

    def unacknowledged(self, tx: Snapshot, peer: Peer) -> tuple[list[bytes], int]:
        """What a file for this peer would hold now: ids of alerts, and how many other messages."""
        waiting = self._by_hand(tx, peer, "usb")
        alerts = [alert_id for _, alert_id, _ in waiting if alert_id is not None]
        return alerts, len(waiting) - len(alerts)

    def _by_hand(self, tx: Snapshot, peer: Peer, via: Via) -> list[tuple[bytes, bytes | None, bool]]:
        """What this peer has not acknowledged, in order of files: (hh, alert id, whether it may wait).

        What a file had before may wait; for pictures, which hold little, also what is no alert and which a
        broker holds.
        """
        out = peer.pair.outbound
        return tx.execute(
            "SELECT d.hh, d.alert_id,"
            " c.out_ms IS NOT NULL OR (? AND d.phase = 'held' AND d.alert_id IS NULL) AS may_wait"
            " FROM delivery d LEFT JOIN carried c ON c.hh = d.hh AND c.via = ? WHERE d.rowid IN"
            " (SELECT rowid FROM delivery WHERE peer = ? AND instance = ? AND pair_seq > ?"
            " AND phase <> 'acknowledged' UNION SELECT rowid FROM delivery INDEXED BY delivery_unsettled"
            " WHERE peer = ? AND phase IN ('kept', 'held', 'address_lost'))"
            " AND d.message IS NOT NULL ORDER BY may_wait, c.out_ms IS NOT NULL, d.urgent DESC, d.rowid",
            (via == "qr", via, peer.office_id, out.instance, out.acknowledged_to, peer.office_id),
        )

    def carried(self, tx: Transaction, peer: Peer, via: Via, room_bytes: int | None = None) -> Carried:
        """Envelopes of everything this peer has not acknowledged, for one file: what no file had comes first.

        ``room_bytes`` bounds the records together, and then what may wait goes in only by itself: a picture
        more is a moment more in front of a camera. Sealed by themselves, for a broker holds others:
        what it says of one must stay about that one. The same again in the next file until the peer
        announced another key, or one-time keys would be used up by files nobody reads.
        """
        chosen: list[tuple[bytes, bytes]] = []
        alerts = left = too_large = 0
        room, is_news = room_bytes, False
        for hh, alert_id, may_wait in self._by_hand(tx, peer, via):
            if room is not None and may_wait and is_news:
                break
            # Measured before it is sealed: a seal that leaves in no file would be an entry for nothing.
            size = 0 if room_bytes is None else self._size_by_hand(tx, hh)
            if room_bytes is not None and size > room_bytes:
                too_large += 1
            elif len(chosen) == limits.STICK_ENVELOPES_MAX or (room is not None and size > room):
                left += not may_wait
            else:
                chosen.append((hh, self._copy_for(tx, peer, hh, via)))
                alerts += alert_id is not None
                is_news = is_news or not may_wait
                room = None if room is None else room - size
        return Carried(
            hhs=tuple(hh for hh, _ in chosen),
            envelopes=tuple(envelope for _, envelope in chosen),
            alerts=alerts,
            left=left,
            too_large=too_large,
        )

    def _size_by_hand(self, tx: Snapshot, hh: bytes) -> int:
        message, state = tx.execute("SELECT message, state FROM delivery WHERE hh = ?", (hh,))[0]
        signed = SignedMessage.from_bytes(message)
        is_bare = DeliveryState.decode(state).bodyless
        return RECORD_HEAD_BYTES + sealed_bytes(signed.without_body() if is_bare else signed)

    def _copy_for(self, tx: Transaction, peer: Peer, hh: bytes, via: Via) -> bytes:
        row = self._load(tx, hh)
        assert row is not None
        key_id, bodyless = peer.peer_key.announcement.key_id, row.state.bodyless
        known = tx.one("SELECT envelope, key_id, bodyless FROM carried WHERE hh = ? AND via = ?", (hh, via))
        if known is not None and (known[1], bool(known[2])) == (key_id, bodyless):
            return bytes(known[0])
        envelope = self._reseal(tx, row, row.attempt + 1, bodyless=bodyless, peer=peer, via=via)
        tx.execute("UPDATE delivery SET attempt = attempt + 1 WHERE hh = ?", (hh,))
        tx.execute(
            "INSERT INTO carried (hh, via, envelope, envelope_hash, key_id, bodyless)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (hh, via) DO UPDATE SET envelope = excluded.envelope,"
            " envelope_hash = excluded.envelope_hash, key_id = excluded.key_id,"
            " bodyless = excluded.bodyless, out_ms = NULL",
            (hh, via, envelope, envelope_hash(envelope), key_id, int(bodyless)),
        )
        return envelope

    def note_carried(self, tx: Transaction, hhs: Sequence[bytes], via: Via) -> None:
        """A file with these is written and durable."""
        now_ms = self._env.clock.now_ms()
        for hh in hhs:
            tx.execute("UPDATE carried SET out_ms = ? WHERE hh = ? AND via = ?", (now_ms, hh, via))
            row = self._load(tx, hh)
            if row is not None and row.alert_id is not None:
                add_rung(tx, row.alert_id, row.peer, "on_stick", now_ms, self._identity.name)
        tx.on_commit(self._changed)

    def _record_end(self, tx: Transaction, row: Row, step_name: str, now_ms: int) -> None:
        if row.alert_id is not None:
            if step_name == "expired":
                self._log.append(tx, "msg.expired", {"msg": row.msg_id.hex()})
                add_rung(tx, row.alert_id, row.peer, "expired", now_ms, self._identity.name)
            else:
                self._log.append(tx, "msg.cancel", {"msg": row.msg_id.hex()})

    def erase(self, tx: Transaction, alert_id: bytes) -> list[str]:
        """The content of an alert goes: what still travels of it travels without body. Parts, for the log."""
        parts = ["outbox"]
        which = f"SELECT {_ROW} FROM delivery WHERE alert_id = ?"  # noqa: S608 - our own constant
        for waiting in tx.execute(which, (alert_id,)):
            known = _row(waiting)
            # A node that was shut finds both times past: that it was not delivered in time comes first.
            is_over = known.state.expires_ms <= self._env.clock.now_ms()
            self.apply(tx, known, Expired() if is_over else Cancelled())
        for row in map(_row, tx.execute(which, (alert_id,))):
            # Acknowledged ones too: whoever lost its disk and asks again is not promised what cannot come.
            state = replace(row.state, bodyless=True)
            tx.execute("UPDATE delivery SET state = ? WHERE hh = ?", (state.encode(), row.hh))
            message = tx.value("SELECT message FROM delivery WHERE hh = ?", (row.hh,))
            if message is not None:
                bare = SignedMessage.from_bytes(message).without_body().to_bytes()
                tx.execute("UPDATE delivery SET message = ? WHERE hh = ?", (bare, row.hh))
            tx.execute("DELETE FROM carried WHERE hh = ?", (row.hh,))
            if tx.changes():
                parts = ["outbox", "stick"]
        return parts

    def holders(self, tx: Snapshot, alert_id: bytes) -> list[tuple[bytes, bytes]]:
        """Who acknowledged an alert of ours, and so holds it: (office id, hash of the delivery)."""
        rows = tx.execute(
            "SELECT peer, hh FROM delivery WHERE alert_id = ? AND phase = 'acknowledged'", (alert_id,)
        )
        return [(peer_id, hh) for peer_id, hh in rows]

    # --- by itself ------------------------------------------------------------------------------------------

    async def housekeep_once(self) -> None:
        """Expiry; acknowledgements, key announcements and officer lists that found no company."""
        now_ms = self._looked_ms = self._env.clock.now_ms()

        def look(tx: Snapshot) -> tuple[list[bytes], list[bytes], bool, bool]:
            newest: int = tx.value("SELECT max(version) FROM officer_list")
            active = [peer for peer in load_peers(tx) if peer.is_talking]
            talking = [
                p.office_id
                for p in active
                if _announces(p, newest, now_ms) or one_time.is_offer_due(tx, p, now_ms)
            ]
            owing = [
                row[0]
                for row in tx.execute(
                    f"SELECT DISTINCT peer FROM receipt_due WHERE {_RECEIPT_DUE} AND peer NOT IN"  # noqa: S608
                    " (SELECT office_id FROM peer WHERE frozen_ms IS NOT NULL)",
                    self._receipts_due(),
                )
            ]
            acknowledging = [p.office_id for p in active if _acknowledges(tx, p, now_ms)]
            stranded = bool(tx.execute(f"SELECT 1 FROM delivery {_STRANDED} LIMIT 1", _ahead(now_ms)))  # noqa: S608
            expiring = bool(tx.execute(f"SELECT 1 FROM delivery WHERE {_EXPIRED} LIMIT 1", (now_ms,)))  # noqa: S608
            speaking = [*talking, *owing]
            return speaking, list(dict.fromkeys([*speaking, *acknowledging])), expiring, stranded

        talking, due, expiring, stranded = await self._db.read(look)
        # A message that only acknowledges makes and announces no key: its peer would have to answer it,
        # and two idle offices would talk for ever.
        await self._keys.prepare(talking)
        for peer_id in due:
            try:
                await self._db.transact(partial(self._control, peer_id=peer_id, now_ms=now_ms))
            except PolicyRefused as full:
                # A window full of what this peer has not acknowledged: what is owed stays owed.
                log.warning("control_waits", code=full.code)
        if expiring:
            await self._db.transact(lambda tx: self._expire(tx, now_ms))
        if stranded:
            await self._db.transact(lambda tx: self._fetch_back(tx, now_ms))

    async def rest_s(self, at_most_s: float) -> float:
        """How long nothing falls due here: until acknowledgements or receipts without company must leave."""
        now_ms = self._env.clock.now_ms()
        # What was due when we looked stays owed for a reason that time alone does not mend, as a full window.
        due_ms = await self._db.read(
            lambda tx: tx.value(
                "SELECT min(due_ms) FROM (SELECT ack_due_ms AS due_ms FROM peer UNION ALL"
                " SELECT due_ms FROM receipt_due) WHERE due_ms > ?",
                (self._looked_ms,),
            )
        )
        return at_most_s if due_ms is None else max(0.0, min((due_ms - now_ms) / 1000, at_most_s))

    def _fetch_back(self, tx: Transaction, now_ms: int) -> None:
        """The clock was set back: timers further ahead than any may lie are due now."""
        for row in tx.execute(f"SELECT {_ROW} FROM delivery {_STRANDED} LIMIT 256", _ahead(now_ms)):  # noqa: S608
            self._ask_now(tx, _row(row), now_ms)

    async def forget_settled_once(self) -> None:
        """Drop messages acknowledged before the backup horizon: no peer can ask for them any more."""
        now_ms = self._env.clock.now_ms()
        before_ms = now_ms - limits.BACKUP_HORIZON_MS
        await self._forget_promises(now_ms)
        which = "message IS NOT NULL AND settled_ms <= ?"
        found = await self._db.read(
            lambda tx: tx.execute(f"SELECT 1 FROM delivery WHERE {which} LIMIT 1", (before_ms,))  # noqa: S608
        )
        if found:
            await self._db.transact(
                lambda tx: tx.execute(
                    f"UPDATE delivery SET message = NULL, envelope = NULL WHERE {which}",  # noqa: S608
                    (before_ms,),
                )
            )

    async def _forget_promises(self, now_ms: int) -> None:
        day = (now_ms - limits.DAY_MS, now_ms + limits.DAY_MS)
        which = "at_ms NOT BETWEEN ? AND ?"
        if await self._db.read(lambda tx: tx.execute(f"SELECT 1 FROM taken_back WHERE {which} LIMIT 1", day)):  # noqa: S608
            await self._db.transact(lambda tx: tx.execute(f"DELETE FROM taken_back WHERE {which}", day))  # noqa: S608

    def _control(self, tx: Transaction, peer_id: bytes, now_ms: int, *, at_once: bool = False) -> None:
        """What is due for this peer; ``at_once`` what will be, too."""
        peer = load_peer(tx, peer_id)
        if not peer.is_talking:
            return
        self.compose_receipts(tx, peer)
        newest: int = tx.value("SELECT max(version) FROM officer_list")
        items: list[Item] = []
        untold = peer.receive_keys.next is not None and peer.receive_keys.next.announced_ms is None
        if _announces(peer, newest, now_ms) or (at_once and untold):
            self._keys.use(tx, peer)
            announced = announcement(peer.receive_keys, self._identity.key_version)
            if announced is not None:
                items.append(announced)
        # Every version, one message each: an alert may name one that was replaced within the minute.
        for version, officers in tx.execute(
            "SELECT version, bytes FROM officer_list WHERE version > ? ORDER BY version",
            (peer.officer_list_sent,),
        ):
            peer.officer_list_sent = version
            if version < newest:
                self.compose_control(tx, peer, [OfficerListItem(officer_list=officers)], service=False)
            else:
                items.append(OfficerListItem(officer_list=officers))
        if one_time.is_offer_due(tx, peer, now_ms):
            made = one_time.offer_alone(
                tx, peer, self._keys, key_version=self._identity.key_version, now_ms=now_ms
            )
            items += [] if made is None else [made]
        if items and (told := one_time.unused_alone(tx, peer)) is not None:
            items.append(told)
        if items or _acknowledges(tx, peer, now_ms) or (at_once and peer.ack_due_ms is not None):
            service = not items
            items.append(acknowledgement(peer.pair, self._identity.key_version))
            self.compose_control(tx, peer, items, service=service)
            self.note_company(peer, items, now_ms)
        save_peer(tx, peer)

    def count_anew(self, tx: Transaction, alert_id: bytes, shift_ms: int) -> None:
        """An alert was written by a clock that stood far behind: its deliveries expire so much later."""
        for row in tx.execute(f"SELECT {_ROW} FROM delivery WHERE alert_id = ?", (alert_id,)):  # noqa: S608
            known = _row(row)
            state = replace(known.state, expires_ms=known.state.expires_ms + shift_ms)
            tx.execute(
                "UPDATE delivery SET state = ?, expires_ms = ?, reply_by_ms = reply_by_ms + ?,"
                " look_ms = look_ms + ? WHERE hh = ?",
                (state.encode(), state.expires_ms, shift_ms, shift_ms, known.hh),
            )

    def _expire(self, tx: Transaction, now_ms: int) -> None:
        rows = tx.execute(
            f"SELECT {_ROW} FROM delivery WHERE {_EXPIRED} LIMIT 256",  # noqa: S608
            (now_ms,),
        )
        for row in rows:
            self.apply(tx, _row(row), Expired())

    # --- rows -----------------------------------------------------------------------------------------------

    def find(self, tx: Snapshot, peer_id: bytes, sealed_hash: bytes) -> Row | None:
        """The item whose latest envelope to this peer, or latest one for a file, has this hash."""
        row = tx.one(
            f"SELECT {_ROW} FROM delivery WHERE peer = ? AND"  # noqa: S608 - our own constant
            " (envelope_hash = ? OR hh IN (SELECT hh FROM carried WHERE envelope_hash = ?))",
            (peer_id, sealed_hash, sealed_hash),
        )
        return None if row is None else _row(row)

    def _load(self, tx: Snapshot, hh: bytes) -> Row | None:
        row = tx.one(f"SELECT {_ROW} FROM delivery WHERE hh = ?", (hh,))  # noqa: S608 - our own constant
        return None if row is None else _row(row)

    def _load_by_seq(self, tx: Snapshot, peer: Peer, number: int) -> Row | None:
        row = tx.one(
            f"SELECT {_ROW} FROM delivery WHERE peer = ? AND instance = ? AND pair_seq = ?",  # noqa: S608
            (peer.office_id, peer.pair.outbound.instance, number),
        )
        return None if row is None else _row(row)


def _opening(peer: Peer, slot: Slot, *, blind: bytes, leaf_index: int) -> LeafOpening:
    return LeafOpening(
        blind=blind,
        leaf_index=leaf_index,
        pair_seq=slot.pair_seq,
        rk_first=peer.peer_key.rk_first,
        rk_known=peer.peer_key.announcement.key_id,
        pair_prev=slot.pair_prev,
    )


def _announces(peer: Peer, newest_list: int, now_ms: int) -> bool:
    """Whether a key or an officer list waits for this peer that found no company in time."""
    announce_ms = announcement_due_ms(peer.receive_keys)
    return _has_come(announce_ms, now_ms, limits.DAY_MS) or peer.officer_list_sent < newest_list


def _acknowledges(tx: Snapshot, peer: Peer, now_ms: int) -> bool:
    """Whether an acknowledgement that found no company leaves now.

    None while something of service that was refused waits for its next try: it would fare no better, and a
    peer that sends again what it has no acknowledgement of would have us make another each time, for as long
    as a broker takes none of them.
    """
    return _has_come(peer.ack_due_ms, now_ms, ACK_DELAY_MS) and not tx.execute(
        "SELECT 1 FROM delivery INDEXED BY delivery_due WHERE next_at_ms > ? AND peer = ? AND service"
        " AND phase IN ('kept', 'address_lost') LIMIT 1",
        (now_ms, peer.office_id),
    )


def _has_come(at_ms: int | None, now_ms: int, ahead_ms_max: int) -> bool:
    """Whether a time is past, or so far ahead that only a clock since set back can have set it.

    Else an office whose clock once stood a year ahead would wait for that year.
    """
    return at_ms is not None and not now_ms < at_ms <= now_ms + ahead_ms_max


def _sealed_bytes(peer: Peer, message: ToSend, items: Sequence[Item]) -> int:
    """Size of the envelope this would become, known before it is signed."""
    released = message.released
    if released is not None:
        items = (AudienceOpening(opening=released.opening_for(peer.office_id)), *items)
    return sealed_bytes(
        SignedMessage(
            header=bytes(limits.HEADER_FIXED_BYTES + limits.HASH_BYTES),
            signature=bytes(limits.MESSAGE_SIGNATURE_BYTES),
            core=message.core if released is None else released.core,
            disclosures=b"" if released is None else released.disclosures,
            piggyback=encode_items(items),
        )
    )


def add_rung(
    tx: Transaction,
    alert_id: bytes,
    peer_id: bytes,
    step_name: str,
    at_ms: int,
    clock: str,
    log_index: int | None = None,
    code: str | None = None,
) -> None:
    """One rung of the ladder; the first word on each counts."""
    tx.execute(
        "INSERT OR IGNORE INTO ladder (alert_id, peer, step, at_ms, clock, log_index, code)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (alert_id, peer_id, step_name, at_ms, clock, log_index, code),
    )


def row_columns() -> str:
    """Columns that ``decode_row`` reads, in their order."""
    return _ROW


def decode_row(row: Sequence[Any]) -> Row:
    """One delivery as the loop reads it."""
    return _row(row)


def _ahead(now_ms: int) -> tuple[int, int]:
    return now_ms + limits.LINK_BACKOFF_MS_MAX, now_ms + limits.HELD_BACKOFF_MS_MAX


def _row(row: Sequence[Any]) -> Row:
    hh, peer, type_, alert_id, msg_id, urgent, envelope, sealed_hash, attempt, state = row
    return Row(
        hh=hh,
        peer=peer,
        type=MessageType(type_),
        alert_id=alert_id,
        msg_id=msg_id,
        urgent=bool(urgent),
        envelope=envelope,
        envelope_hash=sealed_hash,
        attempt=attempt,
        state=DeliveryState.decode(state),
    )


def _due_at(row: Row, now_ms: int) -> tuple[bytes, int, bytes]:
    return replace(row.state, next_at_ms=now_ms).encode(), now_ms, row.hh


def _verified(result: Result, card: BrokerCard) -> Result:
    """A custody note that does not verify, or that no log could hold, is no custody."""
    if isinstance(result, Custody):
        try:
            verify_custody(result, card.custody_public)
        except VerificationFailed:
            return OpRefused(code="custody_bad")
        if result.origin != card.log_origin or result.log_index >= INT_LIMIT:
            return OpRefused(code="custody_bad")
    return result
