"""What is watched of each peer: its heartbeats, when it last proved to be there, how much noise it makes.

Spec: docs/spec/conversation.md#heartbeats. Two rules: a heartbeat is never answered, so two idle offices do
not talk for ever; and what a broker can make or repeat by itself fills neither our log nor anybody's mailbox.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from keys.errors import PolicyRefused
from node.outbox import CONTROL_LIFE_MS, Outbox, ToSend
from node.peers import Peer, load_peer, save_peer
from node.views import PeerView
from protocol import limits
from protocol.conversation import WINDOW, Inbound, acknowledgement, next_slot
from protocol.items import HeartBeat, Item, encode_items
from protocol.message import Header, MessageType
from runtime.env import Env
from runtime.sqlite import Database, Snapshot, Transaction

_DUE = (
    "SELECT p.office_id FROM peer p LEFT JOIN watch w ON w.peer = p.office_id"
    " WHERE p.state = 'active' AND p.frozen_ms IS NULL"
    # A clock that was set back must not silence us until it has caught up.
    " AND coalesce(w.beat_sent_ms, p.since_ms) NOT BETWEEN ? -"
    " iif(coalesce(p.last_heard_ms, p.since_ms) < ?, ?, ?) + 1 AND ?"
)


class Heartbeats:
    """Says to every peer, once an interval, that we are here and what our highest number is."""

    def __init__(
        self,
        env: Env,
        db: Database,
        outbox: Outbox,
        *,
        key_version: int,
        interval_ms: int,
        company: Callable[[Transaction, Peer], list[Item]],
    ) -> None:
        self._env = env
        self._db = db
        self._outbox = outbox
        self._key_version = key_version
        self._interval_ms = interval_ms
        self._company = company

    async def beat_once(self) -> None:
        """Keep a heartbeat for every peer that is due one."""
        now_ms = self._env.clock.now_ms()
        due = await self._db.read(
            lambda tx: [
                row[0]
                for row in tx.execute(
                    _DUE,
                    (
                        now_ms,
                        now_ms - limits.HEARTBEAT_QUIET_AFTER_MS,
                        limits.HEARTBEAT_QUIET_INTERVAL_MS,
                        self._interval_ms,
                        now_ms,
                    ),
                )
            ]
        )
        if await self._db.read(lambda tx: tx.execute("SELECT 1 FROM watch WHERE proof_ms > ?", (now_ms,))):
            # Our clock was set back: an office would go unheard for so long before anybody is told.
            await self._db.transact(
                lambda tx: tx.execute("UPDATE watch SET proof_ms = ?1 WHERE proof_ms > ?1", (now_ms,))
            )
        for peer_id in due:
            if await self._db.read(lambda tx, peer_id=peer_id: _is_waiting(tx, peer_id)):  # type: ignore[misc]
                continue
            await self._db.transact(lambda tx, peer_id=peer_id: self._beat(tx, peer_id, now_ms))  # type: ignore[misc]

    def _beat(self, tx: Transaction, peer_id: bytes, now_ms: int) -> None:
        peer = load_peer(tx, peer_id)
        if not peer.is_talking:
            return
        try:
            number = next_slot(peer.pair).pair_seq
        except PolicyRefused:
            return  # a full window already says that the peer is not heard
        items: list[Item] = [HeartBeat(highest_seq=number, at_ms=now_ms)]
        if peer.pair.unreported:
            # Costs no byte, and lets the peer forget its own heartbeats; not a reason to answer either.
            items.append(acknowledgement(peer.pair, self._key_version))
        items += self._company(tx, peer)
        message = ToSend(
            type=MessageType.CONTROL,
            core=encode_items(items),
            expires_ms=now_ms + CONTROL_LIFE_MS,
            service=True,
        )
        hh, _ = self._outbox.compose(tx, peer, message)
        self._outbox.note_company(peer, items, now_ms)
        save_peer(tx, peer)
        _row_of(tx, peer_id)
        tx.execute("UPDATE watch SET beat_hh = ?, beat_sent_ms = ? WHERE peer = ?", (hh, now_ms, peer_id))

    def watched(self, tx: Snapshot, peer: Peer, view: PeerView) -> PeerView:
        """The view of a peer, with what its silence and its numbers say."""
        row = tx.one(
            "SELECT proof_ms, beat_instance, beat_highest, unknown_ms, late_ms FROM watch WHERE peer = ?",
            (peer.office_id,),
        )
        proof_ms, instance, highest, unknown_ms, late_ms = row or (None, None, None, None, None)
        proof_ms = max(peer.since_ms, proof_ms or 0)
        # A peer that slows down because it does not hear us is no sign of a broker that withholds.
        silent = self._env.clock.now_ms() - proof_ms > 2 * self._interval_ms + limits.HEARTBEAT_SLACK_MS
        missing = view.missing_in
        if instance == peer.pair.inbound.instance and highest is not None:
            missing += max(0, highest - _highest(peer.pair.inbound))
        is_watched = peer.is_active
        since_ms = proof_ms if silent and is_watched else None
        # Nothing but what another copy of this node could open: no proof, because a broker can make it, and
        # still what an office sees that was copied or put back.
        if unknown_ms is not None and unknown_ms <= (peer.last_heard_ms or 0):
            unknown_ms = None
        # An honest duplicate comes late now and then; an office that was restored and could not tell us sends
        # nothing else, its heartbeats neither.
        heard_ms = (peer.last_heard_ms or 0) + self._interval_ms
        if since_ms is None or (late_ms is not None and late_ms <= heard_ms):
            late_ms = None
        return replace(
            view,
            no_proof_since_ms=since_ms,
            missing_in=missing,
            unknown_keys_since_ms=unknown_ms,
            late_keys_since_ms=late_ms,
        )


def note_proof(tx: Transaction, peer: Peer, header: Header, now_ms: int) -> None:
    """The peer signed this header: it was there at the time it says, unless its clock says nonsense."""
    signed_ms = min(header.created_ms, now_ms)
    if signed_ms < peer.since_ms - limits.CLOCK_AHEAD_MS_MAX:
        signed_ms = now_ms
    _row_of(tx, peer.office_id)
    tx.execute(
        "UPDATE watch SET proof_ms = max(coalesce(proof_ms, 0), ?) WHERE peer = ?",
        (signed_ms, peer.office_id),
    )


def note_unknown(tx: Transaction, peer_id: bytes, now_ms: int) -> None:
    """Something arrived under a receive key this node never had. Any broker can make such bytes."""
    _row_of(tx, peer_id)
    tx.execute("UPDATE watch SET unknown_ms = ? WHERE peer = ?", (now_ms, peer_id))


def note_late(tx: Transaction, peer_id: bytes, now_ms: int) -> None:
    """Something arrived under a receive key given up before. Any broker can repeat such bytes."""
    _row_of(tx, peer_id)
    tx.execute("UPDATE watch SET late_ms = ? WHERE peer = ?", (now_ms, peer_id))


def note_beat(tx: Transaction, peer: Peer, beat: HeartBeat) -> None:
    """Remember the highest number the peer says it gave out; one beyond the window says nothing."""
    inbound = peer.pair.inbound
    if beat.highest_seq > inbound.contiguous_to + WINDOW:
        return
    _row_of(tx, peer.office_id)
    tx.execute(
        "UPDATE watch SET beat_highest = iif(beat_instance IS ?, max(coalesce(beat_highest, 0), ?), ?),"
        " beat_instance = ? WHERE peer = ?",
        (inbound.instance, beat.highest_seq, beat.highest_seq, inbound.instance, peer.office_id),
    )


def may_note(tx: Transaction, peer_id: bytes, now_ms: int) -> bool:
    """Whether something that a broker can make or repeat by itself still gets an entry this hour."""
    return take(tx, peer_id, "unproven", now_ms, most=limits.UNPROVEN_ENTRIES_PER_HOUR_MAX)


def take(
    tx: Transaction,
    peer_id: bytes,
    what: Literal["unproven", "resealed", "witnessed"],
    now_ms: int,
    *,
    most: int,
) -> bool:
    """Count one of this hour's ``most``; whether it was still to be had."""
    _row_of(tx, peer_id)
    hour_ms = tx.value("SELECT hour_ms FROM watch WHERE peer = ?", (peer_id,))
    if not hour_ms <= now_ms < hour_ms + limits.HOUR_MS:
        tx.execute(
            "UPDATE watch SET hour_ms = ?, unproven = 0, resealed = 0, witnessed = 0 WHERE peer = ?",
            (now_ms, peer_id),
        )
    used: int = tx.value(f"SELECT {what} FROM watch WHERE peer = ?", (peer_id,))  # noqa: S608 - one of three words
    if used >= most:
        return False
    tx.execute(f"UPDATE watch SET {what} = {what} + 1 WHERE peer = ?", (peer_id,))  # noqa: S608
    return True


def _row_of(tx: Transaction, peer_id: bytes) -> None:
    tx.execute("INSERT OR IGNORE INTO watch (peer) VALUES (?)", (peer_id,))


def _is_waiting(tx: Snapshot, peer_id: bytes) -> bool:
    """Whether our last heartbeat has not left yet: while the link is down one is enough."""
    return bool(
        tx.execute(
            "SELECT 1 FROM watch w JOIN delivery d ON d.hh = w.beat_hh"
            " WHERE w.peer = ? AND d.phase IN ('kept', 'address_lost')",
            (peer_id,),
        )
    )


def _highest(inbound: Inbound) -> int:
    return inbound.contiguous_to + inbound.bitmap.bit_length()
