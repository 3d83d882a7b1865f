"""The story of ``salween-demo --story audit``: each party lies in turn, and what the auditor says.

Spec: docs/operations.md#demo, docs/auditing.md. One rule: the logs are those of real daemons, each lie is
signed with the liar's real key, and the verdict is what ``salween-audit`` prints. What is left at the end is
one file, the report.
"""

import asyncio
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from demo.liar import Change, Party, claim, signer_of_broker, signer_of_office, without
from demo.office import Office, Pages
from demo.playground import ALERT, open_playground
from demo.published import entries_of
from demo.stage import Stage
from demo.telling import Tale, Teller, require
from keys.secret import SecretBytes
from runtime.env import Env

LEEWAY_S: Final = 1
"""All run on one machine, and copies are taken after work has stopped."""
REST_S: Final = 2 * LEEWAY_S + 0.5


class AuditStory(Tale):
    """One run of the story on one stage."""

    def __init__(self, stage: Stage, env: Env, teller: Teller) -> None:
        super().__init__(stage, teller)
        self._env = env
        self._logs: dict[str, Party] = {}
        self._policies: list[str | Path] = []
        self._notes: tuple[str | Path, ...] = ()

    async def play(self) -> dict[str, Any]:
        """Tell it to the end."""
        self.teller.doing("Starting a broker and two offices, and pairing them")
        ground = await open_playground(self.stage)
        self.offices = here, there = ground.offices
        at_here, at_there = await here.pages("supervisor"), await there.pages()
        alerts = [await self._crosses(at_here, at_there, number) for number in range(3)]
        await self.reaches(at_here, alerts, "opened")
        self.told("alerts", f"Three alerts crossed from {here.name} to {there.name} and were opened.")

        self.teller.doing("Publishing three logs, and taking copies")
        await asyncio.sleep(REST_S)  # what is so near the end of all logs counts as under way
        await asyncio.gather(*(office.pages() for office in self.offices))  # an entry of each after it
        await asyncio.gather(*(office.command("publish") for office in self.offices))
        notes = self.stage.directory / "notes"
        sealed = [entry["msg"] for entry in entries_of(here.log) if entry["t"] == "msg.submit"]
        made = await here.command("custody", *here.as_officer("supervisor"), "--out", notes, *sealed)
        require(made["notes"] == len(sealed), "The office did not hand over a note for each alert.")
        self._notes = ("--notes", notes, "--broker-address", ground.broker.ready["address"])
        await ground.broker.stop()  # a broker publishes when it stops
        await asyncio.gather(*(office.daemon.stop() for office in self.offices))
        await self._take_copies(here, there, ground.broker_home, ground.broker_log_key)
        answer = await self._judge()
        require(answer["clean"], "The auditor found something in an honest history.")
        self.told(
            "honest",
            f"The auditor reads all three logs, {sum(log['size'] for log in answer['logs'])} entries, and"
            " finds nothing: each alert was sealed, kept, handed out and taken in, at times that fit.",
            verdicts=sorted(answer["counts"]),
        )
        return await self._lies(here, there)

    async def _lies(self, here: Office, there: Office) -> dict[str, Any]:
        sender = self._logs["sender"]
        first, second, third = (entry for entry in sender.entries() if entry["t"] == "msg.submit")
        envelopes = {entry["msg"]: entry["env"] for entry in sender.entries() if entry["t"] == "msg.seal"}

        made_up = secrets.token_hex(16)
        answer = await self._judge(sender=self._lie("sender", claim(made_up, secrets.token_hex(32))))
        self._expect(answer, made_up, "NEVER-REACHED-BROKER")
        self.told(
            "sender",
            f"{here.name} claims a fourth alert that never was. The auditor: sealed by its own word, and at"
            " no broker; no sending is proven. An office that was offline would write the same.",
            verdict="NEVER-REACHED-BROKER",
        )

        lost = envelopes[first["msg"]]
        dropped = self._lie("broker", _another(lost))
        silent = self._lie("receiver", without(lambda entry: entry.get("msg") == first["msg"]))
        answer = await self._judge(broker=dropped, receiver=silent)
        self._expect(answer, first["msg"], "BROKER-OMISSION-CLAIMED")
        answer = await self._judge(*self._notes, broker=dropped, receiver=silent)
        self._expect(answer, first["msg"], "BROKER-OMISSION-PROVEN")
        self.told(
            "broker",
            f"The broker drops an alert after it signed that it holds it. {here.name} hands over the signed"
            " note, and it is no claim any more: the broker's key signed for a place in its log where the"
            " alert is not.",
            verdict="BROKER-OMISSION-PROVEN",
        )

        hidden = self._lie("receiver", without(lambda entry: entry.get("msg") == second["msg"]))
        answer = await self._judge(receiver=hidden)
        self._expect(answer, second["msg"], "RECEIVER-OMISSION-PROVEN")
        self.told(
            "receiver",
            f"{there.name} takes an alert out of its log, numbers the rest anew and signs it. The auditor: it"
            f" was deleted at the broker under its key, and {here.name} names its receipt.",
            verdict="RECEIVER-OMISSION-PROVEN",
        )

        at = third["seq"]
        back = self._lie("sender", lambda entries: entries[: at - 1])
        answer = await self._judge(sender=back)
        self._expect(answer, third["msg"], "UNSOLICITED")
        log = next(log for log in answer["logs"] if log["origin"] == sender.signer.name)
        require("TRUNCATED" in log["verdicts"], "The auditor did not see that a log was rolled back.")
        self.told(
            "rolled_back",
            f"{here.name} goes back to a copy from before the third alert and says nothing of it. The"
            f" auditor: its log is TRUNCATED, and {there.name} holds what it signed and no longer knows.",
            verdict="UNSOLICITED",
        )

        out = self.stage.directory.parent / f"salween-report-{secrets.token_hex(4)}.html"
        report = await self._ask(
            "report", *self._notes, "--out", out, sender=back, broker=dropped, receiver=hidden
        )
        require(not report["clean"] and out.stat().st_size > 0, "The report was not written.")
        found = report["messages"]["findings"] + len(report["log_findings"])
        self.told("report", f"All of it together, {found} findings on one page: {out}", findings=found)
        return {"report": str(out), "findings": found}

    async def _crosses(self, at_here: Pages, at_there: Pages, number: int) -> str:
        (peer,) = await at_here.get("/partners")
        form = {**ALERT, "recipients": [peer["office_id"]], "vehicle.plate": f"YGN 7K-{number:04d}"}
        alert_id = str((await at_here.submit(form))["alert_id"])
        await self.arrives(at_there, alert_id)
        await at_there.open(alert_id)
        return alert_id

    async def _take_copies(self, here: Office, there: Office, broker_home: Path, broker_key: str) -> None:
        copies = self.stage.directory / "auditor"
        policy = copies / "broker.policy"
        copies.mkdir()
        policy.write_text(f"log {broker_key}\nquorum none\n")
        for name, office in (("sender", here), ("receiver", there)):
            shutil.copytree(office.log, copies / name)
            passphrase = SecretBytes(office.passphrase_file.read_text().strip().encode())
            opened = self.stage.directory / f"{name}-opened"
            signer = await signer_of_office(self._env, office.directory, opened, passphrase)
            self._logs[name] = Party(copies / name, signer)
            self._policies += ["--policy", office.policy]
        shutil.copytree(broker_home / "log", copies / "broker")
        self._logs["broker"] = Party(copies / "broker", await signer_of_broker(self._env, broker_home))
        self._policies += ["--policy", policy]

    def _lie(self, name: str, change: Change) -> Party:
        return self._logs[name].rewritten(self.stage.directory / "lies" / secrets.token_hex(4), change)

    async def _judge(self, *options: str | Path, **lies: Party) -> dict[str, Any]:
        """What ``salween-audit reconcile`` says of the three logs, some of them replaced."""
        return await self._ask("reconcile", *options, **lies)

    async def _ask(self, verb: str, *options: str | Path, **lies: Party) -> dict[str, Any]:
        read = {name: lies.get(name, party).directory for name, party in self._logs.items()}
        where: Sequence[str | Path] = (read["sender"], read["receiver"], "--broker", read["broker"])
        return dict(
            await self.stage.command(
                "audit",
                verb,
                *where,
                *self._policies,
                "--leeway",
                str(LEEWAY_S),
                *options,
                may_refuse=True,
            )
        )

    def _expect(self, answer: dict[str, Any], msg: str, verdict: str) -> None:
        messages = answer["messages"]
        found = [each["verdict"] for each in messages if each["id"] == msg]
        require(
            found == [verdict], f"The auditor says {', '.join(found) or 'nothing'} where {verdict} is due."
        )


def _another(envelope: str) -> Change:
    """A change that puts another envelope in the place of this one, so that no number moves."""
    other = os.urandom(32).hex()
    return lambda entries: [
        entry | {"env": other} if entry.get("env") == envelope else entry for entry in entries
    ]
