"""What goes wrong on an office's machine: each a clear error with a stable code, and nothing lost.

Every refusal is provoked as it would happen, on real processes: it names what failed, why and what to do
next, exits with the code its caller acts on (runtime/exits.py), and once the cause is gone everything is
there as before.
"""

import asyncio
import json
import re
import secrets
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from demo.office import PageRefused, Pages
from keys.brokercard import parse_broker_address_untrusted
from keys.invitation import Invitation
from keys.secret import SecretBytes
from protocol.tokens import parse_token_untrusted
from tests.scenarios.world import World, delivered

pytestmark = pytest.mark.scenario


def flip(path: Path, at: int) -> None:
    """Turn every bit of one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


async def link_says(pages: Pages, reason: str, timeout_s: float = 15.0) -> dict[str, Any]:
    """Wait until the status page gives this reason for a broken link; the link as the page shows it."""
    link: dict[str, Any] = {}
    try:
        async with asyncio.timeout(timeout_s):
            while (link := (await pages.get("/status"))["link"])["reason"] != reason:
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"the link never said {reason}, but {link}") from None
    return link


async def test_a_wrong_pin_is_refused_and_slows_the_next_down(world: World) -> None:
    """At the pages and at the command alike; after three the officer waits, also over a restart."""
    office = world.sender
    await world.start(office.daemon)
    officer = office.officer("officer")
    wrong = "900142" if officer.pin != "900142" else "900143"

    ended = await world.run_node(
        office, "inbox", "--officer", str(officer.number), "--pin-file", world.pin_file(wrong), "--json"
    )
    assert (ended.exit_code, ended.error["code"]) == (1, "pin_wrong")
    for _ in range(2):
        pages = Pages(office.address, replace(officer, pin=wrong))
        with pytest.raises(PageRefused, match="three tries") as refused:
            await pages.login()
        await pages.close()
        assert refused.value.word == "pin_wrong"
    with pytest.raises(PageRefused) as locked:
        await office.pages()
    assert locked.value.word == "officer_locked", "the right PIN has to wait as well"
    await office.daemon.kill()
    await office.daemon.start()
    with pytest.raises(PageRefused) as locked:
        await office.pages()
    assert locked.value.word == "officer_locked", "a restart is no way round"


async def test_a_wrong_passphrase_opens_nothing_and_harms_nothing(world: World) -> None:
    """Exit 1: a person must look first; the right one opens it afterwards."""
    office = world.sender
    wrong = world.stage.secret_file("wrong.passphrase", "not the one of this office")
    ended = await world.run("node", "run", "--dir", office.directory, "--passphrase-file", wrong)
    assert ended.exit_code == 1
    assert "this passphrase does not open the keystore; try again [keystore_wrong_passphrase]" in ended.err
    await office.daemon.start()


async def test_a_damaged_keystore_is_named_and_a_copy_put_back_works(world: World) -> None:
    """Exit 2: unreadable, not a wrong passphrase, which nobody shall go on guessing."""
    office = world.sender
    keystore = office.directory / "keystore"
    whole = keystore.read_bytes()
    for at in (0, len(whole) // 2, len(whole) - 1):
        flip(keystore, at)
        ended = await world.run_node(office, "run")
        assert ended.exit_code == 2
        assert "the keystore file is damaged" in ended.err
        assert "put back the copy from the last backup" in ended.err
        assert "[keystore_damaged]" in ended.err
        keystore.write_bytes(whole)
    await office.daemon.start()


async def test_a_damaged_database_is_refused_and_left_as_evidence(world: World) -> None:
    """Exit 1 with what to do; the file is not touched, and the whole one starts again with every alert."""
    office = world.sender
    await world.start()
    sender = await office.pages()
    await sender.submit(world.form("KA-1"))
    await delivered(sender, 1)
    await office.daemon.stop()
    database = office.directory / "node.db"
    whole = database.read_bytes()
    for at in (100, len(whole) - 100):
        flip(database, at)
        damaged = database.read_bytes()
        ended = await world.run_node(office, "run")
        assert ended.exit_code == 1
        assert "[database_damaged]" in ended.err
        assert "restore" in ended.err
        assert database.read_bytes() == damaged
        database.write_bytes(whole)
    await office.daemon.start()
    assert len(await (await office.pages()).outbox()) == 1


async def test_unknown_keys_of_the_configuration_are_all_named_with_their_lines(world: World) -> None:
    """Exit 1, every fault at once: nobody starts a daemon five times to find five typing errors."""
    config = world.sender.directory / "node.toml"
    text = config.read_text()
    lines = len(text.splitlines())
    config.write_text(text + 'colour = "red"\nidle_lock_s = 1\n')
    ended = await world.run_node(world.sender, "run")
    assert ended.exit_code == 1
    assert f"line {lines + 1}, colour: unknown key" in ended.err
    assert f"line {lines + 2}, idle_lock_s: " in ended.err
    assert "Correct the file and start again" in ended.err
    assert "config_invalid" in ended.err


@pytest.mark.parametrize("key", ["web_port", "health_port"])
async def test_a_port_in_use_is_named_and_the_daemon_starts_when_it_is_free(world: World, key: str) -> None:
    """Exit 75: start me again; the supervisor does, and nobody has to come."""
    config = (world.sender.directory / "node.toml").read_text()
    found = re.search(rf"^{key} = ([0-9]+)", config, re.MULTILINE)
    assert found is not None
    with socket.create_server(("127.0.0.1", int(found[1]))):
        ended = await world.run_node(world.sender, "run")
    assert ended.exit_code == 75
    assert f"port {found[1]} of 127.0.0.1 is used by another program" in ended.err
    assert "choose another port" in ended.err
    assert "[port_in_use]" in ended.err
    await world.sender.daemon.start()


async def test_a_second_run_names_the_first_and_leaves_it_alone(world: World) -> None:
    """Exit 75 with the pid of the one that works there."""
    office = world.sender
    await world.start(office.daemon)
    ended = await world.run_node(office, "run")
    assert ended.exit_code == 75
    assert f"process {office.daemon.pid} already works in" in ended.err
    assert "[already_running]" in ended.err
    assert await (await office.pages()).outbox() == []


async def test_a_broker_that_is_down_is_said_in_words_and_caught_up_with(world: World) -> None:
    """The alert is kept, status and outbox say why it waits; it crosses when the broker is back."""
    await world.start(world.sender.daemon, world.receiver.daemon)
    pages = await world.sender.pages()
    sent = await pages.submit(world.form("KA-2"))
    assert sent["state"] == "released"
    link = await link_says(pages, "broker_down")
    assert link["state"] == "backing_off"
    assert "It is down or moved" in link["detail"]
    (row,) = await pages.outbox()
    assert (row["state"], row["recipients"][0]["next_try_ms"] is not None) == ("waiting", True)
    said, ended = await asyncio.gather(
        world.run_node(world.sender, "status"), world.run_node(world.sender, "doctor", "--json")
    )
    assert said.exit_code == 0
    assert "Nothing listens at the broker's address" in said.out
    assert ended.exit_code == 1
    (broker,) = [c for c in json.loads(ended.out)["checks"] if c["what"].startswith("broker")]
    assert broker["ok"] is False
    assert broker["detail"] == "broker_down"
    await world.broker.start()
    await delivered(pages, 1)
    assert (await pages.get("/status"))["link"]["state"] == "online"


async def test_another_broker_at_the_address_gets_nothing(world: World) -> None:
    """The link says whose key is wrong; when the right broker is back, what waited crosses."""
    impostor = world.stage.directory / "impostor"
    port = (world.broker_home / "port").read_text().strip()
    ended = await world.run(
        "broker", "init", "--dir", impostor, "--port", port, "--health-port", "0", "--json"
    )
    assert ended.exit_code == 0, ended.err
    wrong = world.stage.daemon("impostor", "broker", "run", "--dir", impostor, "--json")
    await world.start(wrong, world.sender.daemon, world.receiver.daemon)
    pages = await world.sender.pages()
    await pages.submit(world.form("KA-3"))
    link = await link_says(pages, "broker_wrong_key")
    assert link["state"] == "backing_off"
    assert "Another machine answers at the broker's address" in link["detail"]
    stats = json.loads((await world.run("broker", "stats", "--dir", impostor, "--json")).out)
    assert (stats["mailboxes"], stats["items"]) == (0, 0)
    await wrong.kill()
    await world.broker.start()
    await delivered(pages, 1)


async def test_an_invitation_is_good_once_and_not_for_long(world: World) -> None:
    """Mistyped, expired, out of place, and made with a token that is used up: one sentence each."""
    await world.start()
    address = world.broker.ready["address"]
    token = world.stage.secret_file("spent.token", world.template.spent_token)
    ended = await world.run_node(
        world.sender, "pair", "--invite", "--broker", address, "--token-file", token, "--json"
    )
    assert (ended.exit_code, ended.error["code"]) == (1, "token_unknown")
    assert "operator" in ended.error["detail"]

    expired = Invitation(
        broker_address=parse_broker_address_untrusted(address),
        secret=SecretBytes(secrets.token_bytes(16)),
        token=parse_token_untrusted(world.template.spent_token),
        expires_ms=time.time_ns() // 1_000_000 - 1,
    ).encode()
    for invitation, exit_code, code, next_step in (
        (expired, 1, "invitation_expired", "ask the other office for a new one"),
        (expired[:-1] + "abc"[expired.endswith("a")], 2, "invitation_mistyped", "copy it again"),
        ("hello", 2, "invitation_malformed", "an invitation begins with"),
    ):
        ended = await world.run_node(world.receiver, "pair", "--join", invitation, "--json")
        assert (ended.exit_code, ended.error["code"]) == (exit_code, code)
        assert next_step in ended.error["detail"]
    (peer,) = await (await world.receiver.pages()).get("/partners")
    assert peer["state"] == "active", "the pair that stands is not touched"
