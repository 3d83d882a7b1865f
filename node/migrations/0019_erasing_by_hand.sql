-- What became of an alert outside of its date. erased_code: why its content went before it, by hand here or by its
-- sender's word. held_code: why it stays beyond it; erase_at_ms is then the end of that, and agreed_ms what it was.
ALTER TABLE alert ADD COLUMN erased_code TEXT;
ALTER TABLE alert ADD COLUMN held_code TEXT;
ALTER TABLE alert ADD COLUMN agreed_ms INTEGER;
