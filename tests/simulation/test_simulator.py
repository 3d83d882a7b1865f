"""The simulator itself: the real aiohttp on virtual time, hosts that die, and runs that repeat."""

import asyncio
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from keys.secret import SecretBytes
from keys.tls import self_signed
from runtime.env import AnyCertificate, Env, TlsIdentity, TlsPin
from tests.simulation.disk import Killed
from tests.simulation.ledger import eventful
from tests.simulation.loop import StuckError
from tests.simulation.world import Host, HostDownError, World

LONG_POLL_S = 55.0
STEPS_A_POLL_MAX = 60  # of the event loop: a connection, a request, an answer and their timers
URL = "http://broker:7440"


def echo_app(env: Env) -> web.Application:
    """Answers at once, or after the long poll's time."""

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def poll(_: web.Request) -> web.Response:
        await env.sleep(LONG_POLL_S)
        return web.Response(text="nothing new")

    app = web.Application(client_max_size=4 * 1024 * 1024)
    app.router.add_post("/echo", echo)
    app.router.add_post("/poll", poll)  # aiohttp repeats a broken GET by itself, a POST never
    return app


async def serve(env: Env) -> int:
    await env.network.serve_tcp(echo_app(env), host="0.0.0.0", port=7440)
    await asyncio.Event().wait()
    return 0


async def post(env: Env, body: bytes) -> bytes:
    async with env.network.client_session() as session, session.post(f"{URL}/echo", data=body) as answer:
        return await answer.read()


async def long_poll(env: Env) -> str:
    async with env.network.client_session() as session, session.post(f"{URL}/poll") as answer:
        return await answer.text()


def run(
    directory: Path, script: Callable[[World, Host, Host], Coroutine[Any, Any, None]], *, seed: int = 1
) -> World:
    """A broker that serves, an office that is up, and a script."""
    with World(seed=seed, directory=directory) as world:
        broker, office = world.host("broker"), world.host("office")

        async def whole() -> None:
            broker.start(serve)
            office.boot()
            await asyncio.sleep(0.1)
            await script(world, broker, office)

        world.run(whole())
    return world


def test_two_hosts_exchange_requests_on_virtual_time(tmp_path: Path) -> None:
    """The real server and client talk over the network in memory; a long poll of 55 s costs no real time."""

    async def script(world: World, broker: Host, office: Host) -> None:
        large = bytes(range(256)) * 2048
        assert await office.run(lambda env: post(env, large)) == large
        before = world.loop.time()
        assert await office.run(long_poll) == "nothing new"
        assert LONG_POLL_S < world.loop.time() - before < LONG_POLL_S + 1

    run(tmp_path, script)


def test_two_idle_hours_pass_in_no_time(tmp_path: Path) -> None:
    """Two hours in which an office only polls are a few steps a poll, whatever time lies between them."""

    async def script(world: World, broker: Host, office: Host) -> None:
        async def poll_for_two_hours(env: Env) -> None:
            while env.clock.monotonic_ms() < 7_200_000:
                assert await long_poll(env) == "nothing new"

        await office.run(poll_for_two_hours)
        assert world.loop.time() > 7_000

    world = run(tmp_path, script)
    polls = 7_200 / LONG_POLL_S
    assert world.loop.steps < STEPS_A_POLL_MAX * polls


def test_a_body_arrives_whole_however_the_stream_is_cut(tmp_path: Path) -> None:
    """Chunk borders fall anywhere, windows fill and drain, and the bytes stay what they were."""

    async def script(world: World, broker: Host, office: Host) -> None:
        for size in (0, 1, 4096, 200_000, 900_000):
            body = office_bytes(size)
            assert await office.run(functools.partial(post, body=body)) == body

    for seed in range(5):
        run(tmp_path / str(seed), script, seed=seed)


def office_bytes(size: int) -> bytes:
    return bytes(i * 31 % 251 for i in range(size))


