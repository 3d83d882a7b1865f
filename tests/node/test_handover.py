"""What an office hands over: receipts of what its partners saw, and dossiers that open for an auditor alone.

Each handing over is an entry first. What is in the scope of a dossier opens for its auditor, what is not is
nowhere in it, and no byte of it can be altered.

Two verifiers that share no code judge each of them: ``salween-audit dossier``, and the one file that travels
in the folder, run by an interpreter that has ``cryptography`` and ``PyNaCl`` and nothing of ours.
"""

import asyncio
import json
import os
import random
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cryptography
import nacl
import pytest

from audit import store
from audit.dossier import (
    BRIDGE,
    CUSTODY,
    EVIDENCE,
    MANIFEST,
    REPORT_FACTS,
    SEAL,
    VERIFIER,
    Checked,
    _check_seal,
    beginnings,
    check_dossier,
    encode_auditor_public,
    encode_auditor_secret,
    is_in_scope,
    parse_manifest_untrusted,
    read_verifier,
    seal_opening,
)
from audit.policy import Policy, single_log_policy
from audit.reader import PublishedLog
from audit.receipt import Event, events_of, open_receipt_untrusted
from keys.errors import MalformedInput, PolicyRefused
from keys.primitives import XWingPrivateKey
from keys.secret import SecretBytes
from node import dossiers
from node.alerts import Alerts
from node.dossiers import Scope
from node.views import DossierView, ReceiptView
from protocol import limits
from protocol.alert import Alert, FreeText, Vehicle
from tests.node.offices import Offices, an_alert, check_log, entries, node_of, play
from tests.node.test_erasure import due
from tests.node.test_restore import begin_again
from tests.node.test_witness import policy_for
from tests.simulation.daemons import OfficeHost
from tests.simulation.env import EPOCH_MS
from tests.support.syntax_rules import ROOT

