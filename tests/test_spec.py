"""docs/spec against the code: whatever has a value, a label, a tag or a table in one has it in the other.

Nothing is listed twice: names are collected from the source, so a new label, item, operation, message type or
table fails here until its page says what it is. Error codes and limits are held in tests/test_project.py.
"""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from audit.entry import COMMON, TYPES
from keys import labels
from keys.trust import PairState
from node.ladder import ORDER
from protocol import alert
from protocol.delivery import Delivery
from protocol.message import MessageType
from protocol.receipts import LADDER, ReceiptState
from protocol.requests import Refusal
from protocol.sealing import Mark
from tests.support import diagrams, example

ROOT = Path(__file__).resolve().parents[1]
SPEC = ROOT / "docs" / "spec"
PACKAGES = ("keys", "protocol", "runtime", "audit", "broker", "node")


def _page(name: str) -> str:
    return (SPEC / name).read_text(encoding="utf-8")


def _section(page: str, heading: str) -> str:
    return re.split(r"\n##+ ", _page(page).split(f"# {heading}\n", 1)[1], maxsplit=1)[0]


def _constants() -> dict[str, set[object]]:
    """Every public constant of the packages by name, with each value it has anywhere."""
    found: dict[str, set[object]] = {}
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                for name, value in vars(importlib.import_module(module.name)).items():
                    if name.isupper() and isinstance(value, int | tuple):
                        found.setdefault(name, set()).add(value)
    return found


