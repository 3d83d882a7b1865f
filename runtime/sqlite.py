"""The encrypted database: opened in the one safe order, migrated forward, written by group commit.

Spec: docs/operations.md#database. One rule: a result leaves ``Database.transact`` only after the commit that
holds it was fsynced, and after a failed fsync nothing is done any more (DiskFailed; the process exits with
74). The only importer of apsw. It knows tables by nobody's name but its own ``schema_version``.

Why the order of ``_prepare`` is as it is: the key comes before anything reads the file; exclusive locking
before WAL keeps the WAL index in our own memory; synchronous=EXTRA before WAL, else the very first rollback
journal can come back after a power cut and undo the file; and the checkpoint comes before anybody sees a row,
because rows that a killed process left unsynced in the page cache would otherwise be acted upon and then lost
by a power cut.
"""

import asyncio
import errno
import os
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import apsw

from keys.errors import BrokenInvariant, PolicyRefused, SalweenError, Unavailable, VerificationFailed
from keys.labels import DATABASE_KEY_CHECK
from keys.primitives import constant_time_equal, labelled_hash, sha256
from keys.secret import SecretBytes
from runtime.env import AnyPath, Env, Worker, packaged_files
from runtime.exits import DISK_FULL_ERRNOS, DiskFailed

__all__ = [
    "ConstraintFailed",
    "Database",
    "DiskFailed",
    "Migration",
    "Snapshot",
    "SqlValue",
    "Transaction",
    "Wiped",
    "load_migrations",
    "open_database",
]

T = TypeVar("T")
SqlValue = int | float | str | bytes | None
Row = tuple[Any, ...]
Parameters = Sequence[SqlValue] | dict[str, SqlValue]

KEY_BYTES = 32
SQLITE_VERSION_MIN = (3, 51, 3)  # the WAL-reset corruption is mended from here on
BATCH_MAX = 512  # transactions that share one commit; bounds how long the first of them waits
CHECKPOINT_PAGES = 1024  # 4 MiB: copied back when the writer is idle
CHECKPOINT_PAGES_MAX = 16 * 1024  # 64 MiB: copied back even when it is not, so that the WAL stays bounded
KEY_CHECK_BYTES = 16
PAGE_BYTES_MIN = 512  # no database is smaller; SQLite itself takes a file of one byte for a new one

# Journal of SQLite, https://sqlite.org/fileformat2.html#walformat; big-endian.
_WAL_HEADER = struct.Struct(">8I")  # magic, version, page size, sequence, two salts, two checksums
_WAL_FRAME = struct.Struct(">6I")  # page number, pages after a commit or 0, two salts, two checksums
_WAL_MAGIC = (0x377F0682, 0x377F0683)  # the last bit says that checksums read big-endian words

_DATABASE_FILE = 0  # to apsw's Connection.read; 1 would be the journal
# The page it lies in is never written, https://sqlite.org/fileformat2.html#lock_byte_page.
_LOCK_BYTE = 1 << 30

_LEAF_HEAD_BYTES = 8  # of a b-tree page

