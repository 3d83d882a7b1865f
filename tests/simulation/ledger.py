"""A small daemon pair that uses every part of ``runtime``: what the simulator's own tests run.

The keeper writes each number it is sent into an encrypted database and answers after the commit; the caller
sends numbers one after another and repeats what was not answered. No answered number may ever be missing.
"""

import asyncio
import contextlib
import functools
import sys
import tempfile
from pathlib import Path

import aiohttp
from aiohttp import web

from keys.secret import SecretBytes
from runtime.env import Env
from runtime.service import Daemon, DaemonOptions, guard_handlers, run_daemon
from runtime.sqlite import Migration, Transaction, open_database
from tests.simulation.world import World

KEY = bytes(range(32))
TABLES = Migration(
    component="ledger",
    number=1,
    name="numbers",
    sql="CREATE TABLE numbers (number INTEGER PRIMARY KEY, times INTEGER NOT NULL) STRICT;",
)
WRITE = "INSERT INTO numbers VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1"
READ = "SELECT number FROM numbers ORDER BY number"
DIRECTORY = "/var/lib/ledger"
POLL_S = 55.0
SENDERS = 6
GIVE_UP_S = 37.0


async def keeper(daemon: Daemon, *, is_hasty: bool = False) -> None:
    """The server: POST /put writes a number, GET /poll waits for nothing.

    A hasty one answers before its commit: the planted bug that the simulator must find.
    """
    env = daemon.env
    db = await open_database(
        env, f"{DIRECTORY}/ledger.db", SecretBytes(KEY), [TABLES], on_failure=daemon.fail
    )

    async def put(request: web.Request) -> web.Response:
        number = int(await request.text())

        def write(tx: Transaction) -> int:
            tx.execute(
                "INSERT INTO numbers VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1", (number,)
            )
            return int(tx.value("SELECT count(*) FROM numbers"))

        if is_hasty:
            daemon.spawn(db.transact(write), name="hasty")
            return web.Response(text="soon")
        return web.Response(text=str(await db.transact(write)))

    async def poll(_: web.Request) -> web.Response:
        await env.sleep(POLL_S)
        return web.Response(text="nothing new")

    app = web.Application(client_max_size=1024, middlewares=[guard_handlers(daemon)])
    app.router.add_post("/put", put)
    app.router.add_get("/poll", poll)
    listener = await env.network.serve_tcp(app, host="0.0.0.0", port=7440)
    daemon.announce_ready({"port": listener.port})
    try:
        await daemon.stop_requested()
    finally:
        await listener.close()
        await db.close()


class Caller:
    """The client: what it sent and what was answered survives it, as a test's own record."""

    def __init__(self) -> None:
        self.sent = 0
        self.answered: list[int] = []
        self.failures: dict[str, int] = {}

    async def run(self, env: Env) -> int:
        """Send numbers for ever; now and then give up all that is under way, as a link that is reset does."""
        async with env.network.client_session() as session:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with env.timeout(GIVE_UP_S), env.task_group() as tasks:
                        for number in range(SENDERS):
                            tasks.create_task(self._send(env, session), name=f"sender {number}")
                        tasks.create_task(self._poll(env, session), name="poller")

    async def _send(self, env: Env, session: aiohttp.ClientSession) -> None:
        while True:
            self.sent += 1
            number = self.sent
            while not await self._put(env, session, number):
                await env.sleep(0.5 + env.jitter())
            self.answered.append(number)
            await env.sleep(0.3 + env.jitter())

    async def _put(self, env: Env, session: aiohttp.ClientSession, number: int) -> bool:
        try:
            async with env.timeout(20), session.post("http://keeper:7440/put", data=str(number)) as answer:
                return answer.status == 200 and bool(await answer.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            name = type(error).__name__
            self.failures[name] = self.failures.get(name, 0) + 1
            return False

    async def _poll(self, env: Env, session: aiohttp.ClientSession) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with env.timeout(90), session.get("http://keeper:7440/poll") as answer:
                    await answer.read()
            await env.sleep(1)


class Outcome:
    """What a run of ``eventful`` came to."""

    def __init__(self, trace: str, caller: Caller, kept: list[int], lives: int) -> None:
        self.trace = trace
        self.caller = caller
        self.kept = kept
        self.lives = lives


def eventful(seed: int, directory: Path, *, minutes: int = 5, is_hasty: bool = False) -> Outcome:
    """Minutes of sending while the keeper is killed, loses power, is cut off and has its streams reset."""
    with World(seed=seed, directory=directory) as world:
        keeper_host, caller_host = world.host("keeper", skew_ms=86_400_000), world.host("caller")
        caller = Caller()
        options = DaemonOptions(name="ledger", directory=DIRECTORY, health_port=7442, strict_log=True)

        async def keep(env: Env) -> int:
            env.files.mkdir(DIRECTORY)
            return await run_daemon(env, functools.partial(keeper, is_hasty=is_hasty), options)

        async def script() -> list[int]:
            caller_host.start(caller.run)
            keeper_host.start(keep)
            for minute in range(minutes):
                await asyncio.sleep(20)
                match minute % 5:
                    case 0:
                        keeper_host.kill()
                        keeper_host.start(keep)
                    case 1:
                        world.network.reset_connections("keeper", "caller")
                    case 2:
                        world.network.cut("caller", "keeper", both_ways=minute % 2 == 0)
                        await asyncio.sleep(30)
                        world.network.heal()
                    case 3:
                        keeper_host.kill(power_loss=True)
                        await asyncio.sleep(25)
                        keeper_host.start(keep)
                    case 4:
                        assert await keeper_host.stop() == 0
                        keeper_host.start(keep)
                await asyncio.sleep(20)
            caller_host.kill()
            assert await keeper_host.stop() == 0
            keeper_host.boot()
            return await keeper_host.run(_numbers)

        kept = world.run(script())
        return Outcome(world.trace.hexdigest(), caller, kept, keeper_host.lives)


async def _numbers(env: Env) -> list[int]:
    db = await open_database(env, f"{DIRECTORY}/ledger.db", SecretBytes(KEY), [TABLES], create=False)
    try:
        return await db.read(lambda s: [row[0] for row in s.execute(READ)])
    finally:
        await db.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sys.stdout.write(eventful(int(sys.argv[1]), Path(place)).trace + "\n")
