"""A daemon's life: one per directory, started once, stopped gracefully, ended with a code that says why.

Spec: docs/operations.md#daemons. One rule: a failure that no task expected ends the whole daemon. Half a
daemon that still answers /healthz is worse than one that its supervisor starts again. It knows no office and
no broker: ``main`` of those packages gets a ``Daemon`` and does the rest.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import prometheus_client
from aiohttp import web

from keys.errors import BrokenInvariant, PolicyRefused, SalweenError, Unavailable
from runtime import exits, logs
from runtime.env import AlreadyLocked, AnyPath, Env, FileLock, Listener, real_env, run_real
from runtime.exits import DiskFailed

T = TypeVar("T")

STOP_TIMEOUT_S: Final = 20.0  # below systemd's 90 s: a daemon that hangs at its end is still ended by itself
LOCK_NAME: Final = "pid"  # in the directory of a daemon; the lock is the process's, the file stays
LOOPBACK_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")

_log = logs.get_logger("service")


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonOptions:
    """What a command line decides about a daemon."""

    name: str  # the command, as salween-broker
    directory: AnyPath
    health_port: int | None  # loopback; 0 = any free one, None = no listener
    ready_as_json: bool = False
    strict_log: bool = False


class Readiness:
    """Why the daemon cannot serve now, in words; empty means ready. Shown by /readyz."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {"starting": "the daemon is starting"}

    def block(self, code: str, reason: str) -> None:
        """Not ready because of ``reason``; ``code`` is its stable name."""
        self._reasons[code] = reason

    def clear(self, code: str) -> None:
        """The reason ``code`` is gone."""
        self._reasons.pop(code, None)

    @property
    def reasons(self) -> Mapping[str, str]:
        """Open reasons by code."""
        return self._reasons


class Daemon:
    """What a running daemon is handed: its world, its tasks, its health, its end."""

    def __init__(self, env: Env, options: DaemonOptions, tasks: asyncio.TaskGroup) -> None:
        self.env = env
        self.options = options
        self._tasks = tasks
        self.readiness = Readiness()
        self.metrics = prometheus_client.CollectorRegistry()  # no names, no peers: counts by code
        self.health_port = 0  # set when the listener stands
        self._stop = asyncio.Event()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running: list[asyncio.Task[Any]] = [
            tasks.create_task(_raise_failure(self._failure), name="failure")
        ]
        self._deadline: asyncio.TimerHandle | None = None

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """Run a task for the daemon's life; an exception out of it ends the daemon."""
        task = self._tasks.create_task(coroutine, name=name)
        self._running = [other for other in self._running if not other.done()] + [task]
        return task

    def request_stop(self) -> None:
        """Begin the graceful end; what a signal does. A second call changes nothing."""
        self._stop.set()
        self._set_deadline(exits.INTERNAL)

    async def stop_requested(self) -> None:
        """Wait until the daemon shall end."""
        await self._stop.wait()

    def fail(self, error: BaseException) -> None:
        """End the daemon because of ``error``; for places that swallow exceptions, as request handlers do."""
        if not self._failure.done():
            self._failure.set_exception(error)
        self._set_deadline(exits.exit_code_for(error))

    def _set_deadline(self, exit_code: int) -> None:
        # What hangs at its end must not keep its supervisor from starting it again.
        if self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(STOP_TIMEOUT_S, self.env.process.exit_now, exit_code)

    def _end(self) -> None:
        for task in self._running:
            task.cancel()
        if self._deadline is not None:
            self._deadline.cancel()

    def announce_ready(self, addresses: Mapping[str, str | int]) -> None:
        """Tell standard output, /readyz and the supervisor that the daemon serves at ``addresses``."""
        self.readiness.clear("starting")
        facts = {**addresses, "pid": self.env.process.pid}
        if self.health_port:
            facts["health_port"] = self.health_port
        if self.options.ready_as_json:
            self.env.process.stdout_line(json.dumps({"event": "ready"} | facts))
        else:
            places = ", ".join(f"{name} {place}" for name, place in facts.items())
            self.env.process.stdout_line(f"{self.options.name} is ready: {places}")
        self.env.process.notify("READY=1")
        _log.info("daemon_ready", pid=self.env.process.pid, boot_id=self.env.boot_id)


Main = Callable[[Daemon], Coroutine[Any, Any, None]]


def hold_directory(env: Env, name: str, directory: AnyPath) -> FileLock:
    """Be the only process working in ``directory``; Unavailable ``already_running`` names the other pid."""
    if not env.files.is_dir(directory):
        raise PolicyRefused("directory_missing", f"{directory} does not exist; make it with: {name} init")
    try:
        return env.files.lock_exclusive(f"{directory}/{LOCK_NAME}", note=f"{env.process.pid}\n".encode())
    except AlreadyLocked as error:
        holder = error.note.decode("ascii", errors="replace").strip() or "unknown"
        raise Unavailable(
            "already_running",
            f"process {holder} already works in {directory}; stop it first: kill {holder}",
        ) from None


