"""Tests mirror the code: tests/<package>/test_<file>.py. Read in order, their docstrings are a second, shorter spec."""
