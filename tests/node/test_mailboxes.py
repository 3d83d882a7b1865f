"""Rotation, months shut, erased brokers: whatever becomes of a mailbox, alerts flow and none is lost."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from broker.setup import begin_again
from keys.brokercard import encode_broker_card, parse_broker_address_untrusted
from keys.errors import PolicyRefused, Unavailable
from node.broker_link import BrokerClient
from node.secrets import MailboxKeys
from protocol import limits
from protocol.requests import AskGrant, Op, Publish, Result
from protocol.tokens import parse_token_untrusted
from runtime.env import Env
from runtime.sqlite import Transaction
from tests.node.offices import Offices, an_alert, count, link_of, node_of, play, read, shown, write
from tests.node.papers import a_revocation, sheet_of
from tests.simulation.daemons import BrokerHost, OfficeHost

DAY_S = 24 * 3600
DAY_MS = limits.DAY_MS

Exchange = Callable[[Sequence[Op]], Awaitable[tuple[Result, ...]]]
Own = tuple[int, str, str]  # generation, stage, broker


async def own(office: OfficeHost) -> list[Own]:
    """The mailboxes of an office that has one peer."""
    return await read(
        office,
        lambda tx: [
            (row[0], row[1], row[2])
            for row in tx.execute("SELECT generation, stage, broker_address FROM mailbox ORDER BY generation")
        ],
    )


async def newest(office: OfficeHost) -> int:
    """The newest proven generation."""
    return max(generation for generation, stage, _ in await own(office) if stage == "proven")


async def address_generation(office: OfficeHost) -> int:
    """What an office knows of where its peer reads; 0: from the pairing."""
    return int(await read(office, lambda tx: tx.value("SELECT coalesce(max(generation), 0) FROM address")))


async def nothing_waits(office: OfficeHost) -> None:
    """Every alert of this office has its receipt."""
    assert await count(office, "delivery", "alert_id IS NOT NULL AND phase <> 'acknowledged'") == 0


async def lasting_alert(office: OfficeHost, plate: str, days: int = 7) -> None:
    """One that is written now and expires so many days on."""
    now_ms = office.now_ms()
    times = {"created_ms": now_ms, "expires_ms": now_ms + days * DAY_MS, "erase_at_ms": now_ms + 400 * DAY_MS}
    await office.log_in()
    await office.send(an_alert(plate).model_copy(update=times))


async def both_ways(offices: Offices, word: str) -> None:
    """An alert each way arrives within a minute or two, with its receipt."""
    before = await shown(offices.here), await shown(offices.there)
    await lasting_alert(offices.here, f"{word}-1")
    await lasting_alert(offices.there, f"{word}-2")
    await asyncio.sleep(180)
    assert (await shown(offices.here), await shown(offices.there)) == (before[0] + 1, before[1] + 1)
    for office in (offices.here, offices.there):
        await nothing_waits(office)
        assert not node_of(office).failed.done(), node_of(office).failed


async def pass_days(offices: Offices, days: float, *opened: OfficeHost) -> None:
    """Days on which these offices and the broker are up for ten minutes in each four."""
    for _ in range(round(days / 4)):
        for host in (offices.broker.host, *(office.host for office in opened)):
            host.kill()
        await asyncio.sleep(4 * DAY_S - 600)
        await offices.broker.restart()
        for office in opened:
            await office.restart()
        await asyncio.sleep(600)


def test_mailboxes_rotate_weekly_and_old_ones_go_with_their_secrets(tmp_path: Path) -> None:
    """Ten weeks: about one rotation each, both know the newest, few mailboxes are left anywhere."""

    async def script(offices: Offices) -> None:
        await pass_days(offices, 70, offices.here, offices.there)
        for office, other in ((offices.here, offices.there), (offices.there, offices.here)):
            rows = await own(office)
            assert 7 <= await newest(office) <= 12
            assert await address_generation(other) == await newest(office)
            assert len(rows) <= 5
            assert len(node_of(office)._secrets.names("mailbox/")) == len(rows)
        broker = offices.broker.broker
        assert broker is not None
        assert broker.store.totals().mailboxes <= 10
        assert broker.store.totals().retired >= 8
        await both_ways(offices, "KA")

    play(tmp_path, script)


def test_an_office_shut_for_sixty_days_comes_back_and_everything_flows(tmp_path: Path) -> None:
    """Alerts written meanwhile arrive, or are shown as expired; no hole stays, and rotation goes on.

    Then the other one is shut, and comes back to a pair with such a past.
    """

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        for place, away, left in (("there", there, here), ("here", here, there)):
            await pass_days(offices, 16, away, left)
            before, expired = await shown(away), await count(left, "ladder", "step = 'expired'")
            away.host.kill()
            await lasting_alert(left, f"OLD-{place}", days=20)
            for number in range(5):
                await lasting_alert(left, f"KA-{place}-{number}", days=90)
                await pass_days(offices, 12, left)
            assert len([row for row in await own(left) if row[1] in ("asked", "made")]) <= 1
            await away.restart()
            await asyncio.sleep(7200)
            assert await shown(away) == before + 5
            assert await count(left, "ladder", "step = 'expired'") == expired + 1
            await away.log_in()
            assert all(peer.missing_in == 0 for peer in await away.peers())
            await both_ways(offices, f"B-{place}")
            generations = await newest(left), await newest(away)
            await pass_days(offices, 20, away, left)
            assert await address_generation(left) == await newest(away) > generations[1]
            assert await address_generation(away) == await newest(left) > generations[0]

    play(tmp_path, script)


async def erase(offices: Offices) -> None:
    """The broker's disk is lost; keystore and configuration were kept."""
    host = offices.broker.host
    host.kill()
    home = Path(f"{host.disk}{Path.cwd()}") / "broker"  # where its working directory stands
    for path in home.glob("broker.db*"):
        path.unlink()
    host.boot()
    await host.run(lambda env: begin_again(env, "broker"))
    host.kill()
    await offices.broker.restart()


