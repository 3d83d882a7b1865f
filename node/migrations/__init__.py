"""Numbered forward-only migrations of a node's database; read by runtime.sqlite."""
