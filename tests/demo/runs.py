"""``salween-demo`` as a person starts it: a process, its words, and what it leaves behind."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def processes_of(directory: str) -> list[int]:
    """Every process that has ``directory`` on its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if directory.encode() in command:
                found.append(int(entry.name))
    return found


@dataclass(slots=True)
class Demo:
    """One run; ``temporary`` is the only place where it may put anything."""

    process: asyncio.subprocess.Process
    temporary: Path
    words: str = field(default="")

    async def says(self, pattern: str, timeout_s: float = 120.0) -> str:
        """Read on until it said something like ``pattern``; what it said so far."""
        assert self.process.stdout is not None
        async with asyncio.timeout(timeout_s):
            while not re.search(pattern, self.words):
                more = await self.process.stdout.read(4096)
                assert more, f"it ended and never said {pattern!r}:\n{self.words}"
                self.words += more.decode()
        return self.words

    async def ends(self, timeout_s: float = 60.0) -> int:
        """Its exit code, having read everything it said."""
        assert self.process.stdout is not None
        async with asyncio.timeout(timeout_s):
            self.words += (await self.process.stdout.read()).decode()
            return await self.process.wait()

    def send(self, sign: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may be through already
            self.process.send_signal(sign)

    def nothing_is_left(self) -> None:
        """No process and no file, whatever happened."""
        assert processes_of(str(self.temporary)) == []
        assert list(self.temporary.iterdir()) == []


@asynccontextmanager
async def demo(temporary: Path, *arguments: str) -> AsyncIterator[Demo]:
    """``salween-demo`` with its temporary directory in ``temporary``; ended if the test leaves it running."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "demo", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        yield Demo(process, temporary)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                await process.wait()
