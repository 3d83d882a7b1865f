"""Backups: one encrypted file, written while the node runs, read back before it is called a backup.

Spec: docs/spec/keys.md#backup. In it: the database, the secrets a restored office needs, its settings, the
newest checkpoint. Never in it: receive keys, log and witness keys, the high-water file; the operational key
only when asked for. One rule: a file under its final name was opened, decrypted and checked against its own
log.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from audit.store import AuditLog, check_rows
from keys.backupfile import (
    HEADER_BYTES,
    PART_BYTES_MAX,
    PART_HEAD_BYTES,
    begin_backup,
    damaged,
    open_header_untrusted,
    read_part_head_untrusted,
)
from keys.errors import MalformedInput, PolicyRefused, SalweenError, Unavailable
from keys.keystore import DEFAULT_KDF, KdfParameters
from keys.primitives import HASH_BYTES
from keys.secret import SecretBytes
from node.config import CONFIG_NAME
from node.identity import Identity
from node.layout import LOG_NAME, SecretName, open_node_database
from node.secrets import Secrets
from protocol import limits, wire
from protocol.wire import Fields
from runtime.env import AlreadyLocked, Env
from runtime.exits import DiskFailed
from runtime.sqlite import Database, Snapshot

# An allow-list: a new kind of secret stays out of backups until someone has thought about it.
KEPT: Final = ("kek/", "mailbox/", "officer/", "reset/")
KEPT_ONE: Final = (SecretName.DATABASE, SecretName.ORIGIN)
OPERATIONAL: Final = "operational/"
MANIFEST_BYTES_MAX: Final = 64 * 1024
SECRETS_BYTES_MAX: Final = 4 * 1024 * 1024
INTEGER_MAX: Final = 2**53 - 1
SIZES_MAX: Final = (SECRETS_BYTES_MAX, SECRETS_BYTES_MAX, SECRETS_BYTES_MAX, INTEGER_MAX)
COPY_NAME: Final = "backup-copy.db"
CHECK_NAME: Final = "backup-check.db"
_CHECK_FILES: Final = (CHECK_NAME, *(f"{CHECK_NAME}{end}" for end in (".keycheck", "-wal", "-journal")))
BUSY_NAME: Final = "backup.lock"  # locked while one of the two is in use


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup says of itself, and the sizes of what follows it."""

    office_id: bytes
    name: str
    country: str
    made_ms: int
    key_version: int
    origin: str
    size: int
    root: bytes
    with_operational: bool
    sizes: tuple[int, int, int, int]  # secrets, settings, checkpoint, database

    def encode(self) -> bytes:
        """Canonical msgpack."""
        return wire.encode(
            {
                "office": self.office_id,
                "name": self.name,
                "country": self.country,
                "made": self.made_ms,
                "version": self.key_version,
                "origin": self.origin,
                "size": self.size,
                "root": self.root,
                "operational": int(self.with_operational),
                "sizes": list(self.sizes),
            }
        )


def read_manifest_untrusted(data: bytes) -> Manifest:
    """The inverse of ``Manifest.encode``; MalformedInput ``backup_damaged``."""
    try:
        fields = Fields(wire.decode_untrusted(data, bytes_max=MANIFEST_BYTES_MAX), "backup manifest")
        sizes = fields.items("sizes", items_max=len(SIZES_MAX))
        found = Manifest(
            office_id=fields.raw("office", size=limits.OFFICE_ID_BYTES),
            name=fields.text("name", bytes_max=limits.NAME_BYTES_MAX),
            country=fields.text("country", bytes_max=2),
            made_ms=fields.integer("made", most=limits.TIME_MS_MAX),
            key_version=fields.integer("version", most=limits.U32_MAX),
            origin=fields.text("origin", bytes_max=120),
            size=fields.integer("size", most=INTEGER_MAX),
            root=fields.raw("root", size=HASH_BYTES),
            with_operational=bool(fields.integer("operational", most=1)),
            sizes=(_size(sizes, 0), _size(sizes, 1), _size(sizes, 2), _size(sizes, 3)),
        )
        fields.done()
    except MalformedInput as error:
        raise damaged(f"its list of contents cannot be read ({error.code})") from error
    return found


