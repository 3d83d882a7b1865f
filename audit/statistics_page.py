"""The page of statistics: a chart and the table that says the same, for each measure that may be shown.

Spec: docs/auditing.md#statistics. One rule: everything stands in the facts already.
"""

from collections.abc import Mapping
from typing import Any

from audit.charts import bars
from audit.page import Html, document, element, table
from audit.report_page import STYLE
from audit.statistics import SMALL

ROWS_DRAWN = 36
"""Bars of one chart; a longer table stands alone."""
_WORDS = {
    "month": "By month",
    "partner": "By partner",
    "kind": "By kind",
    "urgency": "By urgency",
    "how": "By what was done",
}

Facts = Mapping[str, Any]


def render_statistics(facts: Facts) -> bytes:
    """The whole page, as bytes of one file."""
    span = f"{facts['from'] or 'the beginning'} to {facts['to'] or 'the end'}"
    shown = [each for each in facts["measures"] if each["total"] is not None]
    silent = [each for each in facts["measures"] if each["total"] is None]
    return document(
        "Statistics",
        STYLE,
        element(
            "header",
            element("p", "Salween", class_="kicker"),
            element("h1", "Statistics without content"),
            element(
                "p", element("code", facts["origin"] or "an unsigned log"), f", from {span}", class_="soft"
            ),
        ),
        element(
            "main",
            element(
                "div",
                element(
                    "strong",
                    f"{len(shown)} of {len(facts['measures'])} measures can be shown"
                    if facts["measures"]
                    else "There is nothing to count",
                ),
                element(
                    "p",
                    f"Counted from {facts['size']:,} entries of a log that is {', '.join(facts['verdicts'])}."
                    f" A count of 1 to {SMALL - 1} is hidden, and others with it, so that no total gives it"
                    " away."
                    " Whoever has the log can count again and gets the same.",
                ),
                class_="banner good" if facts["verdicts"] == ["VERIFIED"] else "banner bad",
            ),
            [
                element("h2", "At a glance"),
                bars([(each["measure"], each["total"]) for each in facts["measures"]]),
                table(
                    ("Measure", "Count", "What it counts"),
                    [(each["measure"], _number(each["total"]), each["words"]) for each in facts["measures"]],
                ),
            ]
            if facts["measures"]
            else [],
            [_measure(each) for each in shown],
            element("h2", "Not shown"),
            element(
                "p",
                "Too few to be shown: " + ", ".join(each["measure"] for each in silent) + "."
                if silent
                else "No measure is left out.",
            ),
            element(
                "p",
                "Two publications over different spans can be subtracted from each other. Publish one set of"
                " spans, and no others.",
            ),
        ),
        element(
            "footer",
            element(
                "p",
                "Root ",
                element("code", facts["root"] or "none"),
                ". Made by salween-audit statistics from the log alone.",
            ),
        ),
    )


def _number(count: int | None) -> str:
    return "hidden" if count is None else f"{count:,}"


def _measure(each: Facts) -> Html:
    return element(
        "section",
        element("h2", each["measure"][:1].upper(), each["measure"][1:], f": {each['total']:,}"),
        element("p", each["words"][:1].upper(), each["words"][1:], ".", class_="soft"),
        [
            element(
                "div",
                element("h3", _WORDS.get(name, name[:1].upper() + name[1:])),
                bars([(cell[:24], count) for cell, count in cells.items()])
                if len(cells) <= ROWS_DRAWN
                else [],
                table(("Cell", "Count"), [(cell, _number(count)) for cell, count in cells.items()]),
                class_="card",
            )
            for name, cells in each["tables"].items()
        ],
    )
