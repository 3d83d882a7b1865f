"""What brokers lost, for people: which alerts are sent again, and which addresses are not there.

One rule: what is shown here was measured. An alert counts as sent again because the broker had promised to
keep it; whether it arrived meanwhile is the word of its receipt, not of the broker.
"""

from node.peers import load_peers
from node.views import AlertSentAgain, BrokerLossView
from protocol import limits
from protocol.requests import put_capability_hash
from runtime.sqlite import Snapshot

SHOWN_FOR_MS = 7 * limits.DAY_MS
SHOWN_MAX = 3
LISTED_MAX = 200  # a screen; the outbox shows every alert anyway

_STEPS = {"held": "on_broker", "address_lost": "kept", "acknowledged": "delivered"}  # rungs of the ladder


def broker_losses(tx: Snapshot, now_ms: int) -> tuple[BrokerLossView, ...]:
    """The losses of the last week, newest first, each with its alerts."""
    rows = tx.execute(
        "SELECT number, broker_address, at_ms, mailboxes,"
        " (SELECT count(*) FROM broker_loss_item WHERE loss = number)"
        " FROM broker_loss WHERE at_ms > ? ORDER BY number DESC LIMIT ?",
        (now_ms - SHOWN_FOR_MS, SHOWN_MAX),
    )
    return tuple(
        BrokerLossView(
            broker=address.partition("#")[0].removeprefix("salween://"),
            at_ms=at_ms,
            mailboxes=mailboxes,
            alerts=_alerts(tx, number),
            alerts_more=max(0, count - LISTED_MAX),
        )
        for number, address, at_ms, mailboxes, count in rows
    )


def _alerts(tx: Snapshot, loss: int) -> tuple[AlertSentAgain, ...]:
    rows = tx.execute(
        "SELECT d.alert_id, p.name, d.phase FROM broker_loss_item i JOIN delivery d ON d.hh = i.hh"
        " JOIN peer p ON p.office_id = d.peer WHERE i.loss = ? ORDER BY d.peer, d.pair_seq LIMIT ?",
        (loss, LISTED_MAX),
    )
    return tuple(
        AlertSentAgain(alert_id=alert_id.hex(), peer_name=name, state=_STEPS.get(phase) or str(phase))
        for alert_id, name, phase in rows
    )


def lost_addresses(tx: Snapshot) -> list[tuple[str, int]]:
    """Peers whose broker knows no such mailbox, and since when."""
    return [
        (peer.name, row[0])
        for peer in load_peers(tx)
        if (
            row := tx.one(
                "SELECT lost_ms FROM address WHERE peer = ? AND put_hash = ? AND lost_ms IS NOT NULL",
                (peer.office_id, put_capability_hash(peer.put_secret.reveal())),
            )
        )
        is not None
    ]


def own_lost(tx: Snapshot) -> list[tuple[str, str, int]]:
    """Peers whose newest mailbox of ours is lost at its broker, the broker, and since when."""
    return [
        (name, address.partition("#")[0].removeprefix("salween://"), lost_ms)
        for name, address, lost_ms in tx.execute(
            "SELECT p.name, m.broker_address, m.lost_ms FROM mailbox m JOIN peer p ON p.office_id = m.peer"
            " WHERE m.lost_ms IS NOT NULL AND m.stage <> 'passed' AND NOT EXISTS (SELECT 1 FROM mailbox n"
            " WHERE n.peer = m.peer AND n.generation > m.generation AND n.stage IN ('made', 'proven')"
            " AND n.lost_ms IS NULL) ORDER BY p.name, m.generation"
        )
    ]
