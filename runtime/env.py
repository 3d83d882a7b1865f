"""The world a daemon lives in: clock, randomness, tasks, threads, files, network, process.

Spec: ARCHITECTURE.md, rule 1. One rule: whatever may differ between two runs comes from an ``Env`` and from
nowhere else, so that the real daemons run unchanged under the simulator, which passes another ``Env`` and
another event loop. ``real_env()`` makes the one of a real process.

Plain asyncio is deterministic on a deterministic loop, therefore tasks, sleeping and timeouts are asyncio's
own; they stand here so that a syntax-tree check can hold everybody to this door. It holds no domain word and
no policy.
"""

import asyncio
import contextlib
import contextvars
import errno
import fcntl
import hashlib
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Protocol, TypeVar

import aiohttp
from aiohttp import web

from keys.errors import MalformedInput, PolicyRefused, Unavailable
from keys.secret import SecretBytes
from runtime.connections import GuardedRunner
from runtime.exits import disk_failure

T = TypeVar("T")
AnyPath = str | os.PathLike[str]

FILE_BYTES_MAX = (
    64 * 1024 * 1024
)  # no file that a daemon reads whole is larger; a tile bundle is at most 1 MiB
UNIX_PATH_BYTES_MAX = 107  # sun_path of Linux, without the final zero
CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 75.0  # longer than one long poll, so that a link stays one connection
HEADER_LINE_BYTES_MAX = 8190


# --- what a world is made of --------------------------------------------------------------------------------


class Clock(Protocol):
    """Three clocks. No decision on order, duplicates or keys may depend on the wall clock."""

    def now_ms(self) -> int:
        """Wall clock, UTC milliseconds since 1970. May step either way, may be wrong by years."""
        ...

    def now_us(self) -> int:
        """Wall clock, UTC microseconds since 1970."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds that never step back within one boot of the machine; they count while it sleeps."""
        ...


class FileLock(Protocol):
    """An exclusive lock on a file, held until ``release`` or the end of the process."""

    def release(self) -> None:
        """Let others in. The file stays."""
        ...


class Files(Protocol):
    """Files of one daemon. A path is absolute or relative to the process; sizes are bytes.

    A missing file is FileNotFoundError; a full or failing disk is DiskFailed. Every write is durable on
    return. The calls block: on a hot path go through ``Env.run_blocking``.
    """

    def read(self, path: AnyPath, bytes_max: int = FILE_BYTES_MAX) -> bytes:
        """Whole content; MalformedInput ``file_too_large`` or, for a FIFO or device, ``not_a_file``."""
        ...

    def read_range(self, path: AnyPath, offset_bytes: int, length_bytes: int) -> bytes:
        """Part of a file; shorter at its end."""
        ...

    def write_atomic(self, path: AnyPath, data: bytes, mode: int = 0o600) -> None:
        """Replace the file by ``data``: a reader sees the old or the new content, also after a power cut."""
        ...

    def append_fsync(self, path: AnyPath, data: bytes, mode: int = 0o600) -> None:
        """Append and fsync; a power cut may leave a prefix of ``data``."""
        ...

    def exists(self, path: AnyPath) -> bool:
        """Whether anything stands there."""
        ...

    def is_dir(self, path: AnyPath) -> bool:
        """Whether a directory stands there."""
        ...

    def is_regular(self, path: AnyPath) -> bool:
        """Whether an ordinary file stands there, and not a link to one."""
        ...

    def is_within(self, path: AnyPath, directory: AnyPath) -> bool:
        """Whether what would be written to ``path`` is in ``directory``, links on the way followed."""
        ...

    def listdir(self, path: AnyPath) -> list[str]:
        """Names in a directory, sorted."""
        ...

    def mkdir(self, path: AnyPath, mode: int = 0o700) -> None:
        """Make the directory and its missing parents, durably; an existing one is left as it is."""
        ...

    def remove(self, path: AnyPath) -> None:
        """Remove a file, durably."""
        ...

    def remove_tree(self, path: AnyPath) -> None:
        """Remove a file, or a directory and all below it, durably; links are not followed."""
        ...

    def rename(self, path: AnyPath, target: AnyPath) -> None:
        """Rename within one file system, durably."""
        ...

    def size(self, path: AnyPath) -> int:
        """Bytes of a file."""
        ...

    def mode(self, path: AnyPath) -> int:
        """Permission bits of a file, as 0o600."""
        ...

    def free_bytes(self, path: AnyPath) -> int:
        """Bytes an unprivileged writer may still write beside ``path``."""
        ...

    def lock_exclusive(self, path: AnyPath, note: bytes = b"") -> FileLock:
        """Lock the file and put ``note`` (a pid) into it; AlreadyLocked with the holder's note when held."""
        ...

    def native_path(self, path: AnyPath) -> str:
        """Where the operating system sees ``path``; for the database's file layer only."""
        ...


