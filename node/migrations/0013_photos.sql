-- Ciphertexts of pictures, ours and what came, as they travel. blob: 16 random bytes and the picture's number.
CREATE TABLE photo_part (
    blob BLOB NOT NULL,
    at INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (blob, at)
) STRICT;

-- Photos of alerts that are being written (draft NULL) or wait for a second officer.
CREATE TABLE photo_staged (
    name BLOB PRIMARY KEY,           -- 16 random bytes: the form's word for it, and the beginning of its blobs
    officer INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    is_ready INTEGER NOT NULL,       -- its parts are all here
    draft BLOB,
    place INTEGER NOT NULL DEFAULT 0,
    kek TEXT NOT NULL,
    sealed BLOB NOT NULL             -- both manifests, sealed under the month key of that name
) STRICT;
CREATE INDEX photo_staged_by_draft ON photo_staged (draft) WHERE draft IS NOT NULL;

-- Pictures beside our alerts, sent (kept) and received. number: into Alert.manifests, odd ones are thumbnails.
CREATE TABLE photo (
    alert_id BLOB NOT NULL,
    incoming INTEGER NOT NULL,
    number INTEGER NOT NULL,
    peer BLOB,                       -- who sends it, when incoming
    blob BLOB NOT NULL,
    kek TEXT NOT NULL,
    sealed BLOB NOT NULL,            -- its manifest
    state TEXT NOT NULL CHECK (state IN ('kept', 'coming', 'whole', 'refused', 'ended', 'gone')),
    code TEXT NOT NULL DEFAULT '',   -- why it was refused, or waits
    is_told INTEGER NOT NULL DEFAULT 1, -- 0: its sender is still to be told what became of it
    size_bytes INTEGER NOT NULL,     -- of the ciphertext
    done_bytes INTEGER NOT NULL,
    furthest_bytes INTEGER NOT NULL,
    setbacks INTEGER NOT NULL,
    next_at_ms INTEGER NOT NULL,
    PRIMARY KEY (alert_id, incoming, number)
) STRICT;
CREATE INDEX photo_coming ON photo (next_at_ms) WHERE state = 'coming';
CREATE INDEX photo_untold ON photo (alert_id) WHERE is_told = 0;

-- One upload of a picture for one recipient, to the mailbox it was begun in.
CREATE TABLE photo_upload (
    alert_id BLOB NOT NULL,
    number INTEGER NOT NULL,
    peer BLOB NOT NULL,
    broker_address TEXT NOT NULL,
    put_secret BLOB NOT NULL,
    write_secret BLOB NOT NULL,
    read_hash BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('under_way', 'fetched', 'refused', 'ended')),
    code TEXT NOT NULL DEFAULT '',
    size_bytes INTEGER NOT NULL,
    done_bytes INTEGER NOT NULL,
    furthest_bytes INTEGER NOT NULL,
    setbacks INTEGER NOT NULL,
    next_at_ms INTEGER NOT NULL,
    PRIMARY KEY (alert_id, number, peer)
) STRICT;
CREATE INDEX photo_upload_due ON photo_upload (broker_address, next_at_ms) WHERE state = 'under_way';

-- Deletions a broker still has to hear about: by the recipient (mailbox, its keystore name) or by us as its sender.
CREATE TABLE photo_delete (
    broker_address TEXT NOT NULL,
    mailbox TEXT NOT NULL DEFAULT '',
    put_secret BLOB NOT NULL DEFAULT x'',
    secret BLOB NOT NULL,
    until_ms INTEGER NOT NULL,       -- then the broker has dropped it by itself
    PRIMARY KEY (broker_address, mailbox, put_secret, secret)
) STRICT;
