"""Holds the code to one door to the outside world, by reading its syntax trees.

Spec: ARCHITECTURE.md, rule 1. ``python -m tests.support.syntax_rules`` prints each breach and exits 1; `make
check` runs it. Two rules: *shells* (broker, node, runtime, the log's store) take clocks, randomness, tasks,
threads, files and sockets from ``runtime.env`` alone, so that the simulator can stand in for the world;
*pure* files take them as arguments or not at all. It sees names, not types: a determined author can get round
it, an absent-minded one cannot.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SHELLS = ("broker/", "node/", "runtime/", "audit/store.py")
SHELL_EXEMPT = {"runtime/env.py": "it is the door"}
PURE = (
    "keys/",
    "protocol/",
    "audit/entry.py",
    "audit/tree.py",
    "audit/note.py",
    "audit/checkpoint.py",
    "audit/witness.py",
    "audit/proof.py",
    "audit/policy.py",
)
PURE_EXEMPT = {"keys/keystore.py": "its file access is an argument, the paths are not"}

# Dotted names, each with what to use instead. A name covers everything below it.
NOT_IN_SHELLS: Mapping[str, str] = {
    "time": "env.clock",
    "random": "env.jitter or env.random",
    "secrets": "env.random",
    "uuid": "env.random",
    "socket": "env.network",
    "select": "env.network",
    "selectors": "env.network",
    "http.client": "env.network",
    "urllib.request": "env.network",
    "ssl": "env.network with TlsIdentity and TlsPin",
    "signal": "env.process",
    "threading": "env.run_blocking or env.threads.worker",
    "multiprocessing": "env.run_blocking",
    "concurrent": "env.threads",
    "subprocess": "env.process",
    "tempfile": "env.files",
    "shutil": "env.files",
    "glob": "env.files.listdir",
    "fcntl": "env.files.lock_exclusive",
    "io.open": "env.files",
    "sqlite3": "runtime.sqlite",
    "open": "env.files",
    "input": "click.prompt",
    "os": "env.files, env.random or env.process",
    "datetime.datetime.now": "env.clock",
    "datetime.datetime.utcnow": "env.clock",
    "datetime.datetime.today": "env.clock",
    "datetime.date.today": "env.clock",
    "asyncio.sleep": "env.sleep",
    "asyncio.create_task": "env.spawn or a task group",
    "asyncio.ensure_future": "env.spawn or a task group",
    "asyncio.TaskGroup": "env.task_group",
    "asyncio.timeout": "env.timeout",
    "asyncio.timeout_at": "env.timeout",
    "asyncio.to_thread": "env.run_blocking",
    "asyncio.run": "runtime.env.run_real",
    "asyncio.Runner": "runtime.env.run_real",
    "asyncio.new_event_loop": "runtime.env.run_real",
    "asyncio.set_event_loop": "runtime.env.run_real",
    "asyncio.get_event_loop": "asyncio.get_running_loop",
    "asyncio.run_coroutine_threadsafe": "env.run_blocking",
    "asyncio.open_connection": "env.network",
    "asyncio.open_unix_connection": "env.network",
    "asyncio.start_server": "env.network",
    "asyncio.start_unix_server": "env.network",
    "asyncio.create_subprocess_exec": "env.process",
    "asyncio.create_subprocess_shell": "env.process",
    "aiohttp.ClientSession": "env.network.client_session",
    "aiohttp.TCPConnector": "env.network.client_session",
    "aiohttp.UnixConnector": "env.network.client_session",
    "aiohttp.request": "env.network.client_session",
    "aiohttp.web.run_app": "env.network.serve_tcp",
    "aiohttp.web.TCPSite": "env.network.serve_tcp",
    "aiohttp.web.UnixSite": "env.network.serve_unix",
    "aiohttp.web.SockSite": "env.network.serve_unix",
}
ALLOWED_IN_SHELLS = frozenset(
    {
        "os.PathLike",
        "os.fspath",
        "os.fsencode",
        "os.fsdecode",
        "os.path.join",
        "os.path.basename",
        "os.path.dirname",
        "os.path.split",
        "os.path.splitext",
        "os.path.normpath",
        "os.path.isabs",
    }
)
# Methods that reach the world whatever object they are called on; pathlib's and the event loop's.
METHODS_NOT_IN_SHELLS: Mapping[str, str] = {
    "read_text": "env.files.read",
    "read_bytes": "env.files.read",
    "write_text": "env.files.write_atomic",
    "write_bytes": "env.files.write_atomic",
    "iterdir": "env.files.listdir",
    "rglob": "env.files.listdir",
    "touch": "env.files.write_atomic",
    "unlink": "env.files.remove",
    "rmdir": "env.files",
    "is_file": "env.files.exists",
    "chmod": "the mode argument of env.files",
    "symlink_to": "env.files",
    "hardlink_to": "env.files",
    "run_in_executor": "env.run_blocking",
    "create_server": "env.network",
    "create_unix_server": "env.network",
    "create_connection": "env.network",
    "create_unix_connection": "env.network",
    "create_datagram_endpoint": "env.network",
    "add_signal_handler": "env.process.on_stop",
    "run_until_complete": "runtime.env.run_real",
    "run_forever": "runtime.env.run_real",
}
BUILTINS = frozenset({"open", "input", "print"})  # forbidden names that need no import
NOT_IN_PURE: Mapping[str, str] = {
    "asyncio": "an argument",
    "aiohttp": "an argument",
    "apsw": "an argument",
    "concurrent": "an argument",
    "fcntl": "an argument",
    "glob": "an argument",
    "logging": "a return value",
    "multiprocessing": "an argument",
    "os": "an argument",
    "pathlib": "an argument",
    "random": "randomness as an argument",
    "secrets": "randomness as an argument",
    "select": "an argument",
    "selectors": "an argument",
    "shutil": "an argument",
    "signal": "an argument",
    "socket": "an argument",
    "sqlite3": "an argument",
    "ssl": "an argument",
    "structlog": "a return value",
    "subprocess": "an argument",
    "tempfile": "an argument",
    "threading": "an argument",
    "time": "now_ms as an argument",
    "uuid": "randomness as an argument",
    "open": "bytes as an argument",
    "io.open": "bytes as an argument",
    "input": "a value as an argument",
    "print": "a return value",
    "datetime.datetime.now": "now_ms as an argument",
    "datetime.datetime.utcnow": "now_ms as an argument",
    "datetime.datetime.today": "now_ms as an argument",
    "datetime.date.today": "now_ms as an argument",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """One place that reaches round the door."""

    path: str
    line: int
    name: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.name} reaches outside; use {self.instead}"


def find_breaches(path: str, source: str) -> list[Breach]:
    """Breaches in one file; ``path`` is relative to the project and decides which rule holds."""
    if _is_below(path, PURE) and path not in PURE_EXEMPT:
        checker = _Checker(path, NOT_IN_PURE, frozenset(), {})
    elif _is_below(path, SHELLS) and path not in SHELL_EXEMPT:
        checker = _Checker(path, NOT_IN_SHELLS, ALLOWED_IN_SHELLS, METHODS_NOT_IN_SHELLS)
    else:
        return []
    checker.visit(ast.parse(source, path))
    return sorted(checker.breaches, key=lambda breach: breach.line)


def _is_below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or (place.endswith("/") and path.startswith(place)) for place in places)


class _Checker(ast.NodeVisitor):
    def __init__(
        self, path: str, forbidden: Mapping[str, str], allowed: frozenset[str], methods: Mapping[str, str]
    ) -> None:
        self.breaches: list[Breach] = []
        self._path = path
        self._forbidden = forbidden
        self._allowed = allowed
        self._methods = methods
        self._meaning: dict[str, str] = {}  # local name -> dotted name it was imported as

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            # `import os` alone is no breach where parts of os are allowed; what is used of it is looked at
            # below.
            if not self._partly_allowed(alias.name):
                self._judge(alias.name, node)
            if alias.asname is not None:
                self._meaning[alias.asname] = alias.name
            else:
                root = alias.name.split(".")[0]
                self._meaning[root] = root

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level or node.module is None:
            return
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            if not self._partly_allowed(name):
                self._judge(name, node)
            self._meaning[alias.asname or alias.name] = name

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            return
        self._judge(self._meaning.get(node.id, node.id if node.id in BUILTINS else ""), node)

    # What only says a type reaches nothing.

    def visit_arg(self, node: ast.arg) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for part in (*node.decorator_list, node.args, *node.body):
            self.visit(part)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815  ast names its hooks after its classes

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self._dotted(node)
        if name is not None:
            self._judge(name, node)
            return
        self._judge_method(node)
        self.visit(node.value)

    def _judge_method(self, node: ast.Attribute) -> None:
        instead = self._methods.get(node.attr)
        if instead is not None:
            self.breaches.append(
                Breach(path=self._path, line=node.lineno, name=f".{node.attr}", instead=instead)
            )

    def _dotted(self, node: ast.expr) -> str | None:
        """The imported dotted name an expression stands for, if it is one."""
        if isinstance(node, ast.Name):
            return self._meaning.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self._dotted(node.value)
            return f"{base}.{node.attr}" if base is not None else None
        return None

    def _judge(self, name: str, node: ast.expr | ast.stmt) -> None:
        if not name or self._is_allowed(name):
            return
        for forbidden, instead in self._forbidden.items():
            if name == forbidden or name.startswith(forbidden + "."):
                self.breaches.append(Breach(path=self._path, line=node.lineno, name=name, instead=instead))
                return
        if isinstance(node, ast.Attribute):
            self._judge_method(node)

    def _is_allowed(self, name: str) -> bool:
        return any(name == allowed or name.startswith(allowed + ".") for allowed in self._allowed)

    def _partly_allowed(self, name: str) -> bool:
        return any(allowed == name or allowed.startswith(name + ".") for allowed in self._allowed)


def sources(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """(path, text) of every file the rules may hold."""
    for package in ("keys", "protocol", "runtime", "audit", "broker", "node"):
        for file in sorted((root / package).rglob("*.py")):
            yield file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")


def main() -> int:
    """Print every breach; 1 when there is one."""
    breaches = [breach for path, source in sources() for breach in find_breaches(path, source)]
    for breach in breaches:
        print(breach)  # noqa: T201  a command line of its own
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
