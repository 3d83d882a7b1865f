"""The database: nothing acknowledged is lost, nothing damaged is taken for good, nothing stands in plain."""

import asyncio
import contextlib
import functools
import operator
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import BrokenInvariant, PolicyRefused, SalweenError, Unavailable, VerificationFailed
from keys.secret import SecretBytes
from runtime import exits
from runtime.env import Env, RealFiles, real_env
from runtime.sqlite import (
    ConstraintFailed,
    Database,
    DiskFailed,
    Migration,
    Snapshot,
    Transaction,
    Wiped,
    load_migrations,
    open_database,
)
from tests.runtime import writer
from tests.support.raw_database import raw_pages

ROOT = Path(__file__).parents[2]
KEY = bytes(range(100, 132))
OTHER_KEY = bytes(range(101, 133))
CANARY = b"canary-9f1c77d0a5e84b6f-white-pickup"
TABLES = Migration(
    component="test",
    number=1,
    name="words",
    sql="CREATE TABLE words (id INTEGER PRIMARY KEY, word TEXT UNIQUE, data BLOB) STRICT;",
)
INSERT = "INSERT INTO words (word, data) VALUES (?, ?)"


def secret(key: bytes | None = KEY) -> SecretBytes | None:
    return SecretBytes(key) if key is not None else None


async def open_words(
    path: Path, key: bytes | None = KEY, env: Env | None = None, *, create: bool = True
) -> Database:
    return await open_database(env or real_env(), path, secret(key), [TABLES], create=create)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await open_words(tmp_path / "a.db")
    yield database
    await database.close()


def inserting(word: str, data: bytes = b"") -> Callable[[Transaction], None]:
    def insert(tx: Transaction) -> None:
        tx.execute(INSERT, (word, data))

    return insert


def words(snapshot: Snapshot) -> list[str]:
    return [row[0] for row in snapshot.execute("SELECT word FROM words ORDER BY id")]


# --- transactions -------------------------------------------------------------------------------------------


async def test_a_transaction_returns_its_result_and_a_read_sees_it(db: Database) -> None:
    """What transact returned is what a later read finds."""
    assert await db.transact(lambda tx: tx.execute("SELECT 1 UNION SELECT 2")) == [(1,), (2,)]
    await db.transact(inserting("one"))
    assert await db.read(words) == ["one"]
    assert await db.read(lambda s: s.one("SELECT id FROM words WHERE word = 'none'")) is None


async def test_calls_that_wait_share_a_commit(db: Database) -> None:
    """A hundred calls at once cost a few commits, not a hundred."""
    await asyncio.gather(*(db.transact(inserting(str(n), b"")) for n in range(100)))
    assert db.stats.transactions == 100
    assert db.stats.commits <= 3
    assert len(await db.read(words)) == 100


async def test_a_call_that_raises_undoes_only_itself(db: Database) -> None:
    """Neighbours of the same commit are kept; the error comes out where it belongs."""

    def failing(tx: Transaction) -> None:
        tx.execute(INSERT, ("undone", b""))
        raise ValueError("mine")

    async def insert(word: str) -> None:
        await db.transact(inserting(word, b""))

    results = await asyncio.gather(
        insert("before"), db.transact(failing), insert("after"), return_exceptions=True
    )
    assert isinstance(results[1], ValueError)
    assert await db.read(words) == ["before", "after"]


async def test_callbacks_run_after_the_commit_and_only_then(db: Database) -> None:
    """on_commit is called before transact returns, in order, and never for what was undone."""
    called: list[str] = []

    def good(tx: Transaction) -> None:
        tx.execute(INSERT, ("good", b""))
        tx.on_commit(lambda: called.append("first"))
        tx.on_commit(lambda: called.append("second"))

    def bad(tx: Transaction) -> None:
        tx.on_commit(lambda: called.append("never"))
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        await db.transact(bad)
    await db.transact(good)
    assert called == ["first", "second"]


async def test_a_callback_that_raises_stops_nobody(db: Database) -> None:
    """The commit stands, transact returns, and the bug is reported to the loop."""
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def write(tx: Transaction) -> None:
        tx.execute(INSERT, ("kept", b""))
        tx.on_commit(lambda: [].pop())

    await db.transact(write)
    assert await db.read(words) == ["kept"]
    assert [type(error) for error in reported] == [IndexError]


