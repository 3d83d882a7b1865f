"""What a bench says: JSON lines on standard output, progress on standard error.

Every line has ``bench``, ``case``, ``value`` and ``unit``; ``min`` and ``max`` are the spread over ``runs``
repetitions, of which ``value`` is the median. A comparison also has ``ratio``, ours over the other's speed
(below 1: ours is slower), with its own spread, and ``against``, what the other is. Where a goal was set, the
line has ``goal_min`` or ``goal_max``, and ``reached``: what the median of this run says, on this machine.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from cryptography.hazmat.backends.openssl import backend

from node import __version__
from runtime.sqlite import apsw_version

_PACKAGES: Final = ("cryptography", "pynacl", "aiohttp", "msgpack", "pydantic", "apsw-sqlite3mc")
_DIGITS: Final = 4  # more would be noise


def line(bench: str, case: str, *, value: float | str, unit: str, **more: Any) -> None:
    """Print one line."""
    told = {"bench": bench, "case": case, "value": _rounded(value), "unit": unit}
    print(json.dumps(told | {key: _rounded(entry) for key, entry in more.items()}), flush=True)


def figure(
    bench: str,
    case: str,
    values: Sequence[float],
    unit: str,
    *,
    goal_min: float | None = None,
    goal_max: float | None = None,
    **more: Any,
) -> None:
    """Print the median of ``values`` with its spread, and whether it reached a goal that was set for it."""
    value, goal = median(values), {}
    if goal_min is not None:
        goal = {"goal_min": goal_min, "reached": value >= goal_min}
    elif goal_max is not None:
        goal = {"goal_max": goal_max, "reached": value <= goal_max}
    spread = {"min": min(values), "max": max(values), "runs": len(values)}
    line(bench, case, value=value, unit=unit, **spread, **goal, **more)


def speed_ratio(ours: Sequence[float], others: Sequence[float], *, against: str) -> dict[str, Any]:
    """The fields of a comparison of speeds (per second, the higher the better), run by run."""
    ratios = [our / other for our, other in zip(ours, others, strict=True)]
    return {
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "against": against,
        "against_value": median(others),
    }


def cost_ratio(ours: Sequence[float], others: Sequence[float], *, against: str) -> dict[str, Any]:
    """The same for costs (time per item, the lower the better); ``ratio`` still says how fast ours is."""
    speeds = speed_ratio([1 / our for our in ours], [1 / other for other in others], against=against)
    return speeds | {"against_value": median(others)}


def progress(text: str) -> None:
    """Tell a person what is under way."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def machine(*, quick: bool) -> None:
    """The first lines: where this ran, with what."""
    line("machine", "cores", value=len(os.sched_getaffinity(0)), unit="cores", processor=_processor())
    line("machine", "memory", value=_memory_bytes() / 2**30, unit="GiB")
    line("machine", "load before the run", value=os.getloadavg()[0], unit="processes")
    line(
        "machine",
        "files under",
        value=tempfile.gettempdir(),
        unit="path",
        filesystem=_filesystem(tempfile.gettempdir()),
    )
    line("versions", "salween", value=_version(), unit="version", quick=quick)
    line("versions", "when", value=datetime.now(UTC).isoformat(timespec="seconds"), unit="time")
    line("versions", "system", value=platform.platform(), unit="version")
    line("versions", "python", value=platform.python_version(), unit="version")
    line("versions", "openssl in cryptography", value=backend.openssl_version_text(), unit="version")
    line("versions", "sqlite", value=".".join(map(str, apsw_version())), unit="version")
    for package in _PACKAGES:
        line("versions", package, value=importlib.metadata.version(package), unit="version")


def _rounded(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _processor() -> str:
    for row in Path("/proc/cpuinfo").read_text().splitlines():
        if row.startswith("model name"):
            return row.partition(":")[2].strip()
    return platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _filesystem(path: str) -> str:
    """Type of the file system holding ``path``: on tmpfs an fsync costs nothing and proves nothing."""
    found, best = "unknown", -1
    for row in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = row.split(" ")
        inside = mount == "/" or path == mount or path.startswith(f"{mount}/")
        if inside and len(mount) > best:
            found, best = kind, len(mount)
    return found


def _version() -> str:
    """The version, and the commit when this is a checkout."""
    git = shutil.which("git")
    if git is None:
        return __version__
    asked = subprocess.run(
        [git, "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{__version__} {asked.stdout.strip()}".strip()
