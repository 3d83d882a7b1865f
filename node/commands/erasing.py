"""Commands of what a supervisor does about an alert's date: erase before it, keep beyond it.

Spec: docs/operations.md#erasing-by-hand.
"""

from datetime import UTC, datetime
from typing import Any

import click

from node.commands import terminal
from node.commands.terminal import by_officer
from node.control import Params
from node.erasure import HOLD_DAYS_MAX
from node.views import ERASE_REASONS, HOLD_REASONS
from runtime.env import Env


@click.command()
@by_officer
@click.argument("alert_id")
@click.option("--reason", type=click.Choice(ERASE_REASONS), required=True)
def erase(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    alert_id: str,
    reason: str,
    as_json: bool,
) -> None:
    """Erase an alert before its date, here and at the offices it was sent to. Supervisors only; for good."""

    async def work(env: Env) -> dict[str, Any]:
        params: Params = {"officer": officer, "pin": terminal.pin(env, pin_file)}
        params.update(alert_id=alert_id, reason=reason)
        return await terminal.call(env, directory, passphrase_file, "erase", params)

    def show(result: dict[str, Any]) -> None:
        told = "" if result["incoming"] else " The offices it was sent to are told to erase it as well."
        click.echo(f"Erased.{told} A backup made before brings it back until its date: destroy such backups.")

    terminal.finish(terminal.run(work), as_json, show)


@click.command()
@by_officer
@click.argument("alert_id")
@click.option("--reason", type=click.Choice(HOLD_REASONS))
@click.option("--days", type=click.IntRange(1, HOLD_DAYS_MAX), help="For so long, from today.")
@click.option("--end", is_flag=True, help="Instead: keep it no longer; it goes at its own date, or at once.")
def hold(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    alert_id: str,
    reason: str | None,
    days: int | None,
    end: bool,
    as_json: bool,
) -> None:
    """Keep an alert beyond its date, where the law asks for it. Supervisors only; the log says so."""
    if {reason is None, days is None} != {end}:
        raise click.UsageError("Give --reason and --days, or --end alone.")

    async def work(env: Env) -> dict[str, Any]:
        params: Params = {"officer": officer, "pin": terminal.pin(env, pin_file)}
        params.update(alert_id=alert_id, reason=reason or "", days=days or 0)
        return await terminal.call(env, directory, passphrase_file, "hold", params)

    def show(result: dict[str, Any]) -> None:
        until = datetime.fromtimestamp(result["erase_at_ms"] / 1000, UTC).isoformat(timespec="minutes")
        click.echo(f"Erased at {until}" + (", and kept until then." if result["held_why"] else "."))

    terminal.finish(terminal.run(work), as_json, show)


COMMANDS = (erase, hold)