async def test_errors_of_the_engine_stay_inside(db: Database) -> None:
    """A broken schema rule is ConstraintFailed, a wrong statement is our bug; the database lives on."""
    await db.transact(inserting("twice", b""))
    with pytest.raises(ConstraintFailed):
        await db.transact(inserting("twice", b""))
    with pytest.raises(ConstraintFailed):
        await db.transact(lambda tx: tx.execute_many(INSERT, [("x", b""), ("twice", b"")]))
    with pytest.raises(BrokenInvariant, match="database_misused"):
        await db.transact(lambda tx: tx.execute("SELEC 1"))
    with pytest.raises(BrokenInvariant, match="database_misused"):
        await db.read(lambda s: s.execute(INSERT, ("in a read", b"")))
    with pytest.raises(BrokenInvariant, match="more_than_one_row"):
        await db.read(lambda s: s.one("SELECT 1 UNION SELECT 2"))
    assert await db.read(words) == ["twice"]


async def test_a_transaction_cannot_be_used_after_its_end(db: Database) -> None:
    """A statement through a leaked transaction would commit by itself; it raises instead."""
    leaked = await db.transact(lambda tx: tx)
    with pytest.raises(BrokenInvariant, match="transaction_over"):
        leaked.execute(INSERT, ("late", b""))


async def test_a_closed_database_says_so(tmp_path: Path) -> None:
    """Close finishes what is queued, may be repeated, and ends use."""
    db = await open_words(tmp_path / "a.db")
    queued = asyncio.ensure_future(db.transact(inserting("queued", b"")))
    await asyncio.sleep(0)
    await db.close()
    await db.close()
    await queued
    with pytest.raises(Unavailable, match="database_closed"):
        await db.read(words)
    assert not (tmp_path / "a.db-wal").exists()


async def test_a_cancelled_waiter_harms_nobody(db: Database) -> None:
    """Cancelling one of several waiters leaves the others their results."""
    tasks = [asyncio.ensure_future(db.transact(inserting(str(n), b""))) for n in range(5)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert {"0", "1", "3", "4"} <= set(await db.read(words))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=40))
def test_the_state_is_that_of_the_calls_that_succeeded(steps: list[tuple[bool, int]]) -> None:
    """Whatever mix runs at once: the table holds exactly the words whose call returned."""

    async def run(directory: Path) -> None:
        db = await open_words(directory / "a.db", None)

        def call(tx: Transaction, fails: bool, word: int) -> int:
            tx.execute(INSERT, (str(word), b""))
            if fails:
                raise ValueError
            return word

        results = await asyncio.gather(
            *(db.transact(functools.partial(call, fails=fails, word=word)) for fails, word in steps),
            return_exceptions=True,
        )
        kept = [str(result) for result in results if isinstance(result, int)]
        assert sorted(await db.read(words)) == sorted(kept)
        await db.close()

    with contextlib.ExitStack() as stack:
        directory = Path(f"/dev/shm/words-{os.getpid()}")
        directory.mkdir()
        stack.callback(shutil.rmtree, directory)
        asyncio.run(run(directory))


# --- opening ------------------------------------------------------------------------------------------------


async def test_every_setting_was_read_back(db: Database) -> None:
    """The database runs with the settings that kept every acknowledged row in the trials."""
    expected = {"locking_mode": "exclusive", "synchronous": 3, "journal_mode": "wal", "foreign_keys": 1}
    expected |= {"secure_delete": 1, "temp_store": 2, "trusted_schema": 0, "wal_autocheckpoint": 0}
    for name, value in expected.items():
        assert await db.read(operator.methodcaller("value", f"PRAGMA {name}")) == value


def count_canaries(directory: Path) -> dict[str, int]:
    return {file.name: file.read_bytes().count(CANARY) for file in directory.iterdir()}


