"""Words in sources that no translator will ever see."""

import ast
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import jinja2
from jinja2 import nodes

_WORD = re.compile(r"[^\W\d_]{2,}")
_SPOKEN_ATTRIBUTES = frozenset(
    {"alt", "title", "placeholder", "aria-label", "aria-description", "label", "content"}
)
# Names of keys, units, what browsers are told, and the one label that speaks all languages at once.
_SPELT_ALIKE = frozenset(
    {
        "Enter",
        "ms",
        "width=device-width, initial-scale=1",
        "light dark",
        "3; url=/pair/wait",
        "Language · ဘာသာစကား · 语言 · ภาษา",
    }
)


class _Spoken(HTMLParser):
    """Text and spoken attributes of template data; what a template puts in is not data."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data.strip())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in _SPOKEN_ATTRIBUTES]


def in_template(source: str) -> list[str]:
    """Words of a template that stand outside of ``_()``: its literal text with all expressions taken out."""
    tree = jinja2.Environment(autoescape=True).parse(source)
    # Expressions become a digit, so that markup around them still parses.
    text = "".join(
        node.data if isinstance(node, nodes.TemplateData) else "0"
        for output in tree.find_all(nodes.Output)
        for node in output.nodes
    )
    parser = _Spoken()
    parser.feed(text)
    parser.close()
    return [found for found in parser.found if _WORD.search(found) and found.strip("0 ") not in _SPELT_ALIKE]


def in_python(path: Path) -> Iterator[str]:
    """Sentences in a Python source outside of docstrings, errors, logs and gettext calls."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    passed = _docstrings(tree) | _arguments(tree, {"N_", "gettext", "ngettext"})
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in passed
            # A sentence: a capital, then another word after a space.
            and re.match(r"[A-Z][a-z]+ [a-z]+", node.value)
        ):
            yield node.value


def _docstrings(tree: ast.Module) -> set[int]:
    found = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            found |= {id(item.value) for item in body if isinstance(item, ast.Expr)}
    return found


def _arguments(tree: ast.Module, names: set[str]) -> set[int]:
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in names:
                found |= {id(part) for argument in node.args for part in ast.walk(argument)}
    return found
