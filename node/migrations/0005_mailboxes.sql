-- Our own mailboxes; their secrets are in the keystore under the name.
CREATE TABLE mailbox (
    name TEXT PRIMARY KEY,
    peer BLOB NOT NULL,
    generation INTEGER NOT NULL,
    broker_address TEXT NOT NULL,
    stage TEXT NOT NULL CHECK (stage IN ('asked', 'made', 'proven', 'passed')),
    since_ms INTEGER NOT NULL,       -- when it reached this stage
    life_ms INTEGER NOT NULL,        -- how long after that a successor is wanted
    parent TEXT,                     -- the mailbox by whose word it is made; NULL: by an operator's token
    grant_bytes BLOB,                -- the broker's word by which it makes this one again
    announced BLOB,                  -- hh of the last message that tells the peer of it
    has_arrival INTEGER NOT NULL DEFAULT 0,
    is_empty INTEGER NOT NULL DEFAULT 0,  -- listed nothing since it was passed
    lost_ms INTEGER,                 -- when the broker did not know it and could not make it again
    told_ms INTEGER,                 -- when the peer was last told that it was made again
    UNIQUE (peer, generation)
) STRICT;

-- Where each peer reads. The address itself is in peer; another one there means a newer pairing.
CREATE TABLE address (
    peer BLOB PRIMARY KEY,
    put_hash BLOB NOT NULL,
    generation INTEGER NOT NULL,
    since_ms INTEGER NOT NULL,
    lost_ms INTEGER,                 -- since when its broker says that there is no such mailbox
    next BLOB                        -- announced, at a broker whose card is not here yet: items
) STRICT;

-- What brokers lost, and which alerts they had promised to keep.
CREATE TABLE broker_loss (
    number INTEGER PRIMARY KEY,
    broker_address TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    mailboxes INTEGER NOT NULL       -- how many of ours it made again
) STRICT;
CREATE TABLE broker_loss_item (
    loss INTEGER NOT NULL REFERENCES broker_loss (number),
    hh BLOB NOT NULL,
    attempt INTEGER NOT NULL,        -- how often it was sealed before
    PRIMARY KEY (loss, hh)
) STRICT;
