"""Logs of real daemons held against each other: an honest history gives nothing, each forgery its verdict."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from audit.__main__ import Exit
from audit.custody import CustodyNotes, read_notes_untrusted
from audit.entry import encode_entry
from audit.policy import single_log_policy
from audit.reconcile import Fate, Reconciled, authenticate, reconcile
from audit.tree import Frontier, leaf_hash
from demo.liar import Change, Entry, Party, claim, without
from keys.brokercard import parse_broker_address_untrusted
from keys.errors import MalformedInput
from tests.audit.logs import a_signer, decoded_root, forge
from tests.audit.test_main import audit
from tests.simulation.daemons import BrokerHost, OfficeHost, pair
from tests.simulation.env import EPOCH_MS
from tests.simulation.test_first_light import an_alert
from tests.simulation.world import World

HOUR_S = 3600
HOUR_MS = HOUR_S * 1000
HOUR_US = HOUR_MS * 1000


@dataclass(frozen=True, slots=True)
class Logs:
    sender: Party
    receiver: Party
    broker: Party
    notes: bytes
    """The sender's custody notes, as ``salween-node custody`` writes them."""
    address: str
    """The broker's."""

    def read_notes(self, notes: bytes | None = None, address: str | None = None) -> CustodyNotes:
        pin = parse_broker_address_untrusted(address or self.address).card_sha256
        return read_notes_untrusted([notes or self.notes], {pin}, {})

    def judge(self, notes: CustodyNotes | None = None, **others: Party | None) -> Reconciled:
        parties = [others.get(name, getattr(self, name)) for name in ("sender", "receiver", "broker")]
        there = [party for party in parties if party is not None]
        policies = [single_log_policy(party.signer.log_key) for party in there]
        return reconcile([authenticate(str(party.directory), policies) for party in there], notes=notes)


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
            assert here.node is not None
            assert there.node is not None
            assert broker.broker is not None
            owners = {
                "sender": (here.host, here.node.log),
                "receiver": (there.host, there.node.log),
                "broker": (broker.host, cast(Any, broker.broker)._log),
            }
            kept = {}
            for name, (host, log) in owners.items():
                (published,) = (path.parent for path in host.disk.rglob("log/checkpoint"))
                shutil.copytree(published, home / name)
                kept[name] = Party(home / name, cast(Any, log)._signer)
            messages = [entry["msg"] for entry in kept["sender"].entries() if entry["t"] == "msg.custody"]
            handed = await here.host.run(lambda _: custody_notes(here, messages))
            return Logs(**kept, notes=handed.encode(), address=broker.address)

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


def witnessed(logs: Logs, home: Path, *, root: bytes | None = None) -> Party:
    """The receiver's log with one more entry: it cosigned the sender's log as it is."""
    size = len(logs.sender.entries())
    root = root or decoded_root(logs.sender.directory)

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


def other_value(entries: list[Entry]) -> list[Entry]:
    entries[-1]["z"] = "00" * 16
    return entries


REWRITINGS: dict[str, tuple[Change, str]] = {
    "the witnessed tail cut": (lambda entries: entries[:-3], "TRUNCATED"),
    "an entry rewritten": (other_value, "FORKED"),
    "an entry removed": (
        lambda entries: [*entries[:-2], entries[-1], entries[-1] | {"z": "00" * 16}],
        "FORKED",
    ),
    "two swapped": (swap_two, "FORKED"),
    "rolled back and continued": (
        lambda entries: [*entries[:-5], *(entry | {"z": "11" * 16} for entry in entries[-5:]), entries[-1]],
        "FORKED",
    ),
    "one inserted late": (
        lambda entries: [*entries[:3], entries[2] | {"z": "22" * 16}, *entries[3:]],
        "FORKED",
    ),
}


