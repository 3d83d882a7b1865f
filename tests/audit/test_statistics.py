"""Statistics: each cell is what the entries say, and a hidden one cannot be worked out from the others."""

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.__main__ import Exit
from audit.entry import encode_entry
from audit.policy import single_log_policy
from audit.statistics import FAMILIES, MEASURES, SMALL, hide
from tests.audit.logs import a_signer, forge, read_entries
from tests.audit.test_main import audit
from tests.audit.test_page import check_quiet
from tests.support.syntax_rules import ROOT

ORIGIN = "salween/00112233aabbccdd/log1"
JANUARY_US = 1_767_225_600_000_000  # 2026-01-01
DAY_US = 86_400_000_000
PARTNERS = ("aa" * 8, "bb" * 8, "cc" * 8)


def an_office(home: Path, seed: int = 3) -> Path:
    """The published log of an office that sent and received for four months; one clock step."""
    draw, shift = random.Random(seed), 0
    entries: list[bytes] = []

    def add(name: str, at_us: int, **fields: Any) -> None:
        common: dict[str, Any] = {
            "v": 1,
            "bt": "00" * 8,
            "mo": len(entries),
            "seq": len(entries),
            "z": "00" * 16,
        }
        entries.append(encode_entry(common | {"t": name, "ts": at_us + shift} | fields))

    add("log.start", JANUARY_US, origin=ORIGIN, key="00" * 32)
    at_us = JANUARY_US
    for number in range(170):
        at_us += draw.randrange(DAY_US)
        msg, alert = f"{number:032x}", f"{number:064x}"
        peer = draw.choices(PARTNERS, (70, 26, 4))[0]
        if number == 60:
            add("clk.step", at_us, **{"from": at_us, "to": at_us + 90 * DAY_US})
            shift = 90 * DAY_US
        if number % 3 == 0:
            add("msg.recv", at_us, env=alert, verdict="ok", msg=msg, peer=peer, alert=alert)
            if number % 2:
                add("acc.read", at_us + 60_000_000, alert=alert, actor="ee" * 32, purpose="duty", k=1)
                add(
                    "acc.read",
                    at_us + 70_000_000,
                    alert=alert,
                    actor="ee" * 32,
                    purpose="duty",
                    k=2,
                    prev=len(entries) - 1,
                )
            continue
        add(
            "msg.submit",
            at_us,
            msg=msg,
            peer=peer,
            com=[],
            exp=0,
            alert=alert,
            urgency="expected",
            kind="alert",
        )
        later_us = at_us
        for step in ("delivered", "opened", "assigned", "outcome")[: draw.randrange(5)]:
            later_us += draw.choice((10, 3000, 50_000)) * 1_000_000
            add("msg.receipt", later_us, msg=msg, step=step, at=0, peer=peer)
            add("msg.receipt", later_us, msg=msg, step=step, at=0, peer=peer)  # said twice, counted once
        if number % 25 == 1:
            add("msg.overdue", later_us, msg=msg, code="no_reply")
            add("msg.cancel", later_us, msg=msg)
        at_us = later_us
    return forge(home / "log", entries, a_signer(ORIGIN))


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("statistics")
    (home / "policy").write_bytes(single_log_policy(a_signer(ORIGIN).log_key).encode())
    an_office(home)
    return home


def statistics(office: Path, *more: str) -> Any:
    return audit("statistics", str(office / "log"), "--policy", str(office / "policy"), *more)


def entries_of(office: Path) -> list[dict[str, Any]]:
    size = int((office / "log/checkpoint").read_bytes().split(b"\n")[1])
    return [json.loads(data) for data in read_entries(office / "log", size)]