async def test_neither_file_nor_journal_holds_plain_text(tmp_path: Path) -> None:
    """A canary stands in no file of an open encrypted database, also not in its -wal; the same search finds
    it in both files of a database opened without a key.
    """
    for key, name in ((KEY, "encrypted"), (None, "plain")):
        directory = tmp_path / name
        directory.mkdir()
        db = await open_words(directory / "a.db", key)
        await db.transact(inserting("w", CANARY * 10))
        assert (directory / "a.db-wal").stat().st_size > 4096
        in_journal = count_canaries(directory)
        await db.close()
        in_file = count_canaries(directory)
        if key is None:
            assert in_journal["a.db-wal"] > 0
            assert in_file["a.db"] > 0
        else:
            assert set(in_journal.values()) == {0}
            assert set(in_file.values()) == {0}


async def test_a_deleted_row_leaves_no_trace_in_pages_or_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overwriting rows where they stand is not enough: the journal has them, and so have pages they once
    stood in. One in a few hundred survives both secure_delete and the truncated journal."""
    path, rows = tmp_path / "a.db", 1000
    database = await open_words(path)
    draw = random.Random(7)
    gone = {number for number in range(1, rows + 1) if draw.random() < 0.7}

    def marked() -> set[str]:
        """Where marks of deleted rows stand."""
        pages = raw_pages(path, KEY)
        return {
            place
            for place, page in pages
            if any(int(mark) in gone for mark in re.findall(rb"<(\d{8})>", page))
        }

    def fill(tx: Transaction) -> None:
        for number in range(1, rows + 1):
            tx.execute("INSERT INTO words (data) VALUES (?)", (b"<%08d>" % number * draw.randint(10, 30),))

    await database.transact(fill)
    kept = await database.read(lambda tx: tx.execute("SELECT * FROM words ORDER BY id"))
    await database.transact(
        lambda tx: tx.execute_many("DELETE FROM words WHERE id = ?", [(number,) for number in gone])
    )
    assert any("wal" in place for place in marked())
    database._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    assert marked(), "secure_delete reaches everything by now: wipe_traces need not write tables anew"

    with monkeypatch.context() as patched:
        patched.setattr(RealFiles, "free_bytes", lambda files, path: 1000)
        assert await database.wipe_traces(["words"]) == Wiped(rewritten=0, left=1)
    assert await database.wipe_traces(["words"]) == Wiped(rewritten=1, left=0)
    assert not marked()
    assert (tmp_path / "a.db-wal").stat().st_size == 0
    rest = await database.read(lambda tx: tx.execute("SELECT * FROM words ORDER BY id"))
    assert rest == [row for row in kept if row[0] not in gone]
    assert await database.wipe_traces(["words"]) == Wiped(rewritten=0, left=0)
    await database.close()
    await (await open_words(path)).close()


async def test_a_file_layer_below_the_cipher_sees_only_ciphertext(tmp_path: Path) -> None:
    """Env.sqlite_vfs goes below the cipher: everything it is given to write is encrypted already."""
    written: list[bytes] = []

    class Shim(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("test-shim", "unix")

        def xOpen(self, name: Any, flags: Any) -> Any:  # noqa: N802
            return ShimFile(name, flags)

    class ShimFile(apsw.VFSFile):
        def __init__(self, name: Any, flags: Any) -> None:
            super().__init__("unix", name, flags)

        def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
            written.append(bytes(data))
            super().xWrite(data, offset)

    shim = Shim()
    db = await open_words(tmp_path / "a.db", KEY, replace(real_env(), sqlite_vfs="test-shim"))
    await db.transact(inserting("w", CANARY * 10))
    await db.close()
    shim.unregister()
    assert sum(map(len, written)) > 10_000
    assert not any(CANARY in data for data in written)


async def test_a_wrong_key_is_told_from_a_damaged_file(tmp_path: Path) -> None:
    """Another key is database_wrong_key; a bit turned in any page, free ones too, is database_damaged."""
    path = tmp_path / "a.db"
    db = await open_words(path)
    for number in range(40):
        await db.transact(inserting(str(number), os.urandom(random.Random(number).randrange(9000))))
    await db.transact(lambda tx: tx.execute("DELETE FROM words WHERE id > 20"))
    page_bytes = await db.read(lambda tx: tx.value("PRAGMA page_size"))
    assert await db.read(lambda tx: tx.value("PRAGMA freelist_count")) >= 10
    await db.close()
    with pytest.raises(VerificationFailed, match="database_wrong_key"):
        await open_words(path, OTHER_KEY)
    sound = path.read_bytes()
    choices = random.Random(5)
    ends = (0, 1, page_bytes - 33, page_bytes - 1)  # the last 32 bytes of a page are the cipher's own
    places = [
        *range(32),  # of which some stand in plain
        len(sound) - 100,
        *(
            page + place
            for page in range(0, len(sound), page_bytes)
            for place in (*ends, choices.randrange(page_bytes))
        ),
    ]
    for place in places:
        damaged = bytearray(sound)
        damaged[place] ^= 1 << choices.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(VerificationFailed, match="database_damaged"):
            await open_words(path)
        assert path.read_bytes() == damaged, "evidence was changed"
    path.write_bytes(sound)
    reopened = await open_words(path)
    assert len(await reopened.read(words)) == 20
    await reopened.close()


async def test_a_damaged_free_page_would_end_every_backup(tmp_path: Path) -> None:
    """Why a page that holds no row is refused at the start: a copy reads it, in the middle of a day."""
    path = tmp_path / "a.db"
    db = await open_words(path)
    await db.transact(inserting("w", bytes(90_000)))
    await db.transact(lambda tx: tx.execute("DELETE FROM words"))
    await db.transact(inserting("v"))
    await db.close()
    db = await open_words(path)
    damaged = bytearray(path.read_bytes())
    damaged[-100] ^= 1
    path.write_bytes(damaged)
    assert await db.read(words) == ["v"]
    with pytest.raises(VerificationFailed, match="database_damaged"):
        await db.copy_to(tmp_path / "b.db", SecretBytes(KEY))
    await db.close()


@pytest.mark.parametrize("size", [0, 1, 16, 511, 4095, 4096, 8192])
async def test_a_file_cut_short_is_damaged_and_never_a_new_database(tmp_path: Path, size: int) -> None:
    """SQLite takes an empty file for a new database; we do not."""
    path = tmp_path / "a.db"
    db = await open_words(path)
    await db.transact(inserting("w", bytes(9000)))
    await db.close()
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(VerificationFailed, match="database_damaged"):
        await open_words(path)
    assert path.stat().st_size == size, "evidence was changed"


async def test_what_is_no_file_or_no_database_of_ours_is_refused(tmp_path: Path) -> None:
    """A directory, a link, a lone journal, another program's database: each with its word."""
    (tmp_path / "directory.db").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "fifo.db")
    (tmp_path / "lone.db-wal").write_bytes(b"rows")
    foreign = apsw.Connection(str(tmp_path / "foreign.db"))
    foreign.execute("CREATE TABLE t (x)")
    foreign.close()
    for name in ("directory.db", "link.db", "fifo.db", "lone.db", "foreign.db"):
        with pytest.raises(VerificationFailed, match="database_damaged"):
            await open_words(tmp_path / name, None)
    with pytest.raises(VerificationFailed, match="database_not_encrypted"):
        await open_words(tmp_path / "foreign.db", KEY)
    with pytest.raises(PolicyRefused, match="database_missing"):
        await open_words(tmp_path / "none.db", create=False)
    assert not (tmp_path / "none.db").exists()


