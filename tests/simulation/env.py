"""The world of one simulated host: an ``Env`` whose every part is bound to one life of that host.

Files are real ones below a directory of the host's own, or those of a simulated disk that loses what was not
synced (``disk``); after a kill the next life gets a copy, so that whatever the dead one still holds open can
change nothing. The database runs on the real ones with its real file layer, on a simulated disk with the file
layer of ``disk``, below the cipher. Threads run inline, with virtual time passing
before and after, so a kill can fall between a commit and everything that was to follow it.
"""

import asyncio
import functools
import hashlib
import random
import ssl
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, cast

import aiohttp
from aiohttp import web
from aiohttp.client_proto import ResponseHandler

from keys.errors import Unavailable
from runtime.env import (
    AnyCertificate,
    AnyPath,
    Env,
    HttpListener,
    Listener,
    RealFiles,
    ServeOptions,
    TlsIdentity,
    TlsPin,
    Worker,
    make_runner,
    make_session,
    run_child,
)
from tests.simulation.disk import Killed, SimulatedDisk, SimulatedFiles
from tests.simulation.loop import Incarnation, VirtualLoop
from tests.simulation.network import ANY_CERTIFICATE, VirtualTls

T = TypeVar("T")

EPOCH_MS = 1_800_000_000_000  # when every run begins by a right clock: 2027-01-15 08:00 UTC
DISK_FREE_BYTES = 20 * 1024**3


class HostClock:
    """Virtual time seen through a clock that may be wrong; a test may step it."""

    def __init__(self, loop: VirtualLoop, skew_ms: int) -> None:
        self._loop = loop
        self._boot_us = loop.now_us
        self.skew_ms = skew_ms

    def now_ms(self) -> int:
        return self.now_us() // 1000

    def now_us(self) -> int:
        return (EPOCH_MS + self.skew_ms) * 1000 + self._loop.now_us

    def monotonic_ms(self) -> int:
        return (self._loop.now_us - self._boot_us) // 1000 + 1000


class HostFiles(RealFiles):
    """Real files below the host's root, out of reach once the host is dead."""

    def __init__(self, root: str, incarnation: Incarnation) -> None:
        super().__init__(root)
        self._incarnation = incarnation
        self.free = DISK_FREE_BYTES

    def native_path(self, path: AnyPath) -> str:
        if not self._incarnation.is_alive:
            raise Killed
        return super().native_path(path)

    def free_bytes(self, path: AnyPath) -> int:
        return self.free


class HostWorker:
    """Runs inline; the time a thread would need passes on the virtual clock."""

    def __init__(self, incarnation: Incarnation, choices: random.Random) -> None:
        self._incarnation = incarnation
        self._choices = choices
        self._turn = asyncio.Lock()

    async def run(self, call: Callable[[], T]) -> T:
        async with self._turn:
            await asyncio.sleep(self._delay_s())
            if not self._incarnation.is_alive:
                raise Killed
            try:
                result = call()
            finally:
                if not self._incarnation.is_alive:
                    raise Killed  # a fuse blew inside: whatever the call made of it reaches nobody
                await asyncio.sleep(self._delay_s())
            return result

    def _delay_s(self) -> float:
        """Mostly what a thread and an fsync take; now and then what a tired disk takes."""
        if self._choices.random() < 0.05:
            return self._choices.uniform(0.02, 0.5)
        return self._choices.uniform(0.00005, 0.002)

    async def close(self) -> None:
        async with self._turn:
            pass


class HostThreads:
    """No threads: each call is a worker of its own."""

    def __init__(self, incarnation: Incarnation, choices: random.Random) -> None:
        self._incarnation = incarnation
        self._choices = choices

    async def run_blocking(self, call: Callable[[], T]) -> T:
        return await self.worker("any").run(call)

    def worker(self, name: str) -> Worker:
        return HostWorker(self._incarnation, self._choices)


class HostProcess:
    """What the daemon said and was told."""

    def __init__(self, pid: int, on_exit: Callable[[int], None]) -> None:
        self._pid = pid
        self._on_exit = on_exit
        self._stop_callbacks: list[Callable[[], None]] = []
        self.stdout: deque[str] = deque(maxlen=1000)
        self.stderr: deque[str] = deque(maxlen=1000)
        self.notifications: list[str] = []

    @property
    def pid(self) -> int:
        return self._pid

    def on_stop(self, callback: Callable[[], None]) -> None:
        self._stop_callbacks.append(callback)

    def signal_stop(self) -> None:
        """What SIGTERM does."""
        for callback in self._stop_callbacks:
            callback()

    def stdout_line(self, line: str) -> None:
        self.stdout.append(line)

    def stderr_line(self, line: str) -> None:
        self.stderr.append(line)

    def notify(self, state: str) -> None:
        self.notifications.append(state)

    def run_child(
        self, module: str, data: bytes, *, wall_seconds: float, answer_bytes_max: int
    ) -> bytes | None:
        """A real one: it sees nothing but its input, so its answer is the same in every run."""
        try:
            return _answer_of(module, data, wall_seconds, answer_bytes_max)
        except _NoAnswerError:
            return None

    def exit_now(self, code: int) -> None:
        self._on_exit(code)


