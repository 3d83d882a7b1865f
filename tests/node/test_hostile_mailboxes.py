"""Brokers and peers that lie about mailboxes: nothing is lost, work stays bounded, both nodes live on."""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from protocol import limits
from protocol.delivery import link_retry_ms
from protocol.items import MailboxSuccessor
from protocol.requests import (
    AskGrant,
    Create,
    Created,
    List,
    Listed,
    ListedItem,
    Op,
    OpRefused,
    Put,
    Refusal,
    Remake,
    Result,
)
from runtime.sqlite import Snapshot
from tests.node.offices import Offices, alter_answers, count, link_of, node_of, play, read, settled, shown
from tests.node.test_hostile_peer import control
from tests.node.test_mailboxes import address_generation, both_ways, lasting_alert, newest, nothing_waits, own
from tests.node.test_rotation_crashes import grow_old, rotate
from tests.simulation.daemons import OfficeHost

HOUR_S = 3600


class Liar:
    """A broker that answers some ops by itself and never carries them out; ``asked`` counts those."""

    def __init__(self, office: OfficeHost, lie: Callable[[Op], Result | None]) -> None:
        self.asked = 0
        self._client = link_of(office).client
        honest = self._client.exchange

        async def exchange(ops: Sequence[Op]) -> tuple[Result, ...]:
            lies = [lie(op) for op in ops]
            told = [op for op, false in zip(ops, lies, strict=True) if false is None]
            self.asked += len(ops) - len(told)
            true = iter(await honest(told))
            return tuple(next(true) if false is None else false for false in lies)

        self._honest = honest
        self._client.exchange = exchange  # type: ignore[method-assign]

    def repent(self) -> None:
        """Honest from now on."""
        self._client.exchange = self._honest  # type: ignore[method-assign]


def tries_max(within_ms: int) -> int:
    """How often one item is put within so long when the answer never changes, and chance halves each wait."""
    tries, at_ms = 0, 0
    while at_ms <= within_ms:
        tries += 1
        at_ms += link_retry_ms(tries, 1.0)
    return tries


def alive(offices: Offices) -> None:
    """Neither node failed."""
    for office in (offices.here, offices.there):
        assert not node_of(office).failed.done(), node_of(office).failed


def own_address(tx: Snapshot) -> tuple[str, bytes]:
    """Where this office puts for its only peer."""
    (row,) = tx.execute("SELECT broker_address, put_secret FROM peer")
    return row[0], row[1]


