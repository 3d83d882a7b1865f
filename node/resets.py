"""A peer lost state and says so: its RESET taken in, what it lacks sent again, and its answer to ours.

Spec: docs/spec/conversation.md#reset. Called by the inbox inside its transaction. One rule: a RESET counts
under a key version above every one known of that office, never an equal or lower one: otherwise whoever stole
today's key could wind a conversation back.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

from audit.store import AuditLog
from keys import trust
from keys.errors import MalformedInput, PolicyRefused, VerificationFailed
from keys.primitives import wrap
from node.evidence import thaw
from node.identity import Identity
from node.one_time import drop_offered
from node.outbox import CONTROL_LIFE_MS, Outbox, ToSend, decode_row, row_columns
from node.peers import Peer, load_peer, save_peer
from node.reset_keys import note_carried, own_item
from node.views import Beginning
from node.witness import memory_for
from protocol import limits
from protocol.conversation import (
    close_gone,
    closed_range,
    is_in,
    seen_ranges,
    with_acknowledged_as_seen,
    with_earlier_instance,
    with_peer_instance,
)
from protocol.delivery import ResetAsked, step
from protocol.items import (
    EarlierInstance,
    HeldAlert,
    Item,
    KeyAnnouncement,
    LogItem,
    MailboxSuccessor,
    ReceivedRange,
    ResetAnswer,
    ResetRefused,
    SeenItem,
    decode_items_untrusted,
)
from protocol.message import MessageType, SignedMessage, certificate_core, split_certificate_core
from protocol.receipts import Receipt, decode_receipts_untrusted
from protocol.receivekeys import announce
from protocol.sealing import OpenedMessage, ResetNotNewer
from runtime.env import Env
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

# Pairs whose two offices may speak now.
_TALKING = "JOIN peer p ON p.office_id = r.peer AND p.state = 'active' AND p.frozen_ms IS NULL"

log = get_logger("resets")


class Resets:
    """Both ends of a reset."""

    def __init__(self, env: Env, db: Database, log: AuditLog, identity: Identity, outbox: Outbox) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._identity = identity
        self._outbox = outbox

    # --- the peer was restored ------------------------------------------------------------------------------

    def begin(self, tx: Transaction, peer: Peer, opened: OpenedMessage, now_ms: int) -> None:
        """Before its number is taken in: certificate and instance."""
        certificate = opened.certificate
        assert certificate is not None
        peer.trusted = trust.accept_certificate(peer.trusted, certificate, now_ms)
        peer.trusted = trust.resume_after_reset(peer.trusted, certificate.key_version, now_ms)
        peer.name, peer.country = certificate.name, certificate.country
        peer.pair = with_peer_instance(peer.pair, opened.header.instance)
        if any(isinstance(item, MailboxSuccessor) for item in opened.items):
            # Where it reads now is what it says here: of a later address it may have lost the keys.
            tx.execute("DELETE FROM address WHERE peer = ?", (peer.office_id,))

    def finish(self, tx: Transaction, peer: Peer, opened: OpenedMessage, now_ms: int) -> None:
        """After its items were applied: send again what it did not list as seen, answer, tell people.

        What it held before counts no more: one-time keys of the instance that ended, and what froze the pair.
        """
        thaw(tx, self._log, peer, why="reset")
        tx.execute("DELETE FROM reset_refused WHERE peer = ? AND ours = 0", (peer.office_id,))
        drop_offered(tx, peer.office_id)
        seen = next((item for item in opened.items if isinstance(item, SeenItem)), None)
        if seen is None:
            seen = SeenItem(ranges=(), ended=bytes(limits.INSTANCE_BYTES), next_seq=1, at_ms=0)
        peer.pair = with_acknowledged_as_seen(peer.pair, seen.ranges)
        resent, closed = self._send_again(tx, peer, seen.ranges, now_ms)
        after = tx.execute(
            "SELECT a.alert_id, a.created_ms FROM received r JOIN alert a ON a.hh = r.hh AND a.incoming = 1"
            " WHERE r.peer = ? AND r.instance = ? AND r.pair_seq >= ? ORDER BY r.pair_seq DESC",
            (peer.office_id, seen.ended, seen.next_seq),
        )
        answer = ResetAnswer(
            instance=opened.header.instance,
            ranges=seen_ranges(peer.pair),
            after=tuple(
                HeldAlert(alert_id=alert_id, created_ms=created_ms)
                for alert_id, created_ms in after[: limits.RESET_ALERTS_MAX]
            ),
            after_count=len(after),
            resent=resent,
            closed=closed,
        )
        version, instance = opened.header.key_version, opened.header.instance
        tx.execute(
            "INSERT OR REPLACE INTO peer_reset (peer, key_version, instance, at_ms, backup_ms, resent)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (peer.office_id, version, instance, now_ms, seen.at_ms, resent),
        )
        self._log.append(
            tx, "peer.reset", {"peer": peer.pseudonym, "ver": version, "inst": instance.hex(), "n": resent}
        )
        # It may remember a receive key of ours that is long gone: the newest comes with the answer.
        newest = announce(peer.receive_keys.next or peer.receive_keys.cur, self._identity.key_version)
        items: list[Item] = [newest, answer, memory_for(tx, peer)]
        self._outbox.compose_control(tx, peer, items, service=False)

    def _send_again(
        self, tx: Transaction, peer: Peer, seen: tuple[ReceivedRange, ...], now_ms: int
    ) -> tuple[int, tuple[ReceivedRange, ...]]:
        """Wake every item the peer lacks; (alerts among them, numbers that cannot be sent any more)."""
        alerts = 0
        sendable: set[int] = set()
        rows = tx.execute(
            f"SELECT {row_columns()}, instance, pair_seq FROM delivery"  # noqa: S608 - our own constant
            " WHERE peer = ? AND message IS NOT NULL",
            (peer.office_id,),
        )
        present = peer.pair.outbound.instance
        for row in rows:
            instance, pair_seq = row[-2:]
            if instance == present:
                sendable.add(pair_seq)
            known = decode_row(row[:-2])
            if is_in(seen, instance, pair_seq) or not self._counts(known.alert_id, instance, present):
                continue
            state, _ = step(known.state, ResetAsked(), now_ms, 0.0)
            # Acknowledged once, it may be past its date by now: what is sent again still travels whole.
            state = replace(
                state,
                next_at_ms=now_ms,
                expires_ms=max(state.expires_ms, now_ms + limits.BACKUP_HORIZON_MS),
            )
            alerts += known.alert_id is not None and not state.bodyless
            # Sealed when it leaves, to the key this reset announces.
            tx.execute(
                "UPDATE delivery SET state = ?, phase = ?, next_at_ms = ?, expires_ms = ?, envelope = NULL,"
                " settled_ms = NULL, cause = NULL WHERE hh = ?",
                (state.encode(), state.phase.value, state.next_at_ms, state.expires_ms, known.hh),
            )
        out = peer.pair.outbound
        missing = tuple(
            number
            for number in range(out.acknowledged_to + 1, out.next_seq)
            if number not in sendable and not is_in(seen, out.instance, number)
        )
        return alerts, (closed_range(peer.pair, missing),)

    def refuse(self, tx: Transaction, peer: Peer, opened: ResetNotNewer, now_ms: int) -> bool:
        """Keep that this reset was not followed, to tell both offices; False for more under its version."""
        version = opened.header.key_version
        if tx.execute(
            "SELECT 1 FROM reset_refused WHERE peer = ? AND ours = 0 AND key_version = ?",
            (peer.office_id, version),
        ):
            return False
        key_id, public = _answer_key(opened)
        tx.execute(
            "INSERT INTO reset_refused"
            " (peer, ours, key_version, known_version, instance, at_ms, key_id, public)"
            " VALUES (?, 0, ?, ?, ?, ?, ?, ?)",
            (peer.office_id, version, opened.known_version, opened.header.instance, now_ms, key_id, public),
        )
        log.warning("reset_refused", code="reset_not_newer")
        return True

    @staticmethod
    def _counts(alert_id: bytes | None, instance: bytes, present: bytes) -> bool:
        """Of an instance of ours that ended, only alerts are worth sending again."""
        return instance == present or alert_id is not None

    def after_pairing(self, tx: Transaction, peer: Peer) -> None:
        """Paired again with an office that may have lost everything: our alerts go to it once more."""
        now_ms = self._env.clock.now_ms()
        tx.execute("DELETE FROM reset_key WHERE peer = ? AND own = 0", (peer.office_id,))
        tx.execute("UPDATE reset_key SET carried_by = NULL WHERE peer = ? AND own = 1", (peer.office_id,))
        present = peer.pair.outbound.instance
        open_by_instance: dict[bytes, list[int]] = {}
        for hh, instance, pair_seq, alert_id, has_message in tx.execute(
            "SELECT hh, instance, pair_seq, alert_id, message IS NOT NULL FROM delivery"
            " WHERE peer = ? AND instance <> ? ORDER BY pair_seq",
            (peer.office_id, present),
        ):
            if alert_id is not None and has_message:
                open_by_instance.setdefault(instance, []).append(pair_seq)
            else:
                self._outbox.end(tx, hh)
        if not open_by_instance:
            return
        self._send_again(tx, peer, (), now_ms)
        ranges = tuple(_all_but(instance, numbers) for instance, numbers in open_by_instance.items())
        newest = ranges[-limits.INSTANCES_REMEMBERED_MAX + 1 :]
        self._outbox.compose_control(tx, peer, [EarlierInstance(ranges=newest)], service=False)

    # --- by itself ------------------------------------------------------------------------------------------

    async def housekeep_once(self) -> None:
        """Tell each peer our reset key if nothing has taken it there, and the office that was refused why."""

        def look(tx: Snapshot) -> tuple[list[bytes], list[bytes]]:
            untold = [
                peer_id
                for (peer_id,) in tx.execute(f"SELECT r.peer FROM reset_key r {_TALKING} WHERE r.own = 1")  # noqa: S608
                if own_item(tx, peer_id) is not None
            ]
            refused = tx.execute(
                f"SELECT DISTINCT r.peer FROM reset_refused r {_TALKING}"  # noqa: S608
                " WHERE r.ours = 0 AND r.told_ms IS NULL"
            )
            return untold, [row[0] for row in refused]

        untold, refused = await self._db.read(look)
        for tell, peers in ((self._tell_key, untold), (self._tell_refused, refused)):
            for peer_id in peers:
                with contextlib.suppress(PolicyRefused):
                    await self._db.transact(partial(tell, peer_id=peer_id))

    def _tell_key(self, tx: Transaction, *, peer_id: bytes) -> None:
        """In a message of its own: a backup made today may be all that is left tomorrow."""
        peer = load_peer(tx, peer_id)
        item = own_item(tx, peer_id)
        if item is None or not peer.is_talking:
            return
        note_carried(tx, peer, self._outbox.compose_control(tx, peer, [item], service=False))
        save_peer(tx, peer)

    def _tell_refused(self, tx: Transaction, *, peer_id: bytes) -> None:
        peer = load_peer(tx, peer_id)
        now_ms = self._env.clock.now_ms()
        for instance, version, known, key_id, public in tx.execute(
            "SELECT instance, key_version, known_version, key_id, public FROM reset_refused"
            " WHERE peer = ? AND ours = 0 AND told_ms IS NULL",
            (peer_id,),
        ):
            item = ResetRefused(instance=instance, key_version=version, known_version=known)
            # With our certificate: its backup may be older than our present key.
            self._outbox.compose(
                tx,
                peer,
                ToSend(
                    type=MessageType.CARD,
                    core=certificate_core(self._identity.certificate, [item]),
                    expires_ms=now_ms + CONTROL_LIFE_MS,
                    urgent=True,
                    seal_to=None if key_id is None else (key_id, public),
                ),
            )
            tx.execute(
                "UPDATE reset_refused SET told_ms = ? WHERE peer = ? AND ours = 0 AND key_version = ?",
                (now_ms, peer_id, version),
            )
        save_peer(tx, peer)

    # --- we were restored -----------------------------------------------------------------------------------

    def take_answer(self, tx: Transaction, peer: Peer, answer: ResetAnswer) -> None:
        """What the peer says to our reset: what it holds is settled, what we do not remember is listed."""
        row = tx.one(
            "SELECT ended, answered_ms FROM own_reset WHERE peer = ? AND instance = ?",
            (peer.office_id, answer.instance),
        )
        if row is None or row[1] is not None or answer.instance != peer.pair.outbound.instance:
            return
        now_ms = self._env.clock.now_ms()
        self._settle_ended(tx, peer, answer.ranges)
        peer.pair, gone = close_gone(peer.pair, answer.closed)
        unknown = [
            held
            for held in answer.after
            if not tx.execute("SELECT 1 FROM alert WHERE alert_id = ? AND incoming = 0", (held.alert_id,))
        ]
        for held in unknown:
            tx.execute(
                "INSERT OR IGNORE INTO lost_alert (peer, alert_id, created_ms) VALUES (?, ?, ?)",
                (peer.office_id, held.alert_id, held.created_ms),
            )
        sent_after = answer.after_count - (len(answer.after) - len(unknown))
        tx.execute(
            "UPDATE own_reset SET answered_ms = ?, resent = ?, sent_after = ?, gone = ?"
            " WHERE peer = ? AND instance = ?",
            (now_ms, answer.resent, max(0, sent_after), gone, peer.office_id, answer.instance),
        )
        tx.execute("DELETE FROM reset_refused WHERE peer = ? AND ours = 1", (peer.office_id,))
        self._log.append(
            tx, "backup.loss", {"peer": peer.pseudonym, "sent": max(0, sent_after), "gone": gone}
        )

    def take_refusal(self, tx: Transaction, peer: Peer, item: ResetRefused) -> None:
        """What the peer says of a reset in our name: of the one that waits, or of one somebody else made."""
        now_ms = self._env.clock.now_ms()
        ours = tx.one(
            "SELECT answered_ms FROM own_reset WHERE peer = ? AND instance = ?",
            (peer.office_id, item.instance),
        )
        if ours is None:
            # Of a directory that was given up since, unless it bears the very key that we sign with.
            if item.key_version != self._identity.key_version:
                return
            log.error("reset_in_our_name", code="reset_foreign")
        elif ours[0] is not None or item.instance != peer.pair.outbound.instance:
            return
        else:
            log.error("reset_refused", code="reset_refused")
            # What it knows only grows: this one is never followed.
            _end_resets(tx, self._outbox, peer.office_id)
        tx.execute(
            "INSERT OR REPLACE INTO reset_refused (peer, ours, key_version, known_version, instance, at_ms)"
            " VALUES (?, 1, ?, ?, ?, ?)",
            (peer.office_id, item.key_version, item.known_version, item.instance, now_ms),
        )
        self._log.append(
            tx,
            "backup.refused",
            {"peer": peer.pseudonym, "ver": item.key_version, "known": item.known_version},
        )

    def take_earlier(self, peer: Peer, item: EarlierInstance) -> None:
        """The peer will send again what it numbered before we lost everything."""
        for held in item.ranges:
            peer.pair = with_earlier_instance(peer.pair, held)

    def take_log(self, tx: Transaction, peer: Peer, item: LogItem) -> None:
        """A new log epoch of the peer, under the same pseudonym. VerificationFailed for another one."""
        if item.origin.rsplit("/", 1)[0] != peer.log_origin.rsplit("/", 1)[0]:
            raise VerificationFailed("bundle_log_origin", "a new log epoch bears another office's name")
        tx.execute(
            "UPDATE peer SET log_origin = ?, log_public = ?, witness_name = ?, witness_public = ?,"
            " checkpoint = x'' WHERE office_id = ?",
            (item.origin, item.log_public, item.witness_name, item.witness_public, peer.office_id),
        )
        peer.log_origin, peer.log_public = item.origin, item.log_public

    def _settle_ended(self, tx: Transaction, peer: Peer, held: tuple[ReceivedRange, ...]) -> None:
        """Items of our instances that ended: settled where the peer holds them.

        Alerts it lacks go on until their receipt; receipts it lacks are written anew; the rest has lost its
        meaning.
        """
        present = peer.pair.outbound.instance
        for hh, instance, pair_seq, kind, message in tx.execute(
            "SELECT hh, instance, pair_seq, type, message FROM delivery WHERE peer = ? AND instance <> ?"
            " AND phase <> 'acknowledged'",
            (peer.office_id, present),
        ):
            arrived = is_in(held, instance, pair_seq)
            if not arrived and kind == MessageType.ALERT:
                continue
            if not arrived and kind == MessageType.RECEIPT and message is not None:
                _owe_again(tx, peer, decode_receipts_untrusted(SignedMessage.from_bytes(message).core))
            self._outbox.end(tx, hh)


def settle_by_receipt(tx: Transaction, outbox: Outbox, peer: Peer, hh: bytes) -> None:
    """A receipt for an alert of an instance of ours that ended: nothing else will ever acknowledge it."""
    row = tx.one("SELECT instance, phase FROM delivery WHERE hh = ?", (hh,))
    if row is not None and row[0] != peer.pair.outbound.instance and row[1] != "acknowledged":
        outbox.end(tx, hh)


def _all_but(instance: bytes, numbers: Sequence[int]) -> ReceivedRange:
    """Every number of an instance closed, but for these (ascending); at most the newest window of them."""
    first = max(numbers[0], numbers[-1] - limits.WINDOW_MESSAGES + 1)
    first = next(number for number in numbers if number >= first)
    bitmap = (1 << numbers[-1] - first + 1) - 1
    for number in numbers:
        if number >= first:
            bitmap &= ~(1 << number - first)
    return ReceivedRange(instance=instance, contiguous_to=first - 1, bitmap=bitmap)


def end_by_pairing(tx: Transaction, outbox: Outbox, peer_id: bytes, now_ms: int) -> None:
    """People compared codes: what a reset had to say is said, and one that still waits would be refused."""
    _end_resets(tx, outbox, peer_id)
    tx.execute(
        "UPDATE own_reset SET paired_ms = ? WHERE peer = ? AND answered_ms IS NULL AND paired_ms IS NULL",
        (now_ms, peer_id),
    )
    tx.execute("DELETE FROM reset_refused WHERE peer = ?", (peer_id,))


def _end_resets(tx: Transaction, outbox: Outbox, peer_id: bytes) -> None:
    for (hh,) in tx.execute(
        "SELECT hh FROM delivery WHERE peer = ? AND type = ? AND phase <> 'acknowledged'",
        (peer_id, int(MessageType.RESET)),
    ):
        outbox.end(tx, hh)


def beginnings(tx: Snapshot, peer: Peer) -> tuple[Beginning, ...]:
    """What is not settled of resets, ours and the peer's, oldest first."""
    found = []
    present = peer.pair.outbound.instance
    waits = tx.one(
        "SELECT began_ms FROM own_reset WHERE peer = ? AND instance = ? AND answered_ms IS NULL"
        " AND paired_ms IS NULL",
        (peer.office_id, present),
    )
    is_refused = False
    for ours, version, known, instance, at_ms in tx.execute(
        "SELECT ours, key_version, known_version, instance, at_ms FROM reset_refused WHERE peer = ?"
        " ORDER BY at_ms",
        (peer.office_id,),
    ):
        why: Literal["refused", "foreign", "not_newer"] = "not_newer"
        if ours:
            why = "refused" if instance == present else "foreign"
        is_refused |= why == "refused"
        found.append(Beginning(why=why, since_ms=at_ms, key_version=version, known_version=known))
    if waits is not None and not is_refused:
        has_key = tx.execute("SELECT 1 FROM reset_key WHERE peer = ? AND own = 0", (peer.office_id,))
        found.append(Beginning(why="waits" if has_key else "untold", since_ms=waits[0]))
    return tuple(found)


