"""Operator tokens: what people copy comes back whole or is refused in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import MalformedInput
from keys.secret import SecretBytes
from protocol.tokens import encode_token, parse_token_untrusted


@given(st.binary(min_size=32, max_size=32))
def test_a_token_survives_copying_in_capitals_and_pieces(token: bytes) -> None:
    """Whatever line breaks and capitals copying adds, the same 32 bytes come back."""
    text = encode_token(SecretBytes(token))
    for copied in (text, text.upper(), f" {text[:30]}\n{text[30:]} "):
        assert parse_token_untrusted(copied).reveal() == token


@given(st.text(max_size=200))
def test_any_other_text_is_malformed_and_nothing_else(text: str) -> None:
    """The parser raises MalformedInput alone."""
    with pytest.raises(MalformedInput):
        parse_token_untrusted(text)


def test_one_wrong_character_is_told_apart_from_no_token() -> None:
    """A typing error is named as one."""
    text = encode_token(SecretBytes(bytes(range(32))))
    wrong = text[:40] + ("b" if text[40] == "a" else "a") + text[41:]
    with pytest.raises(MalformedInput) as caught:
        parse_token_untrusted(wrong)
    assert caught.value.code == "token_mistyped"
