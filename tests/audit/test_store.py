"""The writer: one transaction with the deed, nothing signed that was not committed and read back."""

import asyncio
import contextlib
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from audit.checkpoint import Checkpoint, parse_checkpoint_text_untrusted, sign_checkpoint
from audit.entry import Json, decode_entry_untrusted
from audit.fsck import Report, verify
from audit.reader import PublishedLog
from audit.store import CLOCK_STEP_US
from audit.tree import EMPTY_ROOT, tile_path
from keys.errors import BrokenInvariant, PolicyRefused
from runtime.env import AnyPath, Env, RealFiles, real_env
from runtime.exits import DiskFailed
from runtime.sqlite import Transaction
from tests.audit.logs import (
    ORIGIN,
    OpenLog,
    StepClock,
    a_policy,
    a_signer,
    clocked_env,
    decoded_root,
    files_of,
    open_log,
    read_entries,
)
from tests.simulation.world import World

READ: dict[str, Any] = {"env": "ab" * 32, "box": "cd" * 16}


def checked(directory: Path) -> Report:
    return verify(PublishedLog(str(directory)), a_policy())


def decoded(directory: Path, size: int) -> list[dict[str, Any]]:
    return [decode_entry_untrusted(entry) for entry in read_entries(directory, size)]


async def test_a_new_log_begins_with_its_origin_and_key(tmp_path: Path) -> None:
    """Entry 0 is log.start; reopening does not begin again."""
    for _ in range(2):
        async with open_log(tmp_path) as opened:
            assert (opened.log.size, opened.log.origin, opened.log.refusal) == (1, ORIGIN, None)
            await opened.log.publish()
    (start,) = decoded(tmp_path / "log", 1)
    assert (start["t"], start["origin"], start["seq"]) == ("log.start", ORIGIN, 0)


async def test_an_entry_stands_or_falls_with_the_deed_it_records(tmp_path: Path) -> None:
    """A transaction that fails leaves no entry; its index goes to the next one, also in a shared commit."""

    def fail(opened: OpenLog) -> Callable[[Transaction], None]:
        def call(tx: Transaction) -> None:
            opened.log.append(tx, "bk.out", READ)
            raise PolicyRefused("no")

        return call

    async with open_log(tmp_path) as opened:
        good = [
            opened.db.transact(lambda tx: opened.log.append(tx, "bk.in", READ | {"bucket": 1}))
            for _ in range(3)
        ]
        bad = [opened.db.transact(fail(opened)) for _ in range(3)]
        calls = [call for pair in zip(good, bad, strict=True) for call in pair]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        told = [outcome if isinstance(outcome, int) else type(outcome) for outcome in outcomes]
        assert told == [1, PolicyRefused, 2, PolicyRefused, 3, PolicyRefused]
        assert opened.log.size == 4
        await opened.log.publish()
    assert [entry["t"] for entry in decoded(tmp_path / "log", 4)] == ["log.start", *["bk.in"] * 3]
    assert checked(tmp_path / "log").verdicts == ["VERIFIED"]


async def test_an_entry_that_no_verifier_would_accept_is_not_recorded(tmp_path: Path) -> None:
    """Free text in a field is our bug and undoes the transaction that brought it."""
    async with open_log(tmp_path) as opened:
        with pytest.raises(BrokenInvariant, match="bad_entry"):
            await opened.db.transact(lambda tx: opened.log.append(tx, "bk.in", READ | {"bucket": "a plate"}))
        assert opened.log.size == 1


