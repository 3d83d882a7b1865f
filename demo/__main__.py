"""``salween-demo``: two offices and a broker to try by hand, or with ``--once`` a story that checks itself.

Spec: docs/operations.md#demo. Everything lives in one temporary directory and is gone at the end, also after
Ctrl-C. Exit codes: 0 when all held, 1 with one sentence when something did not, 64 wrong usage, 70 a bug.
"""

import asyncio
import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, NoReturn

import click
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from demo.audit_story import AuditStory
from demo.playground import Playground, open_playground, send_first_alert
from demo.regions_story import RegionsStory
from demo.restore_story import RestoreStory
from demo.stage import DemoFailed, Stage
from demo.story import Story
from demo.telling import Step
from demo.usb_story import UsbStory
from runtime import exits
from runtime.env import real_env

WIDTH_MAX: Final = 80
_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--once", is_flag=True, help="Tell a story without a person, check it, and end.")
@click.option(
    "--story",
    type=click.Choice(["first-light", "restore", "usb", "regions", "audit"]),
    help="Which story; with it, --once is understood.",
)
@click.option("--json", "as_json", is_flag=True, help="With --once: one JSON line per step and a summary.")
@click.option(
    "--logs",
    type=click.Path(file_okay=False, path_type=Path),
    help="Copy the operations logs of broker and offices there at the end.",
)
def cli(once: bool, story: str | None, as_json: bool, logs: Path | None) -> int:
    """Start a broker and two paired offices on this machine, until Ctrl-C."""
    once = once or story is not None
    if as_json and not once:
        raise click.UsageError("--json needs --once.")
    if not once:
        return _run(_stay_up(logs))
    began_s = time.monotonic()
    try:
        return _run(_once(_JsonTeller() if as_json else _Teller(), logs, story))
    except Exception as error:
        if as_json:
            took_s = round(time.monotonic() - began_s, 1)
            ended = {"summary": True, "ok": False, "took_s": took_s, "error": _words_for(error)}
            click.echo(json.dumps(ended))
        raise


def _run(work: Coroutine[Any, Any, int]) -> int:
    """Run ``work``; the first signal that asks for the end cancels it, and its tidying up is let finish."""

    async def main() -> int:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        # Not the loop's own handlers: those go with the loop, and a second Ctrl-C could still end us badly.
        def end(_signal: int, _frame: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)

        for ending in _ENDS:
            signal.signal(ending, end)
        return await task

    try:
        return asyncio.run(main())
    finally:
        for ending in _ENDS:
            signal.signal(ending, signal.SIG_IGN)  # all that is left to do is to say so and exit


# --- a story that checks itself -----------------------------------------------------------------------------


async def _once(teller: "_JsonTeller | _Teller", logs: Path | None, story: str | None) -> int:
    try:
        async with Stage.open(keep_logs_in=logs) as stage:
            match story:
                case "restore":
                    summary = await RestoreStory(stage, teller).run()
                case "usb":
                    summary = await UsbStory(stage, teller).run()
                case "regions":
                    summary = await RegionsStory(stage, real_env(), teller).run()
                case "audit":
                    summary = await AuditStory(stage, real_env(), teller).run()
                case _:
                    summary = await Story(stage, real_env(), teller).run()
        teller.ended(summary)
    finally:
        teller.close()
    return exits.DONE


class _JsonTeller:
    """One JSON line per step, and the summary."""

    def doing(self, what: str) -> None:
        """Programs want facts only."""

    def told(self, step: Step) -> None:
        """One line."""
        facts = {"step": step.name, "ok": True, "took_s": step.took_s, "said": step.sentence}
        click.echo(json.dumps(facts | step.facts))

    def ended(self, summary: dict[str, Any]) -> None:
        """The last line."""
        click.echo(json.dumps(summary))

    def close(self) -> None:
        """Nothing is left open."""


class _Teller:
    """A tick and a sentence per step; on a terminal also what happens meanwhile."""

    def __init__(self) -> None:
        self._console = _console()
        self._status = self._console.status("")
        self._console.print("\n  [bold]Salween[/bold]  a story that checks itself\n")
        if self._console.is_terminal:
            self._status.start()

    def doing(self, what: str) -> None:
        """Shown until the step is told."""
        self._status.update(f"{what} …")

    def told(self, step: Step) -> None:
        """One sentence."""
        row = Table.grid(padding=(0, 1))
        row.add_column(width=3, justify="right")
        row.add_column(width=WIDTH_MAX - 14)
        row.add_column(width=7, justify="right")
        row.add_row("[green]✓[/green]", escape(step.sentence), f"[dim]{step.took_s:.1f} s[/dim]")
        self._console.print(row)

    def ended(self, summary: dict[str, Any]) -> None:
        """The last word."""
        self._status.stop()
        left = "Nothing but the report" if "report" in summary else "Nothing"
        self._console.print(
            f"\n    [bold green]All of it held[/bold green] in {summary['took_s']:.0f} s."
            f" {left} is left behind.\n"
        )

    def close(self) -> None:
        """Take the spinner off the terminal."""
        self._status.stop()


