"""Cover: messages about nothing, so that who watches a line cannot count what is said on it.

Spec: docs/spec/conversation.md#cover. Off unless the operator asks for it. One rule: cover is what can be
left out. It leaves only where nothing waits and little is unacknowledged, so that it takes no alert's place,
and it is never a reason to say anything. Its moments are memoryless: to have seen one says nothing of the
next, and nothing of them needs to be kept.
"""

import math
from typing import Final

from node.outbox import CONTROL_LIFE_MS, Outbox, ToSend
from node.peers import Peer, load_peer, load_peers, save_peer
from protocol import limits
from protocol.conversation import acknowledgement
from protocol.items import Item, encode_items
from protocol.message import MessageType
from protocol.requests import bytes_around
from runtime.env import Env
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

_log = get_logger("cover", {"mean_s", "peer_day_bytes"})

# What HTTP says around a request and its answer, and TLS around both.
_EXCHANGE_BYTES: Final = 63 + 41 + 2 * 22
_ENVELOPE_BYTES: Final = bytes_around(limits.ENVELOPE_BUCKETS_BYTES[0])
# What the line carries for one of them, both ways, in the office that sends it: the put, and custody notes.
SENT_BYTES: Final = _ENVELOPE_BYTES + 1_024 + _EXCHANGE_BYTES
# In the one that takes it: the answer that brings it, its deletion with an empty answer, and another poll.
_DELETION_BYTES: Final = limits.POLL_REQUEST_BYTES + limits.EMPTY_ANSWER_BYTES
TAKEN_BYTES: Final = _ENVELOPE_BYTES + _DELETION_BYTES + limits.REQUEST_BYTES_MIN + 2 * _EXCHANGE_BYTES
EXAMPLE_MEAN_S: Final = 600

_LOOK_S: Final = 60.0  # partners come and go


class Cover:
    """Sends cover to every active partner, ``mean_s`` apart in the long run; ``run`` until cancelled."""

    def __init__(self, env: Env, db: Database, outbox: Outbox, *, key_version: int, mean_s: int) -> None:
        self._env = env
        self._db = db
        self._outbox = outbox
        self._key_version = key_version
        self._mean_s = mean_s
        # Of each partner: the next moment, and the last row of the outbox when the one before passed.
        self._due: dict[bytes, tuple[int, int]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        sent_bytes, _ = day_bytes(self._mean_s)
        _log.info("cover_on", mean_s=self._mean_s, peer_day_bytes=sent_bytes)
        while True:
            await self.send_due()
            await self._env.sleep(self._rest_s())

    async def send_due(self) -> None:
        """Cover for each partner whose moment has come, if nothing speaks against it."""
        now_ms = self._env.clock.monotonic_ms()
        talking, newest = await self._db.read(
            lambda tx: ([p.office_id for p in load_peers(tx) if p.is_talking], _newest(tx))
        )
        for peer_id in list(self._due):
            if peer_id not in talking:
                del self._due[peer_id]
        for peer_id in talking:
            due_ms, seen = self._due.get(peer_id, (None, newest))
            if due_ms is not None and due_ms <= now_ms:
                await self._db.transact(lambda tx, p=peer_id, s=seen: self._send(tx, p, s))  # type: ignore[misc]
            if due_ms is None or due_ms <= now_ms:
                self._due[peer_id] = (now_ms + self._gap_ms(), newest)

    def _send(self, tx: Transaction, peer_id: bytes, seen: int) -> None:
        peer = load_peer(tx, peer_id)
        if not peer.is_talking or not may_leave(tx, peer, seen):
            return
        # Costs no byte, and lets the peer forget its own cover; not a reason to answer either.
        items: list[Item] = [acknowledgement(peer.pair, self._key_version)] if peer.pair.unreported else []
        message = ToSend(
            type=MessageType.COVER,
            core=encode_items(items),
            expires_ms=self._env.clock.now_ms() + CONTROL_LIFE_MS,
            service=True,
        )
        self._outbox.compose(tx, peer, message)
        self._outbox.note_company(peer, items, self._env.clock.now_ms())
        save_peer(tx, peer)

    def _gap_ms(self) -> int:
        return int(-math.log1p(-self._env.jitter()) * self._mean_s * 1000)

    def _rest_s(self) -> float:
        now_ms = self._env.clock.monotonic_ms()
        ahead = [(due_ms - now_ms) / 1000 for due_ms, _ in self._due.values()]
        return max(0.0, min([_LOOK_S, *ahead]))


def may_leave(tx: Snapshot, peer: Peer, seen: int) -> bool:
    """Whether cover may leave for a peer. ``seen``: the last row of the outbox at the moment before.

    What was said since took the place of this one; what waits, or fills the mailbox, must not wait for it.
    """
    out = peer.pair.outbound
    unacknowledged = out.next_seq - 1 - out.acknowledged_to
    if unacknowledged >= limits.COVER_UNACKNOWLEDGED_MAX:
        return False
    return not tx.execute(
        "SELECT 1 FROM delivery WHERE peer = ?1 AND rowid > ?2 AND NOT service UNION ALL"
        " SELECT 1 FROM delivery INDEXED BY delivery_due WHERE next_at_ms IS NOT NULL AND peer = ?1"
        " AND phase IN ('kept', 'address_lost') LIMIT 1",
        (peer.office_id, seen),
    )


def day_bytes(mean_s: int) -> tuple[int, int]:
    """Of one partner when nothing takes its place: (for what is sent, for what comes if it does the same)."""
    return SENT_BYTES * 86_400 // mean_s, TAKEN_BYTES * 86_400 // mean_s


def cover_cost(mean_s: int, partners: int) -> str:
    """What cover costs the line of an office with so many active partners, or would, for who pays for it."""
    sent, taken = (size * partners / 1e6 for size in day_bytes(mean_s or EXAMPLE_MEAN_S))
    cost = f"{sent:.1f} MB a day, and {taken:.1f} MB more if all partners ({partners}) do the same"
    if not mean_s:
        return f"none is sent; one in {EXAMPLE_MEAN_S} s (cover_mean_s) would be {cost}"
    return f"one in {mean_s} s to each: {cost}"


def _newest(tx: Snapshot) -> int:
    newest: int = tx.value("SELECT coalesce(max(rowid), 0) FROM delivery")
    return newest
