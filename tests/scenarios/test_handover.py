"""What is handed over, by the commands that people type: a receipt, and a dossier with its own verifier."""

import asyncio
import subprocess
import sys

import pytest

from tests.scenarios.world import World, delivered

pytestmark = pytest.mark.scenario


async def test_a_receipt_and_a_dossier_go_from_command_to_command(world: World) -> None:
    """Key, receipt, dossier; checked by ``salween-audit`` and by the one file out of the folder, which shows
    the alert. An officer makes no dossier."""
    await world.start()
    office, place = world.sender, world.stage.directory
    pages = await office.pages()
    alert_id = (await pages.submit(world.form("KATYPED55")))["alert_id"]
    await delivered(pages, 1)

    def by(role: str) -> tuple[str, ...]:
        officer = office.officer(role)
        return "--officer", str(officer.number), "--pin-file", str(world.pin_file(officer.pin))

    receipt, policy = place / "delivered.tlog-proof", ("--policy", office.policy)
    made = await world.run_node(
        office, "receipt", *by("officer"), "--event", "delivered", "--out", receipt, alert_id
    )
    assert (made.exit_code, made.err) == (0, "")
    assert receipt.stat().st_size <= 2000
    key = await world.run("audit", "key", "--out", place / "secret")
    (place / "public").write_text(key.out)
    assert (place / "secret").stat().st_mode & 0o777 == 0o600

    asked = ("--auditor", place / "public", "--purpose", "court", "--wait", "0", place / "dossier")
    refused = await world.run_node(office, "audit-export", *by("officer"), "--json", *asked)
    assert refused.error["code"] == "evidence_role"
    made = await world.run_node(office, "audit-export", *by("supervisor"), *asked)
    assert (made.exit_code, "1 alerts opened" in made.out) == (0, True), made

    secret = ("--key", place / "secret")
    told, ours = await asyncio.gather(
        world.run("audit", "receipt", receipt, *policy, "--event", "delivered"),
        world.run("audit", "dossier", place / "dossier", *policy, *secret),
    )
    assert (told.exit_code, "it is on its disk" in told.out) == (0, True), told
    assert (ours.exit_code, "1 hold" in ours.out) == (0, True), ours
    lone = subprocess.run(
        [
            sys.executable,
            "-I",
            place / "dossier" / "verify_dossier.py",
            place / "dossier",
            *policy,
            *secret,
            "--show",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (lone.returncode, lone.stderr) == (0, "")
    assert "KATYPED55" in lone.stdout
    assert lone.stdout.endswith("HOLDS\n")
