"""One paired office inside a transaction: its row as values of the core, loaded, changed, saved.

Spec: docs/life-of-an-alert.md. One rule: whoever loads a peer in a transaction saves it in the same one; no
peer value outlives its transaction, so memory never disagrees with the disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keys import trust
from keys.card import safety_number
from keys.errors import PolicyRefused
from keys.secret import SecretBytes
from node.views import PeerView
from protocol.conversation import PairState, missing
from protocol.receivekeys import PeerKey, ReceiveKeys
from runtime.sqlite import Snapshot, Transaction

_COLUMNS = (
    "office_id, name, country, since_ms, trusted, pair, receive_keys, peer_key, broker_address, put_secret,"
    " own_broker_address, officer_list_sent, last_heard_ms, ack_due_ms, log_origin, log_public, witness_name,"
    " witness_public, checkpoint"
)


@dataclass(slots=True, kw_only=True)
class Peer:
    """A paired office as one transaction sees it. The only mutable value of the node."""

    office_id: bytes
    name: str
    country: str
    since_ms: int
    trusted: trust.TrustedPeer
    pair: PairState
    receive_keys: ReceiveKeys
    peer_key: PeerKey
    broker_address: str  # of the mailbox we put into
    put_secret: SecretBytes
    own_broker_address: str  # of the mailbox we read
    officer_list_sent: int
    last_heard_ms: int | None
    ack_due_ms: int | None
    log_origin: str  # these five are pinned at pairing and never saved again
    log_public: bytes
    witness_name: str
    witness_public: bytes
    checkpoint: bytes

    @property
    def pseudonym(self) -> str:
        """How this office stands in our log: the random part of its own log's name, 16 hex digits."""
        return self.log_origin.split("/")[1]


def load_peer(tx: Snapshot, office_id: bytes) -> Peer:
    """One peer; PolicyRefused ``peer_unknown``."""
    row = tx.one(f"SELECT {_COLUMNS} FROM peer WHERE office_id = ?", (office_id,))  # noqa: S608 - our own constant
    if row is None:
        raise PolicyRefused(
            "peer_unknown", "This office is not paired with that one. Pair first: salween-node pair"
        )
    return _from_row(row)


def load_peers(tx: Snapshot) -> list[Peer]:
    """Every peer, by name."""
    return [_from_row(row) for row in tx.execute(f"SELECT {_COLUMNS} FROM peer ORDER BY name, office_id")]  # noqa: S608


def save_peer(tx: Transaction, peer: Peer) -> None:
    """Write back what may have changed."""
    tx.execute(
        "UPDATE peer SET name = ?, country = ?, state = ?, trusted = ?, pair = ?, receive_keys = ?,"
        " peer_key = ?, broker_address = ?, put_secret = ?, own_broker_address = ?, officer_list_sent = ?,"
        " last_heard_ms = ?, ack_due_ms = ? WHERE office_id = ?",
        (
            peer.name,
            peer.country,
            peer.trusted.state.name.lower(),
            trust.encode_trusted_peer(peer.trusted),
            peer.pair.encode(),
            peer.receive_keys.encode(),
            peer.peer_key.encode(),
            peer.broker_address,
            peer.put_secret.reveal(),
            peer.own_broker_address,
            peer.officer_list_sent,
            peer.last_heard_ms,
            peer.ack_due_ms,
            peer.office_id,
        ),
    )


def insert_peer(tx: Transaction, peer: Peer) -> None:
    """Add a peer, or replace what was known of the same office after a second ceremony."""
    tx.execute(
        "INSERT INTO peer (office_id, name, country, state, since_ms, trusted, pair, receive_keys, peer_key,"
        " broker_address, put_secret, own_broker_address, officer_list_sent, log_origin, log_public,"
        " witness_name, witness_public, checkpoint)"
        " VALUES (?, ?, ?, ?, ?, x'', x'', x'', x'', '', x'', '', 0, ?, ?, ?, ?, ?)"
        " ON CONFLICT (office_id) DO UPDATE SET since_ms = excluded.since_ms,"
        " log_origin = excluded.log_origin, log_public = excluded.log_public,"
        " witness_name = excluded.witness_name, witness_public = excluded.witness_public,"
        " checkpoint = excluded.checkpoint",
        (
            peer.office_id,
            peer.name,
            peer.country,
            peer.trusted.state.name.lower(),
            peer.since_ms,
            peer.log_origin,
            peer.log_public,
            peer.witness_name,
            peer.witness_public,
            peer.checkpoint,
        ),
    )
    save_peer(tx, peer)


def peer_view(tx: Snapshot, peer: Peer, own_office_id: bytes) -> PeerView:
    """A peer as screens show it."""
    waiting: int = tx.value(
        "SELECT count(*) FROM delivery INDEXED BY delivery_unsettled"
        " WHERE peer = ? AND service = 0 AND phase IN ('kept', 'held', 'address_lost')",
        (peer.office_id,),
    )
    reset = tx.execute(
        "SELECT backup_ms, resent FROM peer_reset WHERE peer = ? ORDER BY key_version DESC LIMIT 1",
        (peer.office_id,),
    )
    return PeerView(
        restored_ms=reset[0][0] if reset else None,
        resent=reset[0][1] if reset else 0,
        office_id=peer.office_id.hex(),
        name=peer.name,
        country=peer.country,
        state=_state_word(peer.trusted.state),
        since_ms=peer.since_ms,
        safety_number=safety_number(own_office_id, peer.office_id),
        last_heard_ms=peer.last_heard_ms,
        waiting_out=waiting,
        missing_in=sum(len(gap) for gap in missing(peer.pair)),
    )


def _state_word(state: trust.PairState) -> Literal["half", "active", "suspended"]:
    match state:
        case trust.PairState.HALF:
            return "half"
        case trust.PairState.ACTIVE:
            return "active"
        case trust.PairState.SUSPENDED:
            return "suspended"


def _from_row(row: Sequence[Any]) -> Peer:
    (
        office_id,
        name,
        country,
        since_ms,
        trusted,
        pair,
        receive_keys,
        peer_key,
        broker_address,
        put_secret,
        own_broker_address,
        officer_list_sent,
        last_heard_ms,
        ack_due_ms,
        log_origin,
        log_public,
        witness_name,
        witness_public,
        checkpoint,
    ) = row
    return Peer(
        office_id=office_id,
        name=name,
        country=country,
        since_ms=since_ms,
        trusted=trust.parse_trusted_peer_untrusted(trusted),
        pair=PairState.decode(pair),
        receive_keys=ReceiveKeys.decode(receive_keys),
        peer_key=PeerKey.decode(peer_key),
        broker_address=broker_address,
        put_secret=SecretBytes(put_secret),
        own_broker_address=own_broker_address,
        officer_list_sent=officer_list_sent,
        last_heard_ms=last_heard_ms,
        ack_due_ms=ack_due_ms,
        log_origin=log_origin,
        log_public=log_public,
        witness_name=witness_name,
        witness_public=witness_public,
        checkpoint=checkpoint,
    )
