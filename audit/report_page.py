"""The page of a report: what ``report.gather`` found, for people, on a screen or on paper.

Spec: docs/auditing.md#report. One rule: everything stands in the facts already; nothing is judged here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from audit.charts import durations
from audit.page import Html, Node, document, element, join, link_within, table

STYLE: Final = """
:root{--ink:#1c2a33;--soft:#5c6b75;--line:#dde4e7;--wash:#f5f8f8;--deep:#14545c;--good:#2b6a4d;--goodwash:#edf5f0;
--bad:#9c2f24;--badwash:#fbf0ee;--late:#8a5b0b;--latewash:#fbf5e6}
*{box-sizing:border-box}
html{font:15px/1.55 system-ui,-apple-system,"Segoe UI","Noto Sans",sans-serif;
color:var(--ink);background:#fff}
body{max-width:1040px;margin:0 auto;padding:44px 28px 72px}
header{border-bottom:1px solid var(--line);padding-bottom:22px;margin-bottom:26px}
.kicker{color:var(--deep);font-size:12px;letter-spacing:.14em;text-transform:uppercase;margin:0 0 6px}
h1{font-size:30px;line-height:1.2;font-weight:600;margin:0 0 6px;letter-spacing:-.01em}
h2{font-size:19px;font-weight:600;margin:46px 0 6px;letter-spacing:-.005em}
h3{font-size:15px;font-weight:600;margin:0}
p{margin:0 0 10px;max-width:74ch}
.soft{color:var(--soft)}
.small{font-size:13px}
code,.mono{font:12.5px/1.5 ui-monospace,"DejaVu Sans Mono",Menlo,monospace;overflow-wrap:anywhere}
.whole{white-space:nowrap}
nav{margin-top:16px;font-size:13px;display:flex;flex-wrap:wrap;gap:6px 20px}
a{color:var(--deep);text-decoration:none;border-bottom:1px solid #b9d2d4}
.banner{border-radius:10px;padding:20px 24px;margin:0 0 8px;border:1px solid}
.banner.good{background:var(--goodwash);border-color:#cfe3d7}.banner.bad{background:var(--badwash);border-color:#eccdc8}
.banner strong{display:block;font-size:21px;font-weight:600;line-height:1.3}
.banner.good strong{color:var(--good)}.banner.bad strong{color:var(--bad)}
.banner p{margin:6px 0 0}
.tag{display:inline-block;border-radius:5px;padding:1px 8px;font-size:12px;font-weight:600;
letter-spacing:.02em;background:var(--wash);color:var(--soft);border:1px solid var(--line);white-space:nowrap}
.tag.good{background:var(--goodwash);color:var(--good);border-color:#cfe3d7}
.tag.bad{background:var(--badwash);color:var(--bad);border-color:#eccdc8}
.card{border:1px solid var(--line);border-radius:10px;padding:18px 22px;margin:14px 0;break-inside:avoid}
.card.bad{border-color:#e3bdb7}
.cardhead{display:flex;justify-content:space-between;gap:16px;align-items:baseline;flex-wrap:wrap;margin-bottom:8px}
dl{display:grid;grid-template-columns:150px 1fr;gap:4px 18px;margin:0}
dt{color:var(--soft);font-size:13px}dd{margin:0;font-size:14px}dd ul{margin:0}
table{border-collapse:collapse;width:100%;margin:12px 0 4px;font-size:13.5px}
caption{text-align:left;color:var(--soft);font-size:13px;padding-bottom:6px}
th,td{text-align:left;vertical-align:top;
padding:6px 12px 6px 0;border-bottom:1px solid var(--line);font-weight:400}
thead th{color:var(--soft);font-size:12px;border-bottom:1px solid #bfcbd0}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
.way{table-layout:fixed}.way th,.way td{padding-top:4px;padding-bottom:4px}
.way th:first-child,.way td:first-child{width:23%}
.way th{white-space:nowrap;font-variant-numeric:tabular-nums;color:var(--soft)}
.way tbody tr:last-child th,.way tbody tr:last-child td{border-bottom:0}
.way .step{display:inline-block;border-left:3px solid var(--deep);padding-left:9px}
.way .step small{display:block;color:var(--soft);font-size:11.5px}
.chart{width:100%;height:auto;display:block;margin:10px 0}
.chart text{font-size:12px;fill:#5c6b75}.chart .label{fill:#1c2a33}
.grid{stroke:#e6ebed}.limit{stroke-dasharray:4 4}.late{stroke:#d3a64a}.alone{stroke:#c8776d}
.dot{stroke:#fff;stroke-width:1}.dot.good{fill:#3b8a68}.dot.late{fill:#c08a1e}.dot.alone{fill:#b24034}
.bar{fill:#3f8389}.hidden-bar{fill:#dde4e7;stroke:#9fb0b7;stroke-dasharray:3 2}
footer{margin-top:52px;border-top:1px solid var(--line);padding-top:16px;color:var(--soft);font-size:13px}
ul{margin:8px 0;padding-left:20px;max-width:78ch}li{margin:3px 0}
@media (max-width:640px){body{padding:24px 16px}dl{grid-template-columns:1fr}}
@media print{html{font-size:10.5pt}body{max-width:none;padding:0}nav{display:none}h2{break-after:avoid}
a{border:0;color:inherit}thead{display:table-header-group}tr{break-inside:avoid}table{font-size:9pt}
code,.mono{font-size:8.5pt}dl{grid-template-columns:110px 1fr}.card{padding:12px 16px}
.chart text{font-size:15px}.told{break-inside:auto}.cardhead,.cardhead~p{break-after:avoid}
.way th:first-child{width:27%}
.card,.banner,.tag{-webkit-print-color-adjust:exact;print-color-adjust:exact}@page{margin:16mm 14mm}}
"""

Facts = Mapping[str, Any]
GOOD: Final = frozenset({"VERIFIED", "CONSISTENT", "ERASED-BOTH", "DUPLICATE-BLOCKED"})


def render(facts: Facts) -> bytes:
    """The whole page, as bytes of one file."""
    return document(
        "Audit report",
        STYLE,
        element("header", _heading(facts)),
        element(
            "main",
            _banner(facts),
            _findings(facts),
            _logs(facts),
            _counts(facts),
            _timelines(facts),
            _lags(facts),
            _accesses(facts),
            _erasures(facts),
            _unknown(facts),
        ),
        element(
            "footer",
            element(
                "p",
                "Made by salween-audit report from published files alone. Nothing on this page loads or runs"
                " anything. Times are UTC, each by the clock of the log that holds them.",
            ),
        ),
    )


def _heading(facts: Facts) -> Html:
    sections = {
        "findings": "Findings",
        "verified": "What was verified",
        "counts": "Messages",
        "timelines": "Timelines",
        "lag": "Witnesses",
        "accesses": "Accesses",
        "erasures": "Erasures",
        "unknown": "What cannot be known",
    }
    return join(
        [
            element("p", "Salween", class_="kicker"),
            element("h1", "Audit report"),
            element("p", f"{_count(len(facts['logs']), 'log')}, read on {facts['made_at']}", class_="soft"),
            element("nav", [link_within(anchor, words) for anchor, words in sections.items()]),
        ]
    )


def _section(anchor: str, title: str, *children: Node) -> Html:
    return element("section", element("h2", title, id=anchor), *children)


def _count(number: int, noun: str, more: str = "s") -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else more)


def _tag(label: str, *, is_finding: bool | None = None) -> Html:
    stem = label.partition("(")[0]
    good = stem in GOOD if is_finding is None else False
    bad = is_finding is True
    return element("span", label, class_="tag bad" if bad else "tag good" if good else "tag")


def _banner(facts: Facts) -> Html:
    messages, logs = facts["messages"], facts["logs"]
    found = len(facts["log_findings"]) + messages["findings"]
    entries = sum(log["verified_size"] for log in logs)
    scope = (
        f"{entries:,} entries of {_count(len(logs), 'log')} lead to signed roots, and"
        f" {_count(messages['total'], 'message')} were followed from sender to receiver."
    )
    if facts["clean"]:
        return element(
            "div",
            element("strong", "No finding"),
            element("p", scope, " Read below up to where this holds, and what it cannot say."),
            class_="banner good",
        )
    return element(
        "div",
        element("strong", _count(found, "finding")),
        element(
            "p", scope, " Somebody has something to explain; what follows says who, and what is not proven."
        ),
        class_="banner bad",
    )


def _short(identifier: str) -> Html:
    shown = identifier[:16] + ("…" if len(identifier) > 16 else "")
    return element("code", shown, title=identifier, class_="whole")


def _who(facts: Facts, origin: str) -> Node:
    """An office as the policy calls it, or its pseudonym."""
    if not origin:
        return element("span", "an office not here", class_="soft")
    name = facts["names"].get(origin) or facts["names"].get(origin.rpartition("/log")[0])
    return [name, " ", element("code", origin, class_="soft")] if name else element("code", origin)


def _meaning(facts: Facts, label: str) -> Node:
    known = facts["meanings"].get(label.partition("(")[0])
    if known is None:
        return []
    return [
        element("p", known["says"]),
        element("p", "Not said: ", known["not_said"][:1].lower(), known["not_said"][1:], class_="soft small"),
    ]


def _findings(facts: Facts) -> Html:
    cards = [
        element(
            "div",
            element(
                "div",
                element("h3", _who(facts, each["log"])),
                _tag(each["verdict"], is_finding=True),
                class_="cardhead",
            ),
            _meaning(facts, each["verdict"]),
            element(
                "ul",
                [element("li", detail) for detail in each["details"]],
                element("li", f"and {each['details_left_out']:,} more of the same kind")
                if each["details_left_out"]
                else [],
            ),
            class_="card bad",
        )
        for each in facts["log_findings"]
    ]
    if facts["clean"]:
        cards.append(
            element("p", "None: no log contradicts itself or another, and no message lacks an explanation.")
        )
    return _section("findings", "Findings", cards, _timeline_list(facts, wrong=True))


def _timelines(facts: Facts) -> Html:
    messages = facts["messages"]
    left, told = messages["left_out"], _timeline_list(facts, wrong=False)
    words = "Every message without a finding, step by step; the others stand above."
    if left:
        words = (
            f"The first {len(messages['list']):,} messages, findings before others; {left:,} more were judged"
            " and are counted above, not told here (--timelines tells more)."
        )
    elif not told:
        words = "No message is without a finding: all stand above."
    elif not messages["findings"]:
        words = "Every message, step by step."
    return _section("timelines", "Timelines", element("p", words, class_="soft"), told)


def _timeline_list(facts: Facts, *, wrong: bool) -> list[Html]:
    return [_timeline(facts, each) for each in facts["messages"]["list"] if each["finding"] is wrong]


def _timeline(facts: Facts, message: Mapping[str, Any]) -> Html:
    columns = ("sender", "broker", "receiver")
    rows = [
        (
            element("span", step["at"][:-1].replace("T", " ")),
            *(
                element(
                    "span",
                    step["words"],
                    element("small", f"entry {step['index']}{_clock(step['clock_set_s'])}"),
                    class_="step",
                )
                if step["party"] == column
                else ""
                for column in columns
            ),
        )
        for step in message["steps"]
    ]
    more = message["steps_left_out"]
    return element(
        "div",
        element(
            "div",
            element("h3", "Message ", _short(message["id"]), *_carries(message)),
            _tag(message["verdict"], is_finding=message["finding"] or None),
            class_="cardhead",
        ),
        element(
            "p", _who(facts, message["sender"]), " to ", _who(facts, message["receiver"]), class_="small soft"
        ),
        _meaning(facts, message["verdict"]) if message["finding"] else [],
        element("p", message["detail"][:1].upper(), message["detail"][1:], ".") if message["detail"] else [],
        table(("Time", "Sender", "Broker", "Receiver"), rows, class_="way") if rows else [],
        element("p", f"{more} more steps are not told.", class_="small soft") if more else [],
        class_="card told bad" if message["finding"] else "card told",
    )


def _clock(set_s: int) -> str:
    """That this log's clock had been set by so much, by its own entries."""
    if not set_s:
        return ""
    return f", its clock set {_duration(abs(set_s))} {'ahead' if set_s > 0 else 'back'}"


def _carries(message: Mapping[str, Any]) -> list[Node]:
    return [" with alert ", _short(message["alert"])] if message["alert"] else []


def _logs(facts: Facts) -> Html:
    return _section(
        "verified",
        "What was verified, and up to where",
        [_log(facts, log) for log in facts["logs"]],
    )


def _log(facts: Facts, log: Mapping[str, Any]) -> Html:
    bad = {
        each["verdict"]
        for each in facts["log_findings"]
        if each["log"] == (log["origin"] or log["directory"])
    }
    seen = [
        element(
            "li", f"{each['name']}: the first {each['size']:,} of {log['size']:,} entries, at {each['at']}"
        )
        for each in log["cosigners"]
    ]
    pairs: list[tuple[str, Node]] = [
        ("Verified", f"{log['verified_size']:,} of {log['size']:,} entries lead to a signed root"),
        ("Time", f"{log['first_entry_at']} to {log['newest_entry_at']}, by its own clock"),
        ("Root", element("code", log["root"] or "none")),
        ("Checkpoints", f"{log['checkpoints']:,}"),
        ("Cosigned", element("ul", seen) if seen else "by no witness of the policy"),
        ("Read from", element("code", log["directory"])),
    ]
    pairs += [("Note", note) for note in log["notes"]]
    labels = [_tag(label, is_finding=label in bad or None) for label in log["verdicts"]]
    means = [
        [
            element(
                "p",
                element("strong", label),
                ": ",
                facts["meanings"][label.partition("(")[0]]["says"],
                class_="small",
            )
        ]
        for label in log["verdicts"]
    ]
    return element(
        "div",
        element(
            "div",
            element(
                "h3",
                "Broker " if log["kind"] == "broker" else "Office ",
                _who(facts, log["origin"] or log["directory"]),
            ),
            element("span", _spaced(labels)),
            class_="cardhead",
        ),
        means,
        element("dl", [[element("dt", name), element("dd", value)] for name, value in pairs]),
        class_="card bad" if bad else "card",
    )


def _spaced(nodes: Iterable[Node]) -> list[Node]:
    return [part for node in nodes for part in (node, " ")]


def _counts(facts: Facts) -> Html:
    counts = facts["messages"]["counts"]
    rows = [
        (
            _tag(label, is_finding=facts["meanings"][label]["finding"] or None),
            element("span", f"{count:,}"),
            facts["meanings"][label]["says"],
            element("span", facts["meanings"][label]["not_said"], class_="soft"),
        )
        for label, count in counts.items()
    ]
    return _section(
        "counts",
        "Messages by verdict",
        table(("Verdict", "Messages", "What the logs say", "What they do not say"), rows)
        if rows
        else element("p", "No log here speaks of a message."),
    )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    for unit, words in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {words}"
    return f"{seconds:.1f} s"


def _lags(facts: Facts) -> Html:
    rows = [
        (
            _who(facts, lag["origin"]),
            f"{lag['points']:,}",
            _duration(lag["median_s"]),
            _duration(lag["worst_s"]),
            f"{lag['over_15_min']:,}",
            f"{lag['unseen']:,}",
        )
        for lag in facts["witness_lag"]
    ]
    charts = [
        [
            element("p", _who(facts, lag["origin"]), class_="small"),
            durations(
                [(point["at_us"], point["waited_s"]) for point in lag["list"]],
                lag["list"][0]["at"][:16].replace("T", " "),
                lag["list"][-1]["at"][:16].replace("T", " "),
            ),
        ]
        for lag in facts["witness_lag"]
        if len(lag["list"]) > 1
    ]
    return _section(
        "lag",
        "How long entries waited for a witness",
        element(
            "p",
            "Each dot is one time that somebody outside saw more of a log: how long its oldest unseen entry"
            " had waited then, by the clock of who saw it. Until then that entry could have been taken back"
            " unseen.",
            class_="soft",
        ),
        charts,
        table(("Log", "Times seen", "Median wait", "Longest", "Over 15 min", "Entries not seen yet"), rows),
    )


def _left_out(part: Mapping[str, Any], noun: str, more: str = "s") -> Node:
    if not part["left_out"]:
        return []
    told = f"The first {len(part['list']):,} of {_count(part['total'], noun, more)}."
    return element("p", told, class_="soft")


def _accesses(facts: Facts) -> Html:
    part = facts["accesses"]
    rows: Sequence[Iterable[Node]] = [
        (
            element("span", each["at"][:19].replace("T", " "), class_="whole"),
            each["what"],
            [
                _short(each["actor"]),
                " with " if "actor2" in each else "",
                _short(each["actor2"]) if "actor2" in each else "",
            ],
            each.get("purpose", each.get("code", "")),
            str(each.get("k", "")),
            _short(each["alert"]),
            [_who(facts, each["log"]), f" entry {each['index']}"],
        )
        for each in part["list"]
    ]
    return _section(
        "accesses",
        "Who saw what",
        element(
            "p",
            "Officers stand here as pseudonyms; the office can resolve one while it keeps its key.",
            class_="soft",
        ),
        _left_out(part, "access", "es"),
        table(("Time", "What", "Officer", "Purpose", "Access", "Alert", "Where"), rows)
        if rows
        else element("p", "No log here tells of an access."),
    )


def _erasures(facts: Facts) -> Html:
    part = facts["erasures"]
    rows: Sequence[Iterable[Node]] = [
        (
            element("span", each["at"][:19].replace("T", " "), class_="whole"),
            _short(each["alert"]),
            ", ".join(each["parts"]),
            each.get("code", ""),
            [_who(facts, each["log"]), f" entry {each['index']}"],
        )
        for each in part["list"]
    ]
    return _section(
        "erasures",
        "What was erased",
        _left_out(part, "erasure"),
        table(("Time", "Alert", "Parts", "Why", "Where"), rows)
        if rows
        else element("p", "No log here tells of an erasure."),
    )


def _unknown(facts: Facts) -> Html:
    return _section(
        "unknown",
        "What cannot be known",
        element(
            "ul", [element("li", words[:1].upper(), words[1:], ".") for words in facts["cannot_be_known"]]
        ),
    )
