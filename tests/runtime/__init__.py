"""Tests of the ground: the environment, the database, the log, a daemon's life."""
