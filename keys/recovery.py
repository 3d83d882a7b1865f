"""The recovery sheet: the office's root key on paper, typed back in by a person.

Spec: docs/spec/keys.md#recovery-sheet. The 64-byte root seed in base32, groups of four, six groups to a
line, each line closed by two check letters over that line. One rule: a slip is told by the line it is in;
the office id printed above proves the whole. Holds no file and asks nobody.
"""

import base64
import re
from dataclasses import dataclass, field
from typing import Final

from keys.card import office_id
from keys.errors import MalformedInput
from keys.primitives import CompositePrivateKey, sha256
from keys.secret import SecretBytes

ROOT_SEED_BYTES: Final = 64
SHEET_BYTES_MAX: Final = 16 * 1024
_GROUP: Final = 4
_GROUPS_PER_LINE: Final = 6
_LETTERS: Final = -(-ROOT_SEED_BYTES * 8 // 5)  # 103, base32 without padding
_LINES: Final = -(-_LETTERS // (_GROUP * _GROUPS_PER_LINE))
_CHECK_LETTERS: Final = 2
_LINE: Final = re.compile(r"\s*([1-9])[\s.:)]\s*([A-Za-z0-9 \t]+?)\s*")
_OFFICE_ID: Final = re.compile(r"\s*Office id:\s*([0-9a-fA-F]{64})\s*")
# Base32 has no 0, 1 and 8: whoever types one meant the letter that looks like it.
_LOOKS_LIKE: Final = str.maketrans("018", "OIB")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverySheet:
    """What a sheet gives back."""

    office_id: bytes  # 32
    root_seed: SecretBytes = field(repr=False)

    def root(self) -> CompositePrivateKey:
        """The root key."""
        return CompositePrivateKey.from_seed(self.root_seed)


def encode_sheet(name: str, country: str, office: bytes, root_seed: SecretBytes) -> str:
    """The sheet to print."""
    text = base64.b32encode(root_seed.reveal()).decode().rstrip("=")
    step = _GROUP * _GROUPS_PER_LINE
    lines = []
    for start in range(0, len(text), step):
        row = _grouped(text[start : start + step])
        lines.append(f"  {start // step + 1}  {row}   {_check(row)}")
    return (
        f"SALWEEN RECOVERY SHEET\n\nOffice: {name} ({country})\nOffice id: {office.hex()}\n\n"
        "This is the root key of the office. Whoever holds it can be this office.\n"
        "Print two copies, seal them, keep them in two places. Then delete this file.\n\n"
        + "\n".join(lines)
        + "\n\nThe last two letters of a line check that line.\n"
    )


def parse_sheet_untrusted(data: bytes) -> RecoverySheet:
    """Read a sheet, printed or typed; spaces and case do not count, words around it neither.

    MalformedInput: ``sheet_line_mistyped`` and ``sheet_line_missing`` name the line; ``sheet_mismatch``
    when every line is right and another office's id stands above.
    """
    if len(data) > SHEET_BYTES_MAX:
        raise MalformedInput("sheet_malformed", "This file is too large to be a recovery sheet.")
    rows: dict[int, str] = {}
    stated: bytes | None = None
    for line in data.decode("utf-8", "replace").splitlines():
        named = _OFFICE_ID.fullmatch(line)
        if named is not None:
            stated = bytes.fromhex(named[1])
        match = _LINE.fullmatch(line)
        if match is not None:
            rows[int(match[1])] = _read_row(int(match[1]), match[2])
    for number in range(1, _LINES + 1):
        if number not in rows:
            raise MalformedInput(
                "sheet_line_missing",
                f"Line {number} of the recovery sheet is missing. A sheet has {_LINES} numbered lines;"
                " type each with its"
                " number.",
            )
    text = "".join(rows[number] for number in range(1, _LINES + 1))
    try:
        seed = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError as error:
        raise MalformedInput("sheet_malformed", "The recovery sheet does not decode.") from error
    root_seed = SecretBytes(seed)
    computed = office_id(CompositePrivateKey.from_seed(root_seed).public_bytes)
    if stated is not None and stated != computed:
        raise MalformedInput(
            "sheet_mismatch",
            "The lines of this recovery sheet and the office id above them belong to different offices."
            " Compare both"
            " with the paper.",
        )
    return RecoverySheet(office_id=computed, root_seed=root_seed)


def _read_row(number: int, typed: str) -> str:
    """The letters of one line without their check letters."""
    letters = re.sub(r"\s", "", typed).upper().translate(_LOOKS_LIKE)
    step = _GROUP * _GROUPS_PER_LINE
    wanted = min(step, _LETTERS - step * (number - 1)) if number <= _LINES else 0
    row, check = letters[:-_CHECK_LETTERS], letters[-_CHECK_LETTERS:]
    if len(row) != wanted or _check(_grouped(row)) != check:
        raise MalformedInput(
            "sheet_line_mistyped",
            f"Line {number} of the recovery sheet is mistyped: its letters and its two check letters do"
            " not fit. Compare"
            " that line with the paper.",
        )
    return row


def _grouped(letters: str) -> str:
    return " ".join(letters[i : i + _GROUP] for i in range(0, len(letters), _GROUP))


def _check(row: str) -> str:
    return base64.b32encode(sha256(row.encode()))[:_CHECK_LETTERS].decode()
