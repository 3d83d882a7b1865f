"""Two countries, two brokers: each office speaks to its own alone; what each broker can know is looked at."""

import asyncio
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from broker.exchange import Exchange
from keys.errors import PolicyRefused, SalweenError, Unavailable
from keys.secret import SecretBytes
from node.peers import load_peers
from protocol import limits
from protocol.requests import Forward, Op, Put, Request, put_capability_hash
from protocol.tokens import FORWARDING_PREFIX, parse_token_untrusted
from tests.node.offices import an_alert, count, node_of, read, shown
from tests.simulation.daemons import BROKER_PORT, BrokerHost, OfficeHost, pair
from tests.simulation.network import VirtualTransport
from tests.simulation.world import World


class Region:
    """Myitkyina with the broker east, Tengchong with the broker west; who speaks to whom is kept."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.east, self.west = BrokerHost(world, "east"), BrokerHost(world, "west")
        self.here, self.there = OfficeHost(world, "Myitkyina", "MM"), OfficeHost(world, "Tengchong", "CN")
        self.spoken: set[tuple[str, str]] = set()
        self.seen: dict[str, list[Op]] = {"east": [], "west": []}

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on: who sends bytes to whom, and what each broker can open."""
        send = self.world.network.send

        def noted(sender: VirtualTransport, item: Any) -> None:
            self.spoken.add((sender.owner.name, sender.peer.owner.name))
            send(sender, item)

        monkeypatch.setattr(self.world.network, "send", noted)
        opened = Exchange.open_untrusted

        def open_untrusted(exchange: Exchange, data: bytes) -> Request:
            request = opened(exchange, data)
            name = next(
                host.host.name
                for host in (self.east, self.west)
                if host.broker is not None and host.broker._exchange is exchange
            )
            self.seen[name] += request.ops
            return request

        monkeypatch.setattr(Exchange, "open_untrusted", open_untrusted)

    async def make(self) -> None:
        """Everything up; each broker has the other on its list."""
        for broker in (self.east, self.west):
            await broker.make()
        for office in (self.here, self.there):
            await office.make()
        await self.east.forwards_to(west=self.west.address)
        await self.west.forwards_to(east=self.east.address)

    async def route(self, office: OfficeHost, through: BrokerHost, to: BrokerHost) -> None:
        """``salween-node routes add``."""
        token = parse_token_untrusted(await through.forwarding_token(), FORWARDING_PREFIX)
        name = to.host.name
        await office.host.run(
            lambda env: node_of(office).routes.add(to.address, through.address, name, token)
        )

    async def pair_and_part(self) -> None:
        """Pair at the eastern broker; then Tengchong reads at the western one."""
        await self.route(self.there, self.west, self.east)
        await pair(self.east, self.here, self.there)
        await self.route(self.here, self.east, self.west)
        token = parse_token_untrusted(await self.west.token())
        await self.there.host.run(
            lambda env: node_of(self.there).mailboxes.move(self.west.address, [token], [])
        )


def _bytes_in(value: object) -> Iterable[bytes]:
    """Every run of bytes a broker could read out of an op."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, str):
        yield value.encode()
    elif is_dataclass(value):
        for one in fields(value):
            yield from _bytes_in(getattr(value, one.name))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _bytes_in(one)


async def _secret_towards(office: OfficeHost) -> bytes:
    (peer,) = await read(office, load_peers)
    return peer.put_secret.reveal()


def test_neither_broker_knows_what_the_other_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts cross both ways. No office ever sends a byte to the foreign broker; the forwarding one never
    sees the mailbox, its capability or an envelope of the other; the other never sees who asked."""
    with World(seed=5, directory=tmp_path) as world:
        region = Region(world)

        async def script() -> None:
            region.watch(monkeypatch)
            await region.make()
            await region.pair_and_part()
            await asyncio.sleep(900)
            await region.here.log_in()
            await region.there.log_in()
            for number in range(3):
                await region.here.send(an_alert(f"KA-{number}"))
                await region.there.send(an_alert(f"YN-{number}"))
            await asyncio.sleep(900)
            assert (await shown(region.here), await shown(region.there)) == (3, 3)
            assert (
                await count(region.here, "delivery", "phase = 'acknowledged' AND alert_id IS NOT NULL") == 3
            )

            assert ("tengchong", "east") not in region.spoken
            assert ("myitkyina", "west") not in region.spoken
            assert {("tengchong", "west"), ("myitkyina", "east"), ("east", "west")} <= region.spoken

            put_secret = await _secret_towards(region.here)  # of Tengchong's mailbox in the west
            puts = [op for op in region.seen["west"] if isinstance(op, Put) and op.put_secret == put_secret]
            assert len(puts) >= 3
            forwarded = [op for op in region.seen["east"] if isinstance(op, Forward)]
            assert len(forwarded) >= 3
            hidden = {put_secret, put_capability_hash(put_secret), *(op.envelope for op in puts)}
            # What is looked for can be found where it may be.
            assert hidden & {run for op in region.seen["west"] for run in _bytes_in(op)}
            for op in region.seen["east"]:
                for run in _bytes_in(op):
                    assert not [secret for secret in hidden if secret in run]

        world.run(script())