_PLAIN_HEADER = b"SQLite format 3\0"
_MIGRATION_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class ConstraintFailed(BrokenInvariant):
    """A rule of the schema (UNIQUE, CHECK, NOT NULL, FOREIGN KEY) refused a row; its savepoint is undone."""

    def __init__(self, detail: str) -> None:
        super().__init__("constraint_failed", detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One forward step of one component's tables. Never edited once released: its hash is compared."""

    component: str  # package that owns the tables; each counts from 1 by itself
    number: int
    name: str
    sql: str


def load_migrations(package: str) -> tuple[Migration, ...]:
    """The files ``NNNN_name.sql`` of ``package``'s folder ``migrations``, numbered from 1 without a hole."""
    found = []
    for name, content in packaged_files(package, "migrations"):
        match = _MIGRATION_NAME.fullmatch(name)
        if match is not None:
            sql = content.decode("ascii")
            found.append(Migration(component=package, number=int(match[1]), name=match[2], sql=sql))
    found.sort(key=lambda migration: migration.number)
    assert [m.number for m in found] == list(range(1, len(found) + 1)), f"{package}: hole in the migrations"
    return tuple(found)


# --- what runs inside a transaction -------------------------------------------------------------------------


class _Retired:
    def __getattr__(self, name: str) -> Any:
        raise BrokenInvariant("transaction_over", "a transaction was used after its function returned")


class Snapshot:
    """Reading the committed state. Valid only inside the function it was handed to."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def _retire(self) -> None:
        """No statement may run through a transaction that is over: it would commit by itself."""
        self._connection = cast(apsw.Connection, _Retired())

    def execute(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Run one statement and return all its rows."""
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except apsw.ConstraintError as error:
            raise ConstraintFailed(str(error)) from error

    def one(self, sql: str, parameters: Parameters = ()) -> Row | None:
        """The only row, or None; two rows are our bug."""
        rows = self.execute(sql, parameters)
        if len(rows) > 1:
            raise BrokenInvariant("more_than_one_row", f"one row was expected of: {sql}")
        return rows[0] if rows else None

    def value(self, sql: str, parameters: Parameters = ()) -> Any:
        """The only column of the only row."""
        row = self.one(sql, parameters)
        if row is None or len(row) != 1:
            raise BrokenInvariant("no_single_value", f"one value was expected of: {sql}")
        return row[0]


class Transaction(Snapshot):
    """Reading and writing. Runs in the writer's thread: it touches the database and values, nothing else."""

    def __init__(self, connection: apsw.Connection) -> None:
        super().__init__(connection)
        self._callbacks: list[Callable[[], None]] = []

    def execute_many(self, sql: str, rows: Iterable[Parameters]) -> None:
        """Run one statement for each set of parameters."""
        try:
            self._connection.executemany(sql, rows).fetchall()
        except apsw.ConstraintError as error:
            raise ConstraintFailed(str(error)) from error

    def changes(self) -> int:
        """Rows changed by the last statement."""
        return self._connection.changes()

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call back on the event loop once the commit is durable, before ``transact`` returns; never else."""
        self._callbacks.append(callback)


@dataclass(slots=True)
class _Job:
    call: Callable[[Any], Any]
    waiter: "asyncio.Future[Any]"


@dataclass(slots=True)
class _Outcome:
    value: Any = None
    error: Exception | None = None
    callbacks: Sequence[Callable[[], None]] = ()


# --- the database -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiped:
    """How many tables were written anew, and how many were not for want of room."""

    rewritten: int
    left: int


@dataclass(slots=True)
class DatabaseStats:
    """Counts for /metrics."""

    commits: int = 0
    transactions: int = 0
    batch_largest: int = 0
    checkpoints: int = 0
    wal_pages: int = 0


class Database:
    """One open database file. Made by ``open_database``; to be closed, or the process cannot end."""

    def __init__(
        self,
        env: Env,
        path: str,
        connection: apsw.Connection,
        worker: Worker,
        on_failure: Callable[[SalweenError], None] | None,
    ) -> None:
        self._env = env
        self._path = path
        self._connection = connection
        self._worker = worker
        self._on_failure = on_failure
        self._writes: list[_Job] = []
        self._reads: list[_Job] = []
        self._drain_task: asyncio.Task[None] | None = None
        self._dead: SalweenError | None = None
        self._closing = False
        self.stats = DatabaseStats()  # written only by the writer
        connection.set_wal_hook(self._note_wal_pages)

    @property
    def failure(self) -> SalweenError | None:
        """Why the database went dead, or None while it works."""
        return self._dead

    async def transact(self, call: Callable[[Transaction], T]) -> T:
        """Run ``call`` in a transaction and return its result once that is durable.

        Calls waiting while a commit is under way share the next one, each in a savepoint: one that raises
        undoes only itself, and its error comes out here. A cancelled waiter may or may not have been
        committed. DiskFailed when the disk gave way; then the state on disk is unknown and the process must
        exit.
        """
        return cast(T, await self._submit(self._writes, call))

    async def read(self, call: Callable[[Snapshot], T]) -> T:
        """Run ``call`` on the committed state, between two commits. It holds up writers while it runs."""
        return cast(T, await self._submit(self._reads, call))

    async def copy_to(self, path: AnyPath, key: SecretBytes) -> None:
        """Write a whole copy of the committed state to a new file under ``key``, this database's own.

        Between two commits, so it is one moment's state; writers wait while it runs. The file is complete and
        synced on return. PolicyRefused ``database_copy_exists``.
        """
        if self._dead is not None:
            raise self._dead
        if self._env.files.exists(path):
            raise PolicyRefused("database_copy_exists", f"{path} exists already; nothing was written")
        await self._worker.run(lambda: self._copy(path, key))

    async def wipe_traces(self, tables: Sequence[str]) -> Wiped:
        """Leave no copy of a deleted row of these tables in the file or its journal.

        ``secure_delete`` overwrites a row where it stands. It reaches neither the journal nor what SQLite
        left between the cells of a page when it moved the row to another: such a table is written
        anew, unless the disk has no room for that. Writers wait meanwhile. DiskFailed.
        """
        if self._dead is not None:
            raise self._dead
        wiped: Wiped | None = await self._in_worker(lambda: self._wipe_traces(tables), [])
        if wiped is None:
            assert self._dead is not None
            raise self._dead
        return wiped

    async def close(self) -> None:
        """Finish what is queued, checkpoint, close. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        if self._drain_task is not None:
            await self._drain_task
        try:
            await self._worker.run(self._close_connection)
        finally:
            await self._worker.close()

    async def _submit(self, queue: list[_Job], call: Callable[[Any], Any]) -> Any:
        if self._dead is not None:
            raise self._dead
        if self._closing:
            raise Unavailable("database_closed", "the program is stopping; nothing was changed")
        waiter = asyncio.get_running_loop().create_future()
        queue.append(_Job(call, waiter))
        if self._drain_task is None:
            self._drain_task = self._env.spawn(self._drain(), name="database")
        return await waiter

    # The drain runs on the event loop and only while there is work: no timer stands between a call and its
    # commit, and what arrives during a commit becomes the next batch.
    async def _drain(self) -> None:
        try:
            while self._reads or self._writes:
                if self._reads:
                    await self._serve(self._reads, self._run_reads)
                if self._writes:
                    await self._serve(self._writes, self._run_writes)
                idle = not self._reads and not self._writes
                if self._dead is None and self.stats.wal_pages >= (
                    CHECKPOINT_PAGES if idle else CHECKPOINT_PAGES_MAX
                ):
                    await self._in_worker(self._checkpoint, [])
        finally:
            self._drain_task = None

    async def _serve(
        self, queue: list[_Job], run: Callable[[Sequence[Callable[[Any], Any]]], list[_Outcome]]
    ) -> None:
        jobs = [job for job in queue[:BATCH_MAX] if not job.waiter.done()]
        del queue[:BATCH_MAX]
        calls = [job.call for job in jobs]
        outcomes = await self._in_worker(lambda: run(calls), jobs)
        for job, outcome in zip(jobs, outcomes or (), strict=outcomes is not None):
            for callback in outcome.callbacks:
                _call(callback)
            if job.waiter.done():
                continue
            if outcome.error is not None:
                job.waiter.set_exception(outcome.error)
            else:
                job.waiter.set_result(outcome.value)

    async def _in_worker(self, call: Callable[[], T], jobs: Sequence[_Job]) -> T | None:
        """Run ``call`` in the writer's thread; None when it failed, which is the end of the database."""
        try:
            return await self._worker.run(call)
        except SalweenError as error:
            self._die(error, jobs)
        except Exception as error:
            failure = BrokenInvariant("database_failed", f"{type(error).__name__} in the writer")
            failure.__cause__ = error
            self._die(failure, jobs)
        return None

    def _die(self, error: SalweenError, jobs: Sequence[_Job]) -> None:
        self._dead = error
        if self._on_failure is not None:
            self._on_failure(error)
        for job in [*jobs, *self._reads, *self._writes]:
            if not job.waiter.done():
                job.waiter.set_exception(error)
        self._reads.clear()
        self._writes.clear()

    # --- from here on: in the writer's thread ---------------------------------------------------------------

    def _run_writes(self, calls: Sequence[Callable[[Any], Any]]) -> list[_Outcome]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._run_write(call) for call in calls]
            connection.execute("COMMIT")
        except apsw.Error as error:
            raise self._give_up(error) from error
        self.stats.commits += 1
        self.stats.transactions += len(calls)
        self.stats.batch_largest = max(self.stats.batch_largest, len(calls))
        return outcomes

    def _run_write(self, call: Callable[[Any], Any]) -> _Outcome:
        connection = self._connection
        connection.execute("SAVEPOINT job")
        transaction = Transaction(connection)
        try:
            value = call(transaction)
        except Exception as error:
            # When SQLite itself undid the whole batch, nothing in it may be reported as done.
            if isinstance(error, apsw.Error) and (_is_fatal(error) or not connection.in_transaction):
                raise
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            return _Outcome(error=_as_ours(error))
        finally:
            transaction._retire()
        connection.execute("RELEASE job")
        return _Outcome(value=value, callbacks=transaction._callbacks)

    def _run_reads(self, calls: Sequence[Callable[[Any], Any]]) -> list[_Outcome]:
        connection = self._connection
        try:
            connection.execute("PRAGMA query_only=ON")
            outcomes = [self._run_read(call) for call in calls]
            connection.execute("PRAGMA query_only=OFF")
        except apsw.Error as error:
            raise self._give_up(error) from error
        return outcomes

    def _run_read(self, call: Callable[[Any], Any]) -> _Outcome:
        snapshot = Snapshot(self._connection)
        try:
            return _Outcome(value=call(snapshot))
        except apsw.ReadOnlyError:
            return _Outcome(error=BrokenInvariant("database_misused", "a write inside Database.read"))
        except Exception as error:
            if isinstance(error, apsw.Error) and _is_fatal(error):
                raise
            return _Outcome(error=_as_ours(error))
        finally:
            snapshot._retire()

    def _checkpoint(self) -> None:
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            raise self._give_up(error) from error
        self.stats.checkpoints += 1
        self.stats.wal_pages = 0

    def _wipe_traces(self, tables: Sequence[str]) -> Wiped:
        connection, rewritten, left = self._connection, 0, 0
        try:
            self._truncate_journal()
            for table in tables:
                if not self._has_copies(table):
                    continue
                # Once in the journal and once in the file. A full disk must not end a node that has room for
                # everything else, and again at each start.
                size = connection.execute("SELECT sum(pgsize) FROM dbstat WHERE name = ?", (table,)).get
                if self._env.files.free_bytes(os.path.dirname(self._path) or ".") < 2 * size:
                    left += 1
                    continue
                with connection:
                    _rewrite(connection, table)
                self._truncate_journal()
                rewritten += 1
        except apsw.Error as error:
            raise self._give_up(error) from error
        return Wiped(rewritten=rewritten, left=left)

    # Nothing else has the file open, so nobody's snapshot can hold a frame back.
    def _truncate_journal(self) -> None:
        frames, _ = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        if frames:
            raise BrokenInvariant("journal_kept", "the journal could not be truncated")
        self.stats.checkpoints += 1
        self.stats.wal_pages = 0

    def _has_copies(self, table: str) -> bool:
        """Whether anything stands between the rows of a page of this table. The journal is empty.

        Inner pages hold numbers of rows alone.
        """
        connection = self._connection
        page_bytes = connection.pragma("page_size")
        for (number,) in connection.execute(
            "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)
        ):
            _, page = connection.read("main", _DATABASE_FILE, (number - 1) * page_bytes, page_bytes)
            if _gap(page).strip(b"\0"):
                return True
        return False

    def _copy(self, path: AnyPath, key: SecretBytes) -> None:
        files = self._env.files
        files.write_atomic(path, b"")  # made here for its mode; SQLite accepts an empty file
        vfs = f"multipleciphers-{self._env.sqlite_vfs or 'unix'}"
        native = files.native_path(path)
        try:
            target = apsw.Connection(
                native, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW, vfs=vfs
            )
            try:
                _set_pragma(target, "cipher", "'chacha20'", "chacha20")
                _set_pragma(target, "key", f"'raw:{key.reveal().hex()}'", "ok", read_back=False)
                _set_pragma(target, "synchronous", "EXTRA", 3)
                with target.backup("main", self._connection, "main") as copying:
                    copying.step(-1)
            finally:
                target.close()
        except apsw.Error as error:
            files.remove(path)
            raise _database_failure(error, None, str(path)) from error

    def _close_connection(self) -> None:
        if self._dead is None:
            _checkpoint_all(self._connection, self._path)
        self._connection.close()

    def _give_up(self, error: apsw.Error) -> SalweenError:
        # Closing would checkpoint, and put on disk what the failed commit may have left in the WAL.
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        return _database_failure(error, self._connection, self._path)

    def _note_wal_pages(self, _: apsw.Connection, __: str, pages: int) -> int:
        self.stats.wal_pages = pages
        return apsw.SQLITE_OK


