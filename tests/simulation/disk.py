"""A disk below the cipher that loses, tears and reorders whatever was not synced.

Modelled: a page cache that outlives a killed process and no power cut; per file, the writes and truncations
since its last fsync; per directory, the names made, changed and removed since its last fsync. A power cut
leaves of each file's unsynced writes none, all, a prefix or a random part of them, torn at sectors of 512
bytes, and of each directory's changes a prefix. A *fuse* ends the life of the host in the middle of a write,
a sync or a rename, where no step of the event loop could.

How many pages a commit has may depend on the bytes of a ciphertext, and those differ between two runs of one
seed. Therefore a power cut either keeps everything unsynced of a file or drops at least one write of it:
whether the last commit survives is then chosen by the seed alone.
"""

import functools
import os
import random
from collections.abc import Callable
from typing import Any, Final

import apsw

from keys.errors import MalformedInput
from runtime.env import FILE_BYTES_MAX, AlreadyLocked, AnyPath, FileLock

SECTOR_BYTES: Final = 512
DISK_FREE_BYTES: Final = 20 * 1024**3

# One unsynced change: where and what, or where the file was cut.
Change = tuple[int, bytes | None]


class Killed(BaseException):
    """Raised in what a dead host still tries to do, so that it cannot do it."""


class _File:
    """Bytes as processes see them, as they are on the platter, and what lies between."""

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.cache = bytearray()
        self.platter = bytearray()
        self.unsynced: list[Change] = []

    def write(self, at: int, data: bytes) -> None:
        _apply(self.cache, (at, data))
        self.unsynced.append((at, data))

    def truncate(self, size: int) -> None:
        _apply(self.cache, (size, None))
        self.unsynced.append((size, None))

    def sync(self) -> None:
        for change in self.unsynced:
            _apply(self.platter, change)
        self.unsynced.clear()

    def after_power_cut(self, choices: random.Random) -> "_File":
        kept = _File(self.mode)
        kept.platter = bytearray(self.platter)
        if self.unsynced:
            for change in _survivors(self.unsynced, choices):
                _apply(kept.platter, change)
        kept.cache = bytearray(kept.platter)
        return kept


def _apply(content: bytearray, change: Change) -> None:
    at, data = change
    if data is None:
        del content[at:]
        content.extend(bytes(at - len(content)))
        return
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    content[at : at + len(data)] = data


def _survivors(unsynced: list[Change], choices: random.Random) -> list[Change]:
    """What reached the platter. The same number of draws from ``choices`` whatever there was to lose."""
    kind, seed = choices.choice(("none", "all", "prefix", "part")), choices.getrandbits(64)
    inner = random.Random(seed)
    if kind == "none":
        return []
    if kind == "all":
        return list(unsynced)
    if kind == "prefix":
        stop = inner.randrange(len(unsynced))
        torn = _torn(unsynced[stop], inner)
        return [*unsynced[:stop], *torn]
    lost = inner.randrange(len(unsynced))
    kept = [
        change
        for place, change in enumerate(unsynced)
        if place != lost and inner.random() < 0.7  # a drive writes back in whatever order it likes
    ]
    return [*kept, *_torn(unsynced[lost], inner)]


def _torn(change: Change, inner: random.Random) -> list[Change]:
    """Some sectors of a write, never all of them; a truncation happens or does not."""
    at, data = change
    if data is None or len(data) <= SECTOR_BYTES:
        return []
    starts = list(range(0, len(data), SECTOR_BYTES))
    missing = inner.randrange(len(starts))
    return [
        (at + start, data[start : start + SECTOR_BYTES])
        for place, start in enumerate(starts)
        if place != missing and inner.random() < 0.5
    ]


