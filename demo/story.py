"""The story of ``salween-demo --once``: what two offices and a broker live through, and what must hold.

Spec: docs/operations.md#demo. Each step is told when it holds; the first that does not ends the story with
one sentence. Nothing is believed because a daemon says it is well: alerts are compared field by field through
both offices' pages, counts come from published logs that verified, and the search for plaintext first has to
find what was planted.

The broker, the sender and the receiver are each killed with -9 while alerts are in flight: kept at the
sender, with no verified receipt yet. How many is read from the sender's page before, and counted again
afterwards from the sender's published log at the microsecond of the kill; a count below IN_FLIGHT_MIN fails.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from demo.broker_eyes import copy_broker, feed_plaintext, planted_forms, search_broker
from demo.canary import Canary, Search, files_below
from demo.office import Form, Office, PageRefused, Pages
from demo.playground import open_playground
from demo.published import accepted, entries_of, in_flight_at, received, travelled
from demo.stage import START_AGAIN, Daemon, DemoFailed, Stage
from demo.telling import Step, Teller, require
from runtime.env import Env

BURST_ALERTS_MIN: Final = 60
IN_FLIGHT_MIN: Final = 20
IN_FLIGHT_WANTED: Final = 25  # on the page before a kill; some arrive between the page and the kill
KILL_TRIES: Final = 3
WAVE_ALERTS: Final = 40
WAVES_MAX: Final = 4  # of growing size, until enough are in flight at once on this machine
ARRIVE_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.02
OPENED_AT_ONCE: Final = 8

Victim = Literal["broker", "sender", "receiver"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill -9: when (UTC microseconds), and what the sender's page said before it."""

    who: Victim
    at_us: int
    page_said: int


