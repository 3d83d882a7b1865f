"""``salween-broker``: every command of a broker.

Spec: docs/operations.md#commands. ``tokens`` and ``stats`` ask the running broker over ``control.sock`` and
open the database themselves only when none runs. Secrets come from files of mode 0600, never from arguments
or the environment. Exit codes: runtime/exits.py.
"""

import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import click

from broker.config import HEALTH_PORT_DEFAULT, PORT_DEFAULT, is_loopback
from broker.control import (
    TOKEN_USES,
    ask_running,
    collect_stats,
    list_witnessed,
    make_standing_tokens,
    make_tokens,
    withdraw_standing_token,
)
from broker.daemon import config_of, run_broker, with_store
from broker.doctor import examine
from broker.identity import read_passphrase
from broker.setup import begin_again, initialise
from broker.store.base import StandingKind, Store
from keys.errors import PolicyRefused, SalweenError
from runtime import exits, logs
from runtime.env import Env, real_env, run_real
from runtime.secretfiles import read_secret_file
from runtime.service import DaemonOptions, describe, hold_directory, run_daemon

T = TypeVar("T")
NAME = "salween-broker"

_directory = click.option(
    "--dir", "directory", type=click.Path(file_okay=False), required=True, help="Directory of this broker."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_passphrase_file = click.option(
    "--passphrase-file",
    type=click.Path(dir_okay=False),
    help="File (mode 0600) holding the passphrase; without it the broker keeps a random one beside its keys.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """The broker: holds sealed envelopes for offices until they fetch them."""


@cli.command()
@_directory
@_passphrase_file
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT_DEFAULT, show_default=True, help="0: any free."
)
@click.option("--public-host", default="", help="Host that offices dial, when it is not --host.")
@click.option("--health-port", type=click.IntRange(0, 65535), default=HEALTH_PORT_DEFAULT, show_default=True)
@click.option("--tls/--no-tls", default=None, help="Default: on unless --host is a loopback address.")
@click.option("--name", default="", help="Pseudonym in the published log; default: random.")
@click.option("--network", default="salween", show_default=True, help="First part of every log's name.")
@_json
def init(
    directory: str,
    passphrase_file: str | None,
    host: str,
    port: int,
    public_host: str,
    health_port: int,
    tls: bool | None,
    name: str,
    network: str,
    as_json: bool,
) -> None:
    """Make a new broker: keys, encrypted database, empty log and broker.toml."""
    values: dict[str, Any] = {
        "name": name,
        "host": host,
        "port": port,
        "public_host": public_host,
        "tls": not is_loopback(host) if tls is None else tls,
        "health_port": health_port,
        "network": network,
    }
    made = _run(as_json, lambda env: initialise(env, directory, values, passphrase_file))
    facts = {
        "directory": directory,
        "fingerprint": made.fingerprint,
        "log_key": made.log_key,
        "tls": values["tls"],
    }

    def show() -> None:
        click.echo(f"Made a broker in {directory}.")
        click.echo(f"Its fingerprint: {made.fingerprint}")
        click.echo(f"Key of its log, for the auditors' policy file: {made.log_key}")
        if passphrase_file is None:
            click.echo(
                f"It starts without a person: {directory}/unlock opens its keys. Keep it out of backups."
            )
        click.echo(f"Next: {NAME} run --dir {directory}")

    _tell(as_json, facts, show)


@cli.command()
@_directory
@_passphrase_file
@_json
def run(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """Run the broker until SIGTERM or Ctrl-C."""
    if not __debug__:
        _fail(
            PolicyRefused("optimised", "checks are switched off by -O or PYTHONOPTIMIZE; start without"),
            as_json,
        )
    env = real_env()
    try:
        config = config_of(env, directory)
        config.check_listening()
        passphrase = read_passphrase(env, directory, passphrase_file)
    except SalweenError as error:
        _fail(error, as_json)
    options = DaemonOptions(
        name=NAME, directory=directory, health_port=config.health_port, ready_as_json=as_json
    )
    sys.exit(
        run_real(lambda env: run_daemon(env, lambda daemon: run_broker(daemon, passphrase, config), options))
    )


@cli.command("begin-again")
@_directory
@_passphrase_file
@_json
def begin_again_command(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """After the disk was lost: an empty database under the kept keystore and broker.toml."""
    _run(as_json, lambda env: begin_again(env, directory, passphrase_file))

    def show() -> None:
        click.echo(
            f"Made an empty database in {directory}. What the broker held is lost; offices notice by"
            " themselves, make their mailboxes again and send again what nobody received."
            " Tokens not used yet are void."
        )
        click.echo(f"Next: {NAME} run --dir {directory}")

    _tell(as_json, {"directory": directory}, show)


@cli.command()
@_directory
@_passphrase_file
@click.option("--count", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option(
    "--forwarding",
    "kind",
    flag_value="forwarding",
    help="Forwarding tokens instead: an office reaches the brokers under [forward] in broker.toml by it.",
)
@click.option(
    "--witness",
    "kind",
    flag_value="witness",
    help="Witness tokens instead: an office that wants it has its log cosigned by this broker.",
)
@_json
def tokens(
    directory: str, passphrase_file: str | None, count: int, kind: StandingKind | None, as_json: bool
) -> None:
    """Make one-time tokens: one lets two offices pair over this broker."""

    def make(env: Env, store: Store) -> Coroutine[Any, Any, tuple[str, ...]]:
        if kind is None:
            return make_tokens(env, store, count)
        return make_standing_tokens(env, store, kind, count)

    async def work(env: Env) -> list[str]:
        answer = await ask_running(env, directory, "POST", "/tokens", {"count": count, "kind": kind})
        if answer is not None:
            return list(answer["tokens"])
        return list(await _alone(env, directory, passphrase_file, lambda store: make(env, store)))

    made = _run(as_json, work)

    def show() -> None:
        for token in made:
            click.echo(token)
        if kind == "forwarding":
            click.echo("Each is one office's way to other brokers until it is withdrawn.", err=True)
        elif kind == "witness":
            click.echo(
                "Each has the log of one office cosigned until it is withdrawn. This broker then knows that"
                " log's name, size and growth.",
                err=True,
            )
        else:
            click.echo(f"Each makes {TOKEN_USES} mailboxes, once. Hand each to one office only.", err=True)

    _tell(as_json, {"tokens": made}, show)


@cli.command()
@_directory
@_passphrase_file
@click.option(
    "--token-file", type=click.Path(dir_okay=False), required=True, help="File (mode 0600) with the token."
)
@_json
def withdraw(directory: str, passphrase_file: str | None, token_file: str, as_json: bool) -> None:
    """Take a forwarding or witness token back: who shows it is refused from now on."""

    async def work(env: Env) -> bool:
        text = read_secret_file(env.files, token_file).reveal().decode("utf-8", "replace")
        answer = await ask_running(env, directory, "POST", "/withdraw", {"token": text})
        if answer is not None:
            return bool(answer["withdrawn"])
        return await _alone(
            env, directory, passphrase_file, lambda store: withdraw_standing_token(store, text)
        )

    known = _run(as_json, work)
    said = "Withdrawn." if known else "No such token here: it was withdrawn before, or is another broker's."
    _tell(as_json, {"withdrawn": known}, lambda: click.echo(said))
    sys.exit(exits.DONE if known else exits.REFUSED)


@cli.command()
@_directory
@_passphrase_file
@_json
def stats(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """Show what the broker holds; counts only."""

    async def work(env: Env) -> dict[str, Any]:
        answer = await ask_running(env, directory, "GET", "/stats")
        if answer is not None:
            return {"running": True, **answer}
        return {"running": False, **await _alone(env, directory, passphrase_file, collect_stats)}

    facts = _run(as_json, work)

    def show() -> None:
        for name, value in facts.items():
            click.echo(f"{name.replace('_', ' '):16} {value}")

    _tell(as_json, facts, show)


@cli.command()
@_directory
@_passphrase_file
@_json
def witnessed(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """Show the keys of this broker's witness, the logs it cosigns, and what is held against one."""

    async def alone(store: Store) -> dict[str, Any]:
        return {"keys": store.witness_keys, "logs": await list_witnessed(store)}

    async def work(env: Env) -> dict[str, Any]:
        answer = await ask_running(env, directory, "GET", "/witnessed")
        if answer is not None:
            return answer
        return dict(await _alone(env, directory, passphrase_file, alone))

    facts = _run(as_json, work)

    def show() -> None:
        for key in facts["keys"]:
            click.echo(f"Key of the witness, for the auditors' policy file: {key}")
        for each in facts["logs"]:
            click.echo(f"{each['origin']}  {each['size']} entries")
            for head in each["refused"]:
                click.echo(
                    f"  REFUSED {head['size']} entries: {head['code']}. --json shows both signed heads."
                )

    _tell(as_json, facts, show)


@cli.command()
@_directory
@_passphrase_file
@_json
def doctor(directory: str, passphrase_file: str | None, as_json: bool) -> None:
    """Check configuration, keys, permissions, disk and ports, and say how to mend what is wrong."""
    findings = _run(as_json, lambda env: examine(env, directory, passphrase_file))

    def show() -> None:
        for finding in findings:
            click.echo(f"{'ok   ' if finding.is_ok else 'WRONG'} {finding.subject}: {finding.detail}")

    rows = [{"ok": f.is_ok, "subject": f.subject, "detail": f.detail} for f in findings]
    _tell(as_json, {"ok": all(f.is_ok for f in findings), "findings": rows}, show)
    sys.exit(exits.DONE if all(f.is_ok for f in findings) else exits.REFUSED)


async def _alone(
    env: Env,
    directory: str,
    passphrase_file: str | None,
    call: Callable[[Any], Coroutine[Any, Any, T]],
) -> T:
    """Do ``call`` on the store of a broker that does not run."""
    config = config_of(env, directory)
    lock = hold_directory(env, NAME, directory)
    try:
        passphrase = read_passphrase(env, directory, passphrase_file)
        return await with_store(env, directory, config, passphrase, call)
    finally:
        lock.release()


def _run(as_json: bool, work: Callable[[Env], Coroutine[Any, Any, T]]) -> T:
    async def configured(env: Env) -> T:
        logs.configure(env.clock, env.process.stderr_line, strict=False)
        return await work(env)

    try:
        return run_real(configured)
    except Exception as error:
        _fail(error, as_json)


def _tell(as_json: bool, facts: Any, show: Callable[[], None]) -> None:
    if as_json:
        click.echo(json.dumps(facts))
    else:
        show()


def _fail(error: Exception, as_json: bool) -> NoReturn:
    code = error.code if isinstance(error, SalweenError) else "internal_error"
    if as_json:
        click.echo(json.dumps({"error": code, "detail": describe(error)}))
    click.echo(f"{NAME}: {describe(error)}", err=True)
    sys.exit(exits.exit_code_for(error))


def main() -> None:
    """Entry point; wrong usage exits 64, not click's 2, which means unreadable input."""
    try:
        sys.exit(cli(standalone_mode=False) or exits.DONE)
    except click.UsageError as error:
        error.show()
        sys.exit(exits.USAGE)
    except click.Abort:
        sys.exit(exits.REFUSED)
    except click.ClickException as error:
        error.show()
        sys.exit(exits.UNREADABLE)


if __name__ == "__main__":
    main()