@pytest.mark.parametrize(
    ("wall_us", "mono_ms", "steps"),
    [
        (1_000_000, 1_000, False),
        (1_500_000, 1_000, False),
        (1_000_000 + CLOCK_STEP_US + 1, 1_000, True),
        (0, 0, False),
        (-1, 0, True),
        (-3_600_000_000, 1_000, True),
        (1_000_000, 10_000, True),
        (86_400_000_000, 86_400_000, False),
        (-1_800_000_000_000_000, 5, True),
    ],
)
async def test_a_clock_step_is_recorded_before_the_entry_that_met_it(
    tmp_path: Path, wall_us: int, mono_ms: int, steps: bool
) -> None:
    """Any step back, and any leap away from the monotonic clock; sleeping for a day is no step."""
    clock = StepClock()
    async with open_log(tmp_path, clocked_env(clock)) as opened:
        before = clock.us
        clock.us, clock.mono_ms = clock.us + wall_us, clock.mono_ms + mono_ms
        index = await opened.db.transact(lambda tx: opened.log.append(tx, "bk.out", READ))
        assert index == (2 if steps else 1)
        await opened.log.publish()
    entries = decoded(tmp_path / "log", index + 1)
    assert entries[-1]["ts"] == clock.us
    if steps:
        assert (entries[1]["from"], entries[1]["to"]) == (before + 1000 * mono_ms, clock.us)
    assert checked(tmp_path / "log").verdicts == ["VERIFIED"]


async def test_a_new_start_compares_wall_clocks_only(tmp_path: Path) -> None:
    """After a restart the monotonic clock says nothing; a step back still shows, a leap ahead cannot."""
    clock = StepClock()
    async with open_log(tmp_path, clocked_env(clock)) as opened:
        await opened.log.publish()
    for boot, (wall_us, appended) in enumerate([(10**12, 1), (-(10**9), 2)], start=1):
        clock.us, clock.mono_ms = clock.us + wall_us, 0
        async with open_log(tmp_path, clocked_env(clock, f"{boot:016x}")) as opened:
            before = opened.log.size
            await opened.db.transact(lambda tx, log=opened.log: log.append(tx, "bk.out", READ))  # type: ignore[misc]
            assert opened.log.size == before + appended
            await opened.log.publish()
    assert checked(tmp_path / "log").verdicts == ["VERIFIED"]


async def test_the_directory_holds_exactly_what_the_format_names(tmp_path: Path) -> None:
    """Full tiles replace the partial ones;

    Each checkpoint is archived; the newest stands in ``checkpoint``.
    """
    async with open_log(tmp_path) as opened:
        for size in (1, 5, 256, 260):
            await opened.grow(size)
            assert opened.log.published.size == size
    names = {path.relative_to(tmp_path / "log").as_posix() for path in files_of(tmp_path / "log")}
    assert names == {
        "checkpoint",
        *(f"archive/{size}" for size in (1, 5, 256, 260)),
        *(tile_path(level, 0) for level in (0, -1)),
        *(tile_path(level, 1, 4) for level in (0, -1)),
        tile_path(1, 0, 1),
    }
    assert (tmp_path / "log/checkpoint").read_bytes() == (tmp_path / "log/archive/260").read_bytes()
    mark = parse_checkpoint_text_untrusted((tmp_path / "high-water").read_bytes())
    assert (mark.size, mark.root) == (260, decoded_root(tmp_path / "log"))
    assert (tmp_path / "high-water").stat().st_mode & 0o777 == 0o600


async def test_a_copy_of_an_earlier_head_is_what_was_published_then(tmp_path: Path) -> None:
    """Around full tiles, from a log that went on: it verifies, and holds no byte of what came after."""
    sizes = (3, 255, 256, 300, 512, 513)
    async with open_log(tmp_path) as opened:
        for size in sizes:
            await opened.grow(size)
            shutil.copytree(opened.directory, tmp_path / f"then-{size}")
        for size in sizes:
            head = await opened.db.read(partial(opened.log.head_at, size=size))
            assert head is not None
            copy = tmp_path / f"copy-{size}"

            def take(name: str, data: bytes, copy: Path = copy) -> None:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(data)

            await opened.log.copy_published(head, take)
            report = checked(copy)
            assert (report.verdicts, report.size, report.findings) == (["VERIFIED"], size, [])
            for path in files_of(copy):
                name = path.relative_to(copy)
                assert path.read_bytes() == (tmp_path / f"then-{size}" / name).read_bytes(), name


async def test_publishing_twice_writes_once(tmp_path: Path) -> None:
    """With nothing new there is nothing to sign."""
    async with open_log(tmp_path) as opened:
        first = await opened.log.publish()
        stamps = {path: path.stat().st_mtime_ns for path in files_of(tmp_path / "log")}
        assert await opened.log.publish() == first
        assert stamps == {path: path.stat().st_mtime_ns for path in files_of(tmp_path / "log")}


