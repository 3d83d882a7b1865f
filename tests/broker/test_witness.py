"""The broker cosigns the log of an office that asks for it: as C2SP says, and no second history of a log."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from audit.note import NoteSigner, Verified, parse_note_untrusted, parse_vkey_untrusted, verify_note
from broker.control import withdraw_standing_token
from broker.setup import begin_again
from keys.secret import SecretBytes
from protocol import limits
from protocol.requests import Cosign, OpRefused, WitnessSays
from protocol.tokens import WITNESS_PREFIX, encode_token, parse_token_untrusted
from tests.audit.logs import a_signer
from tests.audit.test_witness import LOG, body, note_of, root
from tests.broker.ends import Client, House, command, connected, run_process

THIEF = NoteSigner(name=LOG.name, key=a_signer(seed=b"\x09").key)


def ask(token: bytes, data: bytes, signer: NoteSigner = LOG) -> Cosign:
    return Cosign(token=token, log_public=signer.log_key.public, body=data)


async def said(office: Client, op: Cosign) -> WitnessSays:
    """What the broker answers, which is never a refusal of the op itself here."""
    result = await office.ask_one(op)
    assert isinstance(result, WitnessSays), result
    return result


def verified(answer: WitnessSays, note: bytes) -> list[Verified]:
    """The lines of a 200 over the text that was asked about, under the keys that came with it."""
    assert answer.status == 200
    text = parse_note_untrusted(note).text
    whole = text.encode() + b"\n" + answer.body
    assert parse_note_untrusted(whole).encode() == whole
    return verify_note(parse_note_untrusted(whole), [parse_vkey_untrusted(key) for key in answer.keys])


def told(house: House) -> list[tuple[str, int, str]]:
    """What the broker's published log says of ours."""
    return [
        (entry["t"], entry["size"], entry.get("code", ""))
        for entry in house.entries()
        if entry["t"].startswith("wit.")
    ]


async def test_a_head_is_cosigned_under_both_keys_and_stands_in_the_brokers_log(
    house: House, office: Client
) -> None:
    """First with nothing held, then from there on; asked again about the same head it says the same."""
    token = await house.witness_token()
    for old, size in ((0, 7), (7, 12), (12, 12)):
        lines = verified(await said(office, ask(token, body("honest", old, size))), note_of("honest", size))
        assert [line.key.type_byte for line in lines] == [4, 6]
        assert {line.key.name for line in lines} == {"salween/broker/tested/witness1"}
        assert all(line.time_s is not None for line in lines)
    await house.stop()
    assert told(house) == [("wit.cosigned", 7, ""), ("wit.cosigned", 12, "")]
    heads = [entry["root"] for entry in house.entries() if entry["t"] == "wit.cosigned"]
    assert heads == [root("honest", 7).hex(), root("honest", 12).hex()]


async def test_statuses_are_those_of_c2sp_and_what_is_refused_is_kept_with_both_notes(
    house: House, office: Client
) -> None:
    """400, 403, 404, 409 with the size held and its note, 422: not cosigned, each fault entered once."""
    token = await house.witness_token()
    assert (await said(office, ask(bytes(32), body("honest", 0, 7)))) == WitnessSays(status=403)
    assert (await said(office, ask(token, b"old 0\n\nnonsense"))).status == 400
    assert (await said(office, ask(token, body("honest", 0, 7, THIEF)))).status == 403
    assert (await said(office, ask(token, body("honest", 3, 12)))).body == b"0\n"
    assert (await said(office, ask(token, body("honest", 0, 12)))).status == 200
    held = note_of("honest", 12)

    for data, status, answer, note in (
        (body("honest", 7, 20), 409, b"12\n", held),
        (body("honest", 3, 7), 409, b"12\n", held),
        (body("honest", 3, 7), 409, b"12\n", held),
        (body("fork", 12, 12), 409, b"12\n", held),
        (body("rewritten", 12, 20), 422, b"", b""),
        (body("rewritten", 12, 20), 422, b"", b""),
        (body("honest", 13, 12), 400, b"", b""),
        (body("honest", 12, 20, THIEF), 403, b"", b""),
        (body("honest", 0, 3, a_signer("test/other/log1")), 404, b"", b""),
    ):
        found = await said(office, ask(token, data))
        assert (found.status, found.body, found.note) == (status, answer, note)
        assert len(found.keys) == 2

    assert house.broker is not None
    (log,) = await house.broker.store.witnessed()
    assert (log.origin, log.size, log.root) == (LOG.name, 12, root("honest", 12))
    kept = [(each.code, each.size, each.offered, each.held) for each in log.refused]
    assert kept == [
        ("went_back", 7, note_of("honest", 7), held),
        ("other_root", 12, note_of("fork", 12), held),
        ("not_a_prefix", 20, note_of("rewritten", 20), held),
        ("bad_signature", 20, b"", held),
    ]
    verified(await said(office, ask(token, body("honest", 12, 20))), note_of("honest", 20))
    await house.stop()
    assert told(house) == [
        ("wit.cosigned", 12, ""),
        ("wit.refused", 7, "went_back"),
        ("wit.refused", 12, "other_root"),
        ("wit.refused", 20, "not_a_prefix"),
        ("wit.refused", 20, "bad_signature"),
        ("wit.cosigned", 20, ""),
    ]


