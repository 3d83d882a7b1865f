"""Commands for when somebody is in doubt: proofs, custody notes, and the end of a freeze.

Spec: docs/operations.md#commands.
"""

import json
from pathlib import PurePath
from typing import Any

import click

from node.commands import terminal
from node.commands.terminal import by_officer
from runtime.env import Env


@click.command()
@by_officer
@click.argument("office")
def unfreeze(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    office: str,
    as_json: bool,
) -> None:
    """Let a frozen conversation go on. A supervisor first speaks with the other office."""

    async def work(env: Env) -> dict[str, Any]:
        params = {"officer": officer, "pin": terminal.pin(env, pin_file), "office": office}
        return await terminal.call(env, directory, passphrase_file, "unfreeze", params)

    terminal.finish(
        terminal.run(work),
        as_json,
        lambda _: click.echo("The conversation goes on; the evidence stays kept."),
    )


@click.command()
@by_officer
@click.option("--out", type=click.Path(file_okay=False), required=True, help="Folder for the proofs.")
@click.argument("office")
def evidence(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    out: str,
    office: str,
    as_json: bool,
) -> None:
    """Write what another office signed that cannot be true, one file for each proof."""

    async def work(env: Env) -> dict[str, Any]:
        params = {"officer": officer, "pin": terminal.pin(env, pin_file), "office": office}
        result = await terminal.call(env, directory, passphrase_file, "evidence", params)
        if not env.files.is_dir(out):
            env.files.mkdir(out, 0o700)
        files = []
        for proof in result["evidence"]:
            path = str(PurePath(out) / f"{proof['number']}-{proof['code']}.proof")
            env.files.write_atomic(path, bytes.fromhex(proof["proof"]), 0o600)
            files.append(path)
        return {"files": files}

    def show_files(result: dict[str, Any]) -> None:
        for path in result["files"]:
            click.echo(path)
        if not result["files"]:
            click.echo("There is no evidence about this office.")

    terminal.finish(terminal.run(work), as_json, show_files)


@click.command()
@by_officer
@click.option("--out", type=click.Path(dir_okay=False), required=True, help="File for the notes.")
@click.argument("messages", nargs=-1, required=True)
def custody(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    out: str,
    messages: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the brokers' signed custody notes about MESSAGES of ours, for salween-audit reconcile --notes."""

    async def work(env: Env) -> dict[str, Any]:
        params = {"officer": officer, "pin": terminal.pin(env, pin_file), "messages": " ".join(messages)}
        result = await terminal.call(env, directory, passphrase_file, "custody", params)
        env.files.write_atomic(out, result["notes"].encode(), 0o600)
        return {"file": out, "notes": len(json.loads(result["notes"])["notes"])}

    terminal.finish(
        terminal.run(work), as_json, lambda result: click.echo(f"{result['notes']} notes in {result['file']}")
    )


COMMANDS = (
    unfreeze,
    evidence,
    custody,
)