class Listener(Protocol):
    """A server that accepts connections."""

    @property
    def port(self) -> int:
        """TCP port, the real one when 0 was asked for; 0 for a Unix socket."""
        ...

    async def close(self) -> None:
        """Stop accepting, let running requests end, close the rest."""
        ...


class Network(Protocol):
    """HTTP servers and clients; the only sockets there are."""

    async def serve_tcp(
        self,
        app: web.Application,
        *,
        host: str,
        port: int,
        tls: "TlsIdentity | None" = None,
        options: "ServeOptions | None" = None,
    ) -> Listener:
        """Serve ``app``; Unavailable ``port_in_use`` or ``address_unusable`` names host and port."""
        ...

    async def serve_unix(
        self, app: web.Application, path: AnyPath, options: "ServeOptions | None" = None
    ) -> Listener:
        """Serve ``app`` on a Unix socket that is 0600 from its first instant; a stale one is replaced."""
        ...

    def client_session(
        self,
        *,
        tls_pin: "TlsPin | AnyCertificate | None" = None,
        unix_path: AnyPath | None = None,
        connections_max: int = 8,
    ) -> aiohttp.ClientSession:
        """A client without cookies, proxies, redirects of its own or decompression. The caller closes it.

        With ``tls_pin`` only the server holding exactly that certificate is spoken to, over TLS 1.3; without
        it only ``http://`` makes sense, on loopback. With ``unix_path`` every URL goes to that socket.
        """
        ...


class Worker(Protocol):
    """One thread of its own; what it runs, it runs in order."""

    async def run(self, call: Callable[[], T]) -> T:
        """Run ``call`` there. Cancelling the waiter does not stop the call."""
        ...

    async def close(self) -> None:
        """Wait for the running call and end the thread."""
        ...


class Threads(Protocol):
    """Work that must not block the event loop. The simulator runs it inline."""

    async def run_blocking(self, call: Callable[[], T]) -> T:
        """Run ``call`` in some thread."""
        ...

    def worker(self, name: str) -> Worker:
        """A thread of its own."""
        ...


