"""One alert to several offices by real processes: from the command, a program and the page."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from demo.ceremony import pair
from demo.office import Office
from tests.scenarios.test_local_api import a_token, an_alert, programs
from tests.scenarios.world import World, delivered

pytestmark = pytest.mark.scenario

THIRD = ("Boten BLO", "LA", "boten")
DAY_MS = 24 * 3600 * 1000
OFF_S = 2.0


async def join(world: World) -> Office:
    """Another office, paired with the first one; the broker and the first office run."""
    office = Office(world.stage, *THIRD)
    await office.init("Duty officer", "officer")
    await office.daemon.start()
    token = world.stage.directory / "myitkyina.token"
    token.unlink(missing_ok=True)
    made = await world.stage.command("broker", "tokens", "--dir", world.broker_home)
    await pair(world.stage, world.sender, office, world.broker.ready["address"], made["tokens"][0])
    return office


def a_file(world: World, plate: str) -> Path:
    path = world.stage.directory / f"{plate}.json"
    now_ms = int(time.time() * 1000)
    times = {"created_ms": now_ms, "expires_ms": now_ms + DAY_MS, "erase_at_ms": now_ms + 7 * DAY_MS}
    path.write_text(json.dumps({**an_alert(world, plate)["alert"], **times}))
    return path


async def test_one_alert_reaches_several_offices_in_either_mode(world: World) -> None:
    """Shared from the command, the page and a program, separate beside them; one office is off meanwhile,

    and the broker is killed. Everybody shows every alert once; what cannot be shared is said to be so.
    """
    officer = world.template.officers[0][0]
    async with programs(world) as program:
        others = [world.receiver, await join(world)]
        names = [office.name for office in others]
        pin = world.pin_file(officer.pin)

        async def send(plate: str, *more: str, to: list[str] = names) -> tuple[int, dict[str, Any]]:
            ended = await world.run_node(
                world.sender, "send", "--officer", str(officer.number), "--pin-file", pin,
                *(word for name in to for word in ("--to", name)), "--file", a_file(world, plate),
                "--json", *more,
            )  # fmt: skip
            assert ended.out, ended.err
            return ended.exit_code, json.loads(ended.out)

        await others[-1].daemon.stop()
        assert (await send("KA-1", "--mode", "shared"))[0] == 0
        assert (await send("KA-2"))[0] == 0
        await world.broker.kill()
        assert (await send("KA-3", "--mode", "shared"))[0] == 0
        code, said = await send("KA-4", "--mode", "shared", to=[*names, names[0]])
        assert code != 0
        assert said["error"]["code"] == "audience_repeated"
        assert names[0] in json.dumps(said)

        program.token = await a_token(world, officer, "alerts:send", "partners:read")
        partners = (await program.ask("GET", "/partners"))[1]["items"]
        body = {**an_alert(world, "KA-5"), "recipients": [p["office_id"] for p in partners], "mode": "shared"}
        status, sent = await program.ask("POST", "/alerts", body, Idempotency_Key="five")
        assert (status, sent["state"]) == (201, "released")
        secret = {**body, "alert": {**body["alert"], "handling": "H2"}}
        status, refused = await program.ask("POST", "/alerts", secret, Idempotency_Key="six")
        assert (status, refused["code"]) == (409, "shared_sensitive")
        wrong = {**body, "mode": "both"}
        assert (await program.ask("POST", "/alerts", wrong, Idempotency_Key="seven"))[0] == 422

        pages = await world.sender.pages()
        form = {**world.form("KA-6"), "recipients": [p["office_id"] for p in partners], "mode": "shared"}
        await pages.submit(form)
        await asyncio.sleep(OFF_S)
        await asyncio.gather(world.broker.start(), others[-1].daemon.start())
        rows = await delivered(pages, 5)
        assert {len(row["recipients"]) for row in rows} == {2}
        for office in others:
            there = await office.pages()
            shown = sorted(row["headline"].split()[1] for row in await there.inbox())
            assert shown == ["KA-1", "KA-2", "KA-3", "KA-5", "KA-6"]
            await office.leave_pages()
