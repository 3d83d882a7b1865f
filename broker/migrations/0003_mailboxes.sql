-- Mailboxes whose time was over: a grant must not bring one back. Nothing else is remembered of them.
CREATE TABLE retired (
    put_hash BLOB PRIMARY KEY CHECK (length(put_hash) = 32)
) STRICT, WITHOUT ROWID;

-- How many mailboxes were made again with a grant since this database began: one row.
CREATE TABLE remade (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    count INTEGER NOT NULL
) STRICT;
INSERT INTO remade (id, count) VALUES (1, 0);
