"""Charts as inline SVG: curves, intervals, bars, and cost against quality.

Colours come from the page's CSS variables, so charts follow its light and dark themes. Every text is escaped
here, because a chart enters the page as finished markup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]

LETTER, SMALL_LETTER = 7.6, 6.4  # generous widths of a letter in row labels and their details, pixels


@dataclass(frozen=True)
class Mark:
    """A value with its interval, drawn in the style of a CSS class."""

    style: str
    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class IntervalRow:
    """One line of an interval chart; ``detail`` is set small under or after the label."""

    label: str
    detail: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class CostPoint:
    """One way to rerank: what it costs and how good it is."""

    label: str
    cost: float
    value: float
    low: float
    high: float
    series: str
    is_chosen: bool


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers that cover [low, high]."""
    nothing = 1e-9 * max(1.0, abs(low), abs(high))  # narrower than this, a range is one value
    span = high - low if high - low > nothing else max(abs(high), nothing)
    rough = span / max(count, 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 1)


def line_chart(
    points: Sequence[Point], smooth: Sequence[Point], *, title: str, labels: tuple[str, str], width: int
) -> Markup:
    """Raw points as dots, a smoothed line over them."""
    height, left, bottom = round(width * 0.42) + 40, 46, 34
    xs, ys = (
        ticks(0, max(x for x, _ in points), 6),
        ticks(min(y for _, y in points), max(y for _, y in points)),
    )
    across = Axis(xs[0], xs[-1], left, width - 12)
    up = Axis(ys[0], ys[-1], height - bottom, 12)
    parts = [draw_grid(across, up, xs, ys, 1 if width > 500 else 2), axis_titles(labels, width, height, left)]
    parts += [f'<circle class="dot" cx="{across(x)}" cy="{up(y)}" r="2"/>' for x, y in points]
    path = " ".join(f"{'L' if i else 'M'}{across(x)},{up(y)}" for i, (x, y) in enumerate(smooth))
    parts.append(f'<path class="line" d="{path}"/>')
    return as_svg(parts, width, height, title)


def interval_chart(rows: Sequence[IntervalRow], *, title: str, width: int) -> Markup:
    """One group of horizontal intervals per row: labels on the left where there is room, else above."""
    is_wide = width >= 600
    line, gap, head, gutter = 13, 14, (0 if is_wide else 20), (260 if is_wide else 10)
    low = min((mark.low for row in rows for mark in row.marks), default=0.0)
    high = max((mark.high for row in rows for mark in row.marks), default=100.0)
    xs = ticks(min(low, 0.0) if low < 25 else low, high, 8 if is_wide else 5)
    across = Axis(xs[0], xs[-1], gutter, width - 14)
    height = 30 + sum(head + line * max(len(row.marks), 1) + gap for row in rows)
    parts = [
        f'<line class="grid" x1="{across(x)}" x2="{across(x)}" y1="2" y2="{height - 24}"/>'
        f'<text class="tick" x="{across(x)}" y="{height - 8}" text-anchor="middle">{x:g}</text>'
        for x in xs
    ]
    y = 12.0
    for row in rows:
        parts.append(_row_label(row, y, across, is_wide))
        y += head
        for mark in row.marks:
            parts.append(_interval(mark, across, y))
            y += line
        y += gap + line * (not row.marks)
    return as_svg(parts, width, height, title)


def cost_chart(points: Sequence[CostPoint], *, title: str, labels: tuple[str, str], width: int) -> Markup:
    """Quality with intervals over cost; the points of a series are joined, the chosen one is ringed."""
    height, left, bottom = round(width * 0.46) + 40, 46, 34
    xs = ticks(0, max(point.cost for point in points), 6 if width > 500 else 4)
    ys = ticks(min(point.low for point in points), max(point.high for point in points))
    across, up = Axis(xs[0], xs[-1], left, width - 16), Axis(ys[0], ys[-1], height - bottom, 12)
    parts = [draw_grid(across, up, xs, ys, 1 if width > 500 else 2), axis_titles(labels, width, height, left)]
    for number, series in enumerate(dict.fromkeys(point.series for point in points)):
        members = sorted((point for point in points if point.series == series), key=lambda item: item.cost)
        path = " ".join(f"{'L' if i else 'M'}{across(p.cost)},{up(p.value)}" for i, p in enumerate(members))
        parts.append(f'<path class="series s{number % 4}" d="{path}"/>')
        parts += [_cost_mark(point, across, up, number % 4) for point in members]
    return as_svg(parts, width, height, title)


def _cost_mark(point: CostPoint, across: Axis, up: Axis, style: int) -> str:
    x, y = across(point.cost), up(point.value)
    ring = f'<circle class="ring" cx="{x}" cy="{y}" r="9"/>' if point.is_chosen else ""
    return (
        f'<g class="s{style}"><title>{escape(point.label)}</title>{ring}'
        f'<line class="whisker" x1="{x}" x2="{x}" y1="{up(point.low)}" y2="{up(point.high)}"/>'
        f'<circle class="mark" cx="{x}" cy="{y}" r="4"/></g>'
    )


