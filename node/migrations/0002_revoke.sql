-- Revocations we hold of offices we are or were paired with, and of ourselves: the strongest of each, for ever.
CREATE TABLE revocation (
    office_id BLOB PRIMARY KEY,
    revoked_below INTEGER NOT NULL,
    since_ms INTEGER NOT NULL,
    reason TEXT NOT NULL,
    bytes BLOB NOT NULL,             -- as its root signed it
    channel TEXT NOT NULL,           -- where we had it from first: broker, partner, paper
    learnt_ms INTEGER NOT NULL
) STRICT;

-- Whom we still have to tell of one, with the next message to it.
CREATE TABLE revocation_due (
    peer BLOB NOT NULL,
    office_id BLOB NOT NULL,
    PRIMARY KEY (peer, office_id)
) STRICT;

-- Offices that are no partners of ours: what a broker showed of them counts if we ever pair.
CREATE TABLE revoked_stranger (
    office_id BLOB PRIMARY KEY,
    revoked_below INTEGER NOT NULL
) STRICT;

-- Suspended by our own supervisor; retired, and which office took its place.
ALTER TABLE peer ADD COLUMN held_ms INTEGER;
ALTER TABLE peer ADD COLUMN retired_ms INTEGER;
ALTER TABLE peer ADD COLUMN succeeded_by BLOB;
