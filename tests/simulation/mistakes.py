"""Mistakes planted on purpose: each breaks one promise of the real code for as long as it is in force.

This is the only switch, and it is in the tests. A simulator that does not find all of them within 300
schedules is not to be believed when it finds nothing.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import node.evidence
import node.inbox
import node.outbox
import node.peers
import node.photos
import node.receive_keys
import node.restore
import node.routes
import node.watch
import node.witness
import protocol.conversation
import protocol.delivery
import protocol.sealing
from audit.store import AuditLog
from audit.witness import judge_untrusted
from keys.errors import Unavailable
from keys.keystore import Keystore
from node.broker_link import BrokerClient, BrokerLink
from node.daemon import Node
from node.traffic import NodeTraffic
from protocol.conversation import Judgement
from protocol.delivery import Delivery, HeldNo, PutAccepted
from protocol.message import MessageType
from runtime import sqlite
from runtime.broker_line import BrokerLine
from tests.simulation.disk import SimulatedFiles

Undo = Callable[[], None]


def _swap(target: Any, name: str, value: Any) -> Undo:
    before = getattr(target, name)
    setattr(target, name, value)
    return lambda: setattr(target, name, before)


def _sync_normal() -> Undo:
    """Commits are not synced one by one: a power cut takes acknowledged ones back."""
    pragmas = tuple(
        ("synchronous", "NORMAL", 1) if pragma[0] == "synchronous" else pragma for pragma in sqlite._PRAGMAS
    )
    return _swap(sqlite, "_PRAGMAS", pragmas)


def _no_checkpoint_at_open() -> Undo:
    """What a killed process left unsynced in the page cache is acted upon before it is durable."""
    real = sqlite._checkpoint_all

    def not_at_open(connection: Any, subject: str) -> None:
        if sys._getframe(1).f_code.co_name != "_connect":
            real(connection, subject)

    return _swap(sqlite, "_checkpoint_all", not_at_open)


def _answer_before_commit() -> Undo:
    """A transaction's result is believed before the commit, at offices and broker alike."""
    real = sqlite.Database._run_writes

    def hasty(self: Any, calls: Any) -> Any:
        """The commit happens with the next batch."""
        connection = self._connection
        if connection.in_transaction:
            connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        outcomes = [self._run_write(call) for call in calls]
        self.stats.commits += 1
        return outcomes

    undo_write = _swap(sqlite.Database, "_run_writes", hasty)
    assert real is not hasty
    return undo_write


def _keystore_not_synced() -> Undo:
    """A new file gets its name before its content is on the disk."""
    real = SimulatedFiles.write_atomic

    def careless(self: Any, path: Any, data: bytes, mode: int = 0o600) -> None:
        native = self.native_path(path)
        self.disk.step()
        self.disk.create(native, mode).write(0, data)

    assert real is not careless
    return _swap(SimulatedFiles, "write_atomic", careless)


def _seed_after_announcement() -> Undo:
    """A receive key's seed reaches the keystore only when the next secret is written."""
    real = Keystore.put_many

    def late(self: Any, secrets: Any) -> None:
        if all(name.startswith("receive/") for name in secrets):
            self._secrets = {**self._secrets, **secrets}
            return
        real(self, secrets)

    return _swap(Keystore, "put_many", late)


def _custody_is_delivery() -> Undo:
    """What the broker holds is taken for delivered and never sent again."""
    table = protocol.delivery.TRANSITIONS
    before = dict(table)
    table[Delivery.KEPT, PutAccepted] = Delivery.ACKNOWLEDGED
    real = protocol.delivery._held

    def forgotten(state: Any, now_ms: int, jitter: float) -> Any:
        return replace(real(state, now_ms, jitter), next_at_ms=None)

    undo = _swap(protocol.delivery, "_held", forgotten)

    def restore() -> None:
        table.clear()
        table.update(before)
        undo()

    return restore


def _never_asks_again() -> Undo:
    """The broker's "not held" is not followed by sealing anew."""
    table = protocol.delivery.TRANSITIONS
    before = dict(table)
    del table[Delivery.HELD, HeldNo]

    def restore() -> None:
        table.clear()
        table.update(before)

    return restore


def _window_forgotten() -> Undo:
    """Acknowledges every number up to the highest that arrived, holes or not."""
    real = protocol.conversation.acknowledgement

    def boastful(state: Any, key_version: int) -> Any:
        said = real(state, key_version)
        (held,) = said.ranges
        top = held.contiguous_to + held.bitmap.bit_length()
        return replace(said, ranges=(replace(held, contiguous_to=top, bitmap=0),))

    return _swap(node.outbox, "acknowledgement", boastful)


