"""One paired office inside a transaction: its row as values of the core, loaded, changed, saved.

Spec: docs/life-of-an-alert.md. One rule: whoever loads a peer in a transaction saves it in the same one; no
peer value outlives its transaction, so memory never disagrees with the disk.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keys import trust
from keys.card import safety_number
from keys.errors import PolicyRefused
from keys.secret import SecretBytes
from node.views import Pause, PeerView
from protocol.conversation import PairState, missing
from protocol.receivekeys import PeerKey, ReceiveKeys
from protocol.requests import put_capability_hash
from runtime.sqlite import Snapshot, Transaction

_COLUMNS = (
    "office_id, name, country, since_ms, trusted, pair, receive_keys, peer_key, broker_address, put_secret,"
    " own_broker_address, officer_list_sent, last_heard_ms, ack_due_ms, log_origin, log_public, witness_name,"
    " witness_public, checkpoint, held_ms, retired_ms, succeeded_by, frozen_code"
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
    held_ms: int | None = None  # suspended by our own supervisor
    retired_ms: int | None = None
    succeeded_by: bytes | None = None
    frozen_code: str | None = None  # node.evidence alone changes it

    @property
    def is_closed(self) -> bool:
        """Whether what it sends stays at the broker, unopened: our own supervisor said so."""
        return self.held_ms is not None or self.retired_ms is not None

    @property
    def is_reachable(self) -> bool:
        """Whether we hold an address and a key of it that no revocation took."""
        key_version = self.peer_key.announcement.key_version
        return len(self.put_secret) > 0 and key_version >= self.trusted.revoked_below

    @property
    def is_active(self) -> bool:
        """Whether the pair stands. What leaves for one that stands waits while ``frozen_code`` is set."""
        is_trusted = self.trusted.state is trust.PairState.ACTIVE
        return is_trusted and self.is_reachable and not self.is_closed

    @property
    def is_talking(self) -> bool:
        """Whether anything may leave for it now."""
        return self.is_active and self.frozen_code is None

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


def find_peer(tx: Snapshot, office_id: bytes) -> Peer | None:
    """One peer, or None if this office was never in a ceremony with it."""
    known = tx.execute("SELECT 1 FROM peer WHERE office_id = ?", (office_id,))
    return load_peer(tx, office_id) if known else None


def load_peers(tx: Snapshot) -> list[Peer]:
    """Every peer, by name."""
    return [_from_row(row) for row in tx.execute(f"SELECT {_COLUMNS} FROM peer ORDER BY name, office_id")]  # noqa: S608


def check_not_frozen(peer: Peer) -> None:
    """PolicyRefused ``pair_frozen``: two things this office signed cannot both be true (node.evidence)."""
    if peer.frozen_code is not None:
        raise PolicyRefused(
            "pair_frozen",
            f"The conversation with {peer.name} is frozen ({peer.frozen_code}), so nothing is sent to it. A"
            " supervisor speaks with the other office, then: salween-node unfreeze",
        )


def check_talks(peer: Peer) -> None:
    """Raise PolicyRefused unless alerts may leave for it: ``pair_half``, ``pair_suspended`` and the like."""
    if peer.retired_ms is not None:
        raise PolicyRefused("pair_retired", "That partner is retired; its office has another entry now.")
    if peer.held_ms is not None:
        raise PolicyRefused("pair_held", "Our supervisor suspended that partner. Ask your supervisor.")
    trust.check_active(peer.trusted)
    if not peer.is_reachable:
        raise PolicyRefused(
            "pair_suspended", "That partner's address or key was revoked, and it has not sent new ones yet."
        )
    check_not_frozen(peer)


@contextlib.contextmanager
def naming(peer: Peer) -> Iterator[None]:
    """A refusal in here begins with the name of this partner: among several, whom to leave out."""
    try:
        yield
    except PolicyRefused as refused:
        raise PolicyRefused(refused.code, f"{peer.name}: {refused.detail}") from refused


def save_peer(tx: Transaction, peer: Peer) -> None:
    """Write back what may have changed."""
    tx.execute(
        "UPDATE peer SET name = ?, country = ?, state = ?, trusted = ?, pair = ?, receive_keys = ?,"
        " peer_key = ?, broker_address = ?, put_secret = ?, own_broker_address = ?, officer_list_sent = ?,"
        " last_heard_ms = ?, ack_due_ms = ?, held_ms = ?, retired_ms = ?, succeeded_by = ?"
        " WHERE office_id = ?",
        (
            peer.name,
            peer.country,
            _stored_state(peer),
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
            peer.held_ms,
            peer.retired_ms,
            peer.succeeded_by,
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
        " checkpoint = excluded.checkpoint,"
        # Two people compared codes: what they begin now is another conversation. The evidence stays.
        " frozen_ms = NULL, frozen_code = NULL",
        (
            peer.office_id,
            peer.name,
            peer.country,
            _stored_state(peer),
            peer.since_ms,
            peer.log_origin,
            peer.log_public,
            peer.witness_name,
            peer.witness_public,
            peer.checkpoint,
        ),
    )
    for table in ("one_time_own", "one_time_offered", "address", "witness_hold"):
        # Keys, addresses and losses of an earlier pairing with this office are nobody's now.
        tx.execute(f"DELETE FROM {table} WHERE peer = ?", (peer.office_id,))  # noqa: S608
    save_peer(tx, peer)


def peer_view(tx: Snapshot, peer: Peer, own_office_id: bytes) -> PeerView:
    """A peer as screens show it."""
    waiting: int = tx.value(
        "SELECT count(*) FROM delivery INDEXED BY delivery_unsettled"
        " WHERE peer = ? AND service = 0 AND phase IN ('kept', 'held', 'address_lost')",
        (peer.office_id,),
    )
    address = tx.one(
        "SELECT since_ms, lost_ms FROM address WHERE peer = ? AND put_hash = ?",
        (peer.office_id, put_capability_hash(peer.put_secret.reveal())),
    )
    since_ms, lost_ms = (peer.since_ms, None) if address is None else address
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
        state=_state_word(peer),
        since_ms=peer.since_ms,
        safety_number=safety_number(own_office_id, peer.office_id),
        last_heard_ms=peer.last_heard_ms,
        waiting_out=waiting,
        missing_in=sum(len(gap) for gap in missing(peer.pair)),
        pause=_pause_of(tx, peer),
        expired_in=tx.value(
            "SELECT count(*) FROM received INDEXED BY received_without_body"
            " WHERE peer = ? AND verdict = 'expired'",
            (peer.office_id,),
        ),
        frozen_code=peer.frozen_code,
        frozen_ms=tx.value("SELECT frozen_ms FROM peer WHERE office_id = ?", (peer.office_id,)),
        address_since_ms=since_ms,
        address_lost_ms=lost_ms,
        key_version=trust.newest_known_version(peer.trusted),
        by_hand=tx.value(
            "SELECT count(DISTINCT c.hh) FROM carried c CROSS JOIN delivery d ON d.hh = c.hh"
            " WHERE d.peer = ? AND c.out_ms IS NOT NULL AND d.phase <> 'acknowledged'",
            (peer.office_id,),
        ),
    )


def _stored_state(peer: Peer) -> str:
    """What the outbox asks the table by: ``active`` alone lets anything leave."""
    if peer.is_active:
        return "active"
    return "half" if peer.trusted.state is trust.PairState.HALF and not peer.is_closed else "suspended"


def _state_word(peer: Peer) -> Literal["half", "active", "suspended", "retired"]:
    if peer.retired_ms is not None:
        return "retired"
    if peer.is_active:
        return "active"
    return "half" if peer.trusted.state is trust.PairState.HALF and not peer.is_closed else "suspended"


def _pause_of(tx: Snapshot, peer: Peer) -> Pause | None:
    """Why nothing crosses, since when, and what to do follows from ``why``."""
    if peer.retired_ms is not None:
        successor = None
        if peer.succeeded_by is not None:
            named = tx.one("SELECT name FROM peer WHERE office_id = ?", (peer.succeeded_by,))
            successor = None if named is None else str(named[0])
        return Pause(why="retired", since_ms=peer.retired_ms, successor=successor)
    if peer.held_ms is not None:
        return Pause(why="by_hand", since_ms=peer.held_ms)
    if peer.trusted.state is trust.PairState.SUSPENDED:
        told = tx.one("SELECT reason FROM revocation WHERE office_id = ?", (peer.office_id,))
        reason = None if told is None else str(told[0])
        return Pause(why="revoked", since_ms=peer.trusted.since_ms, reason=reason)
    if peer.trusted.state is trust.PairState.ACTIVE and not peer.is_reachable:
        return Pause(why="no_address", since_ms=peer.trusted.since_ms)
    return None


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
        held_ms,
        retired_ms,
        succeeded_by,
        frozen_code,
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
        held_ms=held_ms,
        retired_ms=retired_ms,
        succeeded_by=succeeded_by,
        frozen_code=frozen_code,
    )
