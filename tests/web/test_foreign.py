"""Text from elsewhere: everything reaches the reader, nothing acts."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.web.foreign import foreign, plain, visible
from protocol.limits import COMBINING_RUN_MAX

TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


@given(st.text())
def test_nothing_is_lost_and_nothing_hidden_stays(text: str) -> None:
    """Plain pieces and escapes together are the text; no piece holds a control, private or bidi mark."""
    rebuilt = ""
    for piece, is_escape in visible(text):
        rebuilt += chr(int(piece[2:], 16)) if is_escape else piece
        if not is_escape:
            for char in piece:
                is_seen = unicodedata.category(char) not in ("Cc", "Co", "Cs")
                assert is_seen or char in "\t\n", repr(char)
                assert unicodedata.bidirectional(char) not in TURNING
    assert rebuilt == text
    foreign(text).encode("utf-8")
    plain(text).encode("utf-8")


@given(st.text(alphabet="<>&\"'{}%"))
def test_markup_is_text(text: str) -> None:
    """What comes out between the tags holds no tag of its own."""
    inside = foreign(text)[len("<bdi>") : -len("</bdi>")]
    assert "<" not in inside
    assert '"' not in inside


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("exe.\u202egnp", "exe.[U+202E]gnp"),
        ("a\u200bb", "a[U+200B]b"),
        ("ភាសា\u200bខ្មែរ", "ភាសា\u200bខ្មែរ"),
        ("မြန်\u200cမာ", "မြန်\u200cမာ"),
        ("\u200bไทย", "[U+200B]ไทย"),
        ("x\U000e0041y", "x[U+E0041]y"),
        ("line\nand\ttab", "line\nand\ttab"),
        ("\x1b[31mred\r", "[U+001B][31mred[U+000D]"),
        ("\ufeffa\u00adb", "[U+FEFF]a[U+00AD]b"),
        ("lone \ud800", "lone [U+D800]"),
        ("阿 云N·A1234", "阿 云N·A1234"),
        ("e" + "\u0301" * (COMBINING_RUN_MAX + 2), "e" + "\u0301" * COMBINING_RUN_MAX + "[U+0301]" * 2),
    ],
)
def test_what_cannot_be_seen_is_named(text: str, shown: str) -> None:
    """B32, B33, B36, B37. Joiners stay between letters of scripts that need them, nowhere else."""
    assert plain(text) == shown
