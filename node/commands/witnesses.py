"""Commands about witnesses: have a broker cosign our log as well, or no more.

Spec: docs/operations.md#commands.
"""

from typing import Any

import click

from node.commands import terminal
from node.commands.terminal import by_operator
from runtime.env import Env
from runtime.secretfiles import read_secret_file


@click.group()
def witness() -> None:
    """Have a broker cosign our log as well. Off, unless it is switched on here."""


WITNESS_LEARNS = (
    "From now on this broker learns the name of our log (a pseudonym that stays for years, and that our"
    " partners know), how many entries it holds and, to ten minutes, when it grows. It can lay that beside"
    " the connections of this office. Its own log, which auditors read, holds it too. It learns no entry, no"
    " partner and no content. Partners witness our log without any of this."
)


def _show_witnesses(result: dict[str, Any]) -> None:
    for broker in result["brokers"]:
        fault = f", REFUSED ({broker['refused']})" if broker["refused"] else ""
        fault += f", no answer ({broker['trouble']})" if broker["trouble"] else ""
        click.echo(f"{broker['address']}\n  {broker['cosigned_size']} entries, {broker['state']}{fault}")
    if not result["brokers"]:
        click.echo("No broker witnesses our log; partners do.")


@witness.command("list")
@by_operator
def witness_list(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """List the brokers that were asked to cosign our log."""
    result = terminal.ask(directory, passphrase_file, "witness.list", {})
    terminal.finish(result, as_json, _show_witnesses)


@witness.command("add")
@by_operator
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False),
    required=True,
    help="File (mode 0600) with the broker's witness token.",
)
@click.option("--yes", is_flag=True, help="Do not ask again.")
@click.argument("to", metavar="BROKER")
def witness_add(
    directory: str, passphrase_file: str | None, token_file: str, yes: bool, to: str, as_json: bool
) -> None:
    """Have BROKER cosign our log. It then knows that log's name, size and growth while this is on."""
    click.echo(WITNESS_LEARNS, err=True)
    if not yes:
        click.confirm("Switch it on?", abort=True, err=True)

    async def work(env: Env) -> dict[str, Any]:
        token = read_secret_file(env.files, token_file).reveal().decode("utf-8", "replace")
        return await terminal.call(
            env, directory, passphrase_file, "witness.add", {"broker": to, "token": token}
        )

    terminal.finish(terminal.run(work), as_json, _show_witnesses)


@witness.command("remove")
@by_operator
@click.argument("to", metavar="BROKER")
def witness_remove(directory: str, passphrase_file: str | None, to: str, as_json: bool) -> None:
    """Ask BROKER no more. What it learnt it keeps; what it cosigned stays under our log."""
    result = terminal.ask(directory, passphrase_file, "witness.remove", {"broker": to})
    terminal.finish(result, as_json, _show_witnesses)


COMMANDS = (witness,)