async def test_entries_that_arrive_during_a_publication_are_in_the_next(tmp_path: Path) -> None:
    """``publish`` covers what was committed before it was called, whatever else is under way."""
    async with open_log(tmp_path) as opened:

        async def busy() -> None:
            for _ in range(30):
                await opened.append(7)
                wanted = opened.log.size
                assert (await opened.log.publish()).size >= wanted

        await asyncio.gather(busy(), busy(), busy())
        assert opened.log.published.size == opened.log.size == 1 + 3 * 30 * 7
    assert checked(tmp_path / "log").verdicts == ["VERIFIED"]


async def test_a_log_can_be_checked_while_it_is_written(tmp_path: Path) -> None:
    """An office verifies its own log at any moment: what is under way is never taken for damage."""
    async with open_log(tmp_path) as opened:
        await opened.grow(2)
        sizes: list[int] = []

        async def write() -> None:
            while opened.log.size < 800:
                await opened.append(61)
                await opened.log.publish()

        writing = asyncio.ensure_future(write())
        while not writing.done():
            report = await asyncio.to_thread(checked, tmp_path / "log")
            assert report.verdicts == ["VERIFIED"], report.findings
            sizes.append(report.size)
        await writing
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 3


class SlowFiles(RealFiles):
    """A slow disk that notices two writers at once."""

    def __init__(self) -> None:
        super().__init__()
        self.writer = threading.Lock()
        self.overlaps = 0

    def write_atomic(self, path: AnyPath, data: bytes, mode: int = 0o600) -> None:
        if not self.writer.acquire(blocking=False):
            self.overlaps += 1
            return
        try:
            time.sleep(0.02)
            super().write_atomic(path, data, mode)
        finally:
            self.writer.release()


async def test_a_cancelled_caller_does_not_tear_a_publication(tmp_path: Path) -> None:
    """The publication goes on behind a caller that gives up, and the next one waits for it."""
    files = SlowFiles()
    async with open_log(tmp_path, replace(real_env(), files=files)) as opened:
        await opened.append(600)
        task = asyncio.ensure_future(opened.log.publish())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await opened.log.close()
        assert opened.log.published.size == 601
    assert files.overlaps == 0
    assert checked(tmp_path / "log").verdicts == ["VERIFIED"]


def test_the_background_publisher_waits_a_minute_or_a_tile(tmp_path: Path) -> None:
    """One entry is published after 60 s, 256 at once, a cosignature of another log by itself never."""
    seen: list[tuple[float, int]] = []

    async def daemon(env: Env) -> None:
        async with open_log(Path("/data"), env) as opened, env.task_group() as tasks:
            publisher = tasks.create_task(opened.log.run())
            begin = env.clock.monotonic_ms()

            def note() -> None:
                seen.append(((env.clock.monotonic_ms() - begin) / 1000, opened.log.published.size))

            await env.sleep(59)
            note()
            await env.sleep(2)
            note()
            await opened.append(300)
            await env.sleep(1)
            note()
            witnessed: dict[str, Json] = {"origin": "test/other/log1", "size": 4, "root": "ab" * 32}
            await opened.db.transact(lambda tx: opened.log.append(tx, "wit.cosigned", witnessed))
            await env.sleep(600)
            note()
            publisher.cancel()

    with World(seed=1, directory=tmp_path) as world:
        host = world.host("office")

        async def script() -> None:
            host.start(daemon)
            await asyncio.sleep(800)

        world.run(script())
    assert [size for _, size in seen] == [0, 1, 301, 301]


class CountingEnv(Env):
    """The real world, where nobody may set a timer more than 50 times."""

    def timeout(self, seconds: float | None) -> asyncio.Timeout:
        turns.append(seconds)
        assert len(turns) <= 50, "it turns without rest"
        return super().timeout(seconds)


turns: list[float | None] = []


