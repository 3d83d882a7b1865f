"""Statistics without content: what one log lets be counted, small counts hidden where sums cannot find them.

Spec: docs/auditing.md#statistics, docs/decisions/0043-counting.md. Everything comes from the entries of one
published log: two runs give the same bytes. Measures are counted by month, by partner's pseudonym and by what
else an entry holds; times by the log's own clock with its declared steps taken back.

One rule: a measure is published with its total, and then its small cells are hidden with company; or it is
not published at all. Measures of one family are parts of each other, so a cell that is hidden in one is
hidden in all of them. No cell of two tables at once is published, so tables cannot be subtracted.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from audit.entry import glance_untrusted
from audit.fsck import Progress, Report
from audit.reader import PublishedLog
from audit.replay import Entry, read_entries
from keys.errors import MalformedInput

FORMAT: Final = "salween-statistics/1"
SMALL: Final = 5
"""Fewer than so many are not shown."""
CELLS_MAX: Final = 120
"""Cells of one table; months and partners beyond are counted together."""
OTHER: Final = "other"
TOTAL: Final = "total"

MEASURES: Final[Mapping[str, str]] = {
    "sent": "alerts recorded for a partner",
    "delivered": "of those, the partner signed for having it",
    "opened": "of those, an officer there opened it",
    "assigned": "of those, somebody there took it on",
    "outcome": "of those, with an outcome",
    "refused": "of those, refused by the partner",
    "overdue": "of those, not answered by the time asked for",
    "expired": "of those, over before the partner had it",
    "retracted": "of those, withdrawn",
    "erased there": "of those, erased at the partner by its word",
    "received": "alerts taken in",
    "read": "of those, read here at least once",
    "answered": "of those, answered here",
    "accesses": "readings, printings and exports, of alerts sent or taken in",
    "denials": "accesses that were refused",
    "erased": "contents erased here",
    "taken in": "envelopes taken in by this broker",
    "handed out": "of those, handed out",
    "deleted": "of those, deleted by their recipient",
    "lapsed": "of those, dropped when their time was over",
}
"""What is counted, in words. "Of those" are counted in the month in which the first of the group was."""

FAMILIES: Final = (
    (
        "sent",
        "delivered",
        "opened",
        "assigned",
        "outcome",
        "refused",
        "overdue",
        "expired",
        "retracted",
        "erased there",
    ),
    ("received", "read", "answered"),
    ("accesses",),
    ("denials",),
    ("erased",),
    ("taken in", "handed out", "deleted", "lapsed"),
)

TIMES: Final = ((900, "up to 15 min"), (3600, "up to 1 h"), (14_400, "up to 4 h"), (86_400, "up to 1 day"))
TIMES_LONG: Final = ((604_800, "up to 7 days"), (None, "longer"))
_STEPS: Final = {"delivered": "delivered", "opened": "opened", "assigned": "assigned", "outcome": "outcome"}
_RECEIPTS: Final = _STEPS | {"stale": "delivered", "refused": "refused", "erased": "erased there"}
_BROKER: Final = {"bk.out": "handed out", "bk.ack": "deleted", "bk.expire": "lapsed"}


def month_of(us: int) -> str:
    """``2026-01`` in UTC."""
    return datetime.fromtimestamp(us / 1_000_000, UTC).strftime("%Y-%m")


@dataclass(slots=True)
class _Item:
    """One alert to one partner, one alert taken in, or one envelope; ``done`` are the measures it reached."""

    month: str
    at_us: int
    cells: dict[str, str]
    done: set[str] = field(default_factory=set)


class _Counting:
    """Counts while entries are read: (table, measure) -> cell -> count."""

    def __init__(self, first: str | None, last: str | None) -> None:
        self._first, self._last = first, last
        self.tables: dict[tuple[str, str], Counter[str]] = {}
        self._sent: dict[tuple[str, str], _Item] = {}
        self._by_msg: dict[str, list[_Item]] = {}
        self._received: dict[str, _Item] = {}
        self._kept: dict[tuple[str, str], _Item] = {}

    def count(self, measure: str, item: _Item) -> None:
        """Once for each item, in every table that it has a cell for."""
        if measure in item.done or not self._is_inside(item.month):
            return
        item.done.add(measure)
        for table, cell in {"month": item.month, **item.cells}.items():
            self.tables.setdefault((table, measure), Counter())[cell] += 1

    def _is_inside(self, month: str) -> bool:
        return (self._first is None or month >= self._first) and (self._last is None or month <= self._last)

    def time(self, table: str, measure: str, item: _Item, at_us: int) -> None:
        """How long it took, if that is counted for the first time."""
        if measure not in item.done and self._is_inside(item.month):
            taken_s = max(at_us - item.at_us, 0) / 1_000_000
            cell = next(words for limit, words in (*TIMES, *TIMES_LONG) if limit is None or taken_s <= limit)
            self.tables.setdefault((table, measure), Counter())[cell] += 1

    def take(self, entry: Entry, at_us: int) -> None:
        """One entry."""
        name = entry["t"]
        if name == "msg.submit" and "alert" in entry:
            cells = {"partner": entry["peer"]}
            cells |= {
                table: entry[key] for table, key in (("kind", "kind"), ("urgency", "urgency")) if key in entry
            }
            item = _Item(month_of(at_us), at_us, cells)
            self._sent[entry["msg"], entry["peer"]] = item
            self._by_msg.setdefault(entry["msg"], []).append(item)
            self.count("sent", item)
        elif name == "msg.receipt":
            self._receipt(entry, at_us)
        elif name in ("msg.overdue", "msg.expired", "msg.cancel"):
            measure = {"msg.overdue": "overdue", "msg.expired": "expired", "msg.cancel": "retracted"}[name]
            for item in self._by_msg.get(entry["msg"], ()):
                self.count(measure, item)
        elif name == "msg.recv":
            if entry["verdict"] == "ok" and "alert" in entry and entry["alert"] not in self._received:
                cells = {"partner": entry["peer"]} if "peer" in entry else {}
                item = self._received[entry["alert"]] = _Item(month_of(at_us), at_us, cells)
                self.count("received", item)
        elif name.startswith("acc."):
            self._access(name, entry, at_us)
        elif name == "ans.given":
            if (known := self._received.get(entry["alert"])) is not None:
                self.count("answered", known)
        elif name == "content.erased":
            self.count("erased", _Item(month_of(at_us), at_us, {}))
        elif name == "bk.in":
            item = self._kept[entry["env"], entry["box"]] = _Item(month_of(at_us), at_us, {})
            self.count("taken in", item)
        elif name in _BROKER and (kept := self._kept.get((entry["env"], entry["box"]))) is not None:
            if name == "bk.out":
                self.time("time to handing out", _BROKER[name], kept, at_us)
            self.count(_BROKER[name], kept)

    def _receipt(self, entry: Entry, at_us: int) -> None:
        items = self._by_msg.get(entry["msg"], [])
        if "peer" in entry:
            known = self._sent.get((entry["msg"], entry["peer"]))
            items = [] if known is None else [known]
        measure = _RECEIPTS[entry["step"]]
        for item in items:
            if measure in ("opened", "outcome"):
                self.time("time to open" if measure == "opened" else "time to outcome", measure, item, at_us)
            self.count(measure, item)

    def _access(self, name: str, entry: Entry, at_us: int) -> None:
        if name == "acc.deny":
            self.count("denials", _Item(month_of(at_us), at_us, {}))
            return
        self.count("accesses", _Item(month_of(at_us), at_us, {"how": name.removeprefix("acc.")}))
        known = self._received.get(entry["alert"])
        if known is not None and name == "acc.read":
            self.time("time to reading", "read", known, at_us)
            self.count("read", known)


def hide(measures: Mapping[str, Mapping[str, int]]) -> tuple[set[str], set[str]]:
    """(cells to hide, measures that cannot be published) of one table of a family, totals being public.

    Whoever sees the totals and the cells shown knows the sum of the hidden ones, and that measures are parts
    of each other. So hidden cells are the same in all, there are at least two, and their sum leaves room for
    any of them to be no small one. Which of those that are not small is hidden as company does not depend on
    its count, or the count would show in the choice.
    """
    hidden = {cell for cells in measures.values() for cell, number in cells.items() if 0 < number < SMALL}
    names = {cell for cells in measures.values() for cell in cells}
    order = sorted(names, key=lambda cell: sha256(cell.encode()).digest())
    left = dict(measures)
    while True:
        bare = next((each for each in left if not _is_covered(left[each], hidden)), None)
        if bare is None:
            return hidden, set(measures) - set(left)
        company = (cell for cell in order if cell not in hidden and left[bare].get(cell, 0) >= SMALL)
        if (found := next(company, None)) is None:
            del left[bare]
        else:
            hidden.add(found)


def _is_covered(cells: Mapping[str, int], hidden: set[str]) -> bool:
    together = sum(cells.get(cell, 0) for cell in hidden)
    return not together or (len(hidden) > 1 and together >= len(hidden) - 1 + SMALL)


def _cells_of(table: str, family: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """The same cells for each measure: months and times without holes, no more than a table can show."""
    names = sorted({cell for cells in family.values() for cell in cells})
    if table.startswith("time to"):
        names = [words for _, words in (*TIMES, *TIMES_LONG)]
    elif table == "month" and len(between := _months(names[0], names[-1])) <= CELLS_MAX:
        names = between
    shown, rest = names[:CELLS_MAX], names[CELLS_MAX:]
    whole = {measure: {name: cells.get(name, 0) for name in shown} for measure, cells in family.items()}
    if rest:
        for measure, cells in family.items():
            whole[measure][OTHER] = sum(cells.get(name, 0) for name in rest)
    return whole


def _months(first: str, last: str) -> list[str]:
    found, (year, month) = [], map(int, first.split("-"))
    while (label := f"{year:04}-{month:02}") <= last:
        found.append(label)
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    return found


def count(
    log: PublishedLog,
    report: Report,
    *,
    first: str | None = None,
    last: str | None = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """The statistics of a verified log: one JSON object, docs/auditing.md#statistics.

    ``first`` and ``last``: whole months, inclusive.
    """
    counting, shift = _Counting(first, last), 0
    for index, data in enumerate(read_entries(log, report.size)):
        try:
            _, ts_us, name = glance_untrusted(data)
        except MalformedInput:
            continue  # fsck has found it
        if name.startswith(("msg.", "acc.", "ans.", "content.", "bk.", "clk.")):
            entry = json.loads(data)
            if name == "clk.step":
                shift += entry["to"] - entry["from"]
            else:
                counting.take(entry, max(ts_us - shift, 0))
        if index % 4096 == 0:
            progress(index)
    progress(report.size)
    return {
        "format": FORMAT,
        "origin": report.origin,
        "size": report.size,
        "root": report.root.hex(),
        "verdicts": report.verdicts,
        "from": first or "",
        "to": last or "",
        "measures": _published(counting.tables),
    }


def _published(tables: Mapping[tuple[str, str], Mapping[str, int]]) -> list[dict[str, Any]]:
    """Every measure that was met, in the order of MEASURES, its small cells hidden."""
    found: dict[str, dict[str, Any]] = {}
    for family in FAMILIES:
        totals = {measure: sum(tables.get(("month", measure), {}).values()) for measure in family}
        shown = {measure for measure, total in totals.items() if total >= SMALL}
        kinds = list(dict.fromkeys(table for table, measure in tables if measure in family))
        hidden: dict[str, set[str]] = {}
        whole: dict[str, dict[str, dict[str, int]]] = {}
        while True:
            for kind in kinds:
                mine: dict[str, Mapping[str, int]] = {
                    each: tables[kind, each] for each in family if each in shown and (kind, each) in tables
                }
                whole[kind] = _cells_of(kind, mine) if mine else {}
                hidden[kind], dropped = hide(whole[kind])
                if dropped:
                    shown -= dropped
                    break
            else:
                break
        for measure in family:
            if totals[measure]:
                found[measure] = {
                    "measure": measure,
                    "words": MEASURES[measure],
                    "total": totals[measure] if measure in shown else None,
                    "tables": {
                        kind: {
                            cell: None if cell in hidden[kind] else number
                            for cell, number in whole[kind][measure].items()
                        }
                        for kind in kinds
                        if measure in shown and measure in whole[kind]
                    },
                }
    return [found[measure] for measure in MEASURES if measure in found]


def as_csv(facts: Mapping[str, Any]) -> str:
    """One line for each cell: table, measure, cell, count; ``hidden`` for a count that is not shown."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("table", "measure", "cell", "count"))
    for key in ("format", "origin", "size", "root", "from", "to"):
        writer.writerow(("log", key, "", _harmless(str(facts[key]))))
    writer.writerow(("log", "verdicts", "", " ".join(facts["verdicts"])))
    for each in facts["measures"]:
        writer.writerow((TOTAL, each["measure"], "", _cell(each["total"])))
        for table, cells in each["tables"].items():
            for cell, number in cells.items():
                writer.writerow((table, each["measure"], _harmless(cell), _cell(number)))
    return out.getvalue()


def _cell(number: int | None) -> str | int:
    return "hidden" if number is None else number


def _harmless(words: str) -> str:
    """A spreadsheet takes some first characters for a formula."""
    return f"'{words}" if words[:1] in ("=", "+", "-", "@", "\t") else words
