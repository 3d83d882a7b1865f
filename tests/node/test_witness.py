"""Two offices cosign each other's logs: what is asked, answered, refused, shown, and what it costs when idle."""

import asyncio
from pathlib import Path

from audit.fsck import verify
from audit.policy import Policy
from audit.reader import PublishedLog
from node.peers import load_peers
from node.witness import log_key_of, witness_keys_of
from tests.node.offices import Offices, an_alert, count, entries, node_of, play, read
from tests.simulation.daemons import OfficeHost


def log_of(office: OfficeHost) -> Path:
    """Its published files."""
    (found,) = office.host.disk.rglob("log/checkpoint")
    return found.parent


async def policy_for(owner: OfficeHost, witness: OfficeHost) -> Policy:
    """The owner's log, to be witnessed by the other: keys as the other and the owner pinned them."""
    (peer_of_witness,) = await read(witness, load_peers)
    (peer_of_owner,) = await read(owner, load_peers)
    return Policy(
        logs=(log_key_of(peer_of_witness),),
        witnesses={"partner": witness_keys_of(peer_of_owner)[0]},
        groups={},
        quorum="partner",
    )


def test_each_office_cosigns_the_others_log_within_minutes(tmp_path: Path) -> None:
    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(8 * 60)
        for owner, witness in ((here, there), (there, here)):
            report = verify(PublishedLog(str(log_of(owner))), await policy_for(owner, witness))
            assert report.verdicts == ["VERIFIED"], report.findings
            assert [name for name, _ in report.cosigners] == ["partner"]
            cosigned = await entries(witness, "wit.cosigned")
            assert cosigned[-1].fields["size"] == report.size
            assert cosigned[-1].fields["root"] == report.root.hex()
            assert await count(owner, "cosignature") == 0

    play(tmp_path, script)