async def test_the_publisher_rests_when_a_commit_was_published_as_it_was_noted(tmp_path: Path) -> None:
    """A commit that ends while a publication begins is covered by it; what it set off finds nothing to do."""
    turns.clear()
    real = real_env()
    env = CountingEnv(**{part.name: getattr(real, part.name) for part in fields(real) if part.init})
    async with open_log(tmp_path, env) as opened:
        await opened.append(1)
        await asyncio.gather(opened.append(300), opened.log.publish())
        assert opened.log.published.size == opened.log.size == 302
        publisher = asyncio.ensure_future(opened.log.run())
        await asyncio.sleep(0.05)
        assert not publisher.done(), publisher.exception()
        publisher.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publisher


# Rolled back


async def refused_as(home: Path, code: str, env: Env | None = None) -> None:
    """The log opens, says why, and neither records nor signs."""
    before = {path: path.read_bytes() for path in files_of(home) if "node.db" not in path.name}
    async with open_log(home, env) as opened:
        assert opened.log.refusal is not None
        assert opened.log.refusal.code == code
        with pytest.raises(PolicyRefused, match=code):
            await opened.append(1)
        with pytest.raises(PolicyRefused, match=code):
            await opened.log.publish()
        await opened.log.close()
    assert before == {path: path.read_bytes() for path in files_of(home) if "node.db" not in path.name}


async def grown(home: Path, *sizes: int) -> None:
    async with open_log(home) as opened:
        for size in sizes:
            await opened.grow(size)


@pytest.mark.parametrize("restored_with", ["database", "database and log"])
async def test_an_older_database_put_back_is_noticed(tmp_path: Path, restored_with: str) -> None:
    """The high-water file lies outside the backup: whatever comes back from one is behind it."""
    home = tmp_path / "office"
    await grown(home, 10)
    shutil.copytree(home, tmp_path / "backup")
    await grown(home, 20)
    (home / "node.db").unlink()
    shutil.copy(tmp_path / "backup/node.db", home / "node.db")
    if restored_with == "database and log":
        shutil.rmtree(home / "log")
        shutil.copytree(tmp_path / "backup/log", home / "log")
    await refused_as(home, "log_rolled_back")


async def test_a_rolled_back_database_that_grew_again_is_noticed(tmp_path: Path) -> None:
    """As many entries as before, but other ones: the root at the mark decides, not the count."""
    home = tmp_path / "office"
    await grown(home, 10)
    shutil.copytree(home, tmp_path / "other")
    await grown(home, 20)
    await grown(tmp_path / "other", 20, 30)
    shutil.copy(tmp_path / "other/node.db", home / "node.db")
    await refused_as(home, "log_rolled_back")


async def test_a_missing_high_water_file_is_a_restored_backup(tmp_path: Path) -> None:
    """A backup on a new machine has no such file; nothing is signed until a person has looked."""
    await grown(tmp_path, 10)
    (tmp_path / "high-water").unlink()
    await refused_as(tmp_path, "log_rolled_back")


async def test_a_lost_database_is_not_a_new_log(tmp_path: Path) -> None:
    """A fresh database under a name that was published would sign a second history."""
    await grown(tmp_path, 10)
    (tmp_path / "node.db").unlink()
    await refused_as(tmp_path, "log_rolled_back")
    (tmp_path / "high-water").unlink()
    await refused_as(tmp_path, "log_rolled_back")


async def test_a_published_checkpoint_ahead_of_the_database_is_noticed(tmp_path: Path) -> None:
    """High-water file and database from one backup, the directory from later."""
    home = tmp_path / "office"
    await grown(home, 10)
    shutil.copytree(home, tmp_path / "backup")
    await grown(home, 20)
    for name in ("node.db", "high-water"):
        shutil.copy(tmp_path / "backup" / name, home / name)
    await refused_as(home, "log_rolled_back")


@pytest.mark.parametrize("size", [0, 1])
async def test_a_high_water_file_of_another_log_counts_for_nothing(tmp_path: Path, size: int) -> None:
    """Not even one at zero, which every log of its own is ahead of."""
    async with open_log(tmp_path) as opened:
        await opened.log.publish()
        own = parse_checkpoint_text_untrusted((tmp_path / "high-water").read_bytes())
    other = replace(own, origin=f"{ORIGIN}0", size=size, root=own.root if size else EMPTY_ROOT)
    (tmp_path / "high-water").write_bytes(other.text.encode())
    async with open_log(tmp_path) as opened:
        assert opened.log.refusal is not None
        assert opened.log.refusal.code == "log_rolled_back"
        assert f"of another log, {ORIGIN}0" in opened.log.refusal.detail


