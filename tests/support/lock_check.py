"""Does requirements.lock still belong to pyproject.toml? Answered without a network.

The lock is what an office installs, pyproject is what people edit; nothing else keeps the two together.
Four rules, each for a way they have come apart elsewhere:

1. the first line of the lock names the hash of pyproject's dependency tables: any edit there asks for
   ``make lock``, also one that the old pins would happen to satisfy;
2. every requirement of pyproject is pinned at a version it allows: a stamp can be written by hand;
3. every pin is needed, directly or through the metadata of installed packages: nothing rides along;
4. every pin has hashes and the file holds no address, no path and no option: where packages come from is
   the machine's business, what they are is ours.

``python -m tests.support.lock_check`` prints the faults and exits 1; ``--stamp`` writes the first line.
"""

import hashlib
import importlib.metadata
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT: Final = Path(__file__).resolve().parents[2]
_STAMP: Final = "# Made by `make lock` from the dependency tables of pyproject.toml, sha256 "
_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)(?:\s*;[^\\]*)?\s*\\?$")
_HASH: Final = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")
_COMMENT: Final = re.compile(r"^\s*#")


def dependency_tables_sha256(pyproject: Mapping[str, Any]) -> str:
    """Hash of everything in pyproject that decides the lock: dependencies, extras, build tool, Python."""
    project = pyproject["project"]
    inputs = {
        "build": sorted(pyproject["build-system"]["requires"]),
        "dependencies": sorted(project["dependencies"]),
        "extras": {name: sorted(group) for name, group in project["optional-dependencies"].items()},
        "python": project["requires-python"],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def parse_lock(text: str) -> tuple[dict[str, Version], list[str]]:
    """Pins by canonical name, and the faults of rule 4 with their line numbers."""
    pins: dict[str, Version] = {}
    faults: list[str] = []
    hashes = 1  # the lines before the first pin need none
    name = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if _COMMENT.match(line) or not line.strip():
            if "://" in line:
                faults.append(f"line {number}: an address in a comment")
        elif _HASH.match(line):
            hashes += 1
        elif (pin := _PIN.match(line)) is not None:
            if not hashes:
                faults.append(f"{name} has no hash")
            name, hashes = canonicalize_name(pin.group(1)), 0
            if name in pins:
                faults.append(f"{name} is pinned twice")
            pins[name] = Version(pin.group(2))
        else:
            faults.append(f"line {number} is neither a pin nor a hash: {line.strip()}")
    if not hashes:
        faults.append(f"{name} has no hash")
    return pins, faults


def wanted(pyproject: Mapping[str, Any]) -> list[Requirement]:
    """Every requirement the lock answers: the project, all its extras, the build tool."""
    project = pyproject["project"]
    texts = [*project["dependencies"], *pyproject["build-system"]["requires"]]
    for group in project["optional-dependencies"].values():
        texts.extend(group)
    return [Requirement(text) for text in texts]


def _needs(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """What an installed package needs here, with the extras somebody asked of it."""
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *sorted(extras))
        ):
            yield requirement


def _closure_faults(requirements: list[Requirement], pins: Mapping[str, Version]) -> list[str]:
    """Rules 2 and 3: walk from pyproject through installed metadata; every step pinned, every pin reached."""
    faults: list[str] = []
    reached: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [("pyproject.toml", requirement) for requirement in requirements]
    while queue:
        asker, requirement = queue.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        reached.add(name)
        if name not in pins:
            faults.append(f"{asker} needs {requirement}, which is not in the lock")
            continue
        if not requirement.specifier.contains(pins[name], prereleases=True):
            faults.append(f"{asker} needs {requirement}, the lock has {pins[name]}")
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            installed = Version(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"{name} {pins[name]} is in the lock and not installed")
            continue
        if installed != pins[name]:
            faults.append(f"{name}: installed {installed}, the lock has {pins[name]}")
        queue.extend((name, needed) for needed in _needs(name, extras))
    faults.extend(f"{name} is in the lock and nothing needs it" for name in sorted(pins.keys() - reached))
    return faults


def faults_of(pyproject: Mapping[str, Any], lock: str) -> list[str]:
    """Every way in which the lock does not belong to pyproject; empty when it does."""
    pins, faults = parse_lock(lock)
    stamp = lock.splitlines()[0] if lock else ""
    if stamp != _STAMP + dependency_tables_sha256(pyproject):
        faults.insert(0, "the dependency tables of pyproject.toml changed since the lock was made")
    return faults + _closure_faults(wanted(pyproject), pins)


def _stamped(pyproject: Mapping[str, Any], lock: str) -> str:
    lines = [line for line in lock.splitlines() if not line.startswith(_STAMP)]
    return "\n".join([_STAMP + dependency_tables_sha256(pyproject), *lines]) + "\n"


def main(arguments: list[str]) -> int:
    """Check, or with ``--stamp`` write the first line after ``uv pip compile`` wrote the rest."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    path = ROOT / "requirements.lock"
    lock = path.read_text(encoding="utf-8")
    if arguments == ["--stamp"]:
        path.write_text(_stamped(pyproject, lock), encoding="utf-8")
        return 0
    faults = faults_of(pyproject, lock)
    for fault in faults:
        print(f"requirements.lock: {fault}", file=sys.stderr)  # noqa: T201
    if faults:
        print("requirements.lock: run `make lock` and commit both files", file=sys.stderr)  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
