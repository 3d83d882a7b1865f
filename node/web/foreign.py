"""Text that somebody else wrote, made safe to look at: isolated, and what cannot be seen made visible.

One rule: every character reaches the reader, either as itself or as its code point in a box; none is
dropped in silence and none can reorder, hide or overprint the text around it. Escaping for HTML is here
and in Jinja's autoescape; nothing is decided about whether the text is true.
"""

import re
import unicodedata
from typing import Final

from markupsafe import Markup, escape

from protocol.limits import COMBINING_RUN_MAX

# Bidi controls, invisible operators, tags, variation and interlinear controls, private use, non-characters,
# controls other than tab and newline, and lone surrogates (which could not be encoded for the page at all).
_HIDDEN: Final = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\ud800-\udfff"
    "\ue000-\uf8ff\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
# Lao, Thai, Burmese and Khmer part their words with a zero-width space and join stacks with (non-)joiners.
_WORD_PARTING: Final = frozenset("\u200b\u200c\u200d")
_SCRIPTS_PARTED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\ua9e0-\ua9ff\uaa60-\uaa7f]"
)


def visible(text: str) -> list[tuple[str, bool]]:
    """``text`` in pieces (piece, is_escape); an escape reads ``U+202E``. Joining the plain pieces loses only
    what an escape names."""
    pieces: list[tuple[str, bool]] = []
    start = marks = 0
    for index, char in enumerate(text):
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        if marks > COMBINING_RUN_MAX or (_HIDDEN.match(char) and not _parts_words(text, index)):
            if start < index:
                pieces.append((text[start:index], False))
            pieces.append((f"U+{ord(char):04X}", True))
            start = index + 1
    if start < len(text):
        pieces.append((text[start:], False))
    return pieces


def _parts_words(text: str, index: int) -> bool:
    return (
        text[index] in _WORD_PARTING
        and 0 < index < len(text) - 1
        and _SCRIPTS_PARTED.match(text[index - 1]) is not None
        and _SCRIPTS_PARTED.match(text[index + 1]) is not None
    )


def foreign(text: object) -> Markup:
    """HTML of text from elsewhere: isolated in ``<bdi>``, invisible characters shown as boxed code points."""
    parts = [
        Markup('<span class="escape">{}</span>').format(piece) if is_escape else escape(piece)
        for piece, is_escape in visible(str(text))
    ]
    return Markup("<bdi>{}</bdi>").format(Markup().join(parts))


def plain(text: object) -> str:
    """The same for places that hold no markup (a title, an attribute, JSON beside a page)."""
    return "".join(f"[{piece}]" if is_escape else piece for piece, is_escape in visible(str(text)))
