"""What officers answer to an alert, what the sender is shown of it, and what silence is recorded as."""

import asyncio
from pathlib import Path

import pytest

from keys.errors import MalformedInput, PolicyRefused
from node.daemon import Node
from protocol.limits import HOUR_MS, OUTCOMES_PER_DELIVERY_MAX
from tests.node.offices import Offices, an_alert, count, entries, node_of, play, read, shown
from tests.simulation.daemons import OfficeHost
from tests.simulation.env import EPOCH_MS


async def answer(office: OfficeHost, alert_id: str, step: str, code: str = "") -> None:
    await office.log_in()

    async def give(node: Node) -> None:
        session = office.session
        assert session is not None
        await node.desk.answer(session, alert_id, step, code)

    await office.host.run(lambda env: give(node_of(office)))


async def ladder(office: OfficeHost) -> list[str]:
    await office.log_in()
    (row,) = await office.outbox()
    return [rung.step for rung in row.recipients[0].ladder]


def test_every_answer_is_a_signed_rung_on_the_clock_of_the_office_that_gave_it(tmp_path: Path) -> None:
    """Opened, taken on, outcome: one entry there, one receipt, one rung here with its place in their log."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        (row,) = await there.inbox()
        with pytest.raises(PolicyRefused) as early:
            await answer(there, row.alert_id, "assigned")
        assert early.value.code == "answer_before_opening"
        await there.open_alert(row.alert_id)
        await answer(there, row.alert_id, "assigned")
        await answer(there, row.alert_id, "outcome", "rescued")
        await asyncio.sleep(60)
        await here.log_in()
        (sent,) = await here.outbox()
        rungs = sent.recipients[0].ladder
        assert [rung.step for rung in rungs] == [
            "kept",
            "on_broker",
            "delivered",
            "opened",
            "assigned",
            "outcome",
        ]
        assert sent.state == "outcome"
        assert {rung.clock for rung in rungs[2:]} == {"Tengchong BLO"}
        assert rungs[-1].code == "rescued"
        given = await entries(there, "ans.given")
        assert [(e.index, e.fields["step"]) for e in given] == [
            (rungs[-2].log_index, "assigned"),
            (rungs[-1].log_index, "outcome"),
        ]
        assert [e.fields["step"] for e in await entries(here, "msg.receipt")] == [
            "delivered",
            "opened",
            "assigned",
            "outcome",
        ]
        # The office that answered sees its own answers on the page of the alert.
        session = there.session
        assert session is not None
        view = await there.host.run(
            lambda env: node_of(there).desk.open_alert(session, row.alert_id, purpose="duty")
        )
        assert [(rung.step, rung.code) for rung in view.ladder] == [
            ("assigned", None),
            ("outcome", "rescued"),
        ]

    play(tmp_path, script)


def test_the_first_outcome_stands_and_corrections_are_lines_beside_it(tmp_path: Path) -> None:
    """At most eight; nothing but another outcome follows one; what is no code of the list is refused."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        (row,) = await there.inbox()
        await there.open_alert(row.alert_id)
        for step, code in (("outcome", ""), ("outcome", "lost"), ("refused", "same_officer"), ("read", "")):
            with pytest.raises(MalformedInput) as wrong:
                await answer(there, row.alert_id, step, code)
            assert wrong.value.code == "answer_code"
        await answer(there, row.alert_id, "outcome", "no_trace")
        for step, code in (("assigned", ""), ("refused", "no_capacity")):
            with pytest.raises(PolicyRefused) as late:
                await answer(there, row.alert_id, step, code)
            assert late.value.code == "answer_after_outcome"
        for _ in range(OUTCOMES_PER_DELIVERY_MAX - 1):
            await answer(there, row.alert_id, "outcome", "intercepted")
        with pytest.raises(PolicyRefused) as many:
            await answer(there, row.alert_id, "outcome", "intercepted")
        assert many.value.code == "answers_too_many"
        await asyncio.sleep(60)
        await here.log_in()
        (sent,) = await here.outbox()
        codes = [rung.code for rung in sent.recipients[0].ladder if rung.step == "outcome"]
        assert codes == ["no_trace"] + ["intercepted"] * 7

    play(tmp_path, script)


def test_an_officer_refuses_and_may_still_take_it_on(tmp_path: Path) -> None:
    """Refused after opening is the last word until somebody takes it on: the ladder only climbs."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        (row,) = await there.inbox()
        await there.open_alert(row.alert_id)
        await answer(there, row.alert_id, "refused", "not_our_area")
        await asyncio.sleep(60)
        assert (await ladder(here))[-2:] == ["opened", "refused"]
        with pytest.raises(PolicyRefused) as again:
            await answer(there, row.alert_id, "refused", "no_capacity")
        assert again.value.code == "answer_again"
        await answer(there, row.alert_id, "assigned")
        await asyncio.sleep(60)
        assert (await ladder(here))[-2:] == ["refused", "assigned"]

    play(tmp_path, script)


def test_an_answer_survives_a_death_before_it_left(tmp_path: Path) -> None:
    """Entry, answer and receipt are one transaction: after a kill all are there, and it still leaves."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        (row,) = await there.inbox()
        await there.open_alert(row.alert_id)
        await asyncio.sleep(60)
        offices.broker.host.kill()
        await answer(there, row.alert_id, "outcome", "seized")
        there.host.kill(power_loss=True)
        await there.restart()
        assert await count(there, "answer") == len(await entries(there, "ans.given")) == 1
        await offices.broker.restart()
        await asyncio.sleep(1200)
        assert (await ladder(here))[-1] == "outcome"

    play(tmp_path, script)