def _call(callback: Callable[[], None]) -> None:
    # The commit stands whatever becomes of the callback: its error is our bug, not the transaction's.
    try:
        callback()
    except Exception as error:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "on_commit callback failed", "exception": error}
        )


# --- opening ------------------------------------------------------------------------------------------------


async def open_database(
    env: Env,
    path: AnyPath,
    key: SecretBytes | None,
    migrations: Sequence[Migration],
    *,
    create: bool = True,
    on_failure: Callable[[SalweenError], None] | None = None,
) -> Database:
    """Open, check and migrate the database at ``path``; with ``create`` make it when it is missing.

    ``key`` is 32 random bytes; None leaves the file in plain, for tests and for data that is public anyway.
    Every page is read here, free ones too, so damage is met now and not in the middle of a day: with a key
    any bit that turned, without one what does not fit together. ``on_failure`` hears once, on the event loop,
    that the database went dead; a daemon passes ``Daemon.fail``. While it is open nothing else in this
    process may open the file, not even to read: closing it would drop the database's locks.

    Raises PolicyRefused ``sqlite_too_old``, ``database_missing``, ``database_newer``; VerificationFailed
    ``database_wrong_key``, ``database_damaged``; Unavailable ``database_busy``; DiskFailed.
    """
    if apsw_version() < SQLITE_VERSION_MIN:
        raise PolicyRefused(
            "sqlite_too_old",
            f"SQLite {apsw.sqlite_lib_version()} can corrupt a database; install apsw-sqlite3mc >= 3.54",
        )
    if key is not None and len(key) != KEY_BYTES:
        raise BrokenInvariant("bad_database_key", f"a database key is {KEY_BYTES} bytes")
    opener = _Opener(env, path, key, migrations)
    worker = env.threads.worker("database")
    try:
        connection = await worker.run(lambda: opener.open(create=create))
    except BaseException:
        await worker.close()
        raise
    return Database(env, opener.subject, connection, worker, on_failure)


