"""Logs of real daemons held against each other: an honest history gives nothing, each forgery its verdict."""

import asyncio
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from audit.__main__ import Exit
from audit.custody import CustodyNotes, read_notes_untrusted
from audit.entry import encode_entry
from audit.fsck import verify
from audit.policy import single_log_policy
from audit.reader import PublishedLog
from audit.reconcile import Fate, Reconciled, authenticate, reconcile
from audit.tree import ENTRIES, Frontier, leaf_hash, tile_path
from demo.liar import Change, Entry, Party, claim, without
from keys.brokercard import parse_broker_address_untrusted
from keys.errors import MalformedInput
from tests.audit.logs import a_signer, decoded_root, flip, forge
from tests.audit.test_main import audit
from tests.simulation.daemons import BrokerHost, OfficeHost, pair
from tests.simulation.env import EPOCH_MS
from tests.simulation.malice import corrupt
from tests.simulation.test_first_light import an_alert
from tests.simulation.world import World

HOUR_S = 3600
HOUR_MS = HOUR_S * 1000
HOUR_US = HOUR_MS * 1000


@dataclass(frozen=True, slots=True)
class Three:
    """The logs of two offices and their broker, taken in one moment."""

    sender: Party
    receiver: Party
    broker: Party

    def judge(self, notes: CustodyNotes | None = None, **others: Party | None) -> Reconciled:
        parties = [others.get(name, getattr(self, name)) for name in ("sender", "receiver", "broker")]
        there = [party for party in parties if party is not None]
        policies = [single_log_policy(party.signer.log_key) for party in there]
        return reconcile([authenticate(str(party.directory), policies) for party in there], notes=notes)


@dataclass(frozen=True, slots=True)
class Logs(Three):
    notes: bytes
    """The sender's custody notes, as ``salween-node custody`` writes them."""
    address: str
    """The broker's."""
    lied_to: Three
    """Later: the broker flipped a bit of what it handed out, and played back what was long gone."""
    rolled_back: Party
    """The sender's after that, on an image of its disk of hours before, as it went on."""

    def read_notes(self, notes: bytes | None = None, address: str | None = None) -> CustodyNotes:
        pin = parse_broker_address_untrusted(address or self.address).card_sha256
        return read_notes_untrusted([notes or self.notes], {pin}, {})


class Always(random.Random):
    """Lies whenever it may, in the middle of an envelope."""

    def random(self) -> float:
        return 0.0

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return (start if stop is None else start + stop) // 2


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """Five alerts: a killed broker, restarts of both, a stick, a clock set ahead, hours offline.

    One of them is due for erasure after three hours, and erased at both.
    """
    home = tmp_path_factory.mktemp("reconcile")
    with World(seed=11, directory=home / "world") as world:
        broker = BrokerHost(world)
        here, there = OfficeHost(world, "Myitkyina", "MM"), OfficeHost(world, "Tengchong", "CN")

        async def script() -> Logs:
            await broker.make()
            await here.make()
            await there.make()
            await pair(broker, here, there)
            await here.send(an_alert("KA-1111"))
            times = {"expires_ms": EPOCH_MS + 2 * HOUR_MS, "erase_at_ms": EPOCH_MS + 3 * HOUR_MS}
            await here.send(an_alert("KA-5555").model_copy(update=times))
            await asyncio.sleep(HOUR_S)
            await here.log_in()
            there.host.kill()
            await here.send(an_alert("KA-2222"))
            await asyncio.sleep(HOUR_S)
            await there.restart()
            broker.host.kill()
            await here.log_in()
            await here.send(an_alert("KA-3333"))
            await asyncio.sleep(60)
            await there.import_stick(await here.export_stick("Tengchong"))
            await asyncio.sleep(HOUR_S)
            here.host.kill()
            shutil.copytree(here.host.disk, home / "image")
            await broker.restart()
            await here.restart()
            await asyncio.sleep(HOUR_S)
            here.host.step_clock(2 * HOUR_S * 1000)
            await asyncio.sleep(60)
            await here.log_in()
            await here.send(an_alert("KA-4444"))
            await asyncio.sleep(HOUR_S)
            await there.log_in()
            for row in await there.inbox():
                await there.open_alert(row.alert_id)
            await asyncio.sleep(HOUR_S)
            await here.log_in()
            await asyncio.sleep(600)
            honest = copies(home / "honest")
            messages = [entry["msg"] for entry in honest.sender.entries() if entry["t"] == "msg.custody"]
            notes = await here.host.run(lambda _: custody_notes(here, messages))
            await lie()
            lied_to = copies(home / "lied-to")
            here.host.kill()
            shutil.rmtree(here.host.disk)
            shutil.copytree(home / "image", here.host.disk)
            await here.restart()
            await here.send(an_alert("KA-9999"))
            await asyncio.sleep(600)
            return Logs(
                honest.sender,
                honest.receiver,
                honest.broker,
                notes=notes.encode(),
                address=broker.address,
                lied_to=lied_to,
                rolled_back=copies(home / "rolled-back").sender,
            )

        async def lie() -> None:
            assert broker.broker is not None
            liar = corrupt(broker.broker, Always())
            for trick in ("flip", "replay"):
                there.host.kill()
                await here.send(an_alert("KA-6666"))
                await asyncio.sleep(60)
                liar.tricks = (trick,)
                await there.restart()
                await asyncio.sleep(60)
                liar.tricks = ()
            await asyncio.sleep(HOUR_S)
            assert set(liar.played) == {"flip", "replay"}

        def copies(to: Path) -> Three:
            assert here.node is not None
            assert there.node is not None
            assert broker.broker is not None
            owners = {
                "sender": (here.host, here.node.log),
                "receiver": (there.host, there.node.log),
                "broker": (broker.host, cast(Any, broker.broker)._log),
            }
            for name, (host, _) in owners.items():
                (published,) = (path.parent for path in host.disk.rglob("log/checkpoint"))
                shutil.copytree(published, to / name)
            return Three(
                **{name: Party(to / name, cast(Any, log)._signer) for name, (_, log) in owners.items()}
            )

        return world.run(script())


