"""Line charts as SVG text, for pages that are rewritten often and must stay small: no script, no file beside them."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 520, 260  # of a chart, in its own units; pages scale it
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 40
COLOURS = ("#1f5fa8", "#d1701f", "#2b8a5a", "#8a4f9e", "#8a96a3")
HALO = 'paint-order="stroke" stroke="#fff" stroke-width="4"'  # text stays readable on top of lines
MOST_POINTS = 600  # of a line; more are thinned out
MARKED = 120  # lines of up to so many points have a dot, and what the pointer shows, at each of them


@dataclass(frozen=True)
class Line:
    """A named line; points that are not finite (or, on a logarithmic axis, not above 0) are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Axis:
    """An axis from ``low`` to ``high`` (of log10 where ``log``), with its ticks as (place, label)."""

    low: float
    high: float
    log: bool
    ticks: list[tuple[float, str]]

    def place(self, value: float) -> float:
        """0 at the lower end, 1 at the upper one."""
        value = math.log10(value) if self.log else value
        return (value - self.low) / (self.high - self.low)


def chart(
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """A chart of all lines that have a point, with a legend; all text is escaped.

    Args:
        lines: drawn in the order given, each in its own colour.
        x_title, y_title: of the axes, with units.
        log_x, log_y: logarithmic axes.
        marks: (x, label) of vertical lines.
    """
    shown = [(line.name, _points(line, log_x, log_y)) for line in lines]
    shown = [(name, points) for name, points in shown if points]
    every = [point for _, points in shown for point in points]
    x_axis = make_axis([x for x, _ in every] + [x for x, _ in marks], log_x, most=7)
    y_axis = make_axis([y for _, y in every], log_y, most=6)
    parts = [_frame(x_axis, y_axis, x_title, y_title)]
    for x, label in marks:
        left = _across(x_axis, x)
        beside = f'x="{left - 4}" text-anchor="end"' if x_axis.place(x) > 0.8 else f'x="{left + 4}"'
        parts.append(
            f'<line x1="{left}" x2="{left}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#5d6b7a" stroke-dasharray="4 3"/>'
            f'<text {beside} y="{HEIGHT - BOTTOM - 6}" {HALO}>{html.escape(label)}</text>'
        )
    coloured = [(*line, COLOURS[i % len(COLOURS)]) for i, line in enumerate(shown)]
    parts += [_drawn(name, points, x_axis, y_axis, colour) for name, points, colour in coloured]
    parts += [
        f'<text x="{WIDTH - RIGHT - 6}" y="{TOP + 15 * (i + 1)}" text-anchor="end" fill="{colour}" font-weight="600" '
        f"{HALO}>{html.escape(name)}</text>"
        for i, (name, _, colour) in enumerate(coloured)
    ]
    if not shown:
        parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">nothing yet</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(y_title)}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#1c2733">' + "".join(parts) + "</svg>"
    )


def make_axis(values: Sequence[float], log: bool, most: int) -> Axis:
    """An axis over all values with up to about ``most`` ticks; of one value, or none, a range around it."""
    scaled = [math.log10(value) if log else value for value in values] or [0.0, 1.0]
    low, high = min(scaled), max(scaled)
    if high - low < 1e-9 * max(1.0, abs(high)):
        margin = 0.5 if log else max(abs(high), 1.0) / 2
        low, high = low - margin, high + margin
    elif not log:
        margin = 0.04 * (high - low)
        low, high = low - margin, high + margin
    if log and high - low >= 1:
        step = math.ceil((high - low) / most)
        ticks = [(float(e), f"1e{e}") for e in range(math.ceil(low), math.floor(high) + 1, step)]
    elif log:
        ticks = [(math.log10(value), f"{value:.4g}") for value in _nice(10**low, 10**high, most) if value > 0]
    else:
        ticks = [(value, f"{value:.6g}") for value in _nice(low, high, most)]
    return Axis(low, high, log, ticks)


def _nice(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 × a power of ten within the range, at most ``most`` steps of them."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]


def _points(line: Line, log_x: bool, log_y: bool) -> list[tuple[float, float]]:
    points = [
        (float(x), float(y))
        for x, y in zip(line.x, line.y, strict=True)
        if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x) and (y > 0 or not log_y)
    ]
    every = -(-len(points) // MOST_POINTS)
    return points if every <= 1 else [*points[:-1:every], points[-1]]


def _drawn(name: str, points: list[tuple[float, float]], x_axis: Axis, y_axis: Axis, colour: str) -> str:
    at = [(_across(x_axis, x), _down(y_axis, y)) for x, y in points]
    path = " ".join(f"{left},{top}" for left, top in at)
    drawn = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
    if len(points) > MARKED:
        return drawn
    return drawn + "".join(
        f'<circle cx="{left}" cy="{top}" r="2.6" fill="{colour}"><title>{html.escape(name)}: {y:.5g} at {x:.5g}</title>'
        "</circle>"
        for (left, top), (x, y) in zip(at, points, strict=True)
    )


def _frame(x_axis: Axis, y_axis: Axis, x_title: str, y_title: str) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for place, label in x_axis.ticks:
        left = round(LEFT + (place - x_axis.low) / (x_axis.high - x_axis.low) * (right - LEFT), 1)
        parts.append(f'<line x1="{left}" x2="{left}" y1="{TOP}" y2="{bottom}" stroke="#eceff3"/>')
        parts.append(f'<text x="{left}" y="{bottom + 15}" text-anchor="middle">{label}</text>')
    for place, label in y_axis.ticks:
        top = round(bottom - (place - y_axis.low) / (y_axis.high - y_axis.low) * (bottom - TOP), 1)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{top}" y2="{top}" stroke="#eceff3"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{top + 4}" text-anchor="end">{label}</text>')
    middle = (TOP + bottom) / 2
    return (
        "".join(parts)
        + f'<path d="M{LEFT},{TOP}V{bottom}H{right}" fill="none" stroke="#8a96a3"/>'
        + f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_title)}</text>'
        + f'<text transform="rotate(-90 13 {middle})" x="13" y="{middle}" text-anchor="middle">'
        + f"{html.escape(y_title)}</text>"
    )


def _across(axis: Axis, x: float) -> float:
    return round(LEFT + axis.place(x) * (WIDTH - RIGHT - LEFT), 1)


def _down(axis: Axis, y: float) -> float:
    return round(HEIGHT - BOTTOM - axis.place(y) * (HEIGHT - BOTTOM - TOP), 1)