def lost_after_restore(tx: Snapshot) -> list[dict[str, Any]]:
    """Per peer what our last reset came to: answered or not, sent again, lost. Plain values for a command."""
    found = []
    for peer, name, backup_ms, answered_ms, paired_ms, resent, sent_after, gone in tx.execute(
        "SELECT o.peer, p.name, o.backup_ms, o.answered_ms, o.paired_ms, o.resent, o.sent_after, o.gone"
        " FROM own_reset o"
        " JOIN peer p ON p.office_id = o.peer WHERE o.began_ms ="
        " (SELECT max(began_ms) FROM own_reset WHERE peer = o.peer) ORDER BY p.name"
    ):
        lost = tx.execute(
            "SELECT alert_id, created_ms FROM lost_alert WHERE peer = ? ORDER BY created_ms", (peer,)
        )
        found.append(
            {
                "peer": name,
                "backup_ms": backup_ms,
                "answered_ms": answered_ms,
                "paired_ms": paired_ms,
                "beginnings": [asdict(b) for b in beginnings(tx, load_peer(tx, peer))],
                "resent": resent,
                "sent_after": sent_after,
                "gone": gone,
                "lost": [{"alert_id": a.hex(), "created_ms": t} for a, t in lost],
            }
        )
    return found


def _answer_key(opened: ResetNotNewer) -> tuple[bytes | None, bytes | None]:
    """The receive key a refused reset announces, if it can be sealed to: its office has no older one."""
    try:
        items = decode_items_untrusted(split_certificate_core(opened.message.core)[1])
        for item in items:
            if isinstance(item, KeyAnnouncement):
                wrap(item.public, b"", b"")
                return item.key_id, item.public
    except (MalformedInput, VerificationFailed) as fault:
        log.warning("reset_unanswerable", code=fault.code)
    return None, None


def _owe_again(tx: Transaction, peer: Peer, receipts: Sequence[Receipt]) -> None:
    for receipt in receipts:
        tx.execute(
            "INSERT INTO receipt_due (peer, alert_id, hh, state, at_ms, log_index, code, actor)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                peer.office_id,
                receipt.alert_id,
                receipt.hh,
                receipt.state.value,
                receipt.at_ms,
                receipt.log_index,
                receipt.code,
                receipt.actor,
            ),
        )