def _size(sizes: Sequence[wire.Value], at: int) -> int:
    size = sizes[at] if at < len(sizes) else None
    if type(size) is not int or not 0 <= size <= SIZES_MAX[at]:
        raise damaged("its list of contents makes no sense")
    return size


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A backup taken apart; the database went to a file."""

    manifest: Manifest
    secrets: Mapping[str, SecretBytes] = field(repr=False)
    settings: bytes
    checkpoint: bytes


async def make_backup(
    env: Env,
    db: Database,
    log: AuditLog,
    identity: Identity,
    secrets: Secrets,
    directory: Path,
    path: str,
    passphrase: SecretBytes,
    *,
    with_operational: bool = False,
    kdf: KdfParameters = DEFAULT_KDF,
) -> Manifest:
    """Write and verify one backup of a running node.

    PolicyRefused ``backup_exists`` (none is overwritten), ``backup_unwritable``; Unavailable
    ``backup_running``; DiskFailed when there is no room, and the node goes on.
    """
    with _alone(env, directory):
        return await _make(
            env, db, log, identity, secrets, directory, path, passphrase, with_operational, kdf
        )


async def _make(
    env: Env,
    db: Database,
    log: AuditLog,
    identity: Identity,
    secrets: Secrets,
    directory: Path,
    path: str,
    passphrase: SecretBytes,
    with_operational: bool,
    kdf: KdfParameters,
) -> Manifest:
    if env.files.exists(path):
        raise PolicyRefused(
            "backup_exists", f"{path} exists already; choose another name. Nothing was written."
        )
    building, copy = f"{path}.unfinished", str(directory / COPY_NAME)
    await _clear(env, building, copy)
    try:
        # Both ends of the copy: a key made or removed meanwhile is in one of them.
        before = _kept(secrets, with_operational=with_operational)
        published = await log.publish()
        await db.transact(
            lambda tx: log.append(tx, "backup.made", {"size": published.size, "root": published.root.hex()})
        )
        head = await log.publish()
        checkpoint = await env.run_blocking(env.files.read, str(directory / LOG_NAME / "checkpoint"))
        with _written(copy):
            await db.copy_to(copy, secrets.get(SecretName.DATABASE))
        kept = wire.encode(
            {
                name: s.reveal()
                for name, s in {**before, **_kept(secrets, with_operational=with_operational)}.items()
            }
        )
        settings = await env.run_blocking(env.files.read, str(directory / CONFIG_NAME))
        manifest = Manifest(
            office_id=identity.office_id,
            name=identity.name,
            country=identity.country,
            made_ms=env.clock.now_ms(),
            key_version=identity.key_version,
            origin=head.origin,
            size=head.size,
            root=head.root,
            with_operational=with_operational,
            sizes=(len(kept), len(settings), len(checkpoint), env.files.size(copy)),
        )
        front = manifest.encode()
        front = len(front).to_bytes(4, "big") + front + kept + settings + checkpoint
        with _written(path):
            await env.run_blocking(lambda: _write(env, building, copy, front, passphrase, kdf))
        await _clear(env, copy)
        await _verify(env, building, passphrase, directory)
        with _written(path):
            await env.run_blocking(env.files.rename, building, path)
    except BaseException:
        await _clear(env, building, copy)
        raise
    return manifest


async def verify_backup(env: Env, path: str, passphrase: SecretBytes, directory: Path) -> Manifest:
    """Read a backup to its end: every part opens, the database is whole, its log leads to the root it names.

    ``directory`` takes the database while it is looked at; it is encrypted there too. Errors of ``extract``
    and ``check_contents``; PolicyRefused ``directory_missing``; Unavailable ``backup_running``.
    """
    with _alone(env, directory):
        return await _verify(env, path, passphrase, directory)


async def clear_leftovers(env: Env, directory: Path) -> None:
    """Remove what a killed backup or check left: a whole database, with what is erased since.

    At a start, and by the next backup: in between it would stand in the way of one that is asked for.
    """
    left = [str(directory / name) for name in (COPY_NAME, *_CHECK_FILES)]
    if not await env.run_blocking(lambda: any(env.files.exists(path) for path in left)):
        return
    with suppress(Unavailable), _alone(env, directory):  # one that runs clears up after itself
        await _clear(env, *left)


async def _verify(env: Env, path: str, passphrase: SecretBytes, directory: Path) -> Manifest:
    target = str(directory / CHECK_NAME)
    leftovers = [str(directory / name) for name in _CHECK_FILES]
    await _clear(env, *leftovers)
    try:
        with _written(target):
            contents = await env.run_blocking(lambda: extract(env, path, passphrase, target))
        await check_contents(env, contents, target)
    finally:
        await _clear(env, *leftovers)
    return contents.manifest


async def check_contents(env: Env, contents: Contents, database: str) -> None:
    """Open the database of a backup and hold it against the manifest.

    MalformedInput ``backup_damaged``; PolicyRefused ``backup_newer_version``.
    """
    try:
        db = await open_node_database(env, database, contents.secrets[SecretName.DATABASE])
        try:
            await db.read(lambda tx: _check(tx, contents.manifest))
        finally:
            await db.close()
    except KeyError as error:
        raise damaged("it holds no database key") from error
    except SalweenError as error:
        if error.code == "backup_damaged":
            raise
        if error.code == "database_newer":
            raise PolicyRefused(
                "backup_newer_version",
                "this backup was made by a newer version of this program, and its database cannot be read by"
                " this one; nothing was changed. Install that version, then restore",
            ) from error
        raise damaged(f"its database does not hold ({error.code})") from error


def extract(env: Env, path: str, passphrase: SecretBytes, database: str) -> Contents:
    """Take a backup apart; its database is written to a new file, durable on return. Blocks.

    PolicyRefused ``backup_missing``, ``backup_wrong_passphrase``, ``backup_newer_version``; MalformedInput
    ``backup_damaged``.
    """
    stream = _Stream(_parts(env, path, passphrase))
    try:
        front = int.from_bytes(stream.take(4), "big")
        if front > MANIFEST_BYTES_MAX:
            raise damaged("its list of contents is too long")
        manifest = read_manifest_untrusted(stream.take(front))
        kept, settings, checkpoint = (stream.take(size) for size in manifest.sizes[:3])
        secrets = wire.decode_untrusted(kept, bytes_max=SECRETS_BYTES_MAX)
    except MalformedInput as error:
        raise error if error.code == "backup_damaged" else damaged("its contents cannot be read") from error
    if not isinstance(secrets, dict) or not all(isinstance(value, bytes) for value in secrets.values()):
        raise damaged("its secrets cannot be read")
    env.files.write_atomic(database, b"")
    written = 0
    for piece in stream.rest():
        written += len(piece)
        env.files.append_fsync(database, piece)
    if written != manifest.sizes[3]:
        raise damaged("its database is cut off")
    return Contents(
        manifest=manifest,
        secrets={
            str(name): SecretBytes(value) for name, value in secrets.items() if isinstance(value, bytes)
        },
        settings=settings,
        checkpoint=checkpoint,
    )


@contextmanager
def _alone(env: Env, directory: Path) -> Iterator[None]:
    """Copy and check have one place each in a directory: one backup at a time is made or checked there."""
    if not env.files.is_dir(directory):
        raise PolicyRefused(
            "directory_missing", f"{directory} does not exist; give the directory of the node"
        )
    try:
        lock = env.files.lock_exclusive(directory / BUSY_NAME)
    except AlreadyLocked:
        raise Unavailable(
            "backup_running", "A backup is being made or checked here already. Try again when it is done."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _written(path: str) -> Iterator[None]:
    """What keeps a backup from being written, in words: it is this file's trouble, and the node goes on."""
    try:
        yield
    except DiskFailed as error:
        why = "there is no room for it" if error.code == "disk_full" else "the disk refuses it"
        raise DiskFailed(
            error.code,
            f"no backup was made: {path} cannot be written, {why}. Nothing of it was kept and the node goes"
            " on. Make room there or choose another place, then try again",
        ) from error
    except OSError as error:
        raise PolicyRefused(
            "backup_unwritable",
            f"no backup was made: {path} cannot be written ({error.strerror}). Give a file in a folder that"
            " exists and that the user of the node may write to",
        ) from error


