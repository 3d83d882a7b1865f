-- The pseudonym of the mailbox that a token or a grant made, and from which this one descends: what one token may
-- cost is counted by it, also when the mailboxes in between are gone.
ALTER TABLE mailboxes ADD COLUMN lineage BLOB NOT NULL DEFAULT x'';
WITH RECURSIVE line (id, lineage) AS (
    SELECT id, pseudonym FROM mailboxes WHERE predecessor IS NULL
    UNION ALL
    SELECT m.id, line.lineage FROM mailboxes m JOIN line ON m.predecessor = line.id
)
UPDATE mailboxes SET lineage = (SELECT line.lineage FROM line WHERE line.id = mailboxes.id);
CREATE INDEX mailboxes_by_lineage ON mailboxes (lineage);
