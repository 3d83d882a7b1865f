"""When receipts leave: together, at a moment drawn by lot; what is immediate at once."""

import asyncio
from pathlib import Path

from tests.node.offices import Offices, an_alert, count, entries, node_of, play, settled
from tests.simulation.daemons import OfficeHost

SPREAD_MS = 10_000
LOOK_MS = 1_000


async def _seals(office: OfficeHost) -> list[int]:
    """When this office sealed its messages, ms."""
    return [entry.at_ms for entry in await entries(office, "msg.seal")]


def test_what_arrives_together_is_receipted_under_one_signature(tmp_path: Path) -> None:
    """Eight alerts make one message of receipts, or two: not one each, and none is forgotten."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await settled(offices)
        for number in range(8):
            await here.send(an_alert(f"KA-{number}"))
        await asyncio.sleep(30)
        assert 1 <= await count(there, "delivery", "type = 3") <= 2
        await here.log_in()
        assert [row.state for row in await here.outbox()] == ["delivered"] * 8

    play(tmp_path, script)


def test_nobody_can_tell_by_its_receipt_when_an_alert_was_opened(tmp_path: Path) -> None:
    """From opening to receipt it takes another time each time, within the bound; what is immediate waits for
    nothing."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await settled(offices)
        took: dict[str, list[int]] = {"expected": [], "immediate": []}
        for number in range(10):
            urgency = "expected" if number < 7 else "immediate"
            reason = {"urgency_reason": "crosses within the hour"} if urgency == "immediate" else {}
            await here.send(an_alert(f"KA-{number}").model_copy(update={"urgency": urgency, **reason}))
            await asyncio.sleep(60)
            await there.log_in()
            alert_id = (await there.inbox())[0].alert_id
            opened_ms = there.now_ms()
            await there.open_alert(alert_id)
            await asyncio.sleep(60)
            sealed = await _seals(there)
            after = next((at_ms for at_ms in sealed if at_ms >= opened_ms), None)
            assert after is not None, (number, opened_ms, sealed[-4:])
            took[urgency].append(after - opened_ms)
        assert max(took["immediate"]) < 1_000
        assert max(took["expected"]) <= SPREAD_MS + LOOK_MS
        assert max(took["expected"]) - min(took["expected"]) > SPREAD_MS / 4
        assert node_of(there) is not None

    play(tmp_path, script)


def test_a_clock_set_back_holds_no_receipt_back(tmp_path: Path) -> None:
    """A moment drawn by a clock that stood a day ahead is no moment to wait for."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await settled(offices)
        day_ms = 24 * 3_600_000
        there.host.step_clock(day_ms)
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(1.5)
        there.host.step_clock(-day_ms)
        await asyncio.sleep(90)
        await here.log_in()
        (row,) = await here.outbox()
        assert row.recipients[0].ladder[-1].step == "delivered"

    play(tmp_path, script)
