"""What every test may ask for by name. Builders and fakes live in tests/support/, imported where used."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import tools


@pytest.fixture
def require_tool() -> Callable[[str], Path]:
    """``require_tool("chromium")`` gives its path, or ends the test: failed for root and CI, else skipped."""
    return tools.require_tool
