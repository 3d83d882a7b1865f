"""The commands as an operator runs them, and the daemon under kill -9: real processes, real signals."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
from pathlib import Path

import aiohttp
import pytest

from broker.control import ask_running
from protocol.custody import Custody
from protocol.envelope import envelope_hash
from protocol.requests import OpRefused
from protocol.tokens import parse_token_untrusted
from tests.broker.ends import (
    BrokerProcess,
    Client,
    House,
    Mailbox,
    an_envelope,
    command,
    connected,
    end_processes,
    published_entries,
    run_process,
)
from tests.broker.test_log import verified


async def token_of(house: House) -> bytes:
    """A token through the control socket of the running process."""
    answer = await ask_running(house.env, house.directory, "POST", "/tokens", {"count": 1})
    assert answer is not None
    return parse_token_untrusted(answer["tokens"][0]).reveal()


@pytest.fixture
async def built(tmp_path: Path) -> House:
    """A broker directory with nobody in it."""
    return await House.build(tmp_path / "broker")


async def test_init_run_tokens_stats_stop(tmp_path: Path) -> None:
    """The whole life by the commands of the manual, as JSON; SIGTERM ends it with 0 and nothing left open."""
    directory = tmp_path / "broker"
    code, out, _ = await command("init", "--dir", directory, "--port", "0", "--health-port", "0", "--json")
    assert code == 0
    made = json.loads(out)
    assert directory.stat().st_mode & 0o777 == 0o700
    for name in ("broker.toml", "keystore", "unlock", "broker.db"):
        assert (directory / name).stat().st_mode & 0o777 == 0o600
    assert (await command("init", "--dir", directory))[0] == 1

    running = await run_process(directory)
    assert running.ready["ready"] is True
    assert running.ready["pid"] == running.process.pid
    assert running.ready["address"].endswith(made["fingerprint"])
    assert (directory / "control.sock").stat().st_mode & 0o777 == 0o600

    code, out, _ = await command("tokens", "--dir", directory, "--count", "3", "--json")
    tokens = json.loads(out)["tokens"]
    assert (code, len({parse_token_untrusted(token).reveal() for token in tokens})) == (0, 3)
    code, out, _ = await command("stats", "--dir", directory, "--json")
    stats = json.loads(out)
    assert (code, stats["running"], stats["token_uses_left"]) == (0, True, 12)
    code, out, _ = await command("doctor", "--dir", directory, "--json")
    assert (code, json.loads(out)["ok"]) == (0, True)

    running.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(running.process.wait(), 10) == 0
    assert not (directory / "control.sock").exists()
    code, out, _ = await command("stats", "--dir", directory, "--json")
    assert (code, json.loads(out)["running"], json.loads(out)["token_uses_left"]) == (0, False, 12)
    code, out, _ = await command("tokens", "--dir", directory, "--json")
    assert (code, len(json.loads(out)["tokens"])) == (0, 1)


async def test_sigint_is_as_graceful_and_the_port_stays(built: House) -> None:
    """Ctrl-C publishes the log and ends with 0; with port 0 the next start takes the same port again."""
    running = await run_process(built.directory)
    async with connected(built.env, running.address) as office:
        mailbox = await office.make_mailbox(await token_of(built))
        await office.put(mailbox, an_envelope(built.env))
    running.process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(running.process.wait(), 10) == 0
    assert [entry["t"] for entry in built.entries()] == ["log.start", "bk.box", "bk.in"]
    again = await run_process(built.directory)
    assert again.address == running.address
    await again.kill()


async def test_a_second_run_names_the_first(built: House) -> None:
    """Exit 75 with the pid; the first goes on undisturbed."""
    running = await run_process(built.directory)
    code, _, err = await command("run", "--dir", built.directory)
    assert code == 75
    assert f"process {running.process.pid} already works" in err
    async with connected(built.env, running.address):
        pass
    await running.kill()


async def test_a_port_in_use_is_named_with_what_to_do(tmp_path: Path) -> None:
    """Exit 75: which port, and two ways out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        house = await House.build(tmp_path / "broker", port=port)
        code, _, err = await command("run", "--dir", house.directory)
    assert code == 75
    assert f"port {port} of 127.0.0.1 is used by another program" in err
    assert "choose another port" in err
    assert "port_in_use" in err


