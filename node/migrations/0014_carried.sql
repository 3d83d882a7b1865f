-- Envelopes sealed for a file that is carried by hand, until their peer acknowledges what is in them.
CREATE TABLE carried (
    hh            BLOB NOT NULL,
    via           TEXT NOT NULL CHECK (via IN ('usb', 'qr')),
    envelope      BLOB NOT NULL,
    envelope_hash BLOB NOT NULL,
    key_id        BLOB NOT NULL,       -- the peer's newest receive key when it was sealed
    bodyless      INTEGER NOT NULL,
    out_ms        INTEGER,             -- when a file with it was written last
    PRIMARY KEY (hh, via)
) STRICT;
CREATE INDEX carried_by_envelope ON carried (envelope_hash);