def test_a_route_that_fails_is_no_reason_to_go_straight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forwarding broker is down for an hour, then its token is withdrawn: alerts wait with the cause in
    words, the foreign broker never hears of us, and everything crosses when the way is open again."""
    with World(seed=6, directory=tmp_path) as world:
        region = Region(world)

        async def script() -> None:
            await region.make()
            await region.pair_and_part()
            await asyncio.sleep(900)
            region.watch(monkeypatch)
            region.east.host.kill()
            await region.here.log_in()
            await region.here.send(an_alert("KA-1"))
            await asyncio.sleep(3600)
            assert await shown(region.there) == 0
            assert ("myitkyina", "west") not in region.spoken
            await region.east.restart()
            await asyncio.sleep(1200)
            assert await shown(region.there) == 1
            assert ("myitkyina", "west") not in region.spoken

        world.run(script())


def test_words_for_what_cannot_be_a_route(tmp_path: Path) -> None:
    """An unknown token or name, a broker through itself, one that is away: refused when added, and nothing is
    kept. With one route a foreign broker without one is not spoken to; by the operator's word it is."""
    with World(seed=7, directory=tmp_path) as world:
        region = Region(world)

        async def refused(to: str, through: str, name: str, token: SecretBytes) -> SalweenError:
            with pytest.raises(SalweenError) as caught:
                await region.here.host.run(
                    lambda env: node_of(region.here).routes.add(to, through, name, token)
                )
            return caught.value

        async def script() -> None:
            await region.make()
            routes = node_of(region.here).routes
            good = parse_token_untrusted(await region.east.forwarding_token(), FORWARDING_PREFIX)
            east, west = region.east.address, region.west.address
            for fault, code in (
                (await refused(west, east, "west", SecretBytes(bytes(32))), "forward_refused"),
                (await refused(west, east, "else", good), "forward_refused"),
                (await refused(west, west, "west", good), "route_to_itself"),
                (await refused(west, east, "", good), "route_name"),
                (await refused("nonsense", east, "west", good), "broker_address_malformed"),
            ):
                assert fault.code == code
            region.west.host.kill()
            assert (await refused(west, east, "west", good)).code == "forward_unreachable"
            assert routes.views() == []

            await region.west.restart()
            await region.route(region.here, region.east, region.west)
            third = BrokerHost(world, "third")
            await third.make()
            token = await third.token()
            with pytest.raises(Unavailable, match="no route to this one"):
                await pair(third, region.here, region.there)
            await region.here.host.run(lambda env: routes.allow(third.address))
            await pair(third, region.here, region.there)
            assert token

            # What the partners' page says of each.
            ways = [routes.way(to, east) for to in (east, west, third.address)]
            assert [(way.kind, way.through, way.name) for way in ways] == [
                ("own", None, None),
                ("forwarded", f"east:{BROKER_PORT}", "west"),
                ("straight", None, None),
            ]
            assert ways[1].broker == f"west:{BROKER_PORT}"
            (peer,) = await region.here.peers()
            assert (peer.way, peer.by_hand) == (replace(ways[2], kind="own"), 0)
            elsewhere = third.address.replace(f":{BROKER_PORT}", ":1")
            assert routes.way(elsewhere, east).kind == "none"

            await region.here.host.run(lambda env: routes.remove(west))
            with pytest.raises(PolicyRefused, match="no such route"):
                await region.here.host.run(lambda env: routes.remove(west))

        world.run(script())


def test_an_alert_to_several_goes_once_to_each_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two partners at our broker and two at the one behind it: one blob to each, forwarded or not."""
    with World(seed=6, directory=tmp_path) as world:
        region = Region(world)
        places = (("Boten", "LA"), ("Maesai", "TH"), ("Laocai", "VN"), ("Tengchong", "CN"))
        others = [OfficeHost(world, *place) for place in places[:3]] + [region.there]
        requests: list[tuple[Exchange, Request, int]] = []
        opened = Exchange.open_untrusted

        def open_untrusted(exchange: Exchange, data: bytes) -> Request:
            request = opened(exchange, data)
            requests.append((exchange, request, len(data)))
            return request

        async def script() -> None:
            await region.make()
            await region.route(region.here, region.east, region.west)
            for office, broker in zip(
                others, (region.east, region.east, region.west, region.west), strict=True
            ):
                if office is not region.there:
                    await office.make()
                await pair(broker, region.here, office)
            await asyncio.sleep(120)
            monkeypatch.setattr(Exchange, "open_untrusted", open_untrusted)
            await region.here.log_in()
            names = [place[0] for place in places]
            await region.here.send_to(an_alert("KA-1"), names, "shared")
            await asyncio.sleep(60)
            for office in others:
                await office.log_in()
                assert await shown(office) == 1
            for broker in (region.east, region.west):
                assert broker.broker is not None
                (size,) = (
                    size
                    for exchange, request, size in requests
                    if exchange is broker.broker._exchange
                    and len(puts := [op for op in request.ops if isinstance(op, Put)]) == 2
                    and puts[0].envelope[limits.BLOB_OFFSET_BYTES :]
                    == puts[1].envelope[limits.BLOB_OFFSET_BYTES :]
                )
                assert size < 2 * limits.ENVELOPE_BUCKETS_BYTES[0]

        world.run(script())