CONSTANTS = _constants()
_ROWS = [
    (page.name, name, value)
    for page in sorted(SPEC.glob("*.md"))
    for name, value in re.findall(
        r"^\| `([A-Z][A-Z0-9_]+)` \| ([\d, ]+) \|", page.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
]


@pytest.mark.parametrize(("page", "name", "value"), _ROWS, ids=lambda row: str(row)[:40])
def test_a_constant_of_a_page_has_the_value_of_the_code(page: str, name: str, value: str) -> None:
    """A row that names a constant and a number, on any page, states what the code has."""
    numbers = tuple(int(number.replace(",", "")) for number in value.split())
    stated = numbers[0] if len(numbers) == 1 else numbers
    assert stated in CONSTANTS.get(name, set()), f"{page}: {name}"


def test_there_are_constants_to_compare() -> None:
    """The pattern above finds the tables of at least three pages."""
    assert len({page for page, _, _ in _ROWS}) >= 3
    assert len(_ROWS) > 100


def test_every_label_is_on_the_page_with_its_purpose_and_no_other() -> None:
    """docs/spec/suite.md and keys/labels.py hold the same labels."""
    source = [
        value.decode().removeprefix("salween/v1/") for name, value in vars(labels).items() if name.isupper()
    ]
    page = re.findall(r"^\| `([a-z-]+)` \| \S", _section("suite.md", "Labels"), flags=re.MULTILINE)
    assert sorted(page) == sorted(source)


def test_every_message_type_is_on_the_page() -> None:
    """docs/spec/envelope.md names the number of each type, and says what its body is."""
    (row,) = re.findall(r"^\| 4 \| 1 \| type: (.+?) \|$", _page("envelope.md"), flags=re.MULTILINE)
    assert {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", row)} == {
        kind.name.lower(): kind.value for kind in MessageType
    }
    bodies = re.findall(
        r"^\| ([a-z, ]+) \| .+ \| .+ \|$", _section("envelope.md", "Body"), flags=re.MULTILINE
    )
    told = {name.strip() for cell in bodies for name in cell.split(",")} - {"type"}
    assert told == {kind.name.lower() for kind in MessageType}


def test_every_code_a_page_of_the_specification_names_exists() -> None:
    """A table that says which code follows says one of errors.md, or a word of the page itself."""
    known = set(re.findall(r"^\| `([a-z_0-9]+)` \|", _page("errors.md"), flags=re.MULTILINE))
    assert len(known) > 200
    for page, heading in (("pairing.md", "Refusals"), ("broker.md", "What a node does with an answer")):
        codes = set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`", _section(page, heading)))
        assert codes - known - {"not_found", "token_unknown", "too_large", "broker_quota"} == set(), page


@pytest.mark.parametrize("folder", [SPEC, SPEC.parent])
def test_every_page_is_in_the_index_of_its_folder(folder: Path) -> None:
    """A page that no index names is not read."""
    named = set(re.findall(r"\]\(([a-z-]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8")))
    assert named == {page.name for page in folder.glob("*.md")} - {"README.md"}


# --- values in msgpack: tags and their fields, read from the source that writes them ---


def _written(path: str, function: str) -> dict[str, set[str]]:
    """Field names by tag, of every map with a constant ``k`` that ``function`` writes."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    (body,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function)
    found: dict[str, set[str]] = {}
    for node in ast.walk(body):
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            if "k" in keys:
                tag = node.values[keys.index("k")]
                assert isinstance(tag, ast.Constant)
                found[str(tag.value)] = {str(key) for key in keys} - {"k"}
    return found


def _letters(cell: str) -> set[str]:
    return set(re.findall(r"`([a-z]{1,2})`", cell))


def test_every_item_is_on_the_page_with_its_fields() -> None:
    """docs/spec/items.md has a row for each tag, naming each field."""
    rows = re.findall(r"^\| `([a-z/-]+)`(?: \*)? \| (.+?) \| .+ \|$", _page("items.md"), flags=re.MULTILINE)
    page = {tag: _letters(fields) for tag, fields in rows}
    assert page == _written("protocol/items.py", "_to_wire")


def test_every_operation_and_answer_is_on_the_page_with_its_fields() -> None:
    """docs/spec/broker.md has a row for each operation with the answer to it, and each refusal."""
    section = _section("broker.md", "Requests")
    cell = r"((?:[^|\\]|\\.)*)"  # a bar inside a cell is written with a backslash
    rows = re.findall(rf"^\| `([a-z]+)`[^|]*\|{cell}\|{cell}\|$", section, flags=re.MULTILINE)
    written = _written("protocol/requests.py", "_op_to_wire") | _written(
        "protocol/requests.py", "_ops_to_wire"
    )
    assert {tag: _letters(fields) for tag, fields, _ in rows} == written
    answers: dict[str, set[str]] = {}
    for _, _, answer in rows:
        (tag,) = re.findall(r"^ `([a-z]+)`", answer)
        answers[tag] = _letters(answer.partition(":")[2])
    written = _written("protocol/requests.py", "_result_to_wire")
    assert written.pop("no") == {"c"}
    assert answers == written
    (refusals,) = re.findall(r"^Refused: `no` with `c`: (.+?)\. ", section, flags=re.MULTILINE | re.DOTALL)
    told = re.findall(r"`([a-z_]+)`", refusals)
    assert sorted(told) == sorted(refusal.value for refusal in Refusal)


def test_every_receipt_state_is_on_the_page() -> None:
    """docs/spec/receipts.md names what may stand in a receipt, and the ladder in its order."""
    page = _page("receipts.md")
    (cell,) = re.findall(r"^\| `s` \| (.+?) \|$", page, flags=re.MULTILINE)
    assert set(re.findall(r"`([a-z]+)`", cell)) == {state.value for state in ReceiptState} - {"held"}
    (ladder,) = re.findall(r"^(`kept` < .+?)\. ", page, flags=re.MULTILINE)
    silence = {"expired", "no_reply"}
    assert re.findall(r"`([a-z_]+)`", ladder) == [
        step for step in sorted(ORDER, key=lambda step: ORDER[step]) if step not in silence
    ]
    climbing = [state.value for state in LADDER if state is not ReceiptState.HELD]
    assert climbing == [step for step in re.findall(r"`([a-z]+)`", ladder) if step in climbing]


def test_every_state_and_mark_has_a_word_on_its_page() -> None:
    """States of delivery and of a pair, and what a screen says beside a message."""
    marks = set(re.findall(r"`([a-z_]+)`", _section("envelope.md", "Results")))
    assert {mark.value for mark in Mark} <= marks
    phases = {
        word.replace(" ", "_")
        for word in re.findall(r"\*\*([a-z ]+)\*\*", _section("conversation.md", "Delivery"))
    }
    assert {phase.value for phase in Delivery} == phases
    states = _section("keys.md", "Trust")
    assert all(f"`{state.name.lower()}`" in states for state in PairState)


def _fields(cell: str, kinds: dict[str, str]) -> dict[str, str]:
    return {name: kinds[kind] for name, kind in re.findall(r"`([a-z0-9]+)` ([a-z0-9_]+)", cell)}


def test_every_type_of_a_log_entry_is_on_the_page_with_its_fields_and_their_kinds() -> None:
    """docs/spec/log.md holds the table of audit/entry.py: whose, which fields, what each holds."""
    section = _section("log.md", "Entries")
    listed = re.findall(r"^\| ([a-z0-9_]+) \| (.+?) \|(?: `(.+?)` \|)?", section, flags=re.MULTILINE)
    kinds = {name: meaning for name, meaning, _ in listed}
    known = {
        kind.meaning: kind.pattern
        for row in TYPES.values()
        for kind in (*row.required.values(), *row.optional.values())
    }
    for heading in ("field", "kind", "type"):
        del kinds[heading]
    meanings = {meaning.replace(" | ", ", "): meaning for meaning in known}
    assert sorted(kinds.values()) == sorted(meanings)
    for _, meaning, form in listed:
        assert not form or known[meaning] == f'"{form}"', meaning
    rows = re.findall(
        r"^\| `([a-z]+\.[a-z-]+)` \| ([a-z ]+) \| (.*?) ?\| (.*?) ?\| (.+) \|$", section, flags=re.MULTILINE
    )
    kinds = {name: meanings[meaning] for name, meaning in kinds.items()}
    page = {name: (whose, _fields(must, kinds), _fields(may, kinds)) for name, whose, must, may, _ in rows}
    assert len(page) == len(rows)
    assert page == {
        name: (
            row.whose,
            {key: kind.meaning for key, kind in row.required.items()},
            {key: kind.meaning for key, kind in row.optional.items()},
        )
        for name, row in TYPES.items()
    }
    common = dict(re.findall(r"^\| `([a-z]+)` \| (.+) \|$", section, flags=re.MULTILINE))
    assert {key: text.partition(":")[0] for key, text in common.items()} == {
        key: kind.meaning for key, kind in COMMON.items()
    }


def test_an_entry_type_is_reserved_where_no_program_writes_it() -> None:
    """The page says of each type when it is written, and of the rest that they are not."""
    section = _section("log.md", "Entries")
    reserved = re.findall(r"^\| `([a-z]+\.[a-z-]+)` .*\| reserved \|$", section, flags=re.MULTILINE)
    source = "".join(
        path.read_text(encoding="utf-8")
        for package in ("audit", "broker", "node")
        for path in (ROOT / package).rglob("*.py")
        if path.name not in ("entry.py", "replay.py", "fsck.py", "reconcile.py", "labels.py", "words.py")
    )
    assert sorted(reserved) == sorted(name for name in TYPES if f'"{name}"' not in source)


# --- alerts ---

_TEXTS = {
    "identifier": alert.Identifier,
    "short": alert.ShortText,
    "name": alert.Name,
    "reason": alert.Reason,
    "description": alert.Description,
    "text": alert.LongText,
}


def _takes(kind: str, text: str) -> bool:
    try:
        TypeAdapter(_TEXTS[kind]).validate_python(text)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(("heading", "model"), [("vehicle", alert.Vehicle), ("person", alert.Person)])
def test_every_field_of_an_entity_is_on_the_page_with_what_it_holds(
    heading: str, model: type[BaseModel]
) -> None:
    """docs/spec/alert.md names each field, with its kind of text or its words."""
    table = _page("alert.md").split(f"| field of a {heading} | holds |\n|---|---|\n")[1].split("\n\n")[0]
    page = dict(re.findall(r"^\| `([a-z_]+)` \| (.+) \|$", table, flags=re.MULTILINE))
    assert list(page) == list(model.model_fields)
    for name, holds in page.items():
        annotation = get_type_hints(model, include_extras=True)[name]
        if holds in _TEXTS:
            assert annotation == _TEXTS[holds] | None, name
        else:
            assert set(re.findall(r"`([a-z]+)`", holds)) == set(re.findall(r"'([a-z]+)'", str(annotation))), (
                name
            )


def test_each_kind_of_text_has_the_limits_of_the_page() -> None:
    """As many characters and bytes as the page allows and no more; lines and joiners as it says."""
    rows = re.findall(
        r"^\| ([a-z]+) \| ([\d,]+) \| ([\d,]+) \| (one|many) \| (yes|no) \|$",
        _page("alert.md"),
        flags=re.MULTILINE,
    )
    assert [row[0] for row in rows] == list(_TEXTS)
    for kind, characters, most_bytes, lines, joiners in rows:
        points, size = (int(number.replace(",", "")) for number in (characters, most_bytes))
        assert _takes(kind, "a" * points), kind
        assert not _takes(kind, "a" * (points + 1)), kind
        # Four bytes a letter, as far as both limits allow.
        wide = min(points, size // 4)
        assert _takes(kind, "𠀀" * wide), kind
        assert wide == points or not _takes(kind, "𠀀" * (wide + 1)), kind
        assert _takes(kind, "a\nb") == (lines == "many"), kind
        assert _takes(kind, "a\u200cb") == (joiners == "yes"), kind


# --- layouts ---


def _magics() -> Iterator[str]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield from re.findall(r'b"(SL[A-Z]{1,2}\d?)"', path.read_text(encoding="utf-8"))


def test_every_magic_word_is_on_a_page_and_stands_for_one_format() -> None:
    """A format that begins with a magic word is described where the word is named."""
    source = list(_magics())
    assert len(source) == len(set(source)), "one word for two formats"
    pages = "".join(page.read_text(encoding="utf-8") for page in SPEC.glob("*.md"))
    assert sorted(set(source) - set(re.findall(r"`(SL[A-Z]{1,2}\d?)`", pages))) == []
    assert sorted(set(re.findall(r"`(SL[A-Z]{1,2}\d?)`", pages)) - set(source)) == []


# --- diagrams ---


def test_the_diagrams_are_what_the_tables_draw() -> None:
    """docs/spec/diagrams.md is up to date: ``python -m tests.support.diagrams`` writes it."""
    assert diagrams.PAGE.read_text(encoding="utf-8") == diagrams.draw()


def test_a_table_that_changes_changes_its_diagram() -> None:
    """Each transition is drawn: without one of them the page is another."""
    drawn = dict(diagrams.tables())
    assert {"protocol.delivery.TRANSITIONS", "audit.replay.SENT", "audit.replay.HELD"} <= set(drawn)
    for name, table in drawn.items():
        whole = diagrams.draw_table(name, table)
        for left_out in table:
            fewer = {key: to for key, to in table.items() if key != left_out}
            assert diagrams.draw_table(name, fewer) != whole, left_out


def test_the_worked_example_is_the_recorded_envelope() -> None:
    """docs/spec/example.md is up to date; every hash and signature in it is checked as it is drawn."""
    assert example.PAGE.read_text(encoding="utf-8") == example.draw()
