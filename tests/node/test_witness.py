"""Two offices cosign each other's logs: what is asked, answered, refused and shown, the cost when idle."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.fsck import verify
from audit.note import NoteSigner, Signature
from audit.policy import Policy, open_checkpoint_untrusted, parse_policy_untrusted
from audit.reader import PublishedLog
from audit.tree import Frontier, consistency_path, leaf_hash, subtree_root
from audit.witness import Request, read_head_untrusted, with_cosignatures
from keys.errors import PolicyRefused
from keys.primitives import Ed25519PrivateKey
from keys.secret import SecretBytes
from node.peers import load_peers
from node.views import EntryView, LogView
from node.witness import log_key_of, witness_keys_of
from protocol import limits
from protocol.items import LogItem, WitnessAnswer, WitnessKey, WitnessMemory, WitnessRequest
from protocol.requests import HeadAnswer, Op, Result
from runtime.sqlite import Transaction
from tests.audit.logs import files_of, read_entries
from tests.node.offices import Offices, alter_answers, an_alert, count, entries, node_of, play, read, write
from tests.node.test_hostile_peer import control
from tests.node.test_resets import back_up, restored
from tests.simulation.daemons import OfficeHost

HOUR_MS = 3600 * 1000


def log_of(office: OfficeHost) -> Path:
    """Its published files."""
    (found,) = office.host.disk.rglob("node/log/checkpoint")
    return found.parent


def published_files(office: OfficeHost) -> dict[Path, bytes]:
    """What its log has on the disk outside of the database, by path beside the log."""
    directory = log_of(office).parent
    files = (directory / "high-water", *files_of(directory / "log"))
    return {path.relative_to(directory): path.read_bytes() for path in files}


async def go_back(office: OfficeHost, size: int, kept: dict[Path, bytes]) -> None:
    """The whole disk as it was at that size, when these files were published; started again."""

    def wind_back(tx: Transaction) -> None:
        tx.execute("DELETE FROM leaf WHERE idx >= ?", (size,))
        tx.execute("DELETE FROM cp WHERE size > ?", (size,))
        tx.execute("DELETE FROM cosigner")

    await write(office, wind_back)
    office.host.kill()
    directory = log_of(office).parent
    for path in files_of(directory / "log"):
        path.unlink()
    for path, data in kept.items():
        (directory / path).write_bytes(data)
    await office.restart()


async def policy_for(owner: OfficeHost, witness: OfficeHost) -> Policy:
    """The owner's log, to be witnessed by the other: keys as the other and the owner pinned them."""
    (peer_of_witness,) = await read(witness, load_peers)
    (peer_of_owner,) = await read(owner, load_peers)
    return Policy(
        logs=(log_key_of(peer_of_witness),),
        witnesses={"partner": witness_keys_of(peer_of_owner)[0]},
        groups={},
        quorum="partner",
    )


def test_each_office_cosigns_the_others_log_within_minutes(tmp_path: Path) -> None:
    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(8 * 60)
        for owner, witness in ((here, there), (there, here)):
            report = verify(PublishedLog(str(log_of(owner))), await policy_for(owner, witness))
            assert report.verdicts == ["VERIFIED"], report.findings
            assert [name for name, _ in report.cosigners] == ["partner"]
            cosigned = await cosigned_by(witness, owner)
            assert cosigned[-1].fields["size"] == report.size
            assert cosigned[-1].fields["root"] == report.root.hex()
            assert await count(owner, "cosignature") == 0

    play(tmp_path, script)


