"""A ceremony of the recovery sheet that dies anywhere: the office is what it was or what it becomes."""

import asyncio
import os
from pathlib import Path

import pytest

from keys.errors import SalweenError
from keys.secret import SecretBytes
from node.daemon import Node
from node.paper import read_sheet
from node.restore import begin_in_place, renew, restore
from runtime.env import Env
from tests.node.offices import Offices, an_alert, node_of, shown
from tests.simulation.daemons import CHEAP_PROFILE, PASSPHRASE, OfficeHost
from tests.simulation.disk import Killed
from tests.simulation.world import HostDownError, World

SECRET = SecretBytes(b"paper stone scissors well")
STEPS_MAX = 700
WORLD_STEPS = 10  # deaths in one simulated world
STRIDE = 1 if os.environ.get("SALWEEN_EVERY_STEP") else 17


async def again(env: Env) -> None:
    """``salween-node restore --in-place``."""
    await begin_in_place(env, "node", read_sheet(env, "sheet"), SecretBytes(PASSPHRASE))


async def renewed(env: Env) -> None:
    """``salween-node renew``."""
    await renew(env, "node", read_sheet(env, "sheet"), SecretBytes(PASSPHRASE))


async def crosses(offices: Offices, word: str) -> None:
    """Both offices run, and an alert crosses each way."""
    before = await shown(offices.here), await shown(offices.there)
    await offices.here.log_in()
    await offices.there.log_in()
    await offices.here.send(an_alert(f"KA-{word}"))
    await offices.there.send(an_alert(f"YN-{word}"))
    for _ in range(60):
        await asyncio.sleep(60)
        after = await shown(offices.here), await shown(offices.there)
        if after == (before[0] + 1, before[1] + 1):
            return
    raise AssertionError(f"{word}: {before} became {after}")


async def dies_at(office: OfficeHost, step: int, *, power_loss: bool, ceremony: object) -> bool:
    """Hold a ceremony on a machine that dies in its ``step``-th change of the disk; whether it died."""
    office.node = None
    office.host.boot()
    office.host.light_fuse(step, power_loss=power_loss)
    try:
        await office.host.run(ceremony)  # type: ignore[arg-type]
    except (HostDownError, Killed):
        return True
    office.host.kill()
    return False


@pytest.mark.parametrize("power_loss", [False, True], ids=["killed", "without power"])
def test_a_restore_that_dies_at_any_step_is_no_node_and_says_so(tmp_path: Path, power_loss: bool) -> None:
    """What it left behind neither starts nor is restored over, in words; a new directory takes the backup."""
    with World(seed=4, directory=tmp_path, has_simulated_disks=True) as world:
        offices = Offices(world)

        async def into(env: Env, directory: str) -> None:
            await restore(
                env, "bk", directory, read_sheet(env, "sheet"),
                backup_passphrase=SECRET, passphrase=SecretBytes(PASSPHRASE), kdf=CHEAP_PROFILE,
            )  # fmt: skip

        async def code_of(call: object) -> str:
            try:
                await offices.here.host.run(call)  # type: ignore[arg-type]
            except SalweenError as error:
                return error.code
            return "done"

        async def script() -> None:
            await offices.make()
            here = offices.here
            await crosses(offices, "0")
            node = node_of(here)
            await here.host.run(lambda env: node.backup("bk", SECRET, with_operational=False))
            passphrase = SecretBytes(PASSPHRASE)
            step, codes, died = 1 + int(power_loss), set(), True
            while died:
                here.host.kill()
                place = f"new{step}"
                died = await dies_at(
                    here, step, power_loss=power_loss, ceremony=lambda env, p=place: into(env, p)
                )
                here.host.boot()
                if died:
                    code = await code_of(lambda env, p=place: into(env, p))
                    codes.add(code)
                    opened = await code_of(lambda env, p=place: Node.open(env, p, passphrase))
                    is_half = code == "restore_unfinished"
                    assert opened == ("not_initialised" if is_half else "done"), (step, code)
                step += STRIDE
            assert "restore_unfinished" in codes
            assert codes <= {"restore_unfinished", "directory_not_empty", "done"}
            assert 10 < step < STEPS_MAX

        world.run(script())


