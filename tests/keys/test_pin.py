"""An officer's seed opens with that officer's PIN, in its own place, and with nothing else."""

import pytest
from hypothesis import given, settings

from keys import pin as pin_module
from keys.errors import MalformedInput, PolicyRefused
from keys.keystore import KdfParameters
from keys.pin import PIN_KDF, open_under_pin, seal_under_pin
from keys.secret import SecretBytes
from tests.keys.builders import drawn
from tests.keys.mutations import near

CHEAP = KdfParameters(memory_kib=8, iterations=1, lanes=1)
PIN = SecretBytes(b"482913")
SEED = drawn("officer seed", 32)


def sealed(kdf: KdfParameters = CHEAP) -> SecretBytes:
    return seal_under_pin(
        SecretBytes(SEED), PIN, subject="officer/7", random=lambda size: drawn("salt", size), kdf=kdf
    )


def test_the_right_pin_opens_the_seed() -> None:
    """At the real cost too, and the seed does not stand in the sealed form."""
    assert open_under_pin(sealed(), PIN, subject="officer/7").reveal() == SEED
    assert open_under_pin(sealed(PIN_KDF), PIN, subject="officer/7").reveal() == SEED
    assert SEED not in sealed().reveal()


@pytest.mark.parametrize("wrong", [b"", b"482914", b"4829130", b"9" * 65])
def test_a_wrong_pin_is_refused(wrong: bytes) -> None:
    """With the one code that a caller counts."""
    with pytest.raises(PolicyRefused, match="pin_wrong"):
        open_under_pin(sealed(), SecretBytes(wrong), subject="officer/7")


def test_a_seed_does_not_open_in_another_officers_place() -> None:
    """Whoever can write the keystore cannot give one officer another's key."""
    with pytest.raises(PolicyRefused, match="pin_wrong"):
        open_under_pin(sealed(), PIN, subject="officer/8")


def test_a_planted_cost_is_not_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters out of range are refused before the derivation runs."""
    data = sealed().reveal()
    planted = data[:5] + KdfParameters(memory_kib=2**31, iterations=9, lanes=1).encode() + data[14:]
    monkeypatch.setattr(pin_module, "argon2id", lambda *_, **__: pytest.fail("the derivation ran"))
    with pytest.raises(MalformedInput, match="pin_seal_malformed"):
        open_under_pin(SecretBytes(planted), PIN, subject="officer/7")


@settings(max_examples=200, deadline=None)
@given(near(sealed().reveal()[:5] + sealed().reveal()[14:]))
def test_any_fault_is_a_wrong_pin_or_malformed(data: bytes) -> None:
    """Never a different seed, never another error. The cost keeps its place and its value."""
    whole = data[:5] + CHEAP.encode() + data[5:]
    try:
        open_under_pin(SecretBytes(whole), PIN, subject="officer/7")
    except (PolicyRefused, MalformedInput) as error:
        outcome = error.code
    else:
        outcome = "opened" if whole == sealed().reveal() else "forged"
    assert outcome in ("pin_wrong", "pin_seal_malformed", "opened")
