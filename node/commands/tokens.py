"""Commands about tokens of local programs.

Spec: docs/operations.md#commands.
"""

from typing import Any

import click

from node.commands import terminal
from node.commands.terminal import by_officer, by_operator
from node.control import Params
from node.integrations import DAYS_MAX, SCOPES
from runtime.env import Env


@click.group()
def tokens() -> None:
    """Tokens of programs that use the local API for an officer."""


@tokens.command("list")
@by_operator
def tokens_list(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """List tokens, also those that ended; none is shown itself."""

    def show(result: dict[str, Any]) -> None:
        rows = [
            (str(t["number"]), t["name"], str(t["officer"]), " ".join(t["scopes"]), t["state"])
            for t in result["tokens"]
        ]
        terminal.table(("Number", "Name", "Officer", "May", "State"), rows)

    result = terminal.ask(directory, passphrase_file, "tokens.list", {})
    terminal.finish(result, as_json, show)


@tokens.command("add")
@by_officer
@click.option("--name", required=True, help="What the program is called here.")
@click.option(
    "--may", "scopes", type=click.Choice(SCOPES), multiple=True, required=True, help="May be repeated."
)
@click.option("--days", type=click.IntRange(1, DAYS_MAX), default=90, show_default=True)
def tokens_add(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    name: str,
    scopes: tuple[str, ...],
    days: int,
    as_json: bool,
) -> None:
    """Make a token by which a program acts as this officer. It is shown once: keep it as you would a PIN."""

    async def work(env: Env) -> dict[str, Any]:
        params: Params = {
            "officer": officer,
            "pin": terminal.pin(env, pin_file),
            "name": name,
            "scopes": list(scopes),
            "days": days,
        }
        return await terminal.call(env, directory, passphrase_file, "tokens.add", params)

    def show(result: dict[str, Any]) -> None:
        click.echo(result["token"])
        click.echo(
            f"Number {result['number']}. It ends by itself, or with: salween-node tokens revoke", err=True
        )

    terminal.finish(terminal.run(work), as_json, show)


@tokens.command("revoke")
@by_operator
@click.argument("number", type=int)
def tokens_revoke(directory: str, passphrase_file: str | None, number: int, as_json: bool) -> None:
    """End a token at once."""
    result = terminal.ask(directory, passphrase_file, "tokens.revoke", {"number": number})
    terminal.finish(result, as_json, lambda _: click.echo(f"Token {number} is good for nothing now."))


COMMANDS = (tokens,)