async def custody_notes(office: OfficeHost, messages: list[str]) -> str:
    """``salween-node custody --out FILE MESSAGE...``"""
    said = await office._verb("custody", {"messages": " ".join(dict.fromkeys(messages))})
    return str(said["notes"])


def fates(answer: Reconciled) -> list[str]:
    return [each.fate.value for each in answer.judgements]


def labels(answer: Reconciled) -> set[str]:
    return {label for source in answer.sources for label in source.verdicts} | set(fates(answer))


def test_an_honest_history_gives_no_finding(logs: Logs) -> None:
    """Kills, restarts, an absent broker, a stick and a clock set ahead explain themselves."""
    answer = logs.judge()
    assert answer.is_clean, labels(answer)
    assert len(answer.judgements) > 8
    assert set(fates(answer)) <= {"CONSISTENT", "DUPLICATE-BLOCKED", "REORDERED", "ERASED-BOTH"}
    assert fates(answer).count("ERASED-BOTH") == 1
    assert "DUPLICATE-BLOCKED" in fates(answer), "the stick and the line brought one message twice"


def test_two_logs_without_the_brokers_say_what_cannot_be_told(logs: Logs) -> None:
    """No finding either, and the want is named."""
    answer = logs.judge(broker=None)
    assert answer.is_clean, labels(answer)
    assert any("without the broker's log" in words for words in answer.untold)
    alone = logs.judge(broker=None, receiver=None)
    assert alone.is_clean, labels(alone)
    assert set(fates(alone)) == {"IN-FLIGHT"}
    assert any("what it received" in words for words in alone.untold)


def first_alert(logs: Logs) -> tuple[str, str]:
    """Message and envelope of the first alert, which one sealing brought over."""
    entry = next(entry for entry in logs.sender.entries() if entry["t"] == "msg.seal")
    return entry["msg"], entry["env"]


def fate_of(answer: Reconciled, msg: str) -> list[Fate]:
    return [each.fate for each in answer.judgements if each.id == msg]


def detail_of(answer: Reconciled, msg: str) -> str:
    (detail,) = [each.detail for each in answer.judgements if each.id == msg]
    return detail


def shifted(us: int, where: Callable[[Entry], bool] = lambda _: True) -> Change:
    def change(entries: list[Entry]) -> list[Entry]:
        for entry in entries:
            if where(entry):
                entry["ts"] += us
                if entry["t"] == "clk.step":
                    entry |= {"from": entry["from"] + us, "to": entry["to"] + us}
        return entries

    return change


def seen_of(logs: Logs) -> int:
    """How many entries of the sender's log its partner cosigned, by the partner's log."""
    return max(
        int(entry["size"])
        for entry in logs.receiver.entries()
        if entry["t"] == "wit.cosigned" and entry["origin"] == logs.sender.signer.name
    )


def witnessed(logs: Logs, home: Path, *, size: int, root: bytes) -> Party:
    """The receiver's log with one more entry: it cosigned this of the sender's."""

    def change(entries: list[Entry]) -> list[Entry]:
        common = {key: entries[-1][key] for key in ("v", "bt", "mo", "ts", "z")}
        fields = {"t": "wit.cosigned", "origin": logs.sender.signer.name, "size": size, "root": root.hex()}
        return [*entries, common | fields | {"seq": len(entries)}]

    return logs.receiver.rewritten(home, change)


def swap_two(entries: list[Entry]) -> list[Entry]:
    """Two that were written at one time: neither clock nor table shows it."""
    at = next(
        at for at, one in enumerate(entries) if one["t"] == "msg.recv" and one["ts"] == entries[at + 1]["ts"]
    )
    entries[at], entries[at + 1] = entries[at + 1], entries[at]
    return entries


def told_anew(entries: list[Entry]) -> list[Entry]:
    return [entry | {"z": "11" * 16} for entry in entries]


REWRITINGS: dict[str, tuple[Callable[[list[Entry], int], list[Entry]], str]] = {
    "a01": (lambda entries, seen: entries[: seen - 1], "TRUNCATED"),
    "a03": (
        lambda entries, seen: [*entries[: seen - 1], *told_anew(entries[seen - 1 : seen]), *entries[seen:]],
        "FORKED",
    ),
    "a04": (lambda entries, seen: [*entries[: seen - 2], *entries[seen - 1 :]], "FORKED"),
    "a05": (lambda entries, _: swap_two(entries), "FORKED"),
    "a06": (lambda entries, seen: [*entries[: seen - 5], *told_anew(entries[seen - 5 :])], "FORKED"),
    "a09": (lambda entries, _: [*entries[:3], *told_anew(entries[2:3]), *entries[3:]], "FORKED"),
}
"""What an owner does to entries of which so many are cosigned: cut, rewrite, remove, swap, fork, insert."""


