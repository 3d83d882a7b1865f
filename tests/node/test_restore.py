"""A backup that is not whole does not open, no node is restored over, no stolen key winds a pair back."""

import asyncio
import errno
import hashlib
import os
import random
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from keys import labels
from keys.backupfile import HEADER_BYTES, PART_BYTES_MAX, begin_backup
from keys.errors import PolicyRefused, SalweenError
from keys.keystore import KdfParameters
from keys.primitives import HASH_BYTES, XWingPrivateKey, labelled_hash
from keys.secret import SecretBytes
from node.backup import Contents, Manifest, extract, verify_backup
from node.daemon import Node
from node.outbox import CONTROL_LIFE_MS, ToSend
from node.paper import read_sheet
from node.peers import load_peers, save_peer
from node.restore import begin_in_place, restore, version_after_loss
from protocol import limits
from protocol.conversation import with_my_instance
from protocol.evidence import Clash
from protocol.items import KeyAnnouncement, OneTimeOffer, SeenItem
from protocol.message import MessageType, certificate_core
from protocol.onetime import OfferedKeys
from runtime.env import Env, RealFiles, real_env
from runtime.exits import disk_failure
from runtime.sqlite import Transaction
from tests.node.offices import Offices, an_alert, count, entries, node_of, play, read, shown, write
from tests.node.papers import a_revocation, sheet_of
from tests.node.test_restore_crashes import STRIDE
from tests.simulation.daemons import CHEAP_PROFILE, PASSPHRASE, OfficeHost
from tests.simulation.disk import Killed
from tests.simulation.world import HostDownError, World

SECRET = SecretBytes(b"paper stone scissors well")


async def code_of(office: OfficeHost, call: Callable[[Env], Any]) -> str:
    """The code a call is refused with, or ``done``."""
    try:
        await office.host.run(call)
    except SalweenError as error:
        return error.code
    return "done"


async def reset_from(office: OfficeHost, *, new_instance: bool) -> None:
    """A RESET under the key version in use, as whoever stole that key would send it."""
    node = node_of(office)

    def record(tx: Transaction) -> None:
        (peer,) = load_peers(tx)
        seen = SeenItem(ranges=(), ended=peer.pair.outbound.instance, next_seq=1, at_ms=0)
        if new_instance:
            peer.pair = with_my_instance(peer.pair, b"stolen!!")
        core = certificate_core(node._identity.certificate, [seen])
        until = office.now_ms() + CONTROL_LIFE_MS
        node._outbox.compose(tx, peer, ToSend(type=MessageType.RESET, core=core, expires_ms=until))
        save_peer(tx, peer)

    await write(office, record)


@pytest.mark.parametrize("new_instance", [True, False])
def test_a_reset_under_a_known_key_version_winds_nothing_back(tmp_path: Path, new_instance: bool) -> None:
    """It is kept as evidence; nothing is sent again, no instance begins, and the other direction goes on."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await there.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        before = await read(there, lambda tx: load_peers(tx)[0].pair.inbound.instance)
        await reset_from(here, new_instance=new_instance)
        await asyncio.sleep(60)
        assert await count(there, "quarantine", "code = 'reset_not_newer'") >= 1
        assert await count(there, "peer_reset") == 0
        assert not await entries(there, "peer.reset")
        assert await read(there, lambda tx: load_peers(tx)[0].pair.inbound.instance) == before
        assert await count(there, "delivery", "alert_id IS NOT NULL AND phase <> 'acknowledged'") == 0
        await there.send(an_alert("KA-2"))
        await asyncio.sleep(120)
        assert await shown(here) == 2

    play(tmp_path, script)


def test_only_a_reset_opens_under_a_reset_key(tmp_path: Path) -> None:
    """An alert sealed to it is junk: a key that lives for years protects no alert."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        assert await count(here, "reset_key", "own = 0") == 1, "it came with the receipt"
        key_id, public = await read(
            here, lambda tx: tx.execute("SELECT key_id, public FROM reset_key WHERE own = 0")[0]
        )

        def misuse(tx: Transaction) -> None:
            (peer,) = load_peers(tx)
            known = peer.peer_key.announcement
            peer.peer_key = type(peer.peer_key)(
                announcement=type(known)(
                    key_version=1, rk_gen=known.rk_gen + 1, key_id=key_id, public=public
                ),
                rk_first=peer.peer_key.rk_first,
            )
            save_peer(tx, peer)

        await write(here, misuse)
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(60)
        assert await count(there, "quarantine", "code = 'reset_key_misused'") >= 1
        assert await shown(there) == 1

    play(tmp_path, script)


