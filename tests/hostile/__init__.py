"""Input made on purpose to break a node, one named test for each item of docs/testing.md."""
