"""The story of ``salween-demo --story usb``: the line is cut midway, a stick carries on, the line returns.

Spec: docs/operations.md#sticks. The commands are those an officer types. The same envelopes travel both ways
of travelling; what is compared at the end is what each office shows and what both published logs say.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

from demo.office import Form, Office, Pages
from demo.playground import ALERT, open_playground
from demo.published import entries_of, received
from demo.telling import Tale, require

WAVE_ALERTS: Final = 10


class UsbStory(Tale):
    """One run of the story on one stage."""

    async def play(self) -> dict[str, Any]:
        """Tell it to the end."""
        self.teller.doing("Starting a broker and two offices, and pairing them")
        ground = await open_playground(self.stage)
        self.offices = here, there = ground.offices
        at_here, at_there = await here.pages(), await there.pages()
        first = await self._send(at_here, 0)
        await self.arrives(at_there, first)
        self.told("paired", f"{here.name} and {there.name} run and are paired; a first alert crossed.")

        self.teller.doing("Cutting the line in the middle of a wave of alerts")
        sent = [first, *[await self._send(at_here, number) for number in range(1, WAVE_ALERTS // 2)]]
        await self.arrives(at_there, sent[-1])
        wave = [self._send(at_here, number) for number in range(WAVE_ALERTS // 2, WAVE_ALERTS)]
        cut = asyncio.ensure_future(ground.broker.kill())
        sent += await asyncio.gather(*wave)
        await cut
        back = await self._send(at_there, 100)
        came = {row["alert_id"] for row in await at_there.inbox()}
        left = [alert_id for alert_id in sent if alert_id not in came]
        require(bool(left), "This machine delivers so fast that the line could not be cut meanwhile.")
        self.told(
            "cut",
            f"The broker was killed in the middle of {len(sent) - 1} alerts: {len(left)} of them did not"
            f" arrive. {there.name} wrote one as well.",
            left=len(left),
        )

        self.teller.doing("Carrying a stick there")
        stick = self.stage.directory / "stick-one"
        await self._export(here, there, stick)
        read = await self._import(there, stick)
        await self.shown_once(at_there, sent)
        require(read["new"] >= len(left), "The stick did not bring what was left.")
        self.told(
            "there",
            f"A stick carried {read['envelopes']} envelopes to {there.name}: {read['new']} new,"
            f" {read['seen']} that had come by the line. Every alert is shown once.",
            **read,
        )

        self.teller.doing("Opening them, and carrying the answers back")
        for alert_id in sent:
            await at_there.open(alert_id)
        answers = self.stage.directory / "stick-two"
        await self._export(there, here, answers)
        read_back = await self._import(here, answers)
        await self.reaches(at_here, sent, "opened")
        await self.shown_once(at_here, [back])
        self.told(
            "back",
            f"A stick back brought {there.name}'s own alert and its signed receipts: {here.name} sees"
            f" that all {len(sent)} were opened, and no broker ran.",
            **read_back,
        )

        self.teller.doing("Reading a stick twice, and one that is cut short")
        again = await self._import(there, stick)
        require(again["new"] == 0 and again["is_outdated"], "A stick read twice brought something new.")
        short = self.stage.directory / "stick-short"
        short.write_bytes(stick.read_bytes()[:-3000])
        half = await self._import(there, short, refused=True)
        require(half["new"] == 0 and not half["is_whole"], "A stick that is cut short was taken for whole.")
        await self.shown_once(at_there, sent)
        self.told("twice", "Read a second time, and cut short, the same stick changed nothing.")

        self.teller.doing("Letting the line return")
        await ground.broker.start()
        later = await self._send(at_here, 200)
        await self.arrives(at_there, later)
        await at_there.open(later)
        await self.reaches(at_here, [later], "opened")
        await self.reaches(at_there, [back], "delivered")
        sent.append(later)
        await self.shown_once(at_there, sent)
        await self.shown_once(at_here, [back])
        self.told("returned", "The line is back, new alerts cross, and nothing is shown twice.")

        self.teller.doing("Publishing and verifying both logs")
        await asyncio.gather(here.command("publish"), there.command("publish"))
        for office in self.offices:
            await self.verified(office.log, office.policy)
        ours, theirs = entries_of(here.log), entries_of(there.log)
        require(sorted(received(theirs)) == sorted(sent), "A log says that an alert was taken in twice.")
        ways = {entry["via"] for entry in theirs if entry["t"] == "msg.recv" and "via" in entry}
        require(ways == {"broker", "usb"}, "The log does not tell which way alerts came.")
        out = {entry["digest"] for entry in ours if entry["t"] == "stick.out"}
        taken = {entry["digest"] for entry in theirs if entry["t"] == "stick.in" and "digest" in entry}
        require(bool(out) and out == taken, "The two logs do not name the same stick.")
        self.told("logs", "Both logs verify, hold each alert once, and call the stick by the same hash.")
        return {"sent": len(sent), "by_stick": len(left)}

    async def _send(self, pages: Pages, number: int) -> str:
        (peer,) = await pages.get("/partners")
        form: Form = {**ALERT, "recipients": [peer["office_id"]], "vehicle.plate": f"YGN 7K-{number:04d}"}
        return str((await pages.submit(form))["alert_id"])

    async def _export(self, office: Office, to: Office, file: Path) -> None:
        await office.command("export", *office.as_officer(), "--to", to.name, file)

    async def _import(self, office: Office, file: Path, *, refused: bool = False) -> dict[str, Any]:
        """What ``import`` found; ``refused``: it ends with exit code 1, as for a file that is not whole."""
        return dict(await office.command("import", *office.as_officer(), file, may_refuse=refused))
