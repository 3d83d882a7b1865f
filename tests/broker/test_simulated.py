"""The same broker on virtual time: weeks pass in seconds, machines die, and two runs are alike."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from broker.control import make_tokens
from broker.daemon import config_of, run_broker, with_store
from broker.identity import read_passphrase
from broker.setup import initialise
from keys.brokercard import BrokerAddress, broker_card_fingerprint
from protocol import limits
from protocol.requests import Created, Listed
from protocol.tokens import parse_token_untrusted
from runtime.env import Env
from runtime.service import DaemonOptions, run_daemon
from tests.broker.ends import CHEAP_KDF, Mailbox, an_envelope, card_shown, connected
from tests.simulation.world import Host, World

PORT = 7440
DIRECTORY = "/broker"


async def make(env: Env) -> bytes:
    """Make a broker on this host; a token for it."""
    values = {"name": "tested", "host": "0.0.0.0", "public_host": "broker", "port": PORT, "tls": True}
    await initialise(env, DIRECTORY, values, kdf=CHEAP_KDF)
    passphrase = read_passphrase(env, DIRECTORY, None)
    (text,) = await with_store(
        env, DIRECTORY, config_of(env, DIRECTORY), passphrase, lambda store: make_tokens(env, store, 1)
    )
    return parse_token_untrusted(text).reveal()


async def serve(env: Env) -> int:
    """What ``salween-broker run`` does."""
    config, passphrase = config_of(env, DIRECTORY), read_passphrase(env, DIRECTORY, None)
    options = DaemonOptions(name="salween-broker", directory=DIRECTORY, health_port=None, strict_log=True)
    return await run_daemon(env, lambda daemon: run_broker(daemon, passphrase, config), options)


async def story(world: World, broker: Host, office: Host) -> None:
    """One item goes in, the machine dies, the item is there; two weeks later it is not."""
    broker.boot()
    token = await broker.run(make)
    broker.kill()
    broker.start(serve)
    office.boot()
    await asyncio.sleep(5)

    async def put(env: Env) -> Mailbox:
        async with connected(env, await address(env), tls=True) as client:
            mailbox = Mailbox.new(env)
            assert await client.ask_one(mailbox.create(token)) == Created()
            await client.put(mailbox, an_envelope(env))
            return mailbox

    mailbox = await office.run(put)
    broker.kill(power_loss=True)
    broker.start(serve)
    await asyncio.sleep(5)

    async def listed(env: Env) -> int:
        async with connected(env, await address(env), tls=True) as client:
            return len((await client.list(mailbox)).items)

    assert await office.run(listed) == 1

    async def poll(env: Env) -> Listed:
        async with connected(env, await address(env), tls=True) as client:
            return await client.list(Mailbox.new(env), wait_ms=limits.LONG_POLL_MS_MAX)

    assert (await office.run(poll)).items == ()
    assert await office.run(dribble) == 408
    broker.kill()
    await asyncio.sleep(limits.MAILBOX_TTL_MS / 1000 + 60)
    broker.start(serve)
    await asyncio.sleep(5)
    assert await office.run(listed) == 0
    assert await broker.stop() == 0
    world.note("done")


async def dribble(env: Env) -> int:
    """Send a small request at a byte a second; the status it is ended with."""

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(limits.REQUEST_BYTES_MIN):
            yield b"x"
            await env.sleep(1)

    began_ms = env.clock.monotonic_ms()
    async with connected(env, await address(env), tls=True) as client:
        head = {"Content-Length": str(limits.REQUEST_BYTES_MIN)}
        async with client.session.post(client.url, data=slowly(), headers=head) as response:
            status = response.status
    assert env.clock.monotonic_ms() - began_ms < 15_000
    return status


async def address(env: Env) -> BrokerAddress:
    """Where the broker is; its card is believed here, an office has it from its operator."""
    card = await card_shown(env, f"https://broker:{PORT}/v1")
    return BrokerAddress(host="broker", port=PORT, card_sha256=broker_card_fingerprint(card))


def run(directory: Path, seed: int) -> str:
    with World(seed=seed, directory=directory) as world:
        world.run(story(world, world.host("broker"), world.host("office")))
        return world.trace.hexdigest()


def test_a_broker_lives_on_virtual_time(tmp_path: Path) -> None:
    """Death and power loss lose nothing promised, items end after two weeks, one seed is one run."""
    assert run(tmp_path / "one", 7) == run(tmp_path / "two", 7)