def test_a_partner_that_was_away_catches_up(tmp_path: Path) -> None:
    """What grew meanwhile is asked about once, with one proof, and cosigned when it is back."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(10 * 60)
        there.host.kill()
        for number in range(4):
            await here.log_in()
            await here.send(an_alert(f"KA-{number}"))
            await asyncio.sleep(20 * 60)
        assert await count(here, "delivery", "service = 1 AND phase = 'held'") <= 5
        await there.restart()
        await asyncio.sleep(10 * 60)
        report = verify(PublishedLog(str(log_of(here))), await policy_for(here, there))
        assert report.verdicts == ["VERIFIED"], report.findings

    play(tmp_path, script)


async def cosigned_by(witness: OfficeHost, owner: OfficeHost) -> list[EntryView]:
    """What one office says in its log of the other's; a broker's heads stand there too."""
    told = await entries(witness, "wit.cosigned")
    return [entry for entry in told if entry.fields["origin"] == node_of(owner).log.origin]


async def cosigned_ms(office: OfficeHost) -> int:
    return int(await read(office, lambda tx: tx.value("SELECT cosigned_ms FROM cosigner")))


def a_request(office: OfficeHost, old_size: int, entries: list[bytes] | None = None) -> bytes:
    """A request of this office about a log that holds these entries, or about the one it published."""
    node = node_of(office)
    signer = node.log._signer
    if entries is None:
        note = (log_of(office) / "checkpoint").read_bytes()
        return Request(old_size=old_size, proof=(), note=note).encode()
    hashes = [leaf_hash(entry) for entry in entries]
    frontier = Frontier()
    for digest in hashes:
        frontier.append(digest)

    def perfect(height: int, i: int) -> bytes:
        return subtree_root(b"".join(hashes[i << height : (i + 1) << height]))

    head = Checkpoint(origin=signer.name, size=len(entries), root=frontier.root())
    proof = tuple(consistency_path(old_size, len(entries), perfect)) if old_size else ()
    return Request(old_size=old_size, proof=proof, note=sign_checkpoint(head, signer)).encode()


async def said(office: OfficeHost, asked: bytes, answers: list[WitnessAnswer]) -> WitnessAnswer:
    """What the other office answers to these bytes."""
    await control(office, WitnessRequest(body=asked), service=True)
    known = len(answers)
    await asyncio.sleep(120)
    assert len(answers) > known
    return answers[-1]


def overhear(office: OfficeHost) -> list[WitnessAnswer]:
    """Every answer this office is given from now on; it takes none of them in."""
    heard: list[WitnessAnswer] = []
    witnessing = node_of(office).witnessing
    witnessing.take_answer = lambda tx, peer, item: heard.append(item)  # type: ignore[method-assign]
    return heard


def test_a_log_that_is_rewritten_forked_or_wound_back_is_not_cosigned(tmp_path: Path) -> None:
    """409, 422 and 403 as C2SP says, each held against it once with both notes, and shown; a log that goes on
    honestly after that is cosigned on."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(10 * 60)
        answers = overhear(here)
        ours = read_entries(log_of(here), node_of(here).log.published.size)
        size = len(ours)
        (held,) = await read(there, lambda tx: tx.execute("SELECT size, note FROM witnessed_log"))
        assert held[0] == size
        before = len(await cosigned_by(there, here))

        older = await said(here, a_request(here, 2, ours[: size - 1]), answers)
        assert (older.status, older.held_size, older.cosignatures) == (409, size, ())
        assert older.note == held[1]  # our own signature: proof that we had signed more
        again = await said(here, a_request(here, 0), answers)
        assert (again.status, again.held_size) == (409, size)
        assert await entries(there, "wit.refused") == []

        turned = [*ours[:-2], ours[-1], ours[-2]]
        other = await said(here, a_request(here, size, turned), answers)
        assert (other.status, other.note) == (409, held[1])
        longer = await said(here, a_request(here, size, [*turned, b"{}"]), answers)
        assert (longer.status, longer.note) == (422, b"")
        await said(here, a_request(here, size, [*turned, b"{}"]), answers)
        stranger = a_request(here, size).replace(b"\xe2\x80\x94 ", b"\xe2\x80\x94 x", 1)
        assert (await said(here, stranger, answers)).status == 403
        assert (await said(here, b"old 0\n\nnonsense", answers)).status == 400

        refused = await entries(there, "wit.refused")
        assert [e.fields["code"] for e in refused] == ["other_root", "not_a_prefix", "bad_signature"]
        kept = await read(
            there, lambda tx: tx.execute("SELECT code, offered, held FROM witness_refusal ORDER BY number")
        )
        assert [code for code, _, _ in kept] == [e.fields["code"] for e in refused]
        key = node_of(here).log.key
        for (_, offered, known), entry in zip(kept[:2], refused, strict=False):
            assert read_head_untrusted(offered, key).root.hex() == entry.fields["root"]
            assert known == held[1]
        assert len(await cosigned_by(there, here)) == before
        await there.log_in()
        (view,) = await there.peers()
        assert view.witness is not None
        assert view.witness.their_refusal == "bad_signature"

        del node_of(here).witnessing.take_answer
        await here.log_in()
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(70 * 60)
        report = verify(PublishedLog(str(log_of(here))), await policy_for(here, there))
        assert report.verdicts == ["VERIFIED"], report.findings
        for office in (here, there):
            assert not node_of(office).failed.done()

    play(tmp_path, script)