async def test_an_interrupted_creation_begins_anew(tmp_path: Path) -> None:
    """What a killed creation left behind neither blocks nor leaks into the next one."""
    (tmp_path / "a.db.new").write_bytes(b"half a database")
    (tmp_path / "a.db.new-wal").write_bytes(b"half a journal")
    (tmp_path / "a.db.keycheck").write_bytes(b"0" * 32 + b"\n")
    db = await open_words(tmp_path / "a.db")
    await db.close()
    assert sorted(os.listdir(tmp_path)) == ["a.db", "a.db.keycheck"]
    assert (tmp_path / "a.db").stat().st_mode & 0o777 == 0o600


async def test_a_second_process_is_told_that_the_database_is_open(tmp_path: Path) -> None:
    """The database is opened exclusively."""
    db = await open_database(real_env(), tmp_path / "writer.db", SecretBytes(writer.KEY), [writer.TABLES])
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.runtime.writer", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "database_busy" in done.stderr
    await db.close()


# --- migrations ---------------------------------------------------------------------------------------------


def step(number: int, sql: str, component: str = "test") -> Migration:
    return Migration(component=component, number=number, name=f"step_{number}", sql=sql)


async def test_migrations_go_forward_once_each_component_by_itself(tmp_path: Path) -> None:
    """Each step runs once; a later program adds its steps, in any order of components."""
    first = [
        step(1, "CREATE TABLE a (x INTEGER) STRICT;"),
        step(1, "CREATE TABLE b (x INTEGER) STRICT;", "log"),
    ]
    second = [*first, step(2, "INSERT INTO a VALUES (1); INSERT INTO a VALUES (2);")]
    for migrations in (first, second, second):
        db = await open_database(real_env(), tmp_path / "a.db", secret(), migrations)
        await db.close()
    db = await open_database(real_env(), tmp_path / "a.db", secret(), second)
    assert await db.read(lambda s: s.value("SELECT count(*) FROM a")) == 2
    assert await db.read(
        lambda s: s.execute("SELECT component, number FROM schema_version ORDER BY 1, 2")
    ) == [
        ("log", 1),
        ("test", 1),
        ("test", 2),
    ]
    await db.close()


