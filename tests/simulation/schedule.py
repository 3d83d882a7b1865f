"""One schedule: two offices, a broker, officers at work, and everything that goes wrong, all from one number.

The offices are paired once per process and every schedule starts from copies of their disks. For some minutes
officers write, read and look while machines die (between two steps or in the middle of a write), lose power,
stand still, have their clocks set, are cut off one way or both, and the broker lies or goes back to an older
state. Then everything heals, and after a while everything kept must have arrived, once, as written.
"""

import asyncio
import contextlib
import functools
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from broker.setup import begin_again
from keys import keystore, pin, primitives
from keys.errors import MalformedInput, PolicyRefused, SalweenError
from keys.secret import SecretBytes
from node import vault
from node.config import CONFIG_NAME
from node.views import AlertRow, OutboxRow, PeerView, Submitted
from protocol import limits, requests, sealing
from protocol.alert import Alert, FreeText, Vehicle
from runtime import sqlite
from tests.simulation.checkers import Broken, Sent, Witness, check_cosigned, contradictions
from tests.simulation.daemons import BrokerHost, OfficeHost, pair
from tests.simulation.disk import Killed, SimulatedDisk
from tests.simulation.env import EPOCH_MS
from tests.simulation.erasing import Erasing
from tests.simulation.malice import LIES, TRICKS, MaliciousBroker, corrupt, tell_a_lie
from tests.simulation.photos import Photographers
from tests.simulation.texts_first import TextsFirst
from tests.simulation.turns import (
    TURNS,
    Kept,
    back_up,
    check_restored,
    copy_office,
    restore_office,
    withhold,
)
from tests.simulation.world import Host, HostDownError, NobodyTookError, World

DAY_MS: Final = 24 * 3600 * 1000
SETUP_BEFORE_MS: Final = 3600 * 1000
MINUTES: Final = 12
HEAL_S: Final = 15 * 60  # reliability: idle within a quarter of an hour after the last fault
HEAL_AFTER_MALICE_S: Final = 100 * 60  # a broker's lie "I hold it" is asked again at growing intervals
IDLE_S: Final = 10 * 60
IDLE_WRITES_MAX: Final = 400  # of both offices in ten idle minutes: polls, and little else
IDLE_MESSAGES_MAX: Final = 8  # new ones of an office: signs of life, a key offered again, its log cosigned
REST_S: Final = 3 * 60  # what the last look made the offices say is said
CHECKPOINT_COMMITS: Final = 100
TURN_CHANCE: Final = 0.4
CARRY_CHANCE: Final = 0.6  # after each other fault, in half of all schedules
COVER_CHANCE: Final = 0.2  # of each office
COVER_MEAN_S: Final = 60
COVER_WRITES: Final = 30 * 12  # on the network in the idle minutes, for each office that sends it
STICKS_MAX: Final = 6  # in a drawer at one time
RELAPSE_CHANCE: Final = 0.4  # after each other fault, in half of all schedules
GOES_BACK_LAST_CHANCE: Final = 0.25
LAST_WORD_S: Final = 2 * 60  # offices have taken in what came before, and met the broker that went back
RELAPSE_OPERATIONS_MAX: Final = 40  # about what a start changes on its disk

FAULTS: Final = (
    *("kill",) * 3,
    *("power_loss",) * 3,
    *("fuse",) * 4,
    "pause",
    "clock",
    "cut",
    "cut_one_way",
    "reset",
    "slow",
    "trick",
    "trick",
    "rollback",
    "erase",
)


@dataclass(slots=True)
class Outcome:
    """What one schedule came to."""

    seed: int
    trace: str
    alerts: int
    faults: dict[str, int]
    broken: Broken | None = None
    last: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Paired:
    """Disks of brokers and of paired offices, by name."""

    brokers: dict[str, SimulatedDisk]
    offices: dict[str, SimulatedDisk]


_NAMES: Final = (("Myitkyina", "MM"), ("Tengchong", "CN"))
_LIAR: Final = ("Bokeo", "LA")  # paired with the first, and not to be believed


@functools.cache
def paired() -> Paired:
    """Two offices that paired an hour before every schedule begins; made once per process."""
    return pair_offices((*_NAMES, _LIAR), ((0, 1), (0, 2)))