def test_a_log_that_went_back_learns_it_from_its_witness_and_stays_read_only(tmp_path: Path) -> None:
    """409 with more entries and our own signature: nothing more is recorded or signed, nor after a start."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(10 * 60)
        size = node_of(here).log.published.size
        kept = published_files(here)
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(10 * 60)
        assert node_of(here).log.published.size > size
        (longest,) = await read(there, lambda tx: tx.execute("SELECT size FROM witnessed_log"))

        await go_back(here, size, kept)
        assert node_of(here).log.refusal is None  # the disk alone tells nothing
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(10 * 60)
        failed = node_of(here).failed
        assert failed.done()
        error = failed.exception()
        assert isinstance(error, PolicyRefused)
        assert error.code == "log_rolled_back"
        here.host.kill()
        with pytest.raises(PolicyRefused) as refused:  # no officer can log in, for that would be an entry
            await here.restart()
        assert refused.value.code == "log_rolled_back"
        assert f"entry {longest[0]}," in refused.value.detail
        assert await count(there, "witness_refusal") == 0

    play(tmp_path, script)


def test_an_office_that_asks_without_end_gets_sixty_answers_an_hour(tmp_path: Path) -> None:
    """A hostile partner fills neither our log nor anybody's mailbox."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(10 * 60)
        answers = overhear(here)
        before = len(await entries(there))
        ours = read_entries(log_of(here), node_of(here).log.published.size)
        for number in range(66):
            ours.append(b"%d" % number)
            await control(here, WitnessRequest(body=a_request(here, len(ours) - 1, ours)), service=True)
            await asyncio.sleep(10)
        await asyncio.sleep(600)
        assert 50 < len(await entries(there)) - before <= limits.WITNESSED_PER_HOUR_MAX
        assert len(answers) <= limits.WITNESSED_PER_HOUR_MAX + 2
        assert not node_of(there).failed.done()

    play(tmp_path, script)


@pytest.mark.parametrize("where", ["answer owed", "lines kept", "lines shown"])
def test_a_death_between_the_transaction_and_its_answer_loses_no_cosignature(
    tmp_path: Path, where: str
) -> None:
    """What was recorded is answered after the next start, once in the log; the files get their lines."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(30)
        if where == "lines shown":
            log = node_of(here).log
            real = log.add_cosignatures

            async def dies(size: int, lines: Sequence[Signature]) -> None:
                await real(size, lines)
                here.host.kill()
                await asyncio.sleep(1)

            log.add_cosignatures = dies  # type: ignore[method-assign,assignment]
            while here.host.life is not None:
                await asyncio.sleep(1)
        else:
            office, table = (there, "witness_answer") if where == "answer owed" else (here, "cosignature")
            prompt = "prompt = 1" if where == "answer owed" else "1 = 1"
            while not await count(office, table, prompt):
                await asyncio.sleep(0.05)
            office.host.kill()
        await asyncio.sleep(60)
        for office in (here, there):
            if office.host.life is None:
                await office.restart()
        await asyncio.sleep(10 * 60)
        report = verify(PublishedLog(str(log_of(here))), await policy_for(here, there))
        assert report.verdicts == ["VERIFIED"], report.findings
        sizes = [e.fields["size"] for e in await cosigned_by(there, here)]
        assert sizes == sorted(set(sizes))  # type: ignore[type-var]
        assert await count(here, "cosignature") == 0

    play(tmp_path, script)


def test_a_new_log_counts_only_with_a_reset(tmp_path: Path) -> None:
    """Else a log that was caught would begin anew by itself, with a word under the everyday key."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        (before,) = await read(there, lambda tx: tx.execute("SELECT log_origin, log_public FROM peer"))
        other = Ed25519PrivateKey.from_seed(SecretBytes(b"\x05" * 32)).public_bytes
        origin = before[0].rsplit("/log", 1)[0]
        item = LogItem(
            origin=f"{origin}/log9",
            log_public=other,
            witness_name=f"{origin}/witness9",
            witness_public=other,
        )
        await control(here, item)
        await asyncio.sleep(120)
        (after,) = await read(there, lambda tx: tx.execute("SELECT log_origin, log_public FROM peer"))
        assert after == before
        assert not node_of(there).failed.done()

    play(tmp_path, script)


