"""One office's node put together: opened, linked, listening, stopped.

Spec: docs/operations.md#daemons. One rule: this file decides nothing; it opens parts in the only safe order
and tells each whom to call. The same ``Node`` runs as a daemon, inside a command when no daemon runs, and in
the simulator.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.note import NoteSigner, PostQuantumSigner
from audit.store import AuditLog
from audit.witness import witness_name
from keys.brokercard import parse_broker_address_untrusted, parse_broker_card_untrusted
from keys.errors import SalweenError
from keys.keystore import Keystore
from keys.primitives import Ed25519PrivateKey, MlDsa44PrivateKey, self_test
from keys.secret import SecretBytes
from node import __version__
from node.alerts import Alerts
from node.answers import Answers
from node.api.app import Api
from node.api.openapi import BASE
from node.backup import Manifest, clear_leftovers, make_backup
from node.broker_heads import BrokerHeads
from node.broker_link import BrokerLink
from node.broker_witness import BrokerWitnesses
from node.carrying import CarryDesk
from node.ceremony import Ceremonies
from node.clock_doubt import ClockDoubt
from node.config import NodeConfig, load_config
from node.control import SOCKET_NAME, Channel, ControlServer, Params
from node.cover import Cover
from node.deadlines import Deadlines
from node.desk import Desk
from node.doctor import check_node
from node.dossiers import Dossiers
from node.erasure import Erasure
from node.events import Events
from node.evidence import EvidenceRoom
from node.halfpairs import HalfPairs
from node.handover import Handover
from node.identity import Identity, load_identity
from node.inbox import Inbox, forget_old_service_once
from node.inperson import Meetings
from node.integrations import Integrations
from node.layout import (
    DATABASE_NAME,
    HIGH_WATER_NAME,
    KEYSTORE_NAME,
    LOG_NAME,
    POLICY_NAME,
    KdfProfile,
    SecretName,
    open_node_database,
)
from node.mailboxes import Mailboxes
from node.meetingdesk import MeetingDesk
from node.metrics import NodeMetrics
from node.nacks import Nacks
from node.officers import Officers
from node.outbox import Outbox
from node.partnering import Partnering
from node.photos import Photos
from node.receive_keys import ReceiveKeyRing
from node.reset_keys import ResetKeyRing
from node.restore import finish_epoch
from node.revocations import Revocations
from node.routes import Routes
from node.secrets import Secrets
from node.sticks import Sticks
from node.traffic import NodeTraffic
from node.vault import Vault
from node.verbs import run_verb
from node.views import LinkView, Role
from node.watch import Heartbeats
from node.web.app import make_app
from node.web.guard import local_hosts
from node.witness import Witnessing
from protocol.release import ReleasePolicy
from runtime import logs
from runtime.env import Env, Listener
from runtime.service import Daemon, DaemonOptions, run_daemon
from runtime.sqlite import Database

NAME = "salween-node"
IDLE_ROUND_S = 60.0
BUSY_ROUND_S = 5.0
KEY_ROUNDS = 60  # about once an hour
LOOPBACK = "127.0.0.1"

_log = logs.get_logger("node")


@dataclass(slots=True)
class _Link:
    link: BrokerLink
    task: "asyncio.Task[None]"


class Node:
    """One office's node. ``open`` first; ``start_links`` and ``listen`` as wanted; ``stop`` once."""

    def __init__(
        self,
        env: Env,
        directory: str,
        config: NodeConfig,
        keystore: Keystore,
        db: Database,
        log: AuditLog,
        signer: NoteSigner,
        identity: Identity,
        kdf: KdfProfile,
        failed: "asyncio.Future[None]",
    ) -> None:
        """Use ``open``."""
        self._env = env
        self._directory = Path(directory)
        self._config = config
        self._db = db
        self.log = log
        self._identity = identity
        self._links: dict[str, _Link] = {}
        self._listeners: list[Listener] = []
        self._control: ControlServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.is_running = False
        self.failed = failed
        self._stirred = asyncio.Event()
        self._link_wanted = asyncio.Event()

        policy = ReleasePolicy()
        secrets = Secrets(env, keystore)
        self._secrets = secrets
        self._kdf = kdf.keystore
        self.events = Events(env.clock)
        self.routes = Routes(env, db, changed=self._reached_otherwise)
        self.keys = ReceiveKeyRing(env, db, secrets)
        self.reset_keys = ResetKeyRing(env, db, secrets)
        vault = Vault(env, secrets)
        self.officers = Officers(env, db, log, secrets, idle_lock_ms=config.idle_lock_s * 1000, kdf=kdf.pin)
        self.integrations = Integrations(env, db, log, self.officers)
        self._outbox = Outbox(
            env,
            db,
            log,
            identity,
            self.keys,
            receipt_spread_ms=config.receipt_spread_s * 1000,
            wake=self._wake,
            changed=lambda: self.events.tell("outbox"),
        )
        self.revocations = Revocations(
            env,
            db,
            log,
            identity,
            secrets,
            self.officers,
            self._outbox,
            links=lambda: [entry.link for entry in self._links.values()],
            stirred=self._stirred.set,
            look_again=self._reread,
            changed=lambda: self.events.tell("link"),
        )
        self.witnessing = Witnessing(
            env,
            db,
            log,
            NoteSigner(
                name=witness_name(log.origin),
                key=Ed25519PrivateKey.from_seed(secrets.get(SecretName.WITNESS)),
            ),
            PostQuantumSigner(
                name=witness_name(log.origin),
                key=MlDsa44PrivateKey.from_seed(secrets.get(SecretName.WITNESS_MLDSA44)),
            ),
            self._outbox,
            stirred=self._stirred.set,
            changed=lambda: self.events.tell("link"),
        )
        self.broker_heads = BrokerHeads(
            env, db, log, clients=lambda: [entry.link.client for entry in self._links.values()]
        )
        self.broker_witnesses = BrokerWitnesses(
            env,
            db,
            log,
            self.witnessing,
            client=self.routes.client,
            changed=self._witness_changed,
        )
        self._clock_doubt = ClockDoubt(
            env, db, log, clients=lambda: [entry.link.client for entry in self._links.values()]
        )
        self._nacks = Nacks(env, db, self.keys, self._outbox, key_version=identity.key_version)
        self._heartbeats = Heartbeats(
            env,
            db,
            self._outbox,
            key_version=identity.key_version,
            interval_ms=config.heartbeat_s * 1000,
            company=self.witnessing.company,
        )
        self._cover = Cover(
            env, db, self._outbox, key_version=identity.key_version, mean_s=config.cover_mean_s
        )
        self._deadlines = Deadlines(
            env, db, log, office_name=identity.name, changed=lambda: self.events.tell("outbox")
        )
        self._half_pairs = HalfPairs(
            env,
            db,
            log,
            identity,
            self._outbox,
            repaired=lambda tx, peer: self._inbox.resets.after_pairing(tx, peer),
            completed=lambda: self.mailboxes.stir(),
        )
        self._photos = Photos(
            env,
            db,
            log,
            vault,
            secrets,
            self._outbox,
            wake=self._wake_all,
            changed=self.events.tell,
        )
        self._inbox = Inbox(
            env,
            db,
            log,
            identity,
            self.keys,
            self.reset_keys,
            secrets,
            vault,
            self._outbox,
            self._nacks,
            self._half_pairs,
            self._photos,
            policy=policy,
            language=config.language,
            look_again=self._reread,
            note_arrival=lambda tx, name: self.mailboxes.note_arrival(tx, name),
            address_moved=lambda: self.mailboxes.stir(),
            shown=lambda: self.events.tell("inbox"),
            owes=self._stirred.set,
            ladder_moved=lambda: self.events.tell("outbox"),
            revocations=self.revocations.learn_items,
            witnessing=self.witnessing,
            erase_by_sender=lambda tx, alert_id, peer: self._erasure.by_sender(tx, alert_id, peer),
        )
        self.mailboxes = Mailboxes(
            env,
            db,
            log,
            secrets,
            self._outbox,
            clients=self.routes.client,
            links=lambda: {address: entry.link for address, entry in self._links.items()},
            ensure_links=self._follow_brokers,
            changed=lambda: self.events.tell("link"),
        )
        self.sticks = Sticks(
            env,
            self._directory,
            db,
            log,
            self.officers,
            self.keys,
            self.reset_keys,
            self._outbox,
            self._inbox,
            changed=lambda: self.events.tell("inbox"),
        )
        self._traffic = NodeTraffic(
            db, self._outbox, self._inbox, self.mailboxes, self._photos, link_changed=self._link_changed
        )
        self.alerts = Alerts(
            env,
            db,
            log,
            identity,
            self.officers,
            vault,
            self.keys,
            self._outbox,
            self._photos,
            policy=policy,
            language=config.language,
            opened_receipts=config.opened_receipts,
        )
        self.handover = Handover(env, db, log, self.officers, self.witnessing)
        self._erasure = Erasure(env, db, log, self.officers, vault, self._outbox, self._photos)
        self.dossiers = Dossiers(
            env,
            self._directory,
            db,
            log,
            self.officers,
            self.alerts,
            vault,
            self._erasure,
            self.witnessing,
            self.handover,
        )
        partnering = Partnering(
            env,
            db,
            log,
            identity,
            secrets,
            self.keys,
            self.reset_keys,
            self._half_pairs,
            log_directory=self._directory / LOG_NAME,
            witness_name=witness_name(log.origin),
            paired=self._after_pairing,
        )
        self.ceremonies = Ceremonies(env, identity, partnering, self.routes.client)
        self.meetings = Meetings(env, identity, partnering, self.routes.client)
        self.meeting_desk = MeetingDesk(env, self.officers, self.meetings)
        self.desk = Desk(
            env,
            db,
            log,
            identity,
            self.officers,
            self.alerts,
            Answers(env, db, log, self.officers, self._outbox),
            EvidenceRoom(db, log, self.officers),
            self.handover,
            self._heartbeats,
            self.events,
            self.revocations,
            self.meeting_desk,
            self._photos,
            self.witnessing,
            CarryDesk(env, self.officers, self.sticks),
            self._erasure,
            thawed=lambda: self._reread(""),
            version=__version__,
            directory=self._directory,
            log_directory=self._directory / LOG_NAME,
            log_key=signer.log_key,
            links=self.link_views,
            way=self.routes.way,
        )

    @classmethod
    async def open(
        cls, env: Env, directory: str, passphrase: SecretBytes, *, kdf: KdfProfile | None = None
    ) -> "Node":
        """Open keystore, database and log. The caller holds the directory or is its only user.

        Each step is told with its duration: an operator asks what a slow start is doing.
        """
        begun_ms = env.clock.monotonic_ms()

        def opened(what: str) -> None:
            nonlocal begun_ms
            now_ms = env.clock.monotonic_ms()
            _log.info(what, duration_ms=now_ms - begun_ms)
            begun_ms = now_ms

        self_test()
        config = load_config(env.files, directory)
        base = Path(directory)
        opened("self_tested")
        keystore = await env.run_blocking(
            lambda: Keystore.open(env.files, str(base / KEYSTORE_NAME), passphrase, random=env.random)
        )
        opened("keystore_opened")
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def fail(error: SalweenError) -> None:
            if not failed.done():
                failed.set_exception(error)

        db = await open_node_database(
            env, str(base / DATABASE_NAME), keystore.get(SecretName.DATABASE), on_failure=fail
        )
        opened("database_opened")
        try:
            await finish_epoch(env, db, Secrets(env, keystore), base)
            if not keystore.names(SecretName.WITNESS_MLDSA44):
                # Of a node from before there was one.
                await Secrets(env, keystore).put({SecretName.WITNESS_MLDSA44: SecretBytes(env.random(32))})
            signer = NoteSigner(
                name=keystore.get(SecretName.ORIGIN).reveal().decode(),
                key=Ed25519PrivateKey.from_seed(keystore.get(SecretName.LOG)),
            )
            log = await AuditLog.open(
                env=env, db=db, directory=base / LOG_NAME, high_water=base / HIGH_WATER_NAME, signer=signer
            )
            opened("log_opened")
            identity = await db.read(lambda tx: load_identity(tx, Secrets(env, keystore)))
            node = cls(
                env, directory, config, keystore, db, log, signer, identity, kdf or KdfProfile(), failed
            )
            await node.keys.load()
            await node.routes.load()
            await node.mailboxes.adopt()
            await node.reset_keys.load()
            await node.write_policy()
            opened("keys_loaded")
        except BaseException:
            await db.close()
            raise
        return node

    async def write_policy(self) -> None:
        """What an auditor needs to verify our log, beside it; a real auditor brings a copy of their own."""
        self.witnessing.keys_changed = False
        await self.witnessing.keep_keys_once()
        policy = (await self._db.read(self.witnessing.policy)).encode()
        path = str(self._directory / POLICY_NAME)
        files = self._env.files

        def write() -> None:
            if not files.exists(path) or files.read(path) != policy:
                files.write_atomic(path, policy, 0o644)

        await self._env.run_blocking(write)

    @property
    def config(self) -> NodeConfig:
        """The settings it was opened with."""
        return self._config

    @property
    def database(self) -> Database:
        """For the doctor and the metrics."""
        return self._db

    # --- links ----------------------------------------------------------------------------------------------

    async def start_links(self) -> None:
        """Talk to every broker that some peer is reached through; housekeeping begins.

        Not with a log that takes no entries: then nothing may be received, sent or erased.
        """
        self.is_running = True
        if self.log.refusal is not None:
            return
        # What came due while the office was shut, or comes back with a backup, goes before anything is shown.
        await self.alerts.count_anew_once()
        await self._erasure.erase_due()
        await clear_leftovers(self._env, self._directory)
        await self._ensure_links()
        self._run(self._link_where_wanted(), "links")
        self._run(self._housekeep(), "housekeeping")
        if self._config.cover_mean_s:
            self._run(self._cover.run(), "cover")
        self._run(self.log.run(), "log")
        self._run(self.revocations.run(), "notices")
        self._run(self.mailboxes.run(), "mailboxes")
        self._run(self.broker_heads.run(), "broker-heads")
        self._run(self.broker_witnesses.run(), "broker-witnesses")

    def link_views(self) -> Sequence[LinkView]:
        """Every link as screens show it."""
        return [entry.link.view for entry in self._links.values()]

    async def _ensure_links(self) -> None:
        rows = await self._db.read(
            lambda tx: tx.execute(
                "SELECT address, card FROM broker WHERE address IN (SELECT broker_address FROM peer)"
                " OR address IN (SELECT own_broker_address FROM peer)"
                " OR address IN (SELECT broker_address FROM mailbox)"
                " OR address IN (SELECT own_broker_address FROM half_pair)"
            )
        )
        for address, card in rows:
            if address not in self._links:
                client = self.routes.client(
                    parse_broker_address_untrusted(address), parse_broker_card_untrusted(card)
                )
                link = BrokerLink(self._env, client, self._traffic)
                self._links[address] = _Link(link=link, task=self._run(link.run(), "broker-link"))

    async def _link_where_wanted(self) -> None:
        """A peer may move to a broker that we know and do not speak to."""
        while True:
            await self._link_wanted.wait()
            self._link_wanted.clear()
            await self._ensure_links()

    async def _after_pairing(self) -> None:
        await self.write_policy()
        await self.reset_keys.load()
        await self.mailboxes.adopt()
        await self._follow_brokers()
        self.revocations.ask_anew()

    async def _follow_brokers(self) -> None:
        """Mailboxes came, or went to another broker: talk to every broker that is needed now."""
        if self.is_running:
            await self._ensure_links()
        for entry in self._links.values():
            entry.link.reread()
        self.events.tell("link")

    async def _reached_otherwise(self, address: str) -> None:
        """A link ends where it is and begins anew on the other way; what was under way is sent again."""
        entry = self._links.pop(address, None)
        if entry is not None:
            entry.task.cancel()
            await asyncio.gather(entry.task, return_exceptions=True)
        await self._follow_brokers()

    def _link_changed(self) -> None:
        self.mailboxes.stir()
        self.events.tell("link")

    def _witness_changed(self) -> None:
        self._stirred.set()
        self.events.tell("link")

    def _wake(self, address: str) -> None:
        self._stirred.set()
        entry = self._links.get(address)
        if entry is None:
            self._link_wanted.set()
        else:
            entry.link.wake()

    def _wake_all(self) -> None:
        for entry in self._links.values():
            entry.link.wake()

    def _reread(self, mailbox: str) -> None:
        del mailbox
        for entry in self._links.values():
            entry.link.reread()

    async def _housekeep(self) -> None:
        """Often while messages move, once a minute otherwise: an idle office must not wear out its disk."""
        rounds = 0
        while True:
            self.officers.forget_idle()
            await self.alerts.count_anew_once()
            await self._half_pairs.housekeep_once()
            await self._inbox.resets.housekeep_once()
            await self._outbox.housekeep_once()
            await self._photos.housekeep_once()
            await self.revocations.forward_once()
            await self._clock_doubt.record_once()
            await self._deadlines.record_once()
            await self._nacks.send_once()
            await self.witnessing.housekeep_once()
            if self.witnessing.keys_changed:
                await self.write_policy()
            await self._heartbeats.beat_once()
            if rounds % KEY_ROUNDS == 0:
                await self.keys.close_old_once()
                await self.reset_keys.load()
                await self.write_policy()
                await self._outbox.forget_settled_once()
                await forget_old_service_once(self._db, self._env.clock.now_ms())
                await self._erasure.forget_evidence_once()
                await self._erasure.wipe()
            rounds += 1
            if await self._erasure.erase_due():
                self.events.tell("inbox")
            with contextlib.suppress(TimeoutError):
                async with self._env.timeout(await self._outbox.rest_s(IDLE_ROUND_S)):
                    await self._stirred.wait()
            self._stirred.clear()
            # No longer than to what was drawn by lot: rounds would show through where all leave with one.
            await self._env.sleep(await self._outbox.rest_s(BUSY_ROUND_S))

    # --- doors ----------------------------------------------------------------------------------------------

    async def listen(self) -> int:
        """Open the pages and the control socket; returns the port of the pages."""
        self._control = ControlServer(self._env, self.run_verb)
        await self._control.start(str(self._directory / SOCKET_NAME))
        hosts: frozenset[str] = frozenset()
        app = make_app(self.desk, env=self._env, hosts=lambda: hosts)
        listener = await self._env.network.serve_tcp(app, host=LOOPBACK, port=self._config.web_port)
        hosts = local_hosts(listener.port)
        self._listeners.append(listener)
        return listener.port

    async def listen_for_programs(self) -> int | None:
        """Open the local API where the operator asked for it; its port."""
        if self._config.api_port is None:
            return None
        hosts: frozenset[str] = frozenset()
        api = Api(self.desk, self.integrations, env=self._env, hosts=lambda: hosts, version=__version__)
        listener = await self._env.network.serve_tcp(api.app(), host=LOOPBACK, port=self._config.api_port)
        hosts = local_hosts(listener.port)
        self._listeners.append(listener)
        return listener.port

    async def run_verb(self, verb: str, params: Params, channel: Channel) -> dict[str, Any]:
        """A command's verb; see node/verbs.py."""
        return await run_verb(self, verb, params, channel)

    # --- what commands ask ----------------------------------------------------------------------------------

    async def add_officer(self, *, alias: str, role: Role, pin: str) -> int:
        """Add an officer; peers hear of the new list with the next message."""
        return await self.officers.add(
            self._identity.operational,
            alias=alias,
            role=role,
            pin=pin,
            office_id=self._identity.office_id,
            key_version=self._identity.key_version,
        )

    async def retire_officer(self, number: int) -> None:
        """End an officer's rights."""
        await self.officers.retire(
            self._identity.operational,
            number,
            office_id=self._identity.office_id,
            key_version=self._identity.key_version,
        )

    async def reset_pin(self, number: int, pin: str) -> None:
        """Give an officer a new PIN."""
        await self.officers.reset_pin(
            self._identity.operational,
            number,
            pin,
            office_id=self._identity.office_id,
            key_version=self._identity.key_version,
        )

    async def import_address(self, envelope: bytes) -> str:
        """Take in a file that a peer's ``move --out`` wrote; the peer's name."""
        name = await self.sticks.take_one(envelope)
        self.mailboxes.stir()
        return name

    async def backup(self, path: str, passphrase: SecretBytes, *, with_operational: bool) -> Manifest:
        """Write and verify a backup of this node as it is now."""
        return await make_backup(
            self._env,
            self._db,
            self.log,
            self._identity,
            self._secrets,
            self._directory,
            path,
            passphrase,
            with_operational=with_operational,
            kdf=self._kdf,
        )

    async def doctor(self) -> list[dict[str, Any]]:
        """Everything the doctor looks at, with the exact fix for each fault."""
        clients = [entry.link.client for entry in self._links.values()]
        return await check_node(
            self._env,
            self._directory,
            self._identity,
            self.log,
            self._db,
            clients,
            cover_mean_s=self._config.cover_mean_s,
        )

    # --- the end --------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Close the doors, end the tasks, publish, close the database. Safe after a failed start."""
        self.is_running = False
        for listener in self._listeners:
            await listener.close()
        if self._control is not None:
            await self._control.stop()
        await self.meeting_desk.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._db.failure is None:
            await self.log.close()
        await self._db.close()

    def _run(self, work: Any, name: str) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = self._env.spawn(work, name=name)
        self._tasks.append(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        """A task that fails ends the node: half a node that still answers is worse than one started again."""
        if not task.cancelled() and (error := task.exception()) is not None and not self.failed.done():
            self.failed.set_exception(error)


async def run_daemon_node(env: Env, directory: str, passphrase: SecretBytes, *, as_json: bool) -> int:
    """The daemon of ``salween-node run``; its exit code."""

    async def main(daemon: Daemon) -> None:
        node = await Node.open(env, directory, passphrase)
        daemon.spawn(_fail_with(daemon, node), name="node-failure")
        try:
            NodeMetrics(daemon.metrics, node)
            if node.log.refusal is not None:
                daemon.readiness.block(node.log.refusal.code, node.log.refusal.detail)
            await node.start_links()
            port = await node.listen()
            ready = {"pages": f"http://localhost:{port}", "control": f"{directory}/{SOCKET_NAME}"}
            api_port = await node.listen_for_programs()
            if api_port is not None:
                ready["api"] = f"http://localhost:{api_port}{BASE}"
            daemon.announce_ready(ready)
            await daemon.stop_requested()
        finally:
            await node.stop()

    try:
        config = load_config(env.files, directory)
    except SalweenError as error:
        env.process.stderr_line(f"{NAME}: {error.detail or error.code} [{error.code}]")
        return 1
    options = DaemonOptions(
        name=NAME, directory=directory, health_port=config.health_port, ready_as_json=as_json
    )
    return await run_daemon(env, main, options)


async def _fail_with(daemon: Daemon, node: Node) -> None:
    try:
        await node.failed
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        daemon.fail(error)
