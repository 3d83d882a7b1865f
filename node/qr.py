"""Codes as pictures: a meeting code, for a terminal and for a page; a file that takes turns on a screen; a
receipt on paper.

Spec: docs/spec/pairing.md#in-person, docs/spec/stick.md#pictures. One rule: a picture holds bytes, not their
text, so that 180 of them still fit one that a cheap camera reads (53 modules a side, medium correction).
"""

import io
import itertools
import struct
import zlib
from collections.abc import Iterable, Sequence

import segno

_CORRECTION = "m"
_ON_PAPER = "l"
_FILM_VERSION = 15  # holds FRAME_BYTES_MAX at that correction, in 77 modules a side
_PNG = b"\x89PNG\r\n\x1a\n"
_QUIET_MODULES = 4


def qr_terminal(encoded: bytes) -> str:
    """Two modules a character, in the colours of the terminal: a reader takes either way round."""
    out = io.StringIO()
    _make(encoded).terminal(out=out, border=_QUIET_MODULES, compact=True)
    return out.getvalue()


def qr_svg(encoded: bytes) -> bytes:
    """Black on white whatever the colours of the page: a camera of a cheap laptop wants the contrast."""
    out = io.BytesIO()
    _make(encoded).save(
        out,
        kind="svg",
        border=_QUIET_MODULES,
        scale=8,
        dark="#000",
        light="#fff",
        svgclass=None,
        lineclass=None,
    )
    return out.getvalue()


def qr_markup(encoded: bytes) -> str:
    """A picture as part of a page, as wide as the page lets it be: up to 2,953 bytes. Correction is low: a
    printer draws finer than a screen, and paper is read by better cameras."""
    out = io.BytesIO()
    _make(encoded, _ON_PAPER).save(
        out,
        kind="svg",
        border=_QUIET_MODULES,
        dark="#000",
        light="#fff",
        svgclass=None,
        lineclass=None,
        xmldecl=False,
        omitsize=True,
    )
    return out.getvalue().decode()


def _make(encoded: bytes, correction: str = _CORRECTION) -> segno.QRCode:
    return segno.make_qr(encoded, error=correction, mode="byte", boost_error=False)


def qr_film(frames: Sequence[bytes], shown_ms: int) -> tuple[bytes, int]:
    """Pictures of these as one that moves, without any script: an APNG, and its side in pixels.

    Frames of FRAME_BYTES_MAX at most; one pixel a module, all of one version, so that nothing jumps. Source:
    https://www.w3.org/TR/png-3/#apng-frame-based-animation
    """
    codes = [
        segno.make_qr(frame, error=_CORRECTION, mode="byte", version=_FILM_VERSION, boost_error=False)
        for frame in frames
    ]
    side_px = len(codes[0].matrix) + 2 * _QUIET_MODULES
    numbers = itertools.count()
    film = [
        _PNG,
        _chunk(b"IHDR", struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)),  # one bit of grey a pixel
        _chunk(b"acTL", struct.pack(">II", len(codes), 0)),  # again and again
    ]
    for place, code in enumerate(codes):
        control = struct.pack(">IIIIIHHBB", next(numbers), side_px, side_px, 0, 0, shown_ms, 1000, 0, 0)
        film.append(_chunk(b"fcTL", control))
        pixels = zlib.compress(b"".join(_line(row) for row in code.matrix_iter(border=_QUIET_MODULES)))
        # The first is the picture of a program that knows no moving ones.
        later = place > 0 and _chunk(b"fdAT", struct.pack(">I", next(numbers)) + pixels)
        film.append(later or _chunk(b"IDAT", pixels))
    film.append(_chunk(b"IEND", b""))
    return b"".join(film), side_px


def _line(modules: Iterable[int]) -> bytes:
    """A row as PNG has it: no filter, eight pixels a byte, white is 1."""
    bits = "".join("0" if module else "1" for module in modules)
    return b"\0" + bytes(int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
