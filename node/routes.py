"""Ways to brokers: straight over the network, or handed on by our own, so that the other never sees us.

Spec: docs/spec/broker.md#forwarding. One rule: an office with a route speaks to no broker straight but those
through which it goes, those where its own mailboxes were before, and those it was told to; what no way leads
to waits and says so. A failing route is never a reason to go straight.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from keys.brokercard import (
    BrokerAddress,
    BrokerCard,
    encode_broker_card,
    parse_broker_address_untrusted,
    parse_broker_card_untrusted,
    verify_broker_card,
)
from keys.errors import MalformedInput, PolicyRefused, Unavailable
from keys.secret import SecretBytes
from node.addresses import keep_card
from node.broker_link import BrokerClient, Line
from node.views import RouteView, WayView
from protocol import limits
from protocol.requests import Forward, Forwarded, OpRefused
from runtime.env import Env
from runtime.sqlite import Database, Snapshot, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    through: BrokerAddress | None
    name: str
    token: SecretBytes = field(repr=False)


class ForwardedLine:
    """A ``Line`` through another broker, which sees neither what is asked nor at which mailbox."""

    wait_ms_max = limits.FORWARD_WAIT_MS_MAX

    def __init__(self, client: BrokerClient, name: str, token: SecretBytes) -> None:
        """``client`` reaches the broker that hands on, and is this line's own."""
        self._client = client
        self._name = name
        self._token = token

    async def fetch_card(self) -> bytes:
        """See Line."""
        return await self._ask(b"", 0)

    async def carry(self, card: BrokerCard, body: bytes, *, wait_ms: int = 0) -> bytes:
        """See Line; what ``card`` says of TLS concerns the broker that hands on."""
        del card
        return await self._ask(body, wait_ms)

    async def close(self) -> None:
        """See Line."""
        await self._client.close()

    async def _ask(self, body: bytes, wait_ms: int) -> bytes:
        token = self._token.reveal()
        op = Forward(token=token, target=self._name, wait_ms=wait_ms, request=body)
        (result,) = await self._client.exchange([op])
        if isinstance(result, Forwarded):
            return result.answer
        raise _refused(result.code if isinstance(result, OpRefused) else "")


def _refused(code: str) -> Unavailable:
    match code:
        case "token_unknown":
            return Unavailable(
                "forward_refused", "Our broker does not know our forwarding token. Ask its operator."
            )
        case "not_found":
            return Unavailable(
                "forward_refused", "Our broker has no broker of that name on its list. Ask its operator."
            )
        case "busy":
            return Unavailable("broker_busy", "The brokers ask us to come back later.")
        case _:
            return Unavailable("forward_unreachable", "Our broker cannot reach the other broker now.")


class _NoLine:
    """Where nothing leads: everything waits."""

    wait_ms_max = limits.FORWARD_WAIT_MS_MAX

    async def fetch_card(self) -> bytes:
        raise Unavailable(
            "route_missing",
            "This office reaches foreign brokers through its own only, and has no route to this one."
            " See: salween-node routes add --help",
        )

    async def carry(self, card: BrokerCard, body: bytes, *, wait_ms: int = 0) -> bytes:
        del card, body, wait_ms
        return await self.fetch_card()

    async def close(self) -> None:
        return


