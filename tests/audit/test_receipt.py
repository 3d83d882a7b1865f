"""Receipts to hand over: one event, one small file, and what does not hold never passes for one that does."""

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.__main__ import _run
from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.entry import encode_entry
from audit.note import NoteSigner, PostQuantumSigner
from audit.policy import Group, Policy, single_log_policy
from audit.proof import Proof, parse_proof_untrusted
from audit.receipt import (
    COSIGNERS_MAX,
    DICTIONARY,
    RECEIPT_BYTES_MAX,
    Event,
    event_of,
    for_paper,
    make_receipt,
    open_receipt_untrusted,
    pack_entry,
    unpack_entry_untrusted,
    worth,
)
from audit.tree import leaf_hash, root_from_edge
from keys.errors import MalformedInput, VerificationFailed
from keys.primitives import MlDsa44PrivateKey, sha256
from keys.secret import SecretBytes
from tests.audit.logs import ORIGIN, a_signer
from tests.audit.test_entry import entries
from tests.audit.test_tree import tiles_of
from tests.support.syntax_rules import ROOT

WITNESSES = [a_signer(f"test/{n}/witness1", bytes([60 + n])) for n in range(4)]
ALERT, MSG, PEER, H = "a1" * 32, "b2" * 16, "c3" * 8, "d4" * 32


def an_entry(name: str, index: int, **fields: Any) -> bytes:
    common: dict[str, Any] = {
        "v": 1,
        "t": name,
        "seq": index,
        "ts": 1_812_345_678_901_234,
        "mo": 7,
        "bt": "0f" * 8,
        "z": "e5" * 16,
    }
    return encode_entry({**common, **fields})


ENTRIES = [
    an_entry("log.start", 0, origin=ORIGIN, key=H),
    an_entry("msg.submit", 1, msg=MSG, peer=PEER, com=[H, H], exp=9, alert=ALERT),
    an_entry("msg.recv", 2, env=H, verdict="ok", msg=MSG, peer=PEER, alert=ALERT),
    an_entry("msg.receipt", 3, msg=MSG, step="delivered", at=1_812_345_678_901, peer=PEER),
    an_entry("msg.receipt", 4, msg=MSG, step="opened", at=1_812_345_678_901, peer=PEER),
    an_entry("msg.receipt", 5, msg=MSG, step="erased", at=1_812_345_678_901, peer=PEER),
    an_entry("acc.read", 6, alert=ALERT, actor=H, purpose="duty", k=1),
    an_entry("acc.print", 7, alert=ALERT, actor=H, purpose="case", k=2, prev=6),
    an_entry("acc.export", 8, alert=ALERT, actor=H, purpose="court", k=3, prev=7),
    an_entry("content.erased", 9, alert=ALERT, parts=["content"], code="mistake", actor=H),
    an_entry("msg.receipt", 10, msg=MSG, step="refused", at=3, code="not_ours"),
    an_entry("msg.recv", 11, env=H, verdict="dup"),
]
EVENTS = {
    1: Event.SUBMITTED,
    2: Event.DELIVERED,
    3: Event.DELIVERED,
    4: Event.READ,
    5: Event.ERASED,
    6: Event.READ,
    7: Event.READ,
    8: Event.READ,
    9: Event.ERASED,
}
SIZE = len(ENTRIES)
READ = tiles_of([leaf_hash(entry) for entry in ENTRIES], SIZE)
HEAD = Checkpoint(origin=ORIGIN, size=SIZE, root=root_from_edge(SIZE, READ))


def a_note(*witnesses: NoteSigner, signer: NoteSigner | None = None) -> bytes:
    lines = b"".join(w.cosign(HEAD.text, 1_812_345_700).encode().encode() for w in witnesses)
    return sign_checkpoint(HEAD, signer or a_signer()) + lines


def a_policy(quorum: str = "none") -> Policy:
    """Three witnesses; ``two`` asks for two of them."""
    keys = {f"w{n}": witness.witness_key for n, witness in enumerate(WITNESSES[:3])}
    two = {"two": Group(threshold=2, members=tuple(keys))}
    return Policy(logs=(a_signer().log_key,), witnesses=keys, groups=two, quorum=quorum)