async def test_a_token_is_good_for_one_log_and_a_log_has_one_token(house: House, office: Client) -> None:
    """Nobody has another's log held back to an older head, or its name cosigned under a key of his own."""
    token, other = await house.witness_token(), await house.witness_token()
    assert (await said(office, ask(token, body("honest", 0, 7)))).status == 200
    assert (await said(office, ask(other, body("honest", 7, 7)))).status == 404
    assert (await said(office, ask(other, body("fork", 0, 12, THIEF), THIEF))).status == 404
    assert house.broker is not None
    own = replace(LOG, name=house.broker.log.origin)
    assert (await said(office, ask(other, body("honest", 0, 7, own), own))).status == 404
    assert (await said(office, ask(other, body("honest", 0, 7, a_signer("test/~/log1"))))).status == 404
    assert await withdraw_standing_token(house.broker.store, encode_token(SecretBytes(token), WITNESS_PREFIX))
    assert (await said(office, ask(token, body("honest", 7, 12)))) == WitnessSays(status=403)
    # What was cosigned outlives the token: another one goes on from there, under the same key.
    assert (await said(office, ask(other, body("honest", 0, 12, THIEF), THIEF))).status == 404
    assert (await said(office, ask(other, body("fork", 0, 12)))).body == b"7\n"
    assert (await said(office, ask(other, body("honest", 7, 12)))).status == 200


async def test_a_death_between_keeping_and_answering_costs_one_question(
    house: House, office: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept is held after the next start; a fork of it is refused; the log is cosigned from there."""
    token = await house.witness_token()
    assert (await said(office, ask(token, body("honest", 0, 7)))).status == 200
    assert house.broker is not None

    def dies(op: Cosign, result: object) -> WitnessSays:
        raise RuntimeError("power cut")

    monkeypatch.setattr(house.broker.store._witness, "cosigned", dies)
    status, _ = await office.post(office.sealed(ask(token, body("honest", 7, 12))))
    assert status == 500
    await house.restart()
    async with house.client() as again:
        assert (await said(again, ask(token, body("fork", 7, 12)))).body == b"12\n"
        assert (await said(again, ask(token, body("honest", 7, 12)))).body == b"12\n"
        verified(await said(again, ask(token, body("honest", 12, 12))), note_of("honest", 12))
    await house.stop()
    assert told(house)[:2] == [("wit.cosigned", 7, ""), ("wit.cosigned", 12, "")]


async def test_a_broker_that_lost_its_memory_cosigns_under_other_keys(house: House, office: Client) -> None:
    """Else it would sign a second history of a log under the key that signed the first."""
    before = await said(office, ask(await house.witness_token(), body("honest", 0, 12)))
    await house.restart()
    assert house.broker is not None
    assert house.broker.store.witness_keys == before.keys
    await house.stop()
    (house.directory / "broker.db").rename(house.directory / "lost.db")
    await begin_again(house.env, house.directory)
    await house.start()
    async with house.client() as again:
        after = await said(again, ask(await house.witness_token(), body("fork", 0, 12)))
    assert after.status == 200
    assert not set(before.keys) & set(after.keys)


async def test_a_token_is_answered_sixty_times_an_hour(house: House, office: Client) -> None:
    """A log that asks without end fills neither ours nor the disk; an hour later it is answered again."""
    token = await house.witness_token()
    op = ask(token, b"old 0\n\nnonsense")
    answers = await office.ask(*[op] * (limits.WITNESSED_PER_HOUR_MAX + 1))
    assert answers[-1] == OpRefused(code="busy")
    assert OpRefused(code="busy") not in answers[:-1]
    house.clock.shift_ms += limits.HOUR_MS
    assert (await said(office, ask(token, body("honest", 0, 7)))).status == 200


async def test_the_operator_hands_out_lists_and_withdraws(tmp_path: Path) -> None:
    """The commands of the manual: token, keys for a policy file, what is held, both notes of what is not."""
    house = await House.build(tmp_path / "broker")
    running = await run_process(house.directory)
    code, out, _ = await command("tokens", "--dir", house.directory, "--witness", "--json")
    (text,) = json.loads(out)["tokens"]
    token = parse_token_untrusted(text, WITNESS_PREFIX).reveal()
    async with connected(house.env, running.address) as office:
        keys = (await said(office, ask(token, body("honest", 0, 12)))).keys
        await said(office, ask(token, body("fork", 12, 12)))
        await running.kill()
        code, out, _ = await command("witnessed", "--dir", house.directory, "--json")
        found = json.loads(out)
        assert (code, tuple(found["keys"])) == (0, keys)
        (log,) = found["logs"]
        assert (log["origin"], log["size"]) == (LOG.name, 12)
        (refused,) = log["refused"]
        assert refused["offered"].encode() == note_of("fork", 12)
        assert refused["held"].encode() == note_of("honest", 12)
    secret = tmp_path / "token"
    secret.write_text(text)
    secret.chmod(0o600)
    assert (await command("withdraw", "--dir", house.directory, "--token-file", secret))[0] == 0