def test_a_backup_that_is_not_whole_does_not_open(tmp_path: Path) -> None:
    """Cut at many lengths, one bit turned anywhere, the wrong passphrase, the sheet of another office."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        node = node_of(here)
        made = await here.host.run(lambda env: node.backup("bk", SECRET, with_operational=False))
        assert made.size == node.log.published.size
        whole = await here.host.run(lambda env: _read(env, "bk"))
        sizes = sorted({0, 1, 6, 100, *(n * len(whole) // 40 for n in range(40)), len(whole) - 1})

        async def verdict(data: bytes, secret: SecretBytes = SECRET) -> str:
            await here.host.run(lambda env: _write(env, "tried", data))
            return await code_of(here, lambda env: verify_backup(env, "tried", secret, Path("node")))

        assert await verdict(whole) == "done"
        for size in sizes:
            assert await verdict(whole[:size]) == "backup_damaged", size
        for at in range(0, len(whole), max(1, len(whole) // 60)):
            turned = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
            assert await verdict(turned) == "backup_damaged", at
        assert await verdict(whole + b"x") == "backup_damaged"
        assert await verdict(whole, SecretBytes(b"another passphrase")) == "backup_wrong_passphrase"
        assert (
            await code_of(here, lambda env: node.backup("bk", SECRET, with_operational=False))
            == "backup_exists"
        )
        left = await here.host.run(lambda env: _names(env, "node"))
        assert not [name for name in left if name.startswith("backup-")]

        async def again(env: Env, directory: str, sheet: str) -> None:
            read_it = read_sheet(env, sheet)
            await restore(
                env, "bk", directory, read_it,
                backup_passphrase=SECRET, passphrase=SecretBytes(PASSPHRASE), kdf=CHEAP_PROFILE,
            )  # fmt: skip

        sheet = await there.host.run(lambda env: _read(env, "sheet"))
        await here.host.run(lambda env: _write(env, "theirs", sheet))
        assert await code_of(here, lambda env: again(env, "new", "theirs")) == "sheet_other_office"
        assert await code_of(here, lambda env: again(env, "node", "sheet")) == "directory_not_empty"
        assert await code_of(here, lambda env: again(env, "new2", "none")) == "recovery_sheet_unreadable"
        assert await code_of(here, lambda env: again(env, "new3", "sheet")) == "done"
        held = await here.host.run(lambda env: _names(env, "new3"))
        assert {"keystore", "node.db", "node.toml", "log", "log-ended-1", "high-water"} <= held

    play(tmp_path, script)


def tree_of(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a directory: mode, and the hash of each file."""
    return {
        str(path.relative_to(directory)): (
            path.lstat().st_mode,
            hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"",
        )
        for path in sorted(directory.rglob("*"))
    }


def on_disk(office: OfficeHost, path: str) -> Path:
    """Where a file of a host stands."""
    return Path(f"{office.host.disk}{os.path.abspath(path)}")


