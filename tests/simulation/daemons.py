"""The real broker and the real nodes as hosts of a simulated world.

Cheap key derivation is the only difference from a real start: the simulator has no seconds to spend on it.
Where the protocol fixes what a derivation costs, the key that came of the same input before is taken.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from broker.config import BrokerConfig, render_config
from broker.control import make_standing_tokens, make_tokens
from broker.daemon import Broker, config_of
from broker.identity import read_passphrase
from broker.setup import initialise as initialise_broker
from broker.store.base import StandingKind
from keys import rendezvous
from keys.errors import SalweenError
from keys.keystore import KdfParameters
from keys.primitives import argon2id
from keys.secret import SecretBytes
from node.daemon import Node
from node.layout import KdfProfile
from node.setup import initialise as initialise_node
from node.views import AlertRow, OutboxRow, PeerView, Session, Submitted
from protocol.alert import Alert
from protocol.release import Mode
from runtime.env import Env
from runtime.exits import DiskFailed
from tests.simulation.world import Host, HostDownError, World

T = TypeVar("T")


@functools.lru_cache(maxsize=256)
def _derived(passphrase: bytes, salt: bytes, **cost: int) -> bytes:
    return argon2id(SecretBytes(passphrase), salt, **cost).reveal()


def _argon2id_once(passphrase: SecretBytes, salt: bytes, **cost: int) -> SecretBytes:
    return SecretBytes(_derived(passphrase.reveal(), salt, **cost))


rendezvous.argon2id = _argon2id_once  # type: ignore[attr-defined]

CHEAP = KdfParameters(memory_kib=64, iterations=1, lanes=1)
CHEAP_PROFILE = KdfProfile(keystore=CHEAP, pin=CHEAP)
PASSPHRASE = b"one two three four"
PIN = "246813"
BROKER_PORT = 7440
STICK = "stick"  # where every stick is put in
OFFICER_WAITS_S = 900  # for the other officer, before he ends the command


class BrokerHost:
    """A broker that lives on a host."""

    def __init__(self, world: World, name: str = "broker") -> None:
        self.host: Host = world.host(name)
        self.broker: Broker | None = None
        self.address = ""

    async def make(self) -> None:
        """``salween-broker init`` and a first start."""
        self.host.boot()
        values = {"host": "0.0.0.0", "public_host": self.host.name, "port": BROKER_PORT, "tls": True}
        await self.host.run(lambda env: initialise_broker(env, "broker", values, kdf=CHEAP))
        await self.serve()

    async def restart(self) -> None:
        """A new life on the same disk."""
        self.host.boot()
        await self.serve()

    async def token(self) -> str:
        """A fresh operator token."""
        assert self.broker is not None
        store = self.broker.store
        (token,) = await self.host.run(lambda env: make_tokens(env, store, 1))
        return token

    async def forwards_to(self, **brokers: str) -> None:
        """The operator writes these brokers into broker.toml and starts it again."""
        broker = self.broker
        assert broker is not None

        async def write(env: Env) -> None:
            await broker.stop()
            config = config_of(env, "broker").model_copy(update={"forward": brokers})
            env.files.write_atomic("broker/broker.toml", render_config(config).encode())

        await self.host.run(write)
        await self.serve()

    async def forwarding_token(self) -> str:
        """A fresh forwarding token."""
        return await self._standing_token("forwarding")

    async def witness_token(self) -> str:
        """A fresh witness token."""
        return await self._standing_token("witness")

    async def _standing_token(self, kind: StandingKind) -> str:
        assert self.broker is not None
        store = self.broker.store
        (token,) = await self.host.run(lambda env: make_standing_tokens(env, store, kind, 1))
        return token

    async def serve(self) -> None:
        """``salween-broker run`` in a life that has begun."""

        async def start(env: Env) -> None:
            config: BrokerConfig = config_of(env, "broker")
            self.broker = Broker(env, "broker", config, read_passphrase(env, "broker", None))
            self.address = str((await self.broker.start()).address)

        await self.host.run(start)


class OfficeHost:
    """An office that lives on a host, with one supervisor and one officer."""

    def __init__(self, world: World, name: str, country: str, *, skew_ms: int = 0) -> None:
        self.name = name
        self.country = country
        self.host: Host = world.host(name.lower(), skew_ms=skew_ms)
        self.node: Node | None = None
        self.session: Session | None = None

    async def make(self) -> None:
        """``salween-node init`` and a first start."""
        self.host.boot()

        async def start(env: Env) -> None:
            await initialise_node(
                env,
                "node",
                passphrase=SecretBytes(PASSPHRASE),
                name=f"{self.name} BLO",
                country=self.country,
                alias="Duty",
                role="supervisor",
                pin=PIN,
                recovery_sheet="sheet",
                web_port=7441,
                health_port=0,
                kdf=CHEAP_PROFILE,
            )

        await self.host.run(start)
        await self.serve()

    async def restart(self) -> None:
        """A new life on the same disk."""
        self.host.boot()
        await self.serve()

    async def log_in(self) -> None:
        """The supervisor again, after the screen locked itself."""
        node = self.node
        if node is None:
            raise HostDownError(self.host.name)
        self.session = await self.host.run(lambda env: node.desk.login(1, PIN))

    def now_ms(self) -> int:
        """What this office's clock says."""
        assert self.host.life is not None
        return self.host.life.clock.now_ms()

    async def inbox(self) -> tuple[AlertRow, ...]:
        """What the desk shows."""
        return await self._at_desk(lambda node, session: node.desk.inbox(session))

    async def outbox(self) -> tuple[OutboxRow, ...]:
        """What the desk shows."""
        return await self._at_desk(lambda node, session: node.desk.outbox(session))

    async def peers(self) -> tuple[PeerView, ...]:
        """What the desk shows."""
        return await self._at_desk(lambda node, session: node.desk.peers(session))

    async def send(self, alert: Alert, to: str | None = None, photos: Sequence[str] = ()) -> Submitted:
        """To the only peer, or to the one whose name begins so; ``photos``: names of staged ones."""
        (peer,) = (peer for peer in await self.peers() if to is None or peer.name.startswith(to))
        return await self._at_desk(
            lambda node, session: node.desk.submit(session, alert, [peer.office_id], photos)
        )

    async def stage_photo(self, picture: bytes) -> str:
        """A picture put into the officer's form; its name there."""
        return await self._at_desk(lambda node, session: node.desk.stage_photo(session, picture))

    async def photo(self, alert_id: str, number: int) -> tuple[str, bytes]:
        """Type and bytes of a picture beside an alert that was opened."""
        return await self._at_desk(lambda node, session: node.desk.photo(session, alert_id, number))

    async def send_to(self, alert: Alert, names: Sequence[str], mode: Mode) -> Submitted:
        """To the peers of these names."""
        ids = [peer.office_id for peer in await self.peers() if peer.name.removesuffix(" BLO") in names]
        assert len(ids) == len(names)
        return await self._at_desk(lambda node, session: node.desk.submit(session, alert, ids, mode=mode))

    async def open_alert(self, alert_id: str) -> dict[str, object]:
        """The fields of an alert, opened by the officer on duty."""
        view = await self._at_desk(lambda n, s: n.desk.open_alert(s, alert_id, purpose="duty"))
        return view.fields

    async def export_stick(self, to: str) -> bytes:
        """``salween-node export --to PEER FILE``, and the stick taken out: what is on it."""

        async def export(env: Env) -> bytes:
            await self._verb("export", {"to": f"{to} BLO", "file": STICK, "force": True})
            data: bytes = env.files.read(STICK)
            env.files.remove(STICK)
            return data

        return await self.host.run(export)

    async def import_stick(self, data: bytes) -> dict[str, Any]:
        """``salween-node import FILE`` of a stick that holds this."""

        async def take(env: Env) -> dict[str, Any]:
            env.files.write_atomic(STICK, data)
            return await self._verb("import", {"file": STICK})

        return await self.host.run(take)

    async def _verb(self, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        if self.node is None:
            raise HostDownError(self.host.name)
        return await self.node.run_verb(verb, {"officer": 1, "pin": PIN, **params}, _Silence())

    async def serve(self) -> None:
        """``salween-node run`` in a life that has begun, and the supervisor logged in."""
        self.node = None  # nobody sits at the desk of the life before

        async def start(env: Env) -> None:
            node = await Node.open(env, "node", SecretBytes(PASSPHRASE), kdf=CHEAP_PROFILE)
            node.failed.add_done_callback(_report_fault)
            await node.start_links()
            await node.listen()
            self.session = await node.desk.login(1, PIN)
            self.node = node

        await self.host.run(start)

    async def _at_desk(self, ask: Callable[[Node, Session], Coroutine[Any, Any, T]]) -> T:
        node, session = self.node, self.session
        if node is None or session is None:
            raise HostDownError(self.host.name)  # it died meanwhile and is starting again
        return await self.host.run(lambda env: ask(node, session))


def _report_fault(failed: "asyncio.Future[None]") -> None:
    """A task that ended by a fault of ours; by what the world did to it, a node is down as it should be."""
    error = None if failed.cancelled() else failed.exception()
    if error is not None and not isinstance(error, SalweenError | DiskFailed | HostDownError):
        context = {"message": "a task of a node failed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)


class _Silence:
    """The channel of a command that asks nothing."""

    async def emit(self, event: dict[str, Any]) -> None:
        raise AssertionError(event)

    async def ask(self, event: dict[str, Any]) -> str:
        raise AssertionError(event)


class _Telephone:
    """One officer's end of a ceremony: reads its own code out, types what the other one reads."""

    def __init__(self, own: "asyncio.Queue[str]", other: "asyncio.Queue[str]") -> None:
        self._own = own
        self._other = other
        self.invitation: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def emit(self, event: dict[str, Any]) -> None:
        if event["event"] == "invitation":
            self.invitation.set_result(event["invitation"])

    async def ask(self, event: dict[str, Any]) -> str:
        await self._own.put(event["mine"])
        async with asyncio.timeout(OFFICER_WAITS_S):
            return await self._other.get()


class Screen:
    """One officer's end of a ceremony in person: shows its code, reads the other screen, knows the office."""

    def __init__(self) -> None:
        self.shown: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.other: Screen | None = None
        self.events: list[dict[str, Any]] = []
        self.recognises = "yes"
        self.replaces = "no"

    async def emit(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if event["event"] == "meeting-code" and not self.shown.done():
            self.shown.set_result(event["code"])

    async def ask(self, event: dict[str, Any]) -> str:
        await self.emit(event)
        if event["event"] == "recognise":
            return self.recognises
        if event["event"] == "replace":
            return self.replaces
        assert self.other is not None
        async with asyncio.timeout(OFFICER_WAITS_S):
            return await asyncio.shield(self.other.shown)


def two_screens() -> tuple[Screen, Screen]:
    """Side by side."""
    one, two = Screen(), Screen()
    one.other, two.other = two, one
    return one, two


async def meet(
    broker: BrokerHost, inviter: OfficeHost, joiner: OfficeHost, screens: tuple[Screen, Screen] | None = None
) -> tuple[Screen, Screen]:
    """The real ceremony in person, both ends at once; what both screens showed."""
    one, two = screens or two_screens()
    token = await broker.token()
    assert inviter.node is not None
    assert joiner.node is not None
    beginning, answering = inviter.node.meetings, joiner.node.meetings
    ends = (
        asyncio.ensure_future(inviter.host.run(lambda env: beginning.begin(broker.address, token, one))),
        asyncio.ensure_future(joiner.host.run(lambda env: answering.answer(two))),
    )
    for ended in await asyncio.gather(*ends, return_exceptions=True):
        if isinstance(ended, BaseException):
            raise ended
    return one, two


async def pair(broker: BrokerHost, inviter: OfficeHost, joiner: OfficeHost) -> None:
    """The real ceremony, both ends at once."""
    said_by_inviter: asyncio.Queue[str] = asyncio.Queue()
    said_by_joiner: asyncio.Queue[str] = asyncio.Queue()
    one = _Telephone(said_by_inviter, said_by_joiner)
    two = _Telephone(said_by_joiner, said_by_inviter)
    token = await broker.token()
    assert inviter.node is not None
    assert joiner.node is not None
    inviting, joining = inviter.node.ceremonies, joiner.node.ceremonies
    invited = asyncio.ensure_future(inviter.host.run(lambda env: inviting.invite(broker.address, token, one)))
    # Whoever is left alone when the other one is killed runs out of time later: that is nobody's failure.
    invited.add_done_callback(lambda done: done.cancelled() or done.exception())
    waits: list[asyncio.Future[Any]] = [invited, one.invitation]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    if invited.done():
        await invited
    invitation = await one.invitation
    await joiner.host.run(lambda env: joining.join(invitation, two))
    await invited