class SimulatedDisk:
    """The disk of one host during one life. ``next_life`` makes the one its next life finds."""

    def __init__(self, choices: random.Random) -> None:
        self._choices = choices
        self._files: dict[str, _File] = {}  # as processes see them
        self._directories: dict[str, None] = {"/": None}
        # What every name stood for at the last sync of its directory, and the changes since, oldest first.
        self._platter_files: dict[str, _File] = {}
        self._renames: list[tuple[str, _File | None]] = []
        self._locks: dict[str, bytes] = {}
        self.is_dead = False
        self.fuse: int | None = None  # operations left to the one in the middle of which the host dies
        self.fuse_counts_syncs = False  # only a database's syncs burn it: each ends a commit
        self.on_fuse: Callable[[], None] = lambda: None
        self.operations = 0

    def next_life(self, *, power_loss: bool) -> "SimulatedDisk":
        """Everything as a new life finds it; this one can change nothing any more."""
        self.is_dead = True
        disk = SimulatedDisk(self._choices)
        disk._directories = dict(self._directories)
        if not power_loss:
            disk._files = self._files
            disk._platter_files = self._platter_files
            disk._renames = self._renames
            return disk
        names = dict(self._platter_files)
        by_directory: dict[str, list[tuple[str, _File | None]]] = {}
        for path, file in self._renames:
            by_directory.setdefault(os.path.dirname(path), []).append((path, file))
        for changes in by_directory.values():
            for path, file in changes[
                : random.Random(self._choices.getrandbits(64)).randint(0, len(changes))
            ]:
                if file is None:
                    names.pop(path, None)
                else:
                    names[path] = file
        for path in sorted(names):
            disk._files[path] = names[path].after_power_cut(self._choices)
        disk._platter_files = dict(disk._files)
        return disk

    def copy(self) -> "SimulatedDisk":
        """The same content on another disk, all of it synced: a clone, or what a backup of the disk holds."""
        disk = SimulatedDisk(self._choices)
        disk._directories = dict(self._directories)
        for path, file in self._files.items():
            kept = _File(file.mode)
            kept.cache, kept.platter = bytearray(file.cache), bytearray(file.cache)
            disk._files[path] = kept
        disk._platter_files = dict(disk._files)
        return disk

    def content(self) -> dict[str, bytes]:
        """Every file as processes see it, for a checker to look through."""
        return {path: bytes(file.cache) for path, file in self._files.items()}

    def unsynced(self, suffix: str) -> list[list[Change]]:
        """Of each file whose name ends so, the changes that a power cut may take back, oldest first."""
        return [file.unsynced for path, file in self._files.items() if path.endswith(suffix)]

    def erase(self, suffixes: tuple[str, ...]) -> None:
        """Lose every file whose name ends so, at once and for good."""
        for path in [path for path in self._files if path.endswith(suffixes)]:
            del self._files[path]
            self._platter_files.pop(path, None)

    # --- what the files and the database's file layer ask -------------------------------------------------

    def step(self, *, is_sync: bool = False) -> None:
        """Count one operation that changes something; the fuse may blow in it."""
        if self.is_dead:
            raise Killed
        self.operations += 1
        if self.fuse is not None and (is_sync or not self.fuse_counts_syncs):
            self.fuse -= 1
            if self.fuse <= 0:
                self.fuse = None
                self.is_dead = True
                self.on_fuse()
                raise Killed

    def find(self, path: str) -> _File | None:
        """The file of that name."""
        return self._files.get(path)

    def create(self, path: str, mode: int) -> _File:
        """A new empty file, its name unsynced."""
        file = self._files[path] = _File(mode)
        self._renames.append((path, file))
        return file

    def link(self, path: str, file: _File) -> None:
        """Give a file this name."""
        self._files[path] = file
        self._renames.append((path, file))

    def unlink(self, path: str) -> None:
        """Take the name away."""
        del self._files[path]
        self._renames.append((path, None))

    def sync_directory(self, directory: str) -> None:
        """Names in this directory are durable from here on."""
        left = []
        for path, file in self._renames:
            if os.path.dirname(path) != directory:
                left.append((path, file))
            elif file is None:
                self._platter_files.pop(path, None)
            else:
                self._platter_files[path] = file
        self._renames = left

    def mkdir(self, path: str) -> None:
        """Make a directory and its parents, durably."""
        while path not in self._directories:
            self._directories[path] = None
            path = os.path.dirname(path)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory, durably."""
        del self._directories[path]

    def rename_directory(self, path: str, target: str) -> None:
        """Another name for a directory and everything below it, durably."""
        tables: tuple[dict[str, Any], ...] = (self._files, self._platter_files, self._directories)
        for names in tables:
            for name in [name for name in names if name == path or name.startswith(f"{path}/")]:
                names[target + name.removeprefix(path)] = names.pop(name)
        self._renames = [
            (target + n.removeprefix(path) if n.startswith(f"{path}/") else n, f) for n, f in self._renames
        ]

    def is_directory(self, path: str) -> bool:
        """Whether a directory stands there."""
        return path in self._directories

    def names(self, directory: str) -> list[str]:
        """Names in a directory, sorted."""
        within = [
            p for p in (*self._files, *self._directories) if p != "/" and os.path.dirname(p) == directory
        ]
        return sorted(os.path.basename(path) for path in within)

    @property
    def locks(self) -> dict[str, bytes]:
        """Locked paths and the holder's note."""
        return self._locks


