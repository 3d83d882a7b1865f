"""A run: hosts that start, stop and are killed, on one virtual clock, from one seed.

::

    with World(seed=7, directory=tmp_path) as world:
        broker = world.host("broker")
        async def script() -> None:
            broker.start(lambda env: run_daemon(env, main, options))
            await asyncio.sleep(60)
            broker.kill()
        world.run(script())
        print(world.trace.hexdigest())

The script runs outside every host, on the same clock. An exception that nobody took fails the run.
"""

import asyncio
import contextlib
import functools
import gc
import itertools
import random
import shutil
import warnings
from collections.abc import Callable, Coroutine
from contextvars import Context
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import apsw
from aiohttp import web_app

from runtime.env import Env
from tests.simulation.disk import DiskVfs, Killed, SimulatedDisk
from tests.simulation.env import HostClock, HostProcess, make_env
from tests.simulation.loop import HOST, Incarnation
from tests.simulation.network import NetworkLoop, VirtualNetwork
from tests.simulation.trace import Trace

T = TypeVar("T")

UNWINDINGS_MAX = 100
_VFS_NUMBERS = itertools.count()  # SQLite's names for file layers are the process's, not the run's


class HostDownError(RuntimeError):
    """The host was killed while a script waited for something of it."""


class NobodyTookError(AssertionError):
    """Something failed in a run and no code waited for it: a daemon of ours is broken."""


class Life:
    """One life of a host, as the script sees it."""

    def __init__(
        self, incarnation: Incarnation, env: Env, clock: HostClock, process: HostProcess, root: Path
    ) -> None:
        self.incarnation = incarnation
        self.env = env
        self.clock = clock
        self.process = process
        self.root = root
        self.context = Context()
        self.context.run(HOST.set, incarnation)


