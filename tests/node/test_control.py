"""The control socket: whatever comes over it, the daemon answers in its own words and lives on."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from keys.errors import BrokenInvariant, SalweenError, Unavailable
from node.control import call_daemon
from runtime.env import Env
from tests.node.offices import PIN, Offices, an_alert, node_of, play, shown
from tests.simulation.daemons import OfficeHost

SOCKET = "node/control.sock"


async def call(office: OfficeHost, verb: str, params: Any) -> dict[str, Any]:
    async def nothing(event: dict[str, Any]) -> str:
        return ""

    return await office.host.run(
        lambda env: call_daemon(env, SOCKET, verb, params, on_event=lambda event: None, answer=nothing)
    )


async def raw(env: Env, *frames: str | bytes) -> list[Any]:
    """What the daemon says to bytes that no command of ours sends."""
    async with (
        env.network.client_session(unix_path=SOCKET) as session,
        session.ws_connect("http://localhost/") as socket,
    ):
        for frame in frames:
            if isinstance(frame, str):
                await socket.send_str(frame)
            else:
                await socket.send_bytes(frame)
        return [message.data async for message in socket]


HOSTILE: list[tuple[str, Any]] = [
    ("", {}),
    ("x" * 5000, {}),
    ("status", {"officer": {"a": 1}}),
    ("send", {"officer": 1, "pin": PIN, "to": 5, "alert": {}}),
    ("send", {"officer": 1, "pin": PIN, "to": "Tengchong BLO", "alert": {"status": "test"}}),
    ("send", {"officer": 1, "pin": PIN, "to": [""], "alert": json.loads(an_alert("K").model_dump_json())}),
    ("send", {"officer": 1, "pin": PIN, "to": [], "alert": []}),
    ("inbox", {"officer": 2**70, "pin": PIN}),
    ("inbox", {"officer": -1, "pin": PIN}),
    ("inbox", {"officer": True, "pin": PIN}),
    ("inbox", {"officer": 1, "pin": ["1"]}),
    ("inbox", {"officer": 1, "pin": "9" * 100_000}),
    ("show", {"officer": 1, "pin": PIN, "alert_id": "../../etc/passwd", "purpose": {"a": 1}}),
    ("show", {"officer": 1, "pin": PIN, "alert_id": "00" * 32, "purpose": "case"}),
    ("pending", {"officer": 1, "pin": PIN, "release": "zz"}),
    ("officers.add", {"alias": "a\nb", "role": "officer", "pin": "135792"}),
    ("officers.add", {"alias": "A", "role": "root", "pin": "135792"}),
    ("officers.retire", {"officer": 77}),
    ("pair.invite", {"broker": "http://169.254.169.254/", "token": "x"}),
    ("pair.join", {"invitation": "x" * 10_000}),
]


def test_hostile_parameters_are_refused_by_name(tmp_path: Path) -> None:
    """Every one is an error of a family with words, none an internal one, and the node serves on."""

    async def script(offices: Offices) -> None:
        here = offices.here
        for verb, params in HOSTILE:
            if verb == "status":
                assert (await call(here, verb, params))["running"]
                continue
            with pytest.raises(SalweenError) as told:
                await call(here, verb, params)
            assert not isinstance(told.value, BrokenInvariant), (verb, params, told.value)
            assert told.value.detail, (verb, params)
            if told.value.code == "pin_wrong":
                await here.host.run(lambda env: node_of(here).desk.login(1, PIN))
        assert not node_of(here).failed.done()
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(30)
        assert await shown(offices.there) == 1

    play(tmp_path, script)


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        "[" * 100_000,
        '{"verb": 5}',
        '{"verb": "status", "params": [1]}',
        b"\x00",
    ],
)
def test_frames_that_are_no_call_are_told_so(tmp_path: Path, frame: str | bytes) -> None:
    """One answer that names the fault, then the connection ends."""

    async def script(offices: Offices) -> None:
        answers = await offices.here.host.run(lambda env: raw(env, frame))
        assert len(answers) == 1
        assert json.loads(answers[0])["error"]["code"] == "control_frame"
        assert not node_of(offices.here).failed.done()

    play(tmp_path, script)


def test_a_pairing_ends_with_the_command_that_ran_it(tmp_path: Path) -> None:
    """Ctrl-C at one terminal must not keep the next pairing waiting for ten minutes."""

    async def script(offices: Offices) -> None:
        here = offices.here
        node = node_of(here)

        async def invite_and_go(env: Env) -> None:
            token = await offices.broker.token()
            async with env.network.client_session(unix_path=SOCKET) as session:
                socket = await session.ws_connect("http://localhost/")
                params = {"broker": offices.broker.address, "token": token}
                await socket.send_json({"verb": "pair.invite", "params": params})
                told = json.loads((await socket.receive()).data)
                assert told["event"]["event"] == "invitation"
                assert node.ceremonies._partnering._one_at_a_time.locked()

        await here.host.run(invite_and_go)
        await asyncio.sleep(5)
        assert not node.ceremonies._partnering._one_at_a_time.locked()

    play(tmp_path, script)


def test_a_socket_nobody_listens_at_is_told_in_words(tmp_path: Path) -> None:
    """A daemon that is just starting, or another command: try again, not an internal error."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await here.host.run(lambda env: node_of(here).stop())
        with pytest.raises(Unavailable) as told:
            await call(here, "status", {})
        assert told.value.code == "daemon_not_listening"

    play(tmp_path, script)
