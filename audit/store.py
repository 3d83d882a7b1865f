"""The writer of a log: appends inside the caller's transaction, publishes tiles and signed checkpoints.

Spec: docs/spec/log.md#writing. The order, which every crash and every power cut must leave intact:

1. One transaction holds the business rows and the ``leaf`` rows (the caller's; ``append``).
2. Full tiles, entry bundles and the partial edge are written, each file durable before the next.
3. They are read back from disk, and the root is computed from what the disk holds; it must equal the root
   computed from the database, and the database's root at the last checkpoint must equal that checkpoint's.
   (One flipped bit, signed, killed a public log of 65 million entries.)
4. ``cp(size, root)`` is committed, with one root per size for ever; the high-water file follows; only then is
   the checkpoint signed, archived as ``archive/<size>``, and last of all ``checkpoint`` replaced.
5. At open, anything behind the high-water file or the published checkpoint is ROLLED-BACK: nothing is
   appended
   or signed until an operator has dealt with it.

One rule: nothing is signed that was not first committed and then read back from the disk it will be served
from. Does not: verify what others published (fsck) or give entries a meaning (replay).
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

from audit.checkpoint import (
    Checkpoint,
    parse_checkpoint_text_untrusted,
    parse_checkpoint_untrusted,
    sign_checkpoint,
)
from audit.entry import Json, decode_entry_untrusted, encode_entry
from audit.note import NoteSigner, Signature, VerifierKey, parse_note_untrusted, verify_note
from audit.tree import (
    EMPTY_ROOT,
    ENTRIES,
    HASH_BYTES,
    LEVEL_MAX,
    TILE_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    ReadTile,
    consistency_path,
    encode_bundle,
    leaf_hash,
    parse_tile_path_untrusted,
    perfect_from_tiles,
    root_from_edge,
    split_bundle_untrusted,
    subtree_root,
    tile_path,
    tiles_at_level,
)
from audit.witness import Request, with_cosignatures
from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused, VerificationFailed
from runtime.env import Env
from runtime.sqlite import Database, Snapshot, Transaction

PUBLISH_ENTRIES: Final = TILE_WIDTH
"""A full tile is worth publishing at once."""
PUBLISH_INTERVAL_S: Final = 60.0
"""An entry waits no longer than this for a signed checkpoint."""
CLOCK_STEP_US: Final = 2_000_000
"""The wall clock left the monotonic one by more than this within one boot: worth a clk.step entry. Half a
coordinated slew (500 ppm) over an hour stays below."""
TILES_PER_READ: Final = 16
FILE_MODE: Final = 0o644
FILE_MODE_PRIVATE: Final = 0o600
DIRECTORY_MODE: Final = 0o755


class AuditLog:
    """One log: a database to append to, a directory to publish into, a key to sign with.

    ``db`` was opened with ``load_migrations("audit")`` among its migrations.
    ``append`` is called inside transactions of ``db``; ``run`` publishes in the background until cancelled;
    ``close`` publishes what is left.
    """

    def __init__(
        self, *, env: Env, db: Database, directory: Path, high_water: Path, signer: NoteSigner
    ) -> None:
        """Use ``open``."""
        self._env = env
        self._db = db
        self._directory = directory
        self._high_water = high_water
        self._signer = signer
        self._refusal: PolicyRefused | None = None
        self._committed = 0  # written only by _note_commit, after the commit
        self._published = Checkpoint(origin=signer.name, size=0, root=EMPTY_ROOT)
        self._due = asyncio.Event()  # something waits to be published
        self._full = asyncio.Event()  # so much waits that it is published now
        self._publication: asyncio.Task[Checkpoint] | None = None
        self._one_writer = asyncio.Lock()  # of signed checkpoints

    @classmethod
    async def open(
        cls, *, env: Env, db: Database, directory: Path, high_water: Path, signer: NoteSigner
    ) -> "AuditLog":
        """Open the log of ``db``, starting it with ``log.start`` when it is new.

        ``directory`` is what auditors get; ``high_water`` is a file that no backup may contain. The origin
        is the signer's name. A log that went back in time opens read-only: see ``refusal``. PolicyRefused
        ``log_other_origin`` when the database holds another log.
        """
        log = cls(env=env, db=db, directory=directory, high_water=high_water, signer=signer)
        await log._load()
        return log

    @property
    def origin(self) -> str:
        """The log's name in checkpoints."""
        return self._signer.name

    @property
    def size(self) -> int:
        """Committed entries."""
        return self._committed

    @property
    def published(self) -> Checkpoint:
        """The last checkpoint signed and published; size 0 before the first."""
        return self._published

    @property
    def refusal(self) -> PolicyRefused | None:
        """Why nothing may be appended or signed (rolled back, or failed its own check), or None."""
        return self._refusal

    def append(self, tx: Transaction, name: str, fields: Mapping[str, Json]) -> int:
        """Add one entry to the caller's transaction; the leaf index it gets if that commits.

        Adds v, t, seq, ts, bt, mo and z. When the clock stepped since the last entry, ``clk.step`` goes
        first. PolicyRefused ``log_rolled_back`` or ``log_frozen``; BrokenInvariant ``bad_entry`` for fields
        that the table of types does not allow.
        """
        if self._refusal is not None:
            raise self._refusal
        now_us, now_mo = self._env.clock.now_us(), self._env.clock.monotonic_ms()
        last = tx.one("SELECT idx, ts_us, mo_ms, bt FROM leaf ORDER BY idx DESC LIMIT 1")
        index = 0
        if last is not None:
            index = last[0] + 1
            elapsed_us = (now_mo - last[2]) * 1000 if last[3] == self._env.boot_id else 0
            expected_us = last[1] + max(0, elapsed_us)
            drift_us = abs(now_us - expected_us) if last[3] == self._env.boot_id else 0
            if now_us < last[1] or drift_us > CLOCK_STEP_US:
                step: dict[str, Json] = {"from": expected_us, "to": now_us}
                self._insert(tx, index, "clk.step", step, expected_us, now_mo)
                index += 1
        self._insert(tx, index, name, fields, now_us, now_mo)
        # A cosignature of another log must not cause a publication, or two witnesses would wake each other
        # for ever.
        wakes = not name.startswith("wit.")
        tx.on_commit(lambda: self._note_commit(index + 1, wakes))
        return index

    def _insert(
        self, tx: Transaction, index: int, name: str, fields: Mapping[str, Json], ts_us: int, mo_ms: int
    ) -> None:
        boot = self._env.boot_id
        entry = encode_entry(
            {
                **fields,
                "v": 1,
                "t": name,
                "seq": index,
                "ts": ts_us,
                "bt": boot,
                "mo": mo_ms,
                "z": self._env.random(16).hex(),
            }
        )
        tx.execute(
            "INSERT INTO leaf (idx, hash, entry, ts_us, mo_ms, bt) VALUES (?, ?, ?, ?, ?, ?)",
            (index, leaf_hash(entry), entry, ts_us, mo_ms, boot),
        )

    def _note_commit(self, size: int, wakes: bool) -> None:
        self._committed = max(self._committed, size)
        if wakes:
            self._due.set()
        if self._committed - self._published.size >= PUBLISH_ENTRIES:
            self._full.set()

    async def run(self) -> None:
        """Publish every 256 entries or 60 s, until cancelled.

        A failure to publish ends it with that error.
        """
        while True:
            await self._due.wait()
            with contextlib.suppress(TimeoutError):
                async with self._env.timeout(PUBLISH_INTERVAL_S):
                    await self._full.wait()
            await self.publish()

    async def close(self) -> None:
        """Publish what is committed, unless the log is read-only.

        The database stays open: it is the caller's.
        """
        if self._refusal is None:
            await self.publish()

    async def publish(self) -> Checkpoint:
        """Publish every entry committed before this call; the checkpoint that covers them.

        Cancelling the caller does not cancel a publication under way. PolicyRefused as append;
        BrokenInvariant ``log_edge_mismatch`` when the disk or the database does not hold what was written:
        the log then freezes.
        """
        if self._refusal is not None:
            raise self._refusal
        wanted = self._committed
        while self._publication is not None or self._published.size < wanted:
            if self._publication is None:
                self._publication = self._env.spawn(self._publish(), name="log-publication")
                self._publication.add_done_callback(self._publication_ended)
            await asyncio.shield(self._publication)
        if self._committed <= self._published.size:
            # Noted while the publication that covers it began: nothing is left of what it asked for.
            self._due.clear()
            self._full.clear()
        return self._published

    # For witnesses

    def request(self, tx: Snapshot, old_size: int, head: Checkpoint | None = None) -> Request:
        """What to ask a witness that holds our head of ``old_size``: to cosign ``head``, or the published."""
        head = head or self._published
        size = min(old_size, head.size)

        perfect = perfect_from_tiles(head.size, self.read_tile(tx))
        path = consistency_path(size, head.size, perfect) if size else []
        return Request(old_size=size, proof=tuple(path), note=self.signed(head))

    def signed(self, head: Checkpoint) -> bytes:
        """The signed note of a head that was committed: the same bytes every time."""
        return sign_checkpoint(head, self._signer)

    def head_at(self, tx: Snapshot, size: int) -> Checkpoint | None:
        """The head this log committed, and may have signed, at exactly this size."""
        row = tx.one("SELECT root FROM cp WHERE size = ?", (size,))
        return None if row is None else Checkpoint(origin=self.origin, size=size, root=row[0])

    def has_own_entry(self, tx: Snapshot, begin: int, end: int) -> bool:
        """Whether one of the entries [begin, end) is not about another log's head.

        Those ask for no witness: two logs would have each other cosigned for ever.
        """
        return self.own_entry_since_us(tx, begin, end) is not None

    def own_entry_since_us(self, tx: Snapshot, begin: int, end: int) -> int | None:
        """When the first such entry was written."""
        row = tx.one(
            "SELECT ts_us FROM leaf WHERE idx >= ? AND idx < ?"
            ' AND instr(entry, CAST(\'"t":"wit.\' AS BLOB)) = 0 ORDER BY idx LIMIT 1',
            (begin, end),
        )
        return None if row is None else row[0]

    # For what is handed over

    def find(self, tx: Snapshot, marks: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """Index and bytes of every entry that holds one of ``marks``, in order. Reads the whole log."""
        wanted = " OR ".join("instr(entry, ?)" for _ in marks)
        rows = tx.execute(f"SELECT idx, entry FROM leaf WHERE {wanted} ORDER BY idx", tuple(marks))  # noqa: S608
        return [(index, entry) for index, entry in rows]

    def heads_over(self, tx: Snapshot, index: int, count: int) -> list[int]:
        """Sizes of the first ``count`` heads that were committed with leaf ``index`` under them."""
        rows = tx.execute("SELECT size FROM cp WHERE size > ? ORDER BY size LIMIT ?", (index, count))
        return [size for (size,) in rows]

    def read_archived(self, size: int) -> bytes | None:
        """The published checkpoint of this size with what witnesses put under it; None where it is gone."""
        try:
            return self._env.files.read(self._directory / f"archive/{size}")
        except FileNotFoundError:
            return None

    async def copy_published(self, head: Checkpoint, take: Callable[[str, bytes], None]) -> None:
        """Give ``take``, which may block, the published files as they were at ``head``, an archived one.

        Nothing is published meanwhile. What an interrupted write left behind is not given.
        """
        async with self._one_writer:
            await self._env.run_blocking(self._copy, "", head.size, take)

    def _copy(self, below: str, size: int, take: Callable[[str, bytes], None]) -> None:
        for name in self._env.files.listdir(self._directory / below):
            path = f"{below}/{name}" if below else name
            if self._env.files.is_dir(self._directory / path):
                self._copy(path, size, take)
            elif path == "checkpoint":
                take(path, self._env.files.read(self._directory / f"archive/{size}"))
            elif below == "archive" and name.isdecimal():
                if int(name) <= size:
                    take(path, self._env.files.read(self._directory / path))
            elif not name.startswith("."):
                self._copy_tile(path, size, take)

    def _copy_tile(self, path: str, size: int, take: Callable[[str, bytes], None]) -> None:
        """Whole, or as far as a tree of ``size`` fills it."""
        data, tile = self._env.files.read(self._directory / path), parse_tile_path_untrusted(path)
        filled = (size >> TILE_HEIGHT * max(tile.level, 0)) - TILE_WIDTH * tile.n
        if filled >= tile.width:
            take(path, data)
        elif filled > 0:
            if tile.level == ENTRIES:
                data = encode_bundle(split_bundle_untrusted(data)[:filled])
            else:
                data = data[: HASH_BYTES * filled]
            take(tile_path(tile.level, tile.n, filled), data)

    def read_tile(self, tx: Snapshot) -> ReadTile:
        """The tree as the database holds it, for proofs under any committed head."""
        return partial(_read_hashes, tx)

    @property
    def key(self) -> VerifierKey:
        """What this log's checkpoints are verified with."""
        return self._signer.log_key

    async def add_cosignatures(self, size: int, cosignatures: Sequence[Signature]) -> None:
        """Put these lines under the archived checkpoint of ``size``, and the published one if it is that.

        May be repeated. The checkpoint must have been signed before.
        """
        async with self._one_writer:
            await self._env.run_blocking(self._write_cosigned, size, cosignatures)

    def _write_cosigned(self, size: int, cosignatures: Sequence[Signature]) -> None:
        archived = f"archive/{size}"
        try:
            note = with_cosignatures(self._env.files.read(self._directory / archived), cosignatures)
        except (FileNotFoundError, MalformedInput):
            return  # removed or damaged behind our back: an auditor's matter, and no reason to stop
        self._write(archived, note)
        if size == self._published.size:
            self._write("checkpoint", note)

    async def give_up(self, head: Checkpoint, why: str) -> None:
        """A head that we signed and the database does not hold is somewhere else: it went back, or there are
        two of us. Nothing is recorded or signed from here on, nor after the next start."""
        async with self._one_writer:
            await self._env.run_blocking(self._write_high_water, head)
            self._refuse_rolled_back(why)

    def _publication_ended(self, publication: "asyncio.Task[Checkpoint]") -> None:
        self._publication = None
        # A waiter that was cancelled leaves the outcome to nobody; the next publication meets the same fault.
        if not publication.cancelled():
            publication.exception()

    # Opening

    async def _load(self) -> None:
        state = await self._db.read(_read_state)
        mark = await self._env.run_blocking(self._read_high_water)
        shown = await self._env.run_blocking(self._read_published)
        if state.origin is None:
            if (mark is not None and mark.size) or shown is not None:
                self._refuse_rolled_back("the database holds no log, but one was published under this name")
                return
            await self._start()
            return
        if state.origin != self.origin:
            raise PolicyRefused(
                "log_other_origin", f"this database holds the log {state.origin}, not {self.origin}"
            )
        self._committed = state.size
        if mark is None:
            self._refuse_rolled_back("the high-water file is missing, as after a restored backup")
            return
        if mark.origin != self.origin:
            # Only of the epoch this one ended: it was begun, and nothing of it was published yet.
            if mark.origin != await self._db.read(_prior_origin):
                self._refuse_rolled_back(f"the high-water file is of another log, {mark.origin}")
                return
            mark = None
        for head, where in ((mark, "the high-water file"), (shown, "the published checkpoint")):
            if head is not None and head.size and not await self._holds(head):
                self._refuse_rolled_back(f"{where} is at entry {head.size}, which the database does not hold")
                return
        if shown is not None:
            self._published = shown
        if self._committed > self._published.size:
            self._due.set()

    def _refuse_rolled_back(self, why: str) -> None:
        self._refusal = PolicyRefused(
            "log_rolled_back",
            f"{self.origin} went back in time: {why}. Nothing is recorded or signed. Keep a copy of the data"
            " directory, put the newest database and high-water file back, or begin again with what is here:"
            " salween-node restore --in-place --recovery-sheet SHEET. Your peers then send again what is"
            " missing",
        )

    async def _start(self) -> None:
        """Begin the log. The high-water file comes first: with rows and no file, the file was lost."""
        mark = Checkpoint(origin=self.origin, size=0, root=EMPTY_ROOT)
        await self._env.run_blocking(self._env.files.mkdir, self._directory, DIRECTORY_MODE)
        await self._env.run_blocking(self._write_high_water, mark)

        def begin(tx: Transaction) -> None:
            tx.execute("INSERT INTO log_state (one, origin) VALUES (1, ?)", (self.origin,))
            key = sha256(self._signer.log_key.encode().encode()).digest()
            self.append(tx, "log.start", {"origin": self.origin, "key": key.hex()})

        await self._db.transact(begin)

    async def _holds(self, head: Checkpoint) -> bool:
        """Whether the database committed exactly this head, and still has its entries."""
        row = await self._db.read(lambda tx: tx.one("SELECT root FROM cp WHERE size = ?", (head.size,)))
        return row is not None and row[0] == head.root and self._committed >= head.size

    def _read_high_water(self) -> Checkpoint | None:
        if not self._env.files.exists(self._high_water):
            return None
        try:
            return parse_checkpoint_text_untrusted(self._env.files.read(self._high_water))
        except MalformedInput as error:
            raise PolicyRefused(
                "log_high_water_damaged",
                f"{self._high_water} cannot be read ({error.detail}); put its last good copy back",
            ) from error

    def _write_high_water(self, head: Checkpoint) -> None:
        self._env.files.write_atomic(self._high_water, head.text.encode(), FILE_MODE_PRIVATE)

    def _read_published(self) -> Checkpoint | None:
        """The checkpoint in the directory, if it is ours. A missing or damaged one is published again."""
        try:
            checkpoint, note = parse_checkpoint_untrusted(
                self._env.files.read(self._directory / "checkpoint")
            )
            signed = verify_note(note, [self._signer.log_key])
        except (FileNotFoundError, MalformedInput, VerificationFailed):
            return None
        return checkpoint if signed and checkpoint.origin == self.origin else None

    # Publishing

    async def _publish(self) -> Checkpoint:
        try:
            async with self._one_writer:
                if self._refusal is not None:
                    raise self._refusal
                return await self._publish_steps()
        except BrokenInvariant as error:
            self._refusal = PolicyRefused(
                "log_frozen",
                f"{self.origin} failed its own check before signing ({error.detail}); nothing more is"
                " recorded or signed. Keep a copy of the data directory and run salween-audit verify",
            )
            raise

    async def _publish_steps(self) -> Checkpoint:
        self._due.clear()
        self._full.clear()
        before = self._published.size
        size, levels = await self._db.read(lambda tx: _read_plan(tx, before))
        # Step 2: level 0 and the bundles first, in pieces, then the levels above.
        for begin in range(before - before % TILE_WIDTH, size, TILE_WIDTH * TILES_PER_READ):
            leaves = await self._db.read(
                partial(_read_leaves, begin=begin, count=TILE_WIDTH * TILES_PER_READ)
            )
            roots = await self._env.run_blocking(self._write_bundles, begin, leaves[: size - begin])
            if roots:
                levels[0].hashes += b"".join(roots)
        await self._env.run_blocking(self._write_upper_tiles, size, levels)
        # Step 3: what will be signed is what the disk holds; committing it compares it with the database.
        root = await self._env.run_blocking(root_from_edge, size, self._read_tile)
        head = Checkpoint(origin=self.origin, size=size, root=root)
        # Step 4: promise, remember the promise, sign it, show it.
        await self._db.transact(lambda tx: _commit_head(tx, head, levels))
        await self._env.run_blocking(self._sign_and_show, head)
        await self._env.run_blocking(self._remove_partials, before, size)
        self._published = head
        return head

    def _write_bundles(self, begin: int, leaves: "list[_Leaf]") -> list[bytes]:
        """Write and read back the bundles and level 0 tiles from leaf ``begin`` on;

        The roots of the full ones.
        """
        roots = []
        for at in range(0, len(leaves), TILE_WIDTH):
            part = leaves[at : at + TILE_WIDTH]
            n, hashes = (begin + at) // TILE_WIDTH, b"".join(leaf.digest for leaf in part)
            self._write(tile_path(ENTRIES, n, len(part)), encode_bundle(leaf.entry for leaf in part))
            self._write(tile_path(0, n, len(part)), hashes)
            if b"".join(map(leaf_hash, self._read_bundle(n, len(part)))) != self._read_tile(0, n, len(part)):
                raise _mismatch(f"entry bundle {n} does not read back as written")
            if len(part) == TILE_WIDTH:
                roots.append(subtree_root(hashes))
        return roots

    def _write_upper_tiles(self, size: int, levels: "list[_Level]") -> None:
        """Write and read back the tiles of level 1 and up; fills ``levels`` upwards."""
        for level, run in enumerate(levels, start=1):
            for at in range(0, len(run.hashes), TILE_BYTES):
                hashes = bytes(run.hashes[at : at + TILE_BYTES])
                n, width = (run.first + at // HASH_BYTES) // TILE_WIDTH, len(hashes) // HASH_BYTES
                self._write(tile_path(level, n, width), hashes)
                if self._read_tile(level, n, width) != hashes:
                    raise _mismatch(f"tile {tile_path(level, n, width)} does not read back as written")
                if width == TILE_WIDTH and level < len(levels):
                    levels[level].hashes += subtree_root(hashes)

    def _write(self, path: str, data: bytes) -> None:
        target = self._directory / path
        self._env.files.mkdir(target.parent, DIRECTORY_MODE)
        self._env.files.write_atomic(target, data, FILE_MODE)

    def _read_tile(self, level: int, n: int, width: int) -> bytes:
        return self._env.files.read(self._directory / tile_path(level, n, width))

    def _read_bundle(self, n: int, width: int) -> list[bytes]:
        try:
            return split_bundle_untrusted(self._read_tile(ENTRIES, n, width))
        except MalformedInput as error:
            raise _mismatch(f"entry bundle {n} does not read back as written") from error

    def _sign_and_show(self, head: Checkpoint) -> None:
        self._write_high_water(head)
        signed = self._with_earlier_lines(head, sign_checkpoint(head, self._signer))
        self._write(f"archive/{head.size}", signed)
        self._write("checkpoint", signed)

    def _with_earlier_lines(self, head: Checkpoint, signed: bytes) -> bytes:
        """A head that is shown again, after its file was lost, keeps what witnesses put under it."""
        try:
            archived = parse_note_untrusted(self._env.files.read(self._directory / f"archive/{head.size}"))
        except (FileNotFoundError, MalformedInput):
            return signed
        return with_cosignatures(signed, archived.signatures) if archived.text == head.text else signed

    def _remove_partials(self, before: int, size: int) -> None:
        """Remove the partial tiles that a full tile has replaced since ``before``."""
        files = self._env.files
        for level in range(LEVEL_MAX + 1):
            full_before, _ = tiles_at_level(before, level)
            full, _ = tiles_at_level(size, level)
            for n in range(full_before, full):
                for kind in (level,) if level else (level, ENTRIES):
                    stale = self._directory / f"{tile_path(kind, n)}.p"
                    for name in files.listdir(stale) if files.exists(stale) else ():
                        files.remove(stale / name)

    # A new epoch

    @classmethod
    def for_new_epoch(
        cls, *, env: Env, db: Database, directory: Path, high_water: Path, signer: NoteSigner
    ) -> "AuditLog":
        """A log whose first entry ``begin_epoch`` will write into a database that holds an ended epoch.

        The high-water file stays that of the ended epoch until the first publication: were it gone before
        the transaction, a crash between the two would let an epoch that went back in time run on.
        """
        return cls(env=env, db=db, directory=directory, high_water=high_water, signer=signer)

    def begin_epoch(self, tx: Transaction, how: str) -> Checkpoint:
        """End the epoch the database holds and begin this one: log.start, then backup.restore with its end.

        The ended rows must be kept elsewhere by the caller first (``ended_epoch``). Returns where it ended.
        """
        ended = ended_epoch(tx)
        for table in ("leaf", "subtree", "cp", "log_state"):
            tx.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
        tx.execute("INSERT INTO log_state (one, origin) VALUES (1, ?)", (self.origin,))
        key = sha256(self._signer.log_key.encode().encode()).digest()
        start: dict[str, Json] = {"origin": self.origin, "key": key.hex(), "prior": ended.origin}
        self.append(tx, "log.start", start)
        self.append(tx, "backup.restore", {"size": ended.size, "root": ended.root.hex(), "code": how})
        return ended


def _prior_origin(tx: Snapshot) -> Json | None:
    """Origin of the epoch that the one in the database ended; None of the first."""
    first = _read_leaves(tx, begin=0, count=1)
    return decode_entry_untrusted(first[0].entry).get("prior") if first else None


def ended_epoch(tx: Snapshot) -> Checkpoint:
    """Size and root of everything the database's epoch recorded, published or not."""
    state = _read_state(tx)
    if state.origin is None:
        raise BrokenInvariant("log_missing", "the database holds no log")
    leaves = _read_leaves(tx, begin=0, count=state.size)
    return Checkpoint(origin=state.origin, size=state.size, root=_root_of(leaves))


def check_rows(tx: Snapshot, *, origin: str, size: int, root: bytes) -> None:
    """Raise BrokenInvariant ``log_edge_mismatch`` unless the rows hold this log and lead to this root."""
    state = _read_state(tx)
    if state.origin != origin or state.size < size:
        raise _mismatch(f"the database does not hold {origin} up to entry {size}")
    if _root_of(_read_leaves(tx, begin=0, count=size)) != root:
        raise _mismatch(f"the entries do not lead to the root at {size}")


def _root_of(leaves: "Sequence[_Leaf]") -> bytes:
    """The root over leaves alone, without any stored subtree."""
    levels = [[leaf.digest for leaf in leaves]]
    while len(levels[-1]) >= TILE_WIDTH:
        below = levels[-1]
        full = len(below) // TILE_WIDTH
        levels.append(
            [subtree_root(b"".join(below[n * TILE_WIDTH : (n + 1) * TILE_WIDTH])) for n in range(full)]
        )
    return root_from_edge(
        len(leaves),
        lambda level, n, width: b"".join(levels[level][n * TILE_WIDTH : n * TILE_WIDTH + width]),
    )


# Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    origin: str | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaf:
    digest: bytes
    entry: bytes


@dataclass(slots=True, kw_only=True)
class _Level:
    """The hashes of one level >= 1 from the first unfinished tile on;

    ``known`` of them are in the database.
    """

    first: int
    known: int
    hashes: bytearray


def _read_state(tx: Snapshot) -> _State:
    origin = tx.one("SELECT origin FROM log_state")
    return _State(origin=None if origin is None else origin[0], size=_next_index(tx))


def _next_index(tx: Snapshot) -> int:
    row = tx.one("SELECT idx FROM leaf ORDER BY idx DESC LIMIT 1")
    return 0 if row is None else row[0] + 1


def _read_leaves(tx: Snapshot, *, begin: int, count: int) -> list[_Leaf]:
    """Up to ``count`` leaves from ``begin`` on, each checked against its hash and its place."""
    rows = tx.execute(
        "SELECT idx, hash, entry FROM leaf WHERE idx >= ? AND idx < ? ORDER BY idx", (begin, begin + count)
    )
    for expected, (index, digest, entry) in enumerate(rows, start=begin):
        if index != expected or leaf_hash(entry) != digest:
            raise _mismatch(f"entry {expected} in the database is missing or altered")
    return [_Leaf(digest=digest, entry=entry) for _, digest, entry in rows]


def _read_hashes(tx: Snapshot, level: int, n: int, width: int) -> bytes:
    """The first ``width`` hashes of a tile, from rows."""
    begin = n * TILE_WIDTH
    where = "idx >= ? AND idx < ? ORDER BY idx"
    if level == 0:
        rows = tx.execute(f"SELECT hash FROM leaf WHERE {where}", (begin, begin + width))  # noqa: S608
    else:
        rows = tx.execute(
            f"SELECT hash FROM subtree WHERE level = ? AND {where}",  # noqa: S608
            (level, begin, begin + width),
        )
    if len(rows) != width:
        raise _mismatch(f"rows of level {level}, tile {n} are missing in the database")
    return b"".join(row[0] for row in rows)


def _read_plan(tx: Snapshot, before: int) -> tuple[int, list[_Level]]:
    """What to publish: the committed size, and levels 1 and up from their first unfinished tile on.

    First the database must still lead to the last head it promised: entries below it may not have changed.
    """
    size = _next_index(tx)
    promised = tx.one("SELECT size, root FROM cp ORDER BY size DESC LIMIT 1")
    if promised is not None and _edge_root(tx, promised[0]) != promised[1]:
        raise _mismatch(f"the database no longer leads to the checkpoint at {promised[0]}")
    levels = []
    for level in range(1, LEVEL_MAX + 1):
        if not size >> (level * TILE_HEIGHT):
            break
        complete = before >> (level * TILE_HEIGHT)
        known = complete % TILE_WIDTH
        hashes = _read_hashes(tx, level, complete // TILE_WIDTH, known)
        levels.append(_Level(first=complete - known, known=known, hashes=bytearray(hashes)))
    return size, levels


def _edge_root(tx: Snapshot, size: int) -> bytes:
    return root_from_edge(size, lambda level, n, width: _read_hashes(tx, level, n, width))


def _commit_head(tx: Transaction, head: Checkpoint, levels: list[_Level]) -> None:
    """Commit the promise: one root per size, and the database leads to the root that the disk gave."""
    for level, run in enumerate(levels, start=1):
        for at in range(run.known * HASH_BYTES, len(run.hashes), HASH_BYTES):
            index, digest = run.first + at // HASH_BYTES, bytes(run.hashes[at : at + HASH_BYTES])
            tx.execute("INSERT INTO subtree VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (level, index, digest))
            if tx.value("SELECT hash FROM subtree WHERE level = ? AND idx = ?", (level, index)) != digest:
                raise _mismatch(f"subtree {level}/{index} differs from the one committed before")
    if _edge_root(tx, head.size) != head.root:
        raise _mismatch(f"disk and database give different roots at {head.size}")
    tx.execute("INSERT INTO cp (size, root) VALUES (?, ?) ON CONFLICT DO NOTHING", (head.size, head.root))
    if tx.value("SELECT root FROM cp WHERE size = ?", (head.size,)) != head.root:
        raise _mismatch(f"another root was committed for size {head.size}")


def _mismatch(what: str) -> BrokenInvariant:
    return BrokenInvariant("log_edge_mismatch", what)
