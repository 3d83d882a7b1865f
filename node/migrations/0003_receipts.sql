-- Since when, and why, nothing is sent to this peer and nothing taken from it: a code, NULL while all is well.
ALTER TABLE peer ADD COLUMN frozen_ms INTEGER;
ALTER TABLE peer ADD COLUMN frozen_code TEXT;

-- What a peer owes us by when. look_ms: the next of the two moments to look at, NULL when both are settled.
ALTER TABLE delivery ADD COLUMN reply_by_ms INTEGER;
ALTER TABLE delivery ADD COLUMN look_ms INTEGER;
UPDATE delivery SET look_ms = expires_ms WHERE alert_id IS NOT NULL;
CREATE INDEX delivery_to_look_at ON delivery (look_ms) WHERE look_ms IS NOT NULL;
CREATE INDEX received_without_body ON received (peer) WHERE verdict = 'expired';

-- Later outcomes of one delivery: the first is a rung of the ladder and stands, these are lines beside it.
CREATE TABLE outcome_later (
    alert_id BLOB NOT NULL,
    peer BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    clock TEXT NOT NULL,
    log_index INTEGER NOT NULL,
    code TEXT NOT NULL,
    PRIMARY KEY (alert_id, peer, log_index)
) STRICT;

-- What officers of this office answered to alerts that came in.
CREATE TABLE answer (
    alert_id BLOB NOT NULL,
    log_index INTEGER NOT NULL,
    step TEXT NOT NULL CHECK (step IN ('assigned', 'outcome', 'refused')),
    at_ms INTEGER NOT NULL,
    code TEXT NOT NULL,
    PRIMARY KEY (alert_id, log_index)
) STRICT;

-- One row per peer of what is watched and bounded, apart from the peer's own row, which is signed state.
CREATE TABLE watch (
    peer BLOB PRIMARY KEY,
    beat_hh BLOB,                    -- our last heartbeat: the next one waits until a broker took it
    beat_sent_ms INTEGER,
    beat_instance BLOB,              -- whose numbers beat_highest counts
    beat_highest INTEGER,            -- highest number the peer says it gave out
    proof_ms INTEGER,                -- newest time the peer signed, never after its arrival
    unknown_ms INTEGER,              -- when something under a key we never had last arrived
    nack_sent_ms INTEGER,
    hour_ms INTEGER NOT NULL DEFAULT 0, -- the two counts are of the hour that began then
    unproven INTEGER NOT NULL DEFAULT 0,
    resealed INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Envelopes under receive keys we never had, to be named in the next nack; at most 32 per peer.
CREATE TABLE nack_due (
    peer BLOB NOT NULL,
    envelope_hash BLOB NOT NULL,
    PRIMARY KEY (peer, envelope_hash)
) STRICT;

-- What a peer signed that cannot both be true: encoded by protocol.evidence, exportable, never deleted.
CREATE TABLE evidence (
    number INTEGER PRIMARY KEY,
    peer BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    code TEXT NOT NULL,
    hh BLOB NOT NULL,                -- of the message that brought it up
    proof BLOB NOT NULL
) STRICT;
CREATE INDEX evidence_by_peer ON evidence (peer, hh);
