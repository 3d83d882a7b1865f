"""A meeting code as a picture: for a terminal, and for a page.

Spec: docs/spec/pairing.md#in-person. One rule: the picture holds the code's bytes, not its text, so that 180
of them still fit a picture that a cheap camera reads (53 modules a side, medium correction).
"""

import io

import segno

_CORRECTION = "m"
_QUIET_MODULES = 4
_SCALE = 6


def _made(encoded: bytes) -> segno.QRCode:
    return segno.make_qr(encoded, error=_CORRECTION, mode="byte", boost_error=False)


def qr_terminal(encoded: bytes) -> str:
    """Two modules a character, in the colours of the terminal: a reader takes either way round."""
    out = io.StringIO()
    _made(encoded).terminal(out=out, border=_QUIET_MODULES, compact=True)
    return out.getvalue()


def qr_svg(encoded: bytes) -> bytes:
    """A picture for a page: one path, no script, no style; black on white whatever the page's colours are."""
    out = io.BytesIO()
    _made(encoded).save(
        out,
        kind="svg",
        scale=_SCALE,
        border=_QUIET_MODULES,
        dark="#000",
        light="#fff",
        xmldecl=True,
        svgclass=None,
        lineclass=None,
    )
    return out.getvalue()