class Routes:
    """The routes of one node, and the clients that take them. ``load`` first."""

    def __init__(self, env: Env, db: Database, *, changed: Callable[[str], Awaitable[None]]) -> None:
        """``changed`` is told the address of a broker that is reached otherwise from now on."""
        self._env = env
        self._db = db
        self._changed = changed
        self._routes: dict[str, _Route] = {}
        self._cards: dict[str, BrokerCard] = {}
        self._at_home: frozenset[str] = frozenset()  # brokers where we had a mailbox before any route

    async def load(self) -> None:
        """Read what the database holds."""
        self._routes, self._cards, self._at_home = await self._db.read(_read_all)

    def client(self, address: BrokerAddress, card: BrokerCard | None = None) -> BrokerClient:
        """A client of that broker, by whatever way leads there."""
        return BrokerClient(self._env, address, card, self._line(address))

    def views(self) -> Sequence[RouteView]:
        """Every route, as commands and pages show it."""
        return [
            RouteView(
                address=address,
                through=None if route.through is None else str(route.through),
                name=route.name or None,
            )
            for address, route in sorted(self._routes.items())
        ]

    def way(self, to: str, ours: str) -> WayView:
        """Which way mail goes to a mailbox at ``to``; our own for the same partner is at ``ours``."""
        address, route = parse_broker_address_untrusted(to), self._routes.get(to)
        broker = _host(address)
        if route is not None and route.through is not None:
            return WayView(kind="forwarded", broker=broker, through=_host(route.through), name=route.name)
        if to == ours:
            return WayView(kind="own", broker=broker)
        is_straight = route is not None or self._may_go_straight(address)
        return WayView(kind="straight" if is_straight else "none", broker=broker)

    async def add(self, to: str, through: str, name: str, token: SecretBytes) -> None:
        """Reach ``to`` through another broker from now on, if that works now.

        MalformedInput for an address; PolicyRefused ``route_to_itself``; Unavailable with the cause.
        """
        address, forwarder = parse_broker_address_untrusted(to), parse_broker_address_untrusted(through)
        if address == forwarder:
            raise PolicyRefused("route_to_itself", "A broker is not reached through itself.")
        if not name or len(name.encode()) > limits.CODE_BYTES_MAX:
            raise MalformedInput("route_name", "The name is the one on the forwarding broker's list.")
        line = ForwardedLine(BrokerClient(self._env, forwarder), name, token)
        try:
            data = await line.fetch_card()
            card = parse_broker_card_untrusted(data)
            verify_broker_card(card, address)
        finally:
            await line.close()
        await self._keep(str(address), encode_broker_card(card), (str(forwarder), name, token.reveal()))

    async def allow(self, to: str) -> None:
        """Speak to ``to`` straight although there are routes. MalformedInput for an address."""
        await self._keep(str(parse_broker_address_untrusted(to)), None, (None, None, None))

    async def remove(self, to: str) -> None:
        """Forget how ``to`` is reached. PolicyRefused ``route_unknown``."""
        address = str(parse_broker_address_untrusted(to))

        def forget(tx: Transaction) -> None:
            tx.execute("DELETE FROM route WHERE address = ?", (address,))
            if tx.changes() == 0:
                raise PolicyRefused("route_unknown", "There is no such route. See: salween-node routes list")

        await self._db.transact(forget)
        await self.load()
        await self._changed(address)

    async def _keep(
        self, address: str, card: bytes | None, way: tuple[str | None, str | None, bytes | None]
    ) -> None:
        now_ms = self._env.clock.now_ms()

        def keep(tx: Transaction) -> None:
            if card is not None:
                keep_card(tx, address, card)
            tx.execute(
                "INSERT OR REPLACE INTO route (address, through, name, token, since_ms)"
                " VALUES (?, ?, ?, ?, ?)",
                (address, *way, now_ms),
            )

        await self._db.transact(keep)
        await self.load()
        await self._changed(address)

    def _line(self, address: BrokerAddress) -> Line | None:
        route = self._routes.get(str(address))
        if route is not None and route.through is not None:
            card = self._cards.get(str(route.through))
            return ForwardedLine(BrokerClient(self._env, route.through, card), route.name, route.token)
        if route is not None or self._may_go_straight(address):
            return None
        return _NoLine()

    def _may_go_straight(self, address: BrokerAddress) -> bool:
        forwarders = {r.through for r in self._routes.values() if r.through is not None}
        return not forwarders or address in forwarders or str(address) in self._at_home


def _host(address: BrokerAddress) -> str:
    """host:port, as people name a broker."""
    return str(address).removeprefix("salween://").partition("#")[0]


def _read_all(
    tx: Snapshot,
) -> tuple[dict[str, _Route], dict[str, BrokerCard], frozenset[str]]:
    routes = {
        address: _Route(
            through=None if through is None else parse_broker_address_untrusted(through),
            name=name or "",
            token=SecretBytes(token or b""),
        )
        for address, through, name, token in tx.execute("SELECT address, through, name, token FROM route")
    }
    cards = {
        address: parse_broker_card_untrusted(card)
        for address, card in tx.execute("SELECT address, card FROM broker")
    }
    own = tx.execute("SELECT own_broker_address FROM peer UNION SELECT broker_address FROM mailbox")
    return routes, cards, frozenset(address for (address,) in own)
