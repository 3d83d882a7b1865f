"""Pages that hold what a hostile log says: HTML and SVG built from nodes, escaped by type, without a script.

One rule: a string that is not ``Html`` is text, wherever it stands, and only ``element`` and ``document``
make ``Html``. So no caller can forget to escape. The page allows no script, no image, no font and no
address to be loaded, and no style but the one whose hash it names.
"""

import base64
import re
from collections.abc import Iterable
from hashlib import sha256
from html import escape
from typing import Final

_NAME: Final = re.compile("[a-z][a-zA-Z0-9-]*")
_VOID: Final = frozenset({"br", "col", "hr", "meta", "wbr"})
_NEVER: Final = frozenset(
    {"script", "style", "iframe", "object", "embed", "link", "base", "form", "img", "a"}
)
"""What could load or run something, and ``a``, which could lead somewhere: see ``link_within``."""
# Controls, and characters that turn the direction of a line around: shown as what they are not.
_INVISIBLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


class Html(str):
    """Markup that is safe to put on a page."""

    __slots__ = ()


Node = str | int | Iterable["Node"]


def text(value: str | int) -> Html:
    """Text as text."""
    if isinstance(value, Html):
        return value
    return Html(escape(_INVISIBLE.sub("\ufffd", str(value)).encode("utf-8", "replace").decode("utf-8")))


def element(name: str, /, *children: Node, **attributes: str | int | float | None) -> Html:
    """One element. Of an attribute a trailing ``_`` is dropped, others are ``-``; None leaves it out.

    Attributes that could run or load something (``on...``, ``style``, ``href``, ``src``) are refused.
    """
    if _NAME.fullmatch(name) is None or name in _NEVER:
        raise ValueError(f"no element {name}")
    return _element(name, children, attributes)


def _element(name: str, children: Iterable[Node], attributes: dict[str, str | int | float | None]) -> Html:
    parts = [f"<{name}"]
    for key, value in attributes.items():
        written = key.rstrip("_").replace("_", "-")
        if value is None:
            continue
        if (
            _NAME.fullmatch(written) is None
            or written.startswith("on")
            or written in ("style", "href", "src")
        ):
            raise ValueError(f"no attribute {written}")
        parts.append(f' {written}="{text(str(value))}"')
    parts.append(">")
    if name in _VOID:
        return Html("".join(parts))
    parts.append(join(children))
    parts.append(f"</{name}>")
    return Html("".join(parts))


def join(nodes: Iterable[Node]) -> Html:
    """Nodes one after the other."""
    return Html("".join(text(node) if isinstance(node, str | int) else join(node) for node in nodes))


def link_within(anchor: str, *children: Node) -> Html:
    """A link to a place on the same page."""
    if _NAME.fullmatch(anchor) is None:
        raise ValueError(f"no anchor {anchor}")
    return Html(f'<a href="#{anchor}">{join(children)}</a>')


def table(
    heads: Iterable[Node],
    rows: Iterable[Iterable[Node]],
    *,
    caption: Node | None = None,
    class_: str | None = None,
) -> Html:
    """A table with a head; the first cell of each row heads it."""
    body = [
        element(
            "tr",
            [element("td", cell) if at else element("th", cell, scope="row") for at, cell in enumerate(row)],
        )
        for row in rows
    ]
    return element(
        "table",
        [] if caption is None else element("caption", caption),
        element("thead", element("tr", [element("th", head, scope="col") for head in heads])),
        element("tbody", body),
        class_=class_,
    )


def document(title: str, style: str, *body: Node) -> bytes:
    """The whole page in UTF-8. ``style`` is ours and constant; its hash is what the page allows."""
    if "<" in style:
        raise ValueError("a style sheet holds no markup")
    digest = base64.b64encode(sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = join(
        [
            element("meta", charset="utf-8"),
            _element("meta", [], {"http_equiv": "Content-Security-Policy", "content": policy}),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="referrer", content="no-referrer"),
            element("title", title),
            Html(f"<style>{style}</style>"),
        ]
    )
    whole = element("html", element("head", head), element("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n".encode()