async def test_what_cannot_start_says_why(built: House) -> None:
    """Unknown key, loose permissions, wrong passphrase, damaged keystore: each with its next step."""
    directory = built.directory
    config = (directory / "broker.toml").read_text()

    (directory / "broker.toml").write_text(config + "prot = 1\n")
    code, _, err = await command("run", "--dir", directory)
    assert (code, "prot: unknown key" in err, "config_invalid" in err) == (1, True, True)
    (directory / "broker.toml").write_text(config)

    (directory / "unlock").chmod(0o644)
    code, _, err = await command("run", "--dir", directory)
    assert (code, "chmod 600" in err) == (1, True)
    (directory / "unlock").chmod(0o600)

    wrong = directory.parent / "passphrase"
    wrong.write_text("not this one\n")
    wrong.chmod(0o600)
    code, _, err = await command("run", "--dir", directory, "--passphrase-file", wrong)
    assert (code, "keystore_wrong_passphrase" in err) == (1, True)

    keystore = (directory / "keystore").read_bytes()
    (directory / "keystore").write_bytes(keystore[:-7])
    code, _, err = await command("run", "--dir", directory)
    assert (code, "keystore_damaged" in err) == (2, True)
    (directory / "keystore").write_bytes(keystore)

    code, _, err = await command("run", "--dir", directory.parent / "nowhere")
    assert (code, "salween-broker init" in err) == (1, True)
    code, _, err = await command("run")
    assert code == 64

    running = await run_process(directory)
    await running.kill()


async def test_a_damaged_database_is_met_at_the_start(built: House) -> None:
    """Overwritten, cut off, missing: never served from, never replaced by an empty one."""
    running = await run_process(built.directory)
    async with connected(built.env, running.address) as office:
        mailbox = await office.make_mailbox(await token_of(built))
        await office.put(mailbox, an_envelope(built.env))
    running.process.send_signal(signal.SIGTERM)
    await running.process.wait()
    database = built.directory / "broker.db"
    whole = database.read_bytes()
    for damaged in (whole[:5000], whole[:8192] + bytes(64) + whole[8256:], b"\0" * len(whole), b""):
        database.write_bytes(damaged)
        code, _, err = await command("run", "--dir", built.directory)
        assert (code, "database_damaged" in err) == (1, True), err
        assert database.read_bytes() == damaged
    database.unlink()
    code, _, err = await command("run", "--dir", built.directory)
    assert (code, "database_missing" in err) == (1, True)
    assert not database.exists()
    database.write_bytes(whole)
    running = await run_process(built.directory)
    await running.kill()


async def test_a_passphrase_of_the_operators_own(tmp_path: Path) -> None:
    """With --passphrase-file nothing that opens the keys is left beside them."""
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse battery staple\n")
    passphrase.chmod(0o600)
    directory = tmp_path / "broker"
    flags = ("--dir", directory, "--passphrase-file", passphrase)
    assert (await command("init", *flags, "--port", "0", "--health-port", "0"))[0] == 0
    assert not (directory / "unlock").exists()
    assert (await command("stats", *flags))[0] == 0
    code, _, err = await command("stats", "--dir", directory)
    assert (code, "secret_file_missing" in err) == (1, True)


async def test_health_is_on_another_port_and_names_nobody(built: House) -> None:
    """/healthz, /readyz, /metrics on loopback; no metric or log line carries a capability or its hash."""
    running = await run_process(built.directory)
    async with connected(built.env, running.address) as office:
        mailbox = await office.make_mailbox(await token_of(built))
        note = await office.put(mailbox, an_envelope(built.env))
        await office.list(mailbox)
        await office.ask(Mailbox.new(built.env).put(an_envelope(built.env)))
        await office.post(bytes(1280))
        async with office.session.get(running.health + "/healthz") as response:
            assert response.status == 200
        async with office.session.get(running.health + "/readyz") as response:
            assert await response.json() == {"ready": True, "reasons": {}}
        async with office.session.get(running.health + "/metrics") as response:
            metrics = await response.text()
        async with office.session.get(
            running.health + "/metrics", headers={"Host": "evil.example"}
        ) as response:
            assert response.status == 421
    assert 'salween_broker_requests_total{outcome="malformed"} 1.0' in metrics
    assert 'salween_broker_operations_total{kind="put",result="done"} 1.0' in metrics
    assert 'salween_broker_operations_total{kind="put",result="gone"} 1.0' in metrics
    running.process.send_signal(signal.SIGTERM)
    await running.process.wait()
    said = metrics + (built.directory.parent / "broker.log").read_text()
    for secret in (
        mailbox.put_secret,
        mailbox.get_secret,
        mailbox.put_hash,
        mailbox.get_hash,
        note.envelope_hash,
    ):
        assert secret.hex() not in said
        assert repr(secret)[2:-1] not in said


