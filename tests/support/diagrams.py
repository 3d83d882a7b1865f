"""docs/spec/diagrams.md, drawn from the tables of the code: ``python -m tests.support.diagrams`` writes it.

A table is any mapping from (state, event) to state, both states of one enumeration: found by walking the
modules, so that a new table cannot be left out. The steps of the pairing have no table; theirs are drawn from
what each step's methods return. A test holds the committed page equal to what this draws.
"""

import importlib
import pkgutil
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

from keys import pairing
from keys.rendezvous import Burned

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "spec" / "diagrams.md"
_PACKAGES: Final = ("keys", "protocol", "audit", "node", "broker", "runtime")
# The page that says in words what a table says in rows.
_TOLD_IN: Final = {"protocol": "conversation.md#delivery", "audit": "../auditing.md#replay"}

Table = Mapping[tuple[Enum, Any], Enum]


def _is_table(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(
            isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], Enum) and type(to) is type(key[0])
            for key, to in value.items()
        )
    )


def tables() -> Iterator[tuple[str, Table]]:
    """Every transition table with its dotted name, once: where it is defined."""
    for package in _PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if found.name.endswith("__main__"):
                continue
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                states = next(iter(value))[0] if _is_table(value) else None
                if states is not None and type(states).__module__ == found.name:
                    yield f"{found.name}.{name}", value


def _event(event: Any) -> str:
    return event.__name__ if isinstance(event, type) else str(event)


def draw_table(name: str, table: Table) -> str:
    """One section: the moves as a diagram, and every event in every state as a table."""
    states = list(type(next(iter(table))[0]))
    moves: dict[tuple[Enum, Enum], list[str]] = {}
    for (start, event), end in table.items():
        if start is not end:
            moves.setdefault((start, end), []).append(_event(event))
    lines = [f"## {name}", ""]
    told_in = _TOLD_IN.get(name.partition(".")[0])
    if told_in is not None:
        lines += [f"In words: [{told_in.rpartition('/')[2].partition('#')[0]}]({told_in}).", ""]
    lines += ["```mermaid", "stateDiagram-v2"]
    lines += [f'    state "{state.value}" as {state.name}' for state in states]
    lines += [
        f"    {start.name} --> {end.name} : {', '.join(events)}" for (start, end), events in moves.items()
    ]
    events = list(dict.fromkeys(event for _, event in table))
    lines += ["```", "", f"| event | {' | '.join(str(state.value) for state in states)} |"]
    lines += [f"|---|{'---|' * len(states)}"]
    for event in events:
        cells = (table.get((state, event)) for state in states)
        ends = (
            "" if end is None else "stays" if end is state else str(end.value)
            for end, state in zip(cells, states, strict=True)
        )
        lines.append(f"| `{_event(event)}` | {' | '.join(ends)} |")
    return "\n".join(lines) + "\n"


def _steps_in(annotation: Any) -> list[type]:
    steps = typing.get_args(pairing.Step)
    if annotation in steps:
        return [annotation]
    return [step for part in typing.get_args(annotation) for step in _steps_in(part)]


def _draw_pairing() -> str:
    lines = ["## keys.pairing", "", "In words: [pairing.md](pairing.md#messages).", ""]
    lines += ["```mermaid", "stateDiagram-v2"]
    for step in typing.get_args(pairing.Step):
        for name, method in vars(step).items():
            if callable(method) and not name.startswith("_"):
                for end in _steps_in(typing.get_type_hints(method).get("return")):
                    lines.append(f"    {step.__name__} --> {end.__name__} : {name}")
    burnable = [
        step
        for step in typing.get_args(pairing.Step)
        if step not in (pairing.Confirms, pairing.Paired, Burned)
    ]
    lines += [f"    {step.__name__} --> Burned : any fault" for step in burnable]
    return "\n".join([*lines, "```"]) + "\n"


def draw() -> str:
    """The whole page."""
    head = """# Diagrams

Drawn from the tables of the code by `python -m tests.support.diagrams`; a test holds this page equal to what
that draws. An arrow is a move to another state. In the tables *stays* means that the event is taken and the
state kept; an empty cell is an event that changes nothing there, or that a replay names as a finding.

"""
    return head + "\n".join([*(draw_table(name, table) for name, table in tables()), _draw_pairing()])


if __name__ == "__main__":
    PAGE.write_text(draw(), encoding="utf-8")