async def test_a_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    """An older program says what to do and changes no row."""
    steps = [step(1, "CREATE TABLE a (x INTEGER) STRICT;"), step(2, "CREATE TABLE b (x INTEGER) STRICT;")]
    db = await open_database(real_env(), tmp_path / "a.db", secret(), steps)
    await db.close()
    before = (tmp_path / "a.db").read_bytes()
    with pytest.raises(PolicyRefused, match="database_newer"):
        await open_database(real_env(), tmp_path / "a.db", secret(), steps[:1])
    assert (tmp_path / "a.db").read_bytes() == before


async def test_a_changed_or_failing_step_changes_nothing(tmp_path: Path) -> None:
    """A released step that was edited is our bug; a step that fails leaves none of itself."""
    first = step(1, "CREATE TABLE a (x INTEGER) STRICT;")
    db = await open_database(real_env(), tmp_path / "a.db", secret(), [first])
    await db.close()
    with pytest.raises(BrokenInvariant, match="migration_changed"):
        await open_database(real_env(), tmp_path / "a.db", secret(), [step(1, "CREATE TABLE a (y) STRICT;")])
    with pytest.raises(BrokenInvariant, match="database_failed"):
        await open_database(
            real_env(), tmp_path / "a.db", secret(), [first, step(2, "INSERT INTO a VALUES (1); SELEC;")]
        )
    db = await open_database(real_env(), tmp_path / "a.db", secret(), [first])
    assert await db.read(lambda s: s.value("SELECT count(*) FROM a")) == 0
    await db.close()


def test_steps_are_files_numbered_without_a_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NNNN_name.sql in the package's folder; anything else there is left alone; a hole is our bug."""
    folder = tmp_path / "steps_package" / "migrations"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "0002_second.sql").write_text("SELECT 2;")
    (folder / "0001_first.sql").write_text("SELECT 1;")
    (folder / "README").write_text("not a step")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = load_migrations("steps_package")
    assert [(m.component, m.number, m.name) for m in loaded] == [
        ("steps_package", 1, "first"),
        ("steps_package", 2, "second"),
    ]
    (folder / "0004_fourth.sql").write_text("SELECT 4;")
    with pytest.raises(AssertionError):
        load_migrations("steps_package")


# --- kill -9, damage of the journal, full disk --------------------------------------------------------------


