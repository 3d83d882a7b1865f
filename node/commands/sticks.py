"""Commands of what is carried by hand: write a stick, read a stick, and the words that come back.

Spec: docs/operations.md#sticks. One rule: whoever carries the stick is told what is on it and what is still
missing, in words; a file that was not read whole ends with exit code 1.
"""

import sys
from pathlib import Path
from typing import Any

import click

from node.commands import terminal
from node.commands.terminal import (
    by_officer,
)
from runtime import exits
from runtime.env import Env

_COUNTS = (
    ("new", "{} new"),
    ("seen", "{} seen before"),
    ("refused", "{} refused; its sender is told"),
    ("unknown", "{} not for this office, or sealed to a key it no longer has"),
    ("held", "{} not taken in: the partner is suspended or frozen, or its papers are not here yet"),
    ("damaged", "{} damaged"),
    ("missing", "{} missing"),
)


def report_words(report: dict[str, Any]) -> list[str]:
    """What came of a file, line by line."""
    lines = [words.format(report[name]) for name, words in _COUNTS if report[name]]
    if report["broken_off"]:
        lines.append("The stick could not be read to its end. What was read is kept; put it in again.")
    elif not report["is_whole"]:
        lines.append("The file is cut short or damaged. What was whole in it is kept; ask for a new one.")
    if report["held"]:
        lines.append("Keep this stick: import it again when the partner is resumed.")
    if report["is_outdated"]:
        lines.append("This stick is outdated: nothing on it is new here.")
    return lines


@click.command("export")
@by_officer
@click.option("--to", metavar="PEER", required=True, help="Name or id of the paired office.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.argument("file", type=click.Path())
def export(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    as_json: bool,
    to: str,
    force: bool,
    file: str,
) -> None:
    """Write what waits for PEER into FILE, to be carried on a stick. It waits here all the same."""
    path = str(Path(file).absolute())  # the daemon works in a directory of its own

    async def work(env: Env) -> dict[str, Any]:
        params = {
            "officer": officer,
            "pin": terminal.pin(env, pin_file),
            "to": to,
            "file": path,
            "force": force,
        }
        return dict(await terminal.call(env, directory, passphrase_file, "export", params))

    def show(result: dict[str, Any]) -> None:
        others = result["envelopes"] - result["alerts"]
        click.echo(
            f"Wrote {path} for {result['peer_name']}: {result['alerts']} alerts and {others} other"
            f" messages, {result['size_bytes']} bytes."
        )
        if result["left"]:
            click.echo(f"{result['left']} more found no room: export once more into another file.")
        click.echo("There: salween-node import. Everything stays in the outbox until it is acknowledged.")

    terminal.finish(terminal.run(work), as_json, show)


@click.command("import")
@by_officer
@click.argument("file", type=click.Path())
def import_file(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    as_json: bool,
    file: str,
) -> None:
    """Take in FILE, written by a partner's export. Taking it in twice changes nothing."""
    path = str(Path(file).absolute())

    async def work(env: Env) -> dict[str, Any]:
        params = {"officer": officer, "pin": terminal.pin(env, pin_file), "file": path}
        return dict(await terminal.call(env, directory, passphrase_file, "import", params))

    result = terminal.run(work)
    terminal.finish(result, as_json, lambda report: click.echo("\n".join(report_words(report))))
    if not result["is_whole"]:
        sys.exit(exits.REFUSED)


COMMANDS = (
    export,
    import_file,
)
