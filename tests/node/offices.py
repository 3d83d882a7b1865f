"""A pair of offices with a broker between them, ready for a script."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from audit.fsck import verify
from audit.policy import single_log_policy
from audit.reader import PublishedLog
from audit.replay import replay
from node.broker_link import BrokerLink
from node.daemon import Node
from node.layout import DATABASE_NAME, LOG_NAME
from node.views import EntryView, Session
from protocol.alert import Alert, Person
from protocol.requests import Op, Result
from runtime.sqlite import Snapshot, Transaction
from tests.simulation.daemons import PIN, BrokerHost, OfficeHost, pair
from tests.simulation.test_first_light import an_alert
from tests.simulation.world import World

T = TypeVar("T")

OFFICER_PIN = "975310"


class Offices:
    """Myitkyina (supervisor 1, officer 2), Tengchong (supervisor 1), a broker, paired."""

    def __init__(self, world: World, *, skew_here_ms: int = 0, skew_there_ms: int = 0) -> None:
        self.world = world
        self.broker = BrokerHost(world)
        self.here = OfficeHost(world, "Myitkyina", "MM", skew_ms=skew_here_ms)
        self.there = OfficeHost(world, "Tengchong", "CN", skew_ms=skew_there_ms)

    async def make(self) -> None:
        """Everything up, paired, a second officer in Myitkyina."""
        await self.broker.make()
        await self.here.make()
        await self.there.make()
        await pair(self.broker, self.here, self.there)

    async def second_officer(self) -> Session:
        """Officer 2 of Myitkyina, logged in."""
        node = self.here.node
        assert node is not None
        await self.here.host.run(
            lambda env: node.add_officer(alias="Second", role="officer", pin=OFFICER_PIN)
        )
        return await self.here.host.run(lambda env: node.desk.login(2, OFFICER_PIN))


def play(
    directory: Path,
    script: Callable[[Offices], Awaitable[None]],
    *,
    seed: int = 1,
    **options: Any,
) -> None:
    """Run a script on a fresh pair of offices."""
    with World(seed=seed, directory=directory) as world:
        offices = Offices(world, **options)

        async def whole() -> None:
            await offices.make()
            await script(offices)

        world.run(whole())


async def settled(offices: Offices) -> None:
    """What a fresh pair says by itself arrived and is acknowledged: numbers can be counted from here on."""
    await asyncio.sleep(300)
    for office in (offices.here, offices.there):
        assert await count(office, "delivery", "service = 0 AND phase <> 'acknowledged'") == 0


def a_victim_alert(name: str) -> Alert:
    """Needs two officers to release and a reason to open."""
    plain = an_alert("KA-1")
    return plain.model_copy(
        update={"crime_type": "human_trafficking", "entities": (Person(role="victim", name=name),)}
    )


def node_of(office: OfficeHost) -> Node:
    """The node of a running office."""
    assert office.node is not None
    return office.node


def link_of(office: OfficeHost) -> BrokerLink:
    """Its link to the only broker."""
    (entry,) = node_of(office)._links.values()
    return entry.link


async def read(office: OfficeHost, look: Callable[[Snapshot], T]) -> T:
    """Something out of an office's database."""
    return await office.host.run(lambda env: node_of(office).database.read(look))


async def write(office: OfficeHost, change: Callable[[Transaction], T]) -> T:
    """Change an office's database behind its back, as a fault would."""
    return await office.host.run(lambda env: node_of(office).database.transact(change))


async def count(office: OfficeHost, table: str, where: str = "1 = 1") -> int:
    """Rows of a table."""
    found = await read(office, lambda tx: tx.value(f"SELECT count(*) FROM {table} WHERE {where}"))
    return int(found)


async def shown(office: OfficeHost) -> int:
    """Alerts in the inbox, whoever is logged in."""
    return await count(office, "alert", "incoming = 1 AND erased_ms IS NULL")


async def entries(office: OfficeHost, *kinds: str) -> list[EntryView]:
    """Log entries, oldest first, of these kinds or of all."""
    await office.log_in()
    session = office.session
    assert session is not None
    found: list[EntryView] = []
    before = None
    while True:
        page = await office.host.run(
            lambda env, before=before: node_of(office).desk.log_entries(session, before=before, count=500)  # type: ignore[misc]
        )
        found += page
        if not page or page[-1].index == 0:
            break
        before = page[-1].index
    return [e for e in reversed(found) if not kinds or e.kind in kinds]


def database_of(office: OfficeHost) -> Path:
    """Where its database lies on this machine."""
    (database,) = office.host.disk.rglob(f"node/{DATABASE_NAME}")
    return database


async def check_log(office: OfficeHost) -> None:
    """What it published verifies, and tells nothing that cannot be."""
    node = node_of(office)
    head = await office.host.run(lambda env: node.log.publish())
    published = PublishedLog(str(database_of(office).parent / LOG_NAME))
    assert not verify(published, single_log_policy(node.desk._log_key)).findings
    assert not replay(published, head.size).oddities


def alter_answers(
    office: OfficeHost, change: Callable[[Sequence[Op], tuple[Result, ...]], Sequence[Result]]
) -> None:
    """From now on a hostile broker: what the real one answers is altered before the office sees it."""
    client = link_of(office).client
    honest = client.exchange

    async def exchange(ops: Sequence[Op]) -> tuple[Result, ...]:
        return tuple(change(ops, await honest(ops)))

    client.exchange = exchange  # type: ignore[method-assign]


__all__ = [
    "OFFICER_PIN",
    "PIN",
    "Offices",
    "a_victim_alert",
    "alter_answers",
    "an_alert",
    "check_log",
    "count",
    "database_of",
    "entries",
    "link_of",
    "node_of",
    "play",
    "read",
    "settled",
    "shown",
    "write",
]
