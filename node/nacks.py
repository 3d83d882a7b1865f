"""Nacks: telling a peer that it sealed to a key we never had, and sealing anew when a peer tells us.

Spec: docs/spec/conversation.md#receive-keys, rule 7. One rule: one nack at once, then hourly at most,
whatever arrives: anybody who can reach a mailbox can make bytes that look like an unknown key.
"""

from functools import partial

from keys.errors import PolicyRefused
from node import one_time, watch
from node.outbox import CONTROL_LIFE_MS, Outbox, ToSend
from node.peers import Peer, load_peer, save_peer
from node.receive_keys import ReceiveKeyRing
from protocol import limits
from protocol.delivery import Nacked
from protocol.items import Item, UnknownKeyNotice, encode_items
from protocol.message import MessageType
from protocol.receivekeys import announce
from runtime.env import Env
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

log = get_logger("nacks")

_DUE = (
    "SELECT DISTINCT n.peer FROM nack_due n JOIN peer p ON p.office_id = n.peer"
    " LEFT JOIN watch w ON w.peer = n.peer WHERE p.state = 'active' AND p.frozen_ms IS NULL"
    # Set back clocks do not silence it: a time in the future counts as long ago.
    " AND (w.nack_sent_ms IS NULL OR w.nack_sent_ms NOT BETWEEN ? AND ?)"
)


class Nacks:
    """Owes, sends and obeys nacks."""

    def __init__(
        self, env: Env, db: Database, keys: ReceiveKeyRing, outbox: Outbox, *, key_version: int
    ) -> None:
        self._env = env
        self._db = db
        self._keys = keys
        self._outbox = outbox
        self._key_version = key_version

    def owe(self, tx: Transaction, peer_id: bytes, envelope_hash: bytes) -> None:
        """Name this envelope in the next nack. Beyond 32 the sender finds out by asking the broker."""
        watch.note_unknown(tx, peer_id, self._env.clock.now_ms())
        tx.execute(
            "INSERT OR IGNORE INTO nack_due (peer, envelope_hash) SELECT ?, ?"
            " WHERE (SELECT count(*) FROM nack_due WHERE peer = ?) < ?",
            (peer_id, envelope_hash, peer_id, limits.NACK_HASHES_MAX),
        )

    async def send_once(self) -> None:
        """Send what is owed to every peer whose last nack is an hour old."""
        now_ms = self._env.clock.now_ms()

        def look(tx: Snapshot) -> list[bytes]:
            return [row[0] for row in tx.execute(_DUE, (now_ms - limits.NACK_INTERVAL_MS + 1, now_ms))]

        due = await self._db.read(look)
        await self._keys.prepare(due)
        for peer_id in due:
            try:
                await self._db.transact(partial(self._send, peer_id=peer_id, now_ms=now_ms))
            except PolicyRefused as full:
                log.warning("nack_waits", code=full.code)

    def _send(self, tx: Transaction, *, peer_id: bytes, now_ms: int) -> None:
        peer = load_peer(tx, peer_id)
        named = [
            row[0]
            for row in tx.execute(
                "SELECT envelope_hash FROM nack_due WHERE peer = ? ORDER BY rowid", (peer_id,)
            )
        ]
        if not named:
            return
        self._keys.use(tx, peer)
        newest = peer.receive_keys.next or peer.receive_keys.cur
        items: list[Item] = [
            announce(newest, self._key_version),
            UnknownKeyNotice(envelope_hashes=tuple(named)),
        ]
        self._outbox.compose(
            tx,
            peer,
            ToSend(
                type=MessageType.NACK,
                core=encode_items(items),
                expires_ms=now_ms + CONTROL_LIFE_MS,
                urgent=True,
            ),
        )
        save_peer(tx, peer)
        tx.execute("DELETE FROM nack_due WHERE peer = ?", (peer_id,))
        tx.execute("INSERT OR IGNORE INTO watch (peer) VALUES (?)", (peer_id,))
        tx.execute("UPDATE watch SET nack_sent_ms = ? WHERE peer = ?", (now_ms, peer_id))

    def obey(self, tx: Transaction, peer: Peer, notice: UnknownKeyNotice) -> None:
        """Seal anew what the peer could not open. Its key announcement must have been adopted before."""
        one_time.drop_offered(tx, peer.office_id)
        now_ms = self._env.clock.now_ms()
        for named in notice.envelope_hashes:
            row = self._outbox.find(tx, peer.office_id, named)
            if row is None:
                continue  # sealed anew since, acknowledged, or never ours
            if not watch.take(tx, peer.office_id, "resealed", now_ms, most=limits.NACK_RESEALS_PER_HOUR_MAX):
                log.warning("nack_ignored", code="nack_flood")
                return
            self._outbox.apply(tx, row, Nacked(), peer=peer)
