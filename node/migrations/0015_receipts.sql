-- When the receipts for one peer may leave: drawn by lot, so that their time tells little of the officer's.
ALTER TABLE receipt_due ADD COLUMN due_ms INTEGER NOT NULL DEFAULT 0;
