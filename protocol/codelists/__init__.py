"""Codes that cross the border, with labels in seven languages: a form filled in Burmese is read in Chinese.

Spec: docs/spec/alert.md#code-lists. One TOML file per list in this folder::

    name = "tlp"
    version = 1

    [[code]]
    id = "red"
    en = { label = "Red: only the named recipients" }
    my = { label = "...", needs_review = true }

One rule: an id, once published, keeps its meaning for ever. A label made without a native reviewer carries
``needs_review``. The protocol travels in ids alone; nothing here is ever sent.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

from keys.errors import BrokenInvariant

# The order in which a screen offers them, each in its own script elsewhere.
LANGUAGES: Final = ("en", "my", "zh-Hans", "th", "lo", "km", "vi")
NAMES: Final = (
    "certainty",
    "crime_types",
    "entities",
    "handling",
    "information",
    "outcomes",
    "receipt_states",
    "refusals",
    "roles",
    "severity",
    "sex",
    "source",
    "status",
    "tlp",
    "urgency",
    "vehicle_colours",
    "vehicle_types",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """One code: its stable id, a label for each language, and the languages nobody native has checked."""

    id: str
    labels: Mapping[str, str]
    needs_review: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeList:
    """One list in the order a form offers it."""

    name: str
    version: int
    codes: Mapping[str, Code]

    def label(self, code: str, language: str) -> str:
        """The label in ``language``; English if that language is not kept; the id itself if unknown here.

        A newer office may send a code this office has not learnt: it is shown, not refused.
        """
        known = self.codes.get(code)
        if known is None:
            return code
        return known.labels.get(language, known.labels["en"])


@cache
def load(name: str) -> CodeList:
    """The list called ``name``, read once. A list that is missing or broken is our own bug."""
    if name not in NAMES:
        raise BrokenInvariant("code_list_unknown", f"there is no code list {name!r}")
    text = resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    codes = [_code(entry) for entry in table["code"]]
    by_id = {code.id: code for code in codes}
    if table["name"] != name or len(by_id) != len(codes):
        raise BrokenInvariant("code_list_broken", f"code list {name} misnames itself or repeats an id")
    return CodeList(name=name, version=table["version"], codes=MappingProxyType(by_id))


def _code(entry: dict[str, Any]) -> Code:
    return Code(
        id=entry["id"],
        labels=MappingProxyType({language: entry[language]["label"] for language in LANGUAGES}),
        needs_review=frozenset(
            language for language in LANGUAGES if entry[language].get("needs_review", False)
        ),
    )
