"""A pair of offices with a broker between them, ready for a script."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from node.views import Session
from protocol.alert import Alert, Person
from tests.simulation.daemons import PIN, BrokerHost, OfficeHost, pair
from tests.simulation.test_first_light import an_alert
from tests.simulation.world import World

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


def a_victim_alert(name: str) -> Alert:
    """Needs two officers to release and a reason to open."""
    plain = an_alert("KA-1")
    return plain.model_copy(
        update={"crime_type": "human_trafficking", "entities": (Person(role="victim", name=name),)}
    )


__all__ = ["OFFICER_PIN", "PIN", "Offices", "a_victim_alert", "an_alert", "play"]