async def run_daemon(env: Env, main: Main, options: DaemonOptions) -> int:
    """Run ``main`` as a daemon until it returns, fails, or is told to stop; the exit code.

    ``main`` sets itself up, calls ``announce_ready``, waits for ``stop_requested`` and tidies up.
    """
    logs.configure(env.clock, env.process.stderr_line, strict=options.strict_log)
    try:
        lock = hold_directory(env, options.name, options.directory)
        try:
            await _run_locked(env, main, options)
        finally:
            lock.release()
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        code = exits.exit_code_for(error)
        cause = _root_cause(error)
        _log.error("daemon_failed", exit_code=code, **logs.error_fields(cause))
        env.process.stderr_line(f"{options.name}: {describe(cause)}")
        return code
    _log.info("daemon_stopped", exit_code=exits.DONE)
    return exits.DONE


async def _run_locked(env: Env, main: Main, options: DaemonOptions) -> None:
    async with env.task_group() as tasks:
        daemon = Daemon(env, options, tasks)
        env.process.on_stop(daemon.request_stop)
        asyncio.get_running_loop().set_exception_handler(_exception_handler(daemon))
        health: Listener | None = None
        try:
            if options.health_port is not None:
                health = await serve_health(daemon, options.health_port)
                daemon.health_port = health.port
            await main(daemon)
        finally:
            env.process.notify("STOPPING=1")
            if health is not None:
                await health.close()
            daemon._end()


async def _raise_failure(failure: "asyncio.Future[None]") -> None:
    await failure


def _exception_handler(daemon: Daemon) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, (DiskFailed, BrokenInvariant)):
            daemon.fail(error)
        # Anything else comes out of a transport or a library task, where a stranger's bytes can provoke it:
        # one event, never the end of the daemon.
        fields = logs.error_fields(error) if isinstance(error, BaseException) else {}
        _log.error("task_failed", **fields)

    return handle


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _root_cause(error: BaseException) -> BaseException:
    code = exits.exit_code_for(error)
    return next((leaf for leaf in _leaves(error) if exits.exit_code_for(leaf) == code), error)


def describe(error: BaseException) -> str:
    """One sentence for people; nothing of a foreign exception's message, which may quote content."""
    if isinstance(error, SalweenError):
        return f"{error.detail or error.code} [{error.code}]"
    fields = logs.error_fields(error)
    return f"internal error {fields['error_type']} at {fields['where'] or 'start'} [internal_error]"


def run_process(main: Main, options: DaemonOptions) -> int:
    """Run a daemon in this process, to its exit code. The last thing a command line does."""
    try:
        refuse_optimized()
        logs.capture_library_logs()
        return run_real(lambda env: run_daemon(env, main, options))
    except KeyboardInterrupt:
        return exits.DONE  # before the signal handlers stood; nothing had begun
    except SalweenError as error:
        real_env().process.stderr_line(f"{options.name}: {describe(error)}")
        return exits.exit_code_for(error)


def refuse_optimized() -> None:
    """PolicyRefused ``python_optimized`` under python -O, which strips the assertions we rely on."""
    if not __debug__:
        raise PolicyRefused("python_optimized", "start without -O and without PYTHONOPTIMIZE")


# --- health -------------------------------------------------------------------------------------------------


async def serve_health(daemon: Daemon, port: int) -> Listener:
    """Serve /healthz (alive), /readyz (503 with the reasons) and /metrics on loopback."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reasons = dict(daemon.readiness.reasons)
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=prometheus_client.generate_latest(daemon.metrics),
            headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST},
        )

    app = web.Application(client_max_size=1024, middlewares=[_only_loopback_names])
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return await daemon.env.network.serve_tcp(app, host="127.0.0.1", port=port)


@web.middleware
async def _only_loopback_names(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    # A page that resolves its own name to 127.0.0.1 (DNS rebinding) still sends its own name.
    name = request.host.rsplit(":", 1)[0] if not request.host.endswith("]") else request.host
    if name not in LOOPBACK_HOSTS:
        return web.Response(status=421, text="unknown host\n")
    return await handler(request)


def guard_handlers(daemon: Daemon) -> Any:
    """Middleware for a daemon's own servers: what a handler did not expect is logged and answered 500.

    DiskFailed ends the daemon: aiohttp alone would answer 500 and carry on.
    """

    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException:
            raise
        except DiskFailed as error:
            daemon.fail(error)
            return web.Response(status=503, text="disk\n")
        except Exception as error:
            _log.error("request_failed", **logs.error_fields(error))
            return web.Response(status=500, text="internal error\n")

    return guard
