"""The broker by its promises: every test talks to a real one, over its real endpoint."""