class HostNetwork:
    """aiohttp's server and client on the network in memory."""

    def __init__(self, files: HostFiles | SimulatedFiles) -> None:
        self._files = files

    async def serve_tcp(
        self,
        app: web.Application,
        *,
        host: str,
        port: int,
        tls: TlsIdentity | None = None,
        options: ServeOptions | None = None,
    ) -> Listener:
        runner = make_runner(app, options)
        await runner.setup()
        context = None
        if tls is not None:
            der = ssl.PEM_cert_to_DER_cert(tls.certificate_pem.decode("ascii"))
            context = VirtualTls(certificate_sha256=hashlib.sha256(der).digest())
        try:
            await web.TCPSite(runner, host, port, ssl_context=cast(Any, context)).start()
        except OSError as error:
            await runner.cleanup()
            raise Unavailable("port_in_use", f"port {port} of {host} is used by another program") from error
        return HttpListener(runner, int(runner.addresses[0][1]))

    async def serve_unix(
        self, app: web.Application, path: AnyPath, options: ServeOptions | None = None
    ) -> Listener:
        runner = make_runner(app, options)
        await runner.setup()
        self._files.write_atomic(path, b"")
        await web.UnixSite(runner, str(path)).start()
        return HttpListener(runner, 0, lambda: self._files.remove(path))

    def client_session(
        self,
        *,
        tls_pin: TlsPin | AnyCertificate | None = None,
        unix_path: AnyPath | None = None,
        connections_max: int = 8,
    ) -> aiohttp.ClientSession:
        pin = None
        if isinstance(tls_pin, TlsPin):
            pin = VirtualTls(certificate_sha256=tls_pin.certificate_sha256)
        elif tls_pin is not None:
            pin = ANY_CERTIFICATE
        return make_session(
            _Connector(pin, str(unix_path) if unix_path is not None else None, connections_max)
        )


class _OrderedSet(dict[Any, None]):
    """A set in order of insertion: aiohttp closes what it holds in the order of a set of objects."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def remove(self, item: Any) -> None:
        del self[item]


class _Connector(aiohttp.BaseConnector):
    def __init__(self, pin: VirtualTls | None, unix_path: str | None, connections_max: int) -> None:
        super().__init__(limit=connections_max, keepalive_timeout=75.0)
        self._pin = pin
        self._unix_path = unix_path
        self._acquired = cast(Any, _OrderedSet())
        self._acquired_per_host.default_factory = cast(Any, _OrderedSet)

    @property
    def closed(self) -> bool:
        """Also when its world is over: what a killed machine never closed is nobody's fault then."""
        return super().closed or self._loop.is_closed()

    def __del__(self, _warnings: Any = warnings) -> None:
        if not self.closed:
            super().__del__(_warnings)

    async def _create_connection(
        self, req: Any, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        loop = asyncio.get_running_loop()
        key = req.connection_key
        try:
            async with asyncio.timeout(timeout.sock_connect):
                if self._unix_path is not None:
                    _, protocol = await loop.create_unix_connection(self._factory, self._unix_path)
                else:
                    tls = cast(
                        Any, (self._pin or VirtualTls(certificate_sha256=b"")) if req.is_ssl() else None
                    )
                    _, protocol = await loop.create_connection(
                        self._factory, req.url.raw_host, req.url.port, ssl=tls
                    )
        except ssl.SSLCertVerificationError as error:
            raise aiohttp.ClientConnectorCertificateError(key, error) from error
        except ssl.SSLError as error:
            raise aiohttp.ClientConnectorSSLError(key, error) from error
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            if error.__class__.__name__ == "gaierror":
                raise aiohttp.ClientConnectorDNSError(key, error) from error
            raise aiohttp.ClientConnectorError(key, error) from error
        return protocol


class _NoAnswerError(Exception):
    """Not kept: whoever asks again gets another try."""


@functools.lru_cache(maxsize=32)
def _answer_of(module: str, data: bytes, wall_seconds: float, answer_bytes_max: int) -> bytes:
    answer = run_child(module, data, wall_seconds=wall_seconds, answer_bytes_max=answer_bytes_max)
    if answer is None:
        raise _NoAnswerError
    return answer


def make_env(
    loop: VirtualLoop,
    seed: str,
    incarnation: Incarnation,
    root: str,
    skew_ms: int,
    on_exit: Callable[[int], None],
    disk: SimulatedDisk | None = None,
    sqlite_vfs: str = "",
) -> tuple[Env, HostClock, HostProcess]:
    """The world of one life of a host, with the parts a test may turn; ``disk`` stands in for ``root``."""
    name = f"{seed}/{incarnation.name}/{incarnation.number}"
    entropy = random.Random(f"{name}/entropy")
    timing = random.Random(f"{name}/timing")
    clock = HostClock(loop, skew_ms)
    process = HostProcess(1000 + incarnation.number, on_exit)
    files = HostFiles(root, incarnation) if disk is None else SimulatedFiles(disk)
    env = Env(
        clock=clock,
        files=files,
        network=HostNetwork(files),
        threads=HostThreads(incarnation, timing),
        process=process,
        entropy=entropy.randbytes,
        boot_id=entropy.randbytes(8).hex(),
        sqlite_vfs=sqlite_vfs,
    )
    return env, clock, process