def _no_window() -> Undo:
    """A copy is taken for new."""
    real = protocol.conversation.judge

    def blind(state: Any, *, instance: bytes, pair_seq: int, rk_first: int) -> Judgement:
        said = real(state, instance=instance, pair_seq=pair_seq, rk_first=rk_first)
        return Judgement.NEW if said is Judgement.DUPLICATE else said

    return _swap(node.inbox, "judge", blind)


def _acknowledges_acknowledgements() -> Undo:
    """No message is a service message: two idle offices answer each other for ever."""
    return _swap(node.inbox, "is_service", lambda items: False)


def _cover_is_answered() -> Undo:
    """A message about nothing is one that asks to be acknowledged."""
    real = node.inbox.Inbox._is_service

    def not_cover(self: Any, opened: Any) -> bool:
        return opened.header.type is not MessageType.COVER and real(self, opened)

    return _swap(node.inbox.Inbox, "_is_service", not_cover)


def _deletes_before_keeping() -> Undo:
    """The broker is told to delete in another transaction than the one that keeps the alert: before it."""
    real = node.inbox.Inbox._record

    def reversed_order(self: Any, tx: Any, *, arrival: Any) -> Any:
        from node.peers import load_peer

        if tx.execute("SELECT 1 FROM broker_delete WHERE envelope_hash = ?", (arrival.envelope_hash,)):
            return real(self, tx, arrival=arrival)
        if self._env.random(1)[0] < 64:
            self._delete_later(tx, load_peer(tx, arrival.mailbox.peer), arrival)
            return node.inbox._Outcome()
        return real(self, tx, arrival=arrival)

    return _swap(node.inbox.Inbox, "_record", reversed_order)


def _entry_in_another_transaction() -> Undo:
    """The log entry of an arrival is written when there is time: sometimes never."""
    real = node.inbox.Inbox._log_received

    def forgetful(self: Any, *arguments: Any, **options: Any) -> int:
        if self._env.random(1)[0] < 32:
            return 0
        return real(self, *arguments, **options)

    return _swap(node.inbox.Inbox, "_log_received", forgetful)


def _cursor_runs_ahead() -> Undo:
    """The list is remembered as read although what it brought was not taken in."""
    real = BrokerLink._take_in

    async def faithless(self: Any, arrivals: Any) -> bool:
        if arrivals and self._env.random(1)[0] < 64:
            return True
        return await real(self, arrivals)

    import node.broker_link

    undo_age = _swap(node.broker_link, "LOOK_ANEW_MS", 10**12)
    undo_take = _swap(BrokerLink, "_take_in", faithless)

    def restore() -> None:
        undo_take()
        undo_age()

    return restore


def _believes_cursors() -> Undo:
    """A broker's cursors are believed for ever (found by schedule 2 in the real code, and mended)."""
    import node.broker_link

    return _swap(node.broker_link, "LOOK_ANEW_MS", 10**12)


def _clock_decides() -> Undo:
    """What comes from a clock behind ours is dropped as old."""
    real = protocol.sealing._marks

    def strict(header: Any, certificate: Any, now_ms: int) -> Any:
        from keys.errors import PolicyRefused

        if header.created_ms < now_ms - 120_000:
            raise PolicyRefused("stale", "too old")
        return real(header, certificate, now_ms)

    return _swap(protocol.sealing, "_marks", strict)


def _nonce_repeats() -> Undo:
    """Every content key is the same."""
    real = protocol.sealing.seal

    def same(*arguments: Any, random: Any, **options: Any) -> tuple[bytes, ...]:
        return real(*arguments, random=bytes, **options)

    return _swap(node.outbox, "seal", same)


def _shows_before_commit() -> Undo:
    """A tick is shown for a custody note as if it were a receipt."""
    real = node.outbox.add_rung

    def boastful(tx: Any, alert_id: bytes, peer: bytes, step: str, at_ms: int, *rest: Any) -> None:
        real(tx, alert_id, peer, step, at_ms, *rest)
        if step == "on_broker":
            real(tx, alert_id, peer, "delivered", at_ms, *rest)

    return _swap(node.outbox, "add_rung", boastful)


def _restored_and_silent() -> Undo:
    """An office restored from a backup goes on as if nothing had happened: no RESET is owed to anybody."""
    return _swap(node.restore, "_reset", lambda *arguments, **options: None)


def _copies_not_looked_for() -> Undo:
    """Two messages under one number are both believed as they come."""
    return _swap(node.evidence, "find_clash", lambda *arguments: None)


