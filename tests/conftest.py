"""What every test may ask for by name. Builders and fakes live in tests/support/, imported where used."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import tools

# A loaded machine must not decide a test: no deadline; slow or large generation is no fault. CI takes the
# same examples each time, so that a failure there can be had here; at a desk they differ from run to run.
settings.register_profile(
    "salween",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("salween")


def pytest_configure(config: pytest.Config) -> None:
    """Puts ``tmp_path`` into memory where there is room: what is only ever killed need not wait for a disk.

    What a power cut takes is judged on simulated disks alone. PYTEST_DEBUG_TEMPROOT=/tmp gives real ones.
    """
    if "PYTEST_DEBUG_TEMPROOT" not in os.environ and tools.has_room_in_memory():
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(tools.MEMORY)


# Folders whose files take minutes begin first, so that workers end with the short ones, not alone with one.
_LONG = {"simulation": 0, "scenarios": 1, "demo": 2, "bench": 2, "browser": 2}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts files, and leaves the order within each alone."""
    items.sort(key=lambda item: _LONG.get(item.path.parent.name, len(_LONG)))


@pytest.fixture
def require_tool() -> Callable[[str], Path]:
    """``require_tool("chromium")`` gives its path, or ends the test: failed for root and CI, else skipped."""
    return tools.require_tool