def test_an_office_that_lost_state_cosigns_again_once_it_heard_what_it_had_cosigned(tmp_path: Path) -> None:
    """Its backup remembers less than it cosigned; how far its own log had been seen stands in the new one;
    both logs are cosigned under the new keys."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(10 * 60)
        await back_up(here)
        await there.send(an_alert("KA-1"))
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(15 * 60)
        origin = node_of(here).log.origin
        (seen,) = await read(there, lambda tx: tx.execute("SELECT size, root FROM witnessed_log"))
        (cosigned,) = await read(here, lambda tx: tx.execute("SELECT size FROM witnessed_log"))
        await restored(here)
        assert await count(here, "witness_hold") == 1
        assert await read(here, lambda tx: tx.value("SELECT size FROM witnessed_log")) < cosigned[0]
        await asyncio.sleep(60)
        assert await count(here, "witness_hold") == 0
        assert await read(here, lambda tx: tx.value("SELECT size FROM witnessed_log")) >= cosigned[0]
        await asyncio.sleep(90 * 60)
        (head,) = await entries(here, "backup.head")
        told = [head.fields[name] for name in ("origin", "size", "root")]
        assert told == [origin, seen[0], seen[1].hex()]
        for owner, witness in ((here, there), (there, here)):
            report = verify(PublishedLog(str(log_of(owner))), await policy_for(owner, witness))
            assert report.verdicts == ["VERIFIED"], report.findings

    play(tmp_path, script)


def test_a_hold_ends_with_our_own_signature_alone(tmp_path: Path) -> None:
    """A note that another key cosigned raises nothing; one whose cosignature was altered ends no hold."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(10 * 60)
        last = await read(here, lambda tx: tx.value("SELECT last FROM cosigner"))
        (held,) = await read(there, lambda tx: tx.execute("SELECT size, root, note FROM witnessed_log"))

        def lose(tx: Transaction) -> None:
            tx.execute("UPDATE witnessed_log SET size = 1")
            tx.execute("INSERT INTO witness_hold (peer) SELECT office_id FROM peer")

        await write(there, lose)
        await control(here, WitnessMemory(cosigned=last[:-20] + b"AAAA" + last[-16:], ended=b""))
        await asyncio.sleep(60)
        assert await count(there, "witness_hold") == 1
        text = last.decode().partition("\n\n")[0] + "\n"
        stranger = NoteSigner(name="x/y/witness1", key=Ed25519PrivateKey.from_seed(SecretBytes(b"\x05" * 32)))
        await control(
            here, WitnessMemory(cosigned=with_cosignatures(held[2], [stranger.cosign(text, 7)]), ended=b"")
        )
        await asyncio.sleep(60)
        assert await count(there, "witness_hold") == 0
        assert await read(there, lambda tx: tx.value("SELECT size FROM witnessed_log")) == 1
        await control(here, WitnessMemory(cosigned=last, ended=b""))
        await asyncio.sleep(60)
        assert await read(there, lambda tx: tx.value("SELECT size FROM witnessed_log")) == 1  # asked for once

    play(tmp_path, script)