class Process(Protocol):
    """What surrounds the daemon: its number, its signals, its standard streams, its supervisor."""

    @property
    def pid(self) -> int:
        """Process number."""
        ...

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call back on the event loop at each SIGTERM or SIGINT; both mean the same graceful end."""
        ...

    def stdout_line(self, line: str) -> None:
        """One line for the program that started us; a closed pipe is ignored."""
        ...

    def stderr_line(self, line: str) -> None:
        """One line for the operator; a closed pipe is ignored."""
        ...

    def notify(self, state: str) -> None:
        """Tell systemd (sd_notify) ``state``, such as ``READY=1``; nothing without a supervisor."""
        ...

    def run_child(
        self, module: str, data: bytes, *, wall_seconds: float, answer_bytes_max: int
    ) -> bytes | None:
        """What ``python -m module`` answers to ``data``, or None when it did not end well in this time.

        It is given no environment, no terminal and no file but these two in memory, and limits itself.
        Blocks: go through ``Env.run_blocking``.
        """
        ...

    def exit_now(self, code: int) -> None:
        """End the process at once, without tidying up; for a daemon that hangs at its end."""
        ...


# --- values -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsIdentity:
    """Server side of TLS: PEM certificate and PEM private key."""

    certificate_pem: bytes
    private_key_pem: SecretBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPin:
    """Client side of TLS: SHA-256 of the one DER certificate accepted, whatever its dates or names."""

    certificate_sha256: bytes  # 32 bytes

    def __post_init__(self) -> None:
        if len(self.certificate_sha256) != 32:
            raise MalformedInput("bad_tls_pin", "a certificate pin is 32 bytes")


@dataclass(frozen=True, slots=True)
class AnyCertificate:
    """In place of a pin: whatever certificate the server shows.

    Only for fetching something whose hash is known already, as a broker's card that its address names: then
    what comes back is pinned although the connection is not. A type of its own, so that nobody gets there by
    a pin that was left empty.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How a server treats its connections."""

    cancel_on_disconnect: bool = False  # True: a handler is cancelled when its client goes away
    shutdown_timeout_s: float = 5.0  # how long running requests may finish at close
    keepalive_s: float = KEEPALIVE_S
    header_timeout_s: float = 5.0  # from connecting, or from a request's first byte, to its last header
    connections_max: int = 64
    connections_per_peer_max: int = 64


class AlreadyLocked(Unavailable):
    """Another process holds the lock. ``note`` is what that process left in the file, at most 64 bytes."""

    def __init__(self, subject: str, note: bytes) -> None:
        super().__init__("already_running", f"{subject} is in use")
        self.note = note


@dataclass(frozen=True, slots=True, kw_only=True)
class Env:
    """One world. Passed to everything that acts; never stored in a module."""

    clock: Clock
    files: Files
    network: Network
    threads: Threads
    process: Process
    entropy: Callable[[int], bytes]
    boot_id: str  # 16 hex digits, new at each start of the process
    sqlite_vfs: str = ""  # name of the VFS below the cipher; "" is the platform's own
    _spawned: dict[int, "asyncio.Task[Any]"] = field(default_factory=dict, repr=False)

    def random(self, bytes_wanted: int) -> bytes:
        """Unpredictable bytes, fit for keys and nonces."""
        return self.entropy(bytes_wanted)

    def jitter(self) -> float:
        """A number in [0, 1) to spread retries."""
        return (int.from_bytes(self.entropy(7), "big") >> 3) / (1 << 53)

    async def sleep(self, seconds: float) -> None:
        """Wait on this world's clock; 0 lets other tasks run."""
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float | None) -> asyncio.Timeout:
        """``async with env.timeout(5):`` raises TimeoutError after so long; None never."""
        return asyncio.timeout(seconds)

    def task_group(self) -> asyncio.TaskGroup:
        """Tasks that end together; the ordinary way to run several."""
        return asyncio.TaskGroup()

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """Start a task and keep it alive until it ends. Somebody must await it; prefer ``task_group``."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        number = id(task)
        self._spawned[number] = task
        task.add_done_callback(lambda _: self._spawned.pop(number, None))
        return task

    async def run_blocking(self, call: Callable[..., T], *args: Any) -> T:
        """Run ``call(*args)`` without blocking the loop: in a thread, or inline under the simulator."""
        return await self.threads.run_blocking(lambda: call(*args))


def run_real(entry: Callable[[Env], Coroutine[Any, Any, T]]) -> T:
    """Run ``entry`` on an event loop of its own in the real world; for command lines.

    A crash of this process leaves no core file: it would hold every key in plain.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return asyncio.run(entry(real_env()))


def real_env() -> Env:
    """The world of a real process."""
    return Env(
        clock=RealClock(),
        files=RealFiles(),
        network=RealNetwork(),
        threads=RealThreads(),
        process=RealProcess(),
        entropy=os.urandom,
        boot_id=os.urandom(8).hex(),
    )


def packaged_files(package: str, folder: str) -> list[tuple[str, bytes]]:
    """(name, content) of the files in a package's folder, sorted; program, the same in every world."""
    files = resources.files(package).joinpath(folder).iterdir()
    return sorted((file.name, file.read_bytes()) for file in files if file.is_file())


# --- clock, threads, process --------------------------------------------------------------------------------


class RealClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """See Clock."""
        return time.time_ns() // 1_000_000

    def now_us(self) -> int:
        """See Clock."""
        return time.time_ns() // 1_000

    def monotonic_ms(self) -> int:
        """See Clock. CLOCK_BOOTTIME goes on while the machine sleeps, CLOCK_MONOTONIC does not."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class RealWorker:
    """One thread that runs calls in order."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, call: Callable[[], T]) -> T:
        """See Worker."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, contextvars.copy_context().run, call
        )

    async def close(self) -> None:
        """See Worker."""
        await asyncio.to_thread(self._executor.shutdown)


class RealThreads:
    """asyncio's default pool, and threads of their own."""

    async def run_blocking(self, call: Callable[[], T]) -> T:
        """See Threads."""
        return await asyncio.to_thread(call)

    def worker(self, name: str) -> Worker:
        """See Threads."""
        return RealWorker(name)


