"""What arrives: opened, judged and recorded in one transaction, and only then deleted at the broker.

Spec: docs/spec/envelope.md#opening. One rule: whatever an envelope turns out to be, exactly one outcome is
committed for it, and a poisoned one blocks nothing behind it. What must wait for a card, a list or a pairing
stays at the broker, unmarked, and is looked at again when that arrives.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from audit.entry import Json
from audit.store import AuditLog
from keys import labels, trust
from keys.card import parse_officer_list_untrusted
from keys.errors import MalformedInput, SalweenError, Unavailable, VerificationFailed
from keys.primitives import XWingPrivateKey, labelled_hash, wrap
from keys.trust import TrustedPeer
from node import evidence, one_time, watch
from node.addresses import take_announcement
from node.broker_link import Arrival, Batch
from node.halfpairs import HalfPairs
from node.identity import Identity
from node.ladder import apply_receipt, is_usable
from node.nacks import Nacks
from node.outbox import ACK_DELAY_MS, Outbox
from node.peers import Peer, load_peer, save_peer
from node.photos import Photos
from node.receive_keys import ReceiveKeyRing
from node.reset_keys import ResetKeyRing, check_not_reset_key, keep_theirs
from node.resets import Resets, settle_by_receipt
from node.secrets import MailboxKeys, Secrets
from node.vault import Vault
from node.witness import Witnessing
from protocol import limits
from protocol.alert import headline
from protocol.conversation import Judgement, after_receiving, apply_acknowledgement, judge, seen_ranges
from protocol.envelope import envelope_hash, parse_envelope_untrusted
from protocol.items import (
    Acknowledgement,
    EarlierInstance,
    HeartBeat,
    Item,
    KeyAnnouncement,
    LogItem,
    MailboxSuccessor,
    OfficerListItem,
    OneTimeOffer,
    OneTimeUnused,
    PhotoReport,
    ResetAnswer,
    ResetKeyItem,
    ResetRefused,
    RevocationItem,
    UnknownKeyNotice,
    WitnessAnswer,
    WitnessKey,
    WitnessMemory,
    WitnessRequest,
    is_service,
)
from protocol.message import Header, LeafOpening, MessageType, parse_header_untrusted
from protocol.receipts import Receipt, ReceiptState
from protocol.receivekeys import KeyStatus, adopt, after_verified, status_of
from protocol.release import ReleasePolicy
from protocol.requests import Delete, OpRefused, Refusal, Result, sign_delete
from protocol.sealing import (
    Duplicate,
    Equivocation,
    LateDuplicate,
    Mark,
    Opened,
    OpenedAlert,
    OpenedBodyless,
    OpenedMessage,
    PendingCard,
    PendingOfficerList,
    PendingPair,
    Refused,
    ResetNotNewer,
    UnknownKey,
    Verified,
    open_envelope_untrusted,
)
from runtime.env import Env
from runtime.exits import DiskFailed
from runtime.logs import error_fields, get_logger
from runtime.sqlite import Database, Snapshot, Transaction

QUARANTINE_PER_PEER_MAX = 100
EVIDENCE_PER_PEER_MAX = 1000  # 64 MB of the largest items
DELETION_RETRY_MS = 60_000
log = get_logger("inbox")


Verdict = Literal["new", "seen", "refused", "evidence", "damaged", "unknown", "held"]


@dataclass(slots=True)
class _Outcome:
    """What a recorded envelope asks for after its commit, and what it was.

    ``new`` and ``refused`` marked a number, ``evidence`` marks none. ``held``: nothing was decided, it waits
    for a card, a list or a person.
    """

    verdict: Verdict = "held"
    closed_keys: tuple[bytes, ...] = ()
    look_again: bool = False
    shown: bool = False
    owes_receipt: bool = False
    address_moved: bool = False  # to a broker whose card is to be fetched
    ladder_moved: bool = False
    owes_nack: bool = False
    is_ahead: bool = False  # it acknowledges numbers we never gave out


class _Context:
    """What opening may ask, answered from the transaction it runs in."""

    def __init__(
        self,
        tx: Snapshot,
        peer: Peer,
        keys: ReceiveKeyRing,
        reset_keys: ResetKeyRing,
        my_office_id: bytes,
        now_ms: int,
        policy: ReleasePolicy,
    ) -> None:
        self._tx = tx
        self._peer = peer
        self._keys = keys
        self._reset_keys = reset_keys
        self.my_office_id = my_office_id
        self.now_ms = now_ms
        self.policy = policy

    def receive_key(self, key_id: bytes) -> tuple[XWingPrivateKey, bytes] | None:
        found = self._keys.find(key_id) or self._reset_keys.find(key_id)
        # A mailbox belongs to one peer: another peer's key in it is nobody's.
        return found if found is not None and found[1] == self._peer.office_id else None

    def key_id_status(self, key_id: bytes) -> Literal["unknown", "deleted"]:
        is_deleted = status_of(self._peer.receive_keys, key_id) is KeyStatus.DELETED
        return (
            "deleted" if is_deleted or one_time.is_gone(self._tx, self._peer.office_id, key_id) else "unknown"
        )

    def peer(self, office_id: bytes) -> TrustedPeer:
        assert office_id == self._peer.office_id
        return self._peer.trusted

    def instances(self, office_id: bytes) -> Sequence[bytes]:
        assert office_id == self._peer.office_id
        return [held.instance for held in seen_ranges(self._peer.pair)]

    def judge(self, office_id: bytes, header: Header, opening: LeafOpening, hh: bytes) -> Judgement:
        judgement = judge(
            self._peer.pair, instance=header.instance, pair_seq=opening.pair_seq, rk_first=opening.rk_first
        )
        if opening.pair_seq > limits.PAIR_SEQ_MAX:
            return judgement  # no number anyone took in, and no database column holds it
        clash = evidence.find_clash(self._tx, office_id, header, opening, hh)
        return judgement if clash is None else Judgement.EQUIVOCATION


class Inbox:
    """Takes envelopes in for one office."""

    def __init__(
        self,
        env: Env,
        db: Database,
        log: AuditLog,
        identity: Identity,
        keys: ReceiveKeyRing,
        reset_keys: ResetKeyRing,
        secrets: Secrets,
        vault: Vault,
        outbox: Outbox,
        nacks: Nacks,
        half_pairs: HalfPairs,
        photos: Photos,
        *,
        policy: ReleasePolicy,
        language: str,
        look_again: Callable[[str], None],
        note_arrival: Callable[[Transaction, str], None],
        address_moved: Callable[[], None],
        shown: Callable[[], None],
        owes: Callable[[], None],
        ladder_moved: Callable[[], None],
        revocations: Callable[[Transaction, Peer, Sequence[RevocationItem]], None],
        witnessing: Witnessing,
        erase_by_sender: Callable[[Transaction, bytes, bytes], None],
    ) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._identity = identity
        self._keys = keys
        self._reset_keys = reset_keys
        self.resets = Resets(env, db, log, identity, outbox)
        self._secrets = secrets
        self._vault = vault
        self._outbox = outbox
        self._nacks = nacks
        self._half_pairs = half_pairs
        self._photos = photos
        self._policy = policy
        self._language = language
        self._look_again = look_again
        self._note_arrival = note_arrival
        self._address_moved = address_moved
        self._shown = shown
        self._owes = owes
        self._ladder_moved = ladder_moved
        self._revocations = revocations
        self._witnessing = witnessing
        self._erase_by_sender = erase_by_sender
        # Envelopes of one mailbox are taken in one after another, whoever brings them.
        self._one_at_a_time = asyncio.Lock()
        self._deletions_rest_until_ms: dict[str, int] = {}  # monotonic, by broker

    # --- for the link ---------------------------------------------------------------------------------------

    async def arrived(self, arrivals: Sequence[Arrival]) -> bool:
        """Record a batch of envelopes; their transactions share a commit, each undone by itself on a fault.

        Whether any of them was new: not a copy of what was taken in before.
        """
        return any(verdict in ("new", "refused") for verdict in await self.take_in(arrivals))

    async def take_in(self, arrivals: Sequence[Arrival]) -> list[Verdict]:
        """The same, and what each of them was."""
        async with self._one_at_a_time:
            await self._vault.ensure_month()
            outcomes = await asyncio.gather(
                *(self._db.transact(partial(self._record, arrival=arrival)) for arrival in arrivals),
                return_exceptions=True,
            )
            answered: dict[bytes, None] = {}
            closed: dict[bytes, list[bytes]] = {}
            verdicts: list[Verdict] = []
            for arrival, outcome in zip(arrivals, outcomes, strict=True):
                if isinstance(outcome, BaseException) and _is_the_end(outcome):
                    raise outcome
                if isinstance(outcome, BaseException):
                    await self._set_aside(arrival, outcome)
                    verdicts.append("damaged")
                else:
                    self._follow_up(arrival, outcome)
                    closed.setdefault(arrival.mailbox.peer, []).extend(outcome.closed_keys)
                    verdicts.append(outcome.verdict)
                    if outcome.owes_receipt:
                        answered[arrival.mailbox.peer] = None
            for peer_id, key_ids in closed.items():
                await self._keys.forget(peer_id, key_ids)
            # In a transaction of its own: what arrived is kept even when nothing can be sent now.
            for peer_id in answered:
                await self._outbox.send_receipts(peer_id)
            if any(isinstance(outcome, _Outcome) and outcome.owes_nack for outcome in outcomes):
                await self._nacks.send_once()
            return verdicts

    async def deletions(self, address: str, ops_max: int) -> Batch:
        """Signed deletions a broker has not heard of yet."""
        if self._env.clock.monotonic_ms() < self._deletions_rest_until_ms.get(address, 0):
            return Batch(ops=(), marks=())
        rows = await self._db.read(
            lambda tx: tx.execute(
                "SELECT mailbox, envelope_hash FROM broker_delete WHERE broker_address = ? LIMIT ?",
                (address, ops_max),
            )
        )
        ops = []
        marks = []
        given_up: dict[str, None] = {}
        for name, named in rows:
            keys = MailboxKeys.find(self._secrets, name)
            if keys is None:
                given_up[name] = None
                continue
            marks.append((name, named))
            ops.append(
                Delete(
                    get_secret=keys.get_secret.reveal(),
                    envelope_hash=named,
                    signature=sign_delete(keys.signing_key, named),
                )
            )
        if given_up:
            # What its last answer brought was recorded after it: rows for nobody would fill every batch.
            await self._db.transact(
                lambda tx: tx.execute_many(
                    "DELETE FROM broker_delete WHERE mailbox = ?", [(name,) for name in given_up]
                )
            )
            return await self.deletions(address, ops_max)
        return Batch(ops=tuple(ops), marks=tuple(marks))

    async def settle_deletions(self, address: str, batch: Batch, results: Sequence[Result]) -> None:
        """Forget the deletions a broker confirmed or will never carry out; repeat the rest later."""
        done: list[tuple[str, bytes]] = []
        for mark, result in zip(batch.marks, results, strict=True):
            is_busy = isinstance(result, OpRefused) and result.code == Refusal.BUSY
            match mark:
                # Any other refusal repeats itself for ever: the item is gone, or goes when its time is up.
                case (str(name), bytes(named)) if not is_busy:
                    done.append((name, named))
                case _:
                    rest_until_ms = self._env.clock.monotonic_ms() + DELETION_RETRY_MS
                    self._deletions_rest_until_ms[address] = rest_until_ms

        def record(tx: Transaction) -> None:
            tx.execute_many("DELETE FROM broker_delete WHERE mailbox = ? AND envelope_hash = ?", done)

        if done:
            await self._db.transact(record)

    # --- one envelope ---------------------------------------------------------------------------------------

    def _record(self, tx: Transaction, *, arrival: Arrival) -> _Outcome:
        outcome = _Outcome()
        if _is_settled(tx, arrival):
            outcome.verdict = "seen"
            return outcome  # recorded before; only the broker has not heard yet that it may go
        peer, half = self._half_pairs.behind(tx, arrival.mailbox)
        if peer.is_closed:
            return outcome  # waits at the broker, unmarked, until our supervisor resumes the pair
        now_ms = self._env.clock.now_ms()
        if peer.frozen_code is not None and not self._is_reset(tx, peer, arrival.envelope, now_ms):
            return outcome  # stays at the broker, unmarked, until a person has dealt with it
        try:
            opened = self._open(tx, peer, arrival.envelope, now_ms, outcome)
            whole = self._half_pairs.completed_by(tx, half, opened)
            if whole is not None:
                peer, half, outcome.look_again = whole, None, True
                opened = self._open(tx, peer, arrival.envelope, now_ms, outcome)
        except (MalformedInput, VerificationFailed) as junk:
            outcome.verdict = "damaged"
            self._record_junk(tx, peer, arrival, junk, now_ms)
            if half is None:
                save_peer(tx, peer)
            return outcome
        match opened:
            case LateDuplicate():
                outcome.verdict = "seen"
                named = envelope_hash(arrival.envelope).hex()
                watch.note_late(tx, peer.office_id, now_ms)
                if watch.may_note(tx, peer.office_id, now_ms):
                    self._log.append(tx, "msg.recv", {"env": named, "verdict": "dup"})
                self._delete_later(tx, peer, arrival)
            case UnknownKey():
                outcome.verdict = "unknown"
                self._nacks.owe(tx, peer.office_id, opened.envelope_hash)
                outcome.owes_nack = True
                # Nobody vouches for these bytes: whoever can reach the mailbox can make as many as he likes.
                self._record_unproven(tx, peer, arrival, "unknown_key", now_ms, verdict="pending")
            case PendingCard() | PendingPair() | PendingOfficerList():
                pass  # stays at the broker, unmarked and unacknowledged
            case Duplicate():
                outcome.verdict = "seen"
                peer.pair = after_receiving(
                    peer.pair,
                    instance=opened.header.instance,
                    pair_seq=opened.opening.pair_seq,
                    service=_was_service(tx, peer, opened),
                )
                self._mark_keys(tx, peer, opened, now_ms, outcome)
                if watch.may_note(tx, peer.office_id, now_ms):
                    self._log_received(tx, peer, arrival, opened, "dup")
                self._delete_later(tx, peer, arrival)
            case Equivocation():
                outcome.verdict = "evidence"
                self._quarantine(tx, peer, arrival, "equivocation", "equivocation", now_ms)
                self._log_received(tx, peer, arrival, opened, "refused", code="equivocation")
                us = self._identity.office_id
                evidence.freeze_for_equivocation(tx, self._log, peer, opened, us, now_ms)
                self._delete_later(tx, peer, arrival)
            case Refused():
                self._mark(tx, peer, opened, "refused", now_ms, outcome)
                self._quarantine(tx, peer, arrival, "refused", opened.code, now_ms)
                index = self._log_received(tx, peer, arrival, opened, "refused", code=opened.code)
                self._receipt(tx, peer, opened, ReceiptState.REFUSED, index, now_ms, outcome, opened.code)
                self._delete_later(tx, peer, arrival)
            case ResetNotNewer():
                outcome.verdict = "evidence"
                is_first = self.resets.refuse(tx, peer, opened, now_ms)
                if is_first or watch.may_note(tx, peer.office_id, now_ms):
                    self._log_received(tx, peer, arrival, opened, "refused", code="reset_not_newer")
                self._quarantine(tx, peer, arrival, "refused", "reset_not_newer", now_ms)
                self._delete_later(tx, peer, arrival)
                tx.on_commit(self._owes)
                return outcome  # no mark, no sign of life: what it claims of itself counts for nothing
            case OpenedBodyless():
                self._mark(tx, peer, opened, "expired", now_ms, outcome)
                self._log_received(tx, peer, arrival, opened, "stale")
                self._delete_later(tx, peer, arrival)
            case OpenedAlert():
                self._mark(tx, peer, opened, "ok", now_ms, outcome)
                items = _that_count(peer, opened.header, opened.piggyback_items)
                self._apply_items(tx, peer, opened.header.key_version, items, outcome)
                outcome.closed_keys += one_time.after_items(tx, peer, opened, items, now_ms)
                self._keep_alert(tx, peer, arrival, opened, now_ms, outcome)
                self._delete_later(tx, peer, arrival)
            case OpenedMessage() if opened.header.type is MessageType.RESET:
                self.resets.begin(tx, peer, opened, now_ms)
                self._mark(tx, peer, opened, "ok", now_ms, outcome)
                items = (*opened.items, *opened.piggyback_items)
                self._apply_items(tx, peer, opened.header.key_version, items, outcome, is_reset=True)
                self._log_received(tx, peer, arrival, opened, "ok")
                self.resets.finish(tx, peer, opened, now_ms)
                outcome.look_again = outcome.ladder_moved = True
                self._delete_later(tx, peer, arrival)
            case OpenedMessage():
                if opened.certificate is not None:
                    peer.trusted = trust.accept_certificate(peer.trusted, opened.certificate, now_ms)
                    outcome.look_again = True
                verdict = "service" if self._is_service(opened) else "ok"
                self._mark(tx, peer, opened, verdict, now_ms, outcome)
                items = _that_count(peer, opened.header, (*opened.items, *opened.piggyback_items))
                self._apply_items(tx, peer, opened.header.key_version, items, outcome)
                outcome.closed_keys += one_time.after_items(tx, peer, opened, items, now_ms)
                for receipt in opened.receipts:
                    self._apply_receipt(tx, peer, receipt, outcome)
                if verdict != "service":
                    self._log_received(tx, peer, arrival, opened, "ok")
                self._delete_later(tx, peer, arrival)
        if isinstance(opened, Verified) and not isinstance(opened, Duplicate):
            # Whatever a broker can make or repeat by itself is no sign of life of the peer.
            peer.last_heard_ms = now_ms
            watch.note_proof(tx, peer, opened.header, now_ms)
            if outcome.is_ahead:
                us = self._identity.office_id
                evidence.freeze_for_acknowledgement_ahead(tx, self._log, peer, opened, us, now_ms)
            if arrival.via == "broker":
                self._note_arrival(tx, arrival.mailbox.name)
            else:
                # It proves no mailbox. It may acknowledge that the peer was told of one.
                outcome.address_moved = True
        if peer.pair.ack_due and peer.ack_due_ms is None:
            # Not a fixed while after what it answers: a broker could tell by it whose answer it is.
            peer.ack_due_ms = now_ms + ACK_DELAY_MS - int(self._env.jitter() * ACK_DELAY_MS / 2)
            # Else an idle node would notice a minute later, and the peer would have sent its item again.
            tx.on_commit(self._owes)
        if half is None:
            save_peer(tx, peer)
        return outcome

    def _is_reset(self, tx: Snapshot, peer: Peer, envelope: bytes, now_ms: int) -> bool:
        """Whether it is for a frozen pair: a reset ends a freeze itself, whatever key it was sealed to.

        What came under a reset key opens nothing else, so it is junk at the most.
        """
        try:
            if self._reset_keys.find(parse_envelope_untrusted(envelope).key_id) is not None:
                return True
            opened = open_envelope_untrusted(envelope, self._context(tx, peer, now_ms))
        except (MalformedInput, VerificationFailed):
            return False
        return isinstance(opened, OpenedMessage) and opened.header.type is MessageType.RESET

    def _context(self, tx: Snapshot, peer: Peer, now_ms: int) -> _Context:
        us = self._identity.office_id
        return _Context(tx, peer, self._keys, self._reset_keys, us, now_ms, self._policy)

    def _open(self, tx: Transaction, peer: Peer, envelope: bytes, now_ms: int, outcome: _Outcome) -> Opened:
        context = self._context(tx, peer, now_ms)
        opened = open_envelope_untrusted(envelope, context)
        if isinstance(opened, PendingOfficerList):
            lists = [item for item in opened.piggyback_items if isinstance(item, OfficerListItem)]
            if lists:
                self._apply_items(tx, peer, opened.header.key_version, lists, outcome)
                opened = open_envelope_untrusted(envelope, context)
        if isinstance(opened, Verified) and opened.header.type is not MessageType.RESET:
            check_not_reset_key(self._reset_keys, opened.key_id)
        return opened

    def _mark(
        self, tx: Transaction, peer: Peer, opened: Verified, verdict: str, now_ms: int, outcome: _Outcome
    ) -> None:
        """Take its number in, for ever; prove and close receive keys."""
        outcome.verdict = "refused" if verdict == "refused" else "new"
        opening, header = opened.opening, opened.header
        tx.execute(
            "INSERT INTO received"
            " (peer, instance, pair_seq, hh, pair_prev, type, verdict, at_ms, header, signature, opening)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                peer.office_id,
                header.instance,
                opening.pair_seq,
                opened.hh,
                opening.pair_prev,
                int(header.type),
                verdict,
                now_ms,
                opened.message.header,
                opened.message.signature,
                opening.encode(),
            ),
        )
        peer.pair = after_receiving(
            peer.pair, instance=header.instance, pair_seq=opening.pair_seq, service=self._is_service(opened)
        )
        self._mark_keys(tx, peer, opened, now_ms, outcome)

    def _mark_keys(
        self, tx: Transaction, peer: Peer, opened: Verified, now_ms: int, outcome: _Outcome
    ) -> None:
        peer.receive_keys, closed = after_verified(
            peer.receive_keys,
            opened_with=opened.key_id,
            rk_known=opened.opening.rk_known,
            rk_first=opened.opening.rk_first,
            inbound=peer.pair.inbound,
            instance=opened.header.instance,
            now_ms=now_ms,
        )
        outcome.closed_keys += closed + one_time.after_marked(tx, peer, opened, now_ms)

    def _keep_alert(
        self,
        tx: Transaction,
        peer: Peer,
        arrival: Arrival,
        opened: OpenedAlert,
        now_ms: int,
        outcome: _Outcome,
    ) -> None:
        commitments = content_commitments(opened.core.salt, opened.message.core, opened.message.disclosures)
        index = self._log_received(
            tx, peer, arrival, opened, "ok", commitments=commitments, alert_id=opened.alert_id
        )
        self._receipt(tx, peer, opened, ReceiptState.DELIVERED, index, now_ms, outcome)
        if tx.execute("SELECT 1 FROM alert WHERE alert_id = ? AND incoming = 1", (opened.alert_id,)):
            return  # the same alert in a second delivery: received and answered, shown once
        alert = opened.alert
        marks = opened.marks | _backward_marks(tx, peer, opened)
        erase_at_ms = _erase_at_ms(opened, marks, now_ms)
        erase_due = now_ms >= erase_at_ms
        flags = sorted(str(mark) for mark in marks if erase_due or mark is not Mark.ERASE_DUE)
        signatures = {signature.role: signature.officer_number for signature in opened.core.signatures}
        tx.execute(
            "INSERT INTO alert (alert_id, incoming, peer, hh, status, crime_type, urgency, headline,"
            " needs_reason, created_ms, stored_ms, expires_ms, erase_at_ms, author, releaser, flags,"
            " erased_ms)"
            " VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                opened.alert_id,
                peer.office_id,
                opened.hh,
                alert.status,
                alert.crime_type,
                alert.urgency,
                "" if erase_due else headline(alert, alert_id=opened.alert_id, language=self._language),
                int(alert.has_victim),
                alert.created_ms,
                now_ms,
                alert.expires_ms,
                erase_at_ms,
                signatures.get("author"),
                signatures.get("releaser"),
                " ".join(flags),
                now_ms if erase_due else None,
            ),
        )
        if erase_due:
            told = [(peer.office_id, opened.hh)]
            note_erased(tx, self._log, opened.alert_id, ["content"], "erase_due", told, now_ms)
            return
        self._vault.store_content(tx, opened.alert_id, True, opened.message.core, opened.message.disclosures)
        self._photos.expect(tx, peer, opened.alert_id, alert)
        outcome.shown = True

    def _apply_items(
        self,
        tx: Transaction,
        peer: Peer,
        signed_under: int,
        items: Sequence[Item],
        outcome: _Outcome,
        *,
        is_reset: bool = False,
    ) -> None:
        """Facts the peer signed beside its message. One that does not hold is dropped; the message stands.

        Keys come first, wherever they stand: what the other items have sealed anew is sealed to them. One
        acknowledgement counts, the first: each looks at every hole of the window, and a message holds 64.
        Only a reset, which needs the root key, begins another log: one that lied could else begin anew.
        """
        first_ack = next((item for item in items if isinstance(item, Acknowledgement)), None)
        for item in sorted(items, key=lambda item: not isinstance(item, KeyAnnouncement | OneTimeOffer)):
            try:
                match item:
                    case Acknowledgement() if item is first_ack:
                        peer.pair, numbers = apply_acknowledgement(peer.pair, item)
                        self._outbox.acknowledged(tx, peer, numbers)
                    case KeyAnnouncement():
                        _check_version(item, signed_under)
                        peer.peer_key = adopt(peer.peer_key, _usable(item), peer.pair.outbound.next_seq)
                    case OneTimeOffer():
                        _check_version(item, signed_under)
                        for _, public in item.fresh:
                            wrap(public, b"", b"")  # as _usable
                        one_time.adopt(tx, peer, item)
                    case OfficerListItem():
                        listed = parse_officer_list_untrusted(item.officer_list)
                        before = peer.trusted
                        peer.trusted = trust.accept_officer_list(before, listed)
                        # Only what is new can help what waits: a waiting message may carry a list itself, and
                        # would be looked at again for ever.
                        outcome.look_again |= peer.trusted is not before
                    case HeartBeat():
                        watch.note_beat(tx, peer, item)
                    case UnknownKeyNotice():
                        self._nacks.obey(tx, peer, item)
                    case MailboxSuccessor():
                        outcome.address_moved |= take_announcement(
                            tx, self._log, self._outbox.readdress, peer, item, self._env.clock.now_ms()
                        )
                    case ResetKeyItem():
                        keep_theirs(tx, peer, _usable_reset_key(item))
                    case LogItem() if is_reset:
                        self.resets.take_log(tx, peer, item)
                    case ResetAnswer():
                        self.resets.take_answer(tx, peer, item)
                        outcome.ladder_moved = True
                    case PhotoReport():
                        self._photos.apply_report(tx, peer, item)
                    case ResetRefused():
                        self.resets.take_refusal(tx, peer, item)
                        outcome.ladder_moved = True
                    case WitnessRequest():
                        in_company = any(isinstance(other, HeartBeat) for other in items)
                        self._witnessing.take_request(tx, peer, item, may_wait=in_company)
                    case WitnessAnswer():
                        self._witnessing.take_answer(tx, peer, item)
                    case WitnessKey():
                        self._witnessing.take_key(tx, peer, item)
                    case WitnessMemory():
                        self._witnessing.take_memory(tx, peer, item)
                    case EarlierInstance():
                        self.resets.take_earlier(peer, item)
                        outcome.look_again = True
                    case _:
                        pass  # for a later version, or already used while opening
            except (MalformedInput, VerificationFailed, Unavailable) as fault:
                log.warning("item_dropped", code=fault.code)
                outcome.is_ahead |= fault.code == "acknowledgement_ahead"
        self._revocations(tx, peer, [item for item in items if isinstance(item, RevocationItem)])

    def _apply_receipt(self, tx: Transaction, peer: Peer, receipt: Receipt, outcome: _Outcome) -> None:
        """A rung of the ladder, if the receipt is about a delivery we really made to this peer.

        That its content is erased, the peer also says of what it sent to us.
        """
        row = tx.one(
            "SELECT alert_id, msg_id FROM delivery WHERE hh = ? AND peer = ?", (receipt.hh, peer.office_id)
        )
        is_by_sender = row is None and receipt.state is ReceiptState.ERASED
        if is_by_sender:
            row = _received_alert(tx, peer, receipt.hh)
        if row is None or row[0] is None or receipt.alert_id not in (row[0], bytes(32)):
            log.warning("receipt_unmatched", code=receipt.state.value)
            return
        if not is_usable(receipt):
            log.warning("receipt_unusable", code=receipt.state.value)
            return
        alert_id, msg_id = row
        settle_by_receipt(tx, self._outbox, peer, receipt.hh)
        if not apply_receipt(tx, peer.name, peer.office_id, alert_id, receipt):
            return
        fields: dict[str, str | int] = {
            "msg": msg_id.hex(),
            "step": receipt.state.value,
            "at": receipt.at_ms,
            "peer": peer.pseudonym,
        }
        if receipt.code:
            fields["code"] = receipt.code
        self._log.append(tx, "msg.receipt", fields)
        outcome.ladder_moved = True
        if receipt.state is ReceiptState.DELIVERED:
            self._tell_erased(tx, peer, alert_id, receipt.hh)
        if is_by_sender and receipt.actor:
            self._erase_by_sender(tx, alert_id, peer.office_id)
            outcome.shown = True

    def _tell_erased(self, tx: Transaction, peer: Peer, alert_id: bytes, hh: bytes) -> None:
        """A copy that was under way when its alert was erased here by hand has arrived with its content."""
        row = tx.one(
            "SELECT erased_index, erased_actor FROM alert"
            " WHERE alert_id = ? AND incoming = 0 AND erased_actor IS NOT NULL",
            (alert_id,),
        )
        if row is not None:
            index, actor = row
            now_ms = self._env.clock.now_ms()
            queue_receipt(
                tx,
                peer.office_id,
                alert_id,
                hh,
                ReceiptState.ERASED,
                now_ms,
                index,
                actor=actor,
                due_ms=now_ms,
            )

    # --- parts ----------------------------------------------------------------------------------------------

    def _is_service(self, opened: Verified) -> bool:
        return (
            isinstance(opened, OpenedMessage)
            and opened.header.type in (MessageType.CONTROL, MessageType.COVER)
            and is_service(opened.items)
        )

    def _receipt(
        self,
        tx: Transaction,
        peer: Peer,
        opened: Verified,
        state: ReceiptState,
        index: int,
        now_ms: int,
        outcome: _Outcome,
        code: str = "",
    ) -> None:
        # Only alerts are answered: a receipt for a receipt would never end.
        if opened.header.type is MessageType.ALERT:
            outcome.owes_receipt = True
            is_immediate = isinstance(opened, OpenedAlert) and opened.alert.urgency == "immediate"
            queue_receipt(
                tx,
                peer.office_id,
                opened.header.core_hash,
                opened.hh,
                state,
                now_ms,
                index,
                code,
                due_ms=self._outbox.receipt_due_ms(at_once=is_immediate),
            )

    def _log_received(
        self,
        tx: Transaction,
        peer: Peer,
        arrival: Arrival,
        opened: Verified,
        verdict: str,
        *,
        code: str | None = None,
        commitments: list[str] | None = None,
        alert_id: bytes | None = None,
    ) -> int:
        fields: dict[str, str | int | list[str]] = {
            # Of the bytes that came, not the broker's word for them: an auditor compares it.
            "env": envelope_hash(arrival.envelope).hex(),
            "verdict": verdict,
            "msg": opened.header.msg_id.hex(),
            "peer": peer.pseudonym,
            "hh": opened.hh.hex(),
            "inst": opened.header.instance.hex(),
            "ps": opened.opening.pair_seq,
            "via": arrival.via,
        }
        if code is not None:
            fields["code"] = code
        if commitments is not None:
            fields["com"] = commitments
        if alert_id is not None:
            fields["alert"] = alert_id.hex()
        return self._log.append(tx, "msg.recv", fields)

    def _record_junk(
        self, tx: Transaction, peer: Peer, arrival: Arrival, junk: SalweenError, now_ms: int
    ) -> None:
        self._record_unproven(tx, peer, arrival, junk.code, now_ms, verdict="badsig")

    def _record_unproven(
        self, tx: Transaction, peer: Peer, arrival: Arrival, code: str, now_ms: int, *, verdict: str
    ) -> None:
        """Bytes that no signature ties to the peer: evidence, an entry, and off the broker."""
        self._quarantine(tx, peer, arrival, "junk", code, now_ms)
        if watch.may_note(tx, peer.office_id, now_ms):
            self._log.append(
                tx,
                "msg.recv",
                {"env": envelope_hash(arrival.envelope).hex(), "verdict": verdict, "code": code},
            )
            log.warning("junk_received", code=code)
        self._delete_later(tx, peer, arrival)

    def _quarantine(
        self, tx: Transaction, peer: Peer, arrival: Arrival, verdict: str, code: str, now_ms: int
    ) -> None:
        """Keep the bytes as evidence: the newest of each kind per peer, or a peer could fill our disk.

        What a refused or equivocating message signed, its header and signature, stays in the replay table.
        """
        tx.execute(
            "INSERT OR IGNORE INTO quarantine (envelope_hash, peer, verdict, code, at_ms, bytes)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (envelope_hash(arrival.envelope), peer.office_id, verdict, code, now_ms, arrival.envelope),
        )
        keep = QUARANTINE_PER_PEER_MAX if verdict in ("junk", "poisoned") else EVIDENCE_PER_PEER_MAX
        tx.execute(
            "DELETE FROM quarantine WHERE peer = ? AND verdict = ? AND rowid NOT IN"
            " (SELECT rowid FROM quarantine WHERE peer = ? AND verdict = ? ORDER BY rowid DESC LIMIT ?)",
            (peer.office_id, verdict, peer.office_id, verdict, keep),
        )

    def _delete_later(self, tx: Transaction, peer: Peer, arrival: Arrival) -> None:
        """Recorded with everything else, sent after the commit. What came by hand no broker holds."""
        if arrival.via != "broker":
            return
        tx.execute(
            "INSERT OR IGNORE INTO broker_delete (broker_address, mailbox, envelope_hash) VALUES (?, ?, ?)",
            (arrival.mailbox.broker_address, arrival.mailbox.name, arrival.envelope_hash),
        )

    def _follow_up(self, arrival: Arrival, outcome: _Outcome) -> None:
        if outcome.look_again:
            self._look_again(arrival.mailbox.name)
        if outcome.address_moved:
            self._address_moved()
        if outcome.shown:
            self._shown()
        if outcome.ladder_moved:
            self._ladder_moved()

    async def _set_aside(self, arrival: Arrival, bug: BaseException) -> None:
        """An envelope that broke our own code: keep it for whoever mends that, and go on with the next."""
        log.error("envelope_set_aside", **error_fields(bug))
        now_ms = self._env.clock.now_ms()

        def record(tx: Transaction) -> None:
            peer = load_peer(tx, arrival.mailbox.peer)
            self._quarantine(tx, peer, arrival, "poisoned", "internal", now_ms)
            self._log.append(
                tx,
                "msg.recv",
                {
                    "env": envelope_hash(arrival.envelope).hex(),
                    "verdict": "refused",
                    "peer": peer.pseudonym,
                    "code": "internal",
                },
            )
            self._delete_later(tx, peer, arrival)

        await self._db.transact(record)


def _is_the_end(error: BaseException) -> bool:
    """Whether the node is failing or ending, so that nothing was decided about the envelope itself."""
    if isinstance(error, SalweenError):
        return isinstance(error, DiskFailed) or error.code == "database_closed"
    return not isinstance(error, Exception)


def _is_settled(tx: Snapshot, arrival: Arrival) -> bool:
    """Whether this item was recorded and its deletion waits: it is listed again until the broker did that."""
    return bool(
        tx.execute(
            "SELECT 1 FROM broker_delete WHERE mailbox = ? AND envelope_hash = ?",
            (arrival.mailbox.name, arrival.envelope_hash),
        )
    )


def _that_count(peer: Peer, header: Header, items: Sequence[Item]) -> Sequence[Item]:
    """Without keys announced in an instance that ended: what is sent again after a second pairing, which
    counts generations anew, would bring back keys that nobody has any more."""
    if header.instance == peer.pair.inbound.instance:
        return items
    return [item for item in items if not isinstance(item, KeyAnnouncement | OneTimeOffer | OneTimeUnused)]


def _check_version(item: KeyAnnouncement | OneTimeOffer, signed_under: int) -> None:
    """VerificationFailed unless keys are announced under the version that signs their message.

    The highest version wins for good: a stolen key that named a later one would outlive its revocation.
    """
    if item.key_version != signed_under:
        raise VerificationFailed("announced_version_foreign", "keys announced under another key version")


def _usable(announced: KeyAnnouncement) -> KeyAnnouncement:
    """VerificationFailed unless it can be sealed to: else nothing could leave for this peer any more."""
    wrap(announced.public, b"", b"")
    return announced


def _usable_reset_key(item: ResetKeyItem) -> ResetKeyItem:
    """VerificationFailed unless it can be sealed to."""
    wrap(item.public, b"", b"")
    return item


def _backward_marks(tx: Snapshot, peer: Peer, opened: Verified) -> frozenset[Mark]:
    """Whether the sender's clock stands behind: older than the pairing itself, or than what it said before.

    A clock that was always a little behind looks like a slow link and cannot be told from one.
    """
    known_ms = peer.since_ms
    before = tx.one(
        "SELECT header FROM received WHERE peer = ? AND instance = ? AND pair_seq < ?"
        " ORDER BY pair_seq DESC LIMIT 1",
        (peer.office_id, opened.header.instance, opened.opening.pair_seq),
    )
    if before is not None:
        known_ms = max(known_ms, parse_header_untrusted(before[0]).created_ms)
    is_behind = opened.header.created_ms < known_ms - limits.CLOCK_AHEAD_MS_MAX
    return frozenset({Mark.CLOCK_SUSPECT}) if is_behind else frozenset()


def _erase_at_ms(opened: OpenedAlert, marks: frozenset[Mark], now_ms: int) -> int:
    """When this office erases the content: at the signed date, unless the clock behind it is suspect.

    A clock at 1970 would have every alert erased before anybody saw it, one far ahead would keep a victim's
    data for years. Then the span that was agreed counts from the arrival.
    """
    if Mark.CLOCK_SUSPECT not in marks:
        return opened.alert.erase_at_ms
    return now_ms + opened.alert.erase_at_ms - opened.alert.created_ms


def _received_alert(tx: Snapshot, peer: Peer, hh: bytes) -> tuple[bytes, bytes] | None:
    """(alert id, message id) of an alert that this peer sent to us with this delivery."""
    row = tx.one("SELECT header FROM received WHERE peer = ? AND hh = ?", (peer.office_id, hh))
    header = None if row is None else parse_header_untrusted(row[0])
    if header is None or header.type is not MessageType.ALERT:
        return None
    return header.core_hash, header.msg_id


def _was_service(tx: Snapshot, peer: Peer, opened: Verified) -> bool:
    """Whether the first copy of a repeated message held service items only: it asks for nothing again."""
    row = tx.one(
        "SELECT verdict FROM received WHERE peer = ? AND instance = ? AND pair_seq = ?",
        (peer.office_id, opened.header.instance, opened.opening.pair_seq),
    )
    return row is not None and row[0] == "service"


_OLD_SERVICE = (
    "SELECT rowid FROM received INDEXED BY received_service WHERE verdict = 'service' AND at_ms < ?"
    " AND pair_seq < (SELECT max(pair_seq) FROM received n WHERE n.peer = received.peer"
    " AND n.instance = received.instance) LIMIT 512"
)


async def forget_old_service_once(db: Database, now_ms: int) -> None:
    """Drop the signed bytes of heartbeats and acknowledgements taken in before the backup horizon.

    Their numbers stay taken; the keys they were sealed to are long gone, so no copy of one opens again. The
    newest of each instance stays: a sender's clock is measured by it.
    """
    before_ms = now_ms - limits.BACKUP_HORIZON_MS
    if await db.read(lambda tx: tx.execute(_OLD_SERVICE, (before_ms,))):
        await db.transact(
            lambda tx: tx.execute(f"DELETE FROM received WHERE rowid IN ({_OLD_SERVICE})", (before_ms,))  # noqa: S608
        )


def queue_receipt(
    tx: Transaction,
    peer_id: bytes,
    alert_id: bytes,
    hh: bytes,
    state: ReceiptState,
    at_ms: int,
    log_index: int,
    code: str = "",
    actor: str = "",
    *,
    due_ms: int,
) -> None:
    """A receipt to leave with the next message that carries receipts, made at ``due_ms`` if not before."""
    tx.execute(
        "INSERT INTO receipt_due (peer, alert_id, hh, state, at_ms, log_index, code, actor, due_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (peer_id, alert_id, hh, state.value, at_ms, log_index, code, actor, due_ms),
    )


def note_erased(
    tx: Transaction,
    log: AuditLog,
    alert_id: bytes,
    parts: Sequence[str],
    why: str,
    told: Sequence[tuple[bytes, bytes]],
    now_ms: int,
    actor: str = "",
) -> int:
    """The entry, whose index is returned, and a receipt to each office of ``told``: (office id, hash of the
    delivery it is about).

    ``actor``: pseudonym of the officer who erased it by hand. With it a sender's word asks its recipients to
    do the same: by itself an office erases at its own clock's time, and that clock may be wrong.
    """
    fields: dict[str, Json] = {"alert": alert_id.hex(), "parts": list(parts), "code": why}
    index = log.append(tx, "content.erased", fields | ({"actor": actor} if actor else {}))
    for peer_id, hh in told:
        if not tx.execute("SELECT 1 FROM peer WHERE office_id = ? AND retired_ms IS NOT NULL", (peer_id,)):
            # At its date its time tells nothing of an officer; before it the other should hear at once.
            queue_receipt(
                tx, peer_id, alert_id, hh, ReceiptState.ERASED, now_ms, index, actor=actor, due_ms=now_ms
            )
    return index


def content_commitments(salt: bytes, core: bytes, disclosures: bytes) -> list[str]:
    """What both offices' logs carry of one content: commitments under its 32-byte salt, erased with it."""
    return [
        labelled_hash(labels.LOG_COMMITMENT, salt, b"core", core).hex(),
        labelled_hash(labels.LOG_COMMITMENT, salt, b"disclosures", disclosures).hex(),
    ]