@pytest.mark.parametrize("name", REWRITINGS)
def test_a_witness_holds_what_was_rewritten(name: str, logs: Logs, tmp_path: Path) -> None:
    """The receiver's log names (size, root) of the sender's: what its owner signs anew contradicts it."""
    change, verdict = REWRITINGS[name]
    receiver = witnessed(logs, tmp_path / "receiver")
    assert logs.judge(receiver=receiver).is_clean
    sender = logs.sender.rewritten(tmp_path / "sender", change)
    assert verdict in labels(logs.judge(sender=sender, receiver=receiver))


def test_a_witness_that_signs_two_roots_shows(logs: Logs, tmp_path: Path) -> None:
    """Its own log contradicts itself, whether the other log is here or not."""
    once = replace(logs, receiver=witnessed(logs, tmp_path / "once"))
    twice = witnessed(once, tmp_path / "twice", root=b"\x01" * 32)
    assert "FORKED" in labels(logs.judge(receiver=twice, sender=None))


def test_a_tail_that_only_the_peer_saw_is_missed(logs: Logs, tmp_path: Path) -> None:
    """Cut where nobody cosigned: what the receiver took in of it shows."""
    msg = [entry for entry in logs.sender.entries() if entry["t"] == "msg.submit"][-1]["msg"]

    def cut(entries: list[Entry]) -> list[Entry]:
        return entries[: next(at for at, entry in enumerate(entries) if entry.get("msg") == msg)]

    answer = logs.judge(sender=logs.sender.rewritten(tmp_path / "log", cut))
    assert fate_of(answer, msg) == [Fate.UNSOLICITED]


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
    """The residual case: no finding, and the output says so."""
    answer = logs.judge(sender=logs.sender.rewritten(tmp_path / "log", lambda entries: entries[:-1]))
    assert answer.is_clean
    assert any("cannot be known" in words for words in answer.untold)


def test_a_message_taken_out_of_the_senders_log(logs: Logs, tmp_path: Path) -> None:
    """Removed, numbered anew, signed: the receiver has what nobody sent."""
    msg, _ = first_alert(logs)
    sender = logs.sender.rewritten(tmp_path / "log", without(lambda entry: entry.get("msg") == msg))
    assert fate_of(logs.judge(sender=sender), msg) == [Fate.UNSOLICITED]


def test_a_receiver_that_hides_a_message(logs: Logs, tmp_path: Path) -> None:
    """It deleted it at the broker under its key and signed a receipt; either shows alone."""
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
    """Taken in, never handed out, while later ones were."""
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
    """The custody note names the place where it should stand; it proves that once it is here and verified."""
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
    """Sealed by its own word alone: the broker never had it. An office that was offline says the same."""

    answer = logs.judge(sender=logs.sender.rewritten(tmp_path / "log", claim("77" * 16, "dd" * 32)))
    assert fate_of(answer, "77" * 16) == [Fate.NEVER_REACHED_BROKER]


@pytest.mark.parametrize("verdict", ["ok", "badsig"])
def test_an_envelope_altered_on_the_way(logs: Logs, tmp_path: Path, verdict: str) -> None:
    """What was received is in no set of sealed envelopes, whether it opened or not."""
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
    """One delivery taken in twice."""
    msg, _ = first_alert(logs)

    def again(entries: list[Entry]) -> list[Entry]:
        at = next(at for at, entry in enumerate(entries) if entry.get("msg") == msg)
        return [*entries[: at + 1], entries[at] | {"z": "44" * 16}, *entries[at + 1 :]]

    answer = logs.judge(receiver=logs.receiver.rewritten(tmp_path / "log", again))
    assert fate_of(answer, msg) == [Fate.DUPLICATE_ACCEPTED]
    assert "DUPLICATE-ACCEPTED" in {label for source in answer.sources for label in source.verdicts}


def test_what_came_out_of_order_is_told(logs: Logs, tmp_path: Path) -> None:
    """No finding: a line may do that. But it is seen."""
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
    """Back-dated, behind and ahead, with nothing declared: the broker's times bound them."""

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
    receiver, size = witnessed(logs, tmp_path / "receiver"), len(logs.sender.entries())
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