async def test_a_damaged_high_water_file_is_said_so(tmp_path: Path) -> None:
    """It is not taken for a missing one, and the sentence names the file."""
    await grown(tmp_path, 3)
    (tmp_path / "high-water").write_bytes(b"nothing")
    with pytest.raises(PolicyRefused, match=r"log_high_water_damaged: .*high-water cannot be read"):
        async with open_log(tmp_path):
            pass


async def test_a_database_holds_one_log(tmp_path: Path) -> None:
    """Another key name is another log."""
    await grown(tmp_path, 3)
    with pytest.raises(PolicyRefused, match="log_other_origin"):
        async with open_log(tmp_path, signer=a_signer("test/other/log1")):
            pass


@pytest.mark.parametrize("damage", ["gone", "checkpoint gone", "checkpoint damaged", "of another key"])
async def test_a_lost_directory_is_published_again(tmp_path: Path, damage: str) -> None:
    """The directory can be made anew from the database, and leads to the same roots."""
    await grown(tmp_path, 300, 600)
    root, checkpoint = decoded_root(tmp_path / "log"), tmp_path / "log/checkpoint"
    match damage:
        case "gone":
            shutil.rmtree(tmp_path / "log")
        case "checkpoint gone":
            checkpoint.unlink()
        case "checkpoint damaged":
            checkpoint.write_bytes(b"nothing")
        case _:
            stranger = a_signer("test/stranger/log1", b"\x09")
            checkpoint.write_bytes(
                sign_checkpoint(Checkpoint(origin=stranger.name, size=600, root=root), stranger)
            )
    async with open_log(tmp_path) as opened:
        assert opened.log.refusal is None
        await opened.log.publish()
    assert (decoded_root(tmp_path / "log"), checked(tmp_path / "log").verdicts) == (root, ["VERIFIED"])


# Damage between writing and signing


