"""A file system in memory for the keystore, which can lose its power at any step of a write."""

from os import PathLike, fspath

from keys.errors import MalformedInput


class PowerLostError(Exception):
    """The machine stopped; what is in ``MemoryFiles.content`` is what the next start finds."""


class MemoryFiles:
    """Satisfies ``keys.keystore.KeystoreFiles``. ``steps_left`` counts down to a power cut."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.modes: dict[str, int] = {}
        self.writes = 0
        self.steps_left: int | None = None

    def _step(self) -> None:
        if self.steps_left is not None:
            if self.steps_left == 0:
                raise PowerLostError
            self.steps_left -= 1

    def exists(self, path: str | PathLike[str]) -> bool:
        return fspath(path) in self.content

    def read(self, path: str | PathLike[str], bytes_max: int = 1 << 26) -> bytes:
        data = self.content[fspath(path)]
        if len(data) > bytes_max:
            raise MalformedInput("file_too_large", "too large")
        return data

    def write_atomic(self, path: str | PathLike[str], data: bytes, mode: int = 0o600) -> None:
        name = fspath(path)
        self._step()  # temporary file opened
        self.content[name + ".new"] = data[: len(data) // 2]
        self._step()  # half written
        self.content[name + ".new"] = data
        self._step()  # synced
        self.content[name] = self.content.pop(name + ".new")
        self.modes[name] = mode
        self.writes += 1
        self._step()  # renamed, directory synced

    def mode(self, path: str | PathLike[str]) -> int:
        return self.modes[fspath(path)]
