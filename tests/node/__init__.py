"""Tests of node/: two real offices and a real broker on virtual time."""
