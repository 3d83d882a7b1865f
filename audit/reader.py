"""Read-only view of a published log directory, as copied from an office or served by a web server.

Spec: docs/spec/log.md#tree. Holds nothing but a path, so it can be sent to another process.

One rule: it reads regular files of bounded size below its root, and never writes. A missing file is
FileNotFoundError; other trouble with the disk stays the OSError it is.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from audit.entry import ENTRY_BYTES_MAX
from audit.note import NOTE_BYTES_MAX
from audit.tree import ENTRIES, TILE_BYTES, TILE_WIDTH, Tile
from keys.errors import MalformedInput

BUNDLE_BYTES_MAX: Final = TILE_WIDTH * (ENTRY_BYTES_MAX + 2)
DEPTH_MAX: Final = 10
CHECKPOINT: Final = "checkpoint"
ARCHIVE: Final = "archive"


@dataclass(frozen=True, slots=True)
class PublishedLog:
    """The directory ``root``."""

    root: str

    def read(self, path: str, bytes_max: int = NOTE_BYTES_MAX) -> bytes:
        """The file at ``path`` below the root. MalformedInput ``bad_file`` for a non-file or a larger one."""
        # O_NONBLOCK: a FIFO in a directory under audit must not hang the auditor.
        name = os.path.join(self.root, path)
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise MalformedInput("bad_file", f"{name} is not a regular file")
            data = b""
            while len(data) <= bytes_max and (more := os.read(descriptor, bytes_max + 1 - len(data))):
                data += more
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from error
        finally:
            os.close(descriptor)
        if len(data) > bytes_max:
            raise MalformedInput("bad_file", f"{name} is larger than {bytes_max} bytes")
        return data

    def read_tile(self, level: int, n: int, width: int) -> bytes:
        """A tile or (level ENTRIES) bundle file, exactly as it is named."""
        limit = BUNDLE_BYTES_MAX if level == ENTRIES else TILE_BYTES
        return self.read(Tile(level=level, n=n, width=width).path, limit)

    def walk(self, path: str = "", depth: int = 0) -> Iterator[str]:
        """Paths of all files below ``path``, sorted within each directory;

        Symbolic links are not followed.
        """
        if depth > DEPTH_MAX:
            raise MalformedInput("bad_file", f"{path} nests deeper than a log can")
        with os.scandir(os.path.join(self.root, path)) as found:
            names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
        for name, is_directory in names:
            below = f"{path}/{name}" if path else name
            if is_directory:
                yield from self.walk(below, depth + 1)
            else:
                yield below