def test_reset_streams_fail_the_request_and_nothing_else(tmp_path: Path) -> None:
    """A stream that is broken in the middle of a poll is a client error; the next request works."""

    async def script(world: World, broker: Host, office: Host) -> None:
        poll = asyncio.ensure_future(office.run(long_poll))
        await asyncio.sleep(10)
        assert world.network.reset_connections("office", "broker") > 0
        with pytest.raises(aiohttp.ClientError):
            await poll
        assert await office.run(lambda env: post(env, b"again")) == b"again"

    run(tmp_path, script)


def test_what_a_partition_holds_back_arrives_when_it_heals(tmp_path: Path) -> None:
    """Cut off, a poll hangs and a new connection runs into its timeout; healed, the held answer arrives."""

    async def script(world: World, broker: Host, office: Host) -> None:
        poll = asyncio.ensure_future(office.run(long_poll))
        await asyncio.sleep(10)
        world.network.cut("broker", "office")
        with pytest.raises(TimeoutError):
            await office.run(lambda env: post(env, b"lost"))
        await asyncio.sleep(200)
        assert not poll.done()
        world.network.heal()
        assert await poll == "nothing new"

    run(tmp_path, script)


def test_a_killed_host_runs_no_finally_and_leaves_its_port(tmp_path: Path) -> None:
    """After kill -9 no code of that life runs, its peers see a broken stream, and it can start again."""
    ran: list[str] = []
    gate = asyncio.Event()

    async def doomed(env: Env) -> int:
        async def wake_later() -> None:
            await env.sleep(30)
            ran.append("woke by its timer")

        async def wait_at_gate() -> None:
            await gate.wait()
            ran.append("woke by somebody else")

        try:
            async with env.task_group() as tasks:
                tasks.create_task(wake_later())
                tasks.create_task(wait_at_gate())
                await serve(env)
        finally:
            ran.append("finally")
        return 0

    with World(seed=3, directory=tmp_path) as world:
        broker, office = world.host("broker"), world.host("office")

        async def script() -> None:
            broker.start(doomed)
            office.boot()
            await asyncio.sleep(1)
            poll = asyncio.ensure_future(office.run(long_poll))
            await asyncio.sleep(1)
            broker.kill()
            with pytest.raises(aiohttp.ClientError):
                await poll
            with pytest.raises(aiohttp.ClientConnectorError):
                await office.run(lambda env: post(env, b"nobody"))
            broker.start(serve)
            await asyncio.sleep(1)
            assert await office.run(lambda env: post(env, b"back")) == b"back"
            gate.set()
            await asyncio.sleep(3600)

        world.run(script())
        assert ran == []


def test_who_waits_for_a_killed_host_is_told(tmp_path: Path) -> None:
    """A script that waits for something inside a host hears that the host died."""

    async def script(world: World, broker: Host, office: Host) -> None:
        poll = asyncio.ensure_future(office.run(long_poll))
        await asyncio.sleep(1)
        office.kill()
        with pytest.raises(HostDownError):
            await poll

    run(tmp_path, script)


def test_a_host_without_power_says_nothing(tmp_path: Path) -> None:
    """After a power loss a poll hangs until its own timeout: no reset comes from a machine that is off."""

    async def script(world: World, broker: Host, office: Host) -> None:
        async def poll(env: Env) -> None:
            async with env.timeout(120):
                await long_poll(env)

        poll_task = asyncio.ensure_future(office.run(poll))
        await asyncio.sleep(1)
        broker.kill(power_loss=True)
        before = world.loop.time()
        with pytest.raises(TimeoutError):
            await poll_task
        assert world.loop.time() - before > 100

    run(tmp_path, script)


def test_files_outlive_a_kill_and_the_dead_cannot_touch_them(tmp_path: Path) -> None:
    """The next life finds the bytes of the moment of death, and a path of the dead life leads nowhere."""

    async def script(world: World, broker: Host, office: Host) -> None:
        assert office.life is not None
        dead = office.life.env
        dead.files.mkdir("/var/lib/x")
        dead.files.write_atomic("/var/lib/x/a", b"before")
        office.kill()
        office.boot()
        assert office.life.env.files.read("/var/lib/x/a") == b"before"
        with pytest.raises(Killed):
            dead.files.write_atomic("/var/lib/x/a", b"after")
        assert office.life.env.files.read("/var/lib/x/a") == b"before"

    run(tmp_path, script)