def counted_again(entries: list[dict[str, Any]]) -> Counter[tuple[str, str, str]]:
    """(table, measure, cell) -> count, the slow and plain way."""
    set_us = 90 * DAY_US
    step = next(at for at, entry in enumerate(entries) if entry["t"] == "clk.step")
    true_us = {entry["seq"]: entry["ts"] - (set_us if at > step else 0) for at, entry in enumerate(entries)}

    def month(entry: dict[str, Any]) -> str:
        day = (true_us[entry["seq"]] - JANUARY_US) // DAY_US
        for name, days in (
            ("2026-01", 31),
            ("2026-02", 28),
            ("2026-03", 31),
            ("2026-04", 30),
            ("2026-05", 31),
        ):
            if day < days:
                return name
            day -= days
        raise AssertionError(day)

    def bucket(us: int) -> str:
        minutes = us / 60e6
        limits = ((15, "up to 15 min"), (60, "up to 1 h"), (240, "up to 4 h"), (1440, "up to 1 day"))
        return next((name for limit, name in limits if minutes <= limit), "up to 7 days")

    found: Counter[tuple[str, str, str]] = Counter()
    for sent in (entry for entry in entries if entry["t"] == "msg.submit"):
        mine = [entry for entry in entries if entry.get("msg") == sent["msg"] and entry is not sent]
        reached = {"sent"} | {entry["step"] for entry in mine if entry["t"] == "msg.receipt"}
        reached |= {"overdue" for entry in mine if entry["t"] == "msg.overdue"}
        reached |= {"retracted" for entry in mine if entry["t"] == "msg.cancel"}
        for measure in reached:
            found["total", measure, ""] += 1
            found["month", measure, month(sent)] += 1
            found["partner", measure, sent["peer"]] += 1
            found["kind", measure, "alert"] += 1
            found["urgency", measure, "expected"] += 1
        for step_word, table in (("opened", "time to open"), ("outcome", "time to outcome")):
            first = next((entry for entry in mine if entry.get("step") == step_word), None)
            if first is not None:
                found[table, step_word, bucket(true_us[first["seq"]] - true_us[sent["seq"]])] += 1
    reads = [entry for entry in entries if entry["t"] == "acc.read"]
    for taken in (entry for entry in entries if entry["t"] == "msg.recv"):
        mine = [entry for entry in reads if entry["alert"] == taken["alert"]]
        for word in ("received", "read") if mine else ("received",):
            found["total", word, ""] += 1
            found["month", word, month(taken)] += 1
            found["partner", word, taken["peer"]] += 1
        if mine:
            found["time to reading", "read", bucket(true_us[mine[0]["seq"]] - true_us[taken["seq"]])] += 1
    for access in reads:
        found["total", "accesses", ""] += 1
        found["month", "accesses", month(access)] += 1
        found["how", "accesses", "read"] += 1
    return found


def rows_of(text: str) -> Iterator[tuple[tuple[str, str, str], str]]:
    for table, measure, cell, number in list(csv.reader(io.StringIO(text)))[1:]:
        if table != "log":
            yield (table, measure, cell), number


def test_every_cell_is_what_the_entries_say(office: Path) -> None:
    """Recomputed from the entries by other code: what is shown is right, and what is small is not shown."""
    done = statistics(office, "--csv")
    assert (done.returncode, done.stderr) == (Exit.CLEAN, "")
    again, shown, hidden = counted_again(entries_of(office)), set(), []
    for key, number in rows_of(done.stdout):
        shown.add(key)
        if number == "hidden":
            hidden.append(key)
        else:
            assert int(number) == again[key], key
            assert not 0 < again[key] < SMALL, f"{key} is {again[key]} and was shown"
    published = {measure for table, measure, _ in shown if table == "total"}
    whole = published - {key[1] for key in hidden if key[0] == "total"}
    assert {key for key in again if key[1] in whole} <= shown
    assert {key[1] for key in again} == published
    assert any(key[0] == "partner" for key in hidden)
    assert len(whole) > 5


