"""A notice proves itself wherever it is met, and survives letters, mail programs and careless copying."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.card import issue_revocation, parse_revocation_untrusted
from keys.errors import MalformedInput, VerificationFailed
from keys.notice import (
    NOTICE_BYTES_MAX,
    Notice,
    encode_notice,
    notice_text,
    parse_notice_text_untrusted,
    parse_notice_untrusted,
    verify_notice,
)
from tests.keys.builders import MALLORY, MYITKYINA

SIGNED = issue_revocation(MYITKYINA.root, revoked_below=2, since_ms=7, reason="node_stolen")
NOTICE = encode_notice(
    Notice(root_public=MYITKYINA.root.public_bytes, revocation=parse_revocation_untrusted(SIGNED))
)
TEXT = notice_text(NOTICE)


def test_a_notice_proves_itself_and_has_one_encoding() -> None:
    """Root, then the revocation, as docs/spec/keys.md says."""
    notice = parse_notice_untrusted(NOTICE)
    verify_notice(notice)
    assert encode_notice(notice) == NOTICE == b"SLWR\x01" + MYITKYINA.root.public_bytes + SIGNED


def test_the_longest_notice_fits() -> None:
    """200 bytes of reason."""
    longest = issue_revocation(MYITKYINA.root, revoked_below=2**32 - 1, since_ms=2**63, reason="x" * 200)
    assert len(longest) + 5 + 1984 < NOTICE_BYTES_MAX


def test_another_root_proves_nothing() -> None:
    """Neither its own root shown for our office, nor ours over its signature."""
    forged = issue_revocation(MALLORY.root, revoked_below=9, since_ms=7, reason="x")
    for root, signed in ((MYITKYINA.root, forged), (MALLORY.root, SIGNED)):
        with pytest.raises(VerificationFailed):
            verify_notice(parse_notice_untrusted(b"SLWR\x01" + root.public_bytes + signed))


@given(st.integers(0, len(NOTICE) * 8 - 1))
def test_no_bit_of_it_may_change(bit: int) -> None:
    """Each flipped bit is malformed or does not verify."""
    altered = bytearray(NOTICE)
    altered[bit // 8] ^= 1 << bit % 8
    with pytest.raises((MalformedInput, VerificationFailed)):
        verify_notice(parse_notice_untrusted(bytes(altered)))


@given(st.binary(max_size=4000))
def test_other_bytes_are_malformed(data: bytes) -> None:
    """Nothing else is raised."""
    with pytest.raises(MalformedInput):
        parse_notice_untrusted(data)


@pytest.mark.parametrize(
    "pasted",
    [
        TEXT,
        f"Dear colleague,\nplease apply:\n\n{TEXT}\n\nYours. Bye.",
        "\n".join(f"> {line}" for line in TEXT.splitlines()),
        TEXT.replace("\n", "\r\n  "),
    ],
    ids=["bare", "letter", "quoted", "indented"],
)
def test_the_text_survives_a_mail_program(pasted: str) -> None:
    """Greetings, quotation marks, indents."""
    assert parse_notice_text_untrusted(pasted) == NOTICE


@given(at=st.integers(18, len(TEXT) - 3), letter=st.sampled_from("ABCDEFGHIJ"))
def test_a_damaged_text_is_named_as_damaged(at: int, letter: str) -> None:
    """One letter changed is no other notice."""
    damaged = TEXT[:at] + letter + TEXT[at + 1 :]
    if "".join(damaged.split()) == "".join(TEXT.split()):
        return
    with pytest.raises(MalformedInput, match=r"damaged|no whole notice|notice_malformed"):
        parse_notice_text_untrusted(damaged)


@given(st.text(max_size=300))
def test_any_text_is_a_notice_or_malformed(text: str) -> None:
    """Whatever is pasted."""
    for tried in (text, f"SALWEEN-NOTICE-1:{text}."):
        with pytest.raises(MalformedInput):
            parse_notice_text_untrusted(tried)
