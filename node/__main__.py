"""``salween-node``: every command of an office's node.

Spec: docs/operations.md#commands. Each verb talks to the running daemon over ``control.sock`` and opens the
node itself only when none runs. Secrets come from a prompt, a 0600 file or a systemd credential, never from
arguments or the environment. Exit codes: runtime/exits.py.
"""

import sys

import click

from node import __version__
from node.commands import (
    alerts,
    brokers,
    disputes,
    erasing,
    handover,
    office,
    officers,
    partners,
    recovery,
    sticks,
    tokens,
    witnesses,
)
from node.commands.terminal import NAME
from runtime import exits


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=NAME)
def cli() -> None:
    """The node of one border liaison office."""


_SUBJECTS = (
    office, partners, alerts, erasing, disputes, officers, brokers, witnesses, tokens, recovery, sticks,
    handover,
)  # fmt: skip
for _subject in _SUBJECTS:
    for _command in _subject.COMMANDS:
        cli.add_command(_command)


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
