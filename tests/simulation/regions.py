"""Schedules with two regions: each office has a broker of its own, and reaches the other's through it.

The faults, the healing and what must hold are those of ``schedule``; beside them the way between the brokers
is cut, slow, reset or gives no answers back, and tokens are taken away and made again. I23: no office ever
speaks to the other's broker, and what one broker is asked stands neither in what the other is asked nor on
its disk: no capability, no envelope, no part of a photo.
"""

import asyncio
import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Final

from broker.exchange import Exchange
from keys.errors import SalweenError, Unavailable
from protocol.requests import (
    AttachmentDelete,
    Forward,
    Op,
    PartGet,
    PartPut,
    Request,
    forwarding_token_hash,
    get_capability_hash,
    put_capability_hash,
)
from protocol.tokens import FORWARDING_PREFIX, parse_token_untrusted
from tests.node.test_routes import Region, bytes_in
from tests.simulation.checkers import Broken
from tests.simulation.daemons import BrokerHost, OfficeHost
from tests.simulation.disk import Killed
from tests.simulation.eavesdrop import all_of
from tests.simulation.loop import HOST
from tests.simulation.malice import TRICKS
from tests.simulation.schedule import (
    FAULTS,
    IDLE_WRITES_MAX,
    MINUTES,
    Paired,
    Schedule,
    SetUp,
    disks_after,
)
from tests.simulation.world import HostDownError, World

HOMES: Final = {"myitkyina": "east", "tengchong": "west"}
HOP_FAULTS: Final = ("hop_cut", "hop_deaf", "hop_slow", "hop_reset", "token", "token")
TOKEN_TRIES_MAX: Final = 20
NEEDLE_BYTES: Final = 32
ENVELOPES_REMEMBERED_MAX: Final = 40  # of each broker: looked for in everything the other was asked
ADDRESSES_KNOWN_S: Final = 15 * 60


@functools.cache
def two_regions() -> Paired:
    """Myitkyina at the broker east, Tengchong at west, each handing on to the other; once per process."""

    def set_up(world: World) -> SetUp:
        region = Region(world)

        async def work() -> None:
            await region.make()
            await region.pair_and_part()
            await asyncio.sleep(ADDRESSES_KNOWN_S)

        return [region.east, region.west], [region.here, region.there], work

    return disks_after(set_up)


class Overheard:
    """What one broker was asked: capabilities and pieces of what it keeps, and all it could read."""

    def __init__(self) -> None:
        self.secrets: dict[bytes, None] = {}
        self.pieces: dict[bytes, None] = {}
        self.read: list[bytes] = []  # beginnings of every run of bytes, the forwarded requests among them

    def note(self, op: Op) -> None:
        """One op that this broker opened."""
        self.read += [run[: 4 * 1024] for run in bytes_in(op)]
        if isinstance(op, Forward):
            return
        if isinstance(op, PartGet | AttachmentDelete):
            # A photo is asked for and deleted wherever the office has a mailbox: its read secret alone is
            # no capability.
            runs: Iterable[bytes] = [op.get_secret if isinstance(op, PartGet) else op.mailbox_secret]
        elif isinstance(op, PartPut):
            runs = [op.put_secret, op.write_secret, op.data]
        else:
            runs = bytes_in(op)
        for run in runs:
            if len(run) == NEEDLE_BYTES:
                self.secrets[run] = None
            elif len(run) >= 8 * NEEDLE_BYTES:
                self.pieces[run[4 * NEEDLE_BYTES : 5 * NEEDLE_BYTES]] = None

    def needles(self) -> list[bytes]:
        """What must not be known elsewhere, as it is told and as a broker would keep it."""
        hashed = [
            make(secret) for secret in self.secrets for make in (put_capability_hash, get_capability_hash)
        ]
        return [*self.secrets, *hashed, *list(self.pieces)[-ENVELOPES_REMEMBERED_MAX:]]


