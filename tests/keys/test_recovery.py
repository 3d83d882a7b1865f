"""A recovery sheet comes back from paper, and a slip is told by its line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.card import office_id
from keys.errors import MalformedInput
from keys.primitives import CompositePrivateKey
from keys.recovery import encode_sheet, parse_sheet_untrusted
from keys.secret import SecretBytes

SEED = bytes(range(64))
OFFICE = office_id(CompositePrivateKey.from_seed(SecretBytes(SEED)).public_bytes)
SHEET = encode_sheet("Myitkyina BLO", "MM", OFFICE, SecretBytes(SEED))
LINES = [number for number, line in enumerate(SHEET.splitlines()) if line.strip()[:1].isdigit()]


def test_a_printed_sheet_gives_the_root_back() -> None:
    """Also typed small, without spaces, with digits that look like letters, and without the words."""
    typed = "\n".join(SHEET.splitlines()[n] for n in LINES)
    sloppy = "\n".join(
        f"{line.split()[0]} {''.join(line.split()[1:]).lower()}" for line in typed.splitlines()
    )
    for text in (SHEET, typed, sloppy, sloppy.replace("o", "0").replace("b", "8")):
        read = parse_sheet_untrusted(text.encode())
        assert (read.office_id, read.root_seed.reveal()) == (OFFICE, SEED)


@pytest.mark.parametrize("number", range(5))
def test_a_mistyped_or_missing_line_is_named(number: int) -> None:
    """One wrong letter in a line, or no such line."""
    lines = SHEET.splitlines()
    line = lines[LINES[number]]
    at = line.index(line.split()[1])
    wrong = line[:at] + ("A" if line[at] != "A" else "C") + line[at + 1 :]
    mistyped = "\n".join(wrong if text == line else text for text in lines)
    with pytest.raises(MalformedInput, match=f"Line {number + 1} of the recovery sheet is mistyped") as slip:
        parse_sheet_untrusted(mistyped.encode())
    assert slip.value.code == "sheet_line_mistyped"
    with pytest.raises(MalformedInput, match=f"Line {number + 1} of the recovery sheet is missing") as gap:
        parse_sheet_untrusted("\n".join(text for text in lines if text != line).encode())
    assert gap.value.code == "sheet_line_missing"


def test_lines_of_one_office_under_the_id_of_another_are_refused() -> None:
    """Two sheets mixed up."""
    with pytest.raises(MalformedInput) as mixed:
        parse_sheet_untrusted(SHEET.replace(OFFICE.hex(), "ab" * 32).encode())
    assert mixed.value.code == "sheet_mismatch"


@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """MalformedInput and nothing else."""
    with pytest.raises(MalformedInput):
        parse_sheet_untrusted(data)
