-- Alerts a broker had promised to keep, and then did not know or had no mailbox for: should it turn out that it lost
-- everything, they are among what it lost. Forgotten with the note of the loss, or after a day.
CREATE TABLE taken_back (
    hh             BLOB PRIMARY KEY,
    broker_address TEXT NOT NULL,
    held_since_ms  INTEGER NOT NULL,
    attempt        INTEGER NOT NULL,
    at_ms          INTEGER NOT NULL
) STRICT;

-- Heartbeats and acknowledgements that were taken in: forgotten after the horizon of backups.
CREATE INDEX received_service ON received (at_ms) WHERE verdict = 'service';