class RealProcess:
    """This process."""

    @property
    def pid(self) -> int:
        """See Process."""
        return os.getpid()

    def on_stop(self, callback: Callable[[], None]) -> None:
        """See Process."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, callback)
        loop.add_signal_handler(signal.SIGINT, callback)

    def stdout_line(self, line: str) -> None:
        """See Process."""
        _write_line(1, line)

    def stderr_line(self, line: str) -> None:
        """See Process."""
        _write_line(2, line)

    def notify(self, state: str) -> None:
        """See Process. The protocol is one datagram; a leading @ stands for the abstract name space."""
        address = os.environ.get("NOTIFY_SOCKET", "")
        if not address:
            return
        if address.startswith("@"):
            address = "\0" + address[1:]
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.connect(address)
            supervisor.sendall(state.encode())

    def run_child(
        self, module: str, data: bytes, *, wall_seconds: float, answer_bytes_max: int
    ) -> bytes | None:
        """See Process."""
        return run_child(module, data, wall_seconds=wall_seconds, answer_bytes_max=answer_bytes_max)

    def exit_now(self, code: int) -> None:
        """See Process."""
        os._exit(code)


def run_child(module: str, data: bytes, *, wall_seconds: float, answer_bytes_max: int) -> bytes | None:
    """See Process.run_child. Files in memory rather than pipes: no side can make the other wait."""
    question, answer = os.memfd_create("question", os.MFD_CLOEXEC), os.memfd_create("answer", os.MFD_CLOEXEC)
    try:
        _write_all(question, data)
        os.lseek(question, 0, os.SEEK_SET)
        child = subprocess.Popen(  # noqa: S603 - our own interpreter, a module of ours
            [sys.executable, "-I", "-m", module],
            stdin=question,
            stdout=answer,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
        )
        try:
            is_well = child.wait(wall_seconds) == 0
        except subprocess.TimeoutExpired:
            is_well = False
        finally:
            child.kill()
            child.wait()
        if not is_well or os.fstat(answer).st_size > answer_bytes_max:
            return None
        return os.pread(answer, answer_bytes_max, 0)
    finally:
        os.close(question)
        os.close(answer)


def _write_line(descriptor: int, line: str) -> None:
    # os.write, not sys.stdout: one line stays one write, so lines of two threads never interleave, and a full
    # or closed pipe at exit raises nowhere else. A daemon must not die because nobody reads what it says.
    with contextlib.suppress(OSError):
        (sys.stdout if descriptor == 1 else sys.stderr).flush()
        os.write(descriptor, line.encode(errors="backslashreplace") + b"\n")


# --- files --------------------------------------------------------------------------------------------------


class RealFiles:
    """The file system, below an optional root (the simulator gives every host its own)."""

    def __init__(self, root: str = "") -> None:
        self._root = root

    def native_path(self, path: AnyPath) -> str:
        """See Files."""
        return self._root + os.path.abspath(os.fspath(path))

    def read(self, path: AnyPath, bytes_max: int = FILE_BYTES_MAX) -> bytes:
        """See Files. O_NONBLOCK: a FIFO put in a file's place must not hang the daemon."""
        native = self.native_path(path)
        with _disk_errors(path):
            descriptor = os.open(native, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not _is_regular(status):
                    raise MalformedInput("not_a_file", f"{os.fspath(path)} is not a regular file")
                data = file.read(bytes_max + 1)
        if len(data) > bytes_max:
            raise MalformedInput("file_too_large", f"{os.fspath(path)} is larger than {bytes_max} bytes")
        return data

    def read_range(self, path: AnyPath, offset_bytes: int, length_bytes: int) -> bytes:
        """See Files."""
        with _disk_errors(path):
            descriptor = os.open(self.native_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                return os.pread(descriptor, length_bytes, offset_bytes)
            finally:
                os.close(descriptor)

    def write_atomic(self, path: AnyPath, data: bytes, mode: int = 0o600) -> None:
        """See Files. Order: new file, fsync, rename over the old, fsync of the directory."""
        native = self.native_path(path)
        directory, name = os.path.split(native)
        temporary = os.path.join(directory, f".{name}.new")
        with _disk_errors(path):
            # What a crash left behind is removed rather than reused: it may be a symlink by now.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            try:
                _write_new(temporary, data, mode)
                os.replace(temporary, native)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            _sync_directory(directory)

    def append_fsync(self, path: AnyPath, data: bytes, mode: int = 0o600) -> None:
        """See Files."""
        native = self.native_path(path)
        with _disk_errors(path):
            is_new = not os.path.lexists(native)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(native, flags, mode)
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                _sync_directory(os.path.dirname(native))

    def exists(self, path: AnyPath) -> bool:
        """See Files."""
        return os.path.lexists(self.native_path(path))

    def is_dir(self, path: AnyPath) -> bool:
        """See Files."""
        return os.path.isdir(self.native_path(path))

    def is_regular(self, path: AnyPath) -> bool:
        """See Files."""
        native = self.native_path(path)
        return os.path.lexists(native) and _is_regular(os.lstat(native))

    def is_within(self, path: AnyPath, directory: AnyPath) -> bool:
        """See Files."""
        parent, home = (
            os.path.realpath(native)
            for native in (os.path.dirname(self.native_path(path)), self.native_path(directory))
        )
        return os.path.commonpath((parent, home)) == home

    def listdir(self, path: AnyPath) -> list[str]:
        """See Files."""
        with _disk_errors(path):
            return sorted(os.listdir(self.native_path(path)))

    def mkdir(self, path: AnyPath, mode: int = 0o700) -> None:
        """See Files."""
        native = self.native_path(path)
        with _disk_errors(path):
            missing = []
            while not os.path.isdir(native):
                missing.append(native)
                native = os.path.dirname(native)
            for directory in reversed(missing):
                os.mkdir(directory, mode)
                _sync_directory(os.path.dirname(directory))

    def remove(self, path: AnyPath) -> None:
        """See Files."""
        native = self.native_path(path)
        with _disk_errors(path):
            os.unlink(native)
            _sync_directory(os.path.dirname(native))

    def remove_tree(self, path: AnyPath) -> None:
        """See Files."""
        native = self.native_path(path)
        if not os.path.isdir(native) or os.path.islink(native):
            self.remove(path)
            return
        with _disk_errors(path):
            shutil.rmtree(native)
            _sync_directory(os.path.dirname(native))

    def rename(self, path: AnyPath, target: AnyPath) -> None:
        """See Files."""
        native, native_target = self.native_path(path), self.native_path(target)
        with _disk_errors(path):
            os.replace(native, native_target)
            _sync_directory(os.path.dirname(native_target))
            if os.path.dirname(native) != os.path.dirname(native_target):
                _sync_directory(os.path.dirname(native))

    def size(self, path: AnyPath) -> int:
        """See Files."""
        return os.stat(self.native_path(path)).st_size

    def mode(self, path: AnyPath) -> int:
        """See Files."""
        return os.stat(self.native_path(path)).st_mode & 0o7777

    def free_bytes(self, path: AnyPath) -> int:
        """See Files."""
        native = self.native_path(path)
        while not os.path.lexists(native):
            native = os.path.dirname(native)
        status = os.statvfs(native)
        return status.f_bavail * status.f_frsize

    def lock_exclusive(self, path: AnyPath, note: bytes = b"") -> FileLock:
        """See Files. flock ends with the process, so a kill -9 leaves no stale lock."""
        native = self.native_path(path)
        with _disk_errors(path):
            descriptor = os.open(native, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, 0)
                _write_all(descriptor, note)
            except BlockingIOError:
                holder = os.pread(descriptor, 64, 0)
                os.close(descriptor)
                raise AlreadyLocked(os.fspath(path), holder) from None
            except BaseException:
                os.close(descriptor)
                raise
        return _RealFileLock(descriptor)


class _RealFileLock:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def _is_regular(status: os.stat_result) -> bool:
    return (status.st_mode & 0o170000) == 0o100000


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _write_new(native: str, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(native, flags, mode)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(native: str) -> None:
    descriptor = os.open(native or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        failure = disk_failure(error, os.fspath(path))
        if failure is None:
            raise
        raise failure from error


# --- network ------------------------------------------------------------------------------------------------


class HttpListener:
    """A running aiohttp server: its runner and where it listens."""

    def __init__(self, runner: web.AppRunner, port: int, on_closed: Callable[[], None] | None = None) -> None:
        self._runner = runner
        self._port = port
        self._on_closed = on_closed

    @property
    def port(self) -> int:
        """See Listener."""
        return self._port

    async def close(self) -> None:
        """See Listener."""
        await self._runner.cleanup()
        if self._on_closed is not None:
            self._on_closed()


def make_runner(app: web.Application, options: ServeOptions | None) -> web.AppRunner:
    """The aiohttp runner with this project's limits; no access log, which would be a fourth record."""
    options = options or ServeOptions()
    return GuardedRunner(
        app,
        header_timeout_s=options.header_timeout_s,
        connections_max=options.connections_max,
        connections_per_peer_max=options.connections_per_peer_max,
        access_log=None,
        handler_cancellation=options.cancel_on_disconnect,
        shutdown_timeout=options.shutdown_timeout_s,
        keepalive_timeout=options.keepalive_s,
        max_line_size=HEADER_LINE_BYTES_MAX,
        max_field_size=HEADER_LINE_BYTES_MAX,
        auto_decompress=False,  # nobody sends us compressed bodies, except to fill the memory
    )


def make_session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    """The aiohttp client with this project's defaults."""
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
    )


class RealNetwork:
    """The machine's sockets."""

    async def serve_tcp(
        self,
        app: web.Application,
        *,
        host: str,
        port: int,
        tls: TlsIdentity | None = None,
        options: ServeOptions | None = None,
    ) -> Listener:
        """See Network."""
        context = _server_context(tls) if tls is not None else None
        runner = make_runner(app, options)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=context).start()
        except OSError as error:
            await runner.cleanup()
            raise _listen_failure(error, host, port) from error
        return HttpListener(runner, int(runner.addresses[0][1]))

    async def serve_unix(
        self, app: web.Application, path: AnyPath, options: ServeOptions | None = None
    ) -> Listener:
        """See Network. The caller holds the daemon's pid lock, so an existing socket is a dead one's."""
        address = os.fspath(path)
        _check_unix_path(address)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        runner = make_runner(app, options)
        try:
            # Linux creates the socket file with the mode of the unbound socket: there is no instant at which
            # another user could connect, which chmod after bind would leave.
            os.fchmod(listening.fileno(), 0o600)
            listening.bind(address)
            await runner.setup()
            await web.SockSite(runner, listening).start()
        except BaseException:
            listening.close()
            await runner.cleanup()
            raise

        def unlink() -> None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address)

        return HttpListener(runner, 0, unlink)

    def client_session(
        self,
        *,
        tls_pin: TlsPin | AnyCertificate | None = None,
        unix_path: AnyPath | None = None,
        connections_max: int = 8,
    ) -> aiohttp.ClientSession:
        """See Network."""
        if unix_path is not None:
            _check_unix_path(os.fspath(unix_path))
            return make_session(aiohttp.UnixConnector(os.fspath(unix_path), limit=connections_max))
        context = _pinning_context(tls_pin) if tls_pin is not None else True
        return make_session(
            aiohttp.TCPConnector(ssl=context, limit=connections_max, keepalive_timeout=KEEPALIVE_S)
        )


def _check_unix_path(address: str) -> None:
    if len(os.fsencode(address)) > UNIX_PATH_BYTES_MAX:
        raise PolicyRefused(
            "path_too_long",
            f"the socket path {address} is longer than {UNIX_PATH_BYTES_MAX} bytes; use a shorter --dir",
        )


def _listen_failure(error: OSError, host: str, port: int) -> Unavailable:
    if error.errno == errno.EADDRINUSE:
        return Unavailable(
            "port_in_use",
            f"port {port} of {host} is used by another program;"
            " stop it or choose another port (0 = any free one)",
        )
    return Unavailable("address_unusable", f"cannot listen on {host} port {port}: {error.strerror or error}")


def _server_context(identity: TlsIdentity) -> ssl.SSLContext:
    """TLS 1.3 only. OpenSSL reads keys from files alone: ours goes through memory that no disk sees."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        _write_all(descriptor, identity.certificate_pem + b"\n" + identity.private_key_pem.reveal())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


class _PinnedTls(ssl.SSLObject):
    """TLS that fails its handshake unless the peer shows the pinned certificate."""

    def do_handshake(self) -> None:
        super().do_handshake()
        shown = self.getpeercert(binary_form=True) or b""
        pin = getattr(self.context, "pin", b"")
        if not isinstance(pin, AnyCertificate) and hashlib.sha256(shown).digest() != pin:
            raise ssl.SSLCertVerificationError("the server's certificate is not the pinned one")


class _PinningContext(ssl.SSLContext):
    sslobject_class = _PinnedTls
    pin: bytes | AnyCertificate


def _pinning_context(pin: TlsPin | AnyCertificate) -> ssl.SSLContext:
    # No authority and no date is asked: the address the operator handed over names this one certificate, and
    # an office whose clock is a day off must still reach its broker.
    context = _PinningContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.pin = pin.certificate_sha256 if isinstance(pin, TlsPin) else pin
    return context
