"""Commands about brokers: move to another, take a new address, routes through one to another.

Spec: docs/operations.md#commands.
"""

from pathlib import PurePath
from typing import Any

import click

from keys.errors import PolicyRefused
from node.commands import terminal
from node.commands.terminal import by_operator
from node.control import Params
from protocol import limits
from runtime.env import Env
from runtime.secretfiles import read_secret_file


@click.command()
@by_operator
@click.option("--broker", required=True, metavar="ADDRESS", help="Address of the new broker.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False),
    required=True,
    help="File (mode 0600) with its operator's tokens, one a line; each makes four mailboxes.",
)
@click.option("--to", multiple=True, help="Only for this paired office; may be repeated.")
@click.option("--out", type=click.Path(file_okay=False), help="Also write a file for each office here.")
def move(
    directory: str,
    passphrase_file: str | None,
    broker: str,
    token_file: str,
    to: tuple[str, ...],
    out: str | None,
    as_json: bool,
) -> None:
    """Read at another broker from now on, and tell every paired office; with --out also by file."""

    async def work(env: Env) -> dict[str, Any]:
        token = read_secret_file(env.files, token_file).reveal().decode("utf-8", "replace")
        params = {"broker": broker, "token": token, "to": list(to)}
        result = await terminal.call(env, directory, passphrase_file, "move", params)
        if out is not None:
            env.files.mkdir(out, 0o700)
        for moved in result["moved"]:
            envelope = bytes.fromhex(moved.pop("file"))
            if out is not None:
                moved["file"] = str(PurePath(out) / f"{moved['peer'][:16]}.address")
                env.files.write_atomic(moved["file"], envelope, 0o600)
        return result

    def show(result: dict[str, Any]) -> None:
        for moved in result["moved"]:
            click.echo(f"{moved['name']} is being told; this repeats itself until it answers.")
            if "file" in moved:
                click.echo(f"  or there: salween-node import-address --dir DIR {moved['file']}")

    terminal.finish(terminal.run(work), as_json, show)


@click.command("import-address")
@by_operator
@click.argument("file", type=click.Path(dir_okay=False))
def import_address(directory: str, passphrase_file: str | None, file: str, as_json: bool) -> None:
    """Take in the address file that a paired office's move --out wrote."""

    async def work(env: Env) -> dict[str, Any]:
        try:
            data = env.files.read(file, limits.ENVELOPE_BYTES_MAX)
        except FileNotFoundError as fault:
            raise PolicyRefused("file_missing", f"There is no file {file}.") from fault
        return await terminal.call(env, directory, passphrase_file, "import-address", {"file": data.hex()})

    terminal.finish(
        terminal.run(work), as_json, lambda result: click.echo(f"Taken in from {result['peer']}.")
    )


@click.group()
def routes() -> None:
    """Reach foreign brokers through our own, so that they never see this office."""


def _show_routes(result: dict[str, Any]) -> None:
    for route in result["routes"]:
        way = f"through {route['through']}, there '{route['name']}'" if route["through"] else "straight"
        click.echo(f"{route['address']}\n  {way}")
    if not result["routes"]:
        click.echo("No routes: this office speaks to every broker itself.")


@routes.command("list")
@by_operator
def routes_list(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """List routes."""
    result = terminal.ask(directory, passphrase_file, "routes.list", {})
    terminal.finish(result, as_json, _show_routes)


@routes.command("add")
@by_operator
@click.option("--through", metavar="ADDRESS", help="Address of the broker that hands on: our own.")
@click.option("--name", help="What its operator calls the other broker.")
@click.option(
    "--token-file", type=click.Path(dir_okay=False), help="File (mode 0600) with its forwarding token."
)
@click.option(
    "--straight", is_flag=True, help="Instead: speak to this one ourselves, although there are routes."
)
@click.argument("to", metavar="BROKER")
def routes_add(
    directory: str,
    passphrase_file: str | None,
    through: str | None,
    name: str | None,
    token_file: str | None,
    straight: bool,
    to: str,
    as_json: bool,
) -> None:
    """Reach BROKER through another one from now on. With a route, no foreign broker is spoken to straight."""
    missing = {through is None, name is None, token_file is None}
    if missing != {straight}:
        raise click.UsageError("Give --through, --name and --token-file, or --straight alone.")

    async def work(env: Env) -> dict[str, Any]:
        params: Params = {"to": to}
        if through is not None:
            token = read_secret_file(env.files, str(token_file)).reveal().decode("utf-8", "replace")
            params.update(through=through, name=name, token=token)
        return await terminal.call(env, directory, passphrase_file, "routes.add", params)

    terminal.finish(terminal.run(work), as_json, _show_routes)


@routes.command("remove")
@by_operator
@click.argument("to", metavar="BROKER")
def routes_remove(directory: str, passphrase_file: str | None, to: str, as_json: bool) -> None:
    """Forget how BROKER is reached."""
    result = terminal.ask(directory, passphrase_file, "routes.remove", {"to": to})
    terminal.finish(result, as_json, _show_routes)


COMMANDS = (
    move,
    import_address,
    routes,
)
