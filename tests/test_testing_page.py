"""docs/testing.md says what is tested by name, docs/threat-model.md which test holds which promise."""

import ast
import re
from pathlib import Path

import pytest

from audit.words import MEANINGS

ROOT = Path(__file__).resolve().parents[1]

# Ids without a test so far: a malicious broker and peer in the simulator bring these. Take out what has one.
EXPECTED_LATER: frozenset[str] = frozenset()


def _tests() -> dict[str, str]:
    """Every test by its address, ``tests/file.py::name``, with its docstring."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[f"{path.relative_to(ROOT)}::{node.name}"] = ast.get_docstring(node) or ""
    return found


TESTS = _tests()


def _listed() -> set[str]:
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| ([ABF]\d+) \|", page, flags=re.MULTILINE))


def _carried() -> set[str]:
    """Ids in docstrings, ``B15`` as well as a span ``B15 to B29``, which names none of them alone."""
    return {
        found
        for docstring in TESTS.values()
        for found in re.findall(r"\b[ABF]\d{2}\b", re.sub(r"[ABF]\d{2} to [ABF]\d{2}", "", docstring))
    }


def test_every_listed_id_has_a_test_that_carries_it() -> None:
    """A number of the page stands in the docstring of at least one test, or is named above as to come."""
    listed, carried = _listed(), _carried()
    assert {f"B{number}" for number in range(15, 30)} <= listed
    assert {f"F{number}" for number in range(41, 60) if number != 51} <= listed
    assert {f"A{number:02}" for number in range(1, 23)} <= listed
    assert sorted(listed - carried - EXPECTED_LATER) == []


def test_every_attack_on_a_log_names_its_tests_and_a_verdict_that_exists() -> None:
    """The row's tests carry its number, and no other test does; each verdict is one of the tables."""
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (A\d\d) \| .+? \| (.+?) \| (.+?) \|$", page, flags=re.MULTILINE)
    assert len(rows) == 22
    for number, verdicts, named in rows:
        tests = {f"tests/audit/test_reconcile.py::{name}" for name in re.findall(r"`(test_\w+)`", named)}
        assert tests == {test for test, said in TESTS.items() if re.search(rf"\b{number}\b", said)}, number
        labels = re.findall(r"`([A-Z-]+)(?:\(i\))?`", verdicts)
        assert labels, number
        assert set(labels) <= set(MEANINGS), number


def test_what_is_expected_later_is_listed_and_shrinks() -> None:
    """An id that has its test by now is no longer excused."""
    assert sorted(EXPECTED_LATER - _listed()) == []
    assert sorted(EXPECTED_LATER & _carried()) == [], "has a test now: take it out of EXPECTED_LATER"


# --- the threat model ---

_PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
_SECTION = _PAGE.split("\n## Adversary by adversary\n")[1].split("\n## ")[0]
_ADVERSARIES = dict(re.findall(r"^### (.+?)\n(.*?)(?=^### |\Z)", _SECTION, flags=re.MULTILINE | re.DOTALL))


def _rows(section: str) -> list[tuple[str, str]]:
    return re.findall(r"^\| cannot \| (.+?) \| (.+?) \|$", section, flags=re.MULTILINE)


@pytest.mark.parametrize("adversary", _ADVERSARIES)
def test_every_cannot_of_the_threat_model_points_to_a_test_that_exists(adversary: str) -> None:
    """A promise names the test that holds it, or says that it is not kept yet."""
    section = _ADVERSARIES[adversary]
    assert re.search(r"^\| can \|", section, flags=re.MULTILINE), "what it can is stated too"
    rows = _rows(section)
    assert rows, "an adversary who cannot do anything less is no adversary"
    for promise, held_by in rows:
        pointers = re.findall(r"`(tests/[\w/]+\.py::test_\w+)`", held_by)
        if "not yet" in held_by:
            assert not pointers, promise
            continue
        assert pointers, promise
        assert [pointer for pointer in pointers if pointer not in TESTS] == [], promise


def test_the_threat_model_has_every_adversary() -> None:
    """Leaving one out would be a promise too."""
    assert len(_ADVERSARIES) >= 13
    assert _SECTION.count("| cannot |") == sum(len(_rows(section)) for section in _ADVERSARIES.values())