def _row_label(row: IntervalRow, y: float, across: Axis, is_wide: bool) -> str:
    room = across.start - 12 if is_wide else across.end
    label = fit_text(row.label, room, LETTER)
    if is_wide:
        shown = escape(fit_text(row.detail, room, SMALL_LETTER))
        detail = f'<tspan class="axis" x="0" y="{y + 18}">{shown}</tspan>'
    else:
        rest = room - len(label) * LETTER - 10
        detail = f'<tspan class="axis" dx="6">{escape(fit_text(row.detail, rest, SMALL_LETTER))}</tspan>'
    tooltip = f"<title>{escape(row.label)}</title>"
    return f'<text class="row" x="0" y="{y + 4}">{tooltip}{escape(label)}{detail}</text>'


def fit_text(text: str, room: float, letter: float) -> str:
    """The text, cut with an ellipsis where it would leave its room (pixels)."""
    letters = int(room / letter)
    if len(text) <= letters:
        return text
    return text[: letters - 1] + "…" if letters > 3 else ""


def _interval(mark: Mark, across: Axis, y: float) -> str:
    said = f"{mark.label}: {mark.value:.1f} ({mark.low:.1f} to {mark.high:.1f})"
    return (
        f'<g class="{escape(mark.style)}"><title>{escape(said)}</title>'
        f'<line class="whisker" x1="{across(mark.low)}" x2="{across(mark.high)}" y1="{y}" y2="{y}"/>'
        f'<circle class="mark" cx="{across(mark.value)}" cy="{y}" r="4.5"/></g>'
    )


def draw_grid(across: Axis, up: Axis, xs: Sequence[float], ys: Sequence[float], every: int) -> str:
    """Lines and numbers of both axes; along the bottom every first, second … number."""
    parts = [
        f'<line class="grid" x1="{across.start}" x2="{across.end}" y1="{up(y)}" y2="{up(y)}"/>'
        f'<text class="tick" x="{across.start - 7}" y="{up(y) + 4}" text-anchor="end">{y:g}</text>'
        for y in ys
    ]
    parts += [
        f'<text class="tick" x="{across(x)}" y="{up.start + 16}" text-anchor="middle">{x:g}</text>'
        for x in xs[::every]
    ]
    return "".join(parts)


def axis_titles(labels: tuple[str, str], width: int, height: int, left: int) -> str:
    """The names of both axes: under the right end, and above the left."""
    return (
        f'<text class="axis" x="{width - 12}" y="{height - 3}" text-anchor="end">{escape(labels[0])}</text>'
        f'<text class="axis" x="{left}" y="9">{escape(labels[1])}</text>'
    )


def as_svg(parts: Sequence[str], width: int, height: float, title: str) -> Markup:
    """A finished chart of escaped parts."""
    body = "".join(parts)  # labels are escaped above; everything else is numbers and our own class names
    opening = f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(title)}">'
    return Markup(f"{opening}{body}</svg>")  # noqa: S704


LINE_HEIGHT = 14
MOST_NUMBERS = 16  # along the bottom of a curve


@dataclass(frozen=True)
class CurvePoint:
    """A value with its interval at a place of the horizontal axis."""

    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """One line; a main line is drawn strong with its intervals, the others are quiet company."""

    label: str
    style: str
    points: tuple[CurvePoint, ...]
    is_main: bool = True


@dataclass(frozen=True)
class Bar:
    """A signed value with its interval; ``style`` is a CSS class of the page."""

    label: str
    detail: str
    style: str
    value: float
    low: float
    high: float


def curve_chart(
    series: Sequence[Series], *, title: str, labels: tuple[str, str], width: int, decimals: int = 1
) -> Markup:
    """Lines over whole numbers, each named at its right end where there is room."""
    is_wide = width >= 600
    gutter = 168 if is_wide and len(series) > 1 else 14
    height, left, bottom = round(width * (0.34 if is_wide else 0.6)) + 40, 46, 34
    points = [point for line in series for point in line.points]
    seen = [end for line in series for p in line.points for end in _extent(line, p)]
    xs = sorted({point.x for point in points})
    ys = ticks(min(*seen, 0.0), max(seen))
    across = Axis(xs[0], xs[-1], left + 6, width - gutter)
    up = Axis(ys[0], ys[-1], height - bottom, 16)
    every = 1 + len(xs) // MOST_NUMBERS
    parts = [draw_grid(across, up, xs, ys, every), axis_titles(labels, width, height, left)]
    parts.append(f'<line class="zero" x1="{across.start}" x2="{across.end}" y1="{up(0)}" y2="{up(0)}"/>')
    for line in sorted(series, key=lambda line: line.is_main):
        parts.append(_line(line, across, up, decimals))
    if gutter > 14:
        parts += _end_labels(series, up, width - gutter + 10, gutter - 10)
    return as_svg(parts, width, height, title)