@pytest.mark.parametrize("name", REWRITINGS)
def test_a_witness_holds_what_was_rewritten(name: str, logs: Logs, tmp_path: Path) -> None:
    """A01, A03, A04, A05, A06, A09: what the partner really cosigned contradicts what is signed anew."""
    change, verdict = REWRITINGS[name]
    seen = seen_of(logs)
    sender = logs.sender.rewritten(tmp_path / "sender", lambda entries: change(entries, seen))
    answer = logs.judge(sender=sender)
    (log,) = [source for source in answer.sources if source.report.origin == sender.signer.name]
    assert verdict in log.verdicts
    assert any(str(seen) in words for words in log.details)


def test_a_fork_shows_against_a_checkpoint_that_somebody_kept(logs: Logs, tmp_path: Path) -> None:
    """A06 without the partner's log: a checkpoint of the other branch, kept anywhere, is enough."""
    policy = single_log_policy(logs.sender.signer.log_key)
    branch = logs.sender.rewritten(
        tmp_path / "branch", lambda entries: [*entries[:-5], *told_anew(entries[-5:])]
    )
    kept = (logs.sender.directory / "checkpoint").read_bytes()
    assert verify(PublishedLog(str(branch.directory)), policy).verdicts == ["VERIFIED"]
    assert verify(PublishedLog(str(branch.directory)), policy, known=[kept]).verdicts == ["FORKED"]


def test_an_office_that_goes_on_from_an_old_disk(logs: Logs) -> None:
    """A07: its high-water file is as old, so it goes on. The partner's log holds the other past."""
    answer = logs.judge(sender=logs.rolled_back)
    (log,) = [source for source in answer.sources if source.report.origin == logs.rolled_back.signer.name]
    assert "FORKED" in log.verdicts
    assert Fate.UNSOLICITED in {each.fate for each in answer.judgements}, "what it no longer knows it sent"


def test_what_is_written_late_with_an_old_time(logs: Logs, tmp_path: Path) -> None:
    """A09 at the end of the log, where nobody cosigned yet: time runs backwards there."""

    def late(entries: list[Entry]) -> list[Entry]:
        submit = next(entry for entry in entries if entry["t"] == "msg.submit")
        return [*entries, submit | {"msg": "77" * 16, "z": "22" * 16}]

    answer = logs.judge(sender=logs.sender.rewritten(tmp_path / "log", late))
    assert "CLOCK-SUSPECT" in labels(answer)


def test_a_bit_that_a_disk_flips_is_found_at_its_entry(logs: Logs, tmp_path: Path) -> None:
    """A20: in an entry, in a hash of it, in the checkpoint."""
    home, entries, at = logs.sender.directory, logs.sender.entries(), 40
    bundle, data = home / tile_path(ENTRIES, 0, len(entries)), encode_entry(entries[at])
    entry = bundle.read_bytes().index(data) + len(data) - 5
    for number, (place, bit, verdict) in enumerate(
        [
            (bundle, entry * 8, f"CORRUPT({at})"),
            (home / tile_path(0, 0, len(entries)), at * 256 + 3, f"CORRUPT({at})"),
            (home / "checkpoint", 8 * (len(logs.sender.signer.name) + 1), "BAD-SIGNATURE"),
        ]
    ):
        copy = tmp_path / str(number)
        shutil.copytree(home, copy)
        flip(copy / place.relative_to(home), bit)
        answer = logs.judge(sender=replace(logs.sender, directory=copy))
        assert verdict in labels(answer), (place, labels(answer))


def test_a_tile_that_was_edited_to_fit_its_entry(logs: Logs, tmp_path: Path) -> None:
    """A21: without the key no root fits: from the last checkpoint before it on nothing holds."""
    entries = logs.sender.entries()
    entries[40] |= {"z": "00" * 16}
    copy = tmp_path / "log"
    shutil.copytree(logs.sender.directory, copy)
    forge(copy, [encode_entry(entry) for entry in entries])
    answer = logs.judge(sender=replace(logs.sender, directory=copy))
    places = [int(label[8:-1]) for label in labels(answer) if label.startswith("CORRUPT(")]
    assert max(places) == 40


def test_a_witness_that_signs_two_roots_shows(logs: Logs, tmp_path: Path) -> None:
    """A22: its own log contradicts itself, whether the other log is here or not."""
    twice = witnessed(logs, tmp_path / "twice", size=seen_of(logs), root=b"\x01" * 32)
    assert "FORKED" in labels(logs.judge(receiver=twice, sender=None))


def cut_at_last_alert(logs: Logs, home: Path) -> tuple[Party, Party, str]:
    """The sender's log up to its newest alert, the receiver's before it cosigned more, and that alert."""
    last = [entry for entry in logs.sender.entries() if entry["t"] == "msg.submit"][-1]

    def is_later(entry: Entry) -> bool:
        name = logs.sender.signer.name
        is_of_sender = entry["t"] == "wit.cosigned" and entry["origin"] == name
        return is_of_sender and int(entry["size"]) > int(last["seq"])

    return (
        logs.sender.rewritten(home / "sender", lambda entries: entries[: last["seq"]]),
        logs.receiver.rewritten(home / "receiver", without(is_later)),
        last["msg"],
    )


