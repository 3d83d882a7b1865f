"""Commands about partners: pair, revoke stolen keys, suspend, resume, retire, list.

Spec: docs/operations.md#commands.
"""

import json
from functools import partial
from typing import Any

import click

from keys.errors import SalweenError
from keys.notice import TEXT_BYTES_MAX, RevocationReason
from node.commands import terminal
from node.commands.terminal import by_officer, by_operator, json_option, passphrase_option
from node.control import Params
from node.pairtalk import answer_event, say_event
from node.paper import make_notice, publish_notice, read_sheet
from runtime.env import Env
from runtime.secretfiles import read_secret_file


@click.command()
@by_operator
@click.option("--invite", is_flag=True, help="By voice: print a single-use invitation for the other office.")
@click.option(
    "--join",
    "invitation",
    metavar="INVITATION",
    help="By voice: take the other office's invitation.",
)
@click.option("--in-person", is_flag=True, help="Two screens side by side; the office with --broker begins.")
@click.option(
    "--broker", metavar="ADDRESS", help="Of whoever begins: salween://host:port#fingerprint of the broker."
)
@click.option(
    "--token-file", type=click.Path(dir_okay=False), help="Of whoever begins: file with the operator's token."
)
def pair(
    directory: str,
    passphrase_file: str | None,
    invite: bool,
    invitation: str | None,
    in_person: bool,
    broker: str | None,
    token_file: str | None,
    as_json: bool,
) -> None:
    """Pair with another office: by voice, or in person with a code on each screen."""
    if [invite, invitation is not None, in_person].count(True) != 1:
        raise click.UsageError("Give one of --invite, --join INVITATION and --in-person.")
    if invite and broker is None:
        raise click.UsageError("--invite needs --broker ADDRESS.")

    async def work(env: Env) -> dict[str, Any]:
        params: Params
        if broker is not None:
            token = (
                read_secret_file(env.files, token_file).reveal().decode()
                if token_file
                else click.prompt("Operator's token", hide_input=True, err=True)
            )
            verb, params = "pair.begin" if in_person else "pair.invite", {"broker": broker, "token": token}
        elif in_person:
            verb, params = "pair.answer", {}
        else:
            verb, params = "pair.join", {"invitation": invitation}
        return await terminal.call(
            env,
            directory,
            passphrase_file,
            verb,
            params,
            on_event=partial(say_event, as_json=as_json),
            answer=partial(answer_event, env, as_json=as_json),
            links=True,
        )

    def show(result: dict[str, Any]) -> None:
        peer = result["peer"]
        click.echo(
            f"Paired with {peer['name']} ({peer['country']}). Safety number:\n  {peer['safety_number']}"
        )

    terminal.finish(terminal.run(work), as_json, show)


@click.command()
@click.option("--recovery-sheet", "sheet", type=click.Path(dir_okay=False), help="File with the typed sheet.")
@click.option(
    "--key-version-below",
    "below",
    type=int,
    help="Revoke keys below this version (2: the first).",
)
@click.option("--reason", type=click.Choice([reason.value for reason in RevocationReason]))
@click.option("--out", type=click.Path(dir_okay=False), help="Write the notice to this file, to carry.")
@click.option("--broker", metavar="ADDRESS", help="Have this broker show the notice to everybody.")
@click.option(
    "--apply", "notice", type=click.File("r", encoding="utf-8"), help="Apply a notice; - reads a pasted one."
)
@click.option("--dir", "directory", type=click.Path(file_okay=False), help="With --apply: this node.")
@passphrase_option
@json_option
def revoke(
    sheet: str | None,
    below: int | None,
    reason: str | None,
    out: str | None,
    broker: str | None,
    notice: Any,
    directory: str | None,
    passphrase_file: str | None,
    as_json: bool,
) -> None:
    """Revoke stolen keys from paper, on any machine; or apply another office's revocation here (--apply)."""
    if (sheet is None) == (notice is None):
        raise click.UsageError("Give --recovery-sheet SHEET to revoke, or --apply FILE to take a revocation.")
    if notice is not None:
        if directory is None:
            raise click.UsageError("--apply needs --dir: the node that takes the revocation.")
        node_directory, text = directory, notice.read(TEXT_BYTES_MAX + 1)
        result = terminal.ask(node_directory, passphrase_file, "revoke.apply", {"notice": text})
        terminal.finish(result, as_json, lambda learnt: click.echo(_what_was_learnt(learnt)))
        return
    if below is None or reason is None:
        raise click.UsageError("To revoke, give --key-version-below N and --reason CODE too.")
    version, why, paper = below, RevocationReason(reason), str(sheet)

    async def work(env: Env) -> dict[str, Any]:
        made = make_notice(
            read_sheet(env, paper), revoked_below=version, reason=why, now_ms=env.clock.now_ms()
        )
        result = {"office_id": made.office_id.hex(), "name": made.name, "notice": made.text, "shown_at": None}
        if out is not None:
            env.files.write_atomic(out, f"{made.text}\n".encode(), mode=0o644)
        if broker is not None:
            try:
                await publish_notice(env, broker, made.data)
            except SalweenError:
                # What was signed must reach its reader even when this broker does not help.
                click.echo(made.text, err=True)
                raise
            result["shown_at"] = broker
        return result

    def show(result: dict[str, Any]) -> None:
        click.echo(result["notice"])
        click.echo(
            f"\nRevoked: keys below version {version} of office {result['office_id']} {result['name']}.",
            err=True,
        )
        if result["shown_at"] is not None:
            click.echo("The broker shows it; partners there apply it within about an hour.", err=True)
        click.echo(
            "Send the text above to your partners by any means. It is public. Each applies it with:\n"
            "  salween-node revoke --apply FILE --dir DIRECTORY",
            err=True,
        )

    terminal.finish(terminal.run(work), as_json, show)