def _silence_not_shown() -> Undo:
    """A broker that lists nothing looks like a partner that has nothing to say."""
    real = node.watch.Heartbeats.watched

    def trusting(self: Any, tx: Any, peer: Any, view: Any) -> Any:
        return replace(real(self, tx, peer, view), no_proof_since_ms=None)

    return _swap(node.watch.Heartbeats, "watched", trusting)


def _stick_is_delivery() -> Undo:
    """What left on a stick is taken for delivered and never sent again."""
    real = node.outbox.Outbox.note_carried

    def trusting(self: Any, tx: Any, hhs: Any, via: Any) -> None:
        real(self, tx, hhs, via)
        for hh in hhs:
            self.end(tx, hh)

    return _swap(node.outbox.Outbox, "note_carried", trusting)


def _photo_never_asked_again() -> Undo:
    """A photo that was not at the broker when it was asked for is not asked for again."""
    real = node.photos.Photos._settle_download

    def resigned(self: Any, tx: Any, *, alert_id: bytes, number: int, **rest: Any) -> bool:
        is_whole = real(self, tx, alert_id=alert_id, number=number, **rest)
        tx.execute(
            "UPDATE photo SET next_at_ms = ? WHERE alert_id = ? AND incoming = 1 AND number = ?"
            " AND state = 'coming' AND setbacks > 0",
            (10**15, alert_id, number),
        )
        return is_whole

    return _swap(node.photos.Photos, "_settle_download", resigned)


def _photo_shown_unverified() -> Undo:
    """A photo is said to be whole with its first part."""
    real = node.photos.Photos._settle_download

    def hasty(self: Any, tx: Any, *, alert_id: bytes, number: int, **rest: Any) -> bool:
        is_whole = real(self, tx, alert_id=alert_id, number=number, **rest)
        tx.execute(
            "UPDATE photo SET state = 'whole' WHERE alert_id = ? AND incoming = 1 AND number = ?"
            " AND state = 'coming' AND done_bytes > 0 AND done_bytes < size_bytes",
            (alert_id, number),
        )
        return is_whole

    return _swap(node.photos.Photos, "_settle_download", hasty)


def _witness_accepts_another_root() -> Undo:
    """A witness records, and signs, another head than the one it was shown."""

    def careless(*arguments: Any) -> Any:
        judged = judge_untrusted(*arguments)
        if judged.offered is None or judged.status != 200:
            return judged
        return replace(judged, offered=replace(judged.offered, root=bytes(32)))

    return _swap(node.witness, "judge_untrusted", careless)


def _log_shows_two_roots() -> Undo:
    """A log asks its witness about another history than the one it published, now and then."""
    real = AuditLog.signed

    def forked(self: Any, head: Any) -> bytes:
        if self._env.random(1)[0] < 64:
            head = replace(head, root=bytes(32))
        return real(self, head)

    return _swap(AuditLog, "signed", forked)


def _witnesses_wake_each_other() -> Undo:
    """Entries about another log's head ask for witnesses like all others."""

    def any_entry(self: Any, tx: Any, begin: int, end: int) -> int | None:
        row = tx.one("SELECT min(ts_us) FROM leaf WHERE idx >= ? AND idx < ?", (begin, end))
        return None if row is None else row[0]

    real = AuditLog._note_commit

    def wakes(self: Any, size: int, _: bool) -> None:
        real(self, size, True)

    undo_wake = _swap(AuditLog, "_note_commit", wakes)
    undo_entry = _swap(AuditLog, "own_entry_since_us", any_entry)

    def restore() -> None:
        undo_entry()
        undo_wake()

    return restore


def _goes_straight() -> Undo:
    """What the own broker cannot hand on is taken to the other broker straight."""
    real = node.routes.ForwardedLine._ask
    find = node.routes.Routes._line

    def hasty(self: Any, address: Any) -> Any:
        line = find(self, address)
        if isinstance(line, node.routes.ForwardedLine):
            line._straight = BrokerLine(self._env, address)  # type: ignore[attr-defined]
        return line

    async def carry(self: Any, card: Any, body: bytes, *, wait_ms: int = 0) -> bytes:
        try:
            return await real(self, body, wait_ms)
        except Unavailable:
            answer: bytes = await self._straight.carry(card, body, wait_ms=wait_ms)
            return answer

    undo_find = _swap(node.routes.Routes, "_line", hasty)
    undo_carry = _swap(node.routes.ForwardedLine, "carry", carry)

    def restore() -> None:
        undo_carry()
        undo_find()

    return restore