def a_receipt(index: int = 3, *witnesses: NoteSigner) -> bytes:
    return make_receipt(ENTRIES[index], index, a_note(*(witnesses or WITNESSES[:3])), READ)


@pytest.mark.parametrize("index", EVENTS)
def test_each_event_is_read_from_its_own_entry(index: int) -> None:
    """What is written is read back: the entry, who saw it, the event; and no other event than that one."""
    receipt = open_receipt_untrusted(a_receipt(index), a_policy("two"), EVENTS[index])
    assert receipt.entry == json.loads(ENTRIES[index])
    assert receipt.head.checkpoint == HEAD
    assert [cosigner.name for cosigner in receipt.head.cosigners] == ["w0", "w1", "w2"]
    assert [event for event in Event if receipt.says(event)] == [
        event for event in Event if event in (EVENTS[index], Event.WITNESSED)
    ]
    for other in set(Event) - {EVENTS[index], Event.WITNESSED}:
        with pytest.raises(VerificationFailed, match="wrong_event"):
            open_receipt_untrusted(a_receipt(index), a_policy(), other)


def test_witnessed_needs_a_witness_that_the_verifier_knows() -> None:
    """The log's own signature, or that of a witness nobody named, makes no event witnessed."""
    for note in (a_note(), a_note(WITNESSES[3])):
        data = make_receipt(ENTRIES[1], 1, note, READ)
        assert open_receipt_untrusted(data, a_policy()).event is Event.SUBMITTED
        with pytest.raises(VerificationFailed, match="wrong_event"):
            open_receipt_untrusted(data, a_policy(), Event.WITNESSED)


@pytest.mark.parametrize("index", sorted(set(range(SIZE)) - set(EVENTS)))
def test_what_is_no_event_of_an_alert_makes_no_receipt(index: int) -> None:
    """A start, a refusal, a copy: true entries, and still nothing that was delivered or read."""
    assert event_of(json.loads(ENTRIES[index])) is None
    with pytest.raises(MalformedInput, match="bad_receipt"):
        open_receipt_untrusted(a_receipt(index), a_policy())


def test_a_receipt_says_why_it_does_not_hold() -> None:
    """Unknown key, missing quorum, a signature that is not the log's, an entry that is not there."""

    def code(data: bytes, policy: Policy) -> str:
        with pytest.raises(VerificationFailed) as refused:
            open_receipt_untrusted(data, policy)
        return refused.value.code

    stranger = single_log_policy(a_signer(seed=b"\x77").log_key)
    assert code(a_receipt(), stranger) == "unknown_key"
    assert code(a_receipt(3, WITNESSES[0]), a_policy("two")) == "not_witnessed"
    assert code(a_receipt(3, WITNESSES[0], WITNESSES[3]), a_policy("two")) == "not_witnessed"
    proof = parse_proof_untrusted(a_receipt())
    later = ENTRIES[3].replace(b'"at":1812345678901', b'"at":1812345678902')
    assert code(replace(proof, extra=pack_entry(later)).encode(), a_policy()) == "not_included"
    forged = proof.checkpoint.replace(f"\n{SIZE}\n".encode(), f"\n{SIZE + 1}\n".encode())
    assert code(replace(proof, checkpoint=forged).encode(), a_policy()) == "bad_signature"


def test_an_entry_that_names_another_place_is_refused() -> None:
    """A log owner who writes an entry with a wrong number cannot make a receipt of it."""
    odd = [*ENTRIES[:3], ENTRIES[4], *ENTRIES[4:]]
    read = tiles_of([leaf_hash(entry) for entry in odd], SIZE + 1 - 1)
    head = Checkpoint(origin=ORIGIN, size=SIZE, root=root_from_edge(SIZE, read))
    data = make_receipt(odd[3], 3, sign_checkpoint(head, a_signer()), read)
    with pytest.raises(MalformedInput, match="bad_receipt"):
        open_receipt_untrusted(data, a_policy())


