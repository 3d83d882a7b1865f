"""Cover on real daemons: what the line shows of it, what it costs, and what it never stands in the way of."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from node import full_mailboxes
from node.cover import SENT_BYTES, TAKEN_BYTES, cover_cost, day_bytes
from node.peers import load_peers
from protocol import limits
from protocol.message import MessageType
from runtime.sqlite import Snapshot, Transaction
from tests.node.offices import Offices, an_alert, count, node_of, play, read, settled, write
from tests.node.test_revocations import at_desk
from tests.simulation.daemons import OfficeHost
from tests.simulation.meter import Meter, cost_of_cover, send_cover_now

HOURS = 2
MEAN_S = 300


@pytest.fixture(autouse=True)
def _with_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALWEEN_NODE_COVER_MEAN_S", str(MEAN_S))


async def send_now(office: OfficeHost) -> int:
    """The moment of its next cover comes now; how many of it there are then."""
    await send_cover_now(office)
    return await covers(office)


async def covers(office: OfficeHost) -> int:
    """How many it made so far."""
    return await count(office, "delivery", f"type = {MessageType.COVER:d}")


def test_the_operator_reads_the_cost_that_doctor_computes() -> None:
    """The figures of the table of settings."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    sent, taken = (size / 1e6 for size in day_bytes(600))
    assert (
        f"at 600 about {sent:.1f} MB for each partner and {taken:.1f} MB for each that does the same" in page
    )


async def types_due(office: OfficeHost) -> list[MessageType]:
    """What would share the next request."""
    node = node_of(office)
    (address,) = node._links

    async def look(env: object) -> list[MessageType]:
        batch = await node._outbox.due(address, ops_max=128, bytes_max=2**20)
        node._outbox.release(batch.marks)  # type: ignore[arg-type]
        return [row.type for row in batch.marks]  # type: ignore[attr-defined]

    return await office.host.run(look)


def test_cover_looks_like_alerts_costs_what_is_said_and_is_never_answered(tmp_path: Path) -> None:
    """Hours of nothing: requests of one size with those of an alert, no entry in any log, no answer."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        meter = Meter(offices)
        both = (offices.here, offices.there)

        # Computed from the sizes of messages; the line carries that, but for the length of the broker's name.
        for measured, computed in zip(
            await cost_of_cover(offices, meter), (SENT_BYTES, TAKEN_BYTES), strict=True
        ):
            assert abs(measured - computed) < 10

        def entries(tx: Snapshot) -> int:
            size: int = tx.value("SELECT count(*) FROM leaf")
            return size

        logs = [await read(office, entries) for office in both]
        made = [await covers(office) for office in both]
        others = [await count(office, "delivery", "type <> 6") for office in both]
        answers = [await count(office, "received", "verdict <> 'service'") for office in both]
        meter.clear()
        await asyncio.sleep(HOURS * 3600)
        for office, log, cover, other, answer in zip(both, logs, made, others, answers, strict=True):
            assert await read(office, entries) == log
            # Memoryless: as many as one expects, and a Poisson count strays by its root.
            expected = HOURS * 3600 / MEAN_S
            assert abs(await covers(office) - cover - expected) < 4 * expected**0.5
            # A heartbeat an hour, and nothing that answers.
            assert HOURS - 1 <= await count(office, "delivery", "type <> 6") - other <= HOURS + 1
            assert await count(office, "received", "verdict <> 'service'") == answer
        sizes = Counter(meter.asked["myitkyina"])

        meter.clear()
        await offices.here.log_in()
        await offices.here.send(an_alert("KA-1"))
        await asyncio.sleep(3)
        put = max(meter.asked["myitkyina"])
        assert max(sizes) == put
        assert sizes[put] > HOURS * 3600 / MEAN_S / 2

        # What was said takes the place of the next.
        before = await covers(offices.here)
        assert await send_now(offices.here) == before
        assert await send_now(offices.here) == before + 1
        checks = await offices.here.host.run(lambda env: node_of(offices.here).doctor())
        (said,) = (check["detail"] for check in checks if check["what"] == "cover")
        assert said == cover_cost(MEAN_S, 1)
        assert said == "one in 300 s to each: 3.3 MB a day, and 3.9 MB more if all partners (1) do the same"
        assert cover_cost(0, 2).startswith("none is sent; one in 600 s (cover_mean_s) would be 3.3 MB a day")

    play(tmp_path, script)


def test_cover_takes_no_place_that_an_alert_could_want(tmp_path: Path) -> None:
    """One at most waits for a link or a full mailbox, behind everything; few for a peer that is shut."""

    async def script(offices: Offices) -> None:
        await settled(offices)
        network = offices.world.network
        network.cut("myitkyina", "broker")
        before = await covers(offices.here)
        for _ in range(4):
            await send_now(offices.here)
        assert await covers(offices.here) == before + 1
        await offices.here.log_in()
        await offices.here.send(an_alert("KA-1"))
        await asyncio.sleep(125)  # what is under way is given up
        node = node_of(offices.here)
        await offices.here.host.run(
            lambda env: node.database.transact(
                lambda tx: tx.execute("UPDATE delivery SET next_at_ms = 0 WHERE next_at_ms IS NOT NULL")
            )
        )
        due = await types_due(offices.here)
        assert MessageType.ALERT in due
        assert MessageType.COVER not in due

        def first_into_a_full_mailbox(tx: Transaction) -> int:
            (peer,) = load_peers(tx)
            tx.execute(
                "INSERT INTO full_mailbox (peer, urgent, attempt, next_at_ms, probe, credit)"
                " VALUES (?, 0, 1, 0, 1, 0)",
                (peer.office_id,),
            )
            (row,) = full_mailboxes.let_through(tx, [peer.office_id], 1, most=1)
            full_mailboxes.forget(tx, peer.office_id)
            found: int = tx.value("SELECT type FROM delivery WHERE rowid = ?", (row,))
            return found

        oldest = await read(
            offices.here,
            lambda tx: tx.value(
                "SELECT type FROM delivery WHERE phase = 'kept' AND NOT urgent ORDER BY rowid LIMIT 1"
            ),
        )
        assert oldest == MessageType.COVER
        assert await write(offices.here, first_into_a_full_mailbox) == MessageType.ALERT
        network.heal()
        await asyncio.sleep(1200)
        assert await count(offices.here, "delivery", "type = 1 AND phase = 'acknowledged'") == 1

        offices.there.host.kill()
        for _ in range(limits.COVER_UNACKNOWLEDGED_MAX + 10):
            await send_now(offices.here)
            await asyncio.sleep(2)
        waiting = await count(offices.here, "delivery", "type = 6 AND phase = 'held'")
        assert 0 < waiting <= limits.COVER_UNACKNOWLEDGED_MAX

        await offices.there.restart()
        await asyncio.sleep(3700)  # its heartbeat says what it has
        before = await covers(offices.here)
        await send_now(offices.here)
        assert await send_now(offices.here) > before
        peer_id = await read(offices.here, lambda tx: load_peers(tx)[0].office_id.hex())
        await at_desk(offices.here, lambda node, session: node.desk.suspend(session, peer_id))
        before = await covers(offices.here)
        await send_now(offices.here)
        await asyncio.sleep(600)
        assert await covers(offices.here) == before

    play(tmp_path, script)