def _asks_own_broker_first() -> Undo:
    """Our own broker is shown what is meant for the other one: it might hold the mailbox itself."""
    real = BrokerClient._exchange_once

    async def talkative(self: Any, ops: Any) -> Any:
        if isinstance(self._line, node.routes.ForwardedLine):
            await real(self._line._client, ops)
        return await real(self, ops)

    return _swap(BrokerClient, "_exchange_once", talkative)


def _new_token_not_used() -> Undo:
    """A link goes on with the token it began with, whatever route was added since."""

    async def as_it_was(self: Any, address: str) -> None:
        pass

    return _swap(Node, "_reached_otherwise", as_it_was)


def _photos_go_first() -> Undo:
    """What is due does not hold up the parts of a photo."""
    real = NodeTraffic.next_due_ms

    async def nothing_for_parts(self: Any, address: str) -> Any:
        if sys._getframe(1).f_code.co_name == "_part_turn":
            return None
        return await real(self, address)

    async def patient(self: Any) -> None:
        while self._part is not None:
            await self._env.sleep(0.05)
        await real_turn(self)

    real_turn = BrokerLink._send_turn
    undo_due = _swap(NodeTraffic, "next_due_ms", nothing_for_parts)
    undo_turn = _swap(BrokerLink, "_send_turn", patient)

    def restore() -> None:
        undo_turn()
        undo_due()

    return restore


def _part_not_broken_off() -> Undo:
    """A part of a photo that is under way is let finish beside what is put."""
    real = BrokerLink._send_turn

    async def lenient(self: Any) -> None:
        part, self._part = self._part, None
        try:
            await real(self)
        finally:
            if self._part is None and part is not None and not part.done():
                self._part = part

    return _swap(BrokerLink, "_send_turn", lenient)


def _photos_that_outlive(which: str) -> Callable[[], Undo]:
    """An alert is erased, and the bytes of some of its pictures stay."""
    real = node.photos.Photos.erase

    def forgetful(self: Any, tx: Any, alert_id: bytes, incoming: bool) -> bool:
        kept = tx.execute(
            "SELECT blob, at, bytes FROM photo_part WHERE blob IN (SELECT blob FROM photo"
            f" WHERE alert_id = ? AND incoming = ? AND {which})",
            (alert_id, int(incoming)),
        )
        had_any = real(self, tx, alert_id, incoming)
        tx.execute_many("INSERT INTO photo_part (blob, at, bytes) VALUES (?, ?, ?)", kept)
        return had_any

    return lambda: _swap(node.photos.Photos, "erase", forgetful)


MISTAKES: Final[dict[str, Callable[[], Undo]]] = {
    "sync_normal": _sync_normal,
    "no_checkpoint_at_open": _no_checkpoint_at_open,
    "answer_before_commit": _answer_before_commit,
    "keystore_not_synced": _keystore_not_synced,
    "seed_after_announcement": _seed_after_announcement,
    "custody_is_delivery": _custody_is_delivery,
    "never_asks_again": _never_asks_again,
    "window_forgotten": _window_forgotten,
    "no_window": _no_window,
    "acknowledges_acknowledgements": _acknowledges_acknowledgements,
    "cover_is_answered": _cover_is_answered,
    "deletes_before_keeping": _deletes_before_keeping,
    "entry_in_another_transaction": _entry_in_another_transaction,
    "cursor_runs_ahead": _cursor_runs_ahead,
    "believes_cursors": _believes_cursors,
    "clock_decides": _clock_decides,
    "nonce_repeats": _nonce_repeats,
    "shows_before_commit": _shows_before_commit,
    "restored_and_silent": _restored_and_silent,
    "copies_not_looked_for": _copies_not_looked_for,
    "silence_not_shown": _silence_not_shown,
    "stick_is_delivery": _stick_is_delivery,
    "photo_never_asked_again": _photo_never_asked_again,
    "photo_shown_unverified": _photo_shown_unverified,
    "witness_accepts_another_root": _witness_accepts_another_root,
    "log_shows_two_roots": _log_shows_two_roots,
    "witnesses_wake_each_other": _witnesses_wake_each_other,
    "photos_go_first": _photos_go_first,
    "part_not_broken_off": _part_not_broken_off,
    "half_fetched_photo_stays": _photos_that_outlive("state = 'coming' AND done_bytes > 0"),
    "thumbnail_stays": _photos_that_outlive("number % 2 = 1"),
    "goes_straight": _goes_straight,
    "asks_own_broker_first": _asks_own_broker_first,
    "new_token_not_used": _new_token_not_used,
}


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Make this mistake for a while."""
    undo = MISTAKES[name]()
    try:
        yield
    finally:
        undo()
