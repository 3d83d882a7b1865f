"""The recorded pairings of tests/vectors/ceremonies.json, played again from each side."""

import pytest

from keys import pairing
from keys.bundle import encode_signed_bundle
from keys.primitives import XWingPrivateKey
from keys.rendezvous import from_item_untrusted, seal_item, to_item
from keys.secret import SecretBytes
from tests.vectors import make_ceremonies
from tests.vectors.make_ceremonies import Recorded

RECORDED = make_ceremonies.read_file()
VOICE, PERSON = RECORDED["voice"], RECORDED["person"]
_FAULTS = [(how, fault) for how, recorded in RECORDED.items() for fault in recorded["faults"]]


def test_the_inviter_by_voice_says_the_same_again() -> None:
    """P1 and P3 to the byte, the same transcript and code; and it takes the joiner's confirmation."""
    _, p1 = make_ceremonies.inviter_by_voice(VOICE)
    compares, p3 = make_ceremonies.compares_by_voice(VOICE)
    assert (p1.hex(), p3.hex()) == (VOICE["P1"], VOICE["P3"])
    assert (compares.transcript.hex(), compares.own_code) == (VOICE["transcript"], VOICE["codes"]["inviter"])
    confirms = compares.compare(VOICE["codes"]["joiner"])
    paired = confirms.receive_confirmation(to_item(bytes.fromhex(VOICE["P4"]["joiner"])))
    assert paired.evidence.hex() == VOICE["pair_ok"]["joiner"]


def test_the_joiner_by_voice_comes_to_the_same() -> None:
    """P2 is to the offer's key; behind P3 the same transcript; and it takes the inviter's confirmation."""
    compares = make_ceremonies.joiner_by_voice(VOICE).receive_reveal(to_item(bytes.fromhex(VOICE["P3"])))
    assert (compares.transcript.hex(), compares.own_code) == (VOICE["transcript"], VOICE["codes"]["joiner"])
    confirms = compares.compare(VOICE["codes"]["inviter"])
    paired = confirms.receive_confirmation(to_item(bytes.fromhex(VOICE["P4"]["inviter"])))
    assert paired.evidence.hex() == VOICE["pair_ok"]["inviter"]


def test_both_in_person_say_the_same_again() -> None:
    """M1 and M3 to the byte, the same mailboxes and transcript; each takes the other's confirmation."""
    joining, m1 = make_ceremonies.joiner_in_person(PERSON)
    assert m1.hex() == PERSON["M1"]
    place = make_ceremonies.meeting_place(PERSON)
    assert place == {name: PERSON[name] for name in place}
    recognises = make_ceremonies.recognises_in_person(PERSON)
    assert recognises.transcript.hex() == PERSON["transcript"]
    recognises.confirmed().receive_confirmation(to_item(bytes.fromhex(PERSON["P4"]["joiner"])))
    # The joiner signs its bundle anew each time, so its M3 opens to another one than the recorded.
    bundle = to_item(bytes.fromhex(PERSON["M2"]))
    recognised, m3 = joining.receive_bundle(bundle, bytes.fromhex(PERSON["M3_nonce"]))
    assert (recognised.channel_key.reveal().hex(), len(m3)) == (
        PERSON["k"],
        len(to_item(bytes.fromhex(PERSON["M3"]))),
    )
    assert encode_signed_bundle(recognised.peer).hex() == PERSON["bundle"]["inviter"]
    assert (
        XWingPrivateKey.from_seed(SecretBytes(bytes.fromhex(PERSON["ephemeral_seed"]))).public_bytes
        == (bytes.fromhex(PERSON["M1"])[5:])
    )


@pytest.mark.parametrize(("how", "recorded"), list(RECORDED.items()), ids=list(RECORDED))
def test_a_confirmation_is_sealed_to_the_same_bytes(how: str, recorded: Recorded) -> None:
    """P4 of both sides, from the recorded pair-ok and nonce."""
    confirms = (
        make_ceremonies.compares_by_voice(recorded)[0].compare(recorded["codes"]["joiner"])
        if how == "voice"
        else make_ceremonies.recognises_in_person(recorded).confirmed()
    )
    roles: tuple[pairing.Role, ...] = ("inviter", "joiner")
    for role in roles:
        key = pairing._confirmation_key(confirms.channel_key, confirms.transcript, role)
        nonce, pair_ok = (bytes.fromhex(recorded[part][role]) for part in ("P4_nonce", "pair_ok"))
        item = seal_item(b"SLP4", key, nonce, pair_ok, confirms.transcript)
        assert from_item_untrusted(item).hex() == recorded["P4"][role]


@pytest.mark.parametrize(
    ("how", "fault"), _FAULTS, ids=[f"{how}: {f['message']}: {f['about']}" for how, f in _FAULTS]
)
def test_each_faulty_message_gets_its_one_code(how: str, fault: dict[str, str]) -> None:
    """To the side that would receive it, at the step where it is due."""
    assert make_ceremonies.code_of(how, RECORDED[how], fault) == fault["code"], fault["about"]


def test_the_file_is_what_the_script_makes() -> None:
    """Whatever no library draws is the same in each run; the faults made anew have the codes recorded."""
    for how, made in make_ceremonies.ceremonies().items():
        recorded = RECORDED[how]
        assert made.keys() == recorded.keys()
        for name in ("ephemeral_seed", "k", "P3_nonce", "M3_nonce", "P4_nonce", "M1", "to_joiner_put"):
            assert made.get(name) == recorded.get(name), name
        described = [
            [(f["to"], f["message"], f["about"], f["code"]) for f in r["faults"]] for r in (made, recorded)
        ]
        assert described[0] == described[1]
        for fault in made["faults"]:
            assert make_ceremonies.code_of(how, made, fault) == fault["code"], fault["about"]
