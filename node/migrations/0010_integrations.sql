-- Programs that act for an officer through the local API. The token itself is with the program alone.
CREATE TABLE integration (
    number      INTEGER PRIMARY KEY,
    name        TEXT NOT NULL,
    officer     INTEGER NOT NULL REFERENCES officer (number),
    scopes      TEXT NOT NULL,       -- words, one space between
    token_hash  BLOB NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    sealed_seed BLOB,                -- the officer's signing key under the token; NULL once revoked
    made_ms     INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL,
    revoked_ms  INTEGER,
    used_ms     INTEGER
) STRICT;

-- What a program asked to be sent, by its own key for it. The result is NULL from before the sending until after.
CREATE TABLE integration_sent (
    integration INTEGER NOT NULL REFERENCES integration (number),
    key_hash    BLOB NOT NULL CHECK (length(key_hash) = 32),
    at_ms       INTEGER NOT NULL,
    result      TEXT,
    PRIMARY KEY (integration, key_hash)
) STRICT, WITHOUT ROWID;
CREATE INDEX integration_sent_by_time ON integration_sent (at_ms);
