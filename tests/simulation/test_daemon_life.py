"""A daemon's life on virtual time: what would take too long, or a broken disk, in the real world."""

import asyncio
from pathlib import Path

import pytest

from runtime import exits
from runtime.env import Env
from runtime.service import STOP_TIMEOUT_S, Daemon, DaemonOptions, run_daemon
from tests.simulation.world import World

OPTIONS = DaemonOptions(name="small", directory="/var/lib/small", health_port=7442, strict_log=True)


async def hangs_at_its_end(daemon: Daemon) -> None:
    daemon.announce_ready({})
    await daemon.stop_requested()
    await asyncio.Event().wait()


async def hangs_after_a_failure(daemon: Daemon) -> None:
    daemon.announce_ready({})
    try:
        daemon.fail(exits.DiskFailed("disk_error", "the disk failed"))
        await daemon.stop_requested()
    finally:
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("main", "code"), [(hangs_at_its_end, exits.INTERNAL), (hangs_after_a_failure, exits.DISK)]
)
def test_a_daemon_that_hangs_at_its_end_is_ended(tmp_path: Path, main: object, code: int) -> None:
    """After the time allowed the process ends all the same, with the code of what went wrong."""
    with World(seed=1, directory=tmp_path) as world:
        host = world.host("office")

        async def process(env: Env) -> int:
            env.files.mkdir("/var/lib/small")
            return await run_daemon(env, main, OPTIONS)  # type: ignore[arg-type]

        async def script() -> None:
            life = host.start(process)
            await asyncio.sleep(1)
            began = world.loop.time()
            if code == exits.INTERNAL:
                assert await host.stop() == code
                assert world.loop.time() - began == pytest.approx(STOP_TIMEOUT_S, abs=0.1)
            else:
                await host.down.wait()
                assert host.exit_code == code
            assert "READY=1" in life.process.notifications

        world.run(script())


def test_two_daemons_in_one_process_keep_their_logs_apart(tmp_path: Path) -> None:
    """Each host's events go to its own standard error, with its own clock."""

    async def main(daemon: Daemon) -> None:
        daemon.announce_ready({})
        await daemon.stop_requested()

    with World(seed=2, directory=tmp_path) as world:
        hosts = [world.host("right"), world.host("wrong", skew_ms=-365 * 86_400_000)]

        async def process(env: Env) -> int:
            env.files.mkdir("/var/lib/small")
            return await run_daemon(env, main, OPTIONS)

        async def script() -> None:
            lives = [host.start(process) for host in hosts]
            await asyncio.sleep(1)
            for host, life, year in zip(hosts, lives, ("2027", "2026"), strict=True):
                assert await host.stop() == 0
                events = list(life.process.stderr)
                assert len(events) == 2
                assert all(f'"at": "{year}-' in event for event in events)

        world.run(script())
