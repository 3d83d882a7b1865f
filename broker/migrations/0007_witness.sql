-- This broker as a witness of offices' logs, for those that ask for it.

-- The seeds of its keys. They live and die with what is held below: a broker that began again on an empty disk must
-- not sign a second history of a log under the key that signed the first.
CREATE TABLE witness_key (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    ed25519 BLOB NOT NULL CHECK (length(ed25519) = 32),
    mldsa44 BLOB NOT NULL CHECK (length(mldsa44) = 32)
) STRICT;

-- Who may have a log cosigned. The token itself is with the office the operator gave it to; origin is of the one log it
-- is good for from its first use on. asked: how often since hour_ms.
CREATE TABLE witness_tokens (
    hash      BLOB PRIMARY KEY CHECK (length(hash) = 32),
    loaded_ms INTEGER NOT NULL,
    origin    TEXT UNIQUE,
    hour_ms   INTEGER NOT NULL DEFAULT 0,
    asked     INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- The newest head of each log that was accepted, as its log signed it. It only grows, and outlives its token.
CREATE TABLE witnessed_logs (
    origin TEXT PRIMARY KEY,
    public BLOB NOT NULL CHECK (length(public) = 32),
    size   INTEGER NOT NULL,
    root   BLOB NOT NULL CHECK (length(root) = 32),
    note   BLOB NOT NULL,
    at_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What was refused and is held against a log, with both notes: of each log the newest hundred.
CREATE TABLE witness_refusals (
    number  INTEGER PRIMARY KEY,
    origin  TEXT NOT NULL,
    code    TEXT NOT NULL,
    at_ms   INTEGER NOT NULL,
    size    INTEGER NOT NULL,
    root    BLOB NOT NULL,
    offered BLOB NOT NULL,
    held    BLOB NOT NULL,
    UNIQUE (origin, code, size, root)
) STRICT;
