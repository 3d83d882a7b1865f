"""Tests mirror the code: tests/<package>/test_<file>.py. Their docstrings, in order, are a second spec."""