def _kept(secrets: Secrets, *, with_operational: bool) -> dict[str, SecretBytes]:
    prefixes = (*KEPT, OPERATIONAL) if with_operational else KEPT
    names = [name for name in secrets.names() if name.startswith(prefixes) or name in KEPT_ONE]
    return {name: secrets.get(name) for name in names}


def _write(
    env: Env, path: str, database: str, front: bytes, passphrase: SecretBytes, kdf: KdfParameters
) -> None:
    key = begin_backup(passphrase, random=env.random, kdf=kdf)
    env.files.write_atomic(path, key.header)

    def pieces() -> Iterator[bytes]:
        yield from (front[i : i + PART_BYTES_MAX] for i in range(0, len(front), PART_BYTES_MAX))
        for at in range(0, env.files.size(database), PART_BYTES_MAX):
            yield env.files.read_range(database, at, PART_BYTES_MAX)

    number, waiting = 0, b""
    for piece in pieces():
        if waiting:
            env.files.append_fsync(path, key.seal_part(number, waiting, is_last=False, random=env.random))
            number += 1
        waiting = piece
    env.files.append_fsync(path, key.seal_part(number, waiting, is_last=True, random=env.random))


def _parts(env: Env, path: str, passphrase: SecretBytes) -> Iterator[bytes]:
    files = env.files
    if not files.exists(path) or not files.is_regular(path):
        raise PolicyRefused("backup_missing", f"There is no backup at {path}. Give the path of the file.")
    key = open_header_untrusted(files.read_range(path, 0, HEADER_BYTES), passphrase)
    at, number, is_last = HEADER_BYTES, 0, False
    while not is_last:
        size, is_last = read_part_head_untrusted(files.read_range(path, at, PART_HEAD_BYTES))
        sealed = files.read_range(path, at + PART_HEAD_BYTES, size)
        if len(sealed) != size:
            raise damaged("it is cut off")
        yield key.open_part(number, sealed, is_last=is_last)
        at, number = at + PART_HEAD_BYTES + size, number + 1
    if files.size(path) != at:
        raise damaged("something follows its end")


class _Stream:
    """Parts as one run of bytes."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._held = b""

    def take(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        while len(self._held) < size:
            part = next(self._parts, None)
            if part is None:
                raise damaged("it ends too early")
            self._held += part
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    def rest(self) -> Iterator[bytes]:
        """Everything that follows."""
        if self._held:
            yield self._held
        yield from self._parts


def _check(tx: Snapshot, manifest: Manifest) -> None:
    if tx.execute("PRAGMA integrity_check") != [("ok",)]:
        raise damaged("the pages of its database do not fit together")
    if tx.value("SELECT office_id FROM office") != manifest.office_id:
        raise damaged("its database is of another office")
    check_rows(tx, origin=manifest.origin, size=manifest.size, root=manifest.root)


async def _clear(env: Env, *paths: str) -> None:
    def remove() -> None:
        for path in paths:
            if env.files.exists(path):
                env.files.remove(path)

    await env.run_blocking(remove)
