"""The recovery sheet: the root key of an office on paper, written and typed back.

Spec: docs/spec/keys.md#recovery-sheet. One rule: a mistyped line is named, so that a person with one sheet of
paper and no node mends one line and not five. The two letters that check a line find slips, not forgeries;
whether the whole is the root of the office it names, its office id tells.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from keys import layout
from keys.card import office_id
from keys.errors import MalformedInput
from keys.primitives import CompositePrivateKey, sha256
from keys.secret import SecretBytes

SHEET_BYTES_MAX: Final = 16 * 1024
ROOT_SEED_BYTES: Final = 64
_CODE: Final = "recovery_sheet_malformed"
_GROUP: Final = 4
_GROUPS_PER_LINE: Final = 6
_LETTERS: Final = 103  # of 64 bytes in base32, without padding
_LINES: Final = 5
_CHECK_LETTERS: Final = 2
_LETTERS_ALLOWED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
# A key line begins with its number; prose does not. What stands behind the number is read whatever it is.
_KEY_LINE: Final = re.compile(r"\s*([1-9])[.:)]?\s+(\S.*)")
_ID_LINE: Final = re.compile(r"\s*office id\s*:\s*(.*)", re.IGNORECASE)
_NAME_LINE: Final = re.compile(r"\s*office\s*:\s*(.*?)(?:\s*\([A-Za-z]{2}\))?\s*", re.IGNORECASE)
# Base32 has no such digits: each was read off the paper for the letter that looks like it.
_LOOKALIKES: Final = str.maketrans("018", "OIB")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverySheet:
    """What a sheet says. ``name`` is empty when only the key lines were typed."""

    office_id: bytes
    name: str
    root_seed: SecretBytes = field(repr=False)


def encode_recovery_sheet(*, name: str, country: str, office_id: bytes, root_seed: SecretBytes) -> str:
    """The sheet to print: the root seed in base32 groups of four with two check letters per line."""
    lines = [f"  {number}  {row}   {_check(row)}" for number, row in enumerate(_rows(root_seed.reveal()), 1)]
    return (
        f"SALWEEN RECOVERY SHEET\n\nOffice: {name} ({country})\nOffice id: {office_id.hex()}\n\n"
        "This is the root key of the office. Whoever holds it can be this office.\n"
        "Print two copies, seal them, keep them in two places. Then delete this file.\n\n"
        + "\n".join(lines)
        + "\n\nThe last two letters of a line check that line.\n"
    )


def parse_recovery_sheet_untrusted(text: str) -> RecoverySheet:
    """Read a sheet as it was printed or typed; MalformedInput (``recovery_sheet_malformed``) names the line.

    Capitals, spacing and everything around the numbered lines are free. An office id that is on the sheet
    must be the one of its key.
    """
    if len(text.encode("utf-8", "replace")) > SHEET_BYTES_MAX:
        raise MalformedInput(_CODE, "This is no recovery sheet: it is much too long.")
    rows: dict[int, str] = {}
    shown_id, name = "", ""
    for line in text.splitlines():
        if (named := _ID_LINE.fullmatch(line)) is not None:
            shown_id = "".join(named[1].split()).lower()
        elif (named := _NAME_LINE.fullmatch(line)) is not None:
            name = named[1]
        elif (keyed := _KEY_LINE.fullmatch(line)) is not None and int(keyed[1]) <= _LINES:
            number = int(keyed[1])
            row = _read_row(number, keyed[2])
            if rows.setdefault(number, row) != row:
                raise MalformedInput(_CODE, f"Line {number} of the sheet is there twice and differs.")
    missing = [str(number) for number in range(1, _LINES + 1) if number not in rows]
    if missing:
        raise MalformedInput(
            _CODE, f"Of the five lines of the sheet these are missing: {', '.join(missing)}."
        )
    seed = _decode("".join(rows[number] for number in range(1, _LINES + 1)))
    root_id = office_id(CompositePrivateKey.from_seed(seed).public_bytes)
    if shown_id and shown_id != root_id.hex():
        raise MalformedInput(
            _CODE,
            "The lines are right each by itself, but they are not the key of the office id on this sheet."
            " Compare the office id, and whether lines of two sheets were mixed.",
        )
    return RecoverySheet(office_id=root_id, name=name, root_seed=seed)


def _rows(seed: bytes) -> list[str]:
    text = layout.base32(seed).upper()
    groups = [text[at : at + _GROUP] for at in range(0, len(text), _GROUP)]
    return [" ".join(groups[at : at + _GROUPS_PER_LINE]) for at in range(0, len(groups), _GROUPS_PER_LINE)]


def _check(row: str) -> str:
    return layout.base32(sha256(row.encode())).upper()[:_CHECK_LETTERS]


def _read_row(number: int, typed: str) -> str:
    """The letters of one line, without its check; MalformedInput when it does not check."""
    letters = "".join(typed.split()).upper().translate(_LOOKALIKES)
    full = _GROUP * _GROUPS_PER_LINE
    expected = (full if number < _LINES else _LETTERS - full * (_LINES - 1)) + _CHECK_LETTERS
    if len(letters) != expected:
        raise MalformedInput(
            _CODE,
            f"Line {number} of the sheet is mistyped: it has {len(letters)} letters, and should have"
            f" {expected} with the two that check it.",
        )
    body, check = letters[:-_CHECK_LETTERS], letters[-_CHECK_LETTERS:]
    row = " ".join(body[at : at + _GROUP] for at in range(0, len(body), _GROUP))
    if _check(row) != check:
        raise MalformedInput(
            _CODE,
            f"Line {number} of the sheet is mistyped: its last two letters do not check it."
            " Compare it with the paper letter by letter.",
        )
    return body


def _decode(letters: str) -> SecretBytes:
    if not _LETTERS_ALLOWED.issuperset(letters):
        raise MalformedInput(_CODE, "The sheet holds letters that no sheet has.")
    seed = layout.base32_bytes(letters.lower())
    if seed is None or len(seed) != ROOT_SEED_BYTES:
        raise MalformedInput(_CODE, f"Line {_LINES} of the sheet is mistyped: its last letter cannot be.")
    return SecretBytes(seed)
