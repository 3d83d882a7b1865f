"""Two offices pair: both ``pair`` commands, and the telephone between them.

Spec: docs/spec/pairing.md. The commands run as they would in two offices and speak over their standard
input and output; the part of the two people, reading a code aloud and typing the other's, is played here.
One rule: what one side learns, it learns from the other's lips: nothing is taken from a store.
"""

import asyncio
import json
from typing import Any, Final

from demo.office import Office
from demo.stage import DemoFailed, Stage

STEP_TIMEOUT_S: Final = 60.0


async def pair(stage: Stage, inviter: Office, joiner: Office, broker_address: str, token: str) -> str:
    """Pair over the broker with the operator's token; the safety number both screens show."""
    token_file = stage.secret_file(f"{inviter.short}-{joiner.short}.token", token)
    inviting = await inviter.spawn(
        "pair", "--invite", "--broker", broker_address, "--token-file", token_file, "--json"
    )
    invitation = (await _until(inviting, "invitation"))["invitation"]
    joining = await joiner.spawn("pair", "--join", invitation, "--json")
    codes = await asyncio.gather(_until(inviting, "code"), _until(joining, "code"))
    # Each officer types what the other reads aloud.
    await _type(inviting, codes[1]["mine"])
    await _type(joining, codes[0]["mine"])
    ended = await asyncio.gather(_result(inviting), _result(joining))
    numbers = [peer["safety_number"] for peer in ended]
    if numbers[0] != numbers[1]:
        raise DemoFailed("The two offices show different safety numbers.")
    return str(numbers[0])


async def _until(command: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
    """The next event of that name."""
    while True:
        line = await _line(command)
        if line.get("event") == event:
            return line


async def _result(command: asyncio.subprocess.Process) -> dict[str, Any]:
    """The peer it is paired with now."""
    while True:
        line = await _line(command)
        if "peer" in line:
            await command.wait()
            return dict(line["peer"])


async def _line(command: asyncio.subprocess.Process) -> dict[str, Any]:
    assert command.stdout is not None
    try:
        async with asyncio.timeout(STEP_TIMEOUT_S):
            line = await command.stdout.readline()
    except TimeoutError:
        raise DemoFailed("A pairing command waited too long.") from None
    if not line:
        assert command.stderr is not None
        raise DemoFailed(f"A pairing command ended: {(await command.stderr.read()).decode(errors='replace')}")
    said = json.loads(line)
    if "error" in said:
        raise DemoFailed(f"Pairing failed: {said['error']['detail']}")
    return dict(said)


async def _type(command: asyncio.subprocess.Process, peer_code: str) -> None:
    assert command.stdin is not None
    command.stdin.write(json.dumps({"peer_code": peer_code}).encode() + b"\n")
    await command.stdin.drain()