class SimulatedFiles:
    """``runtime.env.Files`` on a simulated disk, each method with the steps a real one takes."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.disk = disk
        self.free = DISK_FREE_BYTES

    def native_path(self, path: AnyPath) -> str:
        """See Files."""
        if self.disk.is_dead:
            raise Killed
        return os.path.abspath(os.fspath(path))

    def _file(self, path: AnyPath) -> _File:
        file = self.disk.find(self.native_path(path))
        if file is None:
            raise FileNotFoundError(os.fspath(path))
        return file

    def read(self, path: AnyPath, bytes_max: int = FILE_BYTES_MAX) -> bytes:
        """See Files."""
        data = bytes(self._file(path).cache)
        if len(data) > bytes_max:
            raise MalformedInput("file_too_large", f"{os.fspath(path)} is larger than {bytes_max} bytes")
        return data

    def read_range(self, path: AnyPath, offset_bytes: int, length_bytes: int) -> bytes:
        """See Files."""
        return bytes(self._file(path).cache[offset_bytes : offset_bytes + length_bytes])

    def write_atomic(self, path: AnyPath, data: bytes, mode: int = 0o600) -> None:
        """See Files: new file, fsync, rename over the old, fsync of the directory."""
        native = self.native_path(path)
        directory, name = os.path.split(native)
        temporary = os.path.join(directory, f".{name}.new")
        disk = self.disk
        disk.step()
        if disk.find(temporary) is not None:
            disk.unlink(temporary)
        file = disk.create(temporary, mode)
        disk.step()
        file.write(0, data)
        disk.step()
        file.sync()
        disk.step()
        disk.unlink(temporary)
        disk.link(native, file)
        disk.step()
        disk.sync_directory(directory)

    def append_fsync(self, path: AnyPath, data: bytes, mode: int = 0o600) -> None:
        """See Files."""
        native = self.native_path(path)
        self.disk.step()
        file = self.disk.find(native) or self.disk.create(native, mode)
        file.write(len(file.cache), data)
        self.disk.step()
        file.sync()
        self.disk.sync_directory(os.path.dirname(native))

    def exists(self, path: AnyPath) -> bool:
        """See Files."""
        native = self.native_path(path)
        return self.disk.find(native) is not None or self.disk.is_directory(native)

    def is_dir(self, path: AnyPath) -> bool:
        """See Files."""
        return self.disk.is_directory(self.native_path(path))

    def is_regular(self, path: AnyPath) -> bool:
        """See Files."""
        return self.disk.find(self.native_path(path)) is not None

    def is_within(self, path: AnyPath, directory: AnyPath) -> bool:
        """See Files; this disk has no links."""
        home = self.native_path(directory)
        return os.path.commonpath((self.native_path(path), home)) == home

    def listdir(self, path: AnyPath) -> list[str]:
        """See Files."""
        if not self.is_dir(path):
            raise FileNotFoundError(os.fspath(path))
        return self.disk.names(self.native_path(path))

    def mkdir(self, path: AnyPath, mode: int = 0o700) -> None:
        """See Files."""
        self.disk.mkdir(self.native_path(path))

    def remove(self, path: AnyPath) -> None:
        """See Files."""
        native = self.native_path(path)
        self._file(path)
        self.disk.step()
        self.disk.unlink(native)
        self.disk.step()
        self.disk.sync_directory(os.path.dirname(native))

    def remove_tree(self, path: AnyPath) -> None:
        """See Files: name by name, what is below a directory first."""
        native = self.native_path(path)
        if not self.disk.is_directory(native):
            self.remove(path)
            return
        for name in self.disk.names(native):
            self.remove_tree(f"{native}/{name}")
        self.disk.step()
        self.disk.rmdir(native)

    def rename(self, path: AnyPath, target: AnyPath) -> None:
        """See Files."""
        native, native_target = self.native_path(path), self.native_path(target)
        if self.disk.is_directory(native):
            self.disk.step()
            self.disk.rename_directory(native, native_target)
            return
        file = self._file(path)
        self.disk.step()
        self.disk.unlink(native)
        self.disk.link(native_target, file)
        self.disk.step()
        self.disk.sync_directory(os.path.dirname(native_target))
        self.disk.sync_directory(os.path.dirname(native))

    def size(self, path: AnyPath) -> int:
        """See Files."""
        return len(self._file(path).cache)

    def mode(self, path: AnyPath) -> int:
        """See Files."""
        return self._file(path).mode

    def free_bytes(self, path: AnyPath) -> int:
        """See Files."""
        return self.free

    def lock_exclusive(self, path: AnyPath, note: bytes = b"") -> FileLock:
        """See Files."""
        native = self.native_path(path)
        if native in self.disk.locks:
            raise AlreadyLocked(os.fspath(path), self.disk.locks[native])
        self.disk.locks[native] = note
        return _Lock(self.disk.locks, native)


class _Lock:
    def __init__(self, locks: dict[str, bytes], path: str) -> None:
        self._locks = locks
        self._path = path

    def release(self) -> None:
        """See FileLock."""
        self._locks.pop(self._path, None)


class DiskVfs(apsw.VFS):
    """SQLite's file layer on a simulated disk; goes below the cipher, so it sees ciphertext alone."""

    def __init__(self, name: str, disk: SimulatedDisk) -> None:
        self._disk = disk
        super().__init__(name, "unix")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - SQLite's names
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        file = self._disk.find(path)
        if file is None:
            if not flags[0] & apsw.SQLITE_OPEN_CREATE:
                raise apsw.CantOpenError(path)
            _guarded(self._disk.step)
            file = self._disk.create(path, 0o600)
        flags[1] = flags[0]
        return _DiskFile(self._disk, path, file)

    def xDelete(self, name: str, syncdir: bool) -> None:  # noqa: N802
        if self._disk.find(name) is None:
            raise apsw.IOError("nothing to delete")
        _guarded(self._disk.step)
        self._disk.unlink(name)
        if syncdir:
            _guarded(self._disk.step)
            self._disk.sync_directory(os.path.dirname(name))

    def xAccess(self, name: str, flags: int) -> bool:  # noqa: N802
        return self._disk.find(name) is not None

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name


def _guarded(step: Callable[[], None]) -> None:
    """SQLite must see an error of its own kind; who runs the call asks the disk whether the host is dead."""
    try:
        step()
    except Killed:
        raise apsw.IOError("the host is dead") from None


class _DiskFile:
    """One open file. The first sync of a new file syncs its directory too, as SQLite's own layer does."""

    def __init__(self, disk: SimulatedDisk, path: str, file: _File) -> None:
        self._disk = disk
        self._path = path
        self._file = file
        self._is_name_synced = False

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self._file.cache[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        _guarded(self._disk.step)
        self._file.write(offset, bytes(data))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        _guarded(self._disk.step)
        self._file.truncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        _guarded(functools.partial(self._disk.step, is_sync=True))
        self._file.sync()
        if not self._is_name_synced:
            self._disk.sync_directory(os.path.dirname(self._path))
            self._is_name_synced = True

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._file.cache)

    def xLock(self, level: int) -> None:  # noqa: N802
        pass

    def xUnlock(self, level: int) -> None:  # noqa: N802
        pass

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, operation: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return 4096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return int(apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE)

    def xClose(self) -> None:  # noqa: N802
        pass
