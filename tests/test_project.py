"""The project as a whole: layout, names, lock, documents. What no single package can hold.

Everything here reads files of the checkout and metadata of the environment; nothing is started but the
console scripts.
"""

import ast
import importlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest
from pydantic import BaseModel

import node
from broker.config import BrokerConfig
from node.config import NodeConfig
from protocol import limits
from runtime import exits
from tests.support import error_codes, lock_check, tools

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("keys", "protocol", "runtime", "audit", "broker", "node", "demo")
PYPROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK: Final = (ROOT / "requirements.lock").read_text(encoding="utf-8")
SCRIPTS: Final = tuple(sorted(PYPROJECT["project"]["scripts"]))


def _tracked() -> list[Path]:
    """Every file of the checkout that belongs to the project."""
    if (ROOT / ".git").exists():
        command = ["git", "-C", str(ROOT), "ls-files", "-z"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return sorted(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())
    hidden = {".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "__pycache__"}
    return sorted(path for path in ROOT.rglob("*") if path.is_file() and not hidden & set(path.parts))


def _sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


# --- layout and names ---


def test_every_package_is_a_map_and_every_file_says_what_it_is() -> None:
    """Each package and each module begins with a docstring; a reader never has to guess."""
    silent = [
        path.relative_to(ROOT).as_posix()
        for path in _sources(*PACKAGES, "bench", "tests")
        if path.read_text(encoding="utf-8").strip()
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []
    for package in PACKAGES:
        map_of = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8")))
        assert map_of, f"{package}/__init__.py is the package's map and must not be empty"


def test_a_package_map_names_every_file_of_its_package() -> None:
    """The reading order in ``__init__`` is complete: a new file does not stay hidden."""
    missing = []
    for package in PACKAGES:
        text = (ROOT / package / "__init__.py").read_text(encoding="utf-8")
        for path in sorted((ROOT / package).glob("*.py")):
            name = path.stem
            if name not in {"__init__", "__main__"} and not re.search(rf"``{name}``|\b{name}\.py\b", text):
                missing.append(f"{package}/{path.name}")
    assert missing == []


def test_every_folder_of_tests_is_a_package() -> None:
    """Two test files may share a name only because their folders are packages."""
    folders = {path.parent for path in _sources("tests")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_provides_our_package_names(package: str) -> None:
    """node, keys, protocol and broker are common words: the name must lead here and nowhere else."""
    others = set(importlib.metadata.packages_distributions().get(package, ())) - {"salween"}
    assert others == set()
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    assert Path(found.origin) == ROOT / package / "__init__.py"
    assert package not in sys.stdlib_module_names


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_in_the_working_folder_shadows_nothing(script: str, tmp_path: Path) -> None:
    """An officer may start a command from a folder that holds keys.py or node/; it is not what runs."""
    for package in (*PACKAGES, "json", "aiohttp"):
        (tmp_path / f"{package}.py").write_text("raise SystemExit(99)\n")
    command = [str(Path(sys.executable).parent / script), "--help"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout


def test_one_distribution_has_all_the_commands() -> None:
    """The installed distribution is this checkout: same version, same four commands, each of which loads."""
    salween = importlib.metadata.distribution("salween")
    assert salween.version == PYPROJECT["project"]["version"] == node.__version__
    commands = {entry.name: entry for entry in salween.entry_points if entry.group == "console_scripts"}
    assert tuple(sorted(commands)) == SCRIPTS
    for entry in commands.values():
        assert callable(entry.load())


# --- the lock ---


def test_the_lock_belongs_to_pyproject() -> None:
    """What an office installs is what pyproject asks for: pinned, hashed, complete, and nothing else."""
    assert lock_check.faults_of(PYPROJECT, LOCK) == []


def test_the_lock_names_no_place() -> None:
    """Where packages come from is the machine's business: no address, no path, no option."""
    assert not re.search(r"://|file:|^-|@|find-links|index-url", LOCK, re.MULTILINE)


def _drifted(change: str) -> tuple[dict[str, Any], str]:
    pyproject: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lock = LOCK
    first = lock.index("aiohttp==")
    match change:
        case "looser":
            pyproject["project"]["dependencies"][0] = "aiohttp"
        case "tighter":
            pyproject["project"]["dependencies"][0] = "aiohttp>=999"
        case "added":
            pyproject["project"]["dependencies"].append("twisted")
        case "removed":
            pyproject["project"]["dependencies"].remove("structlog>=25")
        case "other version":
            lock = lock.replace("aiohttp==", "aiohttp==0.", 1)
        case "rides along":
            lock += f"twisted==24.1 \\\n    --hash=sha256:{'0' * 64}\n"
        case "no hash":
            lock = re.sub(r"(structlog==[^ ]+) \\\n(?:    --hash=\S+(?: \\)?\n)+", r"\1\n", lock)
        case "address":
            lock = lock[:first] + "--index-url https://example.org/simple\n" + lock[first:]
        case _:
            raise AssertionError(change)
    return pyproject, lock


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("looser", "changed since"),
        ("tighter", "aiohttp>=999"),
        ("added", "twisted"),
        ("removed", "structlog is in the lock and nothing needs it"),
        ("other version", "aiohttp: installed"),
        ("rides along", "twisted is in the lock and nothing needs it"),
        ("no hash", "structlog has no hash"),
        ("address", "neither a pin nor a hash"),
    ],
)
def test_every_kind_of_drift_is_seen(change: str, says: str) -> None:
    """The check fails for each way in which lock and pyproject can come apart, and names it."""
    faults = lock_check.faults_of(*_drifted(change))
    assert any(says in fault for fault in faults), faults


# --- what must not stand in the project ---


def test_no_file_names_a_place_on_the_machine_it_was_written_on() -> None:
    """A path of somebody's home, a scratch folder or a work tree helps nobody and tells on everybody."""
    place = re.compile(rb"/(?:home|Users|work|root|mnt|opt)/[A-Za-z0-9.]")
    told = [
        f"{path.relative_to(ROOT).as_posix()}:{number}"
        for path in _tracked()
        if path != Path(__file__)
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        if b"\0" not in line and place.search(line)
    ]
    assert told == []


def test_the_build_service_types_what_a_person_types() -> None:
    """.ci/run can be executed and holds one command of substance, make test."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert lines[-1] == "exec make test </dev/null"
    assert len(lines) <= 4


def test_a_missing_tool_fails_for_root_and_ci_and_is_counted_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A skip hides nothing where the tool has to be there."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-tool is not installed"):
        tools.require_tool("no-such-tool")
    monkeypatch.delenv("CI")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool is not installed"):
        tools.require_tool("no-such-tool")


# --- documents ---


def _anchors(page: Path) -> set[str]:
    """Headings of a page as a repository host writes their anchors."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _fault_of_reference(base: Path, target: str) -> str | None:
    name, _, anchor = target.partition("#")
    page = (base / name).resolve() if name else base
    if not page.exists():
        return f"{target}: no such page"
    if anchor and anchor not in _anchors(page):
        return f"{target}: no such heading"
    return None


def test_links_between_documents_lead_somewhere() -> None:
    """Every relative link of a document meets a file, every anchor a heading."""
    faults = []
    for page in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" not in target:
                base = page if target.startswith("#") else page.parent
                fault = _fault_of_reference(base, target)
                if fault:
                    faults.append(f"{page.relative_to(ROOT)}: {fault}")
    assert faults == []


def test_a_decision_is_named_by_the_number_of_its_page() -> None:
    """Where a page says "decision 0012" it leads to that one."""
    faults = []
    for page in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for number, target in re.findall(r"\[decision (\d{4})\]\(([^)]+)\)", text):
            if not Path(target).name.startswith(number):
                faults.append(f"{page.relative_to(ROOT)}: decision {number} leads to {target}")
    assert faults == []


def test_pages_named_in_the_source_exist() -> None:
    """A docstring that says where its specification stands says the truth, down to the heading."""
    faults = []
    for path in _sources(*PACKAGES, "bench", "tests"):
        for target in re.findall(r"docs/[\w./-]+\.md(?:#[\w-]+)?", path.read_text(encoding="utf-8")):
            fault = _fault_of_reference(ROOT, target)
            if fault:
                faults.append(f"{path.relative_to(ROOT)}: {fault}")
    assert faults == []


def test_every_decision_stands_in_the_index_and_numbers_run_on() -> None:
    """Decisions are numbered from 0001 without a hole, and the index lists each."""
    folder = ROOT / "docs" / "decisions"
    pages = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert [int(name[:4]) for name in pages] == list(range(1, len(pages) + 1))
    index = (folder / "README.md").read_text(encoding="utf-8")
    assert [name for name in pages if f"]({name})" not in index] == []


def test_every_error_code_is_explained_and_no_other() -> None:
    """docs/spec/errors.md and the source hold the same codes in the same families."""
    page = (ROOT / "docs" / "spec" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| ([a-z, ]+) \| \S", page, flags=re.MULTILINE)
    assert len(rows) == len({code for code, _ in rows}), "a code is explained twice"
    explained = {code: {family.strip() for family in families.split(",")} for code, families in rows}
    made: dict[str, set[str]] = {}
    for code in error_codes.made_codes():
        assert code.code or code.family == error_codes.CARRIED, f"{code.where}: which code is this?"
        if code.code:
            made.setdefault(code.code, set()).add(code.family)
    assert sorted(made.keys() - explained.keys()) == [], "made in the source, not explained"
    assert sorted(explained.keys() - made.keys()) == [], "explained, never made"
    wrong = {
        code: sorted(families - {error_codes.CARRIED})
        for code, families in made.items()
        if not families - {error_codes.CARRIED} <= explained[code]
    }
    assert wrong == {}, "made in another family than the page says"


def test_the_exit_codes_of_the_documents_are_those_of_the_source() -> None:
    """docs/operations.md lists every exit code of runtime/exits.py, and no other."""
    source = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.split("\n## Exit codes\n")[1].split("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", section, flags=re.MULTILINE)} == source


def _verbs(script: str) -> set[str]:
    """What may stand behind a command; empty for one that is a single command."""
    module = importlib.import_module(PYPROJECT["project"]["scripts"][script].partition(":")[0])
    outermost = getattr(module, "cli", None)
    return set(outermost.commands) if isinstance(outermost, click.Group) else set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_verbs_of_a_command_are_the_ones_its_reader_is_told(script: str) -> None:
    """README names every verb of the daemons and no other; operations.md has a row for each."""
    verbs, page = _verbs(script), (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{script}` \| (.+) \|$", page, flags=re.MULTILINE)
    named = set(re.findall(r"[a-z-]+", row))
    assert named == verbs if script in ("salween-node", "salween-broker") else named >= verbs
    commands = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").split("\n## Commands\n")[1]
    cells = re.findall(rf"^\| (`{script}.+?) \|", commands.split("\n## ")[0], flags=re.MULTILINE)
    told = {word.split()[0] for cell in cells for word in re.findall(r"`(?:salween-\w+ )?([^`]+)`", cell)}
    assert verbs <= told


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", "docs/operations.md", "docs/auditing.md"]
)
def test_a_command_a_document_shows_exists(document: str) -> None:
    """Each `salween-x verb` and each `make target` that a reader may type."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for script, verb in re.findall(r"(salween-(?:node|broker|audit)) ([a-z][a-z-]*)", text):
        assert verb in _verbs(script), f"{script} {verb}"
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    shown = re.findall(
        r"^(?:make|\$ make)(?: -s)? ([a-z-]+)|`make(?: -s)? ([a-z-]+)", text, flags=re.MULTILINE
    )
    for first, second in shown:
        assert (first or second) in targets, first or second


def test_the_limits_of_the_documents_are_those_of_the_source() -> None:
    """docs/spec/limits.md lists every limit of protocol/limits.py with its value."""
    source = {
        name: f"{value:,}" if isinstance(value, int) else " ".join(f"{part:,}" for part in value)
        for name, value in vars(limits).items()
        if name.isupper() and isinstance(value, int | tuple)
    }
    page = (ROOT / "docs" / "spec" / "limits.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `([A-Z0-9_]+)` \| (.+?) \|$", page, flags=re.MULTILINE)) == source


@pytest.mark.parametrize(
    ("heading", "settings"), [("Configuration", NodeConfig), ("Broker configuration", BrokerConfig)]
)
def test_the_settings_documented_are_those_of_the_source(heading: str, settings: type[BaseModel]) -> None:
    """docs/operations.md lists every key of node.toml and broker.toml, and no other."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.+?`) \|", section, flags=re.MULTILINE)
    assert {key for cell in cells for key in re.findall(r"`(\w+)`", cell)} == set(settings.model_fields)


def test_the_change_log_knows_this_version() -> None:
    """The newest heading of CHANGELOG.md is the version of pyproject."""
    newest = re.search(
        r"^## (\S+?),", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert newest is not None
    assert newest[1] == PYPROJECT["project"]["version"]
