"""Where the peers read: the address each announced last, and since when its broker does not know it.

Spec: docs/spec/items.md. One rule: the highest generation wins, whatever order messages arrive in; the
address in use is given up only for one whose broker we can talk to. Functions here run inside a transaction
of their caller, who saves the peer.
"""

from dataclasses import dataclass, replace
from typing import Protocol

from audit.store import AuditLog
from keys import labels
from keys.brokercard import parse_broker_address_untrusted
from keys.primitives import labelled_hash
from keys.secret import SecretBytes
from node.peers import Peer
from protocol import limits
from protocol.items import MailboxSuccessor, decode_items_untrusted, encode_items
from protocol.requests import put_capability_hash
from runtime.sqlite import Snapshot, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressState:
    """What is known of a peer's address. ``announced``: a later one, at a broker whose card is missing."""

    generation: int
    since_ms: int
    lost_ms: int | None
    announced: MailboxSuccessor | None


class Readdress(Protocol):
    """What waits for this peer may be put again; ``ask_again`` also about what a broker said it holds."""

    def __call__(self, tx: Transaction, peer: Peer, *, ask_again: bool) -> None:
        """Outbox.readdress."""
        ...


def address_of(tx: Snapshot, peer: Peer) -> AddressState:
    """The state of the address in use; of the one that came with the pairing it is generation 0."""
    row = tx.one(
        "SELECT put_hash, generation, since_ms, lost_ms, next FROM address WHERE peer = ?", (peer.office_id,)
    )
    if row is None or row[0] != _put_hash(peer):
        return AddressState(generation=0, since_ms=peer.since_ms, lost_ms=None, announced=None)
    _, generation, since_ms, lost_ms, data = row
    announced = None if data is None else _decode(data)
    return AddressState(generation=generation, since_ms=since_ms, lost_ms=lost_ms, announced=announced)


def take_announcement(
    tx: Transaction, log: AuditLog, readdress: Readdress, peer: Peer, item: MailboxSuccessor, now_ms: int
) -> bool:
    """The peer signed another address; whether a broker's card must be fetched before it can be used.

    MalformedInput for an address that cannot be read. Older ones are ignored, however late they come.
    """
    known = address_of(tx, peer)
    if item.put_secret == peer.put_secret.reveal() and item.broker_address == peer.broker_address:
        # Said again, as after its broker had lost it: whatever waits for the address goes now.
        generation = max(known.generation, item.generation)
        _store(tx, peer, replace(known, generation=generation, lost_ms=None))
        readdress(tx, peer, ask_again=known.lost_ms is not None)
        return False
    newest = known.generation if known.announced is None else known.announced.generation
    if item.generation <= newest:
        return False
    address = parse_broker_address_untrusted(item.broker_address)
    if address.is_loopback and not parse_broker_address_untrusted(peer.broker_address).is_loopback:
        return False  # a peer elsewhere has no business on this machine
    if not tx.execute("SELECT 1 FROM broker WHERE address = ?", (str(address),)):
        _store(tx, peer, replace(known, announced=item))
        return True
    switch(tx, log, readdress, peer, item, now_ms)
    return False


def switch(
    tx: Transaction, log: AuditLog, readdress: Readdress, peer: Peer, item: MailboxSuccessor, now_ms: int
) -> None:
    """Put to this address from now on. What another broker holds is asked for here, and sent again."""
    address = str(parse_broker_address_untrusted(item.broker_address))
    moved = address != peer.broker_address
    peer.broker_address, peer.put_secret = address, SecretBytes(item.put_secret)
    _store(tx, peer, AddressState(generation=item.generation, since_ms=now_ms, lost_ms=None, announced=None))
    entry: dict[str, str | int] = {
        "what": "peer-address",
        "new": labelled_hash(labels.LOG_COMMITMENT, item.put_secret).hex(),
        "ver": item.generation,
        "peer": peer.pseudonym,
    }
    log.append(tx, "key.rotate", entry)
    # The new address is in the row before anything is woken for it.
    tx.execute(
        "UPDATE peer SET broker_address = ?, put_secret = ? WHERE office_id = ?",
        (address, item.put_secret, peer.office_id),
    )
    readdress(tx, peer, ask_again=moved)


def note_gone(tx: Transaction, peer_id: bytes, put_secret: bytes, now_ms: int) -> bool:
    """A broker knows no such mailbox; whether it is the one in use, and not one that was left meanwhile."""
    row = tx.one("SELECT put_secret, since_ms FROM peer WHERE office_id = ?", (peer_id,))
    if row is None or row[0] != put_secret:
        return False
    named = put_capability_hash(put_secret)
    tx.execute(
        "UPDATE address SET lost_ms = coalesce(lost_ms, ?) WHERE peer = ? AND put_hash = ?",
        (now_ms, peer_id, named),
    )
    if tx.changes() == 0:
        tx.execute(
            "INSERT OR REPLACE INTO address (peer, put_hash, generation, since_ms, lost_ms)"
            " VALUES (?, ?, 0, ?, ?)",
            (peer_id, named, row[1], now_ms),
        )
    return True


def note_taken(tx: Transaction, peer_id: bytes) -> bool:
    """The broker took an item: the address is there; whether it was lost."""
    tx.execute("UPDATE address SET lost_ms = NULL WHERE peer = ? AND lost_ms IS NOT NULL", (peer_id,))
    return tx.changes() > 0


def keep_card(tx: Transaction, address: str, card: bytes) -> None:
    """Remember the card of a broker that was verified against its address."""
    tx.execute(
        "INSERT INTO broker (address, card) VALUES (?, ?) ON CONFLICT (address) DO UPDATE"
        " SET card = excluded.card",
        (address, card),
    )


def waiting_for_cards(tx: Snapshot) -> list[tuple[bytes, MailboxSuccessor]]:
    """Peers that moved to a broker we do not know yet."""
    found = []
    for peer_id, data in tx.execute("SELECT peer, next FROM address WHERE next IS NOT NULL ORDER BY peer"):
        found.append((peer_id, _decode(data)))
    return found


def _decode(data: bytes) -> MailboxSuccessor:
    (item,) = decode_items_untrusted(data)
    assert isinstance(item, MailboxSuccessor)
    return item


def _store(tx: Transaction, peer: Peer, state: AddressState) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO address (peer, put_hash, generation, since_ms, lost_ms, next)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            peer.office_id,
            _put_hash(peer),
            state.generation,
            state.since_ms,
            state.lost_ms,
            None if state.announced is None else encode_items([state.announced]),
        ),
    )


def _put_hash(peer: Peer) -> bytes:
    return put_capability_hash(peer.put_secret.reveal())


assert limits.U32_MAX < 2**53, "a generation is an integer of the log"
