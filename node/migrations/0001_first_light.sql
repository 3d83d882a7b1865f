-- The office itself: one row.
CREATE TABLE office (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    office_id BLOB NOT NULL,
    name TEXT NOT NULL,
    country TEXT NOT NULL,
    root_public BLOB NOT NULL,
    certificate BLOB NOT NULL,
    key_version INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

-- Officers of this office. Their keys are in the keystore, sealed by their PIN.
CREATE TABLE officer (
    number INTEGER PRIMARY KEY,
    alias TEXT NOT NULL,
    role TEXT NOT NULL,
    public_key BLOB NOT NULL,
    since_ms INTEGER NOT NULL,
    until_ms INTEGER,
    pin_failures INTEGER NOT NULL DEFAULT 0,
    locked_until_ms INTEGER NOT NULL DEFAULT 0,
    pseudonym_key BLOB NOT NULL      -- erasing it unlinks this officer from the log
) STRICT;

-- Every version of our signed officer list; peers verify under the version a message names.
CREATE TABLE officer_list (
    version INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;

-- One row per paired office. The blobs are values of keys.trust and protocol, encoded by themselves.
CREATE TABLE peer (
    office_id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    country TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('half', 'active', 'suspended')),
    since_ms INTEGER NOT NULL,
    trusted BLOB NOT NULL,
    pair BLOB NOT NULL,
    receive_keys BLOB NOT NULL,
    peer_key BLOB NOT NULL,
    broker_address TEXT NOT NULL,    -- where the peer's mailbox for us is
    put_secret BLOB NOT NULL,        -- capability of that mailbox
    log_origin TEXT NOT NULL,        -- the peer's log and witness, pinned at pairing
    log_public BLOB NOT NULL,
    witness_name TEXT NOT NULL,
    witness_public BLOB NOT NULL,
    checkpoint BLOB NOT NULL,        -- what its log was when we paired; not trust on first use
    own_broker_address TEXT NOT NULL, -- where our mailbox for the peer is
    officer_list_sent INTEGER NOT NULL,
    last_heard_ms INTEGER,
    ack_due_ms INTEGER               -- when an acknowledgement must leave even without company
) STRICT;

-- Brokers we talk to: card pinned by the address.
CREATE TABLE broker (
    address TEXT PRIMARY KEY,
    card BLOB NOT NULL
) STRICT;

-- Every alert we sent or received; the content is in the vault.
CREATE TABLE alert (
    alert_id BLOB NOT NULL,
    incoming INTEGER NOT NULL,
    peer BLOB,                       -- who sent it, when incoming
    hh BLOB,                         -- which delivery brought it, when incoming
    status TEXT NOT NULL,
    crime_type TEXT NOT NULL,
    urgency TEXT NOT NULL,
    headline TEXT NOT NULL,          -- names no victim
    needs_reason INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    stored_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    erase_at_ms INTEGER NOT NULL,
    author INTEGER,
    releaser INTEGER,
    flags TEXT NOT NULL DEFAULT '',  -- space separated: clock_suspect stale emergency
    opened_ms INTEGER,
    erased_ms INTEGER,
    PRIMARY KEY (alert_id, incoming)
) STRICT;
CREATE INDEX alert_by_time ON alert (incoming, stored_ms);
CREATE INDEX alert_unopened ON alert (stored_ms)
    WHERE incoming = 1 AND opened_ms IS NULL AND erased_ms IS NULL;
CREATE INDEX alert_to_erase ON alert (erase_at_ms) WHERE erased_ms IS NULL;

-- Content, each under a key of its own, which is wrapped by the key-encryption key of its month.
CREATE TABLE vault (
    alert_id BLOB NOT NULL,
    incoming INTEGER NOT NULL,
    kek TEXT NOT NULL,
    wrapped_key BLOB NOT NULL,
    ciphertext BLOB NOT NULL,
    PRIMARY KEY (alert_id, incoming)
) STRICT;

-- Rungs of the ladder, per delivery of an alert.
CREATE TABLE ladder (
    alert_id BLOB NOT NULL,
    peer BLOB NOT NULL,
    step TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    clock TEXT NOT NULL,
    log_index INTEGER,
    code TEXT,
    PRIMARY KEY (alert_id, peer, step)
) STRICT;

-- Alerts signed by their author that wait for a second officer.
CREATE TABLE pending (
    draft_id BLOB PRIMARY KEY,
    prepared BLOB NOT NULL,
    recipients TEXT NOT NULL,        -- space separated hex office ids
    author INTEGER NOT NULL,
    headline TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    erase_at_ms INTEGER NOT NULL     -- a draft nobody released goes with its content
) STRICT;

-- One item to one peer, kept until the peer's signed acknowledgement.
CREATE TABLE delivery (
    hh BLOB PRIMARY KEY,
    peer BLOB NOT NULL REFERENCES peer (office_id),
    instance BLOB NOT NULL,
    pair_seq INTEGER NOT NULL,
    type INTEGER NOT NULL,
    alert_id BLOB,
    msg_id BLOB NOT NULL,
    service INTEGER NOT NULL,
    urgent INTEGER NOT NULL,
    message BLOB,                    -- signed bytes; dropped with the content
    opening BLOB NOT NULL,           -- leaf opening
    envelope BLOB,                   -- sealed bytes of the current attempt, until a custody note stands
    envelope_hash BLOB NOT NULL,
    attempt INTEGER NOT NULL,        -- how often it was sealed
    state BLOB NOT NULL,             -- protocol.delivery; the next three columns repeat parts of it
    phase TEXT NOT NULL,
    next_at_ms INTEGER,              -- NULL: nothing to do until something is heard
    expires_ms INTEGER NOT NULL,
    settled_ms INTEGER,              -- when it was acknowledged; the message stays for the backup horizon
    cause TEXT,                      -- why it still waits, a code
    UNIQUE (peer, instance, pair_seq)
) STRICT;
CREATE INDEX delivery_unsettled ON delivery (expires_ms) WHERE phase IN ('kept', 'held', 'address_lost');
CREATE INDEX delivery_settled ON delivery (settled_ms) WHERE message IS NOT NULL;
CREATE INDEX delivery_due ON delivery (next_at_ms) WHERE next_at_ms IS NOT NULL;
CREATE INDEX delivery_by_alert ON delivery (alert_id);
CREATE INDEX delivery_by_envelope ON delivery (envelope_hash);

-- The broker's signed word for each envelope it took: evidence.
CREATE TABLE custody (
    envelope_hash BLOB PRIMARY KEY,
    hh BLOB NOT NULL,
    note BLOB NOT NULL
) STRICT;

-- Replay table: each item of a peer once, for ever.
CREATE TABLE received (
    peer BLOB NOT NULL,
    instance BLOB NOT NULL,
    pair_seq INTEGER NOT NULL,
    hh BLOB NOT NULL,
    pair_prev BLOB NOT NULL,
    type INTEGER NOT NULL,
    verdict TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    header BLOB NOT NULL,
    signature BLOB NOT NULL,
    opening BLOB NOT NULL,
    PRIMARY KEY (peer, instance, pair_seq)
) STRICT;
CREATE UNIQUE INDEX received_by_hh ON received (peer, hh);
CREATE INDEX received_by_previous ON received (peer, pair_prev);

-- Receipts that wait to leave; several go under one signature.
CREATE TABLE receipt_due (
    number INTEGER PRIMARY KEY,
    peer BLOB NOT NULL,
    alert_id BLOB NOT NULL,
    hh BLOB NOT NULL,
    state TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    log_index INTEGER NOT NULL,
    code TEXT NOT NULL,
    actor TEXT NOT NULL
) STRICT;

-- Deletions a broker still has to hear about: recorded with the receiving, sent afterwards.
CREATE TABLE broker_delete (
    broker_address TEXT NOT NULL,
    mailbox TEXT NOT NULL,           -- keystore name of the mailbox
    envelope_hash BLOB NOT NULL,
    PRIMARY KEY (mailbox, envelope_hash)
) STRICT;

-- Bytes that did not open, were refused or contradict others; of junk the last 100 items per peer.
CREATE TABLE quarantine (
    envelope_hash BLOB PRIMARY KEY,
    peer BLOB,
    verdict TEXT NOT NULL,
    code TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    bytes BLOB NOT NULL
) STRICT;
CREATE INDEX quarantine_by_peer ON quarantine (peer, verdict);

-- Reading history per alert: the access chain of the log.
CREATE TABLE access (
    alert_id BLOB NOT NULL,
    incoming INTEGER NOT NULL,
    count INTEGER NOT NULL,
    last_index INTEGER NOT NULL,
    PRIMARY KEY (alert_id, incoming)
) STRICT;

-- What both offices signed when they paired.
CREATE TABLE pairing_evidence (
    peer BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    transcript BLOB NOT NULL,
    own_pair_ok BLOB NOT NULL,
    peer_pair_ok BLOB NOT NULL,
    PRIMARY KEY (peer, transcript)
) STRICT;
