"""The receive keys of all pairs as this node holds them: seeds in the keystore, halves in the database.

Spec: docs/spec/conversation.md#receive-keys. One rule: a seed is durable before the transaction that
announces its key, and goes only after the transaction that gave the key up is.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from keys.primitives import XWingPrivateKey
from keys.secret import SecretBytes
from node import one_time
from node.layout import SecretName
from node.peers import Peer, load_peer, load_peers, save_peer
from node.secrets import Secrets
from protocol import limits
from protocol.onetime import one_time_ids
from protocol.receivekeys import close_old, live_key_ids, wants_next, with_next
from runtime.env import Env
from runtime.sqlite import Database, Snapshot, Transaction

SEED_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshKey:
    """A key whose seed is durable and that no peer knows yet."""

    key_id: bytes
    public: bytes = field(repr=False)


class ReceiveKeyRing:
    """Opens with every live key; makes the next ones."""

    def __init__(self, env: Env, db: Database, secrets: Secrets) -> None:
        self._env = env
        self._db = db
        self._secrets = secrets
        self._open: dict[bytes, tuple[XWingPrivateKey, bytes]] = {}
        # Made and durable, not yet announced; used by the next transaction that sends.
        self._spare: dict[bytes, FreshKey] = {}
        self._one_time_spares: dict[bytes, list[FreshKey]] = {}
        self._one_maker = asyncio.Lock()

    async def load(self) -> None:
        """At start: open every live key, drop seeds that no committed row names any more."""
        peers, half = await self._db.read(
            lambda tx: (
                [
                    (
                        p.office_id,
                        (*live_key_ids(p.receive_keys), *one_time_ids(one_time.load_own(tx, p.office_id))),
                    )
                    for p in load_peers(tx)
                ],
                tx.execute("SELECT peer, receive_key_id FROM half_pair"),
            )
        )
        live: dict[str, tuple[bytes, bytes]] = {
            SecretName.receive(office_id, key): (office_id, key)
            for office_id, keys in (*peers, *((office_id, (key,)) for office_id, key in half))
            for key in keys
        }
        await self._secrets.remove(name for name in self._secrets.names("receive/") if name not in live)
        for name, (office_id, key_id) in live.items():
            self._open[key_id] = (XWingPrivateKey.from_seed(self._secrets.get(name)), office_id)

    def find(self, key_id: bytes) -> tuple[XWingPrivateKey, bytes] | None:
        """The private key of an id and the peer it was made for."""
        return self._open.get(key_id)

    async def make(self, peer_id: bytes) -> FreshKey:
        """A fresh key for one peer, its seed durable."""
        (key,) = await self._make_many(peer_id, 1)
        return key

    async def _make_many(self, peer_id: bytes, count: int) -> list[FreshKey]:
        seeds = {
            self._env.random(limits.KEY_ID_BYTES): SecretBytes(self._env.random(SEED_BYTES))
            for _ in range(count)
        }
        await self._secrets.put({SecretName.receive(peer_id, key_id): seeds[key_id] for key_id in seeds})
        made = []
        for key_id, seed in seeds.items():
            private = XWingPrivateKey.from_seed(seed)
            self._open[key_id] = (private, peer_id)
            made.append(FreshKey(key_id=key_id, public=private.public_bytes))
        return made

    def add(self, peer_id: bytes, key_id: bytes, seed: SecretBytes) -> None:
        """Open a key whose seed the caller made durable itself, as pairing does."""
        self._open[key_id] = (XWingPrivateKey.from_seed(seed), peer_id)

    async def prepare(self, peer_ids: Iterable[bytes]) -> None:
        """Rule 1, before anything but a service message is sent: a key ready for who wants a next one."""
        now_ms = self._env.clock.now_ms()
        named = list(peer_ids)
        await self._prepare_one_time(named, now_ms)
        wanted = [peer_id for peer_id in named if peer_id not in self._spare]
        if not wanted:
            return
        ready = await self._db.read(lambda tx: [p for p in wanted if _wants(p, now_ms, tx)])
        for peer_id in ready:
            # One at a time, and asked again: of many alerts sent at once each would make a key, and all but
            # the first would lie in the keystore, named by nobody, until the next start.
            async with self._one_maker:
                if peer_id not in self._spare and await self._db.read(partial(_wants, peer_id, now_ms)):
                    self._spare[peer_id] = await self.make(peer_id)

    async def _prepare_one_time(self, peer_ids: Sequence[bytes], now_ms: int) -> None:
        """Rule 8: as many one-time keys at hand as the next offer to each wants."""

        def lacking(tx: Snapshot) -> dict[bytes, int]:
            counts = {p: one_time.wanted(tx, load_peer(tx, p), now_ms) for p in peer_ids}
            return {p: count - len(self.one_time_ready(p)) for p, count in counts.items()}

        if not any(count > 0 for count in (await self._db.read(lacking)).values()):
            return
        async with self._one_maker:
            for peer_id, count in (await self._db.read(lacking)).items():
                if count > 0:
                    made = await self._make_many(peer_id, count)
                    self._one_time_spares.setdefault(peer_id, []).extend(made)

    def one_time_ready(self, peer_id: bytes) -> Sequence[tuple[bytes, bytes]]:
        """(id, public) of the one-time keys no peer knows yet."""
        return [(key.key_id, key.public) for key in self._one_time_spares.get(peer_id, ())]

    def one_time_taken(self, tx: Transaction, peer_id: bytes, key_ids: Sequence[bytes]) -> None:
        """These are announced once this transaction is committed."""

        def drop() -> None:
            spares = self._one_time_spares.get(peer_id, [])
            spares[:] = [key for key in spares if key.key_id not in key_ids]

        tx.on_commit(drop)

    def use(self, tx: Transaction, peer: Peer) -> None:
        """Inside the transaction that sends: announce the key that was made ready, if it is still wanted."""
        key = self._spare.get(peer.office_id)
        now_ms = self._env.clock.now_ms()
        if key is not None and wants_next(peer.receive_keys, now_ms):
            peer.receive_keys = with_next(
                peer.receive_keys,
                key_id=key.key_id,
                public=key.public,
                peer_instance=peer.pair.inbound.instance,
                now_ms=now_ms,
            )
            tx.on_commit(lambda: self._drop_spare(peer.office_id, key))

    def _drop_spare(self, peer_id: bytes, key: FreshKey) -> None:
        if self._spare.get(peer_id) is key:
            del self._spare[peer_id]

    async def close_old_once(self) -> None:
        """Rule 4 on the timer: old keys nothing on its way can need go even when no message arrives."""
        now_ms = self._env.clock.now_ms()

        def record(tx: Transaction) -> list[tuple[bytes, tuple[bytes, ...]]]:
            closed_by_peer = []
            for peer in load_peers(tx):
                keys, closed = close_old(peer.receive_keys, inbound=peer.pair.inbound, now_ms=now_ms)
                if closed:
                    peer.receive_keys = keys
                    save_peer(tx, peer)
                closed += one_time.close(tx, peer, now_ms)
                if closed:
                    closed_by_peer.append((peer.office_id, closed))
            one_time.forget_gone(tx, now_ms)
            return closed_by_peer

        for peer_id, closed in await self._db.transact(record):
            await self.forget(peer_id, closed)

    async def forget(self, peer_id: bytes, key_ids: Iterable[bytes]) -> None:
        """After the commit that gave them up: wipe these keys."""
        gone = tuple(key_ids)
        for key_id in gone:
            self._open.pop(key_id, None)
        await self._secrets.remove(SecretName.receive(peer_id, key_id) for key_id in gone)


def _wants(peer_id: bytes, now_ms: int, tx: Snapshot) -> bool:
    return wants_next(load_peer(tx, peer_id).receive_keys, now_ms)