class RegionsSchedule(Schedule):
    """See the head of this file."""

    idle_writes_max = 3 * IDLE_WRITES_MAX  # polls are shorter, and go over two hops

    def __init__(
        self,
        seed: int,
        *,
        minutes: int = MINUTES,
        faults: tuple[str, ...] = (*FAULTS, *HOP_FAULTS),
        tricks: tuple[str, ...] = TRICKS,
    ) -> None:
        super().__init__(seed, minutes=minutes, faults=faults, tricks=tricks, lies=(), turns=())
        self._asked = {name: Overheard() for name in HOMES.values()}

    @classmethod
    def start(cls) -> Paired:
        return two_regions()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        opened = Exchange.open_untrusted

        def open_untrusted(exchange: Exchange, data: bytes) -> Request:
            request = opened(exchange, data)
            host = HOST.get()
            assert host is not None
            for op in request.ops:
                self._asked[host.name].note(op)
            return request

        Exchange.open_untrusted = open_untrusted  # type: ignore[method-assign, assignment]
        try:
            with super().watching():
                yield
        finally:
            Exchange.open_untrusted = opened  # type: ignore[method-assign]

    def _hear(self, host_name: str, to: str) -> None:
        super()._hear(host_name, to)
        for one, other in ((host_name, to), (to, host_name)):
            if HOMES.get(one, other) != other and other in HOMES.values() and self.witness.overheard is None:
                self.witness.overheard = Broken(
                    "I23", f"{one} and {other} speak without a broker between them"
                )

    # --- what goes wrong ------------------------------------------------------------------------------------

    async def _fault(self, fault: str) -> None:
        if fault not in HOP_FAULTS:
            await super()._fault(fault)
            return
        self.played[fault] = self.played.get(fault, 0) + 1
        self.world.note("fault", fault)
        network = self.world.network
        near, far = self.choices.sample([broker.host.name for broker in self.brokers], 2)
        match fault:
            case "hop_cut":
                network.cut(near, far, both_ways=True)
                await asyncio.sleep(self.choices.uniform(1, 120))
                network.heal()
            case "hop_deaf":
                # What was asked is done there, and the answers never come.
                network.cut(far, near, both_ways=False)
                await asyncio.sleep(self.choices.uniform(5, 90))
                network.reset_connections(near, far)
                network.heal()
            case "hop_slow":
                latency_s = self.choices.choice(((0.3, 3.0), (1.0, 12.0), (5.0, 25.0)))
                network.slow_hops = {(near, far): latency_s, (far, near): latency_s}
            case "hop_reset":
                network.reset_connections(near, far)
            case "token":
                office = self.choices.choice(self.offices)
                with contextlib.suppress(HostDownError, Killed):
                    await self._withdraw_token(office)
                await asyncio.sleep(self.choices.uniform(1, 120))
                await self._make_token(office)

    async def _heal(self) -> None:
        self.world.network.slow_hops = {}
        await super()._heal()
        await self._mend_tokens()

    async def _go_back_last(self) -> None:
        await super()._go_back_last()
        await self._mend_tokens()

    async def _mend_tokens(self) -> None:
        """A broker that lost its disk, or went back, knows no token of since; the office says whom to ask."""
        for office in self.offices:
            for _ in range(TOKEN_TRIES_MAX):
                if await self._is_token_good(office) or await self._make_token(office):
                    break
                await asyncio.sleep(30)

    def _home_of(self, office: OfficeHost) -> BrokerHost:
        return next(broker for broker in self.brokers if broker.host.name == HOMES[office.host.name])

    async def _token_hash(self, office: OfficeHost) -> bytes:
        node = office.node
        if node is None or office.host.life is None:
            raise HostDownError(office.host.name)
        sql = "SELECT token FROM route WHERE token IS NOT NULL"
        token: bytes = await office.host.run(lambda env: node.database.read(lambda tx: tx.value(sql)))
        return forwarding_token_hash(token)

    async def _is_token_good(self, office: OfficeHost) -> bool:
        token_hash, home = await self._token_hash(office), self._home_of(office)
        broker = home.broker
        assert broker is not None
        is_good: bool = await home.host.run(lambda env: broker.store.may_forward(token_hash))
        return is_good

    async def _withdraw_token(self, office: OfficeHost) -> None:
        """``salween-broker withdraw``: its operator takes back what this office has."""
        token_hash, home = await self._token_hash(office), self._home_of(office)
        broker = home.broker
        if home.host.life is None or broker is None:
            return
        await home.host.run(lambda env: broker.store.withdraw_standing_token("forwarding", token_hash))
        self.world.note("token_withdrawn", office.name)

    async def _make_token(self, office: OfficeHost) -> bool:
        """A new one, and ``salween-node routes add`` with it; whether that worked now."""
        home = self._home_of(office)
        (other,) = (broker for broker in self.brokers if broker is not home)
        node, life = office.node, office.host.lives
        if node is None or home.host.life is None or home.broker is None or office.host.life is None:
            return False
        try:
            token = parse_token_untrusted(await home.forwarding_token(), FORWARDING_PREFIX)
            name = other.host.name
            await office.host.run(lambda env: node.routes.add(other.address, home.address, name, token))
        except (HostDownError, Killed, Unavailable):
            return False
        except SalweenError as error:
            if office.host.lives != life or office.host.life is None:
                return False
            raise Broken("I12", f"{office.name} could not use a new token: {error.code}") from error
        self.world.note("token_made", office.name)
        return True

    # --- what must hold -------------------------------------------------------------------------------------

    async def _check_idle(self) -> None:
        await super()._check_idle()
        disks = {broker.host.name: await all_of(broker) for broker in self.brokers}
        for one, other in self.choices.sample([("east", "west"), ("west", "east")], 2):
            needles = self._asked[one].needles()
            own = b"\0".join(disks[one])
            if not any(needle in own for needle in needles):
                raise AssertionError(f"whoever looks at {one} sees nothing of what it was asked")
            for place, pieces in (("is asked for", self._asked[other].read), ("keeps", disks[other])):
                hay = b"\0".join(pieces)
                if any(needle in hay for needle in needles):
                    raise Broken("I23", f"{other} {place} what only {one} may know")
