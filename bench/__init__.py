"""Measurements, one JSON line per case: ``python -m bench``.

Spec: docs/benchmarks.md. Only ratios taken in one interleaved run mean anything on a shared machine, so every
bench brings what it compares itself with and lets both take turns. One rule: a figure comes with its spread
and with what it was measured against; nothing is asserted about time, and no test reads one.

Reading order: report, measure, sample, bare, seal_open, grown, log_work, go_verifier, audit_work, end_to_end,
forward, stored, catch_up, restart, photo, idle, __main__.
"""
