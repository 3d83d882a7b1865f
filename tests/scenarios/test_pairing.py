"""Pairing side by side with the commands a supervisor types, on real processes."""

import asyncio
import json
from typing import Any

import pytest

from demo.office import Office
from demo.stage import Stage
from tests.scenarios.strangers import two_strangers
from tests.scenarios.world import delivered, vehicle

TIMEOUT_S = 60


class Ceremony:
    """``salween-node pair --in-person --json``: events on its output, answers on its input."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def event(self, name: str) -> dict[str, Any]:
        """The next event of this name."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said: dict[str, Any] = json.loads(line)
            if said.get("event") == name:
                return said
            assert "error" not in said, said
        raise AssertionError(f"ended without {name}")

    async def answer(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"answer": text}).encode() + b"\n")
        await self._process.stdin.drain()

    async def result(self) -> dict[str, Any]:
        """What the command printed last; it ended well."""
        out, err = await self._process.communicate()
        assert self._process.returncode == 0, err.decode()
        return dict(json.loads(out.splitlines()[-1]))


async def in_person(stage: Stage, office: Office, *more: str) -> Ceremony:
    return Ceremony(
        await stage.spawn(
            "node",
            *("pair", "--dir", office.directory, "--passphrase-file", office.passphrase_file),
            *("--in-person", "--json", *more),
        )
    )


@pytest.mark.scenario
async def test_two_offices_pair_side_by_side_by_their_commands() -> None:
    """Both commands show the other office and one safety number; then an alert crosses."""
    async with (
        asyncio.timeout(TIMEOUT_S),
        Stage.open() as stage,
        two_strangers(stage) as (first, second, broker, token),
    ):
        token_file = str(stage.secret_file("operator.token", token))
        begins = await in_person(stage, first, "--broker", broker, "--token-file", token_file)
        answers = await in_person(stage, second)
        shown = await begins.event("meeting-code")
        await answers.event("scan")
        await answers.answer(shown["code"])
        await begins.answer((await answers.event("meeting-code"))["code"])
        seen = [await ceremony.event("recognise") for ceremony in (begins, answers)]
        assert [event["name"] for event in seen] == [second.name, first.name]
        assert seen[0]["safety_number"] == seen[1]["safety_number"]
        for ceremony in (begins, answers):
            await ceremony.answer("yes")
        paired = await asyncio.gather(begins.result(), answers.result())
        assert [result["peer"]["name"] for result in paired] == [second.name, first.name]

        pages = await first.pages("supervisor")
        (partner,) = await pages.get("/partners")
        await pages.submit(vehicle(partner["office_id"], "KA-1"))
        await delivered(pages, 1)
        await first.leave_pages()
