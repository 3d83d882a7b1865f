"""Offices whose clocks are wrong: alerts cross all the same, and are marked (I19).

The office's node runs in this process, over its own directory and against a real broker, with a clock that
is wrong by as much as the test says; the other end is a process like any.
"""

from dataclasses import dataclass, replace

import pytest

from keys.secret import SecretBytes
from node.daemon import Node
from runtime.env import Clock, Env, real_env
from tests.scenarios.world import World, delivered, entity

pytestmark = pytest.mark.scenario

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongClock:
    """The machine's clock, wrong by ``by_ms``; intervals are right."""

    clock: Clock
    by_ms: int

    def now_ms(self) -> int:
        return self.clock.now_ms() + self.by_ms

    def now_us(self) -> int:
        return self.clock.now_us() + self.by_ms * 1000

    def monotonic_ms(self) -> int:
        return self.clock.monotonic_ms()


def _env(by_ms: int) -> Env:
    env = real_env()
    return replace(env, clock=WrongClock(clock=env.clock, by_ms=by_ms))


def _to_1970() -> int:
    """A clock whose battery is empty: one hour after it began to count."""
    return 3600 * 1000 - real_env().clock.now_ms()


@pytest.mark.parametrize("skew", ["a day ahead", "a day behind", "1970"])
async def test_an_office_with_a_wrong_clock_still_sends_and_receives(world: World, skew: str) -> None:
    """Both ways; the alert from the wrong clock is marked, and the office is told that its clock is wrong.

    An office at 1970 signs dates of erasure that are long past: the other one shows its alerts all the same.
    """
    by_ms = {"a day ahead": DAY_MS, "a day behind": -DAY_MS, "1970": _to_1970()}[skew]
    office = world.sender
    await world.start(world.broker, world.receiver.daemon)
    passphrase = SecretBytes(office.passphrase_file.read_bytes().strip())
    node = await Node.open(_env(by_ms), str(office.directory), passphrase)
    try:
        await node.start_links()
        office_pages = f"http://127.0.0.1:{await node.listen()}"
        office.daemon.ready = {"pages": office_pages}
        here, there = await office.pages(), await world.receiver.pages()
        await here.submit(world.form("KA-70"))
        (row,) = await delivered(here, 1)
        (arrived,) = await there.inbox()
        assert arrived["alert_id"] == row["alert_id"]
        assert entity(await there.open(row["alert_id"]), "plate") == "KA-70"
        assert "clock_suspect" in arrived["flags"]
        assert "erase_due" not in arrived["flags"]
        assert "Check the clock of this machine" in (await here.get("/status"))["clock_doubt"]

        peers = await there.get("/partners")
        back = dict(world.form("KA-71")) | {"recipients": [peers[0]["office_id"]]}
        await there.submit(back)
        await delivered(there, 1)
        (came,) = await here.inbox()
        assert entity(await here.open(came["alert_id"]), "plate") == "KA-71"
    finally:
        await office.leave_pages()
        await node.stop()