class Story:
    """One run of the story on one stage."""

    def __init__(self, stage: Stage, env: Env, teller: Teller) -> None:
        self._stage = stage
        self._env = env
        self._teller = teller
        self._canary = Canary.new()
        self._plates = (f"KA-{number:04d}" for number in itertools.count(1))
        self._sent: dict[str, Form] = {}  # alert id -> what the officer typed
        self._kills: list[Kill] = []
        self._broker_copies: list[Path] = []
        self._offices: tuple[Office, ...] = ()
        self._peer = ""  # the receiver's office id, as the sender's page names it
        self._begun_s = self._step_s = time.monotonic()

    async def run(self) -> dict[str, Any]:
        """Tell it to the end; the summary. DemoFailed at the first thing that does not hold."""
        try:
            async with asyncio.TaskGroup() as tasks:
                careless = tasks.create_task(self._feed_plaintext(), name="careless broker")
                await self._open_offices()
            await self._plant(careless.result())
            return await self._after_opening()
        finally:
            await asyncio.gather(*(office.leave_pages() for office in self._offices))

    async def _after_opening(self) -> dict[str, Any]:
        await self._send_vehicle()
        await self._send_victim()
        await self._send_text()
        await self._kill_in_flight("receiver", self._receiver.daemon)
        await self._kill_in_flight("sender", self._sender.daemon)
        await self._kill_in_flight("broker", self._broker)
        await self._open_everything()
        await self._compare()
        await self._verify_logs()
        await self._search()
        self._check_daemons()
        return self._summary

    # --- setting up -----------------------------------------------------------------------------------------

    async def _open_offices(self) -> None:
        self._teller.doing("Starting a broker and two offices, and pairing them")
        ground = await open_playground(self._stage)
        self._broker, self._broker_home = ground.broker, ground.broker_home
        self._offices = self._sender, self._receiver = ground.offices
        self._broker_policy = self._stage.directory / "broker.policy"
        self._broker_policy.write_text(f"log {ground.broker_log_key}\nquorum none\n")
        await self._log_in(self._sender)
        await self._log_in(self._receiver)
        self._peer = (await self._from.get("/partners"))[0]["office_id"]
        self._told(
            "paired",
            f"A broker and two offices run: {self._sender.name} and {self._receiver.name}. They paired"
            " by voice: two codes read aloud, each typed by the other side.",
            processes=len(self._stage.daemons),
            safety_number=ground.safety_number,
        )

    async def _log_in(self, office: Office) -> None:
        """The officer and the supervisor of one office, logged in anew."""
        await office.leave_pages()
        officer, supervisor = await office.pages("officer"), await office.pages("supervisor")
        if office is self._sender:
            self._from, self._from_supervisor = officer, supervisor
        else:
            self._to = officer

    async def _feed_plaintext(self) -> Path:
        """A second broker, fed plaintext on purpose; a copy of what it then held."""
        directory = self._stage.directory / "careless"
        await self._stage.command("broker", "init", "--dir", directory, "--port", "0", "--health-port", "0")
        broker = self._stage.daemon("careless", "broker", "run", "--dir", directory, "--json")
        await broker.start()
        token = (await self._stage.command("broker", "tokens", "--dir", directory))["tokens"][0]
        await feed_plaintext(self._env, broker.ready["address"], token, self._canary)
        await broker.kill()
        return copy_broker(directory, self._stage.directory / "careless-copy")

    async def _plant(self, copy: Path) -> None:
        """The search has to find what was planted, in every form, before it may find nothing elsewhere."""
        self._teller.doing("Looking for what was planted in a broker fed plaintext on purpose")
        found = await search_broker(self._env, copy, self._canary)
        planted = Counter(form for form, _ in planted_forms(self._canary))
        missed = planted - Counter(finding.form for finding in found.rows.findings)
        require(not missed, f"The search for plaintext is blind for: {', '.join(missed)}.")
        require(not found.files.findings, "A broker's database lay in plain on its disk.")
        self._told(
            "planted",
            f"The search for plaintext sees: fed to a second broker on purpose, it was found"
            f" {planted.total()} of {planted.total()} times.",
            forms=sorted(planted),
            found=planted.total(),
        )

    # --- three alerts, one by one ---------------------------------------------------------------------------

    async def _send_vehicle(self) -> None:
        self._teller.doing("Sending a vehicle alert")
        form = self._vehicle_form() | {
            "vehicle.description": f"White pickup, false plate {self._canary.word}"
        }
        form["vehicle.plate"] = self._canary.word[:48]
        sent = await self._submit(form)
        alert_id = sent["alert_id"]
        await self._arrived(alert_id)
        seen = await self._to.open(alert_id)
        await self._reaches(alert_id, "opened")
        require(seen["fields"]["entities"][0]["plate"] == form["vehicle.plate"], "The plate was altered.")
        self._told(
            "vehicle", "A vehicle alert crossed, was opened, and both receipts came back.", alert_id=alert_id
        )

    async def _send_victim(self) -> None:
        self._teller.doing("Sending an alert about a victim")
        form: Form = {
            **self._grading("human_trafficking"),
            "kind": "person",
            "person.role": "victim",
            "person.name": self._canary.word,
            "person.last_seen": "Bus station, two men waiting",
            "handling": "H1",
            "erase_days": "30",
        }
        waiting = await self._from.submit(form)
        require(waiting["state"] == "awaiting_release", "An alert about a victim left on one signature.")
        draft = waiting["draft_id"]
        refused = await _refusal(self._from.release(draft))
        require(refused == "same_officer", "Its author could release an alert about a victim.")
        released = await self._from_supervisor.release(draft)
        alert_id = released["alert_id"]
        self._sent[alert_id] = form
        await self._arrived(alert_id)
        refused = await _refusal(self._to.open(alert_id))
        require(refused == "reason_needed", "An alert about a victim opened without a reason.")
        await self._to.open(alert_id, "case")
        await self._reaches(alert_id, "opened")
        self._told(
            "victim",
            "An alert about a victim left only after the supervisor's release,"
            " and opened only with a reason.",
            alert_id=alert_id,
        )

    async def _send_text(self) -> None:
        self._teller.doing("Sending a free text")
        form: Form = {
            **self._grading("drug_trafficking"),
            "kind": "text",
            "text.text": f"Two lorries left at noon.\n{self._canary.word}\nAsk for the second driver.",
            "text.language": "en",
        }
        alert_id = (await self._submit(form))["alert_id"]
        await self._arrived(alert_id)
        await self._reaches(alert_id, "delivered")
        self._told("text", "A free text crossed and its receipt came back.", alert_id=alert_id)

    # --- three kills ----------------------------------------------------------------------------------------

    async def _kill_in_flight(self, who: Victim, daemon: Daemon) -> None:
        """Send a wave, kill in the middle of it, start again, and wait until all of it has arrived."""
        self._teller.doing(f"Sending a wave of alerts, and killing the {who} in the middle of it")
        before = len(self._sent)
        for _ in range(KILL_TRIES):
            kill = await self._wave_and_kill(who, daemon)
            self._kills.append(kill)
            # Whoever is dead brings no receipt: what the page says now was in flight at the kill, or more.
            left = kill.page_said if who == "sender" else _waiting(await self._from.outbox())
            if who == "receiver":
                await self._copy_full_broker()
            await daemon.start()
            for office in self._offices:
                if daemon is office.daemon:
                    await self._log_in(office)
            await self._all_delivered()
            if left >= IN_FLIGHT_MIN:
                break
        self._told(
            f"killed_{who}",
            f"The {who} was killed with -9 while {kill.page_said} alerts were in flight; started again,"
            f" all {len(self._sent) - before} of the wave arrived.",
            in_flight=kill.page_said,
            wave=len(self._sent) - before,
        )

    async def _copy_full_broker(self) -> None:
        """While the receiver is dead the broker holds all it was sent: kill it as well, and keep a copy.

        The copy is searched at the end. An empty broker would prove nothing.
        """
        await self._until(
            self._from.outbox,
            lambda rows: all(row["state"] != "waiting" for row in rows),
            "The broker did not take every alert",
        )
        await self._broker.kill()
        self._copy_broker()
        await self._broker.start()

    def _copy_broker(self) -> None:
        copy = self._stage.directory / f"broker-copy-{len(self._broker_copies)}"
        self._broker_copies.append(copy_broker(self._broker_home, copy))

    async def _wave_and_kill(self, who: Victim, daemon: Daemon) -> Kill:
        for size in itertools.islice(itertools.count(WAVE_ALERTS, WAVE_ALERTS), WAVES_MAX):
            async with asyncio.TaskGroup() as tasks:
                wave = [tasks.create_task(self._submit(self._vehicle_form())) for _ in range(size)]
                if who == "sender":
                    # A press of the button that got no answer promises nothing: wait for all the ticks.
                    await asyncio.gather(*wave)
                while True:
                    waiting = _waiting(await self._from.outbox())
                    if waiting >= IN_FLIGHT_WANTED:
                        at_us = time.time_ns() // 1000
                        await daemon.kill()
                        return Kill(who=who, at_us=at_us, page_said=waiting)
                    if all(task.done() for task in wave):
                        break
        raise DemoFailed(
            f"This machine delivers so fast that never {IN_FLIGHT_WANTED} alerts were in flight:"
            f" the {who} could not be killed meanwhile."
        )

    # --- the end --------------------------------------------------------------------------------------------

    async def _open_everything(self) -> None:
        """The receiving officer opens every alert; every opening is told to the sender."""
        self._teller.doing("Opening every alert")
        require(
            len(self._sent) >= BURST_ALERTS_MIN + 3, f"Only {len(self._sent)} alerts were sent, not enough."
        )
        gate = asyncio.Semaphore(OPENED_AT_ONCE)

        async def open_one(pages: Pages, row: dict[str, Any], victim: bool) -> dict[str, Any]:
            async with gate:
                return await pages.open(row["alert_id"], "case" if victim else None)

        inbox, outbox = await self._to.inbox(), await self._from.outbox()
        victims = {alert_id for alert_id, form in self._sent.items() if form.get("person.role") == "victim"}
        self._opened = await asyncio.gather(
            *(open_one(self._to, row, row["alert_id"] in victims) for row in inbox)
        )
        self._kept = await asyncio.gather(
            *(open_one(self._from, row, row["alert_id"] in victims) for row in outbox)
        )
        await self._until(
            self._from.outbox,
            lambda rows: all(row["state"] == "opened" for row in rows),
            "Not every opening was told to the sender",
        )
        self._told(
            "opened",
            f"{self._receiver.name} opened all {len(self._opened)};"
            f" {self._sender.name} has a receipt for each.",
            opened=len(self._opened),
        )

    async def _compare(self) -> None:
        """What was typed, what the sender keeps and what the receiver shows: one and the same, once each."""
        self._teller.doing("Comparing what both offices show")
        shown = Counter(row["alert_id"] for row in await self._to.inbox())
        kept = Counter(row["alert_id"] for row in await self._from.outbox())
        lost = [alert_id for alert_id in self._sent if not shown[alert_id]]
        doubled = [alert_id for alert_id, count in shown.items() if count > 1]
        foreign = [alert_id for alert_id in shown if alert_id not in self._sent]
        require(not lost, f"{len(lost)} alerts were lost, the first: {lost[:1]}.")
        require(not doubled, f"{len(doubled)} alerts are shown twice, the first: {doubled[:1]}.")
        require(not foreign, f"{len(foreign)} alerts are shown that nobody sent.")
        require(set(kept) == set(self._sent), "The sender's outbox differs from what was sent.")
        at_sender = {view["alert_id"]: view["fields"] for view in self._kept}
        at_receiver = {view["alert_id"]: view["fields"] for view in self._opened}
        altered = [
            alert_id
            for alert_id, form in self._sent.items()
            if at_sender[alert_id] != at_receiver[alert_id] or _differs(form, at_receiver[alert_id])
        ]
        require(not altered, f"{len(altered)} alerts were altered, the first: {altered[:1]}.")
        plates = Counter(form["vehicle.plate"] for form in self._sent.values() if "vehicle.plate" in form)
        shown_plates = Counter(
            entity["plate"]
            for fields in at_receiver.values()
            for entity in fields["entities"]
            if "plate" in entity
        )
        require(plates == shown_plates, "A plate is missing or stands twice.")
        self._told(
            "compared",
            f"{len(self._sent)} sent, {len(shown)} received, read through both offices' pages:"
            " 0 lost, 0 doubled, 0 altered.",
            sent=len(self._sent),
            received=len(shown),
            lost=0,
            doubled=0,
            altered=0,
        )

    async def _verify_logs(self) -> None:
        self._teller.doing("Publishing and verifying three logs")
        await asyncio.gather(self._sender.command("publish"), self._receiver.command("publish"))
        await self._broker.stop()  # a broker publishes when it stops
        logs = {
            "sender": (self._sender.log, self._sender.policy),
            "receiver": (self._receiver.log, self._receiver.policy),
            "broker": (self._broker_home / "log", self._broker_policy),
        }
        reports = await asyncio.gather(
            *(
                self._stage.command("audit", verb, log, "--policy", policy)
                for verb in ("verify", "replay")
                for log, policy in logs.values()
            )
        )
        for report in reports:
            require(
                not report["findings"] and not report.get("oddities"),
                f"The log {report['origin']} does not verify: {', '.join(report['verdicts'])}.",
            )
        sender, receiver, broker = (entries_of(log) for log, _ in logs.values())
        messages = travelled(sender)
        held = accepted(broker)
        require(
            Counter(m.alert for m in messages) == Counter(list(self._sent)),
            "The sender's log misses a message.",
        )
        require(
            Counter(received(receiver)) == Counter(list(self._sent)), "The receiver's log misses a message."
        )
        require(
            all(any(envelope in held for envelope in m.envelopes) for m in messages),
            "The broker's log misses a message.",
        )
        require(
            all(m.delivered_us is not None and m.opened_us is not None for m in messages),
            "The sender's log misses a receipt.",
        )
        # Of one daemon's kills the last counts: it was tried again until enough were in flight.
        self._in_flight = {kill.who: in_flight_at(messages, kill.at_us) for kill in self._kills}
        few = [who for who, count in self._in_flight.items() if count < IN_FLIGHT_MIN]
        require(not few, f"By the sender's log too few alerts were in flight at the kill of: {few}.")
        sizes = {name: report["size"] for name, report in zip(logs, reports, strict=False)}
        self._log_sizes = sizes
        self._told(
            "logs",
            f"All three logs are published and verify ({', '.join(f'{n} {s}' for n, s in sizes.items())}"
            f" entries) and hold all {len(messages)} messages. By the sender's log the kills met"
            f" {', '.join(f'{count} ({who})' for who, count in self._in_flight.items())} in flight.",
            entries=sizes,
            messages=len(messages),
            in_flight_by_log=self._in_flight,
        )

    async def _search(self) -> None:
        """No form of the canary in anything the broker holds or held, in any log, on any office's disk."""
        self._teller.doing("Looking for plaintext where none may stand")
        self._copy_broker()
        searches: list[Search] = []
        envelopes = 0
        for copy in self._broker_copies:
            found = await search_broker(self._env, copy, self._canary)
            envelopes = max(envelopes, found.envelopes)
            searches += [found.files, found.rows]
        require(
            envelopes >= IN_FLIGHT_MIN,
            f"The broker held only {envelopes} envelopes when it was searched: that proves nothing.",
        )
        searches += [
            await asyncio.to_thread(self._canary.search_all, files_below(directory))
            for directory in (self._stage.logs, self._sender.directory, self._receiver.directory)
        ]
        findings = [finding for search in searches for finding in search.findings]
        require(not findings, f"Plaintext of an alert stands in {findings[:1]}." if findings else "")
        size_bytes = sum(search.size_bytes for search in searches)
        self._told(
            "searched",
            f"No plaintext in any form: {size_bytes / 2**20:.1f} MiB of the broker's files and rows"
            f" ({envelopes} envelopes of a dead receiver), of operations logs and of offices' disks.",
            size_bytes=size_bytes,
            pieces=sum(search.pieces for search in searches),
            envelopes=envelopes,
            findings=0,
        )

    def _check_daemons(self) -> None:
        """No daemon ended by itself, but for a disk or port that was not there for a moment."""
        for daemon in self._stage.daemons:
            died = [code for code in daemon.ended_alone if code not in START_AGAIN]
            require(not died, f"{daemon.name} ended by itself with {died}: {daemon.last_words()}")

    @property
    def _summary(self) -> dict[str, Any]:
        return {
            "summary": True,
            "ok": True,
            "took_s": round(time.monotonic() - self._begun_s, 1),
            "sent": len(self._sent),
            "received": len(self._opened),
            "lost": 0,
            "doubled": 0,
            "altered": 0,
            "kills": len(self._kills),
            "in_flight_at_kill": {kill.who: kill.page_said for kill in self._kills},
            "in_flight_by_log": self._in_flight,
            "log_entries": self._log_sizes,
            "plaintext_findings": 0,
        }

    # --- parts ----------------------------------------------------------------------------------------------

    def _told(self, name: str, sentence: str, **facts: Any) -> None:
        now_s = time.monotonic()
        self._teller.told(
            Step(name=name, sentence=sentence, took_s=round(now_s - self._step_s, 2), facts=facts)
        )
        self._step_s = now_s

    def _grading(self, crime_type: str) -> dict[str, str | Sequence[str]]:
        return {
            "recipients": [self._peer],
            "status": "exercise",
            "crime_type": crime_type,
            "urgency": "expected",
            "source": "B",
            "information": "2",
        }

    def _vehicle_form(self) -> dict[str, str | Sequence[str]]:
        return {
            **self._grading("drug_trafficking"),
            "kind": "vehicle",
            "vehicle.plate": next(self._plates),
            "vehicle.colour": "white",
            "vehicle.seen_where": "Checkpoint 4, northbound",
            "vehicle.description": f"White pickup, false plate {self._canary.word}",
        }

    async def _submit(self, form: Form) -> dict[str, Any]:
        """Send as the officer; what was promised is written down the moment it is promised."""
        answer = await self._from.submit(form)
        require(answer["state"] == "released", "An alert was put aside that one officer may send.")
        self._sent[answer["alert_id"]] = form
        return answer

    async def _arrived(self, alert_id: str) -> None:
        await self._until(
            self._to.inbox,
            lambda rows: any(row["alert_id"] == alert_id for row in rows),
            "An alert did not arrive",
        )

    async def _reaches(self, alert_id: str, rung: str) -> None:
        await self._until(
            self._from.outbox,
            lambda rows: any(row["alert_id"] == alert_id and row["state"] == rung for row in rows),
            f"An alert was not {rung}",
        )

    async def _all_delivered(self) -> None:
        await self._until(
            self._from.outbox,
            lambda rows: len(rows) == len(self._sent) and not _waiting(rows),
            "Not every alert was delivered",
        )

    async def _until(
        self,
        ask: Callable[[], Any],
        enough: Callable[[list[dict[str, Any]]], bool],
        otherwise: str,
    ) -> None:
        try:
            async with asyncio.timeout(ARRIVE_TIMEOUT_S):
                while not enough(await ask()):  # noqa: ASYNC110 - a page is asked; nothing calls back
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise DemoFailed(f"{otherwise} within {ARRIVE_TIMEOUT_S:.0f} s.") from None


async def _refusal(call: Any) -> str:
    """The code a page refuses with, '' when it does not."""
    try:
        await call
    except PageRefused as refused:
        return refused.word
    return ""


def _waiting(rows: Sequence[dict[str, Any]]) -> int:
    """How many rows of an outbox have no verified receipt."""
    return sum(row["state"] in ("waiting", "on_broker") for row in rows)


def _differs(form: Form, fields: dict[str, Any]) -> bool:
    """Whether a received alert says anything else than what was typed."""
    for name, typed in form.items():
        group, _, inner = name.partition(".")
        if name in ("recipients", "kind", "erase_days"):
            continue
        if not inner:
            shown = fields[name]
        elif group == "text":
            shown = fields["text"][inner]
        else:
            shown = fields["entities"][0][inner]
        if shown != typed:
            return True
    return False
