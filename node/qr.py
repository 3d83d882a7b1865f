"""A meeting code as a picture, for a terminal and for a page; a receipt as a picture on paper.

Spec: docs/spec/pairing.md#in-person. One rule: the picture holds the code's bytes, not its text, so that 180
of them still fit a picture that a cheap camera reads (53 modules a side, medium correction).
"""

import io

import segno

_CORRECTION = "m"
_ON_PAPER = "l"
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