def test_a_tail_that_only_the_peer_saw_is_missed(logs: Logs, tmp_path: Path) -> None:
    """A02, cut where nobody cosigned: what the receiver took in of it shows."""
    sender, receiver, msg = cut_at_last_alert(logs, tmp_path)
    for broker in (logs.broker, None):
        answer = logs.judge(sender=sender, receiver=receiver, broker=broker)
        assert fate_of(answer, msg) == [Fate.UNSOLICITED]
        assert "TRUNCATED" in labels(answer)


def test_a_tail_that_only_the_broker_saw(logs: Logs, tmp_path: Path) -> None:
    """A02, and the receiver hides it too: the broker took in what no log explains, and that is said."""
    sender, receiver, msg = cut_at_last_alert(logs, tmp_path)
    office = sender.signer.name.rpartition("/log")[0]

    def unexplained(answer: Reconciled) -> int:
        found = [words for words in answer.untold if words.startswith(f"of {office}: after its log ends")]
        return int(found[0].split(" took in ")[1].split()[0]) if found else 0

    told = unexplained(logs.judge(sender=sender, receiver=receiver))
    hiding = receiver.rewritten(tmp_path / "hiding", without(lambda entry: entry.get("msg") == msg))
    answer = logs.judge(sender=sender, receiver=hiding)
    assert fate_of(answer, msg) == []
    assert unexplained(answer) == told + 1


def test_heads_of_a_long_log_are_held_wherever_they_end(tmp_path: Path) -> None:
    """Named sizes in, at and between bundles: each true one holds, and each false one is found alone."""
    common: Entry = {"v": 1, "ts": 1, "bt": "00" * 8, "mo": 1, "z": "00" * 16}
    log, witness = a_signer("test/a/log1"), a_signer("test/b/log1")
    start: Entry = common | {"t": "log.start", "seq": 0, "origin": log.name, "key": "11" * 32}
    fail: Entry = common | {"t": "ses.fail", "n": 1}
    data = [encode_entry(entry) for entry in (start, *(fail | {"seq": seq} for seq in range(1, 700)))]
    party, frontier, roots = forge(tmp_path / "log", data, log), Frontier(), [""]
    for each in data:
        frontier.append(leaf_hash(each))
        roots.append(frontier.root().hex())
    sizes = (1, 255, 256, 257, 300, 512, 600, 699, 700)

    def forked(*false: int) -> list[str]:
        said = [
            {"t": "wit.cosigned", "origin": log.name, "size": size, "root": roots[size - (size in false)]}
            for size in sizes
        ]
        own: Entry = start | {"origin": witness.name}
        told = [encode_entry(own), *(encode_entry(common | {**e, "seq": s}) for s, e in enumerate(said, 1))]
        other = forge(tmp_path / f"witness-{false}", told, witness)
        policies = [single_log_policy(each.log_key) for each in (log, witness)]
        answer = reconcile([authenticate(str(each), policies) for each in (party, other)])
        return [words.split()[-2] for source in answer.sources for words in source.details]

    assert forked() == []
    for size in sizes[1:]:
        assert forked(size) == [str(size)]
    assert forked(257, 300, 700) == ["257", "300", "700"]


def test_a_tail_that_nobody_saw_is_said_to_be_unknowable(logs: Logs, tmp_path: Path) -> None:
    """A02, the residual case: no finding, and the output says up to which entry a cut would have shown."""
    answer = logs.judge(sender=logs.sender.rewritten(tmp_path / "log", lambda entries: entries[:-1]))
    assert answer.is_clean
    size = len(logs.sender.entries()) - 1
    (words,) = [words for words in answer.untold if words.startswith(f"of {logs.sender.signer.name}:")]
    assert f"others vouch for its first {seen_of(logs)} of {size} entries" in words
    assert "cannot be known" in words
    alone = logs.judge(sender=logs.sender, receiver=None, broker=None)
    assert any("nobody else vouches for any" in words for words in alone.untold)


def test_a_message_taken_out_of_the_senders_log(logs: Logs, tmp_path: Path) -> None:
    """A04, a whole message removed, numbered anew, signed: the receiver has what nobody sent."""
    msg, _ = first_alert(logs)
    sender = logs.sender.rewritten(tmp_path / "log", without(lambda entry: entry.get("msg") == msg))
    assert fate_of(logs.judge(sender=sender), msg) == [Fate.UNSOLICITED]


def test_a_receiver_that_hides_a_message(logs: Logs, tmp_path: Path) -> None:
    """A18: it deleted it at the broker under its key and signed a receipt; either shows alone."""
    msg, _ = first_alert(logs)
    receiver = logs.receiver.rewritten(tmp_path / "receiver", without(lambda entry: entry.get("msg") == msg))
    assert fate_of(logs.judge(receiver=receiver), msg) == [Fate.RECEIVER_OMISSION]
    assert fate_of(logs.judge(receiver=receiver, broker=None), msg) == [Fate.RECEIVER_OMISSION]
    no_receipt = without(lambda entry: entry["t"] == "msg.receipt" and entry["msg"] == msg)
    sender = logs.sender.rewritten(tmp_path / "sender", no_receipt)
    assert fate_of(logs.judge(receiver=receiver, sender=sender), msg) == [Fate.RECEIVER_OMISSION]


