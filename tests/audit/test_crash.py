"""kill -9 at every step of publishing, in real processes on a real disk: nothing lost, nothing signed twice.

A child grows a log across a tile's end and publishes twice; the n-th file operation of its environment
kills it. A second child meets what was left and is killed too, in the middle of its recovery. A third must
find every entry that the first was told is committed, and whatever was ever signed must be a prefix of what
it publishes.
"""

import asyncio
import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from audit.fsck import verify
from audit.reader import PublishedLog
from runtime.env import AnyPath, RealFiles, real_env
from tests.audit.logs import a_policy, open_log

SIZES = (250, 258)
OPERATIONS_MAX = 200


class DeadlyFiles(RealFiles):
    """Kills its own process just before or just after the n-th change on disk."""

    def __init__(self, fatal: int) -> None:
        super().__init__()
        self.fatal = fatal

    def _count(self) -> None:
        if self.fatal == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.fatal -= 1

    def write_atomic(self, path: AnyPath, data: bytes, mode: int = 0o600) -> None:
        self._count()
        super().write_atomic(path, data, mode)
        self._count()

    def remove(self, path: AnyPath) -> None:
        self._count()
        super().remove(path)
        self._count()


def office(home: Path, fatal: int) -> None:
    """One life: grow to each size in turn, noting in a file what was acknowledged, and publish."""

    async def live() -> None:
        env = replace(real_env(), files=DeadlyFiles(fatal))
        async with open_log(home, env) as opened:
            assert opened.log.refusal is None, opened.log.refusal
            for size in SIZES:
                if opened.log.size < size:
                    await opened.append(size - opened.log.size)
                    (home / "acknowledged").write_text(str(size))
                await opened.log.publish()

    asyncio.run(live())


def busy_office(home: Path) -> None:
    """Append and publish until killed; each acknowledged size is noted before the next step."""

    async def live() -> None:
        async with open_log(home) as opened:
            assert opened.log.refusal is None, opened.log.refusal
            acknowledged = os.open(home / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            while True:
                await opened.append(37)
                os.write(acknowledged, f"{opened.log.size}\n".encode())
                await opened.log.publish()

    asyncio.run(live())


FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(["tests.audit.test_crash"])


def run(call: Callable[..., None], *arguments: object, kill_after_s: float | None = None) -> int:
    """Run ``call`` in a process of its own; its exit code, -9 for the killed."""
    process = FORK_SERVER.Process(target=call, args=arguments)
    process.start()
    process.join(60 if kill_after_s is None else kill_after_s)
    if kill_after_s is not None:
        process.kill()
        process.join(60)
    code = process.exitcode
    process.close()
    assert code is not None
    return code


def test_a_kill_at_any_step_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    """Every change on disk while publishing, before and after; then the same in the recovery from it."""
    deaths = 0
    for fatal in range(OPERATIONS_MAX):
        home = tmp_path / str(fatal)
        if run(office, home, fatal) == 0:
            break
        deaths += 1
        acknowledged = int((home / "acknowledged").read_text()) if (home / "acknowledged").exists() else 0
        signed = published_sizes(home)
        if (home / "log/checkpoint").exists():
            assert int((home / "log/checkpoint").read_text().split("\n")[1]) in signed
        assert run(office, home, fatal % 11) in (0, -signal.SIGKILL)
        assert run(office, home, -1) == 0
        report = verify(PublishedLog(str(home / "log")), a_policy())
        assert report.verdicts == ["VERIFIED"], f"killed at {fatal}: {report.findings}"
        assert report.size == SIZES[-1] >= acknowledged
        assert signed <= published_sizes(home)
        shutil.rmtree(home)
    else:
        pytest.fail("the office never lived to the end")
    assert deaths >= 30, f"only {deaths} steps were found to die at"


def published_sizes(home: Path) -> set[int]:
    """Sizes for which a signature lies in the archive."""
    archive = home / "log/archive"
    return (
        {int(path.name) for path in archive.iterdir() if path.name.isdigit()} if archive.is_dir() else set()
    )


def test_kills_at_random_moments_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Thirty lives of one busy office, each ended at a moment of its own; every signature stays a prefix."""
    moments = random.Random(20)
    signed: set[int] = set()
    for _ in range(30):
        assert run(busy_office, tmp_path, kill_after_s=moments.uniform(0.03, 0.15)) == -signal.SIGKILL
        assert signed <= (signed := published_sizes(tmp_path))
    acknowledged = [int(line) for line in (tmp_path / "acknowledged").read_text().split()]
    assert run(office, tmp_path, -1) == 0
    report = verify(PublishedLog(str(tmp_path / "log")), a_policy())
    assert report.verdicts == ["VERIFIED"]
    assert report.size >= acknowledged[-1] > 37
    assert report.checkpoints >= len(signed)
