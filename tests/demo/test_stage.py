"""The stage: a daemon is kept running as a supervisor would, and its refusals are said in one sentence."""

import asyncio
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from demo.office import new_pin
from demo.stage import DemoFailed, Stage, free_port

pytestmark = pytest.mark.scenario


async def a_broker(stage: Stage, health_port: int) -> Path:
    directory = stage.directory / "broker"
    await stage.command(
        "broker", "init", "--dir", directory, "--port", "0", "--health-port", str(health_port)
    )
    return directory


async def test_a_daemon_that_asks_to_be_started_again_is() -> None:
    """Exit 75 (a port in use) is tried again until the port is free; kill -9 is answered with a new start."""
    restarted: list[tuple[str, int]] = []
    async with Stage.open(on_restart=lambda name, exit_code: restarted.append((name, exit_code))) as stage:
        port = free_port()
        directory = await a_broker(stage, port)
        broker = stage.daemon("broker", "broker", "run", "--dir", directory, "--json")
        with socket.create_server(("127.0.0.1", port)):
            starting = asyncio.create_task(broker.start())
            while not broker.log.exists() or "port_in_use" not in broker.log.read_text():
                await asyncio.sleep(0.05)
        await starting
        first = broker.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(30):
            while broker.pid in (None, first):
                await asyncio.sleep(0.05)
        assert restarted == [("broker", -9)]
        assert broker.ended_alone == [-9]


async def test_a_daemon_that_needs_a_person_is_not_started_again() -> None:
    """Exit 1: the stage ends with what the daemon said."""
    async with Stage.open() as stage:
        directory = await a_broker(stage, 0)
        (directory / "broker.toml").write_text('colour = "red"\n')
        broker = stage.daemon("broker", "broker", "run", "--dir", directory, "--json")
        with pytest.raises(DemoFailed, match=r"broker does not start \(exit code 1\): .*colour: unknown key"):
            await broker.start()
        with pytest.raises(DemoFailed, match=r"salween-broker init failed \(1\): .*already"):
            await a_broker(stage, 0)
        kept = stage.directory
    assert not kept.exists()


def test_every_pin_is_one_an_office_accepts() -> None:
    """Six digits, drawn anew each time."""
    pins = {new_pin() for _ in range(200)}
    assert len(pins) > 190
    assert all(re.fullmatch("[0-9]{6}", pin) for pin in pins)
