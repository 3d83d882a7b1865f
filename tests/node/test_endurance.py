"""What must hold whatever dies and however long it lasts: nothing lost, nothing twice, nothing grows idle."""

import asyncio
import contextlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audit.fsck import verify
from audit.policy import single_log_policy
from audit.reader import PublishedLog
from node.peers import load_peers
from protocol import limits
from protocol.mailbox import QUOTAS
from runtime.sqlite import Snapshot
from tests.node.offices import Offices, an_alert, count, entries, node_of, play, read, shown
from tests.simulation.daemons import BrokerHost, OfficeHost

BURST = 30
TABLES = ("delivery", "received", "custody", "leaf", "quarantine", "receipt_due", "broker_delete", "ladder")


def _plates(tx: Snapshot) -> list[str]:
    return sorted(row[0] for row in tx.execute("SELECT headline FROM alert WHERE incoming = 1"))


async def _ladders(office: OfficeHost) -> list[list[str]]:
    await office.log_in()
    rows = await office.outbox()
    return [[rung.step for rung in row.recipients[0].ladder] for row in rows]


async def _log_holds(office: OfficeHost) -> None:
    """The published log verifies, and its entries are exactly the rows: none missing, none twice."""
    node = node_of(office)
    await office.host.run(lambda env: node.log.publish())
    assert office.host.life is not None
    published = PublishedLog(office.host.life.env.files.native_path("node/log"))
    report = verify(published, single_log_policy(node.desk._log_key))
    assert not report.findings, report.findings
    assert report.size == node.log.size

    def rows(tx: Snapshot) -> dict[str, list[str]]:
        def column(sql: str) -> list[str]:
            return sorted(row[0].hex() for row in tx.execute(sql))

        return {
            "msg.submit": column("SELECT msg_id FROM delivery WHERE alert_id IS NOT NULL"),
            "msg.custody": column("SELECT envelope_hash FROM custody"),
            "received": column("SELECT hh FROM received WHERE verdict <> 'service'"),
            "kept": column("SELECT alert_id FROM alert WHERE incoming = 1"),
        }

    kept = await read(office, rows)
    all_entries = await entries(office)

    def named(kind: str, field: str) -> list[str]:
        return sorted(str(e.fields[field]) for e in all_entries if e.kind == kind and field in e.fields)

    assert named("msg.submit", "msg") == kept["msg.submit"]
    assert named("msg.custody", "env") == kept["msg.custody"]
    first = [e for e in all_entries if e.kind == "msg.recv" and e.fields["verdict"] != "dup"]
    assert sorted(str(e.fields["hh"]) for e in first) == kept["received"]
    assert sorted(str(e.fields["alert"]) for e in first if "alert" in e.fields) == kept["kept"]
    sealed = await read(office, lambda tx: tx.value("SELECT sum(attempt) FROM delivery WHERE service = 0"))
    assert len(named("msg.seal", "env")) == len(set(named("msg.seal", "env"))) == sealed
    receipts = [(e.fields["msg"], e.fields["step"]) for e in all_entries if e.kind == "msg.receipt"]
    steps = await count(office, "ladder", "step IN ('delivered', 'opened', 'refused')")
    assert len(receipts) == len(set(receipts)) == steps


@pytest.mark.parametrize("seed", range(12))
def test_a_burst_survives_deaths_at_any_moment(tmp_path: Path, seed: int) -> None:
    """30 alerts each way while everybody dies at random instants: each arrives once, ladders are true."""

    async def script(offices: Offices) -> None:
        chance = random.Random(seed)
        here, there, broker = offices.here, offices.there, offices.broker

        async def was_kept(office: OfficeHost, headline: str) -> bool:
            while True:
                await asyncio.sleep(0.5)
                if office.host.life is not None and office.session is not None:
                    with contextlib.suppress(Exception):
                        return headline in {row.headline for row in await office.outbox()}

        async def send_all(office: OfficeHost, mark: str) -> None:
            number = 0
            while number < BURST:
                await asyncio.sleep(chance.uniform(0, 0.4))
                if office.host.life is None:
                    continue
                plate = f"{mark}-{number:02d}"
                try:
                    await office.send(an_alert(plate))
                except Exception:  # died in the middle: the officer looks whether it was kept
                    if not await was_kept(office, f"Vehicle {plate} White"):
                        continue
                number += 1

        async def die(host: OfficeHost | BrokerHost) -> None:
            for _ in range(3):
                await asyncio.sleep(chance.uniform(0.05, 6))
                if isinstance(host, OfficeHost):
                    host.session = None
                host.host.kill(power_loss=chance.random() < 0.5)
                await asyncio.sleep(chance.uniform(0.1, 5))
                await host.restart()

        await asyncio.gather(
            send_all(here, "HERE"), send_all(there, "THERE"), die(here), die(there), die(broker)
        )
        await asyncio.sleep(900)
        assert await read(there, _plates) == [f"Vehicle HERE-{n:02d} White" for n in range(BURST)]
        assert await read(here, _plates) == [f"Vehicle THERE-{n:02d} White" for n in range(BURST)]
        for office in (here, there):
            # The custody note may have died with its answer; the peer's own word is what counts.
            ladders = [[step for step in ladder if step != "on_broker"] for ladder in await _ladders(office)]
            assert ladders == [["kept", "delivered"]] * BURST
            assert await count(office, "delivery", "phase <> 'acknowledged' AND service = 0") == 0
            await _log_holds(office)

    play(tmp_path, script, seed=seed)


