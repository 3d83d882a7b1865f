"""Cover on real daemons: what the line shows of it, what it costs, and what it never stands in the way of."""

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from node import full_mailboxes
from node.cover import SENT_BYTES, TAKEN_BYTES, cover_cost
from node.peers import load_peers
from protocol import limits
from protocol.message import MessageType
from runtime.sqlite import Snapshot, Transaction
from tests.node.offices import Offices, an_alert, count, link_of, node_of, play, read, settled, write
from tests.node.test_revocations import at_desk
from tests.simulation.daemons import OfficeHost
from tests.simulation.network import VirtualTransport
from tests.simulation.test_idle_day import RECORD_BYTES

HOURS = 2
MEAN_S = 300
_LENGTH = re.compile(rb"^POST /v1 .*Content-Length: ([0-9]+)\r\n", re.DOTALL)


@pytest.fixture(autouse=True)
def _with_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALWEEN_NODE_COVER_MEAN_S", str(MEAN_S))


class Line:
    """What is heard on every line: bytes of each office, and the sizes of its requests."""

    def __init__(self, offices: Offices) -> None:
        self.carried: Counter[str] = Counter()
        self.asked: dict[str, list[int]] = {"myitkyina": [], "tengchong": []}
        network = offices.world.network
        send = network.send

        def noted(sender: VirtualTransport, item: Any) -> None:
            if isinstance(item, bytes):
                ends = {sender.owner.name, sender.peer.owner.name} - {"broker"}
                for office in ends:
                    self.carried[office] += len(item) + RECORD_BYTES
                if found := _LENGTH.match(item):
                    self.asked[sender.owner.name].append(int(found[1]))
            send(sender, item)

        network.send = noted  # type: ignore[method-assign]

    def clear(self) -> None:
        """Listen anew."""
        self.carried.clear()
        for sizes in self.asked.values():
            sizes.clear()


async def send_now(office: OfficeHost) -> int:
    """The moment of its next cover comes now; how many of it there are then."""
    cover = node_of(office)._cover
    for peer_id, (_, seen) in list(cover._due.items()):
        cover._due[peer_id] = (0, seen)
    await office.host.run(lambda env: cover.send_due())
    return await covers(office)


async def covers(office: OfficeHost) -> int:
    """How many it made so far."""
    return await count(office, "delivery", f"type = {MessageType.COVER:d}")


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
        line = Line(offices)
        both = (offices.here, offices.there)

        # Of one, what the line carries in the office that sends it and in the one that takes it.
        await send_now(offices.here)  # or what was said at first takes its place
        await asyncio.sleep(10)
        for office in both:
            link_of(office).reread()  # no poll ends meanwhile but by what comes
        await asyncio.sleep(2)
        line.clear()
        before = await covers(offices.here)
        assert await send_now(offices.here) == before + 1
        await asyncio.sleep(10)
        assert abs(line.carried["myitkyina"] - SENT_BYTES) < SENT_BYTES // 30
        assert abs(line.carried["tengchong"] - TAKEN_BYTES) < TAKEN_BYTES // 30

        def entries(tx: Snapshot) -> int:
            size: int = tx.value("SELECT count(*) FROM leaf")
            return size

        logs = [await read(office, entries) for office in both]
        made = [await covers(office) for office in both]
        others = [await count(office, "delivery", "type <> 6") for office in both]
        answers = [await count(office, "received", "verdict <> 'service'") for office in both]
        line.clear()
        await asyncio.sleep(HOURS * 3600)
        for office, log, cover, other, answer in zip(both, logs, made, others, answers, strict=True):
            assert await read(office, entries) == log
            # Memoryless: as many as one expects, and a Poisson count strays by its root.
            expected = HOURS * 3600 / MEAN_S
            assert abs(await covers(office) - cover - expected) < 4 * expected**0.5
            # A heartbeat an hour, and nothing that answers.
            assert HOURS - 1 <= await count(office, "delivery", "type <> 6") - other <= HOURS + 1
            assert await count(office, "received", "verdict <> 'service'") == answer
        sizes = Counter(line.asked["myitkyina"])

        line.clear()
        await offices.here.log_in()
        await offices.here.send(an_alert("KA-1"))
        await asyncio.sleep(3)
        put = max(line.asked["myitkyina"])
        assert max(sizes) == put
        assert sizes[put] > HOURS * 3600 / MEAN_S / 2

        # What was said takes the place of the next.
        before = await covers(offices.here)
        assert await send_now(offices.here) == before
        assert await send_now(offices.here) == before + 1
        checks = await offices.here.host.run(lambda env: node_of(offices.here).doctor())
        (said,) = (check["detail"] for check in checks if check["what"] == "cover")
        assert (
            said
            == cover_cost(MEAN_S)
            == ("one in 300 s to each partner: 3.3 MB a day for each, and 3.9 MB for each that does the same")
        )

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
