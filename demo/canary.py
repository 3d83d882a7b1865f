"""A canary: random bytes that officers type into alerts, and the search for them where none may stand.

Spec: docs/threat-model.md#canary. A broker or a log that holds an alert in any form a program could have
made without meaning harm holds the canary in that form: plain, other case, hexadecimal, base64 at each of
its three alignments, UTF-16 in both orders, and all of these inside data that zlib, gzip or bare deflate
opens. One rule: a search that finds nothing counts only beside a search that found what was planted.
"""

import base64
import secrets
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CANARY_BYTES: Final = 64
# Searched in windows, because pages and blocks may cut a value anywhere: one window stays whole.
WINDOW_CHARS: Final = 16
INFLATED_BYTES_MAX: Final = 1 << 20
INFLATE_DEPTH_MAX: Final = 2  # compressed twice is found, three times is not
# Bare deflate has no mark: every offset of small data is tried, of larger data its first byte alone.
BARE_BYTES_MAX: Final = 1 << 17
_INFLATED_BYTES_MIN: Final = WINDOW_CHARS
_STEP_BYTES: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Where a canary stands: ``place`` is a file or row, ``form`` how it was written there."""

    place: str
    form: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """64 random bytes. ``word`` is what is typed: their base32, 103 letters and digits, any part of it."""

    word: str = field(repr=False)
    needles: tuple[tuple[str, bytes], ...] = field(repr=False)  # (form, bytes) for every window of the word

    @staticmethod
    def new() -> "Canary":
        """Fresh random bytes."""
        word = base64.b32encode(secrets.token_bytes(CANARY_BYTES)).decode().rstrip("=")
        starts = range(0, len(word) - WINDOW_CHARS + 1, WINDOW_CHARS)
        needles = [needle for start in starts for needle in _forms(word[start : start + WINDOW_CHARS])]
        return Canary(word=word, needles=tuple(needles))

    def search(self, data: bytes, place: str) -> list[Finding]:
        """Every form in which the canary stands in ``data``, each once."""
        found: dict[str, None] = {}
        self._look(data, "", INFLATE_DEPTH_MAX, found)
        return [Finding(place=place, form=form) for form in found]

    def _look(self, data: bytes, around: str, depth: int, found: dict[str, None]) -> None:
        for form, needle in self.needles:
            if needle in data:
                found[around + form] = None
        if depth:
            for container, inside in _inflated(data):
                self._look(inside, f"{around}{container} of ", depth - 1, found)

    def search_all(self, pieces: Iterable[tuple[str, bytes]]) -> "Search":
        """Look through ``pieces`` of (place, bytes)."""
        findings: list[Finding] = []
        count = size_bytes = 0
        for place, data in pieces:
            findings += self.search(data, place)
            count += 1
            size_bytes += len(data)
        return Search(findings=tuple(findings), pieces=count, size_bytes=size_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What was looked through, and what was found."""

    findings: tuple[Finding, ...]
    pieces: int
    size_bytes: int

    @property
    def forms(self) -> frozenset[str]:
        """In which forms something was found."""
        return frozenset(finding.form for finding in self.findings)


def files_below(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every regular file below ``root`` with its content; journals such as ``-wal`` are files like any."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(root.parent)), path.read_bytes()


def _forms(window: str) -> list[tuple[str, bytes]]:
    plain = window.encode()
    return [
        ("plain", plain),
        ("plain, lower case", plain.lower()),
        ("UTF-16LE", window.encode("utf-16-le")),
        ("UTF-16BE", window.encode("utf-16-be")),
        *coded(plain),
    ]


def coded(plain: bytes) -> list[tuple[str, bytes]]:
    """(form, bytes) of each way in which programs write bytes as text."""
    forms = [("hex", plain.hex().encode()), ("hex, upper case", plain.hex().upper().encode())]
    for shift in range(3):
        # What stands before and after decides over the outer characters; those in between stay.
        encoded = base64.b64encode(bytes(shift) + plain)
        first = -(-8 * shift // 6)
        last = 8 * (shift + len(plain)) // 6
        forms.append(("base64", encoded[first:last]))
    return forms


def _inflated(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Whatever opens as zlib, gzip or bare deflate, from wherever it begins."""
    for mark, container, window_bits in (
        (b"\x78", "zlib", 15),
        (b"\x58", "zlib", 15),
        (b"\x1f\x8b\x08", "gzip", 31),
    ):
        at = data.find(mark)
        while at >= 0:
            if container == "gzip" or (len(data) > at + 1 and not (data[at] << 8 | data[at + 1]) % 31):
                inside = _inflate(data, at, window_bits)
                if len(inside) >= _INFLATED_BYTES_MIN:
                    yield container, inside
            at = data.find(mark, at + 1)
    for at in range(len(data) if len(data) <= BARE_BYTES_MAX else 1):
        # Block types: 3 does not exist, and what compresses is not stored as it is (0).
        if 2 <= data[at] & 0b110 <= 4:
            inside = _inflate(data, at, -15)
            if len(inside) >= _INFLATED_BYTES_MIN:
                yield "deflate", inside


def _inflate(data: bytes, at: int, window_bits: int) -> bytes:
    """What comes out until the end or the first fault; a stream cut by a page still gives its beginning."""
    opener = zlib.decompressobj(window_bits)
    out = b""
    try:
        # In steps: nearly every offset of noise fails within the first, and a fault costs the last one only.
        while at < len(data) and not opener.eof and len(out) < INFLATED_BYTES_MAX:
            step = opener.unconsumed_tail + data[at : at + _STEP_BYTES]
            out += opener.decompress(step, INFLATED_BYTES_MAX)
            at += _STEP_BYTES
    except zlib.error:
        pass
    return out
