"""``python -m bench``: run the benches, print JSON lines and nothing else on standard output.

Spec: docs/benchmarks.md. Some minutes on two cores; ``--quick`` is for tests and shows only that each
bench runs.
"""

import click

from bench import (
    audit_work,
    catch_up,
    end_to_end,
    forward,
    idle,
    log_work,
    photo,
    report,
    restart,
    seal_open,
    several,
)

BENCHES = {
    "seal_open": seal_open.run,
    "several": several.run,
    "log": log_work.run,
    "audit": audit_work.run,
    "end_to_end": end_to_end.run,
    "forward": forward.run,
    "catch_up": catch_up.run,
    "restart": restart.run,
    "photo": photo.run,
    "idle": idle.run,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Small and short: shows that it runs, measures nothing well.")
@click.option("--only", type=click.Choice(list(BENCHES)), multiple=True, help="Only this bench; repeatable.")
def main(quick: bool, only: tuple[str, ...]) -> None:
    """Measure, one JSON line per case; progress goes to standard error."""
    report.machine(quick=quick)
    for name, run in BENCHES.items():
        if not only or name in only:
            run(quick=quick)


if __name__ == "__main__":
    main()
