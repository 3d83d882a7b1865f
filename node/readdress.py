"""After a second ceremony: what still waited for this partner is signed and numbered anew for the new pair.

Spec: docs/spec/keys.md#coming-back. One rule: nothing the old pair had not acknowledged is lost, nothing
of it is sent as it was: its number, its receive key and its address belong to a pair that is over. Alerts
begin again under the same alert id, so a partner that did get one shows it once.
"""

from audit.store import AuditLog
from keys.errors import PolicyRefused
from node.outbox import Outbox, ToSend
from node.peers import Peer
from protocol.items import AudienceOpening, decode_items_untrusted
from protocol.message import MessageType, SignedMessage
from protocol.release import released_before
from runtime.logs import get_logger
from runtime.sqlite import Transaction

log = get_logger("readdress")


def readdress(tx: Transaction, outbox: Outbox, audit: AuditLog, peer: Peer, now_ms: int) -> int:
    """Give every unacknowledged item of earlier instances of this pair up, and send its alerts again.

    The caller saves ``peer``. How many alerts begin again; what does not fit the window stays for the next
    ceremony or expires.
    """
    rows = tx.execute(
        "SELECT hh, type, alert_id, msg_id, urgent, message, expires_ms, reply_by_ms, look_ms FROM delivery"
        " WHERE peer = ? AND instance <> ? AND phase IN ('kept', 'held', 'address_lost') ORDER BY rowid",
        (peer.office_id, peer.pair.outbound.instance),
    )
    again = 0
    for hh, kind, alert_id, msg_id, urgent, message, expires_ms, reply_by_ms, look_ms in rows:
        if kind == MessageType.ALERT and message is not None and expires_ms > now_ms:
            signed = SignedMessage.from_bytes(message)
            opening = _opening_of(signed)
            if signed.has_body and opening is not None:
                try:
                    again_hh = _compose(
                        tx, outbox, peer, signed, opening, urgent=bool(urgent), expires_ms=expires_ms
                    )
                except PolicyRefused as full:
                    log.warning("readdress_waits", code=full.code)
                    break
                # What the partner owes us by when does not begin anew.
                tx.execute(
                    "UPDATE delivery SET reply_by_ms = ?, look_ms = ? WHERE hh = ?",
                    (reply_by_ms, look_ms, again_hh),
                )
                again += 1
        if alert_id is not None:
            audit.append(tx, "msg.cancel", {"msg": msg_id.hex()})
        tx.execute("DELETE FROM delivery WHERE hh = ?", (hh,))
    return again


def _opening_of(signed: SignedMessage) -> bytes | None:
    for item in decode_items_untrusted(signed.piggyback) if signed.piggyback else ():
        if isinstance(item, AudienceOpening):
            return item.opening
    return None


def _compose(
    tx: Transaction,
    outbox: Outbox,
    peer: Peer,
    signed: SignedMessage,
    opening: bytes,
    *,
    urgent: bool,
    expires_ms: int,
) -> bytes:
    released = released_before(signed.core, signed.disclosures, peer.office_id, opening)
    hh, _ = outbox.compose(
        tx, peer, ToSend(type=MessageType.ALERT, released=released, expires_ms=expires_ms, urgent=urgent)
    )
    return hh