def _extent(line: Series, point: CurvePoint) -> tuple[float, float]:
    return (point.low, point.high) if line.is_main else (point.value, point.value)


def _line(line: Series, across: Axis, up: Axis, decimals: int) -> str:
    points = sorted(line.points, key=lambda point: point.x)
    path = " ".join(f"{'L' if n else 'M'}{across(p.x)},{up(p.value)}" for n, p in enumerate(points))
    parts = []
    if line.is_main:
        there = " ".join(f"{'L' if n else 'M'}{across(p.x)},{up(p.high)}" for n, p in enumerate(points))
        back = " ".join(f"L{across(p.x)},{up(p.low)}" for p in reversed(points))
        parts.append(f'<path class="band" d="{there} {back} Z"/>')
    parts.append(f'<path class="{"curve" if line.is_main else "curve quiet-curve"}" d="{path}"/>')
    parts += [_dot(line, point, across, up, decimals) for point in points]
    return f'<g class="{escape(line.style)}">{"".join(parts)}</g>'


def _dot(line: Series, point: CurvePoint, across: Axis, up: Axis, decimals: int) -> str:
    value, low, high = (f"{number:.{decimals}f}" for number in (point.value, point.low, point.high))
    said = escape(f"{line.label}, {point.x:g}: {value} ({low} to {high})")
    size = 4 if line.is_main else 2.5
    return (
        f'<g><title>{said}</title><circle class="mark" cx="{across(point.x)}" cy="{up(point.value)}" '
        f'r="{size}"/></g>'
    )


def _end_labels(series: Sequence[Series], up: Axis, x: float, room: float) -> list[str]:
    """Names at the right ends, moved apart where they would cover each other."""
    wanted = sorted(
        (up(max(line.points, key=lambda p: p.x).value), number) for number, line in enumerate(series)
    )
    lowest = up.start + 4
    places: list[float] = []
    for y, _ in wanted:
        places.append(max(y + 4, places[-1] + LINE_HEIGHT) if places else y + 4)
    overflow = max(0.0, places[-1] - lowest)
    for number in range(len(places) - 1, -1, -1):  # push back up what left the chart
        limit = places[number + 1] - LINE_HEIGHT if number + 1 < len(places) else places[number] - overflow
        places[number] = min(places[number], limit)
    return [
        _end_label(series[number], x, round(place, 1), room)
        for place, (_, number) in zip(places, wanted, strict=True)
    ]


def _end_label(line: Series, x: float, y: float, room: float) -> str:
    style, letter = ("row", LETTER) if line.is_main else ("axis", SMALL_LETTER)
    said = f"<title>{escape(line.label)}</title>{escape(fit_text(line.label, room, letter))}"
    return f'<text class="{style}" x="{x}" y="{y}">{said}</text>'


def bar_chart(bars: Sequence[Bar], *, title: str, width: int) -> Markup:
    """Horizontal bars from zero with whiskers: labels on the left where there is room, else above."""
    is_wide = width >= 600
    gutter, step = (290, 34) if is_wide else (10, 50)
    xs = ticks(
        min(0.0, *(bar.low for bar in bars)), max(0.0, *(bar.high for bar in bars)), 8 if is_wide else 5
    )
    across = Axis(xs[0], xs[-1], gutter, width - 16)
    height = step * len(bars) + 34
    parts = [
        f'<line class="grid" x1="{across(x)}" x2="{across(x)}" y1="2" y2="{height - 24}"/>'
        f'<text class="tick" x="{across(x)}" y="{height - 8}" text-anchor="middle">{x:g}</text>'
        for x in xs
    ]
    for number, bar in enumerate(bars):
        parts.append(_bar(bar, step * number + 6, across, is_wide))
    parts.append(f'<line class="zero" x1="{across(0)}" x2="{across(0)}" y1="2" y2="{height - 24}"/>')
    return as_svg(parts, width, height, title)


def _bar(bar: Bar, top: float, across: Axis, is_wide: bool) -> str:
    room = across.start - 12 if is_wide else across.end
    label = fit_text(bar.label, room, LETTER)
    rest = room - len(label) * LETTER - 10 if is_wide else 0.0  # on a phone the table says it
    detail = f'<tspan class="axis" dx="6">{escape(fit_text(bar.detail, rest, SMALL_LETTER))}</tspan>'
    middle = top + (11 if is_wide else 28)
    left, right = sorted((across(0), across(bar.value)))
    width = max(round(right - left, 1), 1)
    low, high = across(bar.low), across(bar.high)
    said = escape(f"{bar.label}: {bar.value:+.1f} ({bar.low:+.1f} to {bar.high:+.1f})")
    return (
        f'<text class="row" x="0" y="{top + (15 if is_wide else 12)}">{escape(label)}{detail}</text>'
        f'<g class="{escape(bar.style)}"><title>{said}</title>'
        f'<rect class="bar" x="{left}" y="{middle - 8}" width="{width}" height="16" rx="2"/>'
        f'<line class="whisker" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/></g>'
    )
