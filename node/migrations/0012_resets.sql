-- Resets that were not followed: of the peer (ours = 0, refused here), and of this office (ours = 1, as the peer says).
-- One row for each key version: whoever has an old key can sign as many as he likes, and is answered once.
CREATE TABLE reset_refused (
    peer          BLOB NOT NULL,
    ours          INTEGER NOT NULL,
    key_version   INTEGER NOT NULL,   -- it was signed under
    known_version INTEGER NOT NULL,   -- the next must be above this
    instance      BLOB NOT NULL,
    at_ms         INTEGER NOT NULL,
    key_id        BLOB,               -- what the answer is sealed to: the office that was refused has no older key
    public        BLOB,
    told_ms       INTEGER,
    PRIMARY KEY (peer, ours, key_version)
) STRICT;

-- Paired again before the peer answered our reset: what it says is settled by that.
ALTER TABLE own_reset ADD COLUMN paired_ms INTEGER;

-- Since when nothing but what is sealed to keys given up long ago arrives: what a restored office may send that
-- nobody could tell. Any broker can make it too.
ALTER TABLE watch ADD COLUMN late_ms INTEGER;