class Host:
    """A machine that lives many lives on one disk."""

    def __init__(self, world: "World", name: str, skew_ms: int) -> None:
        self.name = name
        self.skew_ms = skew_ms
        self._world = world
        self.lives = 0  # begun so far
        self._disk = world.directory / name / "0"
        self.simulated_disk: SimulatedDisk | None = None  # what takes the place of the files below ``disk``
        if world.has_simulated_disks:
            self.simulated_disk = SimulatedDisk(random.Random(f"{world.seed}/{name}/disk"))
        else:
            self._disk.mkdir(parents=True)
        self.life: Life | None = None
        self.exit_code: int | None = None  # of the last life that ended by itself
        self.down = asyncio.Event()

    @property
    def disk(self) -> Path:
        """Where the host's files stand now, for a test to look at or to damage."""
        return self._disk

    def boot(self) -> Life:
        """Begin a life without starting anything in it."""
        assert self.life is None, f"{self.name} runs already"
        world = self._world
        self.lives += 1
        incarnation = Incarnation(self.name, self.lives)
        vfs = "" if self.simulated_disk is None else world.file_layer(self.simulated_disk)
        env, clock, process = make_env(
            world.loop,
            world.seed,
            incarnation,
            str(self._disk),
            self.skew_ms,
            self._exited,
            self.simulated_disk,
            vfs,
        )
        self.life = Life(incarnation, env, clock, process, self._disk)
        self.exit_code = None
        self.down = asyncio.Event()
        world.network.host_started(incarnation)
        world.note("boot", self.name, self.lives)
        return self.life

    def start(self, main: Callable[[Env], Coroutine[Any, Any, int | None]]) -> Life:
        """Begin a life with ``main``; when it returns, the process has ended with its result as exit code."""
        life = self.boot()

        async def process() -> None:
            code = await main(life.env)
            self._exited(code or 0)

        self._world.loop.create_task(process(), context=life.context.copy())
        return life

    async def run(self, main: Callable[[Env], Coroutine[Any, Any, T]]) -> T:
        """Run something inside the running life; HostDownError when the host dies meanwhile."""
        assert self.life is not None, f"{self.name} does not run"
        down = asyncio.ensure_future(self.down.wait())
        work = self._world.loop.create_task(main(self.life.env), context=self.life.context.copy())
        await asyncio.wait([down, work], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise HostDownError(self.name)
        down.cancel()
        return work.result()

    async def stop(self) -> int:
        """SIGTERM, and wait for the end; the exit code."""
        assert self.life is not None, f"{self.name} does not run"
        self._world.note("sigterm", self.name)
        life = self.life
        self._world.loop.call_soon(life.process.signal_stop, context=life.context)
        await self.down.wait()
        assert self.exit_code is not None
        return self.exit_code

    def kill(self, *, power_loss: bool = False) -> None:
        """End the life at once: no finally runs. With ``power_loss`` its peers hear nothing of it."""
        assert self.life is not None, f"{self.name} does not run"
        self._world.note("power_loss" if power_loss else "kill", self.name)
        self._end(power_loss=power_loss)

    def pause(self) -> None:
        """SIGSTOP."""
        assert self.life is not None
        self._world.note("pause", self.name)
        self._world.loop.pause(self.life.incarnation)

    def resume(self) -> None:
        """SIGCONT; nothing when that life is over."""
        if self.life is not None:
            self._world.note("resume", self.name)
            self._world.loop.resume(self.life.incarnation)

    def step_clock(self, by_ms: int) -> None:
        """Somebody sets the clock of this machine; it stays so."""
        self._world.note("clock_step", self.name, by_ms)
        self.skew_ms += by_ms
        if self.life is not None:
            self.life.clock.skew_ms = self.skew_ms

    def light_fuse(self, operations: int, *, power_loss: bool, counts_syncs: bool = False) -> None:
        """Die in the middle of the ``operations``-th change on the simulated disk from now on.

        ``counts_syncs``: of the ``operations``-th sync of a database, when all of a commit is written.
        """
        assert self.simulated_disk is not None
        self.simulated_disk.fuse = operations
        self.simulated_disk.fuse_counts_syncs = counts_syncs
        self.simulated_disk.on_fuse = lambda: self.kill(power_loss=power_loss)

    def _exited(self, code: int) -> None:
        if self.life is None:
            return  # killed in the middle of its own end
        self.exit_code = code
        self._world.note("exit", self.name, code)
        self._end(power_loss=False)

    def _end(self, *, power_loss: bool) -> None:
        assert self.life is not None
        life, self.life = self.life, None
        self._world.bury(life)
        self._world.network.host_died(life.incarnation, power_loss=power_loss)
        if self.simulated_disk is not None:
            self.simulated_disk = self.simulated_disk.next_life(power_loss=power_loss)
            self.down.set()
            return
        # The dead may still hold files open, and close them whenever they are collected: the next life gets
        # the bytes as they are now, elsewhere.
        self._disk = self._world.directory / self.name / str(self.lives)
        shutil.copytree(life.root, self._disk, symlinks=True)
        self.down.set()


class World:
    """See the head of this file."""

    def __init__(self, *, seed: int | str, directory: Path, has_simulated_disks: bool = False) -> None:
        _freeze_modules()
        self.has_simulated_disks = has_simulated_disks
        self._file_layers: list[DiskVfs] = []
        self._foreign_connections = apsw.connections()
        self.seed = f"salween/{seed}"
        self.directory = directory
        self.trace = Trace()
        self.loop = NetworkLoop(self.seed, self.trace)
        self.network = VirtualNetwork(self.loop, self.seed, self.trace)
        self._hosts: list[Host] = []
        self._graveyard: list[tuple[Life, asyncio.Task[Any]]] = []

    def file_layer(self, disk: SimulatedDisk) -> str:
        """The name by which SQLite reaches this disk."""
        name = f"simulated-{next(_VFS_NUMBERS)}"
        self._file_layers.append(DiskVfs(name, disk))
        return name

    def host(self, name: str, *, skew_ms: int = 0) -> Host:
        """A new machine, not yet started."""
        host = Host(self, name, skew_ms)
        self._hosts.append(host)
        return host

    def note(self, event: str, *facts: str | int) -> None:
        """Put a fact into the trace."""
        self.trace.note(self.loop.now_us, event, *facts)

    def run(self, script: Coroutine[Any, Any, T]) -> T:
        """Run the script to its end; raises what it raises, and what nobody else took."""
        # Collected at fixed steps by the loop: a finalizer must not run a step earlier in another process.
        gc.collect()
        gc.disable()
        try:
            result = self.loop.run_until_complete(script)
        finally:
            gc.enable()
        for failure in self.loop.failures:
            raise NobodyTookError(
                f"nobody took: {failure.get('message')}: {failure.get('exception')}"
            ) from failure.get("exception")
        return result

    def bury(self, life: Life) -> None:
        """Keep what a dead life held, so that nothing of it runs again before the run is over."""
        self._graveyard += [(life, task) for task in self.loop.forget(life.incarnation)]

    def close(self) -> None:
        """Let go of everything; what the dead do now reaches nothing."""
        for host in self._hosts:
            if host.life is not None:
                self.bury(host.life)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Nothing may outlive the file layer it stands on, whatever an exception still refers to.
            for connection in apsw.connections():
                if connection not in self._foreign_connections:
                    with contextlib.suppress(apsw.Error):  # it cannot copy its journal back any more
                        connection.close(True)
            for life, task in self._graveyard:
                _let_go(life, task)
            self._graveyard.clear()
            self._hosts.clear()
            self.loop.close()
            # It keeps the last 1024 handlers of the whole process, and through each a broker's world.
            web_app._cached_build_middleware.cache_clear()
            gc.collect()
            for layer in self._file_layers:
                layer.unregister()

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@functools.cache
def _freeze_modules() -> None:
    """Once in a process: modules live to its end, no collection of a run need walk them again."""
    gc.collect()
    gc.freeze()


def _let_go(life: Life, task: "asyncio.Task[Any]") -> None:
    """Unwind a dead task: its finally blocks run at last, and find every door shut."""
    cast(Any, task)._log_destroy_pending = False
    for _ in range(UNWINDINGS_MAX):
        if task.done():
            return
        try:
            life.context.run(cast(Any, task.get_coro()).throw, Killed())
        except BaseException:
            return
