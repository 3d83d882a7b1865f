"""Receipts as an office makes them: what its log says, under what its partners saw, and recorded first."""

import asyncio
from pathlib import Path

import pytest

from audit.policy import Policy
from audit.receipt import Event, open_receipt_untrusted
from keys.errors import PolicyRefused
from keys.primitives import sha256
from node.views import ReceiptView
from protocol import limits
from tests.node.offices import Offices, an_alert, check_log, entries, node_of, play
from tests.node.test_erasure import due
from tests.node.test_witness import policy_for
from tests.simulation.daemons import OfficeHost
from tests.simulation.env import EPOCH_MS


async def receipt_of(office: OfficeHost, alert_id: str, event: str) -> ReceiptView:
    """A receipt, asked for by whoever is logged in."""
    assert office.session is not None
    session = office.session
    return await office.host.run(lambda env: node_of(office).desk.receipt(session, alert_id, event))


async def opened(office: OfficeHost, alert_id: str, event: str, policy: Policy) -> str:
    """Type and step of the entry that a receipt holds, verified with keys that came another way."""
    made = await receipt_of(office, alert_id, event)
    receipt = open_receipt_untrusted(made.file.encode(), policy, Event(event))
    assert receipt.head.quorum
    assert (receipt.entry["seq"], made.at_ms) == (made.index, receipt.entry["ts"] // 1000)
    return " ".join([receipt.entry["t"], *([receipt.entry["step"]] if "step" in receipt.entry else [])])


async def events_of(office: OfficeHost, alert_id: str) -> list[str]:
    """What the page offers."""
    assert office.session is not None
    session = office.session
    listed = await office.host.run(lambda env: node_of(office).desk.events_of(session, alert_id))
    return [view.event for view in listed]


def test_every_event_of_an_alert_can_be_handed_over_at_both_offices(tmp_path: Path) -> None:
    """Submitted, witnessed, delivered, read, erased: each verifies, witnessed, under the other office's keys,
    and each handing over is an entry with the file's hash. What no partner saw is not called witnessed."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await asyncio.sleep(300)
        await here.log_in()
        sent = await here.send(due(an_alert("KA-1"), EPOCH_MS + 90 * limits.MINUTE_MS))
        alert_id = sent.alert_id or ""
        assert (await receipt_of(here, alert_id, "submitted")).witnesses == ()
        for event, code in (("witnessed", "receipt_not_witnessed"), ("read", "receipt_nothing")):
            with pytest.raises(PolicyRefused, match=code):
                await receipt_of(here, alert_id, event)
        with pytest.raises(PolicyRefused, match="alert_unknown"):
            await receipt_of(here, "ab" * 32, "submitted")
        assert await events_of(here, alert_id) == ["submitted"]

        await asyncio.sleep(600)
        await there.log_in()
        await there.open_alert(alert_id)
        await asyncio.sleep(80 * 60)
        for office in (here, there):
            await office.log_in()
        policy = {here: await policy_for(here, there), there: await policy_for(there, here)}
        assert [await opened(here, alert_id, event.value, policy[here]) for event in Event] == [
            "msg.submit",
            "msg.submit",
            "msg.receipt delivered",
            "msg.receipt opened",
            "content.erased",
        ]
        assert [await opened(there, alert_id, event.value, policy[there]) for event in list(Event)[1:]] == [
            "msg.recv",
            "msg.recv",
            "acc.read",
            "content.erased",
        ]
        with pytest.raises(PolicyRefused, match="receipt_nothing"):
            await receipt_of(there, alert_id, "submitted")
        assert await events_of(here, alert_id) == [*(event.value for event in Event), "erased"]

        made = await receipt_of(here, alert_id, "delivered")
        assert (made.peer_name, len(made.file.encode()) <= 2000) == ("Tengchong BLO", True)
        last = (await entries(here, "audit.export"))[-1]
        assert last.fields["digest"] == sha256(made.file.encode()).hex()
        assert last.fields["purpose"] == "receipt"
        await check_log(here)
        await check_log(there)

    play(tmp_path, script)
