-- Brokers that this office asked to cosign its log, which tells them its name, size and growth: none unless somebody
-- switched it on. How far each cosigned stands in cosigner, with the SHA-256 of the address in the place of a partner.
CREATE TABLE broker_witness (
    address    TEXT PRIMARY KEY,
    cosigner   BLOB NOT NULL UNIQUE CHECK (length(cosigner) = 32),
    token      BLOB NOT NULL CHECK (length(token) = 32),
    since_ms   INTEGER NOT NULL,
    trouble    TEXT,                   -- code of what kept the last question from an answer
    trouble_ms INTEGER
) STRICT;

-- Every key under which such a broker cosigned, as it said when it was asked first; they stay when it is switched off.
CREATE TABLE broker_witness_key (
    address TEXT NOT NULL,
    name    TEXT NOT NULL,
    type    INTEGER NOT NULL,
    public  BLOB NOT NULL,
    UNIQUE (name, type, public)
) STRICT;