def pair_offices(names: Sequence[tuple[str, str]], pairs: Sequence[tuple[int, int]]) -> Paired:
    """Offices at one broker, paired an hour before every schedule begins."""

    def set_up(world: World) -> SetUp:
        broker = BrokerHost(world)
        offices = [OfficeHost(world, name, country) for name, country in names]

        async def work() -> None:
            await broker.make()
            for office in offices:
                await office.make()
            for one, other in pairs:
                await pair(broker, offices[one], offices[other])

        return [broker], offices, work

    return disks_after(set_up)


SetUp = tuple[Sequence[BrokerHost], Sequence[OfficeHost], Callable[[], Coroutine[Any, Any, None]]]


def disks_after(set_up: Callable[[World], SetUp]) -> Paired:
    """What is on the disks an hour before every schedule begins, when this work was done."""
    with World(seed="paired", directory=Path(), has_simulated_disks=True) as world, _counted_pages():
        brokers, offices, work = set_up(world)
        hosts = [*(broker.host for broker in brokers), *(office.host for office in offices)]
        for host in hosts:
            host.skew_ms = -SETUP_BEFORE_MS

        async def script() -> None:
            await work()
            await asyncio.sleep(60)
            for host in hosts:
                host.kill()

        world.run(script())
        return Paired(
            brokers={broker.host.name: disk_of(broker.host) for broker in brokers},
            offices={office.name: disk_of(office.host) for office in offices},
        )


def disk_of(host: Host) -> SimulatedDisk:
    assert host.simulated_disk is not None
    return host.simulated_disk


@contextlib.contextmanager
def _counted_pages() -> Any:
    """Copy the journal back every so many commits, not pages.

    How many pages a commit takes depends on where a random hash falls in an index, and the moment of a
    checkpoint must not differ between two runs of one seed.
    """
    real = sqlite.Database._note_wal_pages

    def count(database: sqlite.Database, *_: Any) -> int:
        database.stats.wal_pages += sqlite.CHECKPOINT_PAGES // CHECKPOINT_COMMITS + 1
        return 0

    sqlite.Database._note_wal_pages = count  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        sqlite.Database._note_wal_pages = real  # type: ignore[method-assign]


@contextlib.contextmanager
def _recorded_keys(witness: Witness) -> Any:
    """I10: every key and nonce that anything is sealed with, as the library call is given them."""
    modules: Any = sealing
    real_aead, real_blob = primitives.aead_seal, modules.blob_encrypt

    def aead(key: SecretBytes, nonce: bytes, *rest: Any) -> bytes:
        witness.sealed_with(key.reveal(), nonce)
        return real_aead(key, nonce, *rest)

    def blob(key: SecretBytes, *rest: Any) -> bytes:
        witness.sealed_with(key.reveal(), b"")  # the library draws the nonce; one key seals one blob
        sealed: bytes = real_blob(key, *rest)
        return sealed

    users = [module for module in (keystore, pin, vault, requests) if hasattr(module, "aead_seal")]
    for module in users:
        module.aead_seal = aead  # type: ignore[attr-defined]
    modules.blob_encrypt = blob
    try:
        yield
    finally:
        for module in users:
            module.aead_seal = real_aead  # type: ignore[attr-defined]
        modules.blob_encrypt = real_blob


_SAID: Final = "delivery WHERE type <> 6"
_COVERED_TOO_MUCH: Final = (
    "(SELECT 1 FROM delivery WHERE type = 6 AND phase <> 'acknowledged'"
    f" GROUP BY peer HAVING count(*) > {limits.COVER_UNACKNOWLEDGED_MAX})"
)


def ask_for_cover(disk: SimulatedDisk, mean_s: int) -> None:
    """Its operator sets ``cover_mean_s``."""
    (path,) = (path for path in disk.content() if path.endswith(CONFIG_NAME))
    file = disk.find(path)
    assert file is not None
    file.write(len(disk.content()[path]), f"cover_mean_s = {mean_s}\n".encode())
    file.sync()


