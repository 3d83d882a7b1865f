"""Commands that hand something over: a receipt of one event of an alert, a dossier for an auditor.

Spec: docs/auditing.md#receipts. One rule: the daemon records that something is handed over
before the file is written.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from audit.dossier import KEY_FILE_BYTES_MAX
from audit.receipt import Event
from keys.errors import PolicyRefused
from node.alerts import REASON_CODES
from node.commands import terminal
from node.commands.terminal import by_officer
from runtime.env import Env

DAY = click.DateTime(["%Y-%m-%d"])


@click.command("audit-export")
@by_officer
@click.option(
    "--auditor", type=click.Path(dir_okay=False), required=True, help="The auditor's public key, a file."
)
@click.option("--purpose", type=click.Choice(REASON_CODES[1:]), required=True, help="Why.")
@click.option("--from", "begin", type=DAY, help="Alerts kept from this day on (UTC).")
@click.option("--to", "end", type=DAY, help="Alerts kept before this day (UTC).")
@click.option("--office", metavar="PEER", help="Alerts from or to this paired office alone.")
@click.option("--alert", "alerts", multiple=True, help="This alert alone; may be given again.")
@click.option(
    "--wait",
    "wait_min",
    type=click.IntRange(0, 120),
    default=5,
    show_default=True,
    help="Minutes to wait, twice, for a partner to countersign.",
)
@click.argument("folder", type=click.Path())
def audit_export(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    as_json: bool,
    auditor: str,
    purpose: str,
    begin: datetime | None,
    end: datetime | None,
    office: str | None,
    alerts: tuple[str, ...],
    wait_min: int,
    folder: str,
) -> None:
    """Write a dossier into FOLDER: the log, and the alerts in scope sealed to an auditor."""
    path = str(Path(folder).absolute())  # the daemon works in a directory of its own

    async def work(env: Env) -> dict[str, Any]:
        params = {
            "officer": officer,
            "pin": terminal.pin(env, pin_file),
            "folder": path,
            "auditor": _read_line(env, auditor),
            "purpose": purpose,
            "from_ms": _ms(begin),
            "to_ms": _ms(end),
            "office": office,
            "alerts": list(alerts),
            "wait_ms": wait_min * 60_000,
        }
        return dict(await terminal.call(env, directory, passphrase_file, "audit-export", params, links=True))

    def show(result: dict[str, Any]) -> None:
        click.echo(
            f"Wrote {result['path']}: {result['opened']} alerts opened for the auditor,"
            f" {result['erased']} erased, {result['files']} files, {result['size_bytes']} bytes."
        )
        if result["ended"]:
            click.echo(f"{result['ended']} more are told by a log that ended with a restore.")
        if not result["cosigners"]:
            click.echo("No partner has countersigned its seal yet: make it anew once one is there.")
        click.echo(f"Tell the auditor by another way: manifest {result['digest']}")

    terminal.finish(terminal.run(work), as_json, show)


@click.command("receipt")
@by_officer
@click.option(
    "--event", type=click.Choice([event.value for event in Event]), required=True, help="What happened."
)
@click.option("--office", metavar="PEER", help="Of an alert to several: the office it is about.")
@click.option("--out", type=click.Path(dir_okay=False), required=True, help="Where to write it.")
@click.argument("alert_id")
def receipt(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    as_json: bool,
    event: str,
    office: str | None,
    out: str,
    alert_id: str,
) -> None:
    """Write a receipt of one event of ALERT_ID, for somebody outside. It holds no content."""

    async def work(env: Env) -> dict[str, Any]:
        params = {
            "officer": officer,
            "pin": terminal.pin(env, pin_file),
            "alert_id": alert_id,
            "event": event,
            "office": office,
        }
        result = dict(await terminal.call(env, directory, passphrase_file, "receipt", params))
        env.files.write_atomic(out, result["file"].encode(), 0o644)
        return {**result, "path": out}

    def show(result: dict[str, Any]) -> None:
        seen = ", ".join(name for name, _ in result["witnesses"]) or "no partner yet"
        where = f"entry {result['index']} of {result['log']}"
        click.echo(f"Wrote {out}: '{event}', {where}; countersigned by {seen}.")
        click.echo(f"Whoever has a policy checks it with: salween-audit receipt {out} --policy FILE")

    terminal.finish(terminal.run(work), as_json, show)


def _read_line(env: Env, path: str) -> str:
    try:
        return env.files.read(path, KEY_FILE_BYTES_MAX).decode("ascii", "replace")
    except OSError as fault:
        raise PolicyRefused("file_missing", f"There is no file {path}.") from fault


def _ms(day: datetime | None) -> int | None:
    return None if day is None else int(day.replace(tzinfo=UTC).timestamp() * 1000)


COMMANDS = (
    audit_export,
    receipt,
)
