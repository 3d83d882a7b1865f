"""vulture, with its noise taken out: functions, classes and methods that nobody uses, product or test.

Tests count as users on purpose: what only tests exercise is a promise of its package. Unused imports and
variables are ruff's business, which reads annotations; fields of values that pages and JSON read by name look
unused to vulture and are not. What a framework calls by name is listed below with who calls it.

``python -m tests.support.dead_code`` prints the findings and exits 1.
"""

import sys
from pathlib import Path
from typing import Final

from vulture.core import Vulture  # type: ignore[import-untyped]  # ships no types

ROOT: Final = Path(__file__).resolve().parents[2]
PRODUCT: Final = ("keys", "protocol", "runtime", "audit", "broker", "node", "demo", "bench")
_KINDS: Final = frozenset({"function", "class", "method", "property", "unreachable_code"})
_CONFIDENCE_PERCENT_MIN: Final = 60  # vulture's word for "no use found"

# Called by name, by somebody who is not in these folders.
_CALLED_BY: Final = {
    "asyncio: protocols": ("connection_made", "connection_lost", "data_received"),
    "aiohttp: the connection of its server": ("finish_response", "handle_error"),
    "pydantic-settings": ("settings_customise_sources",),
}
# Decorators that hand a function to a framework.
_DECORATORS: Final = ("@*.command", "@*.group", "@*.middleware", "@field_validator", "@model_validator")


def findings() -> list[str]:
    """What nobody uses, one line each with its place."""
    names = [name for group in _CALLED_BY.values() for name in group]
    vulture = Vulture(ignore_names=names, ignore_decorators=list(_DECORATORS))
    vulture.scavenge([str(ROOT / folder) for folder in (*PRODUCT, "tests") if (ROOT / folder).exists()])
    return [
        f"{place}:{item.first_lineno}: unused {item.typ} {item.name}"
        for item in vulture.get_unused_code(min_confidence=_CONFIDENCE_PERCENT_MIN)
        if item.typ in _KINDS and (place := item.filename.relative_to(ROOT)).parts[0] in PRODUCT
    ]


if __name__ == "__main__":
    for finding in (found := findings()):
        print(finding, file=sys.stderr)  # noqa: T201
    sys.exit(1 if found else 0)
