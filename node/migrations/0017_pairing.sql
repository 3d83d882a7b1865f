-- paired: the pair-ok of the present pair brought our key to the peer. Before, a message of its own did (carried_by).
ALTER TABLE reset_key ADD COLUMN paired INTEGER NOT NULL DEFAULT 0;

-- asked: a partner asked for a cosignature before it said what we had cosigned; it is told to ask again then.
ALTER TABLE witness_hold ADD COLUMN asked INTEGER NOT NULL DEFAULT 0;