SEED, OTHER_SEED = SecretBytes(b"auditor seed, 32 bytes in length"), SecretBytes(b"o" * 32)
AUDITOR = XWingPrivateKey.from_seed(SEED)
INSIDE, OUTSIDE, GONE, ANSWERED = "KAINSIDE11", "KAOUTSIDE22", "KAGONE33", "KATHEIRS44"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A dossier of Myitkyina with its ids, and what the auditor got another way."""

    folder: Path
    policy: Policy
    view: DossierView
    inside: str
    outside: str
    gone: str
    theirs: str
    receipts: dict[str, ReceiptView]
    """By office and event, of the alert that is gone: ``here submitted``."""
    their_policy: Policy
    offered: dict[str, list[str]]
    lies: Path
    """The folders of LIES, each sealed and not what it says; and ``before``, of what came earlier."""


def worded(plate: str) -> Alert:
    """An alert whose plate and text stand nowhere else."""
    text = FreeText(language="en", text=f"Words about {plate}")
    return an_alert(plate).model_copy(update={"text": text, "entities": (Vehicle(plate=plate),)})


async def make(
    office: OfficeHost, folder: str, scope: Scope, public: bytes = AUDITOR.public_bytes
) -> DossierView:
    """A dossier, asked for by whoever is logged in."""
    assert office.session is not None
    session, line = office.session, encode_auditor_public(public)
    return await office.host.run(
        lambda env: node_of(office).dossiers.make(session, folder, line, scope, wait_ms=10 * limits.MINUTE_MS)
    )


Lie = Callable[[pytest.MonkeyPatch, str], None]


def chosen(change: Callable[[list[Any], Any], object]) -> Lie:
    """Another choice of alerts, made from the right one and a row of the alert out of scope."""

    def lie(patch: pytest.MonkeyPatch, outside: str) -> None:
        choose = dossiers.Dossiers._choose

        def other(self: Any, tx: Any, **given: Any) -> list[Any]:
            rows = choose(self, tx, **given)
            change(rows, (bytes.fromhex(outside), False, False))
            return rows

        patch.setattr(dossiers.Dossiers, "_choose", other)

    return lie


def done(where: object, name: str, instead: Callable[..., Any]) -> Lie:
    """Another act than the one of this name."""
    return lambda patch, outside: patch.setattr(where, name, instead)


async def nothing(*given: object) -> None:
    """Instead of an act."""


LIES: dict[str, tuple[Lie, str]] = {
    "left-out": (chosen(lambda rows, more: rows.pop()), "in scope, and not in the dossier"),
    "slipped-in": (chosen(lambda rows, more: rows.append(more)), "not in scope"),
    "ended": (done(dossiers, "_state_of", lambda *given: "ended"), "it is in this one"),
    "erased": (done(dossiers, "_state_of", lambda *given: "erased"), "the log has no erasure of it"),
    "no-receipts": (done(dossiers.Dossiers, "_write_receipts", nothing), "is missing"),
    "not-begun": (done(dossiers, "scope_digest", lambda told: "00" * 32), "was begun"),
    "not-told": (done(Alerts, "_chain", lambda *given: 0), "the log does not say so"),
    "other-words": (
        done(
            dossiers,
            "seal_opening",
            lambda key, name, salt, *words: seal_opening(key, name, bytes(32), *words),
        ),
        "not what the log committed to",
    ),
}
"""What an office could seal that is not true, with the words of what must be found."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One alert before the scope, one in it, one erased in it, and one that came."""
    home = tmp_path_factory.mktemp("dossier")
    found: list[Made] = []

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        (peer,) = await here.peers()
        outside = await here.send(worded(OUTSIDE))
        await asyncio.sleep(400)
        begin_ms = node_of(here)._env.clock.now_ms()
        inside = await here.send(worded(INSIDE))
        await too_early(here, inside.alert_id or "")
        gone = await here.send(due(worded(GONE), EPOCH_MS + 80 * limits.MINUTE_MS))
        await there.log_in()
        theirs = await there.send(worded(ANSWERED))
        await asyncio.sleep(300)
        await there.open_alert(gone.alert_id or "")
        await asyncio.sleep(75 * 60)
        for office in (here, there):
            await office.log_in()
        receipts, offered = {}, {}
        for name, office in (("here", here), ("there", there)):
            offered[name] = await offered_by(office, gone.alert_id or "")
            for event in offered[name]:
                receipts[f"{name} {event}"] = await receipt_of(office, gone.alert_id or "", event)
        with pytest.raises(PolicyRefused, match="receipt_nothing"):
            await receipt_of(there, gone.alert_id or "", "submitted")
        last = (await entries(here, "audit.export"))[-1]
        assert last.fields["digest"] == sha256(receipts["here erased"].file.encode()).hexdigest()
        assert last.fields["purpose"] == "receipt"
        await check_log(there)
        await refusals(here, begin_ms)
        scope = Scope(purpose="court", from_ms=begin_ms)
        view = await make(here, "/stick/dossier", scope)
        await check_log(here)
        exports = await entries(here, "audit.export", "acc.export")
        purposes = [entry.fields.get("purpose") for entry in exports]
        assert purposes[-4:] == ["dossier-begun", "court", "court", "dossier"]
        assert set(purposes[:-4]) == {"receipt"}
        assert exports[-1].fields["digest"] == view.digest
        for name, (lie, _) in LIES.items():
            with pytest.MonkeyPatch.context() as patch:
                lie(patch, outside.alert_id or "")
                await make(here, f"/stick/{name}", scope)
        before = Scope(purpose="court", to_ms=begin_ms, peer_id=bytes.fromhex(peer.office_id))
        await make(here, "/stick/before", before)
        for name in ("dossier", "before", *LIES):
            (manifest,) = here.host.disk.rglob(f"stick/{name}/{MANIFEST}")
            shutil.copytree(manifest.parent, home / name)
        ids = {"inside": inside, "outside": outside, "gone": gone, "theirs": theirs}
        found.append(
            Made(
                folder=home / "dossier",
                policy=await policy_for(here, there),
                view=view,
                receipts=receipts,
                lies=home,
                their_policy=await policy_for(there, here),
                offered=offered,
                **{name: sent.alert_id or "" for name, sent in ids.items()},
            )
        )

    play(home / "world", script)
    return found[0]


