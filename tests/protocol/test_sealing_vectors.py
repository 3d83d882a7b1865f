"""The recorded envelopes of tests/vectors/envelopes, one fault and one answer each."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keys import trust
from keys.card import parse_certificate_untrusted, parse_officer_list_untrusted
from keys.errors import SalweenError
from keys.trust import PairState, TrustedPeer
from protocol import limits
from protocol.conversation import Judgement
from protocol.release import ReleasePolicy
from protocol.sealing import OpenedAlert, OpenedMessage, PendingPair, Refused, open_envelope_untrusted
from tests.protocol.offices import MYITKYINA, TENGCHONG, Desk
from tests.vectors import make_envelopes

FILES = sorted(path for path in make_envelopes.FOLDER.glob("*.json") if path.name != "recipient.json")


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def desk_of(knows: dict[str, Any]) -> Desk:
    """The recipient of recipient.json, with what one file says it knows besides."""
    known = read(make_envelopes.FOLDER / "recipient.json")
    peer = TrustedPeer(
        office_id=bytes.fromhex(known["peer_office_id"]),
        root_public=bytes.fromhex(known["peer_root_public"]),
        certificates=(),
        officer_lists=(),
        revoked_below=0,
        minimum_suite=knows.pop("minimum_suite", 1),
        state=PairState[knows.pop("state", "active").upper()],
        since_ms=0,
    )
    certificate = parse_certificate_untrusted(bytes.fromhex(known["peer_certificate"]))
    peer = trust.accept_certificate(peer, certificate, known["now_ms"])
    officers = parse_officer_list_untrusted(bytes.fromhex(known["peer_officer_list"]))
    peer = trust.accept_officer_list(peer, officers)
    peer = replace(peer, revoked_below=knows.pop("revoked_below", 0))
    desk = Desk(
        known=peer,
        now_ms=knows.pop("now_ms", known["now_ms"]),
        judgement=Judgement(knows.pop("judgement", "new")),
        deleted=frozenset({TENGCHONG.receive_key_id} if knows.pop("deleted", False) else ()),
        policy=ReleasePolicy(emergency_allowed=knows.pop("emergency_allowed", True)),
    )
    assert not knows, "a file says something this test does not read"
    return desk


def answer(envelope: bytes, desk: Desk) -> tuple[str, str]:
    """(outcome, code) as a file states them: type and code of a result, family and code of junk."""
    try:
        result = open_envelope_untrusted(envelope, desk)
    except SalweenError as error:
        return type(error).__name__, error.code
    match result:
        case Refused(code=code) | PendingPair(code=code):
            return type(result).__name__, code
        case OpenedAlert(marks=marks) | OpenedMessage(marks=marks):
            return type(result).__name__, " ".join(sorted(marks))
    return type(result).__name__, ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_recorded_envelope_gets_its_one_answer(path: Path) -> None:
    """One fault, one expected outcome and code, for ever."""
    case = read(path)
    got = answer(base64.b64decode(case["envelope"]), desk_of(case["knows"]))
    assert got == (case["outcome"], case["code"]), case["about"]


def test_the_files_are_the_ones_the_script_makes() -> None:
    """A case added to the script without its file, or the other way round, is noticed."""
    cases = {case.name: case for case in make_envelopes.cases()}
    assert len(cases) == len(make_envelopes.cases())
    assert {path.stem for path in FILES} == set(cases)
    for path in FILES:
        case, file = cases[path.stem], read(path)
        assert (case.about, case.outcome, case.code) == (file["about"], file["outcome"], file["code"])
        assert len(base64.b64decode(file["envelope"])) == len(case.envelope)


def test_what_the_recipient_knows_is_what_the_seeds_give() -> None:
    """The recorded keys are those of the offices in these tests; certificates differ in randomised bytes."""
    known = read(make_envelopes.FOLDER / "recipient.json")
    assert known["peer_office_id"] == MYITKYINA.id.hex()
    assert known["office_id"] == TENGCHONG.id.hex()
    assert known["peer_root_public"] == MYITKYINA.root.public_bytes.hex()


def test_every_step_of_opening_has_a_file_that_fails_at_it() -> None:
    """Junk, waiting, refused, duplicate, opened: no outcome of the spec is without a recorded envelope."""
    outcomes = {read(path)["outcome"] for path in FILES}
    assert outcomes == {
        "MalformedInput",
        "VerificationFailed",
        "UnknownKey",
        "LateDuplicate",
        "PendingCard",
        "PendingPair",
        "PendingOfficerList",
        "Duplicate",
        "Equivocation",
        "Refused",
        "ResetNotNewer",
        "OpenedAlert",
        "OpenedMessage",
        "OpenedBodyless",
    }


def test_all_four_sizes_are_recorded() -> None:
    """Each bucket is opened at least once."""
    sizes = {len(base64.b64decode(read(path)["envelope"])) for path in FILES}
    assert set(limits.ENVELOPE_BUCKETS_BYTES) <= sizes
