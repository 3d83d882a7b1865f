-- Attachments beside a mailbox, which is charged with their whole size when they begin. Sealed bytes; the two secrets
-- as hashes. is_gone: deleted, and remembered until until_ms so that a late part does not begin it anew.
CREATE TABLE attachments (
    id         INTEGER PRIMARY KEY,
    mailbox    INTEGER NOT NULL REFERENCES mailboxes (id) ON DELETE CASCADE,
    write_hash BLOB NOT NULL CHECK (length(write_hash) = 32),
    read_hash  BLOB NOT NULL CHECK (length(read_hash) = 32),
    size_bytes INTEGER NOT NULL,
    held_bytes INTEGER NOT NULL DEFAULT 0 CHECK (held_bytes <= size_bytes),
    until_ms   INTEGER NOT NULL,
    is_gone    INTEGER NOT NULL DEFAULT 0 CHECK (is_gone IN (0, 1))
) STRICT;
CREATE UNIQUE INDEX attachments_by_write ON attachments (mailbox, write_hash);
CREATE UNIQUE INDEX attachments_by_read ON attachments (mailbox, read_hash);
CREATE INDEX attachments_due ON attachments (until_ms);

-- Their bytes, each part where the one before it ended, and never written again.
CREATE TABLE attachment_parts (
    attachment INTEGER NOT NULL REFERENCES attachments (id) ON DELETE CASCADE,
    at         INTEGER NOT NULL,
    bytes      BLOB NOT NULL,
    PRIMARY KEY (attachment, at)
) STRICT;