class Schedule:
    """See the head of this file. ``several`` plays it with more offices, ``regions`` with two brokers."""

    NAMES: tuple[tuple[str, str], ...] = _NAMES
    idle_writes_max = IDLE_WRITES_MAX
    idle_messages_max = IDLE_MESSAGES_MAX

    def __init__(
        self,
        seed: int,
        *,
        minutes: int = MINUTES,
        faults: tuple[str, ...] = FAULTS,
        tricks: tuple[str, ...] = TRICKS,
        lies: tuple[str, ...] = LIES,
        turns: tuple[str, ...] = TURNS,
    ) -> None:
        """``tricks`` and ``lies``: what a broker and a third office may do; without ``lies`` it is shut.

        ``turns``: what may happen once to an office, in somewhat less than half of all schedules.
        """
        self.tricks = tricks
        self.lies = lies
        self.seed = seed
        self.minutes = minutes
        self.faults = faults
        self.choices = random.Random(f"schedule/{seed}")
        self.witness = Witness()
        self.played: dict[str, int] = {}
        self._numbers = 0
        self._has_lied = False
        self._has_liar = bool(lies) and (lies != LIES or self.choices.random() < 0.4)
        self._tricks: tuple[str, ...] = ()
        self._offices_by_host: dict[str, OfficeHost] = {}
        self.liars: dict[str, MaliciousBroker] = {}  # each broker's, by its host
        self._rollback_points: dict[str, SimulatedDisk] = {}
        self._calm = False
        self.autopsy: Callable[[Schedule], None] | None = None  # looks at the broken world before it goes
        self._restarts: dict[str, asyncio.Task[None]] = {}
        # Drawn apart: a seed that found something before there were these plays on as it did then.
        more = random.Random(f"schedule/{seed}/turn")
        self._turn = more.choice(turns) if turns and more.random() < TURN_CHANCE else ""
        self._backup: Kept | None = None
        self._more = random.Random(f"schedule/{seed}/relapses")
        self._relapse_chance = RELAPSE_CHANCE if self._more.random() < 0.5 and "fuse" in faults else 0.0
        self._goes_back_last = self._more.random() < GOES_BACK_LAST_CHANCE and "rollback" in faults
        # By this word none of the seeds of BROKEN_BEFORE gets a stick: they play what they found.
        self._carrying = random.Random(f"schedule/{seed}/post")
        self._carry_chance = CARRY_CHANCE if self._carrying.random() >= 0.5 else 0.0
        self._sticks: list[tuple[OfficeHost, OfficeHost, bytes]] = []  # from, to, and what is on it
        self._photos = Photographers(seed, self.witness)
        self._erasing = Erasing(seed, self._photos)
        covering = random.Random(f"schedule/{seed}/chatter")  # as with sticks
        self._covering = [name for name, _ in self.NAMES if covering.random() < COVER_CHANCE]
        self._relapsing: dict[str, None] = {}  # hosts that lose power as they stand up the next time

    def run(self) -> Outcome:
        """Play it to its end; the outcome names what was broken."""
        start = self.start()
        with (
            World(seed=self.seed, directory=Path(), has_simulated_disks=True) as world,
            _counted_pages(),
            _recorded_keys(self.witness),
            self.watching(),
        ):
            self.world = world
            self.brokers = [BrokerHost(world, name) for name in start.brokers]
            self.offices = [OfficeHost(world, name, country) for name, country in self.NAMES]
            self._offices_by_host.update({office.host.name: office for office in self.offices})
            for broker in self.brokers:
                self.put_disk(broker.host, start.brokers[broker.host.name].copy())
            for office in self.offices:
                self.put_disk(office.host, start.offices[office.name].copy())
                if office.name in self._covering:
                    self.played["cover"] = self.played.get("cover", 0) + 1
                    ask_for_cover(disk_of(office.host), COVER_MEAN_S)
            self.liar_office = OfficeHost(world, *_LIAR)
            if self._has_liar:
                self.put_disk(self.liar_office.host, start.offices[_LIAR[0]].copy())
            world.network.on_write = self._hear
            self._log_keys = {
                office.name: _log_key(disk_of(office.host).content()) for office in self.offices
            }
            broken = None
            try:
                world.run(self._script())
            except Broken as found:
                broken = Broken(found.invariant, found.what)  # without the frames it went through
                if self.autopsy is not None:
                    self.autopsy(self)
            except (SalweenError, NobodyTookError) as failed:
                broken = Broken("I12", f"a daemon broke: {failed}")
            return Outcome(
                seed=self.seed,
                trace=world.trace.hexdigest(),
                alerts=len(self.witness.sent),
                faults=self.played,
                broken=broken,
                last=[f"{at / 1e6:.3f} {what} {facts}" for at, what, facts in world.trace.last],
            )

    @classmethod
    def start(cls) -> Paired:
        """The disks it begins with."""
        return paired()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """What is looked at while it is played, beside what screens and disks show."""
        with TextsFirst(self.witness).watching(self._offices_by_host):
            yield

    @property
    def broker(self) -> BrokerHost:
        """The first broker, most often the only one."""
        return self.brokers[0]

    def _any_broker(self) -> BrokerHost:
        return self.broker if len(self.brokers) == 1 else self.choices.choice(self.brokers)

    def put_disk(self, host: Host, disk: SimulatedDisk) -> None:
        disk._choices = random.Random(f"{self.world.seed}/{host.name}/disk")
        host.simulated_disk = disk

    def _hear(self, host_name: str, to: str) -> None:
        """Something is about to leave a host for another, or for an officer (``to`` is itself)."""
        for host in (*self.hosts(), self.liar_office.host):
            if host.name == host_name and host.life is not None:
                self.witness.something_leaves(host_name, disk_of(host).unsynced("-wal"))

    # --- the run --------------------------------------------------------------------------------------------

    async def _script(self) -> None:
        for broker in self.brokers:
            await self._boot_broker(broker)
        for office in self.offices:
            await self.boot_office(office)
        if self._has_liar:
            await self._up(self.liar_office.host, self.liar_office.serve())
        for broker in self.brokers:
            self._rollback_points[broker.host.name] = disk_of(broker.host).copy()
        workers = [asyncio.ensure_future(self._at_work(office)) for office in self.offices]
        try:
            end_s = self.world.loop.time() + self.minutes * 60
            while self.world.loop.time() < end_s:
                await asyncio.sleep(self.choices.uniform(5, 60))
                _take([*workers, *self._restarts.values()])
                self.witness.nothing_overheard()
                if self._turn == "restored":
                    await self._back_up_or_restore((end_s - self.world.loop.time()) / (self.minutes * 60))
                await self._fault(self.choices.choice(self.faults))
                if self._has_liar and self.choices.random() < 0.3:
                    await self._lie()
                if self._more.random() < self._relapse_chance:
                    self._relapse()
                if self._carrying.random() < self._carry_chance:
                    await self._carry()
            await self._heal()
            _take(workers)
            for _, receiver, data in self._sticks:  # found in a drawer, long after
                await self._put_in(receiver, data)
            if self._goes_back_last:
                await self._go_back_last()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        await asyncio.sleep(HEAL_AFTER_MALICE_S if self._has_lied else HEAL_S)
        for office in self.offices:
            await self._look(office)
        self.witness.nothing_overheard()
        self.witness.everything_arrived()
        for office in self.offices:
            await self._photos.check_all(office, await self.logged_in(office, office.inbox))
        await self._check_witnessed()
        await self._check_idle()
        for office in self.offices:
            await self._check_database(office)
            for view in await office.peers():
                if view.missing_in and not view.name.startswith(_LIAR[0]):
                    raise Broken("I3", f"{office.name} still misses {view.missing_in} messages")
        for name in self.witness.put_back:
            one, other = sorted(self.offices, key=lambda office: office.name != name)
            await check_restored(one, other.name)
        if self._turn == "withheld":
            self.played["withheld"] = 1
            await withhold(self)
        if self._turn == "copied":
            self.played["copied"] = 1
            await copy_office(self, *self._more.sample(self.offices, 2))
        await self._erasing.check(self)

    async def partner_of(self, office: OfficeHost) -> PeerView:
        """What an office's screen says of the other one."""
        (name,) = (other.name for other in self.offices if other is not office)
        views: tuple[PeerView, ...] = await self.logged_in(office, office.peers)
        return next(view for view in views if view.name.startswith(name))

    async def send_apart(self, office: OfficeHost) -> None:
        """An alert that may be shown at the other office, and need not."""
        self._numbers += 1
        token = f"KA-{self._numbers}"
        (receiver,) = (other.name for other in self.offices if other.name != office.name)
        text = f"apart {self._numbers}"
        self.witness.sent[token] = Sent(token=token, sender=office.name, receiver=receiver, text=text)
        await self.logged_in(office, lambda: office.send(alert_of(token, text, office.now_ms()), receiver))

    def note_log_key(self, office: OfficeHost) -> None:
        """Its log began anew."""
        self._log_keys[office.name] = _log_key(disk_of(office.host).content())

    async def _back_up_or_restore(self, left: float) -> None:
        """One office is backed up in the first half, and in the second restored on another machine."""
        office = self.offices[self.seed % 2]
        if self._backup is None and left > 0.4:
            with contextlib.suppress(HostDownError, Killed):
                self._backup = await back_up(self, office)
        elif self._backup is not None and left < 0.4 and "restored" not in self.played:
            if self._is_restarting(office.host):
                return  # somebody is about to start the old machine, and looks at it
            self.played["restored"] = 1
            self.world.note("restore", office.name)
            await restore_office(self, office, self._backup)

    async def _heal(self) -> None:
        self._calm = True
        self.world.network.heal()
        self.world.network.latency_s = (0.005, 0.060)
        self._tricks = ()
        for liar in self.liars.values():
            self._note_tricks(liar)
            liar.tricks = ()
        for host in self.hosts():
            host.resume()
            if host.simulated_disk is not None:
                host.simulated_disk.fuse = None
        for restart in list(self._restarts.values()):
            await restart
        for host in self.hosts():
            if host.life is None:
                await self._boot(host)

    async def _check_witnessed(self) -> None:
        """I21: each log is cosigned up to minutes ago, and it is that log."""
        for office, partner in (self.offices, self.offices[::-1]):
            node = office.node
            assert node is not None
            status = await office.host.run(lambda env, node=node: node.desk.status())  # type: ignore[misc]
            if status.log.witness != "ok":
                raise Broken("I21", f"the log of {office.name} is {status.log.witness}")
            check_cosigned(office.name, disk_of(office.host).content(), disk_of(partner.host).content())

    async def _check_idle(self) -> None:
        """I12: with everything delivered, offices and broker come to rest."""
        await asyncio.sleep(REST_S)
        written = self.world.network.writes
        messages = [await self._count(office, _SAID) for office in self.offices]
        await asyncio.sleep(IDLE_S)
        spoken = self.world.network.writes - written
        # A liar goes on offering what nobody takes; that it costs little is all that can be asked.
        covered = len(self._covering) * COVER_WRITES
        if spoken > self.idle_writes_max * (1 + 4 * self._has_liar) + covered:
            raise Broken("I12", f"{spoken} writes on the network in {IDLE_S // 60} idle minutes")
        for office, before in zip(self.offices, messages, strict=True):
            if await self._count(office, _SAID) > before + self.idle_messages_max:
                raise Broken("I12", f"{office.name} goes on talking although nothing happens")
            # Of each partner by itself: one that takes nothing does not count for another.
            if await self._count(office, _COVERED_TOO_MUCH):
                raise Broken("I12", f"{office.name} goes on with messages about nothing that nobody takes")

    async def _count(self, office: OfficeHost, table: str) -> int:
        node = office.node
        assert node is not None
        found: int = await office.host.run(
            lambda env: node.database.read(lambda tx: tx.value(f"SELECT count(*) FROM {table}"))
        )
        return found

    # --- officers -------------------------------------------------------------------------------------------

    async def _at_work(self, office: OfficeHost) -> None:
        """Write, look and read, as often as people do in a bad hour."""
        while True:
            await asyncio.sleep(self.choices.uniform(2, 40))
            if office.host.life is None or office.node is None or self._calm:
                continue
            with contextlib.suppress(HostDownError, Killed):
                if self.choices.random() < 0.5:
                    await self._send(office)
                else:
                    await self._look(office)

    async def _send(self, office: OfficeHost) -> None:
        self._numbers += 1
        sent, press = await self._fill_in(office, f"KA-{self._numbers}")
        self.witness.sent[sent.token] = sent
        life = office.host.lives
        try:
            submitted = await self.logged_in(office, press)
        except PolicyRefused as refused:
            if refused.code in ("window_full", "disk_low"):
                del self.witness.sent[sent.token]
                return
            raise
        except SalweenError as error:
            if office.host.life is None:
                return
            raise Broken("I12", f"{office.name} could not send: {error.code}") from error
        # The word may still reach an officer whose machine is gone by then, and another in its place.
        sent.kept = life == office.host.lives or office.name not in self.witness.put_back
        self.world.note("kept", sent.token)
        if sent.photos:
            await self._erasing.remember(office, submitted.alert_id, incoming=False)

    async def _fill_in(
        self, office: OfficeHost, token: str
    ) -> tuple[Sent, Callable[[], Coroutine[Any, Any, Submitted]]]:
        """What an officer fills in, and the press of the button."""
        (receiver,) = (other.name for other in self.offices if other is not office)
        text = f"seen at {self._numbers}, {'x' * self.choices.choice((10, 10, 1500, 4000))}"
        names, photos = await self._photos.hand_in(office)
        if names:
            self.played["photo"] = self.played.get("photo", 0) + len(names)
        lasts_ms = self._erasing.lasts_ms(names)
        if lasts_ms is not None:
            self.played["fleeting"] = self.played.get("fleeting", 0) + 1
        sent = Sent(
            token=token,
            sender=office.name,
            receiver=receiver,
            text=text,
            photos=photos,
            is_fleeting=lasts_ms is not None,
        )
        return sent, lambda: office.send(
            alert_of(token, text, office.now_ms(), lasts_ms=lasts_ms), receiver, names
        )

    async def _look(self, office: OfficeHost) -> None:
        self._hear(office.host.name, office.host.name)
        self.witness.nothing_overheard()
        inbox = await self.logged_in(office, office.inbox)
        rows = [(row.headline.split()[1], row.peer_name) for row in inbox]
        self.world.note("inbox", office.name, len(rows))
        self.witness.saw_inbox(office.name, rows)
        # Of what is erased there is a row without a word in it.
        outbox = [row for row in await self.logged_in(office, office.outbox) if row.headline]
        self._saw_outbox(office, outbox)
        unread = [row for row in inbox if not row.opened]
        if unread:
            await self._read(office, self.choices.choice(unread))
        with _unless_erased():
            await self._photos.look(office, inbox)
        await self._erasing.look(office, inbox)
        for row in outbox:
            for rung in row.recipients[0].ladder if row.recipients else ():
                self.world.note("rung", row.headline.split()[1], rung.step)

    async def _read(self, office: OfficeHost, row: AlertRow) -> None:
        with _unless_erased():
            fields: Any = await self.logged_in(office, lambda: office.open_alert(row.alert_id))
            self.witness.saw_opened(row.headline.split()[1], fields["text"]["text"])

    def _saw_outbox(self, office: OfficeHost, outbox: Sequence[OutboxRow]) -> None:
        self.witness.saw_outbox(
            office.name,
            [
                (row.headline.split()[1], [rung.step for rung in row.recipients[0].ladder])
                for row in outbox
                if row.recipients
            ],
        )

    async def logged_in(self, office: OfficeHost, act: Any) -> Any:
        try:
            return await act()
        except PolicyRefused as refused:
            if refused.code not in ("session_ended", "session_locked", "not_logged_in", "session_unknown"):
                raise
            await office.log_in()
            return await act()

    # --- what goes wrong ------------------------------------------------------------------------------------

    def hosts(self) -> list[Host]:
        """Of brokers and offices."""
        return [*(broker.host for broker in self.brokers), *(office.host for office in self.offices)]

    async def _fault(self, fault: str) -> None:
        host = self.choices.choice(self.hosts())
        self.played[fault] = self.played.get(fault, 0) + 1
        self.world.note("fault", fault, host.name)
        network = self.world.network
        match fault:
            case "kill" | "power_loss":
                if host.life is not None:
                    host.kill(power_loss=fault == "power_loss")
                    self._restart_later(host)
            case "fuse":
                if host.life is not None:
                    host.light_fuse(self.choices.randint(1, 60), power_loss=self.choices.random() < 0.6)
                    self._restart_later(host)
            case "pause":
                if host.life is not None:
                    host.pause()
                    await asyncio.sleep(self.choices.uniform(0.1, 90))
                    host.resume()
            case "clock":
                host.step_clock(
                    self.choices.choice((-1, 1)) * self.choices.choice((1_000, 300_000, 3_600_000))
                )
            case "cut" | "cut_one_way":
                one, other = self.choices.sample([h.name for h in self.hosts()], 2)
                network.cut(one, other, both_ways=fault == "cut")
                await asyncio.sleep(self.choices.uniform(1, 120))
                network.heal()
            case "reset":
                for office in self.offices:
                    for broker in self.brokers:
                        network.reset_connections(office.host.name, broker.host.name)
            case "slow":
                network.latency_s = self.choices.choice(((0.005, 0.06), (0.3, 3.0), (1.0, 12.0)))
            case "trick":
                self._has_lied = True
                self._tricks = tuple(
                    self.choices.sample(self.tricks, min(len(self.tricks), self.choices.randint(1, 4)))
                )
                for liar in self.liars.values():
                    liar.tricks = self._tricks
            case "rollback":
                await self._roll_back(self._any_broker())
            case "erase":
                await self._erase(self._any_broker())

    def _relapse(self) -> None:
        """A program dies when a commit is written and not synced; then the power fails as it stands up.

        Whatever the second life read, said or published before it made the first one's commit durable is
        now about rows that were never there.
        """
        host = self._more.choice(self.hosts())
        if host.life is None or self._is_restarting(host):
            return
        self.played["relapse"] = self.played.get("relapse", 0) + 1
        self.world.note("fault", "relapse", host.name)
        host.light_fuse(self._more.randint(1, 4), power_loss=False, counts_syncs=True)
        self._relapsing[host.name] = None
        self._restart_later(host)

    async def _lie(self) -> None:
        lie = self.choices.choice(self.lies)
        self.played[lie] = self.played.get(lie, 0) + 1
        self.world.note("lie", lie)
        await tell_a_lie(self.liar_office, lie, self.choices)

    async def _carry(self) -> None:
        """Somebody writes a stick, or puts one in: late, twice, cut short, or at the wrong office."""
        choices = self._carrying
        with contextlib.suppress(HostDownError, Killed):
            if not self._sticks or (choices.random() < 0.6 and len(self._sticks) < STICKS_MAX):
                sender, receiver = choices.sample(self.offices, 2)
                await self._write_stick(sender, receiver)
                return
            stick = choices.choice(self._sticks)
            _, receiver, data = stick
            if choices.random() < 0.4:
                self._sticks.remove(stick)  # else it stays in the drawer and comes again
            if choices.random() < 0.25:
                data = data[: choices.randint(0, len(data))]
            if choices.random() < 0.15:
                receiver = choices.choice([stick[0], self.liar_office])
            await self._put_in(receiver, data)

    async def _write_stick(self, sender: OfficeHost, receiver: OfficeHost) -> None:
        if sender.host.life is None or sender.node is None:
            return
        life = sender.host.lives
        try:
            data = await sender.export_stick(receiver.name)
        except PolicyRefused as refused:
            self.world.note("stick", sender.name, refused.code)
            return
        except SalweenError as error:
            if sender.host.lives != life or sender.host.life is None:
                return
            raise Broken("I12", f"{sender.name} could not write a stick: {error.code}") from error
        self.played["stick"] = self.played.get("stick", 0) + 1
        self.world.note("stick", sender.name, len(data))
        self._sticks.append((sender, receiver, data))

    async def _put_in(self, office: OfficeHost, data: bytes) -> None:
        if office.host.life is None or office.node is None:
            return
        life = office.host.lives
        try:
            report = await office.import_stick(data)
        except MalformedInput:
            return  # cut short before its first envelope
        except SalweenError as error:
            if office.host.lives != life or office.host.life is None:
                return
            raise Broken("I12", f"{office.name} could not read a stick: {error.code}") from error
        self.played["stick_read"] = self.played.get("stick_read", 0) + 1
        self.world.note("stick_read", office.name, report["new"], report["seen"], report["missing"])
        if office is self.liar_office and report["new"]:
            raise Broken("I7", f"{office.name} took in what was sealed for somebody else")

    async def _roll_back(self, broker: BrokerHost) -> None:
        """F47: the broker goes back to what it was, high-water mark and all."""
        host = broker.host
        if host.life is None:
            return
        self._has_lied = True
        host.kill()
        point, now = self._rollback_points[host.name], disk_of(host).copy()
        self._rollback_points[host.name] = now
        self.put_disk(host, point.copy())
        await asyncio.sleep(self.choices.uniform(0.1, 20))
        await self._boot_again(host)

    async def _go_back_last(self) -> None:
        """F47 when no office starts again afterwards: what each believes of the broker it believes on."""
        await asyncio.sleep(LAST_WORD_S)
        self.played["rollback"] = self.played.get("rollback", 0) + 1
        await self._roll_back(self._any_broker())
        await asyncio.sleep(LAST_WORD_S)
        for office in self.offices:
            await self._send(office)

    async def _erase(self, broker: BrokerHost) -> None:
        """I17: its disks are gone but for its keys, and the operator begins again."""
        host = broker.host
        if host.life is None:
            return
        self._has_lied = True  # whoever was told "held" finds out at growing intervals
        host.kill()
        disk_of(host).erase(("/broker.db", "/broker.db-wal", "/broker.db.keycheck"))
        host.boot()
        await host.run(lambda env: begin_again(env, "broker"))
        self._rollback_points[host.name] = disk_of(host).copy()
        await self._boot_broker(broker)

    def _is_restarting(self, host: Host) -> bool:
        return host.name in self._restarts and not self._restarts[host.name].done()

    def _restart_later(self, host: Host) -> None:
        if self._is_restarting(host):
            return
        if host.name in self._restarts:
            self._restarts[host.name].result()  # a start that was refused is not forgotten over the next one

        async def restart() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.choices.uniform(20, 60)):
                    await host.down.wait()  # a fuse may take its time, or never be reached
            await asyncio.sleep(self.choices.uniform(0.05, 60))
            await self._boot_again(host)

        self._restarts[host.name] = asyncio.ensure_future(restart())

    async def _boot_again(self, host: Host) -> None:
        """Start until it stands: it may die in its recovery, and in the recovery from that."""
        while host.life is None:
            with contextlib.suppress(HostDownError, Killed):
                await self._boot(host, deadly=not self._calm)

    async def _boot(self, host: Host, *, deadly: bool = False) -> None:
        if deadly and host.name in self._relapsing:
            del self._relapsing[host.name]
            host.boot()
            host.light_fuse(self._more.randint(1, RELAPSE_OPERATIONS_MAX), power_loss=True)
        elif deadly and self.choices.random() < 0.2:
            host.boot()
            host.light_fuse(self.choices.randint(1, 30), power_loss=self.choices.random() < 0.6)
        for broker in self.brokers:
            if broker.host is host:
                await self._boot_broker(broker)
                return
        (office,) = (office for office in self.offices if office.host is host)
        await self.boot_office(office)
        await self._check_database(office)
        await self._look(office)

    def _note_tricks(self, liar: MaliciousBroker) -> None:
        for trick, times in liar.played.items():
            self.played[trick] = self.played.get(trick, 0) + times
        liar.played.clear()

    async def _boot_broker(self, broker: BrokerHost) -> None:
        host = broker.host
        if host.name in self.liars:
            self._note_tricks(self.liars[host.name])
        await self._up(host, broker.serve())
        assert broker.broker is not None
        of = "" if broker is self.broker else f"{host.name}/"
        choices = random.Random(f"{self.world.seed}/liar/{of}{host.lives}")
        liar = self.liars[host.name] = corrupt(broker.broker, choices)
        liar.tricks = self._tricks

    async def boot_office(self, office: OfficeHost) -> None:
        await self._up(office.host, office.serve())

    async def _up(self, host: Host, serve: Coroutine[Any, Any, None]) -> None:
        for office in (*self.offices, self.liar_office):
            if office.host is host:
                office.node = None
        if host.life is None:
            host.boot()
        try:
            await serve
        except SalweenError as error:
            if host.life is None:
                raise HostDownError(host.name) from error
            raise Broken("I12", f"{host.name} does not start: {error}") from error

    async def _check_database(self, office: OfficeHost) -> None:
        """I3, I9, and the published log."""
        node = office.node
        assert node is not None
        began_anew = office.name in self.witness.put_back
        found = await office.host.run(
            lambda env: node.database.read(lambda tx: contradictions(tx.execute, log_began_anew=began_anew))
        )
        if found:
            raise Broken("I9", f"{office.name}: {found[0]}")
        self.witness.saw_log(office.name, disk_of(office.host).content(), self._log_keys[office.name])