def apsw_version() -> tuple[int, ...]:
    """Version of the SQLite library in use."""
    return tuple(int(part) for part in apsw.sqlite_lib_version().split("."))


class _Opener:
    """The steps of opening one file, in the writer's thread."""

    def __init__(
        self, env: Env, path: AnyPath, key: SecretBytes | None, migrations: Sequence[Migration]
    ) -> None:
        self._env = env
        self._path = path
        self._key = key
        self._migrations = migrations
        self.subject = str(path)

    def open(self, *, create: bool) -> apsw.Connection:
        files = self._env.files
        if not files.exists(self._path):
            if not create:
                raise PolicyRefused(
                    "database_missing",
                    f"{self.subject} does not exist; restore a backup, or run init for a new one",
                )
            self._create()
        elif not files.is_regular(self._path):
            raise _damaged(self.subject, "it is not a regular file")
        elif files.size(self._path) < PAGE_BYTES_MIN:
            raise _damaged(self.subject, "the file is empty or cut short")
        else:
            self._check_key()
        if self._key is not None:
            self._refuse_plain()
        connection = self._connect(self._path, commits=self._commits_in_journal())
        try:
            self._verify(connection)
            _migrate(connection, self._migrations, self._env.clock.now_ms(), self.subject)
            if self._key is not None:
                self._keep_key_check()
        except BaseException:
            connection.close()
            raise
        return connection

    # A file under its final name is always complete: power may go at any step, the next start begins anew.
    def _create(self) -> None:
        files = self._env.files
        building = f"{self.subject}.new"
        if files.exists(f"{self.subject}-wal"):
            raise _damaged(self.subject, "its journal is here, the file itself is gone")
        for leftover in (building, f"{building}-wal", f"{building}-journal"):
            if files.exists(leftover):
                files.remove(leftover)
        files.write_atomic(building, b"")  # made here for its mode; SQLite accepts an empty file
        connection = self._connect(building, commits=[])
        try:
            connection.execute(_SCHEMA_VERSION_SQL)
            _migrate(connection, self._migrations, self._env.clock.now_ms(), self.subject)
            _checkpoint_all(connection, self.subject)
        finally:
            connection.close()
        if self._key is not None:
            files.write_atomic(self._key_check_path(), _key_check(self._key))
        files.rename(building, self._path)

    def _connect(self, path: AnyPath, *, commits: Sequence[int]) -> apsw.Connection:
        # Only below a multipleciphers VFS is the WAL encrypted too; above one, the key pragma says ok and the
        # WAL holds plaintext.
        vfs = f"multipleciphers-{self._env.sqlite_vfs or 'unix'}"
        native = self._env.files.native_path(path)
        try:
            connection = apsw.Connection(
                native, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW, vfs=vfs
            )
        except apsw.Error as error:
            raise _database_failure(error, None, self.subject) from error
        try:
            _prepare(connection, self._key)
            self._refuse_broken_journal(connection, commits)
            _checkpoint_all(connection, self.subject)
        except apsw.Error as error:
            failure = _database_failure(error, connection, self.subject)
            connection.close()
            raise failure from error
        except BaseException:
            connection.close()
            raise
        return connection

    # SQLite ends its journal (the WAL) at the first frame whose checksum fails, without a word: right for a
    # commit that power cut off, and a silent loss of acknowledged rows when a bit turned in the middle. They
    # differ in this: commits are fsynced one by one, so after a power cut at most one commit can stand behind
    # the bad frame. (A last commit that is damaged alone looks like one cut off; the log's high-water mark is
    # there for that.)

    def _commits_in_journal(self) -> list[int]:
        """Numbers, from 1, of the frames that end a commit of the journal's present generation."""
        path, files = f"{self.subject}-wal", self._env.files
        head = files.read_range(path, 0, _WAL_HEADER.size) if files.exists(path) else b""
        if len(head) < _WAL_HEADER.size:
            return []
        magic, _, page_bytes, _, salt_1, salt_2, sum_1, sum_2 = _WAL_HEADER.unpack(head)
        if magic not in _WAL_MAGIC or _wal_checksum(head[:24], big_endian=bool(magic & 1)) != (sum_1, sum_2):
            raise _damaged(self.subject, "the head of its journal does not add up")
        commits = []
        frame_bytes = _WAL_FRAME.size + page_bytes
        for number in range((files.size(path) - _WAL_HEADER.size) // frame_bytes):
            at = _WAL_HEADER.size + number * frame_bytes
            _, pages_after, frame_salt_1, frame_salt_2, _, _ = _WAL_FRAME.unpack(
                files.read_range(path, at, _WAL_FRAME.size)
            )
            if pages_after and (frame_salt_1, frame_salt_2) == (salt_1, salt_2):
                commits.append(number + 1)
        return commits

    def _refuse_broken_journal(self, connection: apsw.Connection, commits: Sequence[int]) -> None:
        valid_frames, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        if sum(1 for commit in commits if commit > valid_frames) > 1:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # the journal stays as evidence
            raise _damaged(self.subject, "its journal is broken in the middle")

    # quick_check passes over free pages; Database.copy_to reads them all: a damaged one would lose no row,
    # and every backup from then on. Each read of a page through the cipher checks its tag.
    def _verify(self, connection: apsw.Connection) -> None:
        try:
            snapshot = Snapshot(connection)
            pages, page_bytes = snapshot.value("PRAGMA page_count"), snapshot.value("PRAGMA page_size")
            for page in range(pages):
                if page == _LOCK_BYTE // page_bytes:
                    continue
                whole, _ = connection.read("main", _DATABASE_FILE, page * page_bytes, page_bytes)
                if not whole:
                    raise _damaged(self.subject, "the file is cut short")
            faults = connection.execute("PRAGMA quick_check(1)").fetchall()
        except apsw.Error as error:
            raise _database_failure(error, connection, self.subject) from error
        if faults != [("ok",)]:
            raise _damaged(self.subject, "its pages do not fit together")

    # The cipher answers "not a database" to a wrong key and to a damaged first page alike; a hash of the key
    # beside the file tells them apart. The key is 256 random bits, so its truncated hash gives nothing away.
    def _check_key(self) -> None:
        if self._key is None or not self._env.files.exists(self._key_check_path()):
            return
        kept = self._env.files.read(self._key_check_path(), bytes_max=1024)
        if len(kept) == KEY_CHECK_BYTES * 2 + 1 and not constant_time_equal(kept, _key_check(self._key)):
            raise VerificationFailed(
                "database_wrong_key",
                f"{self.subject} was made with another key; use the keystore that belongs to it",
            )

    def _keep_key_check(self) -> None:
        assert self._key is not None
        path, wanted = self._key_check_path(), _key_check(self._key)
        if not self._env.files.exists(path) or self._env.files.read(path, bytes_max=1024) != wanted:
            self._env.files.write_atomic(path, wanted)

    def _key_check_path(self) -> str:
        return f"{self.subject}.keycheck"

    # Before SQLite opens the file, never after: closing a second descriptor of a file drops all locks that
    # the process holds on it, and another process could open the database beside us.
    def _refuse_plain(self) -> None:
        if self._env.files.read_range(self._path, 0, len(_PLAIN_HEADER)) == _PLAIN_HEADER:
            raise VerificationFailed(
                "database_not_encrypted", f"{self.subject} stands in plain despite its key"
            )


def _key_check(key: SecretBytes) -> bytes:
    return labelled_hash(DATABASE_KEY_CHECK, key.reveal())[:KEY_CHECK_BYTES].hex().encode() + b"\n"


# --- pragmas, migrations, errors ----------------------------------------------------------------------------

_PRAGMAS: tuple[tuple[str, str, SqlValue], ...] = (
    # name, what is set, what must be read back. The order is the safe one, see the head of this file.
    ("locking_mode", "EXCLUSIVE", "exclusive"),
    ("synchronous", "EXTRA", 3),
    ("journal_mode", "WAL", "wal"),
    ("foreign_keys", "ON", 1),
    ("secure_delete", "ON", 1),  # deleted content is overwritten, also for whoever gets the key later
    ("temp_store", "MEMORY", 2),  # temporary files would hold rows in plain
    ("trusted_schema", "OFF", 0),
    ("cell_size_check", "ON", 1),
    ("mmap_size", "0", 0),
    ("wal_autocheckpoint", "0", 0),  # ours run off the commit path
)


def _prepare(connection: apsw.Connection, key: SecretBytes | None) -> None:
    connection.set_busy_timeout(0)
    if key is not None:
        _set_pragma(connection, "cipher", "'chacha20'", "chacha20")
        _set_pragma(connection, "key", f"'raw:{key.reveal().hex()}'", "ok", read_back=False)
    for name, setting, expected in _PRAGMAS:
        _set_pragma(connection, name, setting, expected)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)