def test_two_runs_give_the_same_bytes(office: Path) -> None:
    """CSV, JSON and page, whatever order a set has in a process."""
    for option in ("--csv", "--json"):
        runs = {audit(*["statistics", str(office / "log"), "--policy", str(office / "policy"), option],
                      env={"PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")}  # fmt: skip
        assert len(runs) == 1
    pages = []
    for name in ("a.html", "b.html"):
        assert statistics(office, "--out", str(office / name)).returncode == Exit.CLEAN
        pages.append((office / name).read_bytes())
    assert pages[0] == pages[1]
    read = check_quiet(pages[0].decode())
    assert "http" not in pages[0].decode().replace("http-equiv=", "")
    told = json.loads(statistics(office, "--json").stdout)
    for each in told["measures"]:
        assert each["words"][1:] in " ".join(read.words)
    page = (ROOT / "docs/auditing.md").read_text()
    assert set(told) | set(told["measures"][0]) <= {
        word
        for row in page.split("## Statistics")[1].splitlines()
        if row[:1] == "|"
        for word in row.split("`")
    }


def test_a_span_of_months(office: Path) -> None:
    """What became of an alert counts in the month in which it was sent; nothing outside is there."""
    whole = dict(rows_of(statistics(office, "--csv").stdout))
    part = dict(rows_of(statistics(office, "--csv", "--from", "2026-02", "--to", "2026-03").stdout))
    months = {cell for table, _, cell in part if table == "month"}
    assert months == {"2026-02", "2026-03"}
    assert part["month", "sent", "2026-02"] == whole["month", "sent", "2026-02"]
    for bad in (["--from", "2026"], ["--to", "2026-13"], ["--json"]):
        assert statistics(office, "--csv", *bad).returncode == Exit.USAGE
    assert statistics(office).returncode == Exit.USAGE


def test_a_log_that_nobody_signed_counts_nothing(office: Path, tmp_path: Path) -> None:
    """Exit 1, and no figure that could be quoted."""
    done = audit("statistics", str(office / "log"), "--csv")
    assert done.returncode == Exit.FINDING
    assert "UNKNOWN-KEY" in done.stdout
    assert list(rows_of(done.stdout)) == []


def test_every_measure_is_of_one_family() -> None:
    """Or it would be protected by nobody."""
    assert sorted(MEASURES) == sorted(measure for family in FAMILIES for measure in family)


CELLS = "abcd"
COUNTS = st.dictionaries(st.sampled_from(CELLS), st.integers(0, 9), min_size=1)


@st.composite
def families(draw: st.DrawFn) -> dict[str, dict[str, int]]:
    """A measure and a part of it, each with a total that may be published."""
    whole = {cell: draw(st.integers(0, 9)) for cell in CELLS}
    part = {cell: draw(st.integers(0, whole[cell]) | st.just(whole[cell])) for cell in CELLS}
    return {
        name: cells for name, cells in (("sent", whole), ("opened", part)) if sum(cells.values()) >= SMALL
    }


def worlds(family: dict[str, dict[str, int]], hidden: set[str], measure: str) -> Iterator[dict[str, int]]:
    """Every filling of one measure's hidden cells that fits its total and the other measure's."""
    cells = family[measure]
    together = sum(cells[cell] for cell in hidden)
    names = sorted(hidden)
    other = {"sent": "opened", "opened": "sent"}[measure]
    for filling in product(range(together + 1), repeat=len(names)):
        if sum(filling) != together:
            continue
        if other in family and not _fits(
            dict(zip(names, filling, strict=True)), family[other], measure, names
        ):
            continue
        yield dict(zip(names, filling, strict=True))


def _fits(filling: dict[str, int], other: dict[str, int], measure: str, names: list[str]) -> bool:
    """Whether some filling of the other measure's hidden cells goes with this one; its sum alone is known."""
    together = sum(other[name] for name in names)
    return sum(filling.values()) <= together if measure == "opened" else together <= sum(filling.values())


@settings(max_examples=150)
@given(families())
def test_a_hidden_count_cannot_be_worked_out(family: dict[str, dict[str, int]]) -> None:
    """From all totals and all cells shown: each small count could as well be one that is not small."""
    hidden, dropped = hide(family)
    for measure in set(family) - dropped:
        cells = family[measure]
        small = {cell for cell, number in cells.items() if 0 < number < SMALL}
        assert small <= hidden
        if small:
            fillings = list(worlds({m: family[m] for m in set(family) - dropped}, hidden, measure))
            for cell in small:
                assert max(filling[cell] for filling in fillings) >= SMALL
                assert len({filling[cell] for filling in fillings}) > 1


def test_what_is_hidden_in_one_measure_is_hidden_in_its_parts() -> None:
    """With equal totals the tables are equal, and what one shows the other would have hidden for nothing."""
    sent = {"a": 3, "b": 9, "c": 8, "d": 7}
    hidden, dropped = hide({"sent": sent, "delivered": dict(sent)})
    assert (len(hidden), dropped) == (2, set())
    for opened in ({"a": 3, "b": 2, "c": 8, "d": 7}, {"a": 0, "b": 9, "c": 1, "d": 7}):
        hidden, dropped = hide({"sent": sent, "opened": opened})
        assert {"a"} | {cell for cell in opened if 0 < opened[cell] < SMALL} <= hidden
    assert hide({"sent": {"a": 4, "b": 1}}) == ({"a", "b"}, {"sent"}), "one of them must be small"
    assert hide({"sent": {"a": 5, "b": 0}}) == (set(), set())


def test_company_is_not_chosen_by_its_count() -> None:
    """Whoever knows the rule learns nothing from the choice."""
    chosen = set()
    for counts in ((5, 50, 500), (500, 5, 50), (50, 500, 5)):
        hidden, _ = hide({"sent": {"a": 2, **dict(zip("bcd", counts, strict=True))}})
        chosen |= hidden - {"a"}
    assert len(chosen) == 1
