"""One picture of many fleets, as SVG written by hand: no library to draw it, and legible on white and on black."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

import attrs

WIDTH: Final = 300
HEIGHT: Final = 150
LEFT: Final = 44
TOP: Final = 40
BOTTOM: Final = 24
GAP: Final = 14

GREY: Final = "#868686"
OWN: Final = "#2a8fd8"
OTHER: Final = "#d9822b"


@attrs.frozen(kw_only=True)
class Panel:
    """One fleet.

    Attributes:
        name: The heading.
        note: A line below it.
        per_second: Attempts in each second from the loss.
        back: The share of clients that are back, from 0 to 1, at the end of each of these seconds.
        own: Whether it is drawn in the colour of this library.
    """

    name: str
    note: str
    per_second: Sequence[int]
    back: Sequence[float]
    own: bool = False


def figure(panels: Sequence[Panel], *, down: float, capacity: float, top: float, columns: int = 3) -> str:
    """Returns the SVG: attempts in each second on a logarithmic scale up to `top`, one panel for each fleet."""
    rows = math.ceil(len(panels) / columns)
    width, height = columns * (WIDTH + GAP), rows * (HEIGHT + GAP)
    drawn = [
        f'<g transform="translate({index % columns * (WIDTH + GAP)} {index // columns * (HEIGHT + GAP)})">'
        f"{_panel(panel, down, capacity, top)}</g>"
        for index, panel in enumerate(panels)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="10" fill="{GREY}">\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _panel(panel: Panel, down: float, capacity: float, top: float) -> str:
    seconds = len(panel.per_second)
    right, floor = WIDTH - 6, HEIGHT - BOTTOM
    decades = math.log10(top)

    def x(second: float) -> float:
        return round(LEFT + (right - LEFT) * min(1.0, second / seconds), 1)

    def y(value: float) -> float:
        return round(floor - (floor - TOP) * math.log10(max(1.0, value)) / decades, 1)

    colour = OWN if panel.own else OTHER
    bars = "".join(
        f"M{x(second)} {floor}V{y(count)}H{x(second + 1)}V{floor}"
        for second, count in enumerate(panel.per_second)
        if count
    )
    line = " ".join(
        f"{x(second + 1)},{round(floor - (floor - TOP) * share, 1)}"
        for second, share in enumerate(panel.back)
    )
    parts = [
        f'<text x="{LEFT}" y="14" font-size="13" font-weight="bold" fill="{colour}">{escape(panel.name)}</text>',
        f'<text x="{LEFT}" y="29">{escape(panel.note)}</text>',
        f'<rect x="{LEFT}" y="{TOP}" width="{round(x(down) - LEFT, 1)}" height="{floor - TOP}" fill-opacity="0.13"/>',
        f'<path d="{bars}" fill="{colour}" fill-opacity="0.75"/>',
        f'<polyline points="{LEFT},{floor} {line}" fill="none" stroke="{GREY}" stroke-width="1.3"/>',
        f'<path d="M{LEFT} {y(capacity)}H{right}" stroke="{GREY}" stroke-dasharray="4 3"/>',
        f'<path d="M{LEFT} {TOP}V{floor}H{right}" fill="none" stroke="{GREY}"/>',
    ]
    parts += [
        f'<text x="{LEFT - 4}" y="{y(10**power) + 3}" text-anchor="end">{_short(10**power)}</text>'
        for power in range(0, math.floor(decades) + 1, 2)
    ]
    parts += [
        f'<text x="{x(second)}" y="{HEIGHT - 10}" text-anchor="middle">{second} s</text>'
        for second in range(0, seconds, _spacing(seconds))
    ]
    return "".join(parts)


def _short(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _spacing(seconds: int) -> int:
    return next((step for step in (5, 10, 20, 30, 60) if seconds / step <= 6), 120)
