"""The report over logs of real daemons: complete, findings first, and quiet whatever a log says."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audit.__main__ import Exit
from audit.entry import TYPES
from audit.fsck import Verdict
from audit.policy import Group, Policy, parse_policy_untrusted, single_log_policy
from audit.reconcile import Fate, authenticate, reconcile
from audit.replay import BORDER, DUPLICATE, IMPOSSIBLE, UNEXPLAINED
from audit.report import STEPS_MAX, gather
from audit.report_page import render
from audit.words import MEANINGS, STEPS
from demo.liar import without
from tests.audit.logs import a_signer, forge
from tests.audit.test_main import audit
from tests.audit.test_page import HOSTILE, check_quiet
from tests.audit.test_reconcile import Logs, command, first_alert, logs
from tests.browser.chromium import chromium
from tests.support.syntax_rules import ROOT

__all__ = ["logs"]

NOW_US = 1_800_000_000_000_000
A4_PX = 688
"""Between the margins of a page of A4: 182 mm at 96 px to the inch."""


def facts_of(parties: Any, *, timelines: int = 200, policies: list[Policy] | None = None) -> dict[str, Any]:
    policies = policies or [single_log_policy(party.signer.log_key) for party in parties]
    answer = reconcile([authenticate(str(party.directory), policies) for party in parties])
    return gather(answer, policies, now_us=NOW_US, timelines=timelines)


def test_every_verdict_has_its_words() -> None:
    """In the table of the code and on the page of the documentation, and none that does not exist."""
    labels = {each.value for each in Verdict} | {each.value for each in Fate}
    labels |= {BORDER, DUPLICATE, IMPOSSIBLE, UNEXPLAINED}
    assert set(MEANINGS) == labels
    page = (ROOT / "docs/auditing.md").read_text()
    rows = re.findall(r"^\| `([A-Z-]+)(?:\([a-z]\))?` \| (.*?) \| (.*?) ?\|$", page, re.M)
    assert {label for label, _, _ in rows} == labels
    assert [label for label, says, not_said in rows if not (says and not_said)] == []


def test_phrases_of_steps_need_only_what_an_entry_must_have() -> None:
    """Or one that lacks it would end a report."""
    for name, phrase in STEPS.items():
        assert set(re.findall(r"%\((\w+)\)", phrase)) <= set(TYPES[name].required)


def test_the_facts_say_what_was_verified_and_tell_each_message(logs: Logs) -> None:
    """Size, root, time; a timeline in three columns; accesses, erasures and waits from the entries."""
    facts = facts_of((logs.sender, logs.receiver, logs.broker))
    assert facts["clean"]
    for party in (logs.sender, logs.receiver, logs.broker):
        (log,) = [log for log in facts["logs"] if log["origin"] == party.signer.name]
        entries = party.entries()
        assert (log["size"], log["verified_size"], log["verdicts"]) == (
            len(entries),
            len(entries),
            ["VERIFIED"],
        )
    msg, env = first_alert(logs)
    (told,) = [each for each in facts["messages"]["list"] if each["id"] == msg]
    assert {step["party"] for step in told["steps"]} == {"sender", "broker", "receiver"}
    kept = [
        (party.signer.name, entry["seq"])
        for party in (logs.sender, logs.receiver, logs.broker)
        for entry in party.entries()
        if entry["t"] in STEPS
        and (entry.get("msg") == msg or entry.get("env") == env or entry.get("alert") == told["alert"])
    ]
    assert sorted((step["log"], step["index"]) for step in told["steps"]) == sorted(kept)
    both = [*logs.sender.entries(), *logs.receiver.entries()]
    assert facts["accesses"]["total"] == sum(entry["t"].startswith("acc.") for entry in both)
    assert facts["erasures"]["total"] == sum(entry["t"] == "content.erased" for entry in both) == 2
    (lag,) = [lag for lag in facts["witness_lag"] if lag["origin"] == logs.sender.signer.name]
    seen = [entry for entry in logs.receiver.entries() if entry["t"] == "wit.cosigned"]
    sizes = [entry["size"] for entry in seen if entry["origin"] == logs.sender.signer.name]
    assert (lag["points"], lag["seen_size"]) == (len(sizes), sizes[-1])
    times = [entry["ts"] for entry in logs.sender.entries()]
    first = next(entry for entry in seen if entry["origin"] == logs.sender.signer.name)
    assert lag["list"][0]["waited_s"] == pytest.approx(max(first["ts"] - times[0], 0) / 1e6, abs=0.1)
    assert lag["median_s"] > 0, "a clock set ahead is no early witness"
    assert {step["clock_set_s"] for each in facts["messages"]["list"] for step in each["steps"]} == {0, 7200}


def test_the_page_holds_the_facts_and_nothing_that_runs(logs: Logs, tmp_path: Path) -> None:
    """Findings come before what was verified; every root, size and verdict stands on it."""
    msg, _ = first_alert(logs)
    receiver = logs.receiver.rewritten(tmp_path / "log", without(lambda entry: entry.get("msg") == msg))
    facts = facts_of((logs.sender, receiver, logs.broker))
    page = render(facts).decode()
    read = check_quiet(page)
    words = " ".join(read.words)
    assert words.index("RECEIVER-OMISSION-PROVEN") < words.index("What was verified, and up to where")
    for log in facts["logs"]:
        assert log["root"] in words
        assert f"{log['verified_size']:,} of {log['size']:,} entries lead to a signed root" in words
    for sentence in facts["cannot_be_known"]:
        assert sentence[1:] in words
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    assert "url(" not in page
    assert all(facts["meanings"][label]["not_said"] in words for label in facts["messages"]["counts"])


async def test_nothing_on_the_page_overlaps(logs: Logs, tmp_path: Path) -> None:
    """On a small screen and on A4: no cell is wider than its column, and nothing reaches beyond the page."""
    page = tmp_path / "report.html"
    page.write_bytes(render(facts_of((logs.sender, logs.receiver, logs.broker))))
    async with chromium() as browser:
        shown = await browser.new_page()
        await shown.goto(page.as_uri())
        for size, on in (
            ({"width": 1024, "height": 600}, "screen"),
            ({"width": A4_PX, "height": 600}, "print"),
        ):
            await shown.set_viewport_size(size)  # type: ignore[arg-type]
            await shown.emulate_media(media=on)  # type: ignore[arg-type]
            wide = await shown.evaluate(
                "[...document.querySelectorAll('th, td, dd, .card')]"
                ".filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.textContent)"
            )
            assert wide == [], on
            assert await shown.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_what_is_left_out_is_said(logs: Logs) -> None:
    """Findings first, the rest counted."""
    facts = facts_of((logs.sender, logs.receiver, logs.broker), timelines=2)
    messages = facts["messages"]
    assert (len(messages["list"]), messages["left_out"]) == (2, messages["total"] - 2)
    assert f"{messages['left_out']:,} more were judged" in render(facts).decode()
    told = {"total": 2_000, "left_out": 1_000, "list": facts["accesses"]["list"]}
    assert "of 2,000 accesses." in render({**facts, "accesses": told}).decode()
    none = facts_of((logs.sender,), timelines=0)
    check_quiet(render(none).decode())
    assert STEPS_MAX >= 20


def test_names_come_from_the_auditors_policy(logs: Logs) -> None:
    """An office is called as its witness key is listed; a hostile word there is a word as well."""
    office = logs.sender.signer.name.rpartition("/log")[0]
    for name in ("Myitkyina_BLO", "<script>alert(1)</script>"):
        policies = [
            single_log_policy(party.signer.log_key) for party in (logs.sender, logs.receiver, logs.broker)
        ]
        key = replace(logs.receiver.signer.log_key, name=f"{office}/witness1", type_byte=4)
        policies[0] = replace(
            policies[0],
            witnesses={name: key, f"{name}~2": replace(key, type_byte=6)},
            groups={"g": Group(threshold=1, members=(name,))},
        )
        facts = facts_of((logs.sender, logs.receiver, logs.broker), policies=policies)
        assert facts["names"] == {office: name}, "a further key of it is listed later, under a longer word"
        assert name in " ".join(check_quiet(render(facts).decode()).words)


def test_a_hostile_log_injects_nothing(tmp_path: Path) -> None:
    """Key names, directories, stray files and unknown entries are the strings that its owner chooses."""
    name = "x/<script>alert(1)</script>'\"&/log1"
    signer = a_signer(name)
    common = {"bt": "00" * 8, "mo": 0, "seq": 0, "ts": 5, "v": 1, "z": "00" * 16}
    start = common | {"t": "log.start", "origin": "x/log1", "key": "00" * 32}
    strange = common | {"t": "odd.thing", "seq": 1, "x": "<img src=x onerror=alert(1)>"}
    entries = [json.dumps(each, sort_keys=True, separators=(",", ":")).encode() for each in (start, strange)]
    home = tmp_path / HOSTILE[1].replace("/", "")
    forge(home, entries, signer)
    (home / "tile/0/<img src=x>").write_bytes(b"")
    policies = [parse_policy_untrusted(f"log {signer.log_key.encode()}\nquorum none\n".encode())]
    answer = reconcile([authenticate(str(home), policies)])
    facts = gather(answer, policies, now_us=NOW_US)
    read = check_quiet(render(facts).decode())
    assert name in " ".join(read.words)
    assert not facts["clean"]


def keys_of(value: Any) -> set[str]:
    """Every key of an object and of what it holds, but for tables keyed by what a log says."""
    if isinstance(value, list):
        return set().union(*map(keys_of, value), set())
    if not isinstance(value, dict):
        return set()
    found = set(value)
    for key, each in value.items():
        if key in ("counts", "names", "entries_by_type"):
            continue
        found |= set().union(*map(keys_of, each.values())) if key == "meanings" else keys_of(each)
    return found


def test_the_command_writes_one_file_and_documented_facts(logs: Logs, tmp_path: Path) -> None:
    """Exit 1 with findings, and the page is there; the JSON has the documented keys and no other."""
    msg, _ = first_alert(logs)
    receiver = logs.receiver.rewritten(tmp_path / "log", without(lambda entry: entry.get("msg") == msg))
    given = ["report", *command(replace(logs, receiver=receiver), tmp_path)[1:]]
    out = tmp_path / "report.html"
    done = audit(*given, "--out", str(out), "--json")
    assert (done.returncode, done.stderr) == (Exit.FINDING, "")
    assert out.read_bytes().startswith(b"<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []
    page = (ROOT / "docs/auditing.md").read_text()
    section = page[page.index("## Report") : page.index("## Exit codes")]
    documented = {
        word for row in re.findall("^\\| .*", section, re.M) for word in re.findall("`([a-z_0-9]+)`", row)
    }
    assert keys_of(json.loads(done.stdout)) <= documented
    assert audit(*given).returncode == Exit.USAGE
    if os.getuid():
        assert audit(*given, "--out", "/report.html").returncode == Exit.UNREADABLE
    assert audit(*given, "--out", str(tmp_path / "no/report.html")).returncode == Exit.UNREADABLE