def run_writer(directory: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.runtime.writer", str(directory), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def kill_after(process: "subprocess.Popen[str]", numbers: int, more_s: float) -> set[int]:
    """Kill -9 a while after so many acknowledgements; every number it had acknowledged."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(numbers)]
    select.select([], [], [], more_s)
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    # The last line may be cut; a number is acknowledged when its line is whole.
    return {int(line) for line in "".join([*lines, rest]).split("\n")[:-1]}


def test_kill_9_between_commits_loses_no_acknowledged_row(tmp_path: Path) -> None:
    """Killed twelve times at random moments of its commits, the database holds every acknowledged number."""
    told: set[int] = set()
    choices = random.Random(9)
    for _ in range(12):
        told |= kill_after(run_writer(tmp_path), choices.randrange(1, 60), choices.random() * 0.05)
        kept = asyncio.run(writer.acknowledged(real_env(), str(tmp_path)))
        assert told <= kept
    assert len(told) > 100


def test_opening_after_a_kill_empties_the_journal_before_anything_else(tmp_path: Path) -> None:
    """Rows a killed process left in the page cache are on disk before anybody sees them."""
    kill_after(run_writer(tmp_path), 50, 0)
    journal = tmp_path / "writer.db-wal"
    assert journal.stat().st_size > 50 * 700

    async def look() -> None:
        db = await open_database(
            real_env(), tmp_path / "writer.db", SecretBytes(writer.KEY), [writer.TABLES], create=False
        )
        assert journal.stat().st_size == 0
        await db.close()

    asyncio.run(look())


def test_a_bit_turned_in_the_middle_of_the_journal_is_damage(tmp_path: Path) -> None:
    """SQLite drops every commit behind a bad frame in silence; only a tail torn by a power cut may go so."""
    kill_after(run_writer(tmp_path), 60, 0)
    copies = tmp_path / "sound"
    copies.mkdir()
    for name in ("writer.db", "writer.db-wal", "writer.db.keycheck"):
        shutil.copy(tmp_path / name, copies / name)
    journal = (copies / "writer.db-wal").read_bytes()

    def outcome(changed: bytes) -> str:
        for name in ("writer.db", "writer.db.keycheck"):
            shutil.copy(copies / name, tmp_path / name)
        (tmp_path / "writer.db-wal").write_bytes(changed)
        try:
            asyncio.run(writer.acknowledged(real_env(), str(tmp_path)))
        except VerificationFailed as error:
            return error.code
        return "opened"

    choices = random.Random(3)
    for place in [0, 9, 17, 25, *(choices.randrange(32, len(journal) * 3 // 4) for _ in range(40))]:
        damaged = bytearray(journal)
        damaged[place] ^= 1 << choices.randrange(8)
        assert outcome(bytes(damaged)) == "database_damaged", place
        assert (tmp_path / "writer.db-wal").read_bytes() == damaged, "evidence was changed"
    for cut in (len(journal) - 1, len(journal) - 5000, 32 + 4120 * 3, 40, 10, 0):
        assert outcome(journal[:cut]) == "opened"
    assert outcome(journal) == "opened"


def test_a_file_that_may_not_grow_ends_the_process_with_74(tmp_path: Path) -> None:
    """Out of space in a commit: exit 74, disk_full in words, every acknowledged row there afterwards."""
    process = run_writer(tmp_path, "400000")
    out, err = process.communicate(timeout=60)
    assert process.returncode == exits.DISK
    assert "disk_full" in err
    told = {int(line) for line in out.splitlines()}
    assert len(told) > 100
    assert told <= asyncio.run(writer.acknowledged(real_env(), str(tmp_path)))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB; only root may mount it, others rely on the limit of the test above."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


async def test_a_full_disk_kills_the_database_and_loses_nothing(small_disk: Path) -> None:
    """ENOSPC: every caller hears DiskFailed, then and later; after making room all rows are there."""
    heard: list[SalweenError] = []
    db = await open_database(real_env(), small_disk / "a.db", secret(), [TABLES], on_failure=heard.append)
    told: list[str] = []

    async def fill() -> None:
        for number in range(10_000):
            await db.transact(inserting(str(number), bytes(3000)))
            told.append(str(number))

    with pytest.raises(DiskFailed) as caught:
        await fill()
    assert caught.value.code == "disk_full"
    assert exits.exit_code_for(caught.value) == exits.DISK
    assert heard == [caught.value]
    assert db.failure is caught.value
    with pytest.raises(DiskFailed):
        await db.transact(inserting("late", b""))
    with pytest.raises(DiskFailed):
        await db.read(words)
    await db.close()
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    db = await open_words(small_disk / "a.db")
    assert set(told) <= set(await db.read(words))
    await db.close()


async def test_commits_are_fast_enough(tmp_path: Path) -> None:
    """One after another or sixty at once: far above what an office or a broker of this size needs."""
    db = await open_words(tmp_path / "a.db")

    async def write(start: int) -> None:
        for number in range(start, start + 20):
            await db.transact(inserting(str(number), bytes(500)))

    began = time.monotonic()
    await asyncio.gather(*(write(1000 * n) for n in range(60)))
    assert 1200 / (time.monotonic() - began) > 500
    assert db.stats.commits < 600
    await db.close()