def test_replayed_announcements_lead_nobody_back(tmp_path: Path) -> None:
    """F42: a broker lists every envelope again, old announcements among them; the highest one stays."""

    async def script(offices: Offices) -> None:
        there = offices.there
        kept: dict[bytes, ListedItem] = {}
        replayed = 0

        def replay(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            nonlocal replayed
            out = []
            for op, result in zip(ops, results, strict=True):
                if isinstance(op, List) and isinstance(result, Listed) and result.items:
                    old = [item for item in kept.values() if item.envelope is not None][:20]
                    kept.update({item.envelope_hash: item for item in result.items})
                    replayed += len(old)
                    items = [replace(item, cursor=result.items[0].cursor) for item in old]
                    result = replace(result, items=(*result.items, *items))
                out.append(result)
            return out

        await asyncio.sleep(60)
        alter_answers(there, replay)
        await rotate(offices, "A")
        before = await address_generation(there)
        assert before >= 2
        await both_ways(offices, "B")
        assert replayed > 10
        assert await address_generation(there) >= before
        alive(offices)

    play(tmp_path, script)


def test_a_broker_that_rolls_back_its_disk_makes_the_successor_again(tmp_path: Path) -> None:
    """F47: it forgets a proven successor and knows the retired one again; alerts of both times arrive."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        host = offices.broker.host
        await asyncio.sleep(60)
        host.kill()
        home = Path(f"{host.disk}{Path.cwd()}") / "broker"
        shutil.copytree(home, tmp_path / "old")
        await offices.broker.restart()
        await asyncio.sleep(120)
        await rotate(offices, "A")
        assert await newest(here) >= 2
        there.host.kill()
        await lasting_alert(here, "KA-1")
        await asyncio.sleep(60)
        host.kill()
        shutil.rmtree(home)
        shutil.copytree(tmp_path / "old", home)
        await offices.broker.restart()
        await asyncio.sleep(1200)
        await there.restart()
        await lasting_alert(there, "TC-1")
        await asyncio.sleep(2 * HOUR_S)
        await nothing_waits(here)
        await nothing_waits(there)
        assert await count(there, "alert", "incoming = 1") == await count(here, "alert", "incoming = 0")
        await both_ways(offices, "B")
        assert await count(here, "mailbox", "lost_ms IS NOT NULL AND stage <> 'passed'") == 0
        alive(offices)

    play(tmp_path, script)


def test_a_mailbox_is_announced_only_when_the_broker_grants_it(tmp_path: Path) -> None:
    """The broker says Created and makes nothing: no peer is told, the old mailbox stays."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(60)
        liar = Liar(here, lambda op: Created() if isinstance(op, Create) else None)
        await grow_old(here)
        await both_ways(offices, "A")
        await asyncio.sleep(5 * HOUR_S)
        assert [row[:2] for row in await own(here)] == [(1, "proven"), (2, "asked")]
        assert await address_generation(there) == 0
        assert 1 <= liar.asked <= 5 * 5
        liar.repent()
        await asyncio.sleep(2 * HOUR_S)
        await both_ways(offices, "B")
        assert await newest(here) == 2
        alive(offices)

    play(tmp_path, script)


@pytest.mark.parametrize("refused", [(Create,), (AskGrant,), (Create, AskGrant, Remake)])
def test_a_broker_that_refuses_to_make_or_grant_stops_no_alert(
    tmp_path: Path, refused: tuple[type[Op], ...]
) -> None:
    """For ever: no rotation there, a request in a quarter of an hour at most, and alerts cross as before."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(60)
        liar = Liar(here, lambda op: OpRefused(code=Refusal.MALFORMED) if isinstance(op, refused) else None)
        await grow_old(here)
        await both_ways(offices, "A")
        await asyncio.sleep(6 * HOUR_S)
        assert 1 <= liar.asked <= 6 * 4 * 3 + 12
        assert len(await own(here)) == 2
        assert await newest(here) == 1
        assert await address_generation(there) == 0
        await both_ways(offices, "B")
        alive(offices)

    play(tmp_path, script)


def test_a_mailbox_falsely_called_gone_for_an_hour_loses_nothing(tmp_path: Path) -> None:
    """The alert is kept, the officer and the doctor are told, and it leaves when the lie ends."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await settled(offices)
        liar = Liar(here, lambda op: OpRefused(code=Refusal.GONE) if isinstance(op, Put) else None)
        await lasting_alert(here, "KA-1")
        await asyncio.sleep(HOUR_S)
        # The alert; one acknowledgement, however often the peer sends again what it has none of; a heartbeat.
        waiting = await count(here, "delivery", "phase = 'address_lost'")
        assert 1 <= waiting <= 3
        assert 1 <= liar.asked <= waiting * tries_max(HOUR_S * 1000)
        await here.log_in()
        (peer,) = await here.peers()
        assert peer.address_lost_ms is not None
        checks = await here.host.run(lambda env: node_of(here).doctor())
        (check,) = (c for c in checks if c["what"] == f"address of {peer.name}")
        assert not check["ok"]
        assert "salween-node import-address" in check["fix"]
        liar.repent()
        await lasting_alert(here, "KA-2")
        await asyncio.sleep(60)
        assert await shown(there) == 2, "the first that the broker takes brings the others"
        await nothing_waits(here)
        await both_ways(offices, "B")
        checks = await here.host.run(lambda env: node_of(here).doctor())
        assert [c["ok"] for c in checks if c["what"] == "mailboxes"] == [True]
        alive(offices)

    play(tmp_path, script)


def test_a_lost_mailbox_of_ours_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    """The broker says that there is none and makes none again: kept as lost, told, and tried again."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await asyncio.sleep(60)
        lies = {AskGrant: Refusal.NOT_FOUND, Remake: Refusal.MALFORMED}
        liar = Liar(here, lambda op: OpRefused(code=lies[type(op)]) if type(op) in lies else None)
        await here.host.run(lambda env: node_of(here).mailboxes.round_once())
        checks = await here.host.run(lambda env: node_of(here).doctor())
        (check,) = (c for c in checks if c["what"].startswith("our mailbox for "))
        assert "salween-node move --broker" in check["fix"]
        status = await here.host.run(lambda env: node_of(here).desk.status())
        assert [(loss.broker, loss.mailboxes) for loss in status.broker_losses] == [("broker:7440", 0)]
        liar.repent()
        await here.host.run(lambda env: node_of(here).mailboxes.round_once())
        await both_ways(offices, "B")
        checks = await here.host.run(lambda env: node_of(here).doctor())
        assert [c["ok"] for c in checks if c["what"] == "mailboxes"] == [True]
        alive(offices)

    play(tmp_path, script)


@pytest.mark.parametrize("where", ["rubbish", "salween://[::1]:1#a", "", "x" * 200])
def test_an_address_that_is_none_is_not_used(tmp_path: Path, where: str) -> None:
    """The message is acknowledged, its address dropped; alerts go where they went."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(60)
        put = await read(here, own_address)
        await control(there, _successor(5, where))
        await asyncio.sleep(300)
        assert await read(here, own_address) == put
        await both_ways(offices, "B")
        alive(offices)

    play(tmp_path, script)


def _successor(generation: int, where: str, put_secret: bytes = b"\x07" * 32) -> MailboxSuccessor:
    return MailboxSuccessor(
        generation=generation, put_secret=put_secret, mailbox_public=b"\x08" * 32, broker_address=where
    )


def test_ten_thousand_generations_leave_one_row(tmp_path: Path) -> None:
    """Real address and secret, so alerts flow on; what is kept of all of them is the last."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(60)
        where, secret = await read(here, own_address)
        size = await read(here, lambda tx: tx.value("SELECT count(*) FROM leaf"))
        for first in range(1, 10_001, 20):
            if first % 1000 == 1:
                await asyncio.sleep(120)
            await control(there, *(_successor(first + step, where, secret) for step in range(1, 21)))
        await asyncio.sleep(600)
        assert await count(here, "address") == 1
        assert await address_generation(here) == 10_001
        grown = await read(here, lambda tx: tx.value("SELECT count(*) FROM leaf")) - size
        assert grown <= 3 * 500 + 50, "entries by message, not by generation"
        await both_ways(offices, "B")
        alive(offices)

    play(tmp_path, script)


def test_the_last_generation_first_stops_rotation_and_nothing_else(tmp_path: Path) -> None:
    """2^32-1 wins for good: later ones of that peer are ignored, its old mailbox is never given up."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(60)
        where, secret = await read(here, own_address)
        await control(there, _successor(limits.U32_MAX, where, secret))
        await asyncio.sleep(300)
        assert await address_generation(here) == limits.U32_MAX
        for turn in range(6):
            await grow_old(there)
            await both_ways(offices, f"T-{turn}")
        assert await newest(there) == 1
        assert len(await own(there)) <= 1 + limits.UNPROVEN_SUCCESSORS_MAX
        assert await read(here, own_address) == (where, secret)
        alive(offices)

    play(tmp_path, script)