def test_only_the_pinned_certificate_is_spoken_to(tmp_path: Path) -> None:
    """TLS is modelled by its outcome: the pinned certificate connects, another does not, plain does not."""
    made = self_signed(seed=SecretBytes(bytes(32)), serial=bytes(16), common_name="broker", now_ms=0)
    identity = TlsIdentity(certificate_pem=made.certificate_pem, private_key_pem=made.private_key_pem)
    right = TlsPin(certificate_sha256=made.sha256)
    wrong = TlsPin(certificate_sha256=bytes(32))

    async def secure(env: Env) -> int:
        await env.network.serve_tcp(echo_app(env), host="0.0.0.0", port=7440, tls=identity)
        await asyncio.Event().wait()
        return 0

    async def ask(env: Env, pin: TlsPin | AnyCertificate | None, scheme: str) -> bytes:
        async with (
            env.network.client_session(tls_pin=pin) as session,
            session.post(f"{scheme}://broker:7440/echo", data=b"x") as answer,
        ):
            return await answer.read()

    with World(seed=4, directory=tmp_path) as world:
        broker, office = world.host("broker"), world.host("office")

        async def script() -> None:
            broker.start(secure)
            office.boot()
            await asyncio.sleep(1)
            assert await office.run(lambda env: ask(env, right, "https")) == b"x"
            assert await office.run(lambda env: ask(env, AnyCertificate(), "https")) == b"x"
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await office.run(lambda env: ask(env, wrong, "https"))
            with pytest.raises(aiohttp.ClientConnectorSSLError):
                await office.run(lambda env: ask(env, None, "http"))

        world.run(script())


def test_a_loop_that_never_waits_is_found(tmp_path: Path) -> None:
    """Steps without time passing end the run with a word, not with a hang; so does waiting for nothing."""

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async def wait_for_nothing() -> None:
        await asyncio.Event().wait()

    for script in (spin, wait_for_nothing):
        with World(seed=5, directory=tmp_path / script.__name__) as world, pytest.raises(StuckError):
            world.run(script())


def test_an_exception_that_nobody_took_fails_the_run(tmp_path: Path) -> None:
    """A callback that raises is not lost in a log."""

    async def script() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    with World(seed=6, directory=tmp_path) as world, pytest.raises(AssertionError, match="nobody took"):
        world.run(script())


@pytest.mark.parametrize("seed", range(3))
def test_no_answered_number_is_lost_whatever_happens(tmp_path: Path, seed: int) -> None:
    """Kills, power losses, cuts and resets for minutes: what the keeper answered stands in its database."""
    outcome = eventful(seed, tmp_path)
    assert len(outcome.caller.answered) > 500
    assert set(outcome.caller.answered) <= set(outcome.kept)
    assert set(outcome.kept) <= set(range(1, outcome.caller.sent + 1))
    assert outcome.lives == 5
    assert sum(outcome.caller.failures.values()) > 0


def test_an_answer_before_the_commit_is_found(tmp_path: Path) -> None:
    """The planted bug: a keeper that answers first loses an answered number within a few seeds."""
    for seed in range(12):
        outcome = eventful(seed, tmp_path / str(seed), is_hasty=True)
        if not set(outcome.caller.answered) <= set(outcome.kept):
            return
    pytest.fail("twelve seeds did not find it")


def test_one_seed_is_one_history(tmp_path: Path) -> None:
    """Two runs of one seed give one trace hash, another seed gives another; so too in another
    process with another allocator and another hash seed.
    """
    here = eventful(11, tmp_path / "one").trace
    assert eventful(11, tmp_path / "two").trace == here
    assert eventful(12, tmp_path / "three").trace != here
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.ledger", "11"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "4242", "PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == here