# --- two offices to try by hand -----------------------------------------------------------------------------


async def _stay_up(logs: Path | None) -> int:
    console = _console()
    console.print()

    def restarted(name: str, exit_code: int) -> None:
        console.print(
            f"  [dim]{time.strftime('%H:%M:%S')}[/dim]  {name} ended (exit code {exit_code});"
            " it was started again."
        )

    directory: Path | None = None
    try:
        async with Stage.open(on_restart=restarted, keep_logs_in=logs) as stage:
            directory = stage.directory
            with console.status("Starting a broker and two offices, and pairing them …"):
                ground = await open_playground(stage)
                await send_first_alert(ground)
            _show(console, stage, ground)
            await asyncio.gather(*(daemon.failed() for daemon in stage.daemons))
    except asyncio.CancelledError:
        console.print(f"\n  Stopped. The processes have ended and {directory} is gone.\n", soft_wrap=True)
    return exits.DONE


def _show(console: Console, stage: Stage, ground: Playground) -> None:
    console.print("  [bold]Salween[/bold]  two offices and a broker run on this machine\n")
    for office in ground.offices:
        console.print(f"  [bold]{office.name}[/bold]   [cyan]{office.address}[/cyan]")
        table = Table.grid(padding=(0, 3))
        for officer in office.officers:
            table.add_row(f"officer {officer.number}", officer.alias, f"PIN [bold]{officer.pin}[/bold]")
        console.print(Padding(table, (0, 0, 1, 4)))
    console.print(
        "  They paired by voice; both now show the safety number\n"
        f"    [dim]{ground.safety_number[:35]}\n    {ground.safety_number[36:]}[/dim]\n"
    )
    first, second = ground.offices
    waits = f"An alert from {first.name} waits in the inbox of {second.name}"
    victim = "Write an alert about a person whose role is victim"
    plug = f"Pull the plug: kill -9 {ground.broker.pid} is the broker"
    tries = (
        f"Open both addresses in one browser. {waits}: open it, then watch its ladder in the other outbox.",
        f"{victim}: it leaves only when the supervisor releases it, and opens only with a reason.",
        f"{plug}. It is started again, and what you sent meanwhile arrives.",
        "Check the record, as an auditor would:",
    )
    for number, text in enumerate(tries, start=1):
        lines = textwrap.wrap(text, WIDTH_MAX - 8)
        console.print("\n".join((f"  {number}  {lines[0]}", *(f"     {line}" for line in lines[1:]))))
    console.print(
        f"     {_beside_us('salween-audit')} verify {first.log} \\\n       --policy {first.policy}\n",
        soft_wrap=True,
    )
    console.print(f"  Everything lies in {stage.directory}", soft_wrap=True)
    console.print("  Ctrl-C ends it and removes every trace.\n")


def _beside_us(command: str) -> str:
    """How to type one of our commands here: beside this interpreter, which is seldom on the PATH."""
    path = Path(sys.executable).parent / command
    shown = os.path.relpath(path)
    return shown if len(shown) < len(str(path)) else str(path)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.width <= WIDTH_MAX else Console(highlight=False, width=WIDTH_MAX)


# --- the end ------------------------------------------------------------------------------------------------


def _failure_in(error: BaseException) -> DemoFailed | None:
    if isinstance(error, DemoFailed):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_failure_in, error.exceptions)), None)
    return None


def _words_for(error: Exception) -> str:
    failure = _failure_in(error)
    return str(failure) if failure is not None else f"internal error: {type(error).__name__}: {error}"


def main() -> NoReturn:
    """Console script; wrong usage exits 64, an uncaught exception 70, never 1."""
    try:
        sys.exit(cli.main(standalone_mode=False) or exits.DONE)
    except click.UsageError as fault:
        fault.show()
        sys.exit(exits.USAGE)
    except (asyncio.CancelledError, KeyboardInterrupt, click.exceptions.Abort):
        click.echo("salween-demo: interrupted; nothing is left behind.", err=True)
        sys.exit(exits.REFUSED)
    except Exception as error:
        click.echo(f"salween-demo: {_words_for(error)}", err=True)
        sys.exit(exits.INTERNAL if _failure_in(error) is None else exits.REFUSED)


if __name__ == "__main__":
    main()
