"""Commands of backup and recovery: what an operator types, and the words that come back.

Spec: docs/operations.md#backup. Every ceremony ends in sentences that say what was lost, what comes back by
itself, and what to do next. One rule: the recovery sheet is read from a file and never goes to a running
daemon.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, Literal

import click

from keys.errors import PolicyRefused
from keys.secret import SecretBytes
from node.backup import verify_backup
from node.commands import terminal
from node.commands.terminal import (
    by_operator,
    pin_option,
)
from node.paper import read_sheet
from node.restore import begin_in_place, renew, restore, version_after_loss
from node.setup import initialise
from protocol import limits
from runtime.env import Env
from runtime.secretfiles import read_secret_file

backup_passphrase_option = click.option(
    "--backup-passphrase-file",
    type=click.Path(dir_okay=False),
    help="File (mode 0600) holding the passphrase of the backup.",
)
sheet_option = click.option(
    "--recovery-sheet",
    "sheet",
    type=click.Path(dir_okay=False),
    required=True,
    help="File with the recovery sheet.",
)
above_option = click.option(
    "--key-version-above",
    "above",
    type=click.IntRange(1, 2**31),
    help=("A key version a peer shows for this office; needed only when this machine's clock cannot be set."),
)


@click.command()
@by_operator
@backup_passphrase_option
@click.option("--verify", is_flag=True, help="Make nothing: read this backup to its end and check it.")
@click.option(
    "--with-operational-key",
    is_flag=True,
    help="Also keep the signing key: whoever opens the backup can then sign as this office.",
)
@click.argument("file", type=click.Path(dir_okay=False))
def backup(
    directory: str,
    passphrase_file: str | None,
    backup_passphrase_file: str | None,
    verify: bool,
    with_operational_key: bool,
    file: str,
    as_json: bool,
) -> None:
    """Write one encrypted backup file and check it by reading it back; the node may run."""
    absolute = str(Path(file).absolute())  # the daemon works in a directory of its own

    async def work(env: Env) -> dict[str, Any]:
        secret = _backup_passphrase(env, backup_passphrase_file, confirm=not verify)
        path = absolute
        if verify:
            found = await verify_backup(env, path, secret, Path(directory))
            return {"office": found.name, "made_ms": found.made_ms, "entries": found.size, "file": path}
        return await terminal.call(
            env,
            directory,
            passphrase_file,
            "backup",
            {
                "file": path,
                "backup_passphrase": secret.reveal().decode("utf-8", "replace"),
                "operational": with_operational_key,
            },
        )

    def show(result: dict[str, Any]) -> None:
        what = "Checked the backup" if verify else "Made and checked a backup"
        click.echo(
            f"{what} of {result['office']} of {_when(result['made_ms'])}: {result['file']},"
            f" log up to entry {result['entries']}."
        )
        if not verify:
            until = result["made_ms"] + limits.BACKUP_HORIZON_MS
            click.echo(f"Destroy it after {_when(until)}: it keeps what is erased here meanwhile.")
        if not verify:
            click.echo(
                "Keep it apart from this machine. It opens with its passphrase and restores with the sheet."
            )

    terminal.finish(terminal.run(work), as_json, show)


@click.command("restore")
@by_operator
@backup_passphrase_option
@sheet_option
@above_option
@click.option(
    "--in-place",
    is_flag=True,
    help="Begin again with the data that is in --dir: it was copied, or went back.",
)
@click.argument("file", type=click.Path(dir_okay=False), required=False)
def restore_command(
    directory: str,
    passphrase_file: str | None,
    backup_passphrase_file: str | None,
    sheet: str,
    above: int | None,
    in_place: bool,
    file: str | None,
    as_json: bool,
) -> None:
    """Make a node out of a backup and the recovery sheet, or begin again in place."""
    if in_place == (file is not None):
        raise click.UsageError("Give either a backup FILE or --in-place.")

    async def work(env: Env) -> dict[str, Any]:
        read = read_sheet(env, sheet)
        if file is None:
            begun = await begin_in_place(
                env, directory, read, terminal.passphrase(env, passphrase_file), above=above
            )
        else:
            secret = _backup_passphrase(env, backup_passphrase_file)
            new = terminal.passphrase(env, passphrase_file, confirm=True)
            begun = await restore(
                env, file, directory, read, backup_passphrase=secret, passphrase=new, above=above
            )
        return begun.plain()

    terminal.finish(terminal.run(work), as_json, lambda result: click.echo(_told(result, directory)))


@click.command("renew")
@by_operator
@sheet_option
def renew_command(directory: str, passphrase_file: str | None, sheet: str, as_json: bool) -> None:
    """Certify a new signing key with the root of the recovery sheet; nothing else changes."""

    async def work(env: Env) -> dict[str, Any]:
        return await renew(env, directory, read_sheet(env, sheet), terminal.passphrase(env, passphrase_file))

    def show(result: dict[str, Any]) -> None:
        click.echo(
            f"{result['name']} signs with key version {result['key_version']} from now on, good for a"
            " year."
            f" {_count(len(result['peers']), 'office')} will be told with the first message. What was"
            " signed before stays"
            f" valid. Next: salween-node run --dir {directory}"
        )

    terminal.finish(terminal.run(work), as_json, show)


@click.command("recover")
@by_operator
@sheet_option
@above_option
@click.option("--name", required=True, help="Name of the office, as on the sheet.")
@click.option("--country", required=True, help="Two-letter country code.")
@click.option("--alias", required=True, help="How the first officer is called on the log-in page.")
@click.option("--role", type=click.Choice(["officer", "supervisor"]), default="supervisor", show_default=True)
@pin_option
@click.option("--web-port", type=click.IntRange(0, 65535), default=7441, show_default=True)
@click.option("--health-port", type=click.IntRange(0, 65535), default=7442, show_default=True)
def recover(
    directory: str,
    passphrase_file: str | None,
    sheet: str,
    above: int | None,
    name: str,
    country: str,
    alias: str,
    role: Literal["officer", "supervisor"],
    pin_file: str | None,
    web_port: int,
    health_port: int,
    as_json: bool,
) -> None:
    """Everything is lost but the recovery sheet: the same office again, to be paired anew."""

    async def work(env: Env) -> dict[str, Any]:
        read = read_sheet(env, sheet)
        version = version_after_loss(0, env.clock.now_ms(), above)
        made = await initialise(
            env,
            directory,
            passphrase=terminal.passphrase(env, passphrase_file, confirm=True),
            name=name,
            country=country,
            alias=alias,
            role=role,
            pin=terminal.pin(env, pin_file, confirm=True),
            recovery_sheet="",
            web_port=web_port,
            health_port=health_port,
            sheet=read,
            key_version=version,
        )
        return {"office_id": made.office_id.hex(), "officer": made.officer, "key_version": version}

    def show(result: dict[str, Any]) -> None:
        click.echo(
            f"{name} is back with its old office id, under key version {result['key_version']}. You are"
            f" officer {result['officer']}.\n"
            "Its alerts, partners, officers and log are lost. Pair again by voice with every office:"
            " each then sends again its alerts of the last 35 days.\n"
            f"Next: salween-node run --dir {directory}, then salween-node pair"
        )

    terminal.finish(terminal.run(work), as_json, show)


@click.command("lost")
@by_operator
def lost(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """After a restore: what came back, what was lost, and which office has not answered yet."""

    async def work(env: Env) -> dict[str, Any]:
        return await terminal.call(env, directory, passphrase_file, "lost", {})

    terminal.finish(terminal.run(work), as_json, lambda result: click.echo(lost_words(result["resets"])))


def lost_words(resets: list[dict[str, Any]]) -> str:
    """What was lost, as sentences."""
    if not resets:
        return "Nothing was restored here; nothing is missing."
    lines = []
    for reset in resets:
        if reset["answered_ms"] is None and reset["paired_ms"] is not None:
            lines.append(f"{reset['peer']} was paired again. It sends its alerts of the last 35 days again.")
            continue
        if reset["answered_ms"] is None:
            lines += [beginning_words(reset["peer"], beginning) for beginning in reset["beginnings"]]
            continue
        lines.append(
            f"{reset['peer']} answered: it sends {_count(reset['resent'], 'alert')} again that this"
            " office had lost."
        )
        if reset["sent_after"]:
            lines.append(
                f"  After the backup this office had sent it {_count(reset['sent_after'], 'alert')}, which"
                f" {reset['peer']} holds and this office no longer does:"
            )
            lines += [f"    {row['alert_id']}  of {_when(row['created_ms'])}" for row in reset["lost"]]
        if reset["gone"]:
            lines.append(f"  {_count(reset['gone'], 'message')} can be sent by nobody any more.")
        if not reset["sent_after"] and not reset["gone"]:
            lines.append("  Nothing else was lost.")
    return "\n".join(lines)


def beginning_words(peer: str, beginning: Mapping[str, Any]) -> str:
    """What is not settled of a beginning again with this partner, and what to do about it."""
    version, known = beginning["key_version"], beginning["known_version"]
    match beginning["why"]:
        case "waits":
            return (
                f"{peer} has not answered yet. What it holds comes back when it does. If it works and has not"
                " answered after a day, telephone it: it may have refused that this office began again."
            )
        case "untold":
            return (
                f"{peer} has not answered, and may be unable to read that this office began again: the backup"
                " was made before it told us its reset key. If it has not answered within an hour, telephone"
                f" it and pair again with {peer}: salween-node pair"
            )
        case "refused":
            return (
                f"{peer} refused that this office began again under key version {version}: it knows version"
                f" {known}. Set the clock, then: salween-node restore --in-place --recovery-sheet SHEET"
                f" --key-version-above {known}"
            )
        case "foreign":
            return (
                f"{peer} refused a beginning again in our name that this node did not make, under our key"
                f" version {version}: somebody else has our key. Tell your supervisor and revoke it:"
                " salween-node revoke"
            )
        case _:
            return (
                f"{peer} said that it began again, under key version {version}, and was refused: {known} is"
                " known here. Nothing was changed. Telephone it. If it was restored, it runs: salween-node"
                f" restore --in-place --key-version-above {known}. If it was not, somebody has its key: it"
                " revokes it."
            )


def _told(result: dict[str, Any], directory: str) -> str:
    """What a restore says to the person who ran it."""
    since = (
        "from the data that was there"
        if result["backup_ms"] is None
        else f"from the backup of {_when(result['backup_ms'])}"
    )
    peers = ", ".join(result["peers"]) or "no office; pair again"
    return (
        f"{result['name']} begins again {since}.\n"
        f"It signs with key version {result['key_version']}. Its log ended at entry {result['ended_size']} of"
        f" {result['ended_origin']} and goes on as {result['origin']}.\n"
        f"These offices will be told when the node runs, and send again what is missing: {peers}.\n"
        f"Never run the old directory again.\n"
        f"Next: salween-node run --dir {PurePath(directory)}\n"
        f"Then, to see what was lost: salween-node lost --dir {PurePath(directory)}"
    )


def _backup_passphrase(env: Env, path: str | None, *, confirm: bool = False) -> SecretBytes:
    if path is not None:
        return read_secret_file(env.files, path)
    text: str = click.prompt(
        "Passphrase of the backup", hide_input=True, confirmation_prompt=confirm, err=True
    )
    if not text:
        raise PolicyRefused("passphrase_too_short", "A backup needs a passphrase; use several words.")
    return SecretBytes(text.encode())


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


COMMANDS = (
    backup,
    restore_command,
    renew_command,
    recover,
    lost,
)
