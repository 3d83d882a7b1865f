"""Commands of the office itself: make it, run it, look at it, publish its log.

Spec: docs/operations.md#commands.
"""

import sys
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Literal

import click
from rich.console import Console

from keys.errors import SalweenError
from node.commands import terminal
from node.commands.recovery import beginning_words
from node.commands.terminal import by_operator, pin_option
from node.daemon import run_daemon_node
from node.setup import initialise
from runtime.env import Env, real_env, run_real


@click.command()
@by_operator
@click.option("--name", required=True, help="Name of the office, as peers will see it (at most 64 bytes).")
@click.option("--country", required=True, help="Two-letter country code, such as MM or CN.")
@click.option("--alias", required=True, help="How the first officer is called on the log-in page.")
@click.option("--role", type=click.Choice(["officer", "supervisor"]), default="supervisor", show_default=True)
@pin_option
@click.option("--recovery-sheet", type=click.Path(dir_okay=False), help="Where to write the recovery sheet.")
@click.option("--web-port", type=click.IntRange(0, 65535), default=7441, show_default=True)
@click.option("--health-port", type=click.IntRange(0, 65535), default=7442, show_default=True)
def init(
    directory: str,
    passphrase_file: str | None,
    name: str,
    country: str,
    alias: str,
    role: Literal["officer", "supervisor"],
    pin_file: str | None,
    recovery_sheet: str | None,
    web_port: int,
    health_port: int,
    as_json: bool,
) -> None:
    """Make a new node: keys, encrypted database, first officer and the recovery sheet."""

    async def work(env: Env) -> dict[str, Any]:
        passphrase = terminal.passphrase(env, passphrase_file, confirm=True)
        pin = terminal.pin(env, pin_file, confirm=True)
        made = await initialise(
            env,
            directory,
            passphrase=passphrase,
            name=name,
            country=country,
            alias=alias,
            role=role,
            pin=pin,
            recovery_sheet=recovery_sheet or str(PurePath(directory) / "recovery-sheet.txt"),
            web_port=web_port,
            health_port=health_port,
        )
        return {
            "office_id": made.office_id.hex(),
            "directory": directory,
            "officer": made.officer,
            "recovery_sheet": made.recovery_sheet,
        }

    def show(result: dict[str, Any]) -> None:
        console = Console()
        console.print(
            f"Made the node of [bold]{name}[/bold] in {directory}. You are officer {result['officer']}."
        )
        console.print(
            f"Recovery sheet: {result['recovery_sheet']}\n"
            "Print it, lock the paper away, then delete the file: whoever holds it can be this office."
        )
        console.print(f"Next: salween-node run --dir {directory}")

    terminal.finish(terminal.run(work), as_json, show)


