"""``salween-node``: every command of an office's node.

Spec: docs/operations.md#commands. Each verb talks to the running daemon over ``control.sock`` and opens the
node itself only when none runs. Secrets come from a prompt, a 0600 file or a systemd credential, never from
arguments or the environment. Exit codes: runtime/exits.py.
"""

import base64
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import PurePath
from typing import Any, Literal, NoReturn

import click
from rich.console import Console
from rich.table import Table

from keys.errors import PolicyRefused, SalweenError, Unavailable
from keys.notice import TEXT_BYTES_MAX, RevocationReason
from keys.secret import SecretBytes
from node import __version__
from node.control import SOCKET_NAME, Params, call_daemon
from node.daemon import Node, run_daemon_node
from node.handover_commands import add_handover_commands
from node.integrations import DAYS_MAX, SCOPES
from node.pairtalk import answer_event, say_event
from node.paper import make_notice, publish_notice, read_sheet
from node.recovery_commands import add_recovery_commands, beginning_words
from node.setup import initialise
from node.stick_commands import add_stick_commands
from node.verbs import PHOTO_PIECE_BYTES, run_verb
from protocol import limits
from runtime import exits
from runtime.env import Env, real_env, run_real
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="salween-node")
def cli() -> None:
    """The node of one border liaison office."""


# --- init and run -------------------------------------------------------------------------------------------


@cli.command()
@directory_option
@passphrase_option
@click.option("--name", required=True, help="Name of the office, as peers will see it (at most 64 bytes).")
@click.option("--country", required=True, help="Two-letter country code, such as MM or CN.")
@click.option("--alias", required=True, help="How the first officer is called on the log-in page.")
@click.option("--role", type=click.Choice(["officer", "supervisor"]), default="supervisor", show_default=True)
@pin_option
@click.option("--recovery-sheet", type=click.Path(dir_okay=False), help="Where to write the recovery sheet.")
@click.option("--web-port", type=click.IntRange(0, 65535), default=7441, show_default=True)
@click.option("--health-port", type=click.IntRange(0, 65535), default=7442, show_default=True)
@json_option
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
        passphrase = _passphrase(env, passphrase_file, confirm=True)
        pin = _pin(env, pin_file, confirm=True)
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

    _finish(_run(work), as_json, show)


