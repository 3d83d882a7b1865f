-- Logs of others that this office cosigns: the newest head accepted, as its log signed it. It only grows. Until the
-- first cosignature it is the head from the pairing, which two people vouched for.
CREATE TABLE witnessed_log (
    origin   TEXT PRIMARY KEY,
    peer     BLOB NOT NULL,
    size     INTEGER NOT NULL,
    root     BLOB NOT NULL,
    note     BLOB NOT NULL,
    at_ms    INTEGER NOT NULL,
    cosigned INTEGER NOT NULL,
    post_quantum_ms INTEGER             -- when it was last cosigned with ML-DSA-44 as well
) STRICT;

-- The last message that took our own post-quantum witness key to each peer.
CREATE TABLE witness_told (
    peer BLOB PRIMARY KEY,
    hh   BLOB NOT NULL
) STRICT;

-- What was refused and is held against the log, with both notes; never deleted but beyond the newest hundred of a peer.
CREATE TABLE witness_refusal (
    number  INTEGER PRIMARY KEY,
    peer    BLOB NOT NULL,
    origin  TEXT NOT NULL,
    code    TEXT NOT NULL,
    at_ms   INTEGER NOT NULL,
    size    INTEGER NOT NULL,
    root    BLOB NOT NULL,
    offered BLOB NOT NULL,
    held    BLOB NOT NULL
) STRICT;

-- Heads of brokers' logs that stand in ours, and the first of another history, if there was one.
CREATE TABLE broker_head (
    address    TEXT PRIMARY KEY,
    size       INTEGER NOT NULL,
    root       BLOB NOT NULL,
    note       BLOB NOT NULL,
    at_ms      INTEGER NOT NULL,
    at_size    INTEGER NOT NULL,      -- of our own log
    refused    TEXT,
    refused_ms INTEGER,
    offered    BLOB
) STRICT;

-- What this office has to answer: the newest request of each peer alone. Cosignatures are made when it leaves.
CREATE TABLE witness_answer (
    peer      BLOB PRIMARY KEY,
    status    INTEGER NOT NULL,
    size      INTEGER NOT NULL,
    held_size INTEGER NOT NULL,
    note      BLOB NOT NULL,
    prompt    INTEGER NOT NULL      -- 0: it waits for the next heartbeat
) STRICT;

-- Who cosigns our own log of this epoch, and how far.
CREATE TABLE cosigner (
    peer        BLOB PRIMARY KEY,
    size        INTEGER NOT NULL DEFAULT 0,   -- of the newest head of ours it cosigned
    held_size   INTEGER NOT NULL DEFAULT 0,   -- of the head it holds, as far as it said
    cosigned_ms INTEGER,                      -- by its clock
    asked_size  INTEGER,                      -- of the head it was asked about and did not answer yet
    asked_ms    INTEGER,
    conflicts   INTEGER NOT NULL DEFAULT 0,   -- answers 409 in a row
    refused     INTEGER,                      -- its last answer was this status
    refused_ms  INTEGER,
    last        BLOB                          -- that head with its cosignatures, as a signed note
) STRICT;

-- Partners that have not said yet, since this office lost state, what it cosigned of their logs: until then it
-- cosigns nothing of them.
CREATE TABLE witness_hold (peer BLOB PRIMARY KEY) STRICT;

-- Cosignatures that are not in the published files yet.
CREATE TABLE cosignature (
    size   INTEGER NOT NULL,
    name   TEXT NOT NULL,
    key_id BLOB NOT NULL,
    blob   BLOB NOT NULL,
    PRIMARY KEY (size, name, key_id)
) STRICT, WITHOUT ROWID;

-- A head that our own key signed and this database never held: it went back in time, or is not alone.
CREATE TABLE foreign_head (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    peer   BLOB NOT NULL,
    note   BLOB NOT NULL,
    at_ms  INTEGER NOT NULL
) STRICT;

-- Every key that a partner's witness, this office's witness (type 4) or its log (type 1) ever had: what was signed under
-- an ended one still counts.
CREATE TABLE note_key (
    name   TEXT NOT NULL,
    type   INTEGER NOT NULL,
    public BLOB NOT NULL,
    peer   BLOB NOT NULL,
    UNIQUE (name, type, public)
) STRICT;

ALTER TABLE watch ADD COLUMN witnessed INTEGER NOT NULL DEFAULT 0;
