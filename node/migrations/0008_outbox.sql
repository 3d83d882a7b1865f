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