@click.command()
@by_operator
def run(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    env = real_env()
    try:
        passphrase = terminal.passphrase(env, passphrase_file)
    except SalweenError as error:
        terminal.fail(error, as_json)
    sys.exit(run_real(lambda env: run_daemon_node(env, directory, passphrase, as_json=as_json)))


@click.command()
@by_operator
def status(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """The whole node at a glance."""

    def show_status(result: dict[str, Any]) -> None:
        click.echo(
            f"{result['office_name']} ({result['country']}), "
            + ("running" if result["running"] else "not running")
        )
        link = result["link"]
        click.echo(
            f"Link to the broker: {link['state']}" + (f" ({link['detail']})" if link["detail"] else "")
        )
        click.echo(f"Waiting to leave: {result['outbox_waiting']}; unopened: {result['inbox_unopened']}")
        click.echo(
            f"Log: {result['log']['size']} entries, {result['log']['published_size']} published,"
            f" {result['log']['state']}"
        )
        _show_witness(result)
        terminal.table(
            ("Office", "State", "Waiting", "Missing"),
            [(p["name"], p["state"], str(p["waiting_out"]), str(p["missing_in"])) for p in result["peers"]],
        )
        for peer in result["peers"]:
            if peer["frozen_code"]:
                click.echo(
                    f"FROZEN  {peer['name']}: {peer['frozen_code']}. Speak with that office, then a"
                    f" supervisor: salween-node unfreeze --dir {directory} --officer N '{peer['name']}'"
                )
            if peer["unknown_keys_since_ms"] is not None:
                click.echo(f"DOUBT   {peer['name']} sends only what another copy of this node could open.")
            if peer["late_keys_since_ms"] is not None:
                click.echo(
                    f"DOUBT   {peer['name']} sends only what is sealed to keys given up here: it may have"
                    " lost its state and be unable to say so. Telephone it; then: salween-node pair"
                )
            witness = peer["witness"] or {}
            if witness.get("their_refusal"):
                click.echo(
                    f"ALARM   We refuse to witness the log of {peer['name']}: {witness['their_refusal']}."
                    " Both versions are kept. Telephone it."
                )
            if witness.get("refused"):
                click.echo(
                    f"ALARM   {peer['name']} refuses to witness our log: {witness['refused']}. Telephone it."
                )
            for beginning in peer["beginnings"]:
                click.echo(f"RESET   {beginning_words(peer['name'], beginning)}")
            if peer["no_proof_since_ms"] is not None:
                silent_min = (result["now_ms"] - peer["no_proof_since_ms"]) // 60_000
                click.echo(f"SILENT  no proof from {peer['name']} for {silent_min} minutes. Telephone it.")
            if peer["address_lost_ms"] is not None:
                click.echo(
                    f"The address of {peer['name']} is lost: its broker knows no such mailbox."
                    " Alerts are kept. If that lasts, its operator runs: salween-node move"
                )
        for loss in result["broker_losses"]:
            _show_loss(loss)

    terminal.finish(
        terminal.ask(directory, passphrase_file, "status", {}),
        as_json,
        show_status,
    )


def _show_witness(result: dict[str, Any]) -> None:
    log = result["log"]
    words = {
        "nobody": "no partner yet",
        "ok": "in time",
        "late": "LATE",
        "unwitnessed": "UNWITNESSED",
    }
    late = ""
    if log["witness"] in ("late", "unwitnessed"):
        minutes = (result["now_ms"] - log["unwitnessed_since_ms"]) // 60_000
        late = f", the oldest that is not for {minutes} minutes"
    click.echo(f"Witnessed by a partner: {log['witnessed_size']} entries, {words[log['witness']]}{late}")
    for broker in result["broker_witnesses"]:
        state = "REFUSED" if broker["refused"] else words[broker["state"]]
        click.echo(f"Witnessed by a broker: {broker['cosigned_size']} entries, {state}")


def _show_loss(loss: dict[str, Any]) -> None:
    at = datetime.fromtimestamp(loss["at_ms"] / 1000, UTC)
    end = "they were made again" if loss["mailboxes"] else "they could not be made again"
    count = len(loss["alerts"]) + loss["alerts_more"]
    click.echo(
        f"The broker at {loss['broker']} lost its mailboxes; {end} at {at:%Y-%m-%d %H:%M} UTC;"
        f" alerts sent again: {count}"
    )
    for alert in loss["alerts"]:
        click.echo(f"  {alert['alert_id']}  to {alert['peer_name']}: {alert['state']}")
    if loss["alerts_more"]:
        click.echo(f"  and {loss['alerts_more']} more; salween-node outbox lists them")


@click.command()
@by_operator
def publish(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """Publish and sign the audit log up to now."""
    result = terminal.ask(directory, passphrase_file, "publish", {})
    terminal.finish(
        result,
        as_json,
        lambda r: click.echo(f"Published {r['size']} entries of {r['origin']}, root {r['root']}."),
    )


@click.command()
@by_operator
def doctor(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """Check clock, disk, permissions, certificate, log, database, brokers, mailboxes; print each fix."""
    result = terminal.ask(directory, passphrase_file, "doctor", {})

    def show_checks(value: dict[str, Any]) -> None:
        for check in value["checks"]:
            click.echo(f"{'ok ' if check['ok'] else 'BAD'}  {check['what']}: {check['detail']}")
            if not check["ok"]:
                click.echo(f"      fix: {check['fix']}")

    terminal.finish(result, as_json, show_checks)
    if not all(check["ok"] for check in result["checks"]):
        sys.exit(1)


COMMANDS = (
    init,
    run,
    status,
    publish,
    doctor,
)
