"""``salween-demo``: the story holds, the playground can be played in, and nothing is ever left behind."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from demo.audit_story import AuditStory
from demo.broker_eyes import planted_forms
from demo.canary import Canary
from demo.stage import DemoFailed, Stage
from demo.story import IN_FLIGHT_MIN
from demo.telling import Step
from runtime.env import real_env
from tests.demo.runs import demo, processes_of

pytestmark = pytest.mark.scenario

SECONDS_MAX = 60
# A machine that is busy with something else measures that something.
BUSY_FACTOR = 3


async def told(
    temporary: Path, *options: str, steps: Sequence[str], timeout_s: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A story to its end; its summary, and its steps, which are these and all of them held."""
    async with demo(temporary, *options, "--json") as run:
        exit_code = await run.ends(timeout_s=timeout_s)
    *lines, summary = [json.loads(line) for line in run.words.splitlines()]
    assert exit_code == 0, summary
    run.nothing_is_left()
    assert [line["step"] for line in lines] == list(steps)
    assert all(line["ok"] for line in lines)
    assert (summary["summary"], summary["ok"]) == (True, True)
    return summary, lines


async def test_the_story_holds(temporary: Path) -> None:
    """Three alerts and three waves cross, three kills in flight lose nothing, three logs say so."""
    is_busy = os.getloadavg()[0] > len(os.sched_getaffinity(0))
    summary, lines = await told(
        temporary, "--once", timeout_s=SECONDS_MAX * BUSY_FACTOR,
        steps=["paired", "planted", "vehicle", "victim", "text",
               "killed_receiver", "killed_sender", "killed_broker",
               "opened", "compared", "logs", "searched"],
    )  # fmt: skip
    by_name = {line["step"]: line for line in lines}
    assert summary["sent"] == summary["received"] >= 63
    assert (summary["lost"], summary["doubled"], summary["altered"]) == (0, 0, 0)
    assert set(summary["in_flight_at_kill"]) == {"broker", "sender", "receiver"}
    assert min(summary["in_flight_at_kill"].values()) >= IN_FLIGHT_MIN
    assert min(summary["in_flight_by_log"].values()) >= IN_FLIGHT_MIN
    assert set(summary["log_entries"]) == {"broker", "sender", "receiver"}
    assert by_name["logs"]["messages"] == summary["sent"]
    assert by_name["planted"]["found"] == len(planted_forms(Canary.new()))
    assert by_name["searched"]["findings"] == 0
    assert by_name["searched"]["envelopes"] >= IN_FLIGHT_MIN, "an empty broker would prove nothing"
    assert summary["took_s"] < SECONDS_MAX * (BUSY_FACTOR if is_busy else 1)


async def test_the_playground_stays_until_ctrl_c(temporary: Path) -> None:
    """Both pages answer; a killed broker is started again; Ctrl-C leaves no process and no file."""
    async with demo(temporary) as run:
        words = await run.says("Ctrl-C ends it")
        pages = re.findall(r"http://localhost:[0-9]+", words)
        assert len(pages) == 2
        assert len(re.findall(r"PIN [0-9]{6}", words)) == 4
        assert str(temporary) in words
        assert max(len(line) for line in words.splitlines() if str(temporary) not in line) <= 80
        assert len(processes_of(str(temporary))) == 3
        async with aiohttp.ClientSession() as browser:
            for address in pages:
                async with browser.get(f"{address}/login") as answer:
                    assert answer.status == 200
                    assert "Duty officer" in await answer.text()
        killed = re.search(r"kill -9 ([0-9]+)", words)
        assert killed is not None
        os.kill(int(killed[1]), signal.SIGKILL)
        await run.says("broker ended .*it was started again")
        run.send(signal.SIGINT)
        assert await run.ends() == 0
        assert "Stopped" in run.words
        run.nothing_is_left()


@pytest.mark.parametrize("after_s", [0.6, 2.0, 5.0])
async def test_an_end_in_the_middle_leaves_nothing_behind(temporary: Path, after_s: float) -> None:
    """SIGTERM while offices are being made, and again while it tidies up; the words say so."""
    async with demo(temporary, "--once") as run:
        async with asyncio.timeout(60):
            while not list(temporary.iterdir()):
                await asyncio.sleep(0.02)
        await asyncio.sleep(after_s)
        run.send(signal.SIGTERM)
        await asyncio.sleep(0.1)
        run.send(signal.SIGINT)
        assert await run.ends() == 1
        assert "interrupted; nothing is left behind" in run.words
        run.nothing_is_left()


async def test_the_story_of_a_restored_office_holds(temporary: Path) -> None:
    """A lost computer, a backup, the sheet: what others hold comes back, what is lost is listed exactly."""
    summary, _ = await told(
        temporary, "--story", "restore", timeout_s=300,
        steps=["paired", "alerts", "backup", "after", "restored", "again", "flows"],
    )  # fmt: skip
    assert (summary["lost"], summary["resent"]) == (2, 2)


async def test_the_story_of_a_stick_holds(temporary: Path) -> None:
    """The line is cut midway, a stick carries on both ways, the line returns: nothing lost, nothing twice."""
    summary, _ = await told(
        temporary, "--story", "usb", timeout_s=300,
        steps=["paired", "cut", "there", "back", "twice", "returned", "logs"],
    )  # fmt: skip
    assert summary["sent"] == 11
    assert 1 <= summary["by_stick"] < summary["sent"]


async def test_the_story_of_an_audit_holds(temporary: Path) -> None:
    """A lie by each party under its real key, each found by the command; the report is the one file left."""
    async with demo(temporary, "--story", "audit", "--json") as run:
        exit_code = await run.ends(timeout_s=SECONDS_MAX * BUSY_FACTOR)
    *steps, summary = [json.loads(line) for line in run.words.splitlines()]
    assert exit_code == 0, summary
    assert [step["step"] for step in steps] == [
        "alerts", "honest", "sender", "broker", "receiver", "rolled_back", "report",
    ]  # fmt: skip
    assert (summary["ok"], summary["findings"] >= 4) == (True, True)
    report = Path(summary["report"])
    assert report.parent == temporary
    assert "BROKER-OMISSION-PROVEN" in report.read_text()
    report.unlink()
    run.nothing_is_left()


def test_another_verdict_than_the_one_due_ends_the_story_of_an_audit(tmp_path: Path) -> None:
    """Whatever it is, also none and one too many."""
    story = AuditStory(Stage(tmp_path, None), real_env(), _Silent())
    said = {"id": "ab", "verdict": "UNSOLICITED"}
    story._expect({"messages": [said]}, "ab", "UNSOLICITED")
    for messages in ([], [said, said], [said | {"verdict": "CONSISTENT"}]):
        with pytest.raises(DemoFailed, match="where UNSOLICITED is due"):
            story._expect({"messages": messages}, "ab", "UNSOLICITED")


class _Silent:
    """Nobody follows."""

    def doing(self, what: str) -> None: ...

    def told(self, step: Step) -> None: ...


async def test_the_story_of_two_regions_holds(temporary: Path) -> None:
    """Three offices, two brokers, and a photo to two recipients who do not see each other."""
    summary, _ = await told(
        temporary, "--story", "regions", timeout_s=400,
        steps=["brokers", "paired", "alert", "photo", "answer", "knows"],
    )  # fmt: skip
    assert summary["photo_bytes"] > 1_000
    assert summary["looks"] > 100
