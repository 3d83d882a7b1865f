"""Charts as inline SVG: bars, and points over time on a scale of durations. No script, no outer file.

One rule: a chart stands beside a table that says the same, so it is hidden from readers of screens.
"""

import math
from collections.abc import Sequence
from typing import Final

from audit.page import Html, Node, element

WIDTH: Final = 920
_LEFT: Final = 76
_RIGHT: Final = 16
_TICKS_S: Final = (
    (1, "1 s"),
    (60, "1 min"),
    (900, "15 min"),
    (3600, "1 h"),
    (86_400, "1 day"),
    (604_800, "7 days"),
)


def _svg(height: int, *children: Node) -> Html:
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {WIDTH} {height}",
        role="presentation",
        aria_hidden="true",
        class_="chart",
    )


def _say(x: float, y: float, words: str, anchor: str = "start", class_: str = "tick") -> Html:
    return element("text", words, x=round(x, 1), y=round(y, 1), text_anchor=anchor, class_=class_)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    return element("line", x1=round(x1, 1), y1=round(y1, 1), x2=round(x2, 1), y2=round(y2, 1), class_=class_)


def durations(points: Sequence[tuple[int, float]], first_words: str, last_words: str) -> Html:
    """(time, seconds) as dots on a logarithmic scale, with the limits 15 min and 1 day drawn through."""
    height, top, bottom = 210, 12, 182
    longest = max(max((seconds for _, seconds in points), default=1.0), 3600.0)
    span = math.log10(longest * 1.3)

    def y(seconds: float) -> float:
        return bottom - (bottom - top) * math.log10(max(seconds, 1.0)) / span

    begin, end = points[0][0], max(points[-1][0], points[0][0] + 1)
    drawn: list[Node] = []
    for tick_s, words in _TICKS_S:
        if tick_s <= longest * 1.3:
            limit = {900: "limit late", 86_400: "limit alone"}.get(tick_s, "grid")
            drawn += [_line(_LEFT, y(tick_s), WIDTH - _RIGHT, y(tick_s), limit)]
            drawn += [_say(_LEFT - 10, y(tick_s) + 4, words, "end")]
    for at, seconds in points:
        x = _LEFT + 6 + (WIDTH - _RIGHT - _LEFT - 12) * (at - begin) / (end - begin)
        state = "alone" if seconds > 86_400 else "late" if seconds > 900 else "good"
        drawn.append(element("circle", cx=round(x, 1), cy=round(y(seconds), 1), r=3, class_=f"dot {state}"))
    drawn += [_say(_LEFT, height - 6, first_words), _say(WIDTH - _RIGHT, height - 6, last_words, "end")]
    return _svg(height, drawn)


def bars(rows: Sequence[tuple[str, int | None]]) -> Html:
    """Horizontal bars, one for each (label, count); None is a suppressed count, drawn as a hatched stub."""
    step, left = 30, 210
    longest = max((count for _, count in rows if count is not None), default=1) or 1
    drawn: list[Node] = []
    for number, (label, count) in enumerate(rows):
        y = 6 + number * step
        drawn.append(_say(left - 12, y + 15, label, "end", "label"))
        if count is None:
            drawn.append(element("rect", x=left, y=y, width=14, height=20, rx=3, class_="hidden-bar"))
            drawn.append(_say(left + 24, y + 15, "hidden"))
            continue
        width = max((WIDTH - left - 90) * count / longest, 2 if count else 0)
        drawn.append(element("rect", x=left, y=y, width=round(width, 1), height=20, rx=3, class_="bar"))
        drawn.append(_say(left + width + 10, y + 15, f"{count:,}"))
    return _svg(12 + step * len(rows), drawn)
