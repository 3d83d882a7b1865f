-- Log epochs that ended: kept whole, so that they can be published and verified again.
CREATE TABLE ended_leaf (
    origin TEXT NOT NULL,
    idx    INTEGER NOT NULL,
    entry  BLOB NOT NULL,
    PRIMARY KEY (origin, idx)
) STRICT;
CREATE TABLE ended_log (
    origin   TEXT PRIMARY KEY,
    size     INTEGER NOT NULL,
    root     BLOB NOT NULL,
    ended_ms INTEGER NOT NULL
) STRICT;

-- Keys that open a peer's RESET and nothing else, and that are never rotated: a restored office knows no newer one.
-- own: the seed is in the keystore as reset/<peer>/<key id>; carried_by is the message that took the key to the peer.
CREATE TABLE reset_key (
    peer       BLOB NOT NULL,
    own        INTEGER NOT NULL,
    key_id     BLOB NOT NULL,
    public     BLOB NOT NULL,
    carried_by BLOB,
    PRIMARY KEY (peer, own)
) STRICT;

-- Each reset of a peer, and each answer to one of ours: what the officers are told.
CREATE TABLE peer_reset (
    peer        BLOB NOT NULL,
    key_version INTEGER NOT NULL,
    instance    BLOB NOT NULL,
    at_ms       INTEGER NOT NULL,
    backup_ms   INTEGER NOT NULL,
    resent      INTEGER NOT NULL,
    PRIMARY KEY (peer, instance)
) STRICT;
CREATE TABLE own_reset (
    peer        BLOB NOT NULL,
    instance    BLOB NOT NULL,      -- the one that began
    ended       BLOB NOT NULL,      -- the one that ended
    next_seq    INTEGER NOT NULL,   -- of the ended one, as far as we remember
    backup_ms   INTEGER NOT NULL,
    began_ms    INTEGER NOT NULL,
    answered_ms INTEGER,
    resent      INTEGER,            -- alerts the peer sends again
    sent_after  INTEGER,            -- alerts of ours it holds that we do not remember
    gone        INTEGER,            -- numbers it cannot send any more
    PRIMARY KEY (peer, instance)
) STRICT;

-- Alerts we sent after the backup, as the peer lists them: their text is at the peer alone.
CREATE TABLE lost_alert (
    peer       BLOB NOT NULL,
    alert_id   BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (peer, alert_id)
) STRICT;
