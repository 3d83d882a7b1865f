-- Mailboxes that refused an item as over their quota: what waits for them is let through by count (protocol.delivery).
-- What is urgent has room of its own there, so it stands by itself here.
CREATE TABLE full_mailbox (
    peer       BLOB NOT NULL REFERENCES peer (office_id),
    urgent     INTEGER NOT NULL,
    attempt    INTEGER NOT NULL,
    next_at_ms INTEGER NOT NULL,
    probe      INTEGER NOT NULL,
    credit     INTEGER NOT NULL,
    PRIMARY KEY (peer, urgent)
) STRICT;
CREATE INDEX delivery_waiting ON delivery (peer, urgent) WHERE envelope IS NOT NULL;

-- What is asked with every page and every request is answered from the index alone: a row is 14 KB, and what is
-- asked for lies behind its envelope.
DROP INDEX delivery_unsettled;
CREATE INDEX delivery_unsettled ON delivery (expires_ms, peer, service, alert_id, phase)
    WHERE phase IN ('kept', 'held', 'address_lost');
DROP INDEX delivery_due;
CREATE INDEX delivery_due ON delivery (next_at_ms, peer, urgent) WHERE next_at_ms IS NOT NULL;
