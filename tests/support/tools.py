"""Programs outside Python that some tests drive: found, or the test says so aloud.

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
