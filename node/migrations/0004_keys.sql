-- One-time keys (docs/spec/conversation.md#one-time-keys): one row per peer that ever sent or got an alert.

-- Ours, ids only; the seeds are in the keystore.
CREATE TABLE one_time_own (
    peer BLOB PRIMARY KEY,
    keys BLOB NOT NULL
) STRICT;

-- The peer's that we have not used.
CREATE TABLE one_time_offered (
    peer BLOB PRIMARY KEY,
    keys BLOB NOT NULL
) STRICT;

-- Ours that are gone: an item sealed to one is a late duplicate (rule 7).
CREATE TABLE one_time_gone (
    peer BLOB NOT NULL,
    key_id BLOB NOT NULL,
    gone_ms INTEGER NOT NULL,
    PRIMARY KEY (peer, key_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX one_time_gone_by_time ON one_time_gone (gone_ms);
