"""Commands that hand something over: a receipt of one event of an alert.

Spec: docs/auditing.md#receipts. One rule: the daemon records that something is handed over
before the file is written.
"""

from collections.abc import Callable
from typing import Any

import click

from audit.receipt import Event
from runtime.env import Env


def add_handover_commands(
    cli: click.Group,
    *,
    run: Callable[..., dict[str, Any]],
    call: Callable[..., Any],
    pin: Callable[..., str],
    finish: Callable[..., None],
) -> None:
    """Add receipt to the commands of the node."""

    @cli.command("receipt")
    @node_options
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
                "pin": pin(env, pin_file),
                "alert_id": alert_id,
                "event": event,
                "office": office,
            }
            result = dict(await call(env, directory, passphrase_file, "receipt", params))
            env.files.write_atomic(out, result["file"].encode(), 0o644)
            return {**result, "path": out}

        def show(result: dict[str, Any]) -> None:
            seen = ", ".join(name for name, _ in result["witnesses"]) or "no partner yet"
            where = f"entry {result['index']} of {result['log']}"
            click.echo(f"Wrote {out}: '{event}', {where}; countersigned by {seen}.")
            click.echo(f"Whoever has a policy checks it with: salween-audit receipt {out} --policy FILE")

        finish(run(work), as_json, show)


def node_options(command: Any) -> Any:
    """What every command takes that an officer gives with a PIN."""
    options = (
        click.option(
            "--dir", "directory", type=click.Path(file_okay=False), required=True, help="This node."
        ),
        click.option(
            "--passphrase-file",
            type=click.Path(dir_okay=False),
            help="File (mode 0600) holding the passphrase.",
        ),
        click.option("--officer", type=int, required=True, help="Your officer number."),
        click.option(
            "--pin-file", type=click.Path(dir_okay=False), help="File (mode 0600) holding your PIN."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text."),
    )
    for option in reversed(options):
        command = option(command)
    return command