def _set_pragma(
    connection: apsw.Connection, name: str, setting: str, expected: SqlValue, *, read_back: bool = True
) -> None:
    """Set and read back: SQLite answers a misspelled or refused pragma with silence."""
    answer = connection.execute(f"PRAGMA {name}={setting}").fetchall()
    if read_back:
        answer = connection.execute(f"PRAGMA {name}").fetchall()
    # mmap_size of a file system layer without memory mapping has no answer at all, which is what is wanted.
    if answer != [(expected,)] and not (name == "mmap_size" and not answer):
        raise BrokenInvariant("pragma_refused", f"PRAGMA {name} did not take its value")


def _gap(page: bytes) -> bytes:
    """What is between the cell pointers and the cells of a leaf, https://sqlite.org/fileformat2.html#b_tree_pages.

    Never of the first page of a file, which begins with the head of the file.
    """
    cells, start = struct.unpack_from(">HH", page, 3)
    return page[_LEAF_HEAD_BYTES + 2 * cells : start]


def _rewrite(connection: apsw.Connection, table: str) -> None:
    """Every row once more, on fresh pages in the order of rowids, so that no page is ever split.

    The old pages are overwritten as they are freed. Between the two the rows stand in memory.
    """
    columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA table_info({table})"))
    connection.execute(
        f"CREATE TEMP TABLE kept_rows AS SELECT rowid AS kept_rowid, {columns} FROM main.{table}"  # noqa: S608
    )
    connection.execute(f"DELETE FROM main.{table}")  # noqa: S608 - a name of a table of ours
    connection.execute(
        f"INSERT INTO main.{table} (rowid, {columns})"  # noqa: S608 - the same
        f" SELECT kept_rowid, {columns} FROM temp.kept_rows ORDER BY kept_rowid"
    )
    connection.execute("DROP TABLE temp.kept_rows")