def test_an_erased_broker_makes_the_mailboxes_again_and_nothing_is_lost(tmp_path: Path) -> None:
    """I17, F47: alerts it had promised to keep and new ones arrive; no operator hands out a token."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(60)
        assert await count(here, "mailbox", "grant_bytes IS NULL") == 0
        there.host.kill()
        for number in range(3):
            await lasting_alert(here, f"KA-{number}")
        await asyncio.sleep(60)
        assert await count(here, "delivery", "alert_id IS NOT NULL AND phase = 'held'") == 3
        await erase(offices)
        await asyncio.sleep(600)
        await there.restart()
        await lasting_alert(here, "KA-9")
        await asyncio.sleep(1200)
        assert await shown(there) == 4
        await nothing_waits(here)
        assert await count(here, "broker_loss_item") == 3
        await both_ways(offices, "B")
        broker = offices.broker.broker
        assert broker is not None
        assert broker.store.totals().remade == 2
        assert await count(here, "address", "lost_ms IS NOT NULL") == 0

    play(tmp_path, script)


def test_what_a_broker_took_back_before_its_loss_is_noted_is_among_what_it_lost(tmp_path: Path) -> None:
    """Asked about an alert first and about the mailbox later: it had promised what it does not know."""

    async def script(offices: Offices) -> None:
        here = offices.here
        offices.there.host.kill()
        await lasting_alert(here, "KA-1")
        await asyncio.sleep(60)
        assert await count(here, "custody") >= 1
        client = link_of(here).client
        exchange = client.exchange
        is_late = True

        async def asked(ops: Sequence[Op]) -> tuple[Result, ...]:
            if is_late and any(isinstance(op, AskGrant) for op in ops):
                raise Unavailable("broker_lost", "not yet")
            return await exchange(ops)

        client.exchange = asked  # type: ignore[method-assign]
        await erase(offices)
        outbox, soon = node_of(here)._outbox, here.now_ms()

        def ask(tx: Transaction) -> None:
            for (hh,) in tx.execute("SELECT hh FROM delivery WHERE alert_id IS NOT NULL"):
                row = outbox._load(tx, hh)
                assert row is not None
                outbox._ask_now(tx, row, soon)

        await write(here, ask)
        await asyncio.sleep(120)
        assert await count(here, "taken_back") == 1
        is_late = False
        await asyncio.sleep(1200)
        status = await here.host.run(lambda env: node_of(here).desk.status())
        assert [len(loss.alerts) for loss in status.broker_losses] == [1]
        assert await count(here, "taken_back") == 0

    play(tmp_path, script)


def test_a_mailbox_is_granted_with_the_first_link(tmp_path: Path) -> None:
    """A broker that loses its disk makes again only what it granted: that is asked for at once."""

    async def script(offices: Offices) -> None:
        await asyncio.sleep(2)
        for office in (offices.here, offices.there):
            assert await count(office, "mailbox", "grant_bytes IS NOT NULL") == 1
        await erase(offices)
        await both_ways(offices, "A")

    play(tmp_path, script)


def test_a_peer_moves_to_a_broker_known_from_before(tmp_path: Path) -> None:
    """Its card was kept long ago and nobody speaks to it: what waits for the peer leaves at once."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        new = BrokerHost(offices.world, "broker2")
        await new.make()
        address = parse_broker_address_untrusted(new.address)

        async def know(env: Env) -> None:
            client = BrokerClient(env, address)
            card = encode_broker_card(await client.card())
            await client.close()
            await node_of(here).database.transact(
                lambda tx: tx.execute("INSERT INTO broker (address, card) VALUES (?, ?)", (new.address, card))
            )

        await here.host.run(know)
        token = parse_token_untrusted(await new.token())
        await there.host.run(lambda env: node_of(there).mailboxes.move(new.address, [token], []))
        await asyncio.sleep(60)
        await lasting_alert(here, "KA-1")
        await asyncio.sleep(60)
        assert await shown(there) == 1

    play(tmp_path, script)