def dropping(
    logs: Logs, home: Path, broken: Callable[[Entry], Entry], notes: CustodyNotes | None = None
) -> tuple[Reconciled, str]:
    """The first alert never came over; the broker's log is broken as given."""
    msg, env = first_alert(logs)
    sender = logs.sender.rewritten(
        home / "sender", without(lambda entry: entry["t"] == "msg.receipt" and entry["msg"] == msg)
    )
    receiver = logs.receiver.rewritten(home / "receiver", without(lambda entry: entry.get("msg") == msg))
    broker = logs.broker.rewritten(
        home / "broker",
        lambda entries: [broken(entry) if entry.get("env") == env else entry for entry in entries],
    )
    return logs.judge(notes, sender=sender, receiver=receiver, broker=broker), msg


def other_envelope(entry: Entry) -> Entry:
    return entry | {"env": "ee" * 32}


def test_a_broker_that_drops_after_custody(logs: Logs, tmp_path: Path) -> None:
    """A12: taken in, never handed out, while later ones were."""
    answer, msg = dropping(logs, tmp_path, lambda entry: entry if entry["t"] == "bk.in" else _a_part(entry))
    assert fate_of(answer, msg) == [Fate.HELD_OR_DROPPED]


def _a_part(entry: Entry) -> Entry:
    """Another entry of the same broker in its place, so that no number moves."""
    common = {key: entry[key] for key in ("v", "bt", "mo", "ts", "z", "seq", "box")}
    return common | {"t": "bk.part", "step": "begun", "bytes": 1}


def test_a_broker_that_hands_out_what_never_arrives(logs: Logs, tmp_path: Path) -> None:
    """Fetched by its own word, deleted by nobody, and the receiver has none of it."""
    answer, msg = dropping(logs, tmp_path, lambda entry: entry if entry["t"] != "bk.ack" else _a_part(entry))
    assert fate_of(answer, msg) == [Fate.LOST_IN_DELIVERY]


def test_a_broker_that_gives_custody_and_logs_nothing(logs: Logs, tmp_path: Path) -> None:
    """A13: the custody note names the place where it should stand, and is the proof once verified."""
    answer, msg = dropping(logs, tmp_path, other_envelope)
    assert fate_of(answer, msg) == [Fate.BROKER_OMISSION_CLAIMED]
    assert "was not handed over" in detail_of(answer, msg)
    answer, msg = dropping(logs, tmp_path / "shown", other_envelope, notes=logs.read_notes())
    assert fate_of(answer, msg) == [Fate.BROKER_OMISSION]


def changed_note(logs: Logs, **fields: object) -> bytes:
    told = json.loads(logs.notes)
    msg, env = first_alert(logs)
    del msg
    told["notes"] = [note | fields for note in told["notes"] if note["h"] == env]
    return json.dumps(told).encode()


@pytest.mark.parametrize(
    "fields",
    [{"t": 5}, {"s": "00" * 64}, {"bi": 200}, {"bp": "ab"}, {"z": 1}],
    ids=lambda each: next(iter(each)),
)
def test_a_note_that_the_broker_did_not_sign_proves_nothing(
    logs: Logs, tmp_path: Path, fields: dict[str, object]
) -> None:
    """Any part of it changed: the sender claims, and the output says that its note does not hold."""
    notes = logs.read_notes(changed_note(logs, **fields))
    answer, msg = dropping(logs, tmp_path, other_envelope, notes=notes)
    assert fate_of(answer, msg) == [Fate.BROKER_OMISSION_CLAIMED]
    assert "did not sign this note" in detail_of(answer, msg)


def test_a_note_counts_under_the_address_that_the_auditor_brought(logs: Logs, tmp_path: Path) -> None:
    """Whoever hands a note over could bring a card of his own; and a note for another place is no note."""
    other = logs.address.rpartition("#")[0] + "#" + "a" * 52
    answer, msg = dropping(logs, tmp_path, other_envelope, notes=logs.read_notes(address=other))
    assert fate_of(answer, msg) == [Fate.BROKER_OMISSION_CLAIMED]
    assert "no broker address" in detail_of(answer, msg)
    key = {logs.broker.signer.name: b"\x07" * 32}
    pin = parse_broker_address_untrusted(logs.address).card_sha256
    answer, msg = dropping(
        logs, tmp_path / "key", other_envelope, notes=read_notes_untrusted([logs.notes], {pin}, key)
    )
    assert "another log key than the policy" in detail_of(answer, msg)
    moved = logs.read_notes(changed_note(logs, i=0))
    answer, msg = dropping(logs, tmp_path / "moved", other_envelope, notes=moved)
    assert "was not handed over" in detail_of(answer, msg)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"brokers":[],"notes":[1]}',
        b'{"brokers":["zz"],"notes":[]}',
        b"[" * 100_000,
        b'{"brokers":[],"notes":[{"o":"x","z":true,"i":0,"t":0,"bi":0,"bn":1}]}',
    ],
)
def test_a_file_that_holds_no_notes_is_unreadable(data: bytes) -> None:
    """Never a finding, never a crash."""
    with pytest.raises(MalformedInput):
        read_notes_untrusted([data], set(), {})