@pytest.mark.parametrize("power_loss", [False, True], ids=["killed", "without power"])
@pytest.mark.parametrize("ceremony", [again, renewed])
def test_a_ceremony_that_dies_at_any_step_leaves_a_whole_office(
    tmp_path: Path, power_loss: bool, ceremony: object
) -> None:
    """After each death the node starts as it stands, or the ceremony is held once more; then alerts flow.

    ``SALWEEN_EVERY_STEP=1`` dies at every step, not at a sample.
    """
    with World(seed=3, directory=tmp_path, has_simulated_disks=True) as world:
        offices = Offices(world)

        async def script() -> None:
            await offices.make()
            here = offices.here
            await crosses(offices, "0")
            step = 1 + int(power_loss)
            while True:
                here.host.kill()
                died = await dies_at(here, step, power_loss=power_loss, ceremony=ceremony)
                if died and step % 2:  # the other half of them simply starts again
                    here.host.boot()
                    await here.host.run(ceremony)  # type: ignore[arg-type]
                    here.host.kill()
                await here.restart()
                assert node_of(here).log.refusal is None
                await crosses(offices, str(step))
                if not died:
                    break
                step += STRIDE
            assert 10 < step < STEPS_MAX

        world.run(script())


def disk_of(office: OfficeHost) -> dict[str, bytes]:
    """What lies in an office's directory, by its path there."""
    assert office.host.simulated_disk is not None
    front = f"{os.path.abspath('node')}/"
    found = office.host.simulated_disk.content()
    return {path.removeprefix(front): data for path, data in found.items() if path.startswith(front)}


def origin_in(checkpoint: bytes) -> str:
    """The log a published checkpoint is of."""
    return checkpoint.split(b"\n", 1)[0].decode()


@pytest.mark.parametrize("power_loss", [False, True], ids=["killed", "without power"])
def test_a_node_that_went_back_and_dies_beginning_again_never_runs_on_what_it_was(
    tmp_path: Path, power_loss: bool
) -> None:
    """After each death it is still refused, or it has begun again; holding the ceremony once more ends it.

    What was published of the log that ended stays whole, with its policy: it is evidence.
    """
    step, states = 1 + int(power_loss), set()
    died = True
    while died:
        # A world keeps all that ever died in it: a new one now and then.
        with World(seed=5, directory=tmp_path / str(step), has_simulated_disks=True) as world:
            offices = Offices(world)

            async def script(offices: Offices, first: int) -> bool:
                await offices.make()
                await crosses(offices, "0")
                for step in range(first, first + WORLD_STEPS * STRIDE, STRIDE):
                    has_begun, died = await dies_gone_back(offices, step, power_loss=power_loss)
                    states.add(has_begun)
                    if not died:
                        return False
                return True

            died = world.run(script(offices, step))
        step += WORLD_STEPS * STRIDE
        assert step < STEPS_MAX
    assert states == {False, True}


async def dies_gone_back(offices: Offices, step: int, *, power_loss: bool) -> tuple[bool, bool]:
    """One death; whether the office had begun again by then, and whether there was a death at all."""
    here = offices.here
    await went_back(offices, str(step))
    before = disk_of(here)
    published = before["log/checkpoint"]
    died = await dies_at(here, step, power_loss=power_loss, ceremony=again)
    after = disk_of(here)
    origin, refused = await opened(here)
    has_begun = origin != origin_in(published)
    assert refused == (None if has_begun else "log_rolled_back"), step
    if not has_begun:
        for name in ("node.toml", "high-water", "policy", "log/checkpoint"):
            assert after[name] == before[name], (step, name)
        here.host.boot()
        await here.host.run(again)
        here.host.kill()
    await here.restart()
    await asyncio.sleep(600)  # what it forgot is sent again
    kept = disk_of(here)
    (aside,) = {name.split("/")[0] for name, data in kept.items() if data == published}
    assert aside.startswith("log-ended-"), (step, aside)
    assert kept[f"{aside}/policy"] == before["policy"], step
    archived = [d for name, d in kept.items() if name.startswith("log/archive/") and "/." not in name]
    assert {origin_in(data) for data in archived} == {node_of(here).log.origin}, step
    await crosses(offices, str(step))
    return has_begun, died


async def opened(office: OfficeHost) -> tuple[str, str | None]:
    """Which log a start finds, and the code it is refused with."""
    office.host.boot()
    node = await office.host.run(lambda env: Node.open(env, "node", SecretBytes(PASSPHRASE)))
    office.host.kill()
    return node.log.origin, None if node.log.refusal is None else node.log.refusal.code


async def went_back(offices: Offices, word: str) -> None:
    """An alert crosses, then database and keystore of the stopped office are what they were before it."""
    here = offices.here
    here.host.kill()
    old = disk_of(here)
    await here.restart()
    await crosses(offices, f"{word}-forgotten")
    await here.host.run(lambda env: node_of(here).log.publish())
    here.host.kill()
    here.host.boot()

    async def put_back(env: Env) -> None:
        for name in ("node.db", "node.db-wal", "node.db-journal", "keystore"):
            if name in old:
                env.files.write_atomic(f"node/{name}", old[name])
            elif env.files.exists(f"node/{name}"):
                env.files.remove(f"node/{name}")

    await here.host.run(put_back)
    here.host.kill()