def test_a_broker_lost_with_its_keys_is_left_for_another_by_file(tmp_path: Path) -> None:
    """Both move; one file breaks the circle, the other direction follows by itself; what waited arrives."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(60)
        offices.broker.host.kill()
        await lasting_alert(here, "KA-1")
        await lasting_alert(there, "KA-2")
        new = BrokerHost(offices.world, "broker2")
        await new.make()
        files = []
        for office in (here, there):
            token = parse_token_untrusted(await new.token())
            mailboxes = node_of(office).mailboxes
            (moved,) = await office.host.run(lambda env, m=mailboxes, t=token: m.move(new.address, [t], []))  # type: ignore[misc]
            files.append(moved.envelope)
        await there.host.run(lambda env: node_of(there).import_address(files[0]))
        with pytest.raises(PolicyRefused, match="file_not_for_us"):
            await here.host.run(lambda env: node_of(here).import_address(files[0]))
        await asyncio.sleep(1800)
        assert (await shown(here), await shown(there)) == (1, 1)
        await both_ways(offices, "B")
        assert await newest(here) == await newest(there) == 2

    play(tmp_path, script)


def test_a_broker_is_never_shown_the_secret_of_a_mailbox_at_another(tmp_path: Path) -> None:
    """On its way to a second broker an office has mailboxes at both: each broker's own vouches there."""

    async def script(offices: Offices) -> None:
        there = offices.there
        new = BrokerHost(offices.world, "broker2")
        await new.make()
        token = parse_token_untrusted(await new.token())
        node = node_of(there)
        await there.host.run(lambda env: node.mailboxes.move(new.address, [token], []))
        await asyncio.sleep(60)
        assert {broker for _, _, broker in await own(there)} == {offices.broker.address, new.address}
        shown_to: dict[str, set[bytes]] = {}
        for address, entry in node._links.items():
            honest = entry.link.client.exchange

            async def exchange(
                ops: Sequence[Op], honest: Exchange = honest, address: str = address
            ) -> tuple[Result, ...]:
                vouching = [op.get_secret for op in ops if isinstance(op, Publish)]
                shown_to.setdefault(address, set()).update(vouching)
                return await honest(ops)

            entry.link.client.exchange = exchange  # type: ignore[method-assign]
        notice = a_revocation(await sheet_of(there)).data
        await there.host.run(lambda env: node.revocations.take_notice(notice, "paper"))
        for entry in list(node._links.values()):
            await there.host.run(lambda env, client=entry.link.client: node.revocations.visit(client))  # type: ignore[misc]
        for address in (new.address, offices.broker.address):
            rows = await read(
                there,
                lambda tx, at=address: tx.execute("SELECT name FROM mailbox WHERE broker_address = ?", (at,)),  # type: ignore[misc]
            )
            ours = {MailboxKeys.from_secret(node._secrets.get(name)).get_secret.reveal() for (name,) in rows}
            assert shown_to[address]
            assert shown_to[address] <= ours

    play(tmp_path, script)
