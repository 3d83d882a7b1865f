"""A whole broker, started and stopped in order; in its own process, in a test, or in the simulator.

Spec: docs/operations.md#broker. One rule: nothing listens before the database has been checkpointed and the
log has proved that it is not behind what it once signed. Start: keys, database, log, tasks, control socket,
endpoint. Stop, the other way round: polls answer, the endpoint closes, the log publishes, the database
closes.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import prometheus_client

from audit.store import AuditLog
from broker.arrivals import Arrivals
from broker.config import BrokerConfig, load_config
from broker.control import SOCKET_NAME, control_app
from broker.exchange import Exchange
from broker.forwarder import Forwarder
from broker.identity import BrokerIdentity, open_identity
from broker.metrics import BrokerMetrics
from broker.server import Endpoint
from broker.store.sqlite import SqliteStore
from keys.brokercard import BrokerAddress
from keys.errors import MalformedInput
from keys.primitives import self_test
from keys.secret import SecretBytes
from runtime import logs
from runtime.env import AnyPath, Env, Listener, ServeOptions
from runtime.service import Daemon, Readiness
from runtime.sqlite import Database, load_migrations, open_database

T = TypeVar("T")

CONFIG_NAME: Final = "broker.toml"
DATABASE_NAME: Final = "broker.db"
LOG_NAME: Final = "log"
HIGH_WATER_NAME: Final = "high-water"
PORT_NAME: Final = "port"

EXPIRY_INTERVAL_S: Final = 30.0
EXPIRY_ROWS_MAX: Final = 512  # per commit, so that expiring a backlog delays nobody
DISK_INTERVAL_S: Final = 5.0
LONG_POLL_GRACE_S: Final = 5.0

_log = logs.get_logger("broker")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddresses:
    """Where a started broker can be reached."""

    address: BrokerAddress
    port: int


class Broker:
    """One broker over one directory. ``start`` once, ``stop`` once."""

    def __init__(
        self,
        env: Env,
        directory: AnyPath,
        config: BrokerConfig,
        passphrase: SecretBytes,
        *,
        registry: prometheus_client.CollectorRegistry | None = None,
        readiness: Readiness | None = None,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        """``on_failure`` is told what ends the broker from within; without it ``failed`` alone is told.

        The caller holds the directory (``runtime.service.hold_directory``) or is its only user.
        """
        self._env = env
        self._directory = Path(directory)
        self._config = config
        self._passphrase = passphrase
        self._metrics = BrokerMetrics(registry or prometheus_client.CollectorRegistry())
        self._readiness = readiness or Readiness()
        self._on_failure = on_failure
        self._failure: BaseException | None = None
        self._arrivals = Arrivals()
        self._forwarder = Forwarder(env, config.forward)
        self._tasks: list[asyncio.Task[None]] = []
        self._listeners: list[Listener] = []
        self._db: Database | None = None
        self._log: AuditLog | None = None
        self._store: SqliteStore | None = None
        self._exchange: Exchange | None = None

    @property
    def failure(self) -> BaseException | None:
        """What ended the broker from within, or None while it works."""
        return self._failure

    @property
    def log(self) -> AuditLog:
        """The broker's own log, once started."""
        assert self._log is not None
        return self._log

    @property
    def store(self) -> SqliteStore:
        """The store, once started."""
        assert self._store is not None
        return self._store

    async def start(self) -> BrokerAddresses:
        """Serve. Everything that cannot be served is refused here, with what to do about it."""
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> BrokerAddresses:
        self._config.check_listening()
        self_test()
        identity = await self._env.run_blocking(
            lambda: identity_of(self._env, self._directory, self._config, self._passphrase)
        )
        self._db = await _open_database(self._env, self._directory, identity, create=False)
        self._log = await _open_log(self._env, self._db, self._directory, identity)
        if self._log.refusal is not None:
            self._readiness.block(self._log.refusal.code, self._log.refusal.detail)
        self._store = await SqliteStore.open(self._env, self._db, self._log, self._arrivals.announce)
        self._metrics.show(self._store.totals)
        self._exchange = Exchange(
            env=self._env,
            identity=identity,
            store=self._store,
            arrivals=self._arrivals,
            forwarder=self._forwarder,
            metrics=self._metrics,
            on_error=self._note_error,
        )
        self._watch_disk()
        if self._log.refusal is None:
            self._run(self._log.run(), "log")
            self._run(self._expire_for_ever(), "expiry")
        self._run(self._watch_disk_for_ever(), "disk")
        listener = await self._serve(identity)
        host = self._config.dialled_host
        addresses = BrokerAddresses(address=identity.address(host, listener.port), port=listener.port)
        facts: dict[str, str | int] = {"address": str(addresses.address), "pid": self._env.process.pid}
        control = control_app(self._env, self._store, facts)
        self._listeners.append(await self._env.network.serve_unix(control, self._directory / SOCKET_NAME))
        _log.info("broker_started", address=str(addresses.address), port=addresses.port)
        return addresses

    async def stop(self) -> None:
        """Answer what is under way, publish the log, close. Safe after a failed start."""
        self._arrivals.close()
        await self._forwarder.close()
        for listener in reversed(self._listeners):
            await listener.close()
        self._listeners.clear()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        self._tasks.clear()
        db, self._db = self._db, None
        if db is None:
            return
        try:
            if db.failure is None:
                if self._exchange is not None:
                    await self._exchange.close()
                if self._log is not None:
                    await self._log.close()
        finally:
            await db.close()

    # --- parts of start ---

    async def _serve(self, identity: BrokerIdentity) -> Listener:
        assert self._exchange is not None
        endpoint = Endpoint(
            env=self._env,
            exchange=self._exchange,
            card=identity.card_bytes,
            metrics=self._metrics,
            on_error=self._note_error,
        )
        listener = await self._env.network.serve_tcp(
            endpoint.app(),
            host=self._config.host,
            port=self._config.port or self._remembered_port(),
            tls=identity.tls,
            options=ServeOptions(
                cancel_on_disconnect=True,
                shutdown_timeout_s=LONG_POLL_GRACE_S,
                connections_max=self._config.connections_max,
                connections_per_peer_max=self._config.connections_per_peer_max,
            ),
        )
        self._listeners.append(listener)
        if not self._config.port:
            self._remember_port(listener.port)
        return listener

    # With port 0 the first start picks a free port; offices then know it, so later starts take the same one.
    def _remembered_port(self) -> int:
        path = self._directory / PORT_NAME
        if not self._env.files.exists(path):
            return 0
        text = self._env.files.read(path, 16).strip()
        if not text.isdigit() or not 0 < int(text) < 65536:
            raise MalformedInput("port_file_damaged", f"{path} holds no port; remove it to pick a new one")
        return int(text)

    def _remember_port(self, port: int) -> None:
        if self._remembered_port() != port:
            self._env.files.write_atomic(self._directory / PORT_NAME, f"{port}\n".encode())

    # --- while running ---

    def _run(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(self._env.spawn(self._guarded(coroutine), name=name))

    async def _guarded(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._readiness.block("failed", "the broker met an error that it must not survive")
            _log.error("broker_failed", **logs.error_fields(error))
            if self._on_failure is not None:
                self._on_failure(error)

    def _note_error(self, error: Exception) -> None:
        # A bug that one request meets must not be a way to stop the broker; a database that gave way is the
        # end.
        if self._db is None or self._db.failure is not None:
            self._fail(error)

    async def _expire_for_ever(self) -> None:
        while True:
            dropped = await self.store.expire(EXPIRY_ROWS_MAX)
            self._metrics.dropped.inc(dropped)
            if dropped < EXPIRY_ROWS_MAX:
                await self._env.sleep(EXPIRY_INTERVAL_S)

    async def _watch_disk_for_ever(self) -> None:
        while True:
            await self._env.sleep(DISK_INTERVAL_S)
            self._watch_disk()

    # Space is kept free for what is already promised: log entries, deletions, publication. A log that
    # promised entries on a full disk and could not include them died of it.
    def _watch_disk(self) -> None:
        is_low = self._env.files.free_bytes(self._directory) < self._config.disk_reserve_bytes
        self.store.refuse_puts(is_low)
        if is_low:
            self._readiness.block("disk_low", f"less than disk_reserve_bytes is free under {self._directory}")
        else:
            self._readiness.clear("disk_low")


async def run_broker(daemon: Daemon, passphrase: SecretBytes, config: BrokerConfig) -> None:
    """What ``salween-broker run`` does inside ``runtime.service.run_daemon``."""
    broker = Broker(
        daemon.env,
        daemon.options.directory,
        config,
        passphrase,
        registry=daemon.metrics,
        readiness=daemon.readiness,
        on_failure=daemon.fail,
    )
    addresses = await broker.start()
    try:
        daemon.announce_ready(
            {
                "ready": True,
                "address": str(addresses.address),
                "health": f"http://127.0.0.1:{daemon.health_port}",
            }
        )
        await daemon.stop_requested()
    finally:
        await broker.stop()


async def create_database(env: Env, directory: AnyPath, identity: BrokerIdentity) -> None:
    """The empty database of a new broker, with the first entry of its log."""
    db = await _open_database(env, directory, identity, create=True)
    try:
        log = await _open_log(env, db, directory, identity)
        await log.close()
    finally:
        await db.close()


async def with_store(
    env: Env,
    directory: AnyPath,
    config: BrokerConfig,
    passphrase: SecretBytes,
    call: Callable[[SqliteStore], Coroutine[Any, Any, T]],
) -> T:
    """Do ``call`` on the store of a broker that does not run; the caller holds the directory."""
    identity = await env.run_blocking(lambda: identity_of(env, directory, config, passphrase))
    db = await _open_database(env, directory, identity, create=False)
    try:
        log = await _open_log(env, db, directory, identity)
        return await call(await SqliteStore.open(env, db, log, lambda _get_hash, _item: None))
    finally:
        await db.close()


async def _open_database(env: Env, directory: AnyPath, identity: BrokerIdentity, *, create: bool) -> Database:
    migrations = load_migrations("audit") + load_migrations("broker")
    return await open_database(
        env, Path(directory) / DATABASE_NAME, identity.database_key, migrations, create=create
    )


async def _open_log(env: Env, db: Database, directory: AnyPath, identity: BrokerIdentity) -> AuditLog:
    return await AuditLog.open(
        env=env,
        db=db,
        directory=Path(directory) / LOG_NAME,
        high_water=Path(directory) / HIGH_WATER_NAME,
        signer=identity.log_signer,
    )


def identity_of(
    env: Env, directory: AnyPath, config: BrokerConfig, passphrase: SecretBytes
) -> BrokerIdentity:
    """The opened keys of the broker in ``directory``. Blocks for the key derivation."""
    return open_identity(
        env, directory, passphrase, name=config.name, log_origin=config.log_origin, tls=config.tls
    )


def config_of(env: Env, directory: AnyPath) -> BrokerConfig:
    """The configuration of the broker in ``directory``."""
    return load_config(env, Path(directory) / CONFIG_NAME)
