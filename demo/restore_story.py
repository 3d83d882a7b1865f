"""The story of ``salween-demo --story restore``: an office loses its computer and comes back from a backup.

Spec: docs/operations.md#demo. The commands are those an operator types. Each step is told when it holds;
the first that does not ends the story with one sentence. What was lost is compared, id by id, with what was
sent.
"""

import secrets
import shutil
from typing import Any

from demo.office import Form, Office, Pages
from demo.playground import ALERT, open_playground
from demo.stage import DemoFailed
from demo.telling import Tale


class RestoreStory(Tale):
    """One run of the story on one stage."""

    async def play(self) -> dict[str, Any]:
        """Tell it to the end."""
        stage = self.stage
        self.teller.doing("Starting a broker and two offices, and pairing them")
        ground = await open_playground(stage)
        self.offices = here, there = ground.offices
        at_here, at_there = await here.pages(), await there.pages()
        self.told(
            "paired",
            f"{here.name} and {there.name} run and are paired; {here.name} printed its recovery sheet.",
        )

        self.teller.doing("Sending an alert each way")
        await self._crosses(at_here, at_there)
        await self._crosses(at_there, at_here)
        self.told("alerts", "An alert crossed each way.")

        self.teller.doing("Making a backup")
        backup, sheet = stage.directory / "yesterday.backup", stage.directory / "sheet"
        secret = stage.secret_file("backup.passphrase", secrets.token_urlsafe(18))
        opened_with = ("--backup-passphrase-file", secret)
        made = await here.command("backup", *opened_with, backup)
        shutil.copy(here.directory / "recovery-sheet.txt", sheet)
        self.told(
            "backup", f"{here.name} made a backup while it ran, and checked it by reading it back.", **made
        )

        self.teller.doing("Sending more alerts each way, after the backup")
        sent = [await self._crosses(at_here, at_there) for _ in range(2)]
        received = [await self._crosses(at_there, at_here) for _ in range(2)]
        await self.reaches(at_there, received, "delivered")
        self.told("after", "Two more alerts crossed each way: they are in no backup.")

        self.teller.doing("Losing a computer")
        await here.leave_pages()
        await here.daemon.kill()
        shutil.rmtree(here.directory)
        here.move(stage.directory / "new-computer")
        begun = await here.command("restore", *opened_with, "--recovery-sheet", sheet, backup)
        await here.daemon.start()
        self.told(
            "restored",
            f"The computer of {here.name} is gone with its disk. On a new one, backup and sheet made the"
            " office again,"
            f" under key version {begun['key_version']} and in a new log.",
            key_version=begun["key_version"],
        )

        self.teller.doing("Waiting for what the other office holds")
        at_here = await here.pages()
        for alert_id in received:
            await self.arrives(at_here, alert_id)
        lost = await self._answered(here)
        listed = sorted(row["alert_id"] for row in lost["lost"])
        if listed != sorted(sent) or lost["gone"]:
            raise DemoFailed("What is listed as lost is not what was lost.")
        self.told(
            "again",
            f"{there.name} was told and sent again what {here.name} had received after the backup. Lost"
            " is the text of"
            f" {len(sent)} alerts that {here.name} had sent after it; both are listed by id and time.",
            lost=listed,
            resent=lost["resent"],
        )

        self.teller.doing("Sending an alert each way again")
        await self._crosses(at_here, at_there)
        await self._crosses(at_there, at_here)
        inbox = [row["alert_id"] for row in await at_there.inbox()]
        if len(inbox) != len(set(inbox)):
            raise DemoFailed("An alert is shown twice.")
        self.told("flows", "Alerts flow again in both directions, and none is shown twice.")
        return {"lost": len(listed), "resent": lost["resent"]}

    async def _crosses(self, here: Pages, there: Pages) -> str:
        """Send one alert to the only partner and wait until it is there; its id."""
        (peer,) = await here.get("/partners")
        form: Form = {**ALERT, "recipients": [peer["office_id"]]}
        alert_id = str((await here.submit(form))["alert_id"])
        await self.arrives(there, alert_id)
        return alert_id

    async def _answered(self, office: Office) -> dict[str, Any]:
        """What ``salween-node lost`` says once the partner has answered."""
        found: dict[str, Any] = {}

        async def look() -> bool:
            (reset,) = (await office.command("lost"))["resets"]
            found.update(reset)
            return reset["answered_ms"] is not None

        await self.holds(look, "The other office did not answer.")
        return found
