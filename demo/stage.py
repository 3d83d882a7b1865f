"""Where the demo plays: one temporary directory, and the daemons in it as processes of their own.

One rule: whatever happens, Ctrl-C, SIGTERM, an exception half-way, nothing outlives ``Stage.open``: every
process started here is ended by its own pid, then the directory goes. What it does not do: it knows nothing
of offices and alerts.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from runtime import exits

READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 25.0  # a daemon gives itself 20 s
COMMAND_TIMEOUT_S: Final = 120.0
RESTARTS_IN_A_ROW_MAX: Final = 5
STEADY_S: Final = 10.0  # who ran so long is no longer failing at its start
# Unix sockets have room for 107 bytes of path, and ours end in <directory>/<name>/control.sock.
DIRECTORY_BYTES_MAX: Final = 60
# "Start me again", as a supervisor reads exit codes. Of the rest a person must look at 1, 2 and 64 first.
START_AGAIN: Final = frozenset({exits.DISK, exits.TRY_AGAIN})
_PERSON_FIRST: Final = frozenset({exits.REFUSED, exits.UNREADABLE, exits.USAGE})
_SOURCES: Final = Path(__file__).resolve().parents[1]

Ready = dict[str, Any]


class DemoFailed(Exception):
    """Something that should have held did not; the message is one sentence for people."""


def free_port() -> int:
    """A loopback port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    """Ours, without what would configure a daemon behind our back, and with the sources we run from."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SALWEEN_", "PYTHON"))}
    return {**kept, "PYTHONPATH": str(_SOURCES)}


def _argv(package: str, arguments: Sequence[str]) -> list[str]:
    # -P: a file in the working folder must not shadow a package of ours.
    return [sys.executable, "-P", "-m", package, *arguments]


class Daemon:
    """One daemon: started, killed or stopped on demand, and started again when it ends by itself.

    ``ready`` is what it printed when it was ready last; ``ended_alone`` holds the exit code of every end that
    nobody asked for.
    """

    def __init__(
        self,
        name: str,
        package: str,
        arguments: Sequence[str],
        log: Path,
        *,
        on_restart: Callable[[str, int], None] | None = None,
    ) -> None:
        """``on_restart`` hears the name and the exit code of a daemon that ended by itself."""
        self.name = name
        self.log = log
        self.ready: Ready = {}
        self.ended_alone: list[int] = []
        self._argv = _argv(package, arguments)
        self._on_restart = on_restart
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int | None:
        """Its process id, None when it does not run."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def start(self) -> None:
        """Start it and wait until it serves. DemoFailed with what it said when it cannot."""
        await self._start_once_or_again()
        self._watch = asyncio.create_task(self._watch_over(), name=f"watch {self.name}")

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, its graceful end; kill -9 when that hangs."""
        await self._end(signal.SIGTERM)

    async def failed(self) -> None:
        """Wait until it cannot be kept running; raises DemoFailed."""
        await asyncio.shield(self._failure)

    async def _end(self, how: signal.Signals) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(how)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _start_once_or_again(self) -> None:
        for attempt in range(RESTARTS_IN_A_ROW_MAX):
            exit_code = await self._start_once()
            if exit_code is None:
                return
            if exit_code not in START_AGAIN:
                break
            await asyncio.sleep(0.2 * 2**attempt)
        raise DemoFailed(f"{self.name} does not start (exit code {exit_code}): {self.last_words()}")

    async def _start_once(self) -> int | None:
        """None when it serves, else the exit code it ended with."""
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=self.log.parent,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is ours to pass on, in our order
            )
        self._process = process
        assert process.stdout is not None
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                said = json.loads(await process.stdout.readline() or "{}")
                if said.get("event") == "ready":
                    self.ready = said
                    return None
                return await process.wait()  # what it said was its error; its log has it as well
        except TimeoutError:
            raise DemoFailed(f"{self.name} was not ready after {READY_TIMEOUT_S:.0f} s.") from None

    async def _watch_over(self) -> None:
        in_a_row = 0
        try:
            while True:
                process = self._process
                assert process is not None
                begun_s = asyncio.get_running_loop().time()
                exit_code = await process.wait()
                steady = asyncio.get_running_loop().time() - begun_s > STEADY_S
                in_a_row = 0 if steady else in_a_row + 1
                if exit_code in _PERSON_FIRST or in_a_row > RESTARTS_IN_A_ROW_MAX:
                    raise DemoFailed(f"{self.name} ended (exit code {exit_code}): {self.last_words()}")
                self.ended_alone.append(exit_code)
                if self._on_restart is not None:
                    self._on_restart(self.name, exit_code)
                await self._start_once_or_again()
        except DemoFailed as failure:
            if not self._failure.done():
                self._failure.set_exception(failure)
                self._failure.exception()  # whoever waits in failed() hears it; nobody has to

    def last_words(self) -> str:
        """The last line it wrote to its log, for people."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return next(
            (line for line in reversed(lines) if line and not line.startswith("{")), "it said nothing"
        )


