"""Pages against a desk in memory: what an officer sees, and what a hostile page on the same machine gets."""
