"""A disk that is full, and what lies on a disk that is not: real files under real daemons."""

import asyncio
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.canary import Canary, files_below
from demo.office import Office, PageRefused, Pages, PagesGone
from runtime.env import real_env
from runtime.sqlite import Transaction, open_database
from tests.scenarios.world import World, delivered

pytestmark = pytest.mark.scenario

FILL_STEP_BYTES = 4096


@contextmanager
def small_disk(at: Path, size_bytes: int) -> Iterator[None]:
    """A file system of its own; skipped where this user or this kernel may not mount one."""
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(at)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk is not allowed here; the limit on file sizes is tested instead")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def enlarge(at: Path, size_bytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", str(at)], check=True)


async def send_until_it_ends(world: World, office: Office, pages: Pages) -> list[str]:
    """Alerts whose keeping was confirmed before the node gave up."""
    confirmed = []
    for number in range(2000):
        try:
            confirmed.append((await pages.submit(world.form(f"KA-{number:04d}")))["alert_id"])
        except (PagesGone, PageRefused):
            break
    async with asyncio.timeout(30):
        while not office.daemon.ended_alone:
            await asyncio.sleep(0.05)
    return confirmed


async def all_there_again(world: World, office: Office, confirmed: list[str]) -> None:
    """With room again the node starts, and everything it had confirmed crosses."""
    await office.leave_pages()
    await office.daemon.stop()
    await world.start(office.daemon, world.broker, world.receiver.daemon)
    outbox = await delivered(await office.pages(), len(confirmed))
    assert set(confirmed) <= {row["alert_id"] for row in outbox}
    inbox = [row["alert_id"] for row in await (await world.receiver.pages()).inbox()]
    assert sorted(inbox) == sorted(row["alert_id"] for row in outbox)


async def test_a_full_disk_ends_the_node_with_74_and_nothing_confirmed_is_lost(world: World) -> None:
    """It says what to do, its supervisor may start it again, and with room it goes on where it was."""
    office = world.sender
    disk = world.stage.directory / "small"
    with small_disk(disk, 64 * 2**20):
        shutil.move(office.directory, disk / office.short)
        office.directory = disk / office.short
        await office.daemon.start()
        pages = await office.pages()
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - 2**20))
        confirmed = await send_until_it_ends(world, office, pages)
        assert len(confirmed) >= 5
        assert office.daemon.ended_alone[0] == 74
        said = office.daemon.log.read_text()
        assert "free space, then start again [disk_full]" in said
        enlarge(disk, 128 * 2**20)
        await all_there_again(world, office, confirmed)
        for daemon in world.daemons:
            await daemon.stop()


async def test_a_file_that_may_not_grow_is_met_like_a_full_disk(world: World) -> None:
    """A limit on file sizes, or a quota: the same end with 74, and nothing confirmed is lost."""
    office = world.sender
    await office.daemon.start()
    pages = await office.pages()
    assert office.daemon.pid is not None
    largest = max(path.stat().st_size for path in office.directory.glob("node.db*"))
    limit = largest + 2**20
    resource.prlimit(office.daemon.pid, resource.RLIMIT_FSIZE, (limit, limit))
    confirmed = await send_until_it_ends(world, office, pages)
    assert len(confirmed) >= 5
    assert office.daemon.ended_alone[0] == 74
    assert "start again [disk_" in office.daemon.log.read_text()
    await all_there_again(world, office, confirmed)


async def test_no_alert_stands_in_plain_on_an_office_disk_while_it_works(
    world: World, tmp_path: Path
) -> None:
    """The encrypted database, its journal and everything beside them hold no form of what was typed.

    The same search finds the same words in a database without a key, in its journal above all.
    """
    canary = Canary.new()
    await world.start()
    sender, receiver = await world.sender.pages(), await world.receiver.pages()
    for number in range(3):
        form = dict(world.form(canary.word[number : 48 + number]))
        form["vehicle.description"] = f"White pickup {canary.word}"
        form["vehicle.seen_where"] = canary.word
        await sender.submit(form)
    for row in await delivered(sender, 3):
        await receiver.open(row["alert_id"])
    for office in world.offices:
        assert (office.directory / "node.db-wal").stat().st_size > 0, "looked at while it is in use"
        assert not canary.search_all(files_below(office.directory)).findings
    assert not canary.search_all(files_below(world.broker_home)).findings
    assert not canary.search_all(files_below(world.stage.logs)).findings

    def keep(tx: Transaction) -> None:
        tx.execute("CREATE TABLE alert (word TEXT)")
        tx.execute("INSERT INTO alert VALUES (?)", (canary.word,))

    plain = await open_database(real_env(), tmp_path / "plain.db", None, ())
    try:
        await plain.transact(keep)
        found = canary.search_all(files_below(tmp_path)).findings
        assert {finding.place for finding in found} == {f"{tmp_path.name}/plain.db-wal"}
    finally:
        await plain.close()


async def test_a_backup_that_finds_no_room_is_said_so_and_the_node_goes_on(world: World) -> None:
    """A full stick: the command says so, the stick stays empty, and alerts still cross."""
    await world.start()
    office = world.sender
    passphrase = world.stage.secret_file("backup.passphrase", "paper stone scissors well")
    at = world.stage.directory / "stick"
    with small_disk(at, 128 * 1024):
        told = await world.run_node(office, "backup", "--backup-passphrase-file", passphrase, at / "backup")
        assert (told.exit_code, list(at.iterdir())) == (75, [])
    assert f"no backup was made: {at / 'backup'} cannot be written, there is no room for it" in told.err
    pages = await office.pages()
    await pages.submit(world.form("KA-1"))
    await delivered(pages, 1)
