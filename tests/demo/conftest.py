"""A temporary directory with a short name: Unix sockets have room for 107 bytes of path."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Empty, and removed afterwards with whatever a failed test left in it."""
    with tempfile.TemporaryDirectory(prefix="sd-", dir="/tmp") as directory:
        yield Path(directory)