class FaultyFiles(RealFiles):
    """A disk that alters or refuses what is written to files whose path holds ``part``."""

    def __init__(self, part: str, spoil: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self.part = part
        self.spoil = spoil

    def write_atomic(self, path: AnyPath, data: bytes, mode: int = 0o600) -> None:
        super().write_atomic(path, self.spoil(data) if self.part in str(path) else data, mode)


def flipped(data: bytes) -> bytes:
    return data[:5] + bytes([data[5] ^ 4]) + data[6:]


@pytest.mark.parametrize(
    "part", ["tile/0/000", "tile/entries/000", "tile/0/001.p", "tile/entries/001.p", "tile/1/000.p"]
)
async def test_a_bit_flipped_on_its_way_to_the_disk_is_never_signed(tmp_path: Path, part: str) -> None:
    """What is read back decides; the log freezes, and goes on after a start with a sound disk."""
    await grown(tmp_path, 2)
    signed = (tmp_path / "log/checkpoint").read_bytes()
    env = replace(real_env(), files=FaultyFiles(part, flipped))
    async with open_log(tmp_path, env) as opened:
        await opened.append(300)
        with pytest.raises(BrokenInvariant, match="log_edge_mismatch"):
            await opened.log.publish()
        assert opened.log.refusal is not None
        with pytest.raises(PolicyRefused, match="log_frozen"):
            await opened.append(1)
        with pytest.raises(PolicyRefused, match="log_frozen"):
            await opened.log.publish()
        await opened.log.close()
    assert (tmp_path / "log/checkpoint").read_bytes() == signed
    async with open_log(tmp_path) as opened:
        assert (await opened.log.publish()).size == 302
    assert checked(tmp_path / "log").verdicts == ["VERIFIED"]


async def test_a_bit_flipped_in_a_full_upper_tile_is_never_signed(tmp_path: Path) -> None:
    """A full tile of level 1 is in no edge any more, so it is compared when it is written."""
    env = replace(real_env(), files=FaultyFiles("tile/1/000", flipped))
    async with open_log(tmp_path, env) as opened:
        await opened.append(65_536 - 1)
        with pytest.raises(BrokenInvariant, match="log_edge_mismatch: tile tile/1/000 does not read back"):
            await opened.log.publish()
    assert not (tmp_path / "log/checkpoint").exists()


class FadingFiles(RealFiles):
    """A disk that gives back a level 0 tile as written once, and then with another bit."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def read(self, path: AnyPath, bytes_max: int = 2**26) -> bytes:
        data = super().read(path, bytes_max)
        self.reads += "tile/0/" in str(path)
        return flipped(data) if "tile/0/" in str(path) and self.reads > 1 else data


async def test_what_the_disk_says_last_is_compared_with_the_database(tmp_path: Path) -> None:
    """The root that would be signed comes from the disk, and must be the one that the rows lead to."""
    async with open_log(tmp_path, replace(real_env(), files=FadingFiles())) as opened:
        with pytest.raises(BrokenInvariant, match="disk and database give different roots at 1"):
            await opened.log.publish()
    assert not (tmp_path / "log/checkpoint").exists()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE leaf SET hash = zeroblob(32) WHERE idx = 299",
        "UPDATE leaf SET entry = CAST(replace(entry, 'ab', 'ac') AS BLOB) WHERE idx = 310",
        "DELETE FROM leaf WHERE idx = 299",
        "DELETE FROM leaf WHERE idx = 310",
        "UPDATE subtree SET hash = zeroblob(32)",
        "DELETE FROM subtree",
        "UPDATE cp SET root = zeroblob(32) WHERE size = 300",
    ],
)
async def test_a_database_changed_by_hand_is_never_signed(tmp_path: Path, sql: str) -> None:
    """Every stored field that leads to the next root is compared before it is signed."""
    async with open_log(tmp_path) as opened:
        await opened.grow(300)
        await opened.append(20)
        await opened.db.transact(lambda tx: tx.execute(sql))
        signed = (tmp_path / "log/checkpoint").read_bytes()
        with pytest.raises(BrokenInvariant, match="log_edge_mismatch"):
            await opened.log.publish()
    assert (tmp_path / "log/checkpoint").read_bytes() == signed


@pytest.mark.parametrize("column", ["hash", "entry"])
async def test_a_lost_directory_is_not_made_anew_from_a_changed_database(tmp_path: Path, column: str) -> None:
    """Entries far below the edge are hashed again when the directory has to be written again."""
    async with open_log(tmp_path) as opened:
        await opened.grow(600)
        await opened.db.transact(
            lambda tx: tx.execute(f"UPDATE leaf SET {column} = zeroblob(32) WHERE idx = 1")
        )
    shutil.rmtree(tmp_path / "log")
    async with open_log(tmp_path) as opened:
        with pytest.raises(BrokenInvariant, match="entry 1 in the database is missing or altered"):
            await opened.log.publish()
    assert not (tmp_path / "log/checkpoint").exists()


class FullDisk(RealFiles):
    """A disk that is full from the n-th write on."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.writes = writes

    def write_atomic(self, path: AnyPath, data: bytes, mode: int = 0o600) -> None:
        self.writes -= 1
        if self.writes < 0:
            raise DiskFailed("disk_full", "no space left")
        super().write_atomic(path, data, mode)


async def test_a_full_disk_at_any_write_loses_nothing(tmp_path: Path) -> None:
    """DiskFailed comes out at once; after a restart with space the log publishes everything and verifies."""
    for writes in range(20):
        home = tmp_path / str(writes)
        async with open_log(home) as opened:
            await opened.grow(250)
        env = replace(real_env(), files=FullDisk(writes))
        with contextlib.suppress(DiskFailed):
            async with open_log(home, env) as opened:
                await opened.append(10)
                await opened.log.publish()
            break
        assert checked(home / "log").verdicts == ["VERIFIED"]
        async with open_log(home) as opened:
            assert (opened.log.size, opened.log.refusal) == (260, None)
            await opened.log.publish()
        report = checked(home / "log")
        assert (report.verdicts, report.size) == (["VERIFIED"], 260)
    else:
        pytest.fail("the disk never had enough space")
    assert writes > 5