async def putting(office_of: "Kept", mailbox: Mailbox, stop: asyncio.Event) -> None:
    """Put for ever; remember every envelope from before it leaves, and every note that came back."""
    while not stop.is_set():
        envelope = an_envelope(office_of.house.env)
        office_of.sent[envelope_hash(envelope)] = envelope
        while not stop.is_set():
            try:
                async with asyncio.timeout(5):
                    client = await office_of.client()
                    result = await client.ask_one(mailbox.put(envelope))
            except (aiohttp.ClientError, OSError, TimeoutError, AssertionError):
                await asyncio.sleep(0.02)
                continue
            assert isinstance(result, Custody), result
            office_of.promised[result.envelope_hash] = result
            break


class Kept:
    """What four clients know while the broker under them is killed again and again."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.sent: dict[bytes, bytes] = {}
        self.promised: dict[bytes, Custody] = {}
        self.running: BrokerProcess | None = None
        self.current: Client | None = None

    async def client(self) -> Client:
        assert self.current is not None
        return self.current


async def test_kill_minus_nine_loses_nothing_that_was_promised(built: House) -> None:
    """Four clients put, the broker is killed at random: each promised item is there once, and logged."""
    kept = Kept(built)
    chance = random.Random(built.directory.name)
    running = await run_process(built.directory)
    async with connected(built.env, running.address) as office:
        token = await token_of(built)
        boxes = [await office.make_mailbox(token) for _ in range(4)]
        kept.current = office
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for mailbox in boxes:
                group.create_task(putting(kept, mailbox, stop))
            for round_ in range(1, 6):
                while len(kept.promised) < 8 * round_:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(chance.uniform(0, 0.2))
                await running.kill()
                running = await run_process(built.directory)
            await asyncio.sleep(0.3)
            stop.set()
        found: dict[bytes, bytes | None] = {}
        for mailbox in boxes:
            cursor = 0
            while (listed := await office.list(mailbox, cursor)).items:
                for item in listed.items:
                    assert item.envelope_hash not in found
                    if item.envelope is None:
                        break
                    found[item.envelope_hash] = item.envelope
                    cursor = item.cursor
    for promised, note in kept.promised.items():
        assert found.get(promised) == kept.sent[promised], note
    assert all(found[item] == kept.sent[item] for item in found)
    running.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(running.process.wait(), 20) == 0
    await verified(built.directory / "log", built.made.log_key)
    logged = {
        entry["env"]: entry["seq"]
        for entry in published_entries(built.directory / "log")
        if entry["t"] == "bk.in"
    }
    assert len(logged) == len(found)
    for promised, note in kept.promised.items():
        assert logged[promised.hex()] == note.log_index


async def test_a_full_disk_refuses_before_it_breaks_a_promise(tmp_path: Path) -> None:
    """When a write fails the broker ends with 74, and keeps what it promised; with a reserve it says busy."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    small = tmp_path / "small"
    small.mkdir()
    assert os.system(f"mount -t tmpfs -o size=6m tmpfs {small}") == 0, "root cannot mount a tmpfs here"
    try:
        await fill_and_recover(small)
    finally:
        await end_processes()
        assert os.system(f"umount {small}") == 0


async def fill_and_recover(small: Path) -> None:
    """The story of one small disk."""
    house = await House.build(small / "broker", disk_reserve_bytes=0)
    running = await run_process(house.directory)
    promised: list[Custody] = []
    async with connected(house.env, running.address) as office:
        mailbox = await office.make_mailbox(await token_of(house))
        with contextlib.suppress(aiohttp.ClientError, AssertionError):
            while True:
                for result in await office.ask(
                    *[mailbox.put(an_envelope(house.env, 65_536)) for _ in range(4)]
                ):
                    assert isinstance(result, Custody)
                    promised.append(result)
    assert await asyncio.wait_for(running.process.wait(), 30) == 74
    assert "disk_full" in (small / "broker.log").read_text()
    assert len(promised) > 8
    # Room again: the same directory starts, and nothing promised is missing.
    assert os.system(f"mount -o remount,size=40m {small}") == 0
    running = await run_process(house.directory)
    async with connected(house.env, running.address) as office:
        held = {item.envelope_hash for item in (await office.list(mailbox)).items}
        assert {note.envelope_hash for note in promised} <= held
        # With a reserve, puts are refused while everything else still works.
        await running.kill()
        config = house.directory / "broker.toml"
        config.write_text(
            config.read_text().replace("disk_reserve_bytes = 0", f"disk_reserve_bytes = {2**30}")
        )
        running = await run_process(house.directory)
        assert await office.ask_one(mailbox.put(an_envelope(house.env))) == OpRefused(code="busy")
        await office.ask(mailbox.delete(promised[0].envelope_hash))
        async with office.session.get(running.health + "/readyz") as response:
            assert response.status == 503
            assert "disk_low" in (await response.json())["reasons"]
    await running.kill()
