-- Of an alert of ours that was erased by hand: the entry, and the officer's pseudonym. Who takes in a copy that was
-- under way then is told as well.
ALTER TABLE alert ADD COLUMN erased_index INTEGER;
ALTER TABLE alert ADD COLUMN erased_actor TEXT;
