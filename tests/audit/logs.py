"""Real logs for tests: the real store on a real database and disk, with fixed keys."""

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from audit.note import NoteSigner
from audit.policy import Policy, single_log_policy
from audit.store import AuditLog
from audit.tree import (
    ENTRIES,
    TILE_WIDTH,
    split_bundle_untrusted,
    tile_path,
    tiles_at_level,
)
from demo.liar import forge as forge
from demo.liar import put as put
from keys.primitives import Ed25519PrivateKey
from keys.secret import SecretBytes
from runtime.env import Env, real_env
from runtime.sqlite import Database, Transaction, load_migrations, open_database

ORIGIN = "test/5f0c2a9e/log1"


def a_signer(name: str = ORIGIN, seed: bytes = b"\x01") -> NoteSigner:
    """A log's or witness's key, the same in every run."""
    return NoteSigner(name=name, key=Ed25519PrivateKey.from_seed(SecretBytes(seed * 32)))


def a_policy() -> Policy:
    """Trusts the log of ``a_signer()`` alone."""
    return single_log_policy(a_signer().log_key)


@dataclass(slots=True)
class StepClock:
    """A clock that tests turn by hand."""

    us: int = 1_800_000_000_000_000
    mono_ms: int = 5_000

    def now_us(self) -> int:
        return self.us

    def now_ms(self) -> int:
        return self.us // 1000

    def monotonic_ms(self) -> int:
        return self.mono_ms

    def pass_ms(self, ms: int) -> None:
        """Time goes on, on both clocks."""
        self.us += ms * 1000
        self.mono_ms += ms


@dataclass(slots=True)
class OpenLog:
    """A log and what it stands on."""

    log: AuditLog
    db: Database
    env: Env
    directory: Path

    async def append(
        self, count: int, fill: Callable[[AuditLog, Transaction, int], object] | None = None
    ) -> None:
        """``count`` entries in one transaction: broker entries unless ``fill`` says otherwise."""

        def many(tx: Transaction) -> None:
            for number in range(count):
                if fill is None:
                    self.log.append(tx, "bk.in", {"env": "ab" * 32, "box": "cd" * 16, "bucket": number})
                else:
                    fill(self.log, tx, number)

        await self.db.transact(many)

    async def grow(self, size: int) -> None:
        """Append until the log has ``size`` entries, then publish."""
        await self.append(size - self.log.size)
        await self.log.publish()


@asynccontextmanager
async def open_log(
    home: Path, env: Env | None = None, signer: NoteSigner | None = None
) -> AsyncIterator[OpenLog]:
    """The log of the data directory ``home``: node.db, high-water, log/."""
    env = env or real_env()
    env.files.mkdir(home)
    db = await open_database(env, home / "node.db", SecretBytes(b"k" * 32), load_migrations("audit"))
    try:
        log = await AuditLog.open(
            env=env,
            db=db,
            directory=home / "log",
            high_water=home / "high-water",
            signer=signer or a_signer(),
        )
        yield OpenLog(log, db, env, home / "log")
    finally:
        await db.close()


def clocked_env(clock: StepClock, boot_id: str = "00112233445566ff") -> Env:
    """The real world, but for the clock."""
    return replace(real_env(), clock=clock, boot_id=boot_id)


def publish_at(home: Path, sizes: Iterable[int], copies: Path | None = None) -> Path:
    """A log that was published at each of ``sizes``; with ``copies``, its directory as it was at each."""

    async def build() -> None:
        async with open_log(home) as opened:
            for size in sizes:
                await opened.grow(size)
                if copies is not None:
                    shutil.copytree(opened.directory, copies / str(size))

    asyncio.run(build())
    return home / "log"


def files_of(directory: Path) -> Iterator[Path]:
    """Every file of a published log, in one order."""
    yield from sorted(path for path in directory.rglob("*") if path.is_file())


def is_needed(directory: Path, path: Path, size: int) -> bool:
    """Whether the log of ``size`` entries cannot be verified without this file."""
    name = path.relative_to(directory).as_posix()
    needed = {"checkpoint"}
    for level in range(8):
        full, width = tiles_at_level(size, level)
        for n in range(full + bool(width)):
            wide = TILE_WIDTH if n < full else width
            needed |= {tile_path(level, n, wide)} | ({tile_path(ENTRIES, n, wide)} if level == 0 else set())
    return name in needed


def read_entries(directory: Path, size: int) -> list[bytes]:
    """All entries of a small published log."""
    entries: list[bytes] = []
    for n in range(-(-size // TILE_WIDTH)):
        width = min(TILE_WIDTH, size - n * TILE_WIDTH)
        entries += split_bundle_untrusted((directory / tile_path(ENTRIES, n, width)).read_bytes())
    return entries


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def decoded_root(directory: Path) -> bytes:
    """The root that the directory's checkpoint claims."""
    return base64.b64decode((directory / "checkpoint").read_bytes().split(b"\n")[2])