def test_an_attempt_that_the_sender_left_out(logs: Logs, tmp_path: Path) -> None:
    """Sealings are counted from 1: one that is missing shows, and is not called an alteration on the way."""
    sealed = [entry for entry in logs.sender.entries() if entry["t"] == "msg.seal"]
    msg = next(entry["msg"] for entry in sealed if entry["att"] > 1)
    drop = without(lambda entry: entry.get("msg") == msg and entry.get("att") == 1)
    answer = logs.judge(sender=logs.sender.rewritten(tmp_path / "log", drop))
    assert fate_of(answer, msg) == [Fate.GAP]
    assert "no attempt 1" in detail_of(answer, msg)


def test_a_receiver_that_hides_the_taking_in_alone(logs: Logs, tmp_path: Path) -> None:
    """It had it before, by its own word, and has no entry of that."""
    taken = [entry for entry in logs.receiver.entries() if entry["t"] == "msg.recv" and "msg" in entry]
    ok = {entry["msg"] for entry in taken if entry["verdict"] == "ok"}
    msg = next(entry["msg"] for entry in taken if entry["verdict"] == "dup" and entry["msg"] in ok)
    hidden = without(lambda entry: entry.get("msg") == msg and entry.get("verdict") == "ok")
    answer = logs.judge(receiver=logs.receiver.rewritten(tmp_path / "log", hidden))
    assert fate_of(answer, msg) == [Fate.GAP]


def erased_alert(logs: Logs) -> tuple[str, str]:
    """Alert and message of the one that was erased at both."""
    (gone,) = [entry["alert"] for entry in logs.sender.entries() if entry["t"] == "content.erased"]
    return gone, next(
        entry["msg"]
        for entry in logs.sender.entries()
        if entry["t"] == "msg.submit" and entry["alert"] == gone
    )


@pytest.mark.parametrize("who", ["sender", "receiver"])
def test_an_erasure_that_one_office_did_not_do(logs: Logs, tmp_path: Path, who: str) -> None:
    """It told the other that it had, or was due and its log goes on; either shows alone."""
    alert, msg = erased_alert(logs)
    other = "receiver" if who == "sender" else "sender"
    kept = without(lambda entry: entry["t"] == "content.erased" and entry["alert"] == alert)
    lying = getattr(logs, who).rewritten(tmp_path / "lying", kept)
    answer = logs.judge(**{who: lying})
    assert fate_of(answer, msg) == [Fate.ERASURE_INCOMPLETE]
    assert "told the other" in detail_of(answer, msg)
    unsaid = without(lambda entry: entry.get("step") == "erased")
    silent = getattr(logs, other).rewritten(tmp_path / "unsaid", unsaid)
    answer = logs.judge(**{who: lying, other: silent})
    if who == "receiver":  # the sender's clock was set meanwhile: what is due then is counted anew
        assert fate_of(answer, msg) == [Fate.ERASURE_INCOMPLETE]
        assert "due for erasure" in detail_of(answer, msg)

    def hold(entries: list[Entry]) -> list[Entry]:
        held = {"t": "content.held", "code": "court", "alert": alert}
        common = {key: entries[-1][key] for key in ("v", "bt", "mo", "ts", "z", "seq")}
        return [*kept(entries), common | held]

    holding = getattr(logs, who).rewritten(tmp_path / "held", hold)
    answer = logs.judge(**{who: holding, other: silent})
    assert fate_of(answer, msg) == [Fate.CONSISTENT], "an entry says why it is kept"


def test_a_sending_that_never_was(logs: Logs, tmp_path: Path) -> None:
    """A14: sealed by its own word alone, at no broker. An office that was offline says the same."""
    answer = logs.judge(sender=logs.sender.rewritten(tmp_path / "log", claim("77" * 16, "dd" * 32)))
    assert fate_of(answer, "77" * 16) == [Fate.NEVER_REACHED_BROKER]


@pytest.mark.parametrize("verdict", ["ok", "badsig"])
def test_an_envelope_altered_on_the_way(logs: Logs, tmp_path: Path, verdict: str) -> None:
    """A16: what was received is in no set of sealed envelopes, whether it opened or not."""
    msg, env = first_alert(logs)

    def alter(entries: list[Entry]) -> list[Entry]:
        for entry in entries:
            if entry.get("env") == env:
                entry |= {"env": "aa" * 32, "verdict": verdict}
                if verdict == "badsig":
                    for key in ("msg", "peer", "hh", "inst", "ps", "com", "alert"):
                        entry.pop(key, None)
        return entries

    answer = logs.judge(receiver=logs.receiver.rewritten(tmp_path / "log", alter))
    assert fate_of(answer, msg if verdict == "ok" else "aa" * 32) == [Fate.ALTERED]


def test_a_second_acceptance(logs: Logs, tmp_path: Path) -> None:
    """A19: one delivery taken in twice."""
    msg, _ = first_alert(logs)

    def again(entries: list[Entry]) -> list[Entry]:
        at = next(at for at, entry in enumerate(entries) if entry.get("msg") == msg)
        return [*entries[: at + 1], entries[at] | {"z": "44" * 16}, *entries[at + 1 :]]

    answer = logs.judge(receiver=logs.receiver.rewritten(tmp_path / "log", again))
    assert fate_of(answer, msg) == [Fate.DUPLICATE_ACCEPTED]
    assert "DUPLICATE-ACCEPTED" in {label for source in answer.sources for label in source.verdicts}