async def make_later(office: OfficeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup ``later`` by a program that has a migration more, and verified what it wrote."""
    node = node_of(office)
    row = (b"\x00" * 32,)
    await write(
        office,
        lambda tx: tx.execute(
            "INSERT INTO schema_version (component, number, name, sql_sha256, applied_ms)"
            " VALUES ('node', 999, 'later', ?, 0)",
            row,
        ),
    )

    async def trust(*_: object) -> None:
        return

    monkeypatch.setattr("node.backup._verify", trust)
    await office.host.run(lambda env: node.backup("later", SECRET, with_operational=False))
    monkeypatch.undo()


def with_format(data: bytes, version: int) -> bytes:
    """The same backup as another version of the container would begin."""
    head = bytearray(data[: HEADER_BYTES - HASH_BYTES])
    head[4] = version
    return bytes(head) + labelled_hash(labels.BACKUP_HEADER, bytes(head)) + data[HEADER_BYTES:]


@pytest.mark.parametrize("place", ["not there", "empty", "left by a kill"])
def test_a_refused_restore_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Whatever is wrong, the directory is what it was before, and takes the right backup afterwards."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.host.run(lambda env: node_of(here).backup("bk", SECRET, with_operational=False))
        await there.host.run(lambda env: node_of(there).backup("bk", SECRET, with_operational=False))
        await make_later(here, monkeypatch)
        whole = await here.host.run(lambda env: _read(env, "bk"))
        theirs = await there.host.run(lambda env: _read(env, "bk"))
        their_sheet = await there.host.run(lambda env: _read(env, "sheet"))
        here.host.kill()
        here.host.boot()
        await here.host.run(lambda env: _write(env, "theirs.sheet", their_sheet))
        target = on_disk(here, "new")
        if place != "not there":
            target.mkdir(mode=0o750)
        if place == "left by a kill":
            (target / "pid").write_bytes(b"")

        async def verdict(
            data: bytes | None,
            *,
            sheet: str = "sheet",
            secret: bytes = SECRET.reveal(),
            passphrase: bytes = PASSPHRASE,
            clock_ms: int = 0,
        ) -> str:
            if data is not None:
                await here.host.run(lambda env: _write(env, "tried", data))
            here.host.step_clock(clock_ms)
            before = tree_of(here.host.disk)

            async def into(env: Env) -> None:
                await restore(
                    env, "none" if data is None else "tried", "new", read_sheet(env, sheet),
                    backup_passphrase=SecretBytes(secret), passphrase=SecretBytes(passphrase),
                    kdf=CHEAP_PROFILE,
                )  # fmt: skip

            code = await code_of(here, into)
            here.host.step_clock(-clock_ms)
            if code != "done":
                assert tree_of(here.host.disk) == before, code
            return code

        later = await here.host.run(lambda env: _read(env, "later"))
        assert await verdict(with_format(whole, 2)) == "backup_newer_version"
        assert await verdict(later) == "backup_newer_version"
        assert await verdict(None) == "backup_missing"
        assert await verdict(whole, secret=b"another passphrase") == "backup_wrong_passphrase"
        assert await verdict(whole, passphrase=b"short") == "passphrase_too_short"
        assert await verdict(whole, sheet="theirs.sheet") == "sheet_other_office"
        assert await verdict(theirs) == "sheet_other_office"
        assert await verdict(whole, clock_ms=-here.now_ms()) == "clock_unset"
        choices = random.Random(place)
        for size in (0, 1, HEADER_BYTES, len(whole) - 1, *(choices.randrange(len(whole)) for _ in range(8))):
            assert await verdict(whole[:size]) == "backup_damaged", size
        for at in (0, *(choices.randrange(len(whole)) for _ in range(8))):
            turned = whole[:at] + bytes([whole[at] ^ 1 << choices.randrange(8)]) + whole[at + 1 :]
            assert await verdict(turned) == "backup_damaged", at
        assert await verdict(whole) == "done"

    play(tmp_path, script)


def test_a_restore_that_goes_on_is_not_said_to_be_broken_off(tmp_path: Path) -> None:
    """Whoever starts it twice is told to wait, not to remove what the first one is making."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await here.host.run(lambda env: node_of(here).backup("bk", SECRET, with_operational=False))

        async def into(env: Env) -> None:
            await restore(
                env, "bk", "new", read_sheet(env, "sheet"),
                backup_passphrase=SECRET, passphrase=SecretBytes(PASSPHRASE), kdf=CHEAP_PROFILE,
            )  # fmt: skip

        first = asyncio.ensure_future(code_of(here, into))
        while not on_disk(here, "new/restoring").exists():
            assert not first.done()
            await asyncio.sleep(0.0001)
        assert await code_of(here, into) == "already_running"
        assert await first == "done"

    play(tmp_path, script)


@pytest.mark.parametrize("power_loss", [False, True], ids=["killed", "without power"])
def test_a_backup_that_dies_at_any_step_leaves_no_file_that_looks_whole(
    tmp_path: Path, power_loss: bool
) -> None:
    """Under its name it is whole or not there; the next one is made as if nothing had been.

    ``SALWEEN_EVERY_STEP=1`` dies at every step, not at a sample.
    """
    with World(seed=6, directory=tmp_path, has_simulated_disks=True) as world:
        offices = Offices(world)

        async def script() -> None:
            await offices.make()
            here = offices.here
            step, found, died = 1 + int(power_loss), set(), True
            while died:
                node = node_of(here)
                here.host.light_fuse(step, power_loss=power_loss)
                try:
                    await here.host.run(partial(_make, node))
                    died = False
                    here.host.kill()
                except (HostDownError, Killed):
                    pass
                here.host.boot()
                code = await code_of(here, lambda env: verify_backup(env, "bk", SECRET, Path("node")))
                assert code in ("done", "backup_missing"), step
                found.add(code)
                await here.host.run(lambda env: _remove(env, "bk"))
                here.host.kill()
                await here.restart()
                step += STRIDE
            assert found == {"done", "backup_missing"}
            left = await here.host.run(lambda env: _names(env, "node"))
            assert not [name for name in left if name.startswith("backup-")]

        world.run(script())


def test_a_large_backup_is_taken_apart_in_small_pieces(tmp_path: Path) -> None:
    """48 MiB of database, a few parts in memory at once."""
    made = Manifest(
        office_id=bytes(32),
        name="n",
        country="MM",
        made_ms=0,
        key_version=1,
        origin="salween/0/log1",
        size=1,
        root=bytes(32),
        with_operational=False,
        sizes=(1, 1, 1, 48 * PART_BYTES_MAX),
    ).encode()
    front = len(made).to_bytes(4, "big") + made + b"\x80" + b"sc"
    kdf = KdfParameters(memory_kib=8, iterations=1, lanes=1)
    env = real_env()
    key = begin_backup(SECRET, random=env.random, kdf=kdf)
    with (tmp_path / "bk").open("wb") as file:
        file.write(key.header + key.seal_part(0, front, is_last=False, random=env.random))
        for number in range(1, 49):
            part = bytes(PART_BYTES_MAX)
            file.write(key.seal_part(number, part, is_last=number == 48, random=env.random))
    tracemalloc.start()
    try:
        extract(env, str(tmp_path / "bk"), SECRET, str(tmp_path / "db"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "db").stat().st_size == 48 * PART_BYTES_MAX
    assert peak < 8 * PART_BYTES_MAX


def test_backups_are_made_one_at_a_time_while_alerts_flow(tmp_path: Path) -> None:
    """A second one, or a check, is told to wait; what was sent before one is in it."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await here.send(an_alert("KA-1"))
        node = node_of(here)
        await here.host.run(lambda env: node.backup("first", SECRET, with_operational=False))
        sent = asyncio.gather(*(here.send(an_alert(f"KA-{number}")) for number in range(2, 12)))
        codes = await asyncio.gather(
            code_of(here, lambda env: node.backup("bk1", SECRET, with_operational=False)),
            code_of(here, lambda env: node.backup("bk2", SECRET, with_operational=False)),
            code_of(here, lambda env: verify_backup(env, "first", SECRET, Path("node"))),
        )
        assert sorted(codes) == ["backup_running", "backup_running", "done"]
        await sent
        assert await code_of(here, lambda env: node.backup("bk", SECRET, with_operational=False)) == "done"
        code = await code_of(here, lambda env: verify_backup(env, "bk", SECRET, Path("elsewhere")))
        assert code == "directory_missing"
        here.host.kill()
        here.host.boot()

        async def again(env: Env) -> None:
            await restore(
                env, "bk", "new", read_sheet(env, "sheet"),
                backup_passphrase=SECRET, passphrase=SecretBytes(PASSPHRASE), kdf=CHEAP_PROFILE,
            )  # fmt: skip
            back = await Node.open(env, "new", SecretBytes(PASSPHRASE), kdf=CHEAP_PROFILE)
            assert await back.database.read(lambda tx: tx.value("SELECT count(*) FROM alert")) == 11

        await here.host.run(again)

    play(tmp_path, script)


def test_a_place_that_takes_no_backup_is_said_so(tmp_path: Path) -> None:
    """No folder, a file for one, a full or read-only disk: nothing is left, and the node runs."""

    async def script(offices: Offices) -> None:
        here = offices.here
        node = node_of(here)

        async def refused(path: str) -> SalweenError:
            with pytest.raises(SalweenError) as told:
                await here.host.run(lambda env: node.backup(path, SECRET, with_operational=False))
            left = await here.host.run(lambda env: _names(env, "node"))
            assert not [name for name in left if name.startswith("backup-")]
            return told.value

        for path in ("no/folder/bk", "sheet/bk"):
            told = await refused(path)
            assert told.code == "backup_unwritable"
            assert f"no backup was made: {path} cannot be written (N" in told.detail
        append = RealFiles.append_fsync
        for number, code, word in (
            (errno.ENOSPC, "disk_full", "no room"),
            (errno.EROFS, "disk_error", "refuses"),
        ):

            def failing(
                files: RealFiles, path: Any, data: bytes, mode: int = 0o600, number: int = number
            ) -> None:
                append(files, path, data[:100], mode)
                failure = disk_failure(OSError(number, "as a disk says it"), str(path))
                assert failure is not None
                raise failure

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(RealFiles, "append_fsync", failing)
                told = await refused("bk")
            assert told.code == code
            assert word in told.detail
            assert "the node goes on" in told.detail
            assert not await here.host.run(lambda env: _exists(env, "bk", "bk.unfinished"))
        await here.send(an_alert("KA-1"))
        assert await code_of(here, lambda env: node.backup("bk", SECRET, with_operational=False)) == "done"

    play(tmp_path, script)


def test_a_backup_holds_no_receive_and_no_operational_key(tmp_path: Path) -> None:
    """Every name of the keystore is either kept or left out on purpose."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        node = node_of(here)
        for operational in (False, True):
            path = f"bk{operational}"
            contents = await here.host.run(partial(_backed_up, node, path, operational))
            kept = {name.split("/")[0] for name in contents.secrets}
            assert kept == {"database", "log-origin", "kek", "mailbox", "officer", "reset"} | (
                {"operational"} if operational else set()
            )
        left_out = {name.split("/")[0] for name in node._secrets.names()} - kept
        assert left_out == {"receive", "log", "witness"}

    play(tmp_path, script)


async def _read(env: Env, path: str) -> bytes:
    return env.files.read(path)


async def _write(env: Env, path: str, data: bytes) -> None:
    env.files.write_atomic(path, data)


async def _make(node: Node, env: Env) -> None:
    del env
    await node.backup("bk", SECRET, with_operational=False)


async def _remove(env: Env, path: str) -> None:
    if env.files.exists(path):
        env.files.remove(path)


async def _exists(env: Env, *paths: str) -> bool:
    return any(env.files.exists(path) for path in paths)


async def _names(env: Env, path: str) -> set[str]:
    return set(env.files.listdir(path))


async def _backed_up(node: Node, path: str, operational: bool, env: Env) -> Contents:
    await node.backup(path, SECRET, with_operational=operational)
    return await env.run_blocking(lambda: extract(env, path, SECRET, f"{path}.db"))


def test_a_key_version_after_a_loss_is_above_all_before() -> None:
    """By the clock, by one more than known, or by what a peer says; never by a clock that stands at 1970."""
    now_ms = 1_790_000_000_000
    first = version_after_loss(1, now_ms, None)
    assert first > 3_000_000
    assert version_after_loss(1, now_ms + limits.MINUTE_MS, None) == first + 1
    assert version_after_loss(first + 9, now_ms, None) == first + 10
    assert version_after_loss(1, 0, 41) == 42
    with pytest.raises(SalweenError) as unset:
        version_after_loss(1, 0, None)
    assert unset.value.code == "clock_unset"


async def begin_again(office: OfficeHost) -> None:
    """Its root certifies a new key on the directory as it stands, and every partner is told."""
    office.host.kill()
    office.host.boot()
    await office.host.run(
        lambda env: begin_in_place(env, "node", read_sheet(env, "sheet"), SecretBytes(PASSPHRASE))
    )
    office.host.kill()
    await office.restart()
    await office.log_in()


async def announce_ahead(office: OfficeHost) -> None:
    """A thief's own keys, under the highest version there is, signed with the stolen one."""
    public = XWingPrivateKey.from_seed(SecretBytes(b"thief" + bytes(27))).public_bytes
    announced = KeyAnnouncement(
        key_version=limits.U32_MAX, rk_gen=limits.U32_MAX, key_id=b"thief k1", public=public
    )
    offer = OneTimeOffer(
        key_version=limits.U32_MAX,
        generation=limits.U32_MAX,
        kept_ids=(),
        fresh=((b"thief k2", public),),
    )

    def record(tx: Transaction) -> None:
        (peer,) = load_peers(tx)
        node_of(office)._outbox.compose_control(tx, peer, [announced, offer], service=False)
        save_peer(tx, peer)

    await write(office, record)
    await asyncio.sleep(60)


@pytest.mark.parametrize("trouble", ["revoked", "stolen", "frozen"])
def test_a_reset_makes_a_pair_whole_that_was_revoked_or_frozen(tmp_path: Path, trouble: str) -> None:
    """Key and address come with it: alerts cross both ways, and no ceremony is needed.

    A thief who announced keys of a later version than the stolen one has nothing of what is sent afterwards.
    """

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await there.send(an_alert("KB-1"))
        await asyncio.sleep(300)
        if trouble == "stolen":
            await announce_ahead(here)
        if trouble in ("revoked", "stolen"):
            node, paper = node_of(there), a_revocation(await sheet_of(here))
            await there.host.run(lambda env: node.revocations.take_notice(paper.data, "paper"))
        else:
            await write(
                there,
                lambda tx: tx.execute(
                    "UPDATE peer SET frozen_ms = 1, frozen_code = ?", (Clash.NUMBER.value,)
                ),
            )
        with pytest.raises(PolicyRefused) as told:
            await there.send(an_alert("KB-2"))
        assert told.value.code == ("pair_frozen" if trouble == "frozen" else "pair_suspended")
        await begin_again(here)
        await asyncio.sleep(600)
        await there.log_in()
        (peer,) = await there.peers()
        assert (peer.state, peer.pause, peer.frozen_code) == ("active", None, None)
        assert await count(there, "one_time_offered") == 0 or await one_time_version(there) > 1
        await there.send(an_alert("KB-3"))
        await here.send(an_alert("KA-3"))
        await asyncio.sleep(600)
        assert await shown(here) == 2
        assert await shown(there) == 2
        await there.log_in()
        assert [row.state for row in await there.outbox()] == ["delivered", "delivered"]

    play(tmp_path, script)


async def one_time_version(office: OfficeHost) -> int:
    """Under which key version of the partner the keys were offered that may be used."""
    offered = await read(office, lambda tx: tx.value("SELECT keys FROM one_time_offered"))
    return OfferedKeys.decode(offered).key_version
