"""Tests of keys/: primitives, documents, trust, pairing and the key file."""