@pytest.mark.parametrize("reply", ["none", "delivered", "opened"])
def test_silence_at_reply_by_is_recorded_and_a_late_word_still_counts(tmp_path: Path, reply: str) -> None:
    """Nobody opened it by the date asked for: an entry, a line, first in the list; else nothing."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        if reply == "none":
            there.host.kill()
        asked = an_alert("KA-1").model_copy(update={"reply_by_ms": EPOCH_MS + 2 * HOUR_MS})
        await here.send(asked)
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(120)
        if reply == "opened":
            row = next(row for row in await there.inbox() if "KA-1" in row.headline)
            fields = await there.open_alert(row.alert_id)
            assert fields["reply_by_ms"] == EPOCH_MS + 2 * HOUR_MS
        await asyncio.sleep(3 * 3600)
        await here.log_in()
        said = [e.fields["code"] for e in await entries(here, "msg.overdue")]
        rows = await here.outbox()
        if reply == "opened":
            assert said == []
            return
        assert said == ["no_reply"]
        assert ("KA-1" in rows[0].headline, rows[0].state) == (True, "no_reply"), "overdue comes first"
        if reply == "none":
            await there.restart()
            await asyncio.sleep(1200)
        await there.log_in()
        row = next(row for row in await there.inbox() if "KA-1" in row.headline)
        await there.open_alert(row.alert_id)
        await asyncio.sleep(120)
        await here.log_in()
        late = next(row for row in await here.outbox() if "KA-1" in row.headline)
        assert late.state == "opened"
        assert "no_reply" in [rung.step for rung in late.recipients[0].ladder]
        assert len(await entries(here, "msg.overdue")) == 1

    play(tmp_path, script)


def test_an_alert_that_expired_while_the_office_was_shut_closes_its_hole(tmp_path: Path) -> None:
    """It arrives as header and signature, marks its number, shows 'expired', repeats until acknowledged."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-0"))
        await asyncio.sleep(120)
        there.host.kill()
        offices.broker.host.kill()
        short = an_alert("KA-1").model_copy(update={"expires_ms": here.now_ms() + 6 * HOUR_MS})
        await here.send(short)
        await asyncio.sleep(12 * 3600)
        await here.log_in()
        (expired, _) = await here.outbox()
        assert expired.state == "expired"
        assert len(await entries(here, "msg.expired")) == 1
        assert await count(here, "delivery", "phase = 'expired'") == 1
        # The first copy without body is lost as well: it is sent again although it expired long ago.
        await offices.broker.restart()
        await asyncio.sleep(1800)
        broker = offices.broker.broker
        assert broker is not None
        database = broker._db
        assert database is not None
        await offices.broker.host.run(
            lambda env: database.transact(lambda tx: tx.execute("DELETE FROM items"))
        )
        await there.restart()
        await here.log_in()
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(3 * 3600)
        assert await shown(there) == 2
        assert await count(there, "received", "verdict = 'expired'") == 1
        await there.log_in()
        (peer,) = await there.peers()
        assert (peer.missing_in, peer.expired_in) == (0, 1)
        assert await count(here, "delivery", "phase = 'acknowledged' AND alert_id IS NOT NULL") == 3
        steps = await read(here, lambda tx: [r[0] for r in tx.execute("SELECT step FROM ladder")])
        assert steps.count("expired") == 1
        assert steps.count("delivered") == 2
        await here.log_in()
        assert [row.state for row in await here.outbox()] == ["expired", "delivered", "delivered"]

    play(tmp_path, script)


def test_an_acknowledgement_without_a_receipt_is_no_delivery(tmp_path: Path) -> None:
    """A peer that takes the number and never signs that it took the alert: recorded at expiry."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        node_of(there)._outbox.compose_receipts = lambda tx, peer: None  # type: ignore[method-assign]
        short = an_alert("KA-1").model_copy(update={"expires_ms": here.now_ms() + 6 * HOUR_MS})
        await here.send(short)
        await asyncio.sleep(7 * 3600)
        assert await count(here, "delivery", "phase = 'acknowledged' AND alert_id IS NOT NULL") == 1
        assert (await ladder(here))[-1] == "expired"
        assert [e.fields.get("step") for e in await entries(here, "msg.expired")] == ["acknowledged"]

    play(tmp_path, script)
