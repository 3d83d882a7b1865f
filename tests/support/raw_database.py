"""Every byte of a database and its journal, decrypted: what whoever has the key finds in them."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw

_FILES = (0, 1)  # to apsw's Connection.read: the database, its journal
_WAL_HEADER_BYTES = 32
_FRAME_HEAD_BYTES = 24


def raw_pages(path: Path, key: bytes) -> Iterator[tuple[str, bytes]]:
    """(place, page) of each page, used or free, and of each frame of the journal, spent ones too.

    Reads a copy, so a database that is open somewhere may be looked at.
    """
    with tempfile.TemporaryDirectory() as aside:
        copy = Path(aside) / path.name
        shutil.copyfile(path, copy)
        wal = Path(f"{path}-wal")
        wal_bytes = wal.stat().st_size if wal.exists() else 0
        if wal_bytes:
            shutil.copyfile(wal, f"{copy}-wal")
        connection = apsw.Connection(str(copy), vfs="multipleciphers-unix")
        try:
            connection.execute("PRAGMA cipher='chacha20'")
            connection.execute(f"PRAGMA key='raw:{key.hex()}'")
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            # Opens the journal; nothing of it is copied back or cut, also not at the end.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            page_bytes = connection.pragma("page_size")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            for number in range(copy.stat().st_size // page_bytes):
                yield (
                    f"{path.name} page {number + 1}",
                    _read(connection, _FILES[0], number * page_bytes, page_bytes),
                )
            frame_bytes = _FRAME_HEAD_BYTES + page_bytes
            for number in range((wal_bytes - _WAL_HEADER_BYTES) // frame_bytes):
                at = _WAL_HEADER_BYTES + number * frame_bytes + _FRAME_HEAD_BYTES
                yield f"{path.name}-wal frame {number + 1}", _read(connection, _FILES[1], at, page_bytes)
        finally:
            connection.close()


def entries_on_disk(path: Path, key: bytes, mark: bytes) -> int:
    """How many log entries with this mark a process that opened the database now would find."""
    with tempfile.TemporaryDirectory() as aside:
        copy = Path(aside) / path.name
        for end in ("", "-wal"):
            shutil.copyfile(f"{path}{end}", f"{copy}{end}")
        connection = apsw.Connection(str(copy), vfs="multipleciphers-unix")
        try:
            connection.execute("PRAGMA cipher='chacha20'")
            connection.execute(f"PRAGMA key='raw:{key.hex()}'")
            found: int = connection.execute(
                "SELECT count(*) FROM leaf WHERE instr(entry, ?) > 0", (mark,)
            ).get
        finally:
            connection.close()
    return found


def _read(connection: apsw.Connection, which: int, at: int, size: int) -> bytes:
    whole, page = connection.read("main", which, at, size)
    assert whole, "a page ends before its end"
    return page
