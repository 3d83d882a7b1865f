-- The log's own tables. Rows are only ever added: no update, no delete.

-- One entry. hash = SHA-256(0x00 || entry); ts_us, mo_ms and bt repeat the entry's fields, so that the next append
-- can see a clock step without decoding it.
CREATE TABLE leaf (
    idx   INTEGER PRIMARY KEY CHECK (idx >= 0),
    hash  BLOB NOT NULL CHECK (length(hash) = 32),
    entry BLOB NOT NULL CHECK (length(entry) <= 4096),
    ts_us INTEGER NOT NULL,
    mo_ms INTEGER NOT NULL,
    bt    TEXT NOT NULL
) STRICT;

-- Roots over 256^level leaves, level >= 1: what the upper tiles hold, so that publishing never reads the whole log.
CREATE TABLE subtree (
    level INTEGER NOT NULL CHECK (level >= 1),
    idx   INTEGER NOT NULL,
    hash  BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, idx)
) STRICT, WITHOUT ROWID;

-- Every head this log may ever sign. One root per size, committed before the signature is made.
CREATE TABLE cp (
    size INTEGER PRIMARY KEY CHECK (size > 0),
    root BLOB NOT NULL CHECK (length(root) = 32)
) STRICT;

-- One row: which log this is.
CREATE TABLE log_state (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    origin TEXT NOT NULL
) STRICT;
