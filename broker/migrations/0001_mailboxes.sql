-- What a broker keeps: capabilities as hashes, items as it got them, and what it owes its log. No office, no name.

-- One-time permission to make mailboxes; the token itself is with whoever the operator gave it to.
CREATE TABLE tokens (
    hash      BLOB PRIMARY KEY CHECK (length(hash) = 32),
    uses_left INTEGER NOT NULL CHECK (uses_left >= 0),
    loaded_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One directed pair of offices, or one rendezvous of a pairing. put_hash and get_hash are hashes of the two
-- capabilities, public verifies deletions, pseudonym is its name in the published log.
-- items and size_bytes count what is held now. first_item_ms is when its first item came;
-- successor_item_ms is the same of the first of its successors to get one: from then on it may be retired.
CREATE TABLE mailboxes (
    id                INTEGER PRIMARY KEY,
    put_hash          BLOB NOT NULL UNIQUE CHECK (length(put_hash) = 32),
    get_hash          BLOB NOT NULL UNIQUE CHECK (length(get_hash) = 32),
    public            BLOB NOT NULL CHECK (length(public) = 32),
    pseudonym         BLOB NOT NULL CHECK (length(pseudonym) = 16),
    kind              TEXT NOT NULL CHECK (kind IN ('pair', 'rendezvous')),
    created_ms        INTEGER NOT NULL,
    predecessor       INTEGER REFERENCES mailboxes (id) ON DELETE SET NULL,
    first_item_ms     INTEGER,
    successor_item_ms INTEGER,
    items             INTEGER NOT NULL DEFAULT 0 CHECK (items >= 0),
    size_bytes        INTEGER NOT NULL DEFAULT 0 CHECK (size_bytes >= 0)
) STRICT;
CREATE INDEX mailboxes_by_predecessor ON mailboxes (predecessor) WHERE predecessor IS NOT NULL;
CREATE INDEX mailboxes_passing ON mailboxes (kind, created_ms, successor_item_ms)
    WHERE kind = 'rendezvous' OR successor_item_ms IS NOT NULL;

-- One item, or, when envelope is NULL, the tombstone that makes a repeated put of it harmless.
-- log_index is the leaf of its bk.in entry, and the cursor of the mailbox: it only grows and is never used twice.
-- until_ms: when the item expires, and when its tombstone may be forgotten.
CREATE TABLE items (
    log_index  INTEGER PRIMARY KEY,
    mailbox    INTEGER NOT NULL REFERENCES mailboxes (id) ON DELETE CASCADE,
    hash       BLOB NOT NULL CHECK (length(hash) = 32),
    size_bytes INTEGER NOT NULL,
    held_ms    INTEGER NOT NULL,
    until_ms   INTEGER NOT NULL,
    fetched    INTEGER NOT NULL DEFAULT 0 CHECK (fetched IN (0, 1)),
    envelope   BLOB
) STRICT;
CREATE UNIQUE INDEX items_by_hash ON items (mailbox, hash);
CREATE INDEX items_held ON items (mailbox, log_index) WHERE envelope IS NOT NULL;
CREATE INDEX items_due ON items (until_ms);
