"""The recovery sheet: what was printed is read back however it is typed, and a slip is named by its line."""

import base64
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.card import office_id
from keys.errors import MalformedInput
from keys.primitives import CompositePrivateKey, sha256
from keys.recovery_sheet import encode_recovery_sheet, parse_recovery_sheet_untrusted
from keys.secret import SecretBytes

SEED = SecretBytes(bytes(range(64)))
ID = office_id(CompositePrivateKey.from_seed(SEED).public_bytes)
SHEET = encode_recovery_sheet(name="Myitkyina Liaison (Kachin)", country="MM", office_id=ID, root_seed=SEED)
KEY_LINES = [line for line in SHEET.splitlines() if line.startswith("  ")]
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def test_a_printed_sheet_reads_back() -> None:
    """Office, name and seed, as they were printed."""
    sheet = parse_recovery_sheet_untrusted(SHEET)
    assert (sheet.office_id, sheet.name) == (ID, "Myitkyina Liaison (Kachin)")
    assert sheet.root_seed.reveal() == SEED.reveal()


def test_the_sheet_stays_as_it_was_first_printed() -> None:
    """Papers outlive programs: this is a line of the first version, and its check letters."""
    assert KEY_LINES[0] == "  1  AAAQ EAYE AUDA OCAJ BIFQ YDIO   2D"
    assert len(KEY_LINES) == 5


@pytest.mark.parametrize(
    "typed",
    [
        "\n".join(reversed(KEY_LINES)),
        SHEET.lower(),
        SHEET.replace("   ", " ").replace("\n", "\r\n"),
        "\n".join(
            line[:5] + line[5:].replace("O", "0").replace("I", "1").replace("B", "8") for line in KEY_LINES
        ),
    ],
    ids=["order", "small", "spacing", "lookalikes"],
)
def test_how_it_is_typed_does_not_matter(typed: str) -> None:
    """Order, capitals, spaces, and the digits a tired eye reads for letters."""
    assert parse_recovery_sheet_untrusted(typed).root_seed.reveal() == SEED.reveal()


def test_a_letter_of_another_script_is_a_slip_also_where_the_check_letters_agree() -> None:
    """A letter that no sheet has, and the check letters worked out for it."""
    groups = KEY_LINES[0].split()[1:-1]
    groups[0] = "\u1000" + groups[0][1:]
    row = " ".join(groups)
    check = base64.b32encode(sha256(row.encode())).decode()[:2]
    with pytest.raises(MalformedInput, match="recovery_sheet_malformed"):
        parse_recovery_sheet_untrusted("\n".join([f"1 {row} {check}", *KEY_LINES[1:]]))


@given(line=st.integers(0, 4), seed=st.integers(0, 2**32))
def test_a_slip_names_its_line(line: int, seed: int) -> None:
    """One letter wrong, or left out: the error says which line, unless its two letters happen to agree."""
    dice = random.Random(seed)
    head, body = KEY_LINES[line][:5], KEY_LINES[line][5:]
    at = dice.choice([at for at, letter in enumerate(body) if letter != " "])
    wrong = dice.choice([letter for letter in ALPHABET if letter != body[at]] + [""])
    typed = list(KEY_LINES)
    typed[line] = head + body[:at] + wrong + body[at + 1 :]
    with pytest.raises(MalformedInput) as caught:
        parse_recovery_sheet_untrusted(f"Office id: {ID.hex()}\n" + "\n".join(typed))
    assert caught.value.code == "recovery_sheet_malformed"
    assert f"Line {line + 1} " in caught.value.detail or "each by itself" in caught.value.detail


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "1, 2, 3, 4, 5"),
        ("\n".join(KEY_LINES[:4]), "missing: 5"),
        (SHEET.replace(ID.hex(), "00" * 32), "two sheets"),
        (SHEET + KEY_LINES[0].replace("AAAQ", "AAAR"), "Line 1"),
        ("x" * 20_000, "too long"),
    ],
)
def test_what_is_no_sheet_is_refused(text: str, says: str) -> None:
    """Missing lines, another office, an essay."""
    with pytest.raises(MalformedInput) as caught:
        parse_recovery_sheet_untrusted(text)
    assert caught.value.code == "recovery_sheet_malformed"
    assert says in caught.value.detail


@given(st.text(max_size=400))
def test_any_text_is_a_sheet_or_malformed(text: str) -> None:
    """Whatever is typed, nothing else is raised."""
    with pytest.raises(MalformedInput):
        parse_recovery_sheet_untrusted(text)
