"""An invitation comes back as it was written, and a typing error is told from anything else."""

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from keys.errors import MalformedInput, PolicyRefused
from keys.invitation import INVITATION_LIFE_MS, Invitation, check_invitation, parse_invitation_untrusted
from keys.secret import SecretBytes
from tests.keys.builders import (
    NOW_MS,
    a_broker_address,
    drawn,
)
from tests.keys.mutations import near

EXPIRES_MS = NOW_MS + INVITATION_LIFE_MS


def an_invitation(**changes: Any) -> Invitation:
    fields: dict[str, Any] = {
        "broker_address": a_broker_address(),
        "secret": SecretBytes(drawn("secret", 16)),
        "token": SecretBytes(drawn("token", 32)),
        "expires_ms": EXPIRES_MS,
    }
    return Invitation(**{**fields, **changes})


LINE = an_invitation().encode()


def test_an_invitation_is_one_line_that_comes_back() -> None:
    """Copied with line breaks, spaces or capitals, it is still the same."""
    assert LINE.startswith("salween-invite1-")
    assert LINE.isascii()
    assert len(LINE) < 256
    for text in (LINE, f"  {LINE[:60]}\n   {LINE[60:]}\r\n", LINE.upper()):
        read = parse_invitation_untrusted(text)
        assert read.encode() == LINE
        assert read.broker_address == a_broker_address()
        assert read.secret.equals(SecretBytes(drawn("secret", 16)))
        assert read.token.equals(SecretBytes(drawn("token", 32)))
        check_invitation(read, EXPIRES_MS - 1)


def test_an_expired_invitation_is_told_from_a_mistyped_one() -> None:
    """The officer should know whether to type again or to ask for another."""
    with pytest.raises(PolicyRefused, match="invitation_expired"):
        check_invitation(parse_invitation_untrusted(LINE), EXPIRES_MS)
    with pytest.raises(MalformedInput, match="invitation_mistyped"):
        parse_invitation_untrusted(LINE[:-1])
    for text in ("", "hello", "salween://127.0.0.1:7440", LINE[1:], "x" * 5000):
        with pytest.raises(MalformedInput, match="invitation_malformed"):
            parse_invitation_untrusted(text)


def test_every_single_typing_error_is_noticed() -> None:
    """A character replaced, missing, doubled or swapped with its neighbour, anywhere behind the prefix."""
    start = len("salween-invite1-")
    for at in range(start, len(LINE)):
        replaced = LINE[:at] + ("a" if LINE[at] != "a" else "b") + LINE[at + 1 :]
        foreign = LINE[:at] + "0" + LINE[at + 1 :]
        missing = LINE[:at] + LINE[at + 1 :]
        doubled = LINE[:at] + LINE[at] + LINE[at:]
        swapped = LINE[:at] + LINE[at + 1 : at + 2] + LINE[at] + LINE[at + 2 :]
        for text in {replaced, foreign, missing, doubled, swapped} - {LINE}:
            with pytest.raises(MalformedInput, match="invitation_mistyped"):
                parse_invitation_untrusted(text)


@pytest.mark.parametrize("host", ["a", "ab", "abc", "abcd", "abcde"])
def test_an_invitation_has_one_spelling(host: str) -> None:
    """Bits that base32 has to spare at the end are zero, whatever the length."""
    line = an_invitation(broker_address=replace(a_broker_address(), host=host)).encode()
    for last in "abcdefghijklmnopqrstuvwxyz234567":
        if last != line[-1]:
            with pytest.raises(MalformedInput, match="invitation_mistyped"):
                parse_invitation_untrusted(line[:-1] + last)


@settings(max_examples=300)
@given(near(LINE.encode()).map(lambda data: data.decode("latin-1")))
def test_an_invitation_is_malformed_mistyped_or_itself(text: str) -> None:
    """Whatever is pasted."""
    with contextlib.suppress(MalformedInput):
        assert parse_invitation_untrusted(text).encode() == "".join(text.split()).lower()


@pytest.mark.parametrize(
    "changes", [{"port": 0}, {"host": "-bad-"}, {"host": "127.1"}, {"host": "UPPER"}, {"host": "::1%lo"}]
)
def test_an_invitation_with_a_right_checksum_is_still_checked(changes: dict[str, Any]) -> None:
    """Someone may compute the checksum over nonsense."""
    line = an_invitation(broker_address=replace(a_broker_address(), **changes)).encode()
    with pytest.raises(MalformedInput, match="invitation_malformed"):
        parse_invitation_untrusted(line)


def test_an_invitation_prints_no_secret() -> None:
    """Its text form is for ``encode`` alone."""
    assert "<secret 16 bytes>" in repr(an_invitation())
    assert drawn("token", 32).hex() not in repr(an_invitation())
