"""Data that our own code must answer in one way for ever, with the scripts that made it.

``envelopes/`` holds one JSON file per envelope, one fault each, with the one expected outcome and code;
``make_envelopes.py`` writes them from fixed seeds. Keys are the same in every run; wraps, blobs and
signatures are randomised by the library, so a new run writes other bytes with the same answers.
"""
