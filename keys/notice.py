"""A revocation that anybody can check: the root key and what it signed, as bytes, text and a file.

Spec: docs/spec/keys.md#notice. One rule: a notice proves itself. Whoever meets it, a broker that knows no
office or an office that is not paired with that one, verifies it with nothing else at hand; whether the
office is one of ours is decided elsewhere.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from keys import layout
from keys.card import (
    Revocation,
    encode_revocation,
    parse_revocation_untrusted,
    verify_revocation,
)
from keys.errors import MalformedInput
from keys.layout import Reader
from keys.primitives import COMPOSITE_PUBLIC_BYTES, sha256

_MAGIC: Final = b"SLWR"
_FORMAT: Final = 1
_CODE: Final = "notice_malformed"
NOTICE_BYTES_MAX: Final = 8_192
_TEXT_CHECK_BYTES: Final = 5
_TEXT_PREFIX: Final = "SALWEEN-NOTICE-1:"
# Four times what the longest notice takes: line breaks, indents, the sentence around it in a mail.
TEXT_BYTES_MAX: Final = 64 * 1024


class RevocationReason(StrEnum):
    """Why keys are revoked. A reason of a later version is kept and shown as it is."""

    NODE_STOLEN = "node_stolen"  # the machine is in other hands
    KEY_STOLEN = "key_stolen"  # somebody else may hold a copy of the keys
    KEY_LOST = "key_lost"  # nobody holds them any more
    RENEWED = "renewed"  # replaced in good order
    OFFICE_CLOSED = "office_closed"  # nobody comes back


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A revocation with the root key that signed it."""

    root_public: bytes  # composite, 1984 bytes
    revocation: Revocation


def encode_notice(notice: Notice) -> bytes:
    """The one encoding, at most 5.6 KB."""
    return b"".join(
        (
            _MAGIC,
            layout.u8(_FORMAT),
            layout.fixed(notice.root_public, COMPOSITE_PUBLIC_BYTES),
            encode_revocation(notice.revocation),
        )
    )


def parse_notice_untrusted(data: bytes) -> Notice:
    """Read a notice; MalformedInput (``notice_malformed``, ``revocation_malformed``). Proves nothing."""
    reader = Reader(data, _CODE)
    if len(data) > NOTICE_BYTES_MAX:
        reader.fail("is too long")
    reader.magic(_MAGIC, _FORMAT)
    root_public = reader.take(COMPOSITE_PUBLIC_BYTES)
    return Notice(
        root_public=root_public, revocation=parse_revocation_untrusted(data[5 + COMPOSITE_PUBLIC_BYTES :])
    )


def verify_notice(notice: Notice) -> None:
    """Raise VerificationFailed unless the root in it names the office in it, and signed it."""
    verify_revocation(notice.revocation, notice.root_public)


def notice_text(data: bytes) -> str:
    """A notice to paste into a letter: 64 characters a line, checked as a whole."""
    text = layout.base32(data + sha256(data)[:_TEXT_CHECK_BYTES]).upper()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join((_TEXT_PREFIX, *lines, "."))


def parse_notice_text_untrusted(text: str) -> bytes:
    """The notice in a pasted text or in the content of a file; MalformedInput (``notice_malformed``).

    Everything before the first line and after the closing full stop is passed over: mail programs add both.
    """
    if len(text.encode("utf-8", "replace")) > TEXT_BYTES_MAX:
        raise MalformedInput(_CODE, "This is no revocation notice: it is much too long.")
    _, found, rest = text.partition(_TEXT_PREFIX)
    body, closed, _ = rest.partition(".")
    if not found or not closed:
        raise MalformedInput(
            _CODE,
            f"There is no whole notice in this text: it begins with {_TEXT_PREFIX} and ends with a full stop."
            " Copy all of it.",
        )
    # A mail program's marks of quotation are no letters.
    data = layout.base32_bytes("".join(body.replace(">", " ").split()).lower()) or b""
    notice, check = data[:-_TEXT_CHECK_BYTES], data[-_TEXT_CHECK_BYTES:]
    if sha256(notice)[:_TEXT_CHECK_BYTES] != check:
        raise MalformedInput(_CODE, "The notice was damaged on its way: copy it again.")
    return notice