def test_keys_close_over_many_starts(tmp_path: Path) -> None:
    """25 restarts keep one instance; the keystore ends with few receive keys, and every alert was read."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        instance = await read(here, lambda tx: load_peers(tx)[0].pair.outbound.instance)
        for number in range(25):
            await here.send(an_alert(f"A-{number}"))
            await there.send(an_alert(f"B-{number}"))
            await asyncio.sleep(40)
            office = (here, there)[number % 2]
            office.host.kill(power_loss=number % 3 == 0)
            await office.restart()
            await asyncio.sleep(5)
        await asyncio.sleep(300)
        assert (await shown(here), await shown(there)) == (25, 25)
        for office in (here, there):
            # Three receive keys, and the one-time keys the other office may still use.
            assert len(node_of(office)._secrets.names("receive/")) <= 3 + limits.ONE_TIME_OFFERED_MAX
            keys = await read(office, lambda tx: load_peers(tx)[0].receive_keys)
            assert keys.cur.rk_gen > 15
        assert await read(here, lambda tx: load_peers(tx)[0].pair.outbound.instance) == instance

    play(tmp_path, script)


def test_an_alert_waits_while_the_broker_is_down_and_says_why(tmp_path: Path) -> None:
    """Kept at once; the link tells the cause in words; it crosses when the broker is back."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        offices.broker.host.kill()
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(120)
        status = await here.host.run(lambda env: node_of(here).desk.status())
        assert (status.link.state, status.outbox_waiting) == ("backing_off", 1)
        assert status.link.reason in ("broker_down", "broker_unreachable", "broker_lost")
        assert (status.link.detail or "").endswith(".")
        assert status.now_ms - status.link.since_ms > 60_000
        (row,) = await here.outbox()
        assert row.state == "waiting"
        await offices.broker.restart()
        await asyncio.sleep(1000)
        assert await shown(there) == 1

    play(tmp_path, script)


def test_a_broker_that_lost_its_disk_loses_no_alert(tmp_path: Path) -> None:
    """Mailboxes gone: the officer sees 'address lost', everything is kept, nothing is dropped."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        broker = offices.broker.broker
        assert broker is not None
        there.host.kill()
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(30)
        offices.broker.host.kill()
        await offices.broker.restart()
        lost = offices.broker.broker
        assert lost is not None
        database = lost._db
        assert database is not None
        await offices.broker.host.run(
            lambda env: database.transact(
                lambda tx: [tx.execute(f"DELETE FROM {table}") for table in ("items", "mailboxes")]
            )
        )
        await asyncio.sleep(1200)
        await here.log_in()
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(60)
        rows = await here.outbox()
        assert {row.recipients[0].cause for row in rows} == {"address_lost"}
        assert await count(here, "delivery", "alert_id IS NOT NULL AND message IS NOT NULL") == 2
        status = await here.host.run(lambda env: node_of(here).desk.status())
        assert status.outbox_waiting == 2

    play(tmp_path, script)


def test_years_of_history_do_not_slow_what_happens_every_second(tmp_path: Path) -> None:
    """What the links and the housekeeping ask all day reads what is open, never what was settled."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(120)
        asked: list[str] = []

        def plans(tx: Snapshot) -> list[tuple[str, str]]:
            found = []
            for sql in asked:
                with contextlib.suppress(Exception):  # the broker's own
                    rows = tx.execute("EXPLAIN QUERY PLAN " + sql, (None,) * sql.count("?"))
                    found += [(sql, row[3]) for row in rows]
            return found

        honest = Snapshot.execute

        def notes(self: Snapshot, sql: str, parameters: Any = ()) -> list[Any]:
            if sql not in asked and sql.startswith(("SELECT", "UPDATE", "DELETE")):
                asked.append(sql)
            return honest(self, sql, parameters)

        Snapshot.execute = notes  # type: ignore[method-assign]
        try:
            await here.send(an_alert("KA-2"))
            await offices.there.send(an_alert("KA-3"))
            await asyncio.sleep(4000)
            await here.host.run(lambda env: node_of(here).desk.status())
        finally:
            Snapshot.execute = honest  # type: ignore[method-assign]
        assert len(asked) > 20
        slow = [
            (plan, sql)
            for sql, plan in await read(here, plans)
            if plan.startswith("SCAN")
            and plan.split()[1] in ("delivery", "received", "alert", "custody", "ladder", "quarantine")
            and "INDEX" not in plan
        ]
        whole = [
            (plan, sql)
            for sql, plan in await read(here, plans)
            if "sqlite_autoindex_delivery_2 (peer=?)" in plan
        ]
        assert (slow, whole) == ([], [])

    play(tmp_path, script)


def test_a_full_mailbox_is_refilled_as_it_drains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five times what the mailbox holds, and a peer back after an hour: all there within two minutes."""
    small = replace(QUOTAS["pair"], items_max=10, reserved_items=2)
    monkeypatch.setitem(QUOTAS, "pair", small)

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        there.host.kill()
        for number in range(40):
            await here.send(an_alert(f"KA-{number:03d}"))
        await asyncio.sleep(3600)
        await here.log_in()
        causes = [row.recipients[0].cause for row in await here.outbox()]
        assert causes.count("broker_quota") >= 30
        await there.restart()
        await asyncio.sleep(120)
        assert await shown(there) == 40
        assert await count(here, "delivery", "phase <> 'acknowledged' AND alert_id IS NOT NULL") == 0

    play(tmp_path, script)
