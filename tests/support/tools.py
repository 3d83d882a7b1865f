"""What tests need of the machine. Programs outside Python: found, or the test says so aloud.

A missing tool is a failure where it must be there (root can install it, and the build service did), and
elsewhere one counted skip line per tool: pytest folds skips raised at one place for one reason.
"""

import os
import shutil
from pathlib import Path

import pytest

_PACKAGES = {
    "chromium": "chromium",
    "go": "golang-go golang-golang-x-mod-dev",
}


MEMORY = Path("/dev/shm")
_ROOM_BYTES = 4 * 1024**3


def has_room_in_memory() -> bool:
    """Whether a whole run of tests fits into the file system in memory; in a container it is often small."""
    try:
        return os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= _ROOM_BYTES
    except OSError:
        return False


def must_have_every_tool() -> bool:
    """Whether a skip would hide something: run by root, or by the build service (CI=true)."""
    return os.geteuid() == 0 or os.environ.get("CI") == "true"


def require_tool(name: str) -> Path:
    """Path of the program ``name``, or the end of this test: failed or skipped as the module says."""
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    reason = f"{name} is not installed (Debian: apt-get install {_PACKAGES.get(name, name)})"
    if must_have_every_tool():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
