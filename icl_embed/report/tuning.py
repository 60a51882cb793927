"""How the lightweight way was chosen: everything that was tried on development queries, as a Pareto plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from icl_embed.errors import DataError
from icl_embed.report.charts import Axis, as_svg, axis_titles, draw_grid, ticks
from icl_embed.report.facts import read_json, signed


@dataclass(frozen=True)
class TriedPoint:
    """One way: what it costs, how good it is (percent)."""

    cost: float
    value: float
    is_efficient: bool
    is_chosen: bool


@dataclass(frozen=True)
class TuningFacts:
    """What was tried, and what the choice had to keep to.

    Attributes
        floor: the least nDCG@10 (percent) that the limit allows, as far as it is on the mean.
    """

    points: tuple[TriedPoint, ...]
    floor: float
    facts: tuple[tuple[str, str], ...]


def read_tuning(folder: Path | None) -> TuningFacts | None:
    """The choice of a run; None when it has none.

    Raises
        DataError: ``choice.json`` is there but is not what tuning writes.
    """
    choice = None if folder is None else read_json(folder / "choice.json")
    if choice is None:
        return None
    try:
        chosen = next(one for one in choice["tried"] if one["way"] == choice["chosen"])
        points = tuple(
            TriedPoint(
                float(one["gflops_per_query"]),
                100 * float(one["ndcg"]["mean"]),
                bool(one["is_efficient"]),
                one is chosen,
            )
            for one in choice["tried"]
        )
        full = 100 * (float(chosen["ndcg"]["mean"]) + float(chosen["loss"]["mean"]))
        return TuningFacts(points, full - 100 * float(choice["max_loss"]), tuple(_facts(choice, chosen)))
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise DataError(f"{folder}: not a choice of tuning ({error!r}); rebuild the artefact") from error


def _facts(choice: dict[str, Any], chosen: dict[str, Any]) -> list[tuple[str, str]]:
    mean, low, high = (signed(float(chosen["loss"][name])) for name in ("mean", "low", "high"))
    bound = "upper end of the interval" if choice["bound"] == "interval" else "mean"
    queries = {str(name): int(count) for name, count in choice["datasets"].items()}
    return [
        ("limit", f"{100 * float(choice['max_loss']):g} points of nDCG@10, held by the loss's {bound}"),
        ("loss on development queries", f"{mean} points ({low} to {high})"),
        ("ways tried", str(len(choice["tried"]))),
        ("development queries", f"{sum(queries.values())} of {', '.join(queries)}"),
    ]


def pareto_chart(tuning: TuningFacts, *, width: int) -> Markup:
    """Every way as a dot, the efficient ones joined, the chosen one ringed, the limit as a line."""
    points: Sequence[TriedPoint] = tuning.points
    height, left, bottom = round(width * 0.46) + 40, 46, 34
    xs = ticks(0, max(point.cost for point in points), 6 if width > 500 else 4)
    values = [*(point.value for point in points), tuning.floor]
    ys = ticks(min(values), max(values))
    across, up = Axis(xs[0], xs[-1], left, width - 16), Axis(ys[0], ys[-1], height - bottom, 12)
    labels = ("GFLOPs per query", "nDCG@10")
    parts = [draw_grid(across, up, xs, ys, 1 if width > 500 else 2), axis_titles(labels, width, height, left)]
    parts.append(
        f'<line class="zero" x1="{left}" x2="{width - 16}" y1="{up(tuning.floor)}" y2="{up(tuning.floor)}"/>'
    )
    parts += [f'<circle class="dot" cx="{across(one.cost)}" cy="{up(one.value)}" r="2"/>' for one in points]
    front = sorted((one for one in points if one.is_efficient), key=lambda one: one.cost)
    path = " ".join(f"{'L' if i else 'M'}{across(one.cost)},{up(one.value)}" for i, one in enumerate(front))
    parts.append(f'<path class="line" d="{path}"/>')
    for one in dict.fromkeys([*front, *(one for one in points if one.is_chosen)]):
        said = escape(f"nDCG@10 {one.value:.1f}, {one.cost:.1f} GFLOPs{', chosen' if one.is_chosen else ''}")
        ring = f'<circle class="ring" cx="{across(one.cost)}" cy="{up(one.value)}" r="9"/>'
        mark = f'<circle class="mark" cx="{across(one.cost)}" cy="{up(one.value)}" r="3.5"/>'
        parts.append(f'<g class="s0"><title>{said}</title>{ring if one.is_chosen else ""}{mark}</g>')
    return as_svg(parts, width, height, "Ways to rerank on development queries: quality over cost")
