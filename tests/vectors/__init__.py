"""Data that our own code must answer in one way for ever, with the scripts that made it.

``envelopes/`` (one JSON file per envelope, one fault each, with the one expected outcome and code),
``documents.json`` (what travels besides), ``ceremonies.json`` (both pairings) and ``records.json`` (what is
kept, shown or published); ``make_*.py`` write them. Keys are the same in every run. Wraps, blobs and
composite signatures are randomised by the library: a new run writes other bytes with the same answers. In
``records.json`` there are none, and it comes out the same. docs/spec/README.md says what is where.
"""
