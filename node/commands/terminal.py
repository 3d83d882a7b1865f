"""What every command shares: its options, secrets from a prompt or a file, the way to the daemon, its answer.

Spec: docs/operations.md#commands. One rule: secrets never come from arguments or the environment.
"""

import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import PurePath
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.table import Table

from keys.errors import PolicyRefused, SalweenError, Unavailable
from keys.secret import SecretBytes
from node.control import SOCKET_NAME, Params, call_daemon
from node.daemon import Node
from node.verbs import run_verb
from runtime import exits
from runtime.env import Env, run_real
from runtime.secretfiles import read_secret_file
from runtime.service import hold_directory

NAME = "salween-node"

directory_option = click.option(
    "--dir", "directory", type=click.Path(file_okay=False), required=True, help="Directory of this node."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
passphrase_option = click.option(
    "--passphrase-file", type=click.Path(dir_okay=False), help="File (mode 0600) holding the passphrase."
)
officer_option = click.option("--officer", type=int, required=True, help="Your officer number.")
pin_option = click.option(
    "--pin-file", type=click.Path(dir_okay=False), help="File (mode 0600) holding your PIN."
)


def by_operator(command: Any) -> Any:
    """Options of a command that whoever has the directory may give."""
    return directory_option(passphrase_option(json_option(command)))


def by_officer(command: Any) -> Any:
    """Options of a command that an officer gives with a PIN."""
    return directory_option(passphrase_option(officer_option(pin_option(json_option(command)))))


class _TerminalChannel:
    """A verb that runs in this process speaks to this terminal."""

    def __init__(
        self, on_event: Callable[[dict[str, Any]], None], answer: Callable[[dict[str, Any]], Any]
    ) -> None:
        self._on_event = on_event
        self._answer = answer

    async def emit(self, event: dict[str, Any]) -> None:
        self._on_event(event)

    async def ask(self, event: dict[str, Any]) -> str:
        self._on_event(event)
        return str(await self._answer(event))


async def _no_answer(event: dict[str, Any]) -> str:
    raise PolicyRefused("no_answer", f"This command cannot answer '{event.get('event')}'.")


async def call(
    env: Env,
    directory: str,
    passphrase_file: str | None,
    verb: str,
    params: Params,
    *,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    answer: Callable[[dict[str, Any]], Coroutine[Any, Any, str]] = _no_answer,
    links: bool = False,
) -> dict[str, Any]:
    """Run a verb in the running daemon, or in this process when none runs."""
    try:
        # Held to the end: two writers of one keystore would each write the other's new keys away.
        lock = hold_directory(env, NAME, directory)
    except Unavailable as held:
        if held.code != "already_running":
            raise
        socket = str(PurePath(directory) / SOCKET_NAME)
        return await call_daemon(env, socket, verb, params, on_event=on_event, answer=answer)
    try:
        node = await Node.open(env, directory, passphrase(env, passphrase_file))
        try:
            if links:
                await node.start_links()
            return await run_verb(node, verb, params, _TerminalChannel(on_event, answer))
        finally:
            await node.stop()
    finally:
        lock.release()


def passphrase(env: Env, path: str | None, *, confirm: bool = False) -> SecretBytes:
    """The passphrase of a node, from a file of mode 0600 or typed."""
    if path is not None:
        return read_secret_file(env.files, path)
    text: str = click.prompt(
        "Passphrase of this node", hide_input=True, confirmation_prompt=confirm, err=True
    )
    return SecretBytes(text.encode())


def pin(env: Env, path: str | None, *, confirm: bool = False) -> str:
    """An officer's PIN, from a file of mode 0600 or typed."""
    if path is not None:
        return read_secret_file(env.files, path).reveal().decode("utf-8", "replace")
    return str(click.prompt("PIN", hide_input=True, confirmation_prompt=confirm, err=True))


def run(work: Callable[[Env], Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, Any]:
    """Do the work with the real environment; a refusal ends the program with its exit code."""
    as_json = bool(click.get_current_context().params.get("as_json"))
    try:
        return run_real(work)
    except SalweenError as error:
        fail(error, as_json)
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("Interrupted; nothing half-done was kept.", err=True)
        sys.exit(1)


def ask(directory: str, passphrase_file: str | None, verb: str, params: Params) -> dict[str, Any]:
    """What a verb answers that needs no PIN and says nothing on the way; ends the program as ``run`` does."""
    return run(lambda env: call(env, directory, passphrase_file, verb, params))


def fail(error: SalweenError, as_json: bool) -> NoReturn:
    """Say what, why and what to do, and end with the exit code of its family."""
    if as_json:
        click.echo(
            json.dumps({"error": {"family": error.family, "code": error.code, "detail": error.detail}})
        )
    else:
        click.echo(f"salween-node: {error.detail or error.code} [{error.code}]", err=True)
    sys.exit(exits.exit_code_for(error))


def finish(result: dict[str, Any], as_json: bool, show_text: Callable[[dict[str, Any]], None]) -> None:
    """The result as one line of JSON, or in words."""
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False))
    else:
        show_text(result)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under their columns."""
    shown = Table(*columns)
    for row in rows:
        shown.add_row(*row)
    Console().print(shown if rows else "Nothing there.")
