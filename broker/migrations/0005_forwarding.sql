-- Who may reach other brokers through this one. The token itself is with the office the operator gave it to.
CREATE TABLE forwarding_tokens (
    hash      BLOB PRIMARY KEY CHECK (length(hash) = 32),
    loaded_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
