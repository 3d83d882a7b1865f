"""Every error code the source can make, read from its syntax tree.

A code is what stands in the place of ``code`` in one of the five families of keys/errors.py, in a class
made from them, or in any function or value of ours that has a parameter or field of that name: a reader
that refuses with the code it was given, a refusal that is a value. docs/spec/errors.md lists each by hand,
with what it means and what to do next; tests/test_project.py holds the two lists equal, so that neither the
documents nor an officer ever meet a code the other does not know.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("keys", "protocol", "runtime", "audit", "broker", "node", "demo")
FAMILIES: Final = {
    "MalformedInput": "malformed",
    "VerificationFailed": "verification",
    "PolicyRefused": "policy",
    "Unavailable": "unavailable",
    "BrokenInvariant": "invariant",
}
# A carrier takes a code from its caller and belongs to no family by itself.
CARRIED: Final = "carried"
# These look a code up or take one back; they make none.
_READERS: Final = frozenset({"label", "sentence", "clear", "exit_now"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class MadeCode:
    """One place where a code is made. ``code`` is empty where this reader cannot tell which."""

    code: str
    family: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taker:
    """Something whose call holds a code: at this position (none: by keyword only), of this family."""

    family: str
    position: int | None


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _trees() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def _parameter(function: Function, *, method: bool) -> _Taker | None:
    """Where ``code`` stands among the parameters of a function, if it does."""
    positional = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    if method:
        positional = positional[1:]
    if "code" in positional:
        return _Taker(family=CARRIED, position=positional.index("code"))
    if any(argument.arg == "code" for argument in function.args.kwonlyargs):
        return _Taker(family=CARRIED, position=None)
    return None


def _family_of(node: ast.ClassDef, classes: Mapping[str, str]) -> str | None:
    return next((classes[_name(base)] for base in node.bases if _name(base) in classes), None)


def _error_classes(classes: list[ast.ClassDef]) -> dict[str, str]:
    """Family by class name: the five, and every class made from them anywhere in the source."""
    known = dict(FAMILIES)
    size = 0
    while size != len(known):
        size = len(known)
        for node in classes:
            family = _family_of(node, known)
            if family is not None:
                known.setdefault(node.name, family)
    return known


def _class_taker(node: ast.ClassDef, family: str) -> _Taker | None:
    """How a class takes a code: through ``__init__``, or as a field."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            found = _parameter(member, method=True)
            return None if found is None else _Taker(family=family, position=found.position)
    fields = [
        member.target.id
        for member in node.body
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name)
    ]
    if "code" in fields:
        return _Taker(family=family, position=fields.index("code"))
    return _Taker(family=family, position=0) if family != CARRIED else None


def _takers(trees: list[tuple[str, ast.Module]]) -> tuple[dict[str, _Taker], dict[str, str]]:
    """Everything whose call holds a code, by name, and the family of every error class."""
    nodes = [node for _, tree in trees for node in ast.walk(tree)]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    families = _error_classes(classes)
    takers = {name: _Taker(family=family, position=0) for name, family in FAMILIES.items()}
    # What a form says of one field; pydantic calls the code its type.
    takers["PydanticCustomError"] = _Taker(family=CARRIED, position=0)
    for definition in classes:
        if definition.name not in FAMILIES:
            made = _class_taker(definition, families.get(definition.name, CARRIED))
            if made is not None:
                takers[definition.name] = made
    for node in nodes:
        if isinstance(node, Function) and not node.name.startswith("__") and node.name not in _READERS:
            first = node.args.args[0].arg if node.args.args else ""
            found = _parameter(node, method=first in {"self", "cls"})
            if found is not None:
                takers[node.name] = found
    return takers, families


def _strings(body: list[ast.stmt]) -> dict[str, str]:
    """Names bound to one string in this body."""
    found: dict[str, str] = {}
    for node in body:
        target: ast.expr | None = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            found[target.id] = value.value
    return found


def _words(trees: list[tuple[str, ast.Module]]) -> dict[str, str]:
    """Members of every enumeration in the source, as ``Class.member``."""
    return {
        f"{node.name}.{member}": word
        for _, tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for member, word in _strings(node.body).items()
    }


def _codes(node: ast.expr, names: Mapping[str, str]) -> list[str]:
    """What an expression can be: literals, names of literals, choices. Handing on a ``code`` makes none.

    ``names`` has plain names and ``Class.member`` for words of an enumeration.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return _codes(node.body, names) + _codes(node.orelse, names)
    if isinstance(node, ast.Name) and node.id in names:
        return [names[node.id]]
    if isinstance(node, ast.Call) and _name(node.func) == "str" and node.args:
        return _codes(node.args[0], names)
    if isinstance(node, ast.Attribute) and f"{_name(node.value)}.{node.attr}" in names:
        return [names[f"{_name(node.value)}.{node.attr}"]]
    if _name(node).lstrip("_") == "code" or (isinstance(node, ast.Constant) and node.value is None):
        return []
    return [""]


class _Reader(ast.NodeVisitor):
    """Collects the codes of one file, knowing which names are bound where."""

    def __init__(
        self,
        path: str,
        tree: ast.Module,
        takers: Mapping[str, _Taker],
        families: Mapping[str, str],
        words: Mapping[str, str],
    ) -> None:
        self._path = path
        self._takers = takers
        self._families = families
        self._names = [{**words, **_strings(tree.body)}]
        self._class = ""
        self.found: list[MadeCode] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self._class = self._class, node.name
        self.generic_visit(node)
        self._class = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: Function) -> None:
        self._names.append(self._names[-1] | _strings(node.body))
        self.generic_visit(node)
        self._names.pop()

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        taker = self._takers.get(_name(node.func))
        above = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call)
        if _name(node.func) == "__init__" and above and self._class in self._families:
            taker = _Taker(family=self._families[self._class], position=0)
        if taker is None:
            return
        given = [item.value for item in node.keywords if item.arg == "code"]
        if not given and taker.position is not None and taker.position < len(node.args):
            given = [node.args[taker.position]]
        for expression in given:
            for code in _codes(expression, self._names[-1]):
                where = f"{self._path}:{node.lineno}"
                self.found.append(MadeCode(code=code, family=taker.family, where=where))


def made_codes() -> list[MadeCode]:
    """Every code made in the source, sorted; those this reader cannot tell come first, with an empty code."""
    trees = list(_trees())
    takers, families = _takers(trees)
    words = _words(trees)
    found: list[MadeCode] = []
    for path, tree in trees:
        reader = _Reader(path, tree, takers, families, words)
        reader.visit(tree)
        found.extend(reader.found)
    return sorted(found)


if __name__ == "__main__":
    for made in made_codes():
        print(f"{made.code or '?':32} {made.family:13} {made.where}")  # noqa: T201