def _wal_checksum(data: bytes, *, big_endian: bool) -> tuple[int, int]:
    words = struct.unpack(f"{'>' if big_endian else '<'}{len(data) // 4}I", data)
    sum_1 = sum_2 = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        sum_1 = (sum_1 + even + sum_2) & 0xFFFFFFFF
        sum_2 = (sum_2 + odd + sum_1) & 0xFFFFFFFF
    return sum_1, sum_2


def _checkpoint_all(connection: apsw.Connection, subject: str) -> None:
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.Error as error:
        raise _database_failure(error, connection, subject) from error


_SCHEMA_VERSION_SQL = """
CREATE TABLE schema_version (
    component   TEXT    NOT NULL,
    number      INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    sql_sha256  BLOB    NOT NULL,
    applied_ms  INTEGER NOT NULL,  -- wall clock, for people only
    PRIMARY KEY (component, number)
) STRICT
"""


def _migrate(connection: apsw.Connection, migrations: Sequence[Migration], now_ms: int, subject: str) -> None:
    """Apply what is missing, each step in its own transaction with its row in ``schema_version``."""
    try:
        if not connection.table_exists("main", "schema_version"):
            raise _damaged(subject, "it is no database of ours")
        applied = {
            (component, number): digest
            for component, number, digest in connection.execute(
                "SELECT component, number, sql_sha256 FROM schema_version"
            )
        }
        known = {(migration.component, migration.number): _digest(migration) for migration in migrations}
        for component, number in applied:
            if (component, number) not in known:
                raise PolicyRefused(
                    "database_newer",
                    f"{subject} was written by a newer version ({component} step {number} is unknown here);"
                    " its content is untouched, install that version again",
                )
        for migration in migrations:
            step = (migration.component, migration.number)
            if step in applied:
                if applied[step] != known[step]:
                    raise BrokenInvariant("migration_changed", f"{step} is not the step that made this file")
                continue
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.execute(migration.sql)
                connection.execute(
                    "INSERT INTO schema_version VALUES (?, ?, ?, ?, ?)",
                    (migration.component, migration.number, migration.name, known[step], now_ms),
                )
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
    except apsw.Error as error:
        raise _database_failure(error, connection, subject) from error