def _take(workers: Sequence["asyncio.Future[None]"]) -> None:
    for worker in workers:
        if worker.done():
            worker.result()


@contextlib.contextmanager
def _unless_erased() -> Iterator[None]:
    """It came due since the list was shown: then nobody reads it any more."""
    try:
        yield
    except PolicyRefused as refused:
        if refused.code != "alert_erased":
            raise


def alert_of(token: str, text: str, now_ms: int, *, lasts_ms: int | None = None) -> Alert:
    """``lasts_ms``: void and erased after this time."""
    return Alert(
        status="exercise",
        crime_type="drug_trafficking",
        urgency="expected",
        severity="severe",
        certainty="likely",
        source="B",
        information="2",
        handling="H0",
        tlp="amber",
        created_ms=now_ms,
        expires_ms=now_ms + (lasts_ms or 7 * DAY_MS),
        erase_at_ms=now_ms + (lasts_ms or 30 * DAY_MS),
        entities=(Vehicle(plate=token, colour="white"),),
        text=FreeText(language="en", text=text),
    )


def _log_key(files: dict[str, bytes]) -> bytes:
    """The Ed25519 key a log was pinned with, from the policy beside it: ``log name+hash+base64``."""
    import base64

    (policy,) = (data for path, data in files.items() if path.endswith("/policy"))
    line = next(line for line in policy.decode().splitlines() if line.startswith("log "))
    return base64.b64decode(line.split()[1].split("+", 2)[2])[1:]


assert EPOCH_MS > SETUP_BEFORE_MS
