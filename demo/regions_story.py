"""The story of ``salween-demo --story regions``: three offices, two brokers, a photo, hidden recipients.

Spec: docs/operations.md#through-our-own-broker. Myitkyina's broker stands in the east, the other two offices'
in the west; each office speaks to its own alone, and that broker hands on what is for the other. Who knows
what is judged by what the published logs hold, and by the connections that the processes have.
"""

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any, Final

from demo.broker_eyes import copy_broker, search_broker
from demo.canary import Canary
from demo.ceremony import pair
from demo.office import Office, Pages
from demo.published import entries_of
from demo.region import Region, connected, open_region
from demo.stage import Stage
from demo.telling import Tale, Teller, require
from runtime.env import Env

OFFICES: Final = (
    ("Myitkyina BLO", "MM", "myitkyina"),
    ("Tengchong BLO", "CN", "tengchong"),
    ("Mae Sai BLO", "TH", "maesai"),
)
PICTURE: Final = Path(__file__).parent / "pickup.jpg"
LOOKS_S: Final = 0.02


class RegionsStory(Tale):
    """One run of the story on one stage."""

    def __init__(self, stage: Stage, env: Env, teller: Teller) -> None:
        super().__init__(stage, teller)
        self._env = env
        self._canary = Canary.new()
        self._spoken: set[tuple[str, int]] = set()
        self._looks = 0

    async def play(self) -> dict[str, Any]:
        """Tell it to the end."""
        self.teller.doing("Starting two brokers and three offices")
        east, west = await asyncio.gather(open_region(self.stage, "east"), open_region(self.stage, "west"))
        self.offices = here, first, second = tuple(Office(self.stage, *facts) for facts in OFFICES)
        await asyncio.gather(*(office.init("Duty officer", "officer") for office in self.offices))
        await asyncio.gather(*(office.daemon.start() for office in self.offices))
        watching = asyncio.create_task(self._watch(), name="watch connections")
        try:
            return await self._play(east, west, here, first, second)
        finally:
            watching.cancel()

    async def _play(
        self, east: Region, west: Region, here: Office, first: Office, second: Office
    ) -> dict[str, Any]:
        await east.hand_on("west", west)
        await west.hand_on("east", east)
        await east.carry(here, to=west, name="west")
        for other in (first, second):
            await west.carry(other, to=east, name="east")
        self.told(
            "brokers",
            f"Two brokers run. {here.name} speaks to the eastern one, {first.name} and {second.name} to the"
            " western one; each broker hands requests on to the other, for offices with a token.",
        )

        self.teller.doing("Pairing across the border, and moving one office's mailboxes home")
        for other in (first, second):
            await pair(self.stage, here, other, west.address, await west.token())
        tokens = self.stage.secret_file("move.tokens", await east.token())
        await here.command("move", "--broker", east.address, "--token-file", tokens)
        at_here = await here.pages()
        at_first, at_second = await first.pages(), await second.pages()
        self.told("paired", f"{here.name} is paired with both, through its own broker, and reads at home.")

        self.teller.doing("Sending one alert with a photo to both, signed and sealed once")
        alert_id = await self._send_photo(here, first, second)
        for pages in (at_first, at_second):
            await self.arrives(pages, alert_id)
            await pages.open(alert_id)
        await self.reaches(at_here, [alert_id], "opened")
        self.told("alert", "Both opened it, and their receipts came back through both brokers.")

        self.teller.doing("Waiting for the photo")
        pictures = await asyncio.gather(*(self._photo(office, alert_id) for office in (first, second)))
        require(pictures[0] == pictures[1], "The two offices hold different photos.")
        require(pictures[0][:3] == b"\xff\xd8\xff", "What came is no JPEG.")
        require(not self._canary.search(pictures[0], "photo"), "What the camera wrote is still in the photo.")
        self.told(
            "photo",
            f"The photo came whole to both, byte for byte the same ({len(pictures[0])} bytes), and nothing of"
            " what the camera had written beside it.",
            size_bytes=len(pictures[0]),
        )

        self.teller.doing("Answering, across the other way")
        back = await self._answer(at_first, first)
        await self.arrives(at_here, back)
        await self.shown_once(at_second, [alert_id])
        self.told(
            "answer", f"An alert of {first.name} crossed the other way; {second.name} saw nothing of it."
        )

        self.teller.doing("Publishing every log, and judging who knows what")
        await asyncio.gather(*(office.command("publish") for office in self.offices))
        for region in (east, west):
            await region.daemon.stop()
        for office in self.offices:
            await self.verified(office.log, office.policy)
        await self._hidden_from_each_other(alert_id, first, second, at_first)
        await self._hidden_from_brokers(east, west, here, alert_id)
        forbidden = {(here.short, west.port), (first.short, east.port), (second.short, east.port)}
        needed = {(here.short, east.port), (first.short, west.port), (second.short, west.port)}
        require(not forbidden & self._spoken, "An office spoke to the foreign broker itself.")
        require(needed <= self._spoken, "The look at connections is blind.")
        self.told(
            "knows",
            "The eastern broker's log and disk name no envelope of this alert; the western one's name both,"
            " and no plaintext stands on either. The two recipients share nothing but the alert's own id."
            f" No office was ever seen connected to the foreign broker, in {self._looks} looks.",
            looks=self._looks,
        )
        return {"photo_bytes": len(pictures[0]), "looks": self._looks}

    async def _watch(self) -> None:
        """Who is connected where, again and again: processes of offices, ports of brokers."""
        while True:
            for office in self.offices:
                if (pid := office.daemon.pid) is not None:
                    self._spoken |= {(office.short, port) for port in connected(pid)}
            self._looks += 1
            await asyncio.sleep(LOOKS_S)

    # --- what crosses ---------------------------------------------------------------------------------------

    async def _send_photo(self, here: Office, *to: Office) -> str:
        """``salween-node send --photo --mode shared``; the photo holds what a camera writes beside it."""
        comment = self._canary.word.encode()
        marked = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        picture, alert = self.stage.directory / "IMG_0001.jpg", self.stage.directory / "alert.json"
        data = PICTURE.read_bytes()
        picture.write_bytes(data[:2] + marked + data[2:])
        require(bool(self._canary.search(picture.read_bytes(), "photo")), "The mark is not found.")
        alert.write_text(json.dumps(self._alert()))
        names = [word for office in to for word in ("--to", office.name)]
        sent = await here.command(
            "send", *here.as_officer(), *names, "--file", alert, "--photo", picture, "--mode", "shared"
        )
        return str(sent["alert_id"])

    def _alert(self) -> dict[str, Any]:
        return {
            "status": "exercise",
            "crime_type": "drug_trafficking",
            "urgency": "expected",
            "severity": "severe",
            "certainty": "likely",
            "source": "B",
            "information": "2",
            "handling": "H0",
            "tlp": "amber",
            "entities": [{"entity": "vehicle", "plate": "YGN 7K-4821", "description": self._canary.word}],
        }

    async def _photo(self, office: Office, alert_id: str) -> bytes:
        folder = self.stage.directory / f"photos-{office.short}"
        folder.mkdir()

        async def look() -> bool:
            shown = await office.command(
                "show", *office.as_officer(), "--save-photos", folder, alert_id, may_refuse=True
            )
            return bool(shown.get("saved"))

        await self.holds(look, "The photo did not come.")
        (picture,) = folder.iterdir()
        return picture.read_bytes()

    async def _answer(self, pages: Pages, office: Office) -> str:
        (peer,) = await pages.get("/partners")
        sent = await pages.submit(
            {
                "kind": "vehicle", "status": "exercise", "urgency": "expected", "source": "B",
                "information": "2", "crime_type": "drug_trafficking",
                "vehicle.plate": f"C-{secrets.randbelow(10**6):06d}",
                "recipients": [peer["office_id"]],
            }
        )  # fmt: skip
        return str(sent["alert_id"])

    # --- who knows what -------------------------------------------------------------------------------------

    async def _hidden_from_each_other(
        self, alert_id: str, first: Office, second: Office, at_first: Pages
    ) -> None:
        """Neither the pages nor the log of one recipient say anything of the other."""
        said = json.dumps([await at_first.open(alert_id), await at_first.get("/partners")])
        require(first.name not in said or second.name not in said, "A page names the other recipient.")
        arrived = [
            next(
                entry
                for entry in entries_of(office.log)
                if entry["t"] == "msg.recv" and entry.get("alert") == alert_id
            )
            for office in (first, second)
        ]
        alike = {name for name in ("msg", "hh", "env", "inst") if arrived[0][name] == arrived[1][name]}
        require(not alike, f"The logs of the two recipients share {', '.join(sorted(alike))}.")

    async def _hidden_from_brokers(self, east: Region, west: Region, here: Office, alert_id: str) -> None:
        """The first broker saw neither envelope; the second has both; none holds anything in plain."""
        entries = entries_of(here.log)
        messages = {e["msg"] for e in entries if e["t"] == "msg.submit" and e["alert"] == alert_id}
        sealed = {e["env"] for e in entries if e["t"] == "msg.seal" and e["msg"] in messages}
        in_east, in_west = (
            {entry["env"] for entry in entries_of(region.home / "log") if entry["t"] == "bk.in"}
            for region in (east, west)
        )
        require(len(messages) == 2 and sealed <= in_west, "The western broker's log misses an envelope.")
        require(not sealed & in_east, "The eastern broker's log names an envelope of the western one.")
        for number, region in enumerate((east, west)):
            copy = copy_broker(region.home, self.stage.directory / f"copy-{number}")
            found = await search_broker(self._env, copy, self._canary)
            findings = [*found.files.findings, *found.rows.findings]
            require(not findings, f"Plaintext of an alert stands in {findings[:1]}." if findings else "")
