"""A node killed between any two steps of a rotation: alerts flow, no secret and no mailbox is left over."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.mailboxes import Mailboxes
from node.secrets import Secrets
from protocol import limits
from protocol.rotation import Announce, GiveUp, Prove, Step
from tests.node.offices import Offices, count, node_of, play, read, write
from tests.node.test_mailboxes import address_generation, both_ways, newest, own
from tests.simulation.daemons import OfficeHost

DAY_MS = limits.DAY_MS


async def grow_old(office: OfficeHost, days: int = 15) -> None:
    """Its mailboxes stand as if they had reached their stages earlier; a whole look follows."""
    await write(office, lambda tx: tx.execute("UPDATE mailbox SET since_ms = since_ms - ?", (days * DAY_MS,)))
    mailboxes = node_of(office).mailboxes
    await office.host.run(lambda env: mailboxes.round_once())


async def rotate(offices: Offices, word: str) -> None:
    """One rotation in Myitkyina from making to giving up, by alerts that cross meanwhile."""
    for turn in range(2):
        mailboxes = node_of(offices.here).mailboxes
        looks = offices.here.host.run(lambda env, m=mailboxes: m.round_once())  # type: ignore[misc]
        await looks
        await both_ways(offices, f"{word}-{turn}")
        await grow_old(offices.here)


async def shut_for(offices: Offices, days: int) -> None:
    """Everything is off for days; then the broker cleans up, and both offices look at their mailboxes."""
    offices_and_broker = (offices.here, offices.there, offices.broker)
    for one in offices_and_broker:
        one.host.kill()
    await asyncio.sleep(days * DAY_MS / 1000)
    for one in reversed(offices_and_broker):
        await one.restart()
    await asyncio.sleep(7200)


class Stop:
    """Stands still for ever at the first call that matches, in this one life of this one office."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self.mailboxes = mailboxes
        self.reached = asyncio.Event()

    async def here(self) -> None:
        """The process does nothing more until it is killed."""
        self.reached.set()
        await asyncio.Event().wait()


def before(stop: Stop, owner: Any, name: str, matches: Callable[..., bool]) -> None:
    """Stand still before a call."""
    honest = getattr(owner, name)

    async def call(*arguments: Any) -> Any:
        if matches(*arguments):
            await stop.here()
        return await honest(*arguments)

    setattr(owner, name, call)


def after(stop: Stop, owner: Any, name: str, matches: Callable[..., bool]) -> None:
    """Stand still after a call."""
    honest = getattr(owner, name)

    async def call(*arguments: Any) -> Any:
        result = await honest(*arguments)
        if matches(*arguments):
            await stop.here()
        return result

    setattr(owner, name, call)


def _any(*_: Any) -> bool:
    return True


def _is(kind: type[Step]) -> Callable[..., bool]:
    return lambda _, step: isinstance(step, kind)


def _is_mailbox(names: tuple[str, ...]) -> bool:
    return any(name.startswith("mailbox/") for name in names)


def _secrets(stop: Stop) -> Secrets:
    return stop.mailboxes._secrets


STEPS: dict[str, Callable[[Stop], None]] = {
    "before its secret is durable": lambda s: before(s, s.mailboxes, "_draw", _any),
    "after its secret is durable": lambda s: after(s, s.mailboxes, "_draw", _any),
    "after its row": lambda s: after(s, s.mailboxes, "_make_successor", _any),
    "after Create": lambda s: before(s, s.mailboxes, "_granted", _any),
    "after its grant": lambda s: after(s, s.mailboxes, "_keep_grant", lambda row, _: row.generation > 1),
    "after the announcement": lambda s: after(s, s.mailboxes, "_carry_out", _is(Announce)),
    "after the acknowledgement": lambda s: before(s, s.mailboxes, "_carry_out", _is(Prove)),
    "after it is proven": lambda s: after(s, s.mailboxes, "_carry_out", _is(Prove)),
    "before the old one is given up": lambda s: before(s, s.mailboxes, "_carry_out", _is(GiveUp)),
    "before the old secret goes": lambda s: before(s, _secrets(s), "remove", _is_mailbox),
    "after the old one is given up": lambda s: after(s, s.mailboxes, "_carry_out", _is(GiveUp)),
}


async def rotations_until(offices: Offices, stop: Stop) -> None:
    """Rotate until the node stands still."""
    for turn in range(6):
        if stop.reached.is_set():
            return
        await grow_old(offices.here)
        await both_ways(offices, f"S-{turn}")
    raise AssertionError("the step was never reached")


@pytest.mark.parametrize("step", list(STEPS))
def test_a_node_killed_at_any_step_of_a_rotation_goes_on(tmp_path: Path, step: str) -> None:
    """Whatever was begun is finished or forgotten; the next rotations are like any other."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(60)
        stop = Stop(node_of(here).mailboxes)
        STEPS[step](stop)
        rotating = asyncio.ensure_future(rotations_until(offices, stop))
        await asyncio.wait(
            (rotating, asyncio.ensure_future(stop.reached.wait())), return_when=asyncio.FIRST_COMPLETED
        )
        assert stop.reached.is_set()
        rotating.cancel()
        await asyncio.gather(rotating, return_exceptions=True)
        at_death = await newest(here)
        here.host.kill(power_loss=True)
        await asyncio.sleep(120)
        await here.restart()
        await asyncio.sleep(300)
        await both_ways(offices, "B")
        await rotate(offices, "C")
        assert at_death < await newest(here) <= await address_generation(there)
        assert await address_generation(there) in {generation for generation, _, _ in await own(here)}
        await shut_for(offices, 20)
        rows = await own(here)
        assert len(rows) <= 4
        names = await read(here, lambda tx: [row[0] for row in tx.execute("SELECT name FROM mailbox")])
        assert sorted(node_of(here)._secrets.names("mailbox/")) == sorted(names)
        assert await count(here, "mailbox", "lost_ms IS NOT NULL") == 0
        assert offices.broker.broker is not None
        # Ours, and those of the other office: none stays at the broker that no row here knows.
        assert offices.broker.broker.store.totals().mailboxes <= len(rows) + len(await own(there)) + 1
        await both_ways(offices, "D")

    play(tmp_path, script)