@cli.command()
@directory_option
@passphrase_option
@json_option
def run(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    env = real_env()
    try:
        passphrase = _passphrase(env, passphrase_file)
    except SalweenError as error:
        _fail(error, as_json)
    sys.exit(run_real(lambda env: run_daemon_node(env, directory, passphrase, as_json=as_json)))


# --- pairing ------------------------------------------------------------------------------------------------


@cli.command()
@directory_option
@passphrase_option
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
@json_option
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
        return await _call(
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

    _finish(_run(work), as_json, show)


# --- a partner in trouble -----------------------------------------------------------------------------------


@cli.command()
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
        result = _run(
            lambda env: _call(env, node_directory, passphrase_file, "revoke.apply", {"notice": text})
        )
        _finish(result, as_json, lambda learnt: click.echo(_what_was_learnt(learnt)))
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

    _finish(_run(work), as_json, show)


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


def _by_hand(name: str, help_text: str, done: str) -> None:
    @cli.command(name, help=help_text)
    @directory_option
    @passphrase_option
    @officer_option
    @pin_option
    @click.argument("peer")
    @json_option
    def command(
        directory: str,
        passphrase_file: str | None,
        officer: int,
        pin_file: str | None,
        peer: str,
        as_json: bool,
    ) -> None:
        async def work(env: Env) -> dict[str, Any]:
            params = {"officer": officer, "pin": _pin(env, pin_file), "peer": peer}
            return await _call(env, directory, passphrase_file, name, params)

        _finish(_run(work), as_json, lambda _: click.echo(done))


_by_hand(
    "suspend",
    "Suspend a partner: nothing leaves for it or is taken in from it, and nothing is lost. Supervisors only.",
    "Suspended. What you write for it waits here, what it sends waits at the broker. End it: resume",
)
_by_hand("resume", "End a suspension by hand. Supervisors only.", "Resumed. What waited is on its way.")


@cli.command()
@directory_option
@passphrase_option
@officer_option
@pin_option
@click.option("--succeeded-by", metavar="PEER", help="The partner that is this office from now on.")
@click.argument("peer")
@json_option
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
        params: Params = {"officer": officer, "pin": _pin(env, pin_file), "peer": peer}
        if succeeded_by is not None:
            params["succeeded_by"] = succeeded_by
        return await _call(env, directory, passphrase_file, "retire", params)

    _finish(_run(work), as_json, lambda _: click.echo("Retired. What it sent and was sent stays readable."))


@cli.command()
@directory_option
@passphrase_option
@click.option("--evidence", metavar="OFFICE", help="Print what both offices signed at their pairing.")
@json_option
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
    _finish(_run(lambda env: _call(env, directory, passphrase_file, verb, params)), as_json, show)


# --- alerts -------------------------------------------------------------------------------------------------


@cli.command()
@directory_option
@passphrase_option
@officer_option
@pin_option
@click.option("--to", multiple=True, required=True, help="Name or id of a paired office; may be repeated.")
@click.option(
    "--file",
    "file",
    type=click.File("r", encoding="utf-8"),
    required=True,
    help="Alert as JSON; - reads standard input.",
)
@click.option(
    "--photo",
    "photos",
    multiple=True,
    type=click.Path(dir_okay=False, exists=True),
    help="A photo, JPEG or PNG, at most 25 MiB; may be repeated up to four times.",
)
@click.option(
    "--mode",
    type=click.Choice(["separate", "shared"]),
    help="To several offices: one by one, or all at once, which shows the broker that they belong together."
    " Without it: one by one to eight or fewer, and whenever two officers must sign.",
)
@json_option
def send(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    to: tuple[str, ...],
    file: Any,
    photos: tuple[str, ...],
    mode: str | None,
    as_json: bool,
) -> None:
    """Send an alert. What needs a second officer waits for: salween-node pending --release."""
    try:
        alert = json.loads(file.read())
    except ValueError as fault:
        raise click.UsageError(f"--file is not JSON: {fault}") from fault

    async def work(env: Env) -> dict[str, Any]:
        pictures = [env.files.read(photo, limits.PHOTO_BYTES_MAX) for photo in photos]
        params = {"officer": officer, "pin": _pin(env, pin_file), "to": list(to), "alert": alert}
        if pictures:
            params["photos"] = len(pictures)
        if mode is not None:
            params["mode"] = mode

        async def hand_over(event: dict[str, Any]) -> str:
            start = int(event["offset"])
            piece = pictures[int(event["number"])][start : start + PHOTO_PIECE_BYTES]
            return base64.b64encode(piece).decode()

        return await _call(env, directory, passphrase_file, "send", params, answer=hand_over)

    def show(result: dict[str, Any]) -> None:
        if result["state"] == "released":
            click.echo(f"Kept; it leaves as soon as the link allows. Alert {result['alert_id']}")
        else:
            click.echo(f"Signed by you; a second officer must release it. Draft {result['draft_id']}")

    _finish(_run(work), as_json, show)


@cli.command()
@directory_option
@passphrase_option
@officer_option
@pin_option
@click.option("--release", metavar="DRAFT", help="Release this draft as the second officer.")
@json_option
def pending(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    release: str | None,
    as_json: bool,
) -> None:
    """List what waits for a second officer, or release one."""

    async def work(env: Env) -> dict[str, Any]:
        params: Params = {"officer": officer, "pin": _pin(env, pin_file)}
        if release is not None:
            params["release"] = release
        return await _call(env, directory, passphrase_file, "pending", params)

    def show(result: dict[str, Any]) -> None:
        if release is not None:
            click.echo(f"Released and kept. Alert {result['alert_id']}")
            return
        _table(
            ("Draft", "Author", "Headline"),
            [(r["draft_id"], r["author_alias"], r["headline"]) for r in result["pending"]],
        )

    _finish(_run(work), as_json, show)


def _listing(name: str, help_text: str, columns: tuple[tuple[str, str], ...]) -> None:
    @cli.command(name, help=help_text)
    @directory_option
    @passphrase_option
    @officer_option
    @pin_option
    @json_option
    def command(
        directory: str, passphrase_file: str | None, officer: int, pin_file: str | None, as_json: bool
    ) -> None:
        async def work(env: Env) -> dict[str, Any]:
            return await _call(
                env, directory, passphrase_file, name, {"officer": officer, "pin": _pin(env, pin_file)}
            )

        def show(result: dict[str, Any]) -> None:
            _table(
                tuple(t for t, _ in columns), [tuple(str(row[k]) for _, k in columns) for row in result[name]]
            )

        _finish(_run(work), as_json, show)


_listing(
    "inbox",
    "List alerts that came in.",
    (("Alert", "alert_id"), ("From", "peer_name"), ("Urgency", "urgency"), ("What", "headline")),
)
_listing(
    "outbox",
    "List alerts of this office and where each stands.",
    (("Alert", "alert_id"), ("State", "state"), ("What", "headline")),
)


@cli.command()
@directory_option
@passphrase_option
@officer_option
@pin_option
@click.option(
    "--reason", default="duty", show_default=True, help="Why you open it; goes into the access log as a code."
)
@click.option(
    "--save-photos",
    "photos_directory",
    type=click.Path(file_okay=False, exists=True),
    metavar="DIR",
    help="Write its photos here: photo-1.jpg and so on. They are then outside of this program's care.",
)
@click.argument("alert_id")
@json_option
def show(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    reason: str,
    photos_directory: str | None,
    alert_id: str,
    as_json: bool,
) -> None:
    """Open one alert; the access is logged before the content is."""

    async def work(env: Env) -> dict[str, Any]:
        params: Params = {
            "officer": officer, "pin": _pin(env, pin_file), "alert_id": alert_id, "purpose": reason,
        }  # fmt: skip
        if photos_directory is None:
            return await _call(env, directory, passphrase_file, "show", params)
        saving = _PhotoSaver(env, photos_directory)
        params["photos"] = True
        found = await _call(env, directory, passphrase_file, "show", params, on_event=saving.take)
        return {**found, "saved": saving.saved}

    _finish(_run(work), as_json, lambda result: click.echo(json.dumps(result, indent=2, ensure_ascii=False)))


@cli.command()
@directory_option
@passphrase_option
@officer_option
@pin_option
@click.argument("alert_id")
@click.option("--assigned", is_flag=True, help="Somebody of this office works on it now.")
@click.option("--outcome", metavar="CODE", help="What came of it, a code of the list of outcomes.")
@click.option("--refuse", metavar="CODE", help="Why this office does nothing about it, a code.")
@json_option
def answer(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    alert_id: str,
    assigned: bool,
    outcome: str | None,
    refuse: str | None,
    as_json: bool,
) -> None:
    """Answer an alert that came in; its sender sees it as a rung of the ladder."""
    given = [
        (step, code)
        for step, code in (("assigned", "" if assigned else None), ("outcome", outcome), ("refused", refuse))
        if code is not None
    ]
    if len(given) != 1:
        raise click.UsageError("Give one of --assigned, --outcome CODE and --refuse CODE.")
    step, code = given[0]

    async def work(env: Env) -> dict[str, Any]:
        params = {
            "officer": officer,
            "pin": _pin(env, pin_file),
            "alert_id": alert_id,
            "step": step,
            "code": code,
        }
        return await _call(env, directory, passphrase_file, "answer", params)

    _finish(_run(work), as_json, lambda _: click.echo("Kept; it leaves as soon as the link allows."))


# --- a conversation that stands still -----------------------------------------------------------------------


@cli.command()
@directory_option
@passphrase_option
@officer_option
@pin_option
@click.argument("office")
@json_option
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
        params = {"officer": officer, "pin": _pin(env, pin_file), "office": office}
        return await _call(env, directory, passphrase_file, "unfreeze", params)

    _finish(_run(work), as_json, lambda _: click.echo("The conversation goes on; the evidence stays kept."))


@cli.command()
@directory_option
@passphrase_option
@officer_option
@pin_option
@click.option("--out", type=click.Path(file_okay=False), required=True, help="Folder for the proofs.")
@click.argument("office")
@json_option
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
        params = {"officer": officer, "pin": _pin(env, pin_file), "office": office}
        result = await _call(env, directory, passphrase_file, "evidence", params)
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

    _finish(_run(work), as_json, show_files)


@cli.command()
@directory_option
@passphrase_option
@officer_option
@pin_option
@click.option("--out", type=click.Path(dir_okay=False), required=True, help="File for the notes.")
@click.argument("messages", nargs=-1, required=True)
@json_option
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
        params = {"officer": officer, "pin": _pin(env, pin_file), "messages": " ".join(messages)}
        result = await _call(env, directory, passphrase_file, "custody", params)
        env.files.write_atomic(out, result["notes"].encode(), 0o600)
        return {"file": out, "notes": len(json.loads(result["notes"])["notes"])}

    _finish(_run(work), as_json, lambda result: click.echo(f"{result['notes']} notes in {result['file']}"))


# --- officers -----------------------------------------------------------------------------------------------


@cli.group()
def officers() -> None:
    """Add, list and retire officers."""


@officers.command("list")
@directory_option
@passphrase_option
@json_option
def officers_list(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """List officers."""

    def show_table(result: dict[str, Any]) -> None:
        rows = [(str(o["number"]), o["alias"], o["role"], o["state"]) for o in result["officers"]]
        _table(("Number", "Alias", "Role", "State"), rows)

    _finish(
        _run(lambda env: _call(env, directory, passphrase_file, "officers.list", {})), as_json, show_table
    )


@officers.command("add")
@directory_option
@passphrase_option
@click.option("--alias", required=True, help="How the officer is called on the log-in page.")
@click.option(
    "--role",
    type=click.Choice(["officer", "supervisor", "auditor", "operator"]),
    default="officer",
    show_default=True,
)
@pin_option
@json_option
def officers_add(
    directory: str, passphrase_file: str | None, alias: str, role: str, pin_file: str | None, as_json: bool
) -> None:
    """Add an officer; the new signed list reaches peers with the next message."""

    async def work(env: Env) -> dict[str, Any]:
        params = {"alias": alias, "role": role, "pin": _pin(env, pin_file, confirm=True)}
        return await _call(env, directory, passphrase_file, "officers.add", params)

    _finish(_run(work), as_json, lambda result: click.echo(f"Added officer {result['officer']}."))


@officers.command("retire")
@directory_option
@passphrase_option
@click.argument("number", type=int)
@json_option
def officers_retire(directory: str, passphrase_file: str | None, number: int, as_json: bool) -> None:
    """End an officer's rights now; what they signed stays valid."""
    result = _run(lambda env: _call(env, directory, passphrase_file, "officers.retire", {"officer": number}))
    _finish(result, as_json, lambda _: click.echo(f"Retired officer {number}."))


@officers.command("reset-pin")
@directory_option
@passphrase_option
@click.argument("number", type=int)
@pin_option
@json_option
def officers_reset_pin(
    directory: str, passphrase_file: str | None, number: int, pin_file: str | None, as_json: bool
) -> None:
    """Give an officer a new PIN (and with it a new signing key)."""

    async def work(env: Env) -> dict[str, Any]:
        params = {"officer": number, "pin": _pin(env, pin_file, confirm=True)}
        return await _call(env, directory, passphrase_file, "officers.reset-pin", params)

    _finish(_run(work), as_json, lambda _: click.echo(f"Officer {number} has a new PIN."))


# --- addresses ----------------------------------------------------------------------------------------------


@cli.command()
@directory_option
@passphrase_option
@click.option("--broker", required=True, metavar="ADDRESS", help="Address of the new broker.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False),
    required=True,
    help="File (mode 0600) with its operator's tokens, one a line; each makes four mailboxes.",
)
@click.option("--to", multiple=True, help="Only for this paired office; may be repeated.")
@click.option("--out", type=click.Path(file_okay=False), help="Also write a file for each office here.")
@json_option
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
        result = await _call(env, directory, passphrase_file, "move", params)
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

    _finish(_run(work), as_json, show)


@cli.command("import-address")
@directory_option
@passphrase_option
@click.argument("file", type=click.Path(dir_okay=False))
@json_option
def import_address(directory: str, passphrase_file: str | None, file: str, as_json: bool) -> None:
    """Take in the address file that a paired office's move --out wrote."""

    async def work(env: Env) -> dict[str, Any]:
        try:
            data = env.files.read(file, limits.ENVELOPE_BYTES_MAX)
        except FileNotFoundError as fault:
            raise PolicyRefused("file_missing", f"There is no file {file}.") from fault
        return await _call(env, directory, passphrase_file, "import-address", {"file": data.hex()})

    _finish(_run(work), as_json, lambda result: click.echo(f"Taken in from {result['peer']}."))


@cli.group()
def routes() -> None:
    """Reach foreign brokers through our own, so that they never see this office."""


def _show_routes(result: dict[str, Any]) -> None:
    for route in result["routes"]:
        way = f"through {route['through']}, there '{route['name']}'" if route["through"] else "straight"
        click.echo(f"{route['address']}\n  {way}")
    if not result["routes"]:
        click.echo("No routes: this office speaks to every broker itself.")


@routes.command("list")
@directory_option
@passphrase_option
@json_option
def routes_list(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """List routes."""
    result = _run(lambda env: _call(env, directory, passphrase_file, "routes.list", {}))
    _finish(result, as_json, _show_routes)


@routes.command("add")
@directory_option
@passphrase_option
@click.option("--through", metavar="ADDRESS", help="Address of the broker that hands on: our own.")
@click.option("--name", help="What its operator calls the other broker.")
@click.option(
    "--token-file", type=click.Path(dir_okay=False), help="File (mode 0600) with its forwarding token."
)
@click.option(
    "--straight", is_flag=True, help="Instead: speak to this one ourselves, although there are routes."
)
@click.argument("to", metavar="BROKER")
@json_option
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
        return await _call(env, directory, passphrase_file, "routes.add", params)

    _finish(_run(work), as_json, _show_routes)


@routes.command("remove")
@directory_option
@passphrase_option
@click.argument("to", metavar="BROKER")
@json_option
def routes_remove(directory: str, passphrase_file: str | None, to: str, as_json: bool) -> None:
    """Forget how BROKER is reached."""
    result = _run(lambda env: _call(env, directory, passphrase_file, "routes.remove", {"to": to}))
    _finish(result, as_json, _show_routes)


# --- witnesses ----------------------------------------------------------------------------------------------


@cli.group()
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
@directory_option
@passphrase_option
@json_option
def witness_list(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """List the brokers that were asked to cosign our log."""
    result = _run(lambda env: _call(env, directory, passphrase_file, "witness.list", {}))
    _finish(result, as_json, _show_witnesses)


@witness.command("add")
@directory_option
@passphrase_option
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False),
    required=True,
    help="File (mode 0600) with the broker's witness token.",
)
@click.option("--yes", is_flag=True, help="Do not ask again.")
@click.argument("to", metavar="BROKER")
@json_option
def witness_add(
    directory: str, passphrase_file: str | None, token_file: str, yes: bool, to: str, as_json: bool
) -> None:
    """Have BROKER cosign our log. It then knows that log's name, size and growth while this is on."""
    click.echo(WITNESS_LEARNS, err=True)
    if not yes:
        click.confirm("Switch it on?", abort=True, err=True)

    async def work(env: Env) -> dict[str, Any]:
        token = read_secret_file(env.files, token_file).reveal().decode("utf-8", "replace")
        return await _call(env, directory, passphrase_file, "witness.add", {"broker": to, "token": token})

    _finish(_run(work), as_json, _show_witnesses)


@witness.command("remove")
@directory_option
@passphrase_option
@click.argument("to", metavar="BROKER")
@json_option
def witness_remove(directory: str, passphrase_file: str | None, to: str, as_json: bool) -> None:
    """Ask BROKER no more. What it learnt it keeps; what it cosigned stays under our log."""
    result = _run(lambda env: _call(env, directory, passphrase_file, "witness.remove", {"broker": to}))
    _finish(result, as_json, _show_witnesses)


# --- programs -----------------------------------------------------------------------------------------------


@cli.group()
def tokens() -> None:
    """Tokens of programs that use the local API for an officer."""


@tokens.command("list")
@directory_option
@passphrase_option
@json_option
def tokens_list(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """List tokens, also those that ended; none is shown itself."""

    def show(result: dict[str, Any]) -> None:
        rows = [
            (str(t["number"]), t["name"], str(t["officer"]), " ".join(t["scopes"]), t["state"])
            for t in result["tokens"]
        ]
        _table(("Number", "Name", "Officer", "May", "State"), rows)

    result = _run(lambda env: _call(env, directory, passphrase_file, "tokens.list", {}))
    _finish(result, as_json, show)


@tokens.command("add")
@directory_option
@passphrase_option
@officer_option
@pin_option
@click.option("--name", required=True, help="What the program is called here.")
@click.option(
    "--may", "scopes", type=click.Choice(SCOPES), multiple=True, required=True, help="May be repeated."
)
@click.option("--days", type=click.IntRange(1, DAYS_MAX), default=90, show_default=True)
@json_option
def tokens_add(
    directory: str,
    passphrase_file: str | None,
    officer: int,
    pin_file: str | None,
    name: str,
    scopes: tuple[str, ...],
    days: int,
    as_json: bool,
) -> None:
    """Make a token by which a program acts as this officer. It is shown once: keep it as you would a PIN."""

    async def work(env: Env) -> dict[str, Any]:
        params: Params = {
            "officer": officer,
            "pin": _pin(env, pin_file),
            "name": name,
            "scopes": list(scopes),
            "days": days,
        }
        return await _call(env, directory, passphrase_file, "tokens.add", params)

    def show(result: dict[str, Any]) -> None:
        click.echo(result["token"])
        click.echo(f"Number {result['number']}. It ends by itself, or with: {NAME} tokens revoke", err=True)

    _finish(_run(work), as_json, show)


@tokens.command("revoke")
@directory_option
@passphrase_option
@click.argument("number", type=int)
@json_option
def tokens_revoke(directory: str, passphrase_file: str | None, number: int, as_json: bool) -> None:
    """End a token at once."""
    result = _run(lambda env: _call(env, directory, passphrase_file, "tokens.revoke", {"number": number}))
    _finish(result, as_json, lambda _: click.echo(f"Token {number} is good for nothing now."))


# --- health -------------------------------------------------------------------------------------------------


@cli.command()
@directory_option
@passphrase_option
@json_option
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
        _table(
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

    _finish(_run(lambda env: _call(env, directory, passphrase_file, "status", {})), as_json, show_status)


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


@cli.command()
@directory_option
@passphrase_option
@json_option
def publish(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """Publish and sign the audit log up to now."""
    result = _run(lambda env: _call(env, directory, passphrase_file, "publish", {}))
    _finish(
        result,
        as_json,
        lambda r: click.echo(f"Published {r['size']} entries of {r['origin']}, root {r['root']}."),
    )


@cli.command()
@directory_option
@passphrase_option
@json_option
def doctor(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """Check clock, disk, permissions, certificate, log, database, brokers, mailboxes; print each fix."""
    result = _run(lambda env: _call(env, directory, passphrase_file, "doctor", {}))

    def show_checks(value: dict[str, Any]) -> None:
        for check in value["checks"]:
            click.echo(f"{'ok ' if check['ok'] else 'BAD'}  {check['what']}: {check['detail']}")
            if not check["ok"]:
                click.echo(f"      fix: {check['fix']}")

    _finish(result, as_json, show_checks)
    if not all(check["ok"] for check in result["checks"]):
        sys.exit(1)


# --- helpers ------------------------------------------------------------------------------------------------


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


class _PhotoSaver:
    """Writes photos as their pieces come, each under its number once it is whole; nothing is overwritten."""

    def __init__(self, env: Env, directory: str) -> None:
        self._env = env
        self._directory = directory
        self._pieces = bytearray()
        self.saved: list[str] = []

    def take(self, event: dict[str, Any]) -> None:
        """One event of the verb ``show``."""
        if event.get("event") != "photo-piece":
            return
        self._pieces += base64.b64decode(event["data"])
        if event["last"]:
            kind = "jpg" if event["type"] == "jpeg" else "png"
            path = str(PurePath(self._directory) / f"photo-{int(event['number']) // 2 + 1}.{kind}")
            if self._env.files.exists(path):
                raise PolicyRefused("photo_exists", f"{path} is there already. Nothing was overwritten.")
            self._env.files.write_atomic(path, bytes(self._pieces))
            self._pieces.clear()
            self.saved.append(path)


async def _call(
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
        node = await Node.open(env, directory, _passphrase(env, passphrase_file))
        try:
            if links:
                await node.start_links()
            return await run_verb(node, verb, params, _TerminalChannel(on_event, answer))
        finally:
            await node.stop()
    finally:
        lock.release()


def _passphrase(env: Env, path: str | None, *, confirm: bool = False) -> SecretBytes:
    if path is not None:
        return read_secret_file(env.files, path)
    text: str = click.prompt(
        "Passphrase of this node", hide_input=True, confirmation_prompt=confirm, err=True
    )
    return SecretBytes(text.encode())


def _pin(env: Env, path: str | None, *, confirm: bool = False) -> str:
    if path is not None:
        return read_secret_file(env.files, path).reveal().decode("utf-8", "replace")
    return str(click.prompt("PIN", hide_input=True, confirmation_prompt=confirm, err=True))


def _run(work: Callable[[Env], Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, Any]:
    as_json = bool(click.get_current_context().params.get("as_json"))
    try:
        return run_real(work)
    except SalweenError as error:
        _fail(error, as_json)
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("Interrupted; nothing half-done was kept.", err=True)
        sys.exit(1)


def _fail(error: SalweenError, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(
            json.dumps({"error": {"family": error.family, "code": error.code, "detail": error.detail}})
        )
    else:
        click.echo(f"salween-node: {error.detail or error.code} [{error.code}]", err=True)
    sys.exit(exits.exit_code_for(error))


def _finish(result: dict[str, Any], as_json: bool, show_text: Callable[[dict[str, Any]], None]) -> None:
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False))
    else:
        show_text(result)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console().print(table if rows else "Nothing there.")


add_recovery_commands(cli, run=_run, call=_call, passphrase=_passphrase, pin=_pin, finish=_finish)


add_stick_commands(cli, run=_run, call=_call, pin=_pin, finish=_finish)
add_handover_commands(cli, run=_run, call=_call, pin=_pin, finish=_finish)


def main() -> None:
    """Entry point: click's usage errors exit 64, an uncaught exception 70, never 1."""
    try:
        cli.main(standalone_mode=False)
    except click.UsageError as fault:
        fault.show()
        sys.exit(exits.USAGE)
    except click.exceptions.Abort:
        sys.exit(1)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as fault:
        fault.show()
        sys.exit(exits.USAGE)
    except Exception as bug:
        click.echo(f"salween-node: internal error: {type(bug).__name__}: {bug}", err=True)
        sys.exit(exits.INTERNAL)


if __name__ == "__main__":
    main()