def test_what_came_out_of_order_is_told(logs: Logs, tmp_path: Path) -> None:
    """A17: no finding, for a line may do that. But it is seen."""
    msg, _ = first_alert(logs)

    def later(entries: list[Entry]) -> list[Entry]:
        (first,) = [entry for entry in entries if entry.get("msg") == msg and entry["t"] == "msg.recv"]
        rest = [entry for entry in entries if entry is not first]
        at = next(
            at for at, entry in enumerate(rest) if entry["t"] == "msg.recv" and entry["verdict"] == "ok"
        )
        return [*rest[: at + 1], first | {"ts": rest[at]["ts"]}, *rest[at + 1 :]]

    answer = logs.judge(receiver=logs.receiver.rewritten(tmp_path / "log", later), broker=None)
    assert fate_of(answer, msg) == [Fate.REORDERED]


def test_times_that_other_clocks_contradict(logs: Logs, tmp_path: Path) -> None:
    """A10 and A11, a clock ahead and one behind, with nothing declared: the broker's times bound them."""

    def undeclared(entries: list[Entry]) -> list[Entry]:
        return shifted(-24 * HOUR_US)(without(lambda entry: entry["t"] == "clk.off")(entries))

    behind = logs.sender.rewritten(tmp_path / "behind", undeclared)
    assert "BACKDATED" in fates(logs.judge(sender=behind))
    assert "BACKDATED" in fates(logs.judge(sender=behind, broker=None)), "the custody notes say it too"
    ahead = logs.sender.rewritten(tmp_path / "ahead", without(lambda entry: entry["t"].startswith("clk.")))
    assert "POSTDATED" in fates(logs.judge(sender=ahead)), "two hours ahead, and nobody says so"
    late = logs.receiver.rewritten(tmp_path / "late", shifted(24 * HOUR_US))
    assert "POSTDATED" in fates(logs.judge(receiver=late))
    early = logs.receiver.rewritten(tmp_path / "early", shifted(-24 * HOUR_US))
    assert "BACKDATED" in fates(logs.judge(receiver=early))


def test_a_clock_that_was_always_wrong_is_told_by_its_own_log(tmp_path: Path) -> None:
    """Three hours ahead since before the first entry: said when a broker shows another time."""
    told, directories, signers = wrong_from_the_start(tmp_path)
    assert told.is_clean, labels(told)
    assert "up to 180 minutes" in " ".join(note for source in told.sources for note in source.story.notes)
    ahead = Party(directories[0], signers[0]).rewritten(
        tmp_path / "silent", without(lambda entry: entry["t"] == "clk.off")
    )
    policies = [single_log_policy(signer.log_key) for signer in signers]
    silent = reconcile([authenticate(str(path), policies) for path in (ahead.directory, *directories[1:])])
    assert "POSTDATED" in fates(silent), "the same log without a word of it"


def wrong_from_the_start(home: Path) -> tuple[Reconciled, list[Path], list[Any]]:
    """Logs of a sender whose clock stands ahead, a receiver and a broker."""
    with World(seed=12, directory=home / "world") as world:
        broker = BrokerHost(world)
        here, there = OfficeHost(world, "Myitkyina", "MM"), OfficeHost(world, "Tengchong", "CN")

        async def script() -> tuple[Reconciled, list[Path], list[Any]]:
            await broker.make()
            here.host.step_clock(3 * HOUR_S * 1000)
            await here.make()
            await there.make()
            await pair(broker, here, there)
            await here.send(an_alert("KA-1111"))
            await asyncio.sleep(HOUR_S)
            assert here.node is not None
            assert there.node is not None
            signers = [cast(Any, node.log)._signer for node in (here.node, there.node)]
            signers.append(cast(Any, broker.broker)._log._signer)
            directories = [
                next(path.parent for path in host.disk.rglob("log/checkpoint"))
                for host in (here.host, there.host, broker.host)
            ]
            policies = [single_log_policy(signer.log_key) for signer in signers]
            return (
                reconcile([authenticate(str(each), policies) for each in directories]),
                directories,
                signers,
            )

        return world.run(script())


def test_one_message_that_its_receiver_dates_back(logs: Logs, tmp_path: Path) -> None:
    """A08: moved up in the log with the time of its new place, so that neither order nor clock shows it."""
    taken = [entry for entry in logs.receiver.entries() if entry["t"] == "msg.recv" and "alert" in entry]
    msg = taken[-1]["msg"]

    def back(entries: list[Entry]) -> list[Entry]:
        moved = [entry for entry in entries if entry.get("msg") == msg]
        rest = [entry for entry in entries if entry.get("msg") != msg]
        at = next(at for at, entry in enumerate(rest) if entry["ts"] > moved[0]["ts"] - HOUR_US)
        near = {key: rest[at - 1][key] for key in ("ts", "bt", "mo")}
        return [*rest[:at], *(entry | near for entry in moved), *rest[at:]]

    answer = logs.judge(receiver=logs.receiver.rewritten(tmp_path / "log", back))
    assert fate_of(answer, msg) == [Fate.BACKDATED]


def test_what_a_lying_broker_did_shows_in_honest_logs(logs: Logs) -> None:
    """A15 and A16 done by a real broker: replayed and blocked, altered and not taken in."""
    answer = logs.lied_to.judge()
    assert [source.verdicts for source in answer.sources] == [["VERIFIED"]] * 3
    before = {each.id for each in logs.judge().judgements}
    since = {each.fate for each in answer.judgements if each.id not in before}
    assert {Fate.DUPLICATE_BLOCKED, Fate.ALTERED} <= since
    assert {each.fate for each in answer.judgements if each.is_finding} == {Fate.ALTERED}


