"""Two running offices that do not know each other, and a broker with a token for whoever begins."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from demo.office import Office
from demo.stage import Stage


@asynccontextmanager
async def two_strangers(stage: Stage) -> AsyncIterator[tuple[Office, Office, str, str]]:
    """Two running offices, not paired, a broker's address and a token of it."""
    first, second = Office(stage, "Myitkyina BLO", "MM", "a"), Office(stage, "Tengchong BLO", "CN", "b")
    home = stage.directory / "broker"
    await stage.command("broker", "init", "--dir", home, "--port", "0", "--health-port", "0")
    broker = stage.daemon("broker", "broker", "run", "--dir", home, "--json")
    for office in (first, second):
        await office.init("Supervisor", "supervisor")
        await office.daemon.start()
    await broker.start()
    made = await stage.command("broker", "tokens", "--dir", home)
    yield first, second, broker.ready["address"], made["tokens"][0]
