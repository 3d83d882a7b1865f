"""Commands about officers: list, add, retire, reset a PIN.

Spec: docs/operations.md#commands.
"""

from typing import Any

import click

from node.commands import terminal
from node.commands.terminal import by_operator, pin_option
from runtime.env import Env


@click.group()
def officers() -> None:
    """Add, list and retire officers."""


@officers.command("list")
@by_operator
def officers_list(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """List officers."""

    def show_table(result: dict[str, Any]) -> None:
        rows = [(str(o["number"]), o["alias"], o["role"], o["state"]) for o in result["officers"]]
        terminal.table(("Number", "Alias", "Role", "State"), rows)

    terminal.finish(
        terminal.ask(directory, passphrase_file, "officers.list", {}),
        as_json,
        show_table,
    )


@officers.command("add")
@by_operator
@click.option("--alias", required=True, help="How the officer is called on the log-in page.")
@click.option(
    "--role",
    type=click.Choice(["officer", "supervisor", "auditor", "operator"]),
    default="officer",
    show_default=True,
)
@pin_option
def officers_add(
    directory: str, passphrase_file: str | None, alias: str, role: str, pin_file: str | None, as_json: bool
) -> None:
    """Add an officer; the new signed list reaches peers with the next message."""

    async def work(env: Env) -> dict[str, Any]:
        params = {"alias": alias, "role": role, "pin": terminal.pin(env, pin_file, confirm=True)}
        return await terminal.call(env, directory, passphrase_file, "officers.add", params)

    terminal.finish(
        terminal.run(work), as_json, lambda result: click.echo(f"Added officer {result['officer']}.")
    )


@officers.command("retire")
@by_operator
@click.argument("number", type=int)
def officers_retire(directory: str, passphrase_file: str | None, number: int, as_json: bool) -> None:
    """End an officer's rights now; what they signed stays valid."""
    result = terminal.ask(directory, passphrase_file, "officers.retire", {"officer": number})
    terminal.finish(result, as_json, lambda _: click.echo(f"Retired officer {number}."))


@officers.command("reset-pin")
@by_operator
@click.argument("number", type=int)
@pin_option
def officers_reset_pin(
    directory: str, passphrase_file: str | None, number: int, pin_file: str | None, as_json: bool
) -> None:
    """Give an officer a new PIN (and with it a new signing key)."""

    async def work(env: Env) -> dict[str, Any]:
        params = {"officer": number, "pin": terminal.pin(env, pin_file, confirm=True)}
        return await terminal.call(env, directory, passphrase_file, "officers.reset-pin", params)

    terminal.finish(terminal.run(work), as_json, lambda _: click.echo(f"Officer {number} has a new PIN."))


COMMANDS = (officers,)
