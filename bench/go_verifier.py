"""The verifier that shares nothing with us, built once for a run: Go, on Debian's golang.org/x/mod.

Spec: tests/independent/tlogcheck. Where Go or the package is missing the bench says so in its line instead of
comparing.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GOPATH = Path("/usr/share/gocode")
SOURCE = Path(__file__).resolve().parents[1] / "tests" / "independent" / "tlogcheck"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoVerifier:
    """The built program, or why there is none."""

    binary: Path | None
    why_not: str = ""

    def check(self, directory: Path, log_key: str) -> None:
        """Run it over a log that it must accept."""
        self._run(directory, log_key)

    def check_receipts(self, file: Path, log_key: str, witness_keys: Sequence[str]) -> None:
        """Run it over entries and their receipts, by turns in a bundle, cosigned by each of these."""
        self._run("-receipts", *(word for key in witness_keys for word in ("-witness", key)), file, log_key)

    def _run(self, *arguments: str | Path) -> None:
        assert self.binary is not None
        subprocess.run([self.binary, *arguments], check=True, capture_output=True, timeout=120)


def build(place: Path) -> GoVerifier:
    """Build it in ``place``."""
    go = shutil.which("go")
    if go is None:
        return GoVerifier(binary=None, why_not="go is not installed")
    if not (GOPATH / "src/golang.org/x/mod").is_dir():
        return GoVerifier(binary=None, why_not="golang-golang-x-mod-dev is not installed")
    binary = place / "tlogcheck"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "GO111MODULE": "off",
        "GOPATH": str(GOPATH),
        "GOCACHE": str(place / "cache"),
        "CGO_ENABLED": "0",
    }
    built = subprocess.run(
        [go, "build", "-o", binary, "."],
        cwd=SOURCE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        return GoVerifier(binary=None, why_not=f"it does not build: {built.stderr.strip()[-200:]}")
    return GoVerifier(binary=binary)
