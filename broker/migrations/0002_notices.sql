-- Revocations shown to everybody: of each office the strongest, as its root signed it.
-- number only grows and is never used twice: it is the cursor readers ask on from.
-- mailbox: who vouched for it; NULL when it came from nobody we know, from paper.
CREATE TABLE notices (
    number        INTEGER PRIMARY KEY AUTOINCREMENT,
    office_id     BLOB NOT NULL UNIQUE CHECK (length(office_id) = 32),
    revoked_below INTEGER NOT NULL,
    notice        BLOB NOT NULL,
    mailbox       INTEGER,
    came_ms       INTEGER NOT NULL
) STRICT;
CREATE INDEX notices_by_mailbox ON notices (mailbox, number);
