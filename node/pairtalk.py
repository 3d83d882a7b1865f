"""A ceremony at a terminal: what is printed at each step, and what is asked.

Spec: docs/operations.md#pairing. One rule: every question says what to look at and what to type; with
``--json`` each event is one line out and each answer one line in.
"""

import json
import sys
from typing import Any, Final

import click

from keys.meetingcode import encode_code, read_code_text_untrusted
from node.qr import qr_terminal
from runtime.env import Env

_QUESTIONS: Final = {
    "code": "Type the code the other office reads to you",
    "scan": "Paste the text that the screen of the office that began shows",
    "meeting-code": "Paste the text that the other office's screen shows",
    "recognise": "Is this the office across the table? Type yes or no",
    "replace": "Pair anew in its place? Type yes or no",
}


def say_event(event: dict[str, Any], as_json: bool) -> None:
    """Print what happened."""
    if as_json:
        click.echo(json.dumps(event))
        return
    match event["event"]:
        case "invitation":
            click.echo(
                "Read or send this to the other office (once, within 10 minutes):\n\n"
                f"  {event['invitation']}\n"
            )
        case "code":
            click.echo(f"Read this code aloud to the other office:   {event['mine']}")
        case "meeting-code" if "again" not in event:
            click.echo(qr_terminal(encode_code(read_code_text_untrusted(event["code"]))))
            click.echo(
                "Let the other office read this picture from your screen, or give it this text (within 10"
                f" minutes, to nobody else):\n\n  {event['code']}\n"
            )
        case "recognise":
            click.echo(
                f"The other office is {event['name']} ({event['country']}). Safety number, the same on both"
                f" screens:\n  {event['safety_number']}"
            )
        case "replace":
            click.echo(f"This office is paired with {event['name']} already, and that pairing works.")
        case "waiting":
            click.echo("Waiting for the other office ...")
        case _:
            pass


async def answer_event(env: Env, event: dict[str, Any], as_json: bool) -> str:
    """Ask the person, or the program, at the terminal."""
    if as_json:
        line = await env.run_blocking(sys.stdin.readline)
        try:
            said = json.loads(line)
            return str(said["peer_code"] if "peer_code" in said else said["answer"])
        except (ValueError, KeyError, TypeError):
            return ""
    if "again" in event:
        click.echo(f"{event['again']}. Try it again.", err=True)
    return str(await env.run_blocking(click.prompt, _QUESTIONS[event["event"]]))
