-- paired: the pair-ok of the present pair brought our key to the peer. Before, a message of its own did (carried_by).
ALTER TABLE reset_key ADD COLUMN paired INTEGER NOT NULL DEFAULT 0;
