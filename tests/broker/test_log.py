"""The broker's own log: one entry per deed, published, and verified by the auditors' command."""

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from protocol.requests import Get
from tests.broker.ends import ROOT, Client, House, an_envelope


async def verified(directory: Path, log_key: str) -> dict[str, Any]:
    """What ``salween-audit verify`` says of a published log."""
    policy = directory.parent / "policy"
    policy.write_text(f"log {log_key}\nquorum none\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "audit", "verify", str(directory), "--policy", str(policy), "--json"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    found: dict[str, Any] = json.loads(out)
    return found


async def test_each_deed_has_one_entry(house: House, office: Client) -> None:
    """Made, held, fetched, deleted: each once, whatever was repeated, joined by envelope hash and index."""
    mailbox = await office.make_mailbox(await house.token())
    notes = [await office.put(mailbox, an_envelope(house.env)) for _ in range(3)]
    await office.ask(mailbox.put(an_envelope(house.env, 16_384)))
    for _ in range(2):
        await office.list(mailbox)
        await office.ask(Get(get_secret=mailbox.get_secret, envelope_hash=notes[0].envelope_hash))
        await office.ask(mailbox.delete(notes[0].envelope_hash), mailbox.delete(notes[1].envelope_hash))
    await house.stop()
    report = await verified(house.directory / "log", house.made.log_key)
    entries = house.entries()
    assert report["size"] == len(entries)
    assert Counter(entry["t"] for entry in entries) == {
        "log.start": 1,
        "bk.box": 1,
        "bk.in": 4,
        "bk.out": 4,
        "bk.ack": 2,
    }
    taken = {entry["env"]: entry for entry in entries if entry["t"] == "bk.in"}
    for note in notes:
        entry = taken[note.envelope_hash.hex()]
        assert entry["seq"] == note.log_index
        assert entry["bucket"] == note.size_bytes
    for entry in entries:
        if entry["t"] in ("bk.out", "bk.ack"):
            assert taken[entry["env"]]["seq"] == entry["in"]
    assert all(entry["by"] == "mailbox-key" for entry in entries if entry["t"] == "bk.ack")


async def test_the_log_holds_no_capability_and_no_office(house: House, office: Client) -> None:
    """Pseudonyms and envelope hashes only: nothing published opens a mailbox."""
    mailbox = await office.make_mailbox(await house.token())
    await office.put(mailbox, an_envelope(house.env))
    await office.list(mailbox)
    await house.stop()
    published = b"".join(path.read_bytes() for path in (house.directory / "log").rglob("*") if path.is_file())
    secrets = (
        mailbox.put_secret,
        mailbox.get_secret,
        mailbox.put_hash,
        mailbox.get_hash,
        mailbox.key.public_bytes,
    )
    assert b"bk.in" in published
    for secret in secrets:
        assert secret not in published
        assert secret.hex().encode() not in published


async def test_an_item_is_either_promised_and_logged_or_neither(house: House, office: Client) -> None:
    """After many puts at once, the entries and the notes are the same set, each index used once."""
    mailbox = await office.make_mailbox(await house.token())
    notes = await asyncio.gather(*[office.put(mailbox, an_envelope(house.env)) for _ in range(60)])
    await house.stop()
    await verified(house.directory / "log", house.made.log_key)
    logged = {entry["seq"]: entry["env"] for entry in house.entries() if entry["t"] == "bk.in"}
    assert logged == {note.log_index: note.envelope_hash.hex() for note in notes}


async def test_a_broker_behind_its_own_log_promises_nothing(house: House, office: Client) -> None:
    """An old database put back is noticed at the start: puts are refused, reading goes on."""
    mailbox = await office.make_mailbox(await house.token())
    old = await office.put(mailbox, an_envelope(house.env))
    await house.stop()
    database = house.directory / "broker.db"
    backup = database.read_bytes()
    await house.start()
    await office.put(mailbox, an_envelope(house.env))
    await house.stop()
    database.write_bytes(backup)
    await house.start()
    assert house.broker is not None
    refusal = house.broker.log.refusal
    assert refusal is not None
    assert refusal.code == "log_rolled_back"
    listed = await office.list(mailbox)
    assert [item.envelope_hash for item in listed.items] == [old.envelope_hash]
    status, body = await office.post(office.sealed(mailbox.put(an_envelope(house.env))))
    assert (status, body) == (503, b"log_rolled_back\n")
