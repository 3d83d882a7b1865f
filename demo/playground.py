"""Two paired offices to try by hand: set up as an operator would, with one alert already under way.

Spec: docs/operations.md#demo. Every PIN, passphrase and key is of this run alone.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from demo.ceremony import pair
from demo.office import Form, Office
from demo.stage import Daemon, Stage

OFFICES = (("Myitkyina BLO", "MM", "myitkyina"), ("Tengchong BLO", "CN", "tengchong"))
ALERT: Form = {
    "kind": "vehicle",
    "status": "exercise",
    "urgency": "expected",
    "crime_type": "drug_trafficking",
    "source": "B",
    "information": "2",
    "vehicle.plate": "YGN 7K-4821",
    "vehicle.colour": "white",
    "vehicle.make": "Toyota",
    "vehicle.seen_where": "Kanpaikti gate, northbound",
    "vehicle.description": "White pickup, false plate, tarpaulin over the load.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Playground:
    """What runs: a broker, and two offices with an officer and a supervisor each."""

    broker: Daemon
    broker_home: Path
    broker_log_key: str  # C2SP verifier key, as init printed it
    offices: tuple[Office, Office]
    safety_number: str


async def open_playground(stage: Stage, settings: str = "") -> Playground:
    """A broker and two offices, running and paired; nobody is logged in yet.

    ``settings``: lines in ``node.toml`` of both.
    """
    first, second = (Office(stage, *facts) for facts in OFFICES)
    broker_home = stage.directory / "broker"
    broker_made, _, _ = await asyncio.gather(
        stage.command("broker", "init", "--dir", broker_home, "--port", "0", "--health-port", "0"),
        first.init("Duty officer", "officer", settings),
        second.init("Duty officer", "officer", settings),
    )
    broker = stage.daemon("broker", "broker", "run", "--dir", broker_home, "--json")
    await asyncio.gather(broker.start(), first.daemon.start(), second.daemon.start())
    made, _, _ = await asyncio.gather(
        stage.command("broker", "tokens", "--dir", broker_home),
        first.add_officer("Supervisor", "supervisor"),
        second.add_officer("Supervisor", "supervisor"),
    )
    safety_number = await pair(stage, first, second, broker.ready["address"], made["tokens"][0])
    return Playground(
        broker=broker,
        broker_home=broker_home,
        broker_log_key=broker_made["log_key"],
        offices=(first, second),
        safety_number=safety_number,
    )


async def send_first_alert(ground: Playground) -> None:
    """One vehicle alert, so that the inbox of the second office is not empty."""
    first, _ = ground.offices
    pages = await first.pages("officer")
    peers = await pages.get("/partners")
    await pages.submit({**ALERT, "recipients": [peers[0]["office_id"]]})
    await pages.post("/logout")
    await first.leave_pages()