async def receipt_of(office: OfficeHost, alert_id: str, event: str) -> ReceiptView:
    """A receipt, asked for by whoever is logged in."""
    assert office.session is not None
    session = office.session
    return await office.host.run(lambda env: node_of(office).desk.receipt(session, alert_id, event))


async def offered_by(office: OfficeHost, alert_id: str) -> list[str]:
    """What receipts can be made of."""
    assert office.session is not None
    session = office.session
    listed = await office.host.run(lambda env: node_of(office).desk.events_of(session, alert_id))
    return list(dict.fromkeys(view.event for view in listed))


async def too_early(office: OfficeHost, alert_id: str) -> None:
    """A moment after sending there is a receipt under the log's own signature, and none that says more."""
    assert (await receipt_of(office, alert_id, "submitted")).witnesses == ()
    for named, event, code in (
        (alert_id, "witnessed", "receipt_not_witnessed"),
        (alert_id, "read", "receipt_nothing"),
        (alert_id, "sent", "receipt_nothing"),
        ("ab" * 32, "submitted", "alert_unknown"),
    ):
        with pytest.raises(PolicyRefused, match=code):
            await receipt_of(office, named, event)
    assert await offered_by(office, alert_id) == ["submitted"]


async def refusals(office: OfficeHost, begin_ms: int) -> None:
    """What makes no dossier, and leaves no entry."""
    before = len(await entries(office, "audit.export", "acc.export"))
    good = Scope(purpose="court", from_ms=begin_ms)
    for folder, scope, code in (
        ("/stick/a", replace(good, purpose="duty"), "reason_unknown"),
        ("/stick/a", replace(good, alerts=(bytes(32),)), "alert_unknown"),
        ("node/log", good, "dossier_place"),
    ):
        with pytest.raises(PolicyRefused, match=code):
            await make(office, folder, scope)
    with pytest.raises(MalformedInput, match="bad_auditor_key"):
        await make(office, "/stick/a", good, AUDITOR.public_bytes[:-1])
    assert len(await entries(office, "audit.export", "acc.export")) == before


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two libraries that the verifier needs, and no other package."""
    place = tmp_path_factory.mktemp("lone")
    for package in (cryptography, nacl):
        home = Path(package.__path__[0])
        (place / home.name).symlink_to(home)
    for part in Path(nacl.__path__[0]).parent.glob("*cffi*"):  # what PyNaCl stands on
        (place / part.name).symlink_to(part)
    return place


LONE = """
import runpy, sys
sys.path.append(sys.argv[1])
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Auditor:
    """The auditor's desk: a copy of the folder, policy and key as files, and both verifiers."""

    def __init__(self, made: Made, home: Path, lone: Path) -> None:
        self.made = made
        self.folder = home / "dossier"
        shutil.copytree(made.folder, self.folder)
        self.policy, self.key, self._lone = home / "policy", home / "key", lone
        self.trust(made.policy)
        self.key.write_text(encode_auditor_secret(SEED))

    def trust(self, policy: Policy) -> None:
        self.policy.write_bytes(policy.encode())
        self.trusted = policy

    def ours(self, key: XWingPrivateKey | None = AUDITOR) -> list[str]:
        """Findings of our own check."""
        return check_dossier(str(self.folder), self.trusted, key).findings

    def theirs(self, *more: str, with_key: bool = True) -> "subprocess.CompletedProcess[str]":
        """The single file, alone with its two libraries."""
        key = ["--key", str(self.key)] if with_key else []
        given = [str(self._lone), str(ROOT / "audit" / "standalone" / VERIFIER), str(self.folder)]
        base = getattr(sys, "_base_executable", sys.executable)
        return subprocess.run(
            [base, "-I", "-S", "-c", LONE, *given, "--policy", str(self.policy), *key, *more],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def auditor(made: Made, tmp_path: Path, lone: Path) -> Auditor:
    return Auditor(made, tmp_path, lone)


def test_every_event_of_an_alert_can_be_handed_over_at_both_offices(made: Made) -> None:
    """Submitted, witnessed, delivered, read, erased: each verifies, witnessed, under keys the other office
    pinned, and is small; at the receiver the same without the first."""
    events = [event.value for event in Event]
    assert made.offered == {"here": events, "there": ["delivered", "witnessed", "read", "erased"]}
    kinds = {}
    for name, view in made.receipts.items():
        office, event = name.split()
        policy = made.policy if office == "here" else made.their_policy
        receipt = open_receipt_untrusted(view.file.encode(), policy, Event(event))
        assert (receipt.head.quorum, len(view.file.encode()) <= 2000) == (True, True)
        assert (receipt.entry["seq"], receipt.entry["ts"] // 1000) == (view.index, view.at_ms)
        kinds[name] = " ".join([receipt.entry["t"], receipt.entry.get("step", "")]).strip()
    assert kinds == {
        "here submitted": "msg.submit",
        "here witnessed": "msg.submit",
        "here delivered": "msg.receipt delivered",
        "here read": "msg.receipt opened",
        "here erased": "content.erased",
        "there delivered": "msg.recv",
        "there witnessed": "msg.recv",
        "there read": "acc.read",
        "there erased": "content.erased",
    }
    assert made.receipts["here delivered"].peer_name == "Tengchong BLO"


def test_both_verifiers_take_an_honest_dossier(auditor: Auditor) -> None:
    """Nothing found; two alerts open, one is erased; the seal is countersigned; both say their words."""
    made = auditor.made
    checked = check_dossier(str(auditor.folder), auditor.trusted, AUDITOR)
    assert checked.findings == []
    assert (checked.openings, checked.cosigners, made.view.cosigners) == (2, ("partner",), 1)
    assert checked.receipts > 5
    assert checked.manifest is not None
    states = {(a.alert_id, a.way): a.state for a in checked.manifest.alerts}
    assert states == {
        (made.inside, "sent"): "opened",
        (made.gone, "sent"): "erased",
        (made.theirs, "received"): "opened",
    }
    told = auditor.theirs("--show")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.endswith("HOLDS\n")
    assert "FINDING" not in told.stdout
    shown = {line["alert"]: json.dumps(line) for line in map(json.loads, told.stdout.splitlines()[:2])}
    assert INSIDE in shown[made.inside]
    assert ANSWERED in shown[made.theirs]
    assert made.view.digest in told.stdout
    assert (auditor.folder / VERIFIER).read_bytes() == read_verifier()
    report = json.loads((auditor.folder / REPORT_FACTS).read_bytes())
    assert [(log["size"], log["directory"]) for log in report["logs"]] == [(made.view.entries, "log")]
    notes = json.loads((auditor.folder / EVIDENCE / CUSTODY).read_bytes())["notes"]
    assert len(notes) == 2, "one for each alert in scope that the broker took from here"


def test_what_is_out_of_scope_is_nowhere_in_a_dossier(auditor: Auditor) -> None:
    """Neither in a file nor behind the auditor's key; and what is in scope is in no file in the clear."""
    made = auditor.made
    told = auditor.theirs("--show").stdout
    everything = b"".join(path.read_bytes() for path in auditor.folder.rglob("*") if path.is_file())
    for plate in (OUTSIDE, GONE):
        assert plate not in told
    for plate in (INSIDE, OUTSIDE, GONE, ANSWERED, "Tengchong"):
        # The policy names the partner, and nothing else does.
        assert (plate.encode() in everything) == (plate == "Tengchong")
    names = {path.name for path in auditor.folder.rglob("*")}
    assert not any(name.startswith((made.outside, made.outside[:12])) for name in names)
    assert not list(auditor.folder.glob(f"openings/{made.gone}*"))
    assert len(list(auditor.folder.glob("openings/*"))) == 2


def test_a_dossier_of_one_partner_and_of_another_time_holds(made: Made, auditor: Auditor) -> None:
    """What came before the other one, and nothing else."""
    auditor.folder = made.lies / "before"
    checked = check_dossier(str(auditor.folder), auditor.trusted, AUDITOR)
    assert (checked.findings, checked.openings) == ([], 1)
    assert checked.manifest is not None
    assert [(a.alert_id, a.state) for a in checked.manifest.alerts] == [(made.outside, "opened")]
    told = auditor.theirs("--show")
    assert (told.returncode, OUTSIDE in told.stdout, INSIDE in told.stdout) == (0, True, False)


SCOPES: tuple[tuple[dict[str, Any], bool], ...] = (
    ({}, True),
    ({"from_ms": 1_700_000_000_000}, True),
    ({"from_ms": 1_700_000_000_001}, False),
    ({"to_ms": 1_700_000_000_001}, True),
    ({"to_ms": 1_700_000_000_000}, False),
    ({"peer": "aa" * 8}, True),
    ({"peer": "bb" * 8}, True),
    ({"peer": "cc" * 8}, False),
    ({"alerts": ["dd" * 32, "ee" * 32]}, True),
    ({"alerts": ["ee" * 32]}, False),
    ({"alerts": []}, False),
    ({"from_ms": 0, "peer": "cc" * 8}, False),
)


@pytest.mark.parametrize(("scope", "is_inside"), SCOPES)
def test_both_verifiers_mean_one_thing_by_a_scope(scope: dict[str, Any], is_inside: bool) -> None:
    """Of an alert to two offices: the first of its entries says when."""
    told = {"t": "msg.submit", "alert": "dd" * 32, "msg": "01" * 16, "com": []}
    entries = [
        {**told, "seq": 3, "ts": 1_700_000_000_000_999, "peer": "aa" * 8},
        {**told, "seq": 9, "ts": 1_800_000_000_000_000, "peer": "bb" * 8},
    ]
    ((named, began),) = beginnings(entries).items()
    other = runpy.run_path(str(ROOT / "audit" / "standalone" / VERIFIER), run_name="verifier")
    scope = {"purpose": "court", **scope}
    assert named == ("dd" * 32, "sent")
    assert is_in_scope(scope, "dd" * 32, began) == other["in_scope"](scope, entries) == is_inside


def test_a_message_under_our_number_takes_no_receipt_away() -> None:
    """Partners send alerts whose messages they call as one of ours: what is said of ours stays ours."""
    ours, theirs, message = "aa" * 32, "bb" * 32, "cc" * 16
    partner, other_partner = "dd" * 8, "ee" * 8
    came = {"t": "msg.recv", "alert": theirs, "msg": message, "verdict": "ok"}
    entries = [
        {"t": "msg.submit", "seq": 0, "alert": ours, "msg": message, "peer": partner},
        {**came, "seq": 1, "peer": partner},
        {"t": "msg.receipt", "seq": 2, "msg": message, "step": "opened", "peer": partner},
        {**came, "seq": 3, "peer": other_partner},
        {"t": "msg.receipt", "seq": 4, "msg": message, "step": "erased", "peer": other_partner},
    ]
    told = [(alert_id, event.value) for alert_id, event, _ in events_of(entries)]
    went, came_here = [(ours, "submitted"), (ours, "read")], [(theirs, "delivered"), (theirs, "erased")]
    assert told == [went[0], came_here[0], went[1], *came_here]
    other = runpy.run_path(str(ROOT / "audit" / "standalone" / VERIFIER), run_name="verifier")
    _, names = other["Dossier"]._events(SimpleNamespace(entries=entries), {ours, theirs})
    assert list(names) == [
        f"receipts/{alert_id}-{event}-{index}.tlog-proof" for index, (alert_id, event) in enumerate(told)
    ]


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1.5", "1e3", " 1", "01", '"\u00e9"', '{"a":1,"a":1}'])
def test_the_verifier_reads_one_spelling(text: str) -> None:
    """A number that is in no order with others would be in no scope."""
    other = runpy.run_path(str(ROOT / "audit" / "standalone" / VERIFIER), run_name="verifier")
    with pytest.raises(other["Bad"]):
        other["canonical"](text.encode())


async def alerts_flow(office: OfficeHost) -> None:
    """More than one between two looks at who countersigned."""
    for number in range(100):
        await office.send(worded(f"KAMORE{number}"))
        await asyncio.sleep(5)


def test_a_dossier_of_a_restored_office_says_what_its_ended_log_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What began in the log that ended is named and not opened; what came since is opened.

    Alerts come in all the while, so that the newest head of its log is never the one that was countersigned.
    """

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        before = [await here.send(worded(INSIDE)), await there.send(worded(ANSWERED))]
        await asyncio.sleep(300)
        await begin_again(here)
        await asyncio.sleep(600)
        await here.log_in()
        since = await here.send(worded(OUTSIDE))
        await asyncio.sleep(300)
        await here.log_in()
        scope = Scope(purpose="case", to_ms=node_of(here)._env.clock.now_ms())
        await there.log_in()
        monkeypatch.setattr(store, "PUBLISH_INTERVAL_S", 1.0)
        busy = asyncio.create_task(alerts_flow(there))
        view = await make(here, "/stick/dossier", scope)
        assert not busy.done()
        busy.cancel()
        assert (view.opened, view.ended, view.cosigners) == (1, 2, 1)
        (place,) = here.host.disk.rglob(f"stick/dossier/{MANIFEST}")
        policy = await policy_for(here, there)
        checked = check_dossier(str(place.parent), policy, AUDITOR)
        assert (checked.findings, checked.openings, len(checked.notes)) == ([], 1, 2)
        assert checked.manifest is not None
        assert {a.alert_id: a.state for a in checked.manifest.alerts} == {
            since.alert_id: "opened",
            **{sent.alert_id: "ended" for sent in before},
        }
        other = runpy.run_path(str(place.parent / VERIFIER), run_name="verifier")
        dossier = other["Dossier"](place.parent, other["Policy"](policy.encode().decode()))
        dossier.check()
        assert dossier.findings == []

    play(tmp_path, script)


def test_openings_open_for_the_auditor_alone(auditor: Auditor) -> None:
    """Another key opens none; a missing one leaves them closed and says so."""
    auditor.key.write_text(encode_auditor_secret(OTHER_SEED))
    assert any("another key" in finding for finding in auditor.ours(XWingPrivateKey.from_seed(OTHER_SEED)))
    other = auditor.theirs("--show")
    assert (other.returncode, "another key" in other.stdout, INSIDE in other.stdout) == (1, True, False)
    closed = auditor.theirs(with_key=False)
    assert (closed.returncode, "not opened" in closed.stdout) == (0, True)


@pytest.mark.parametrize("name", LIES)
def test_an_office_cannot_seal_what_its_log_does_not_say(made: Made, auditor: Auditor, name: str) -> None:
    """A manifest is judged by the log and not by who signed it: both find what is wrong, and nothing else."""
    auditor.folder = made.lies / name
    told = auditor.theirs()
    found = [line[13:] for line in told.stdout.splitlines() if line.startswith("FINDING ")]
    assert told.returncode == 1
    for findings in (auditor.ours(), found):
        assert findings
        assert all(LIES[name][1] in finding for finding in findings)


FORMS: dict[str, Callable[[dict[str, Any]], object]] = {
    "state": lambda made: made["alerts"][0].update(state="kept"),
    "twice": lambda made: made["alerts"].append(made["alerts"][0]),
    "alert": lambda made: made["alerts"][0].update(alert="../" * 21 + "a"),
    "scope": lambda made: made["scope"].update(but="ab" * 32),
    "purpose": lambda made: made["scope"].pop("purpose"),
    "path": lambda made: made["files"].insert(0, {**made["files"][0], "path": "../policy"}),
    "origin": lambda made: made.update(origin=made["origin"] + "\nHOLDS"),
    "root": lambda made: made.update(root="\nHOLDS"),
    "size": lambda made: made.update(size=-1),
    "time": lambda made: made.update(made_us=2**80),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_manifest_of_another_form_is_none(auditor: Auditor, name: str) -> None:
    """A state that nobody checks, a path out of the folder, words among what is printed: neither begins."""
    place = auditor.folder / MANIFEST
    manifest = json.loads(place.read_bytes())
    FORMS[name](manifest)
    place.write_bytes(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())
    told = auditor.theirs()
    assert (told.returncode, told.stdout) == (2, "")
    with pytest.raises(MalformedInput, match="bad_manifest"):
        auditor.ours()


def flipped(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    at = rng.randrange(8 * len(data))
    data[at // 8] ^= 1 << at % 8
    path.write_bytes(data)


def test_a_turned_bit_in_any_file_is_found_by_both(auditor: Auditor) -> None:
    """Every file of the folder, one after the other."""
    rng = random.Random(7)
    other = runpy.run_path(str(auditor.folder / VERIFIER), run_name="verifier")
    policy = other["Policy"](auditor.policy.read_text())
    for path in sorted(path for path in auditor.folder.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        flipped(path, rng)
        try:
            found = bool(auditor.ours(None))
        except MalformedInput:
            found = path.name == MANIFEST
        try:
            dossier = other["Dossier"](auditor.folder, policy)
            dossier.check()
            is_other = bool(dossier.findings)
        except (other["Bad"], ValueError, KeyError):
            is_other = path.name == MANIFEST
        assert (found, is_other) == (True, True), path
        path.write_bytes(whole)
    assert auditor.ours() == []


@pytest.mark.parametrize("name", [MANIFEST, SEAL, BRIDGE])
def test_every_byte_of_what_proves_the_rest_counts(auditor: Auditor, name: str) -> None:
    """These three are in no manifest: each of their bytes is turned."""
    path = auditor.folder / name
    whole = path.read_bytes()
    rng = random.Random(name)
    for at in rng.sample(range(len(whole)), min(len(whole), 150)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        checked = found_in_seal(auditor)
        assert checked, at


def found_in_seal(auditor: Auditor) -> bool:
    """Whether manifest, seal and bridge do not hold; the rest is not looked at again."""
    checked = Checked()
    try:
        data = (auditor.folder / MANIFEST).read_bytes()
        manifest = parse_manifest_untrusted(data)
    except MalformedInput:
        return True
    folder = PublishedLog(str(auditor.folder))
    _check_seal(folder, manifest, sha256(data).hexdigest(), auditor.trusted, checked)
    return bool(checked.findings)


Attack = str
ATTACKS: Sequence[Attack] = (
    "nothing",
    "bit:manifest.json",
    "bit:manifest.tlog-proof",
    "bit:log/checkpoint",
    "bit:log/tile/entries",
    "bit:openings",
    "missing:openings",
    "missing:log/archive",
    "extra",
    "swapped:openings",
    "resealed:openings",
    "stranger",
    "alone",
)


def attack(auditor: Auditor, how: Attack) -> None:
    """Do one thing to the folder, or to what the auditor trusts."""
    kind, _, where = how.partition(":")
    folder = auditor.folder
    place = folder / where
    files = sorted(path for path in ([place] if place.is_file() else place.rglob("*")) if path.is_file())
    if kind == "bit":
        flipped(files[0], random.Random(3))
    elif kind == "missing":
        files[0].unlink()
    elif kind == "extra":
        (folder / "log" / "tile" / "9").mkdir()
        (folder / "log" / "tile" / "9" / "000").write_bytes(b"more")
    elif kind in ("swapped", "resealed"):
        first, second = files[0].read_bytes(), files[1].read_bytes()
        files[0].write_bytes(second)
        files[1].write_bytes(first)
        if kind == "resealed":
            relist(folder)
    elif kind == "stranger":
        auditor.trust(single_log_policy(replace(auditor.trusted.logs[0], public=bytes(32))))
    elif kind == "alone":
        seal, lines = folder / SEAL, (folder / SEAL).read_text().splitlines(keepends=True)
        seal.write_text("".join(lines[:-1]))


def relist(folder: Path) -> None:
    """The manifest of somebody who alters files and lists them anew, but cannot sign."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    for each in manifest["files"]:
        each["sha256"] = sha256((folder / each["path"]).read_bytes()).hexdigest()
        each["bytes"] = (folder / each["path"]).stat().st_size
    (folder / MANIFEST).write_bytes(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize("how", ATTACKS)
def test_both_verifiers_agree(auditor: Auditor, how: Attack) -> None:
    """On the honest dossier and on every altered one."""
    attack(auditor, how)
    try:
        ours = 1 if auditor.ours() else 0
    except MalformedInput:
        ours = 2
    told = auditor.theirs()
    assert (told.returncode, how) == (ours, how), told.stdout + told.stderr
    assert (ours == 0) == (how == "nothing")