def test_a_request_that_overtakes_the_memory_is_asked_again_at_once(tmp_path: Path) -> None:
    """Found by a schedule: a log stayed unwitnessed until its office's next heartbeat, up to an hour."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(10 * 60)
        hold = "INSERT INTO witness_hold (peer) SELECT office_id FROM peer"
        await write(there, lambda tx: tx.execute(hold))
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(5 * 60)
        before = await read(there, lambda tx: tx.value("SELECT size FROM witnessed_log"))
        last = await read(here, lambda tx: tx.value("SELECT last FROM cosigner"))
        await control(here, WitnessMemory(cosigned=last, ended=b""))
        await asyncio.sleep(5 * 60)
        assert await count(there, "witness_hold") == 0
        assert await read(there, lambda tx: tx.value("SELECT size FROM witnessed_log")) > before
        assert await read(here, lambda tx: tx.value("SELECT size FROM cosigner")) > before

    play(tmp_path, script)


def test_the_policy_beside_the_log_names_the_partners_and_asks_for_none(tmp_path: Path) -> None:
    """An auditor reads who cosigned up to where, and may ask for a quorum in a copy of it."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(8 * 60)
        data = (log_of(here).parent / "policy").read_bytes()
        report = verify(PublishedLog(str(log_of(here))), parse_policy_untrusted(data))
        assert report.verdicts == ["VERIFIED"], report.findings
        assert report.cosigned["Tengchong-BLO"][0] == report.size
        assert 0 < report.cosigned["Tengchong-BLO~2"][0] <= report.size  # ML-DSA-44
        wanted = parse_policy_untrusted(data.replace(b"quorum none", b"quorum partners"))
        assert verify(PublishedLog(str(log_of(here))), wanted).verdicts == ["VERIFIED"]
        there.host.kill()
        await here.log_in()
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(8 * 60)
        later = verify(PublishedLog(str(log_of(here))), wanted)
        assert later.verdicts == [f"UNWITNESSED-TAIL({later.size - report.size})"]
        assert later.cosigned["Tengchong-BLO"][0] == report.size

    play(tmp_path, script)


def test_what_no_partner_witnessed_is_late_after_a_while_and_then_said_loudly(tmp_path: Path) -> None:
    """In time, late after 15 minutes, UNWITNESSED after a day; in time again when the partner is back."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there

        async def log_view() -> LogView:
            return (await here.host.run(lambda env: node_of(here).desk.status())).log

        await asyncio.sleep(10 * 60)
        assert (await log_view()).witness == "ok"
        there.host.kill()
        await here.log_in()
        await here.send(an_alert("KA-1"))
        sent_ms = here.now_ms()
        await asyncio.sleep(10 * 60)
        assert (await log_view()).witness == "ok"
        await asyncio.sleep(10 * 60)
        late = await log_view()
        assert late.witness == "late"
        assert late.unwitnessed_since_ms is not None
        assert abs(late.unwitnessed_since_ms - sent_ms) < 60_000
        assert late.witnessed_size < late.size
        for host in (offices.broker.host, here.host, there.host):
            host.step_clock(limits.DAY_MS)
        await asyncio.sleep(60)
        assert (await log_view()).witness == "unwitnessed"
        await there.restart()
        await asyncio.sleep(15 * 60)
        assert (await log_view()).witness == "ok"

    play(tmp_path, script)


def test_a_log_is_cosigned_with_ml_dsa_once_an_hour_and_in_small_messages(tmp_path: Path) -> None:
    """The key comes first, under the everyday signature; then one head of each hour has both lines."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        for number in range(12):
            await here.log_in()
            await here.send(an_alert(f"KA-{number}"))
            await asyncio.sleep(15 * 60)
        policy = parse_policy_untrusted((log_of(here).parent / "policy").read_bytes())
        heads = [
            open_checkpoint_untrusted(path.read_bytes(), policy)
            for path in (log_of(here) / "archive").iterdir()
        ]
        both = [head for head in heads if len(head.cosigners) == 2]
        assert 3 <= len(both) <= 5, [len(head.cosigners) for head in heads]
        assert len([head for head in heads if head.cosigners]) >= 12
        assert await count(there, "witness_told") == 1
        sizes = await read(
            there, lambda tx: tx.execute("SELECT length(envelope) FROM delivery WHERE service = 1")
        )
        assert {size for (size,) in sizes if size is not None} <= {8192, 16384}
        assert sum(size == 16384 for (size,) in sizes) <= 2  # with the key itself

    play(tmp_path, script)