def _what_was_learnt(learnt: dict[str, Any]) -> str:
    below = learnt["revoked_below"]
    if learnt["about"] == "stranger":
        return "This revocation is genuine, but that office is no partner of ours. It is remembered."
    if learnt["about"] == "ourselves":
        return (
            f"This revokes OUR OWN keys below version {below}. Partners drop what we send under them."
            " If that is right, renew with the recovery sheet; see 'When a node is stolen'."
        )
    if not learnt["is_news"]:
        return f"Known already: {learnt['name']}, keys below version {below}. Nothing was changed."
    state = " It is suspended until it comes back with a new key." if learnt["suspended"] else ""
    return f"Applied: keys of {learnt['name']} below version {below} are void.{state} Others are told."


def _by_hand(name: str, help_text: str, done: str) -> click.Command:
    @click.command(name, help=help_text)
    @by_officer
    @click.argument("peer")
    def command(
        directory: str,
        passphrase_file: str | None,
        officer: int,
        pin_file: str | None,
        peer: str,
        as_json: bool,
    ) -> None:
        async def work(env: Env) -> dict[str, Any]:
            params = {"officer": officer, "pin": terminal.pin(env, pin_file), "peer": peer}
            return await terminal.call(env, directory, passphrase_file, name, params)

        terminal.finish(terminal.run(work), as_json, lambda _: click.echo(done))

    return command


suspend = _by_hand(
    "suspend",
    "Suspend a partner: nothing leaves for it or is taken in from it, and nothing is lost. Supervisors only.",
    "Suspended. What you write for it waits here, what it sends waits at the broker. End it: resume",
)


resume = _by_hand(
    "resume", "End a suspension by hand. Supervisors only.", "Resumed. What waited is on its way."
)


@click.command()
@by_officer
@click.option("--succeeded-by", metavar="PEER", help="The partner that is this office from now on.")
@click.argument("peer")
def retire(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    succeeded_by: str | None,
    peer: str,
    as_json: bool,
) -> None:
    """Retire a partner whose office lost its root key or closed; its history stays. Supervisors only."""

    async def work(env: Env) -> dict[str, Any]:
        params: Params = {"officer": officer, "pin": terminal.pin(env, pin_file), "peer": peer}
        if succeeded_by is not None:
            params["succeeded_by"] = succeeded_by
        return await terminal.call(env, directory, passphrase_file, "retire", params)

    terminal.finish(
        terminal.run(work),
        as_json,
        lambda _: click.echo("Retired. What it sent and was sent stays readable."),
    )


@click.command()
@by_operator
@click.option("--evidence", metavar="OFFICE", help="Print what both offices signed at their pairing.")
def peers(directory: str, passphrase_file: str | None, evidence: str | None, as_json: bool) -> None:
    """Paired offices and their safety numbers; or the evidence of one pairing."""

    def show(result: dict[str, Any]) -> None:
        if evidence is not None:
            click.echo(json.dumps(result["evidence"], indent=1))
        for peer in result.get("peers", ()):
            click.echo(
                f"{peer['name']} ({peer['country']}), {peer['state']}, key version {peer['key_version']}\n"
                f"  {peer['safety_number']}"
            )

    verb, params = ("peers", {}) if evidence is None else ("pair.evidence", {"peer": evidence})
    terminal.finish(terminal.ask(directory, passphrase_file, verb, params), as_json, show)


COMMANDS = (
    pair,
    revoke,
    suspend,
    resume,
    retire,
    peers,
)
