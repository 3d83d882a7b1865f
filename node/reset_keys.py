"""Reset keys: what a restored office seals its RESET to, since every receive key it remembers may be gone.

Spec: docs/spec/conversation.md#reset. One key for each peer, never rotated, its seed kept in backups too.
One rule: what comes under such a key is a RESET or it is junk, so that a key that lives for years protects
no alert.
"""

from keys.errors import VerificationFailed
from keys.pairok import PairOk, ResetKey
from keys.primitives import XWingPrivateKey
from keys.secret import SecretBytes
from node.peers import Peer, load_peers
from node.secrets import Secrets
from protocol import limits
from protocol.delivery import Delivery, DeliveryState
from protocol.items import ResetKeyItem
from runtime.env import Env
from runtime.sqlite import Database, Snapshot, Transaction

SEED_BYTES = 32


class ResetKeyRing:
    """Opens resets; makes a key for each peer once."""

    def __init__(self, env: Env, db: Database, secrets: Secrets) -> None:
        self._env = env
        self._db = db
        self._secrets = secrets
        self._open: dict[bytes, tuple[XWingPrivateKey, bytes]] = {}

    async def load(self) -> None:
        """At start and by the hour: open every key, make the missing ones, seeds first."""
        rows = await self._db.read(lambda tx: tx.execute("SELECT peer, key_id FROM reset_key WHERE own = 1"))
        known = {bytes(peer): bytes(key_id) for peer, key_id in rows}
        for peer in await self._db.read(load_peers):
            key_id = known.get(peer.office_id)
            if key_id is None or secret_name(peer.office_id, key_id) not in self._secrets.names("reset/"):
                key_id = await self._make(peer.office_id)
            seed = self._secrets.get(secret_name(peer.office_id, key_id))
            self._open[key_id] = (XWingPrivateKey.from_seed(seed), peer.office_id)

    async def for_pairing(self, peer_id: bytes) -> ResetKey:
        """Our key for this peer, durable before the pair-ok that brings it; a second pairing keeps it."""
        row = await self._db.read(
            lambda tx: tx.one("SELECT key_id FROM reset_key WHERE peer = ? AND own = 1", (peer_id,))
        )
        key_id = await self._make(peer_id) if row is None else bytes(row[0])
        key = XWingPrivateKey.from_seed(self._secrets.get(secret_name(peer_id, key_id)))
        self._open[key_id] = (key, peer_id)
        return ResetKey(key_id=key_id, public=key.public_bytes)

    def find(self, key_id: bytes) -> tuple[XWingPrivateKey, bytes] | None:
        """The private key of an id and the peer it was made for."""
        return self._open.get(key_id)

    async def _make(self, peer_id: bytes) -> bytes:
        key_id, seed = self._env.random(limits.KEY_ID_BYTES), SecretBytes(self._env.random(SEED_BYTES))
        await self._secrets.put({secret_name(peer_id, key_id): seed})
        public = XWingPrivateKey.from_seed(seed).public_bytes
        await self._db.transact(
            lambda tx: tx.execute(
                "INSERT OR REPLACE INTO reset_key (peer, own, key_id, public) VALUES (?, 1, ?, ?)",
                (peer_id, key_id, public),
            )
        )
        return key_id


def check_not_reset_key(ring: ResetKeyRing, key_id: bytes) -> None:
    """Raise VerificationFailed ``reset_key_misused``: only a reset may come under such a key."""
    if ring.find(key_id) is not None:
        raise VerificationFailed("reset_key_misused", "something else than a reset came under a reset key")


def secret_name(peer_id: bytes, key_id: bytes) -> str:
    """Name of a seed in the keystore."""
    return f"reset/{peer_id.hex()}/{key_id.hex()}"


# Also while its address is lost: a new message each round would be as lost, and one more each time.
_GOES_ON = (Delivery.ACKNOWLEDGED, Delivery.HELD, Delivery.KEPT, Delivery.ADDRESS_LOST)


def own_item(tx: Snapshot, peer_id: bytes) -> ResetKeyItem | None:
    """Our key for this peer, unless a message that carries it arrived or is on its way."""
    row = tx.one(
        "SELECT key_id, public, carried_by FROM reset_key WHERE peer = ? AND own = 1 AND paired = 0",
        (peer_id,),
    )
    if row is None:
        return None
    if row[2] is not None:
        carried = tx.one("SELECT state FROM delivery WHERE hh = ?", (row[2],))
        state = None if carried is None else DeliveryState.decode(carried[0])
        if state is not None and not state.bodyless and state.phase in _GOES_ON:
            return None  # arrived, or on its way with everything it carries
    return ResetKeyItem(key_id=row[0], public=row[1])


def note_carried(tx: Transaction, peer: Peer, hh: bytes) -> None:
    """This message takes our key to the peer."""
    tx.execute("UPDATE reset_key SET carried_by = ? WHERE peer = ? AND own = 1", (hh, peer.office_id))


def note_paired(tx: Transaction, peer: Peer, ours: PairOk, theirs: PairOk) -> None:
    """A pair became whole: whoever may speak in it has verified the other's pair-ok, and its key with it."""
    tx.execute(
        "UPDATE reset_key SET paired = ? WHERE peer = ? AND own = 1",
        (int(ours.reset_key is not None), peer.office_id),
    )
    if theirs.reset_key is not None:
        keep_theirs(tx, peer, ResetKeyItem(key_id=theirs.reset_key.key_id, public=theirs.reset_key.public))


def keep_theirs(tx: Transaction, peer: Peer, item: ResetKeyItem) -> None:
    """The peer's key: the newest it signed counts."""
    tx.execute(
        "INSERT OR REPLACE INTO reset_key (peer, own, key_id, public) VALUES (?, 0, ?, ?)",
        (peer.office_id, item.key_id, item.public),
    )


def theirs(tx: Snapshot, peer: Peer) -> tuple[bytes, bytes]:
    """(key id, public key) a RESET to this peer is sealed to: its reset key, or the newest one known."""
    row = tx.one("SELECT key_id, public FROM reset_key WHERE peer = ? AND own = 0", (peer.office_id,))
    known = peer.peer_key.announcement
    return (known.key_id, known.public) if row is None else (row[0], row[1])
