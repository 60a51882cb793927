"""The reranker in the report: its quality and cost, and how the lightweight way was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from icl_embed.errors import DataError
from icl_embed.evaluation.measurement import Difference, Interval
from icl_embed.report.charts import Axis, CostPoint, as_svg, axis_titles, draw_grid, ticks
from icl_embed.report.facts import read_json, signed

SYSTEMS = (
    ("bm25", "BM25"),
    ("first_stage", "first stage"),
    ("lightweight", "lightweight"),
    ("full_depth", "full depth"),
)


@dataclass(frozen=True)
class WayFact:
    """One way to rerank: quality, loss against full depth, cost."""

    name: str
    quality: Interval
    loss: Difference | None
    gflops: float
    milliseconds: float | None
    is_chosen: bool


@dataclass(frozen=True)
class RerankingFacts:
    """The reranker table (one row per data set), its curve, and two headline numbers in percent.

    Attributes
        averages: the last row of the table; empty where an evaluation of an earlier version has none.
        ways: every way that was measured, cheapest first.
        facts: what the lightweight way is, saves and loses.
    """

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, dict[str, Interval]], ...]
    averages: dict[str, Interval]
    curve: tuple[CostPoint, ...]
    ways: tuple[WayFact, ...]
    facts: tuple[tuple[str, str], ...]
    cost_label: str
    flops_saved: float | None
    relative_loss: Interval | None


def read_reranking(folder: Path | None) -> RerankingFacts | None:
    """The reranker evaluation; None when the run has none.

    Raises
        DataError: a file is there but does not hold what a reranker evaluation writes.
    """
    if folder is None:
        return None
    scores, curve = read_json(folder / "scores.json"), read_json(folder / "curve.json")
    if scores is None:
        return None
    try:
        rows = tuple((str(entry["dataset"]), _intervals(entry)) for entry in scores["datasets"])
        averages = _intervals(scores.get("averages", {}).get("ndcg_at_10", {}))
        points = tuple(_point(entry) for entry in _drawn(curve or ()))
        ways = tuple(sorted(map(_way, curve or ()), key=lambda way: way.gflops))
        facts = tuple(_facts(scores))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{folder}: not a reranker evaluation ({error!r}); rebuild the artefact") from error
    used = {name for _, cells in rows for name in cells}
    return RerankingFacts(
        columns=tuple(system for system in SYSTEMS if system[0] in used),
        rows=rows,
        averages=averages,
        curve=points,
        ways=ways,
        facts=facts,
        cost_label="GFLOPs per query",
        flops_saved=_percent(scores.get("flops_saved_fraction")),
        relative_loss=_interval(loss) if (loss := scores.get("relative_loss_interval")) else None,
    )


def _facts(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    if "name" in scores.get("chosen", {}):
        found.append(("lightweight way", str(scores["chosen"]["name"])))
        found.append(("chosen by", str(scores["chosen_by"])))
    for name, key in (
        ("FLOPs saved against full depth", "flops_saved_fraction"),
        ("where full depth recomputes each query", "flops_saved_against_recomputing_queries"),
        ("seconds saved against full depth", "seconds_saved_fraction"),
    ):
        if key in scores:
            found.append((name, f"{100 * float(scores[key]):.1f} %"))
    if "relative_loss_interval" in scores:
        loss = scores["relative_loss_interval"]
        mean, low, high = (signed(float(loss[name])) for name in ("mean", "low", "high"))
        found.append(("relative loss on test", f"{mean} % ({low} to {high})"))
    if "tokens" in scores:
        pair = scores["tokens"]["pair"]
        found.append(
            ("tokens of a pair", f"{float(pair['mean']):.0f}, 95th percentile {float(pair['p95']):.0f}")
        )
    return found


def _intervals(entry: Mapping[str, Any]) -> dict[str, Interval]:
    found = {name: entry[name] for name, _ in SYSTEMS if entry.get(name)}
    return {name: _interval(cell) for name, cell in found.items()}


def _interval(cell: Mapping[str, Any]) -> Interval:
    return Interval(float(cell["mean"]), float(cell["low"]), float(cell["high"]))


def _difference(cell: Mapping[str, Any]) -> Difference:
    return Difference(*(float(cell[name]) for name in ("mean", "low", "high", "p_value")))


def _way(entry: Mapping[str, Any]) -> WayFact:
    loss, seconds = entry.get("loss"), entry.get("seconds_per_query")
    return WayFact(
        name=str(entry.get("name", f"layer {entry['layer']}, compression {entry['ratio']}")),
        quality=Interval(float(entry["ndcg"]), float(entry["low"]), float(entry["high"])),
        loss=Difference(*(float(loss[name]) for name in ("mean", "low", "high", "p_value")))
        if loss
        else None,
        gflops=float(entry["gflops_per_query"]),
        milliseconds=None if seconds is None else 1000 * float(seconds),
        is_chosen=bool(entry.get("is_chosen")),
    )


def _drawn(curve: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One line per ratio: of several compressions that end at one layer, the one at most layers."""
    best: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for entry in curve:
        place = (entry["layer"], entry["ratio"], bool(entry.get("stages")))
        if place not in best or _rank(entry) > _rank(best[place]):
            best[place] = entry
    return list(best.values())


def _rank(entry: Mapping[str, Any]) -> tuple[bool, int]:
    return bool(entry.get("is_chosen")), len(entry.get("compress_layers", ()))


def _point(entry: Mapping[str, Any]) -> CostPoint:
    value, low, high = (100 * float(entry[name]) for name in ("ndcg", "low", "high"))
    cost, chosen = float(entry["gflops_per_query"]), bool(entry.get("is_chosen"))
    series = "cascade" if entry.get("stages") else f"compression {entry['ratio']}"
    name = str(entry["name"]) if entry.get("stages") else f"layer {entry['layer']}, {series}"
    label = f"{name}: nDCG@10 {value:.1f}, {cost:.1f} GFLOPs{', chosen' if chosen else ''}"
    return CostPoint(label, cost, value, low, high, series, chosen)


def _percent(value: Any) -> float | None:
    return None if value is None else 100 * float(value)


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
        return TuningFacts(
            points, full - 100 * float(choice["max_loss"]), tuple(_tuning_facts(choice, chosen))
        )
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise DataError(f"{folder}: not a choice of tuning ({error!r}); rebuild the artefact") from error


def _tuning_facts(choice: dict[str, Any], chosen: dict[str, Any]) -> list[tuple[str, str]]:
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
