"""What the stories have in common: steps that are told when they hold, and waiting for what must come.

Spec: docs/operations.md#demo. One rule: the first thing that does not hold ends a story with one sentence.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from demo.office import Office, Pages
from demo.stage import DemoFailed, Stage

ARRIVE_TIMEOUT_S: Final = 120.0
POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step that held: a word for programs, a sentence for people, and its figures."""

    name: str
    sentence: str
    took_s: float
    facts: dict[str, Any] = field(default_factory=dict)


class Teller(Protocol):
    """Whoever follows a story."""

    def doing(self, what: str) -> None:
        """What happens now; it may take seconds."""
        ...

    def told(self, step: Step) -> None:
        """A step held."""
        ...


def require(holds: bool, otherwise: str) -> None:
    """DemoFailed with this sentence unless it holds."""
    if not holds:
        raise DemoFailed(otherwise)


class Tale:
    """A story on one stage. A kind of it fills ``offices`` and tells ``play``."""

    def __init__(self, stage: Stage, teller: Teller) -> None:
        self.stage = stage
        self.teller = teller
        self.offices: tuple[Office, ...] = ()
        self._begun_s = self._step_s = time.monotonic()

    async def play(self) -> dict[str, Any]:
        """The whole story; what its summary says besides."""
        raise NotImplementedError

    async def run(self) -> dict[str, Any]:
        """Tell it to the end; the summary. DemoFailed at the first thing that does not hold."""
        try:
            facts = await self.play()
        finally:
            await asyncio.gather(*(office.leave_pages() for office in self.offices))
        took_s = round(time.monotonic() - self._begun_s, 1)
        return {"summary": True, "ok": True, "took_s": took_s, **facts}

    def told(self, name: str, sentence: str, **facts: Any) -> None:
        """A step held."""
        now_s = time.monotonic()
        took_s, self._step_s = round(now_s - self._step_s, 1), now_s
        self.teller.told(Step(name=name, sentence=sentence, took_s=took_s, facts=facts))

    async def holds(self, look: Callable[[], Coroutine[Any, Any, bool]], otherwise: str) -> None:
        """Wait until it does."""
        try:
            async with asyncio.timeout(ARRIVE_TIMEOUT_S):
                while not await look():  # noqa: ASYNC110 - a page is asked; nothing calls back
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise DemoFailed(otherwise) from None

    async def arrives(self, there: Pages, alert_id: str) -> None:
        """Wait until the inbox shows it."""

        async def look() -> bool:
            return any(row["alert_id"] == alert_id for row in await there.inbox())

        await self.holds(look, "An alert did not arrive.")

    async def reaches(self, here: Pages, alert_ids: Sequence[str], rung: str) -> None:
        """Wait until the outbox says so of each of these."""

        async def look() -> bool:
            states = {row["alert_id"]: row["state"] for row in await here.outbox()}
            return all(states.get(alert_id) == rung for alert_id in alert_ids)

        await self.holds(look, f"Not every alert was {rung}.")

    async def shown_once(self, there: Pages, alert_ids: Sequence[str]) -> None:
        """Exactly these alerts, each once."""
        shown = sorted(row["alert_id"] for row in await there.inbox())
        require(shown == sorted(alert_ids), "An inbox does not show each alert once, and nothing else.")

    async def verified(self, log: Path, policy: Path) -> None:
        """``salween-audit verify`` and ``replay`` find nothing."""
        for verb in ("verify", "replay"):
            report = await self.stage.command("audit", verb, log, "--policy", policy)
            found = report["findings"] or report.get("oddities")
            require(not found, f"The log {report['origin']} does not verify: {json.dumps(found)}.")