class Stage:
    """The directory, and every process in it."""

    def __init__(self, directory: Path, on_restart: Callable[[str, int], None] | None) -> None:
        """Use ``open``."""
        self.directory = directory
        self._on_restart = on_restart
        self._daemons: list[Daemon] = []
        self._commands: list[asyncio.subprocess.Process] = []

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, on_restart: Callable[[str, int], None] | None = None, keep_logs_in: Path | None = None
    ) -> AsyncIterator["Stage"]:
        """A stage, gone with everything on it when the block ends in any way.

        Only the operations logs are copied to ``keep_logs_in``, if it is given: they hold no alert.
        """
        parent = tempfile.gettempdir()
        if len(os.fsencode(parent)) > DIRECTORY_BYTES_MAX:
            parent = "/tmp"  # noqa: S108 - mkdtemp makes a directory of our own in it, mode 0700
        directory = Path(tempfile.mkdtemp(prefix="salween-demo-", dir=parent))
        stage = cls(directory, on_restart)
        try:
            yield stage
        finally:
            await _uninterrupted(stage._clear(keep_logs_in))

    @property
    def logs(self) -> Path:
        """Where the operations log of every daemon goes."""
        found = self.directory / "logs"
        found.mkdir(exist_ok=True)
        return found

    @property
    def daemons(self) -> Sequence[Daemon]:
        """Every daemon made here, running or not."""
        return tuple(self._daemons)

    def daemon(self, name: str, package: str, *arguments: str | Path) -> Daemon:
        """A daemon with its log in ``logs``, not started yet."""
        made = Daemon(
            name, package, [str(a) for a in arguments], self.logs / f"{name}.log", on_restart=self._on_restart
        )
        self._daemons.append(made)
        return made

    async def command(self, package: str, *arguments: str | Path, may_refuse: bool = False) -> Any:
        """Run a command of ours with ``--json``; what it answered. DemoFailed with what it said otherwise.

        ``may_refuse``: exit code 1 is an answer as well.
        """
        process = await self.spawn(package, *arguments, "--json")
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                out, err = await process.communicate()
        except TimeoutError:
            process.kill()
            raise DemoFailed(f"salween-{package} {arguments[0]} did not end.") from None
        if process.returncode != 0 and not (may_refuse and process.returncode == 1 and out):
            said = (err.decode(errors="replace").strip() or out.decode(errors="replace").strip())[-600:]
            raise DemoFailed(f"salween-{package} {arguments[0]} failed ({process.returncode}): {said}")
        return json.loads(out)

    async def spawn(self, package: str, *arguments: str | Path) -> asyncio.subprocess.Process:
        """A command of ours with pipes for its three streams; ended with the stage if it still runs then."""
        process = await asyncio.create_subprocess_exec(
            *_argv(package, [str(argument) for argument in arguments]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.directory,
            env=_environment(),
            start_new_session=True,
        )
        self._commands = [other for other in self._commands if other.returncode is None] + [process]
        return process

    def secret_file(self, name: str, secret: str) -> Path:
        """A file of mode 0600 holding ``secret``."""
        path = self.directory / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{secret}\n")
        return path

    async def _clear(self, keep_logs_in: Path | None) -> None:
        for process in self._commands:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
                await process.wait()
        await asyncio.gather(*(daemon.stop() for daemon in self._daemons), return_exceptions=True)
        if keep_logs_in is not None:
            shutil.copytree(self.logs, keep_logs_in, dirs_exist_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.exists():
            raise DemoFailed(f"{self.directory} could not be removed; remove it yourself.")


async def _uninterrupted(work: Any) -> None:
    """Finish ``work`` even when this task is cancelled meanwhile: a second Ctrl-C leaves nothing behind."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