@given(st.integers(0, 8 * len(a_receipt()) - 1))
def test_any_flipped_bit_is_found_or_changes_nothing_said(bit: int) -> None:
    """Of the file as handed over: refused, or the same entry under the same checkpoint.

    Only how the entry is packed has more than one spelling.
    """
    good = a_receipt()
    data = bytearray(good)
    data[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(MalformedInput, VerificationFailed):
        receipt = open_receipt_untrusted(bytes(data), a_policy("two"))
        assert receipt.entry == json.loads(ENTRIES[3])
        assert receipt.head.checkpoint == HEAD


@settings(max_examples=40)
@given(entries())
def test_every_entry_comes_out_of_its_packing(entry: dict[str, Any]) -> None:
    """Whatever its type and however long, byte for byte."""
    encoded = encode_entry(entry)
    assert unpack_entry_untrusted(pack_entry(encoded)) == encoded


@given(st.binary(max_size=400))
def test_any_bytes_unpack_or_are_malformed(data: bytes) -> None:
    """Also behind a beginning that is right."""
    for candidate in (data, pack_entry(ENTRIES[2])[:40] + data, pack_entry(ENTRIES[2]) + data):
        with contextlib.suppress(MalformedInput):
            assert len(unpack_entry_untrusted(candidate)) <= 4096 * 33


def test_a_packing_that_is_cut_or_too_long_is_malformed() -> None:
    """At every place, and with a byte more; and nothing grows beyond an entry."""
    whole = pack_entry(ENTRIES[2])
    for cut in (whole + b"\x00", *(whole[:end] for end in range(len(whole)))):
        with pytest.raises(MalformedInput, match="bad_receipt"):
            unpack_entry_untrusted(cut)
    bomb = pack_entry(b" " * 4096 + b" ")
    with pytest.raises(MalformedInput, match="bad_receipt"):
        unpack_entry_untrusted(bomb)


def longest(name: str, **fields: Any) -> bytes:
    """An entry with every number as long as it gets in a log of 2^20 entries, and hex that packs badly."""
    times = {"ts": 2**53 - 1, "mo": 2**53 - 1}
    common: dict[str, Any] = {
        "v": 1,
        "t": name,
        "seq": 2**20 - 1,
        "bt": "0123456789abcdef",
        "z": "fedcba98" * 4,
    }
    return encode_entry({**common, **times, **fields})


LATE_MS = 2**53 - 1
LONGEST = [
    longest(
        "msg.submit",
        msg=MSG,
        peer=PEER,
        com=[H, H],
        exp=LATE_MS,
        alert=ALERT,
        erase=LATE_MS,
        kind="statistics",
        urgency="immediate",
    ),
    longest(
        "msg.recv",
        env=H,
        verdict="ok",
        msg=MSG,
        peer=PEER,
        hh=H,
        inst="ab" * 8,
        ps=2**20,
        via="broker",
        com=[H, H],
        alert=ALERT,
    ),
    longest("msg.receipt", msg=MSG, step="delivered", at=LATE_MS, peer=PEER),
    longest("acc.export", alert=ALERT, actor=H, purpose="supervision", k=2**20, prev=2**20 - 1),
    longest(
        "content.erased",
        alert=ALERT,
        parts=["content", "outbox", "stick", "photos", "draft"],
        code="erase_due",
        actor=H,
        com=[H, H],
    ),
]


OFFICE_NAMES = [f"salween/{n:016x}/witness999999" for n in range(COSIGNERS_MAX)]
BROKER_NAME = f"{'n' * 32}/broker/{'b' * 32}/witness999999"


@pytest.mark.parametrize(("names", "more"), [(OFFICE_NAMES, 0), ([*OFFICE_NAMES[:2], BROKER_NAME], 48)])
@pytest.mark.parametrize("entry", LONGEST, ids=lambda entry: json.loads(entry)["t"])
def test_a_receipt_of_a_million_entries_is_at_most_2000_bytes(
    entry: bytes, names: list[str], more: int
) -> None:
    """With three cosigners, the longest names this program gives, and a path as deep as 2^20 entries need."""
    log = a_signer("salween/0123456789abcdef/log999999")
    witnesses = [a_signer(name, bytes([60 + n])) for n, name in enumerate(names)]
    head = Checkpoint(origin=log.name, size=2**20, root=b"\xff" * 32)
    note = sign_checkpoint(head, log) + b"".join(
        w.cosign(head.text, LATE_MS // 1000).encode().encode() for w in witnesses
    )
    path = tuple(bytes([n]) * 32 for n in range(20))
    data = Proof(index=2**20 - 1, path=path, checkpoint=for_paper(note)[0], extra=pack_entry(entry)).encode()
    assert for_paper(note) == (note, COSIGNERS_MAX)
    assert len(data) <= RECEIPT_BYTES_MAX + more


def test_paper_carries_three_short_cosignatures() -> None:
    """A fourth and the post-quantum ones stay in the published log."""
    key = MlDsa44PrivateKey.from_seed(SecretBytes(b"q" * 32))
    long = (
        PostQuantumSigner(name=WITNESSES[0].name, key=key).cosign(HEAD.text, 1_812_345_700).encode().encode()
    )
    note, count = for_paper(a_note() + long + a_note(*WITNESSES)[len(a_note()) :])
    assert (note, count) == (a_note(*WITNESSES[:3]), 3)


def test_a_broker_has_its_place_beside_partners() -> None:
    """Whatever the order in the note; and a checkpoint that both kinds cosigned is worth more."""
    brokers = [a_signer(f"test/broker/{n}/witness1", bytes([80 + n])) for n in range(3)]
    for signed, kept in (
        ([*WITNESSES, *brokers], [*WITNESSES[:2], brokers[0]]),
        ([brokers[0], *WITNESSES], [*WITNESSES[:2], brokers[0]]),
        ([*brokers, WITNESSES[0]], [WITNESSES[0], *brokers[:2]]),
        (brokers, brokers),
    ):
        assert for_paper(a_note(*signed)) == (a_note(*kept), 3)
    ranked = [a_note(), a_note(*brokers[:1]), a_note(*WITNESSES), a_note(WITNESSES[0], brokers[0])]
    assert sorted(ranked, key=worth) == ranked


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A receipt and a policy on a disk."""

    receipt: Path
    policy: Path


@pytest.fixture
def case(tmp_path: Path) -> Case:
    (tmp_path / "r.tlog-proof").write_bytes(a_receipt())
    (tmp_path / "policy").write_bytes(a_policy("two").encode())
    return Case(receipt=tmp_path / "r.tlog-proof", policy=tmp_path / "policy")


def test_the_command_says_what_a_receipt_proves(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """In words, with who saw it and when; 1 and the reason where it does not hold, 2 for what is none."""
    given = ["receipt", str(case.receipt), "--policy", str(case.policy)]
    assert _run([*given, "--event", "delivered"]) == 0
    words = capsys.readouterr().out
    for told in ("HOLDS", f"message {MSG}", "it is on its disk", "Seen by witness w1", "2027-06-07T05:21:40"):
        assert told in words
    assert "DOES NOT HOLD" not in words
    assert _run([*given, "--event", "erased", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["receipts"][0]["code"] == "wrong_event"
    assert _run(given[:2]) == 1
    assert "unknown_key" in capsys.readouterr().out
    case.receipt.write_bytes(b"paper")
    assert _run(given) == 2
    assert "bad_proof" in capsys.readouterr().err


@pytest.mark.parametrize("put_by", [b"\xef\xbb\xbf%s\r\n", b"%s", b"%s\n\n"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_text_that_another_program_saved_is_the_receipt(
    case: Case, capsys: pytest.CaptureFixture[str], put_by: bytes, line_end: bytes
) -> None:
    """Who reads the picture with a telephone keeps the text with its program, and its line ends."""
    case.receipt.write_bytes(put_by % a_receipt().rstrip(b"\n").replace(b"\n", line_end))
    assert _run(["receipt", str(case.receipt), "--policy", str(case.policy)]) == 0
    assert "HOLDS" in capsys.readouterr().out


def test_the_dictionary_of_the_packing_is_the_documents() -> None:
    """Who changes a byte of it makes every receipt on paper unreadable."""
    page = (ROOT / "docs/spec/log.md").read_text()
    assert f"{len(DICTIONARY)} bytes" in page
    assert sha256(DICTIONARY).hex() in page
