-- How a broker is reached when not by the network itself. through NULL: straight, by the operator's word.
CREATE TABLE route (
    address  TEXT PRIMARY KEY,  -- the broker to be reached
    through  TEXT,              -- ours, which hands the request on
    name     TEXT,              -- what the broker to be reached is called there
    token    BLOB,              -- what lets us ask for it, 32 bytes
    since_ms INTEGER NOT NULL,
    CHECK ((through IS NULL) = (name IS NULL) AND (through IS NULL) = (token IS NULL))
) STRICT;