def test_the_first_post_quantum_key_of_an_epoch_stays(tmp_path: Path) -> None:
    """Another one under the same name, or one under another name, is not taken."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(10 * 60)

        async def keys() -> list[tuple[str, bytes]]:
            return await read(
                there,
                lambda tx: tx.execute(
                    "SELECT name, public FROM note_key WHERE type = 6"
                    " AND peer <> (SELECT office_id FROM office)"
                ),
            )

        (before,) = await keys()
        await control(here, WitnessKey(name=before[0], public=bytes(1312)))
        await control(here, WitnessKey(name="x/y/witness1", public=bytes(1312)))
        await asyncio.sleep(120)
        assert await keys() == [before]

    play(tmp_path, script)


def test_requests_that_were_under_way_together_are_no_refusal(tmp_path: Path) -> None:
    """Found by a schedule: two answers that only say what the witness holds were taken for a refusal."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(10 * 60)
        await write(here, lambda tx: tx.execute("UPDATE cosigner SET size = 0, held_size = 0"))
        for _ in range(3):
            await control(here, WitnessRequest(body=a_request(here, 0)), service=True)
            await asyncio.sleep(30)
        await asyncio.sleep(5 * 60)
        (known,) = await read(here, lambda tx: tx.execute("SELECT size, refused FROM cosigner"))
        assert known == (node_of(here).log.published.size, None)
        assert not await entries(there, "wit.refused")

    play(tmp_path, script)


def test_a_brokers_log_is_held_to_what_it_showed_before(tmp_path: Path) -> None:
    """Each office enters the broker's heads while its own log grows; a shorter one, or another history, is
    refused, entered once and told by the doctor; an idle office asks for none."""

    async def script(offices: Offices) -> None:
        here = offices.here
        broker = offices.broker.broker
        assert broker is not None
        lies: list[bytes] = []
        shown: list[bytes] = []

        def lie(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            shown.extend(result.body for result in results if isinstance(result, HeadAnswer))
            return [
                HeadAnswer(body=lies[0]) if lies and isinstance(result, HeadAnswer) else result
                for result in results
            ]

        alter_answers(here, lie)

        async def hour(number: int) -> list[EntryView]:
            await here.log_in()
            await here.send(an_alert(f"KA-{number}"))
            await asyncio.sleep(3700)
            told = await entries(here, "wit.cosigned", "wit.refused")
            return [entry for entry in told if entry.fields["origin"] == broker.log.origin]

        await hour(0)
        first, *_, last = await hour(1)
        assert last.kind == "wit.cosigned"
        (known,) = await read(here, lambda tx: tx.execute("SELECT size, root FROM broker_head"))
        assert (last.fields["size"], last.fields["root"]) == (known[0], known[1].hex())
        assert first.fields["size"] < known[0]
        asked = len(shown)
        await asyncio.sleep(3 * 3600)
        assert len(shown) - asked <= 1

        lies.append(shown[0])
        assert (await hour(2))[-1].fields["code"] == "went_back"
        count_before = len(await hour(3))
        signer = broker.log._signer
        (known,) = await read(here, lambda tx: tx.execute("SELECT size, root FROM broker_head"))
        head = Checkpoint(origin=signer.name, size=known[0] + 5, root=bytes(32))
        lies[0] = Request(old_size=known[0], proof=(bytes(32),), note=sign_checkpoint(head, signer)).encode()
        told = await hour(4)
        assert told[-1].fields["code"] == "not_a_prefix"
        assert len(told) == count_before + 1
        checks = await here.host.run(lambda env: node_of(here).doctor())
        assert any("not_a_prefix" in check["detail"] and not check["ok"] for check in checks)
        lies.clear()
        assert (await hour(5))[-1].kind == "wit.cosigned"

    play(tmp_path, script)