def restored(logs: Logs, home: Path, *, kept: int) -> tuple[Party, Party]:
    """The sender lost its machine: the log that ended as its backup had it, and the one it began."""
    ended = logs.sender.rewritten(home / "ended", lambda entries: entries[:kept])
    first = ended.entries()[0] | {"ts": logs.sender.entries()[-1]["ts"]}
    origin = ended.signer.name.removesuffix("log1") + "log2"
    begun = [
        first | {"origin": origin, "prior": ended.signer.name},
        {key: first[key] for key in ("v", "bt", "mo", "ts", "z")}
        | {"t": "backup.restore", "seq": 1, "size": kept, "root": decoded_root(ended.directory).hex()},
    ]
    signer = a_signer(origin)
    return ended, Party(forge(home / "begun", [encode_entry(entry) for entry in begun], signer), signer)


def test_a_declared_loss_excuses_what_it_declares_and_no_more(logs: Logs, tmp_path: Path) -> None:
    """Shorter than its witness saw, and not shorter than its owner says: a label with a number."""
    size = len(logs.sender.entries())
    receiver = witnessed(logs, tmp_path / "receiver", size=size, root=decoded_root(logs.sender.directory))
    ended, begun = restored(logs, tmp_path, kept=size - 7)

    def judge(copy: Party) -> dict[str, list[str]]:
        policies = [single_log_policy(party.signer.log_key) for party in (copy, begun, receiver)]
        directories = [str(party.directory) for party in (copy, begun, receiver)]
        answer = reconcile([authenticate(each, policies) for each in directories])
        return {source.report.origin: source.verdicts for source in answer.sources}

    told = judge(ended)
    assert (told[ended.signer.name], told[begun.signer.name]) == (
        ["VERIFIED"],
        ["VERIFIED", "DECLARED-LOSS(7)"],
    )
    shorter = ended.rewritten(tmp_path / "shorter", lambda entries: entries[:-1])
    assert judge(shorter)[ended.signer.name] == ["TRUNCATED"]


def test_a_log_under_no_policy_says_nothing(logs: Logs) -> None:
    """UNKNOWN-KEY, and nothing that it holds counts."""
    sources = [
        authenticate(str(party.directory), [single_log_policy(logs.sender.signer.log_key)])
        for party in (logs.sender, logs.receiver)
    ]
    answer = reconcile(sources)
    assert "UNKNOWN-KEY" in labels(answer)
    assert set(fates(answer)) == {"IN-FLIGHT"}


def test_the_command_takes_notes(logs: Logs, tmp_path: Path) -> None:
    """From the file that the node wrote and the address on paper, to the verdict."""
    _, env = first_alert(logs)
    home = tmp_path / "broker"
    broker = logs.broker.rewritten(
        home,
        lambda entries: [
            entry | {"env": "ee" * 32} if entry.get("env") == env else entry for entry in entries
        ],
    )
    (tmp_path / "notes").write_bytes(logs.notes)
    given = command(replace(logs, broker=broker), tmp_path, "--notes", str(tmp_path / "notes"))
    assert "BROKER-OMISSION-CLAIMED" in audit(*given).stdout
    assert "BROKER-OMISSION-PROVEN" in audit(*given, "--broker-address", logs.address).stdout
    assert audit(*given, "--broker-address", "salween://x").returncode == Exit.UNREADABLE


def command(logs: Logs, home: Path, *more: str) -> list[str]:
    """``salween-audit reconcile`` over these logs, each under a policy file of its own."""
    arguments = ["reconcile", str(logs.sender.directory), str(logs.receiver.directory)]
    arguments += ["--broker", str(logs.broker.directory)]
    for number, party in enumerate((logs.sender, logs.receiver, logs.broker)):
        (home / f"policy{number}").write_bytes(single_log_policy(party.signer.log_key).encode())
        arguments += ["--policy", str(home / f"policy{number}")]
    return [*arguments, *more]


def test_the_command_tells_people_and_scripts(logs: Logs, tmp_path: Path) -> None:
    """Exit 0 and every message; the same in JSON; one log given twice is wrong usage."""
    done = audit(*command(logs, tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "no finding"
    assert first_alert(logs)[0][:16] in done.stdout
    told = json.loads(audit(*command(logs, tmp_path, "--json")).stdout)
    assert told["clean"]
    assert {log["origin"] for log in told["logs"]} == {
        party.signer.name for party in (logs.sender, logs.receiver, logs.broker)
    }
    assert sum(told["counts"].values()) == len(told["messages"])
    twice = audit(*command(logs, tmp_path, str(logs.sender.directory)))
    assert (twice.returncode, "given twice" in twice.stderr) == (Exit.USAGE, True)


def test_the_command_ends_with_a_finding(logs: Logs, tmp_path: Path) -> None:
    """Exit 1, the finding first, and what its proof would be."""
    msg, _ = first_alert(logs)
    receiver = logs.receiver.rewritten(tmp_path / "log", without(lambda entry: entry.get("msg") == msg))
    done = audit(*command(replace(logs, receiver=receiver), tmp_path))
    assert done.returncode == Exit.FINDING
    listed = [line for line in done.stdout.splitlines() if " to salween/" in line]
    assert "RECEIVER-OMISSION-PROVEN" in listed[0]
    assert done.stdout.splitlines()[-1] == "FINDINGS"
