-- Ceremonies whose last word, the peer's pair-ok, has not arrived. One that follows on an active pair leaves the
-- row in `peer` as it is until then: a ceremony that fails must not end a pair that works.
CREATE TABLE half_pair (
    peer BLOB NOT NULL,
    number INTEGER NOT NULL,         -- of the mailbox it made, rising; the newest that is completed counts
    at_ms INTEGER NOT NULL,
    role TEXT NOT NULL,
    how TEXT NOT NULL,
    transcript BLOB NOT NULL,
    own_pair_ok BLOB NOT NULL,
    bundle BLOB NOT NULL,            -- the peer's, signed
    instance BLOB NOT NULL,          -- ours for this pair
    receive_key_id BLOB NOT NULL,
    receive_public BLOB NOT NULL,
    own_broker_address TEXT NOT NULL,
    officer_list INTEGER NOT NULL,   -- version in our bundle
    PRIMARY KEY (peer, number)
) STRICT;

-- Our pair-ok, to be said once more over the pair itself unless the peer is heard there before.
CREATE TABLE pair_ok_due (
    peer BLOB PRIMARY KEY,
    pair_ok BLOB NOT NULL,
    due_ms INTEGER NOT NULL
) STRICT;
