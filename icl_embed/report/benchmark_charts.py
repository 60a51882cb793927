"""Charts of the benchmark page: curves with intervals, and bars that leave a common line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from icl_embed.report.charts import (
    LETTER,
    SMALL_LETTER,
    Axis,
    as_svg,
    axis_titles,
    draw_grid,
    fit_text,
    ticks,
)

LINE_HEIGHT = 14


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
    parts = [draw_grid(across, up, xs, ys, 1), axis_titles(labels, width, height, left)]
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