def _digest(migration: Migration) -> bytes:
    return sha256(migration.sql.encode())


_FATAL = (
    apsw.IOError,
    apsw.FullError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.NoMemError,
    apsw.InternalError,
    apsw.ProtocolError,
)


def _is_fatal(error: apsw.Error) -> bool:
    return isinstance(error, _FATAL)


def _as_ours(error: Exception) -> Exception:
    """The error a caller may see: apsw's own stay inside this file."""
    if isinstance(error, apsw.Error):
        return BrokenInvariant("database_misused", f"{type(error).__name__}: {error}")
    return error


def _damaged(subject: str, what: str) -> VerificationFailed:
    return VerificationFailed(
        "database_damaged",
        f"{subject} is damaged ({what}); keep the file as evidence and restore a backup,"
        " peers and broker then send again what is missing",
    )


def _database_failure(error: apsw.Error, connection: apsw.Connection | None, subject: str) -> SalweenError:
    """What an error of the database itself means for the daemon."""
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
        first_page = isinstance(error, apsw.NotADBError)
        return _damaged(subject, "its first page does not open" if first_page else "a page does not open")
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return Unavailable("database_busy", f"{subject} is open in another process")
    system_error = connection.system_errno if connection is not None else 0
    if system_error in (errno.EACCES, errno.EPERM):
        return PolicyRefused(
            "database_forbidden", f"{subject} may not be opened by this user; check its owner"
        )
    if isinstance(error, apsw.FullError) or system_error in DISK_FULL_ERRNOS:
        return DiskFailed("disk_full", f"no space left to write {subject}; free space, then start again")
    if isinstance(error, (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError, apsw.ProtocolError)):
        return DiskFailed("disk_error", f"the disk failed on {subject} ({error}); check it, then start again")
    return BrokenInvariant("database_failed", f"{type(error).__name__}: {error}")
