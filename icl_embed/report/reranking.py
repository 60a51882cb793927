"""The reranker's quality at full depth and lightweight, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_embed.errors import DataError
from icl_embed.evaluate.statistics import Interval
from icl_embed.report.charts import CostPoint
from icl_embed.report.facts import read_json

SYSTEMS = (
    ("bm25", "BM25"),
    ("first_stage", "first stage"),
    ("lightweight", "lightweight"),
    ("full_depth", "full depth"),
)


@dataclass(frozen=True)
class RerankingFacts:
    """The reranker table (one row per data set), its curve, and two headline numbers in percent."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, dict[str, Interval]], ...]
    curve: tuple[CostPoint, ...]
    cost_label: str
    flops_saved: float | None
    relative_loss: float | None


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
        points = tuple(_point(entry) for entry in curve or ())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{folder}: not a reranker evaluation ({error!r}); rebuild the artefact") from error
    used = {name for _, cells in rows for name in cells}
    return RerankingFacts(
        columns=tuple(system for system in SYSTEMS if system[0] in used),
        rows=rows,
        curve=points,
        cost_label="GFLOPs per query",
        flops_saved=_percent(scores.get("flops_saved_fraction")),
        relative_loss=_percent(scores.get("relative_loss")),
    )


def _intervals(entry: Mapping[str, Any]) -> dict[str, Interval]:
    found = {name: entry[name] for name, _ in SYSTEMS if entry.get(name)}
    return {
        name: Interval(float(cell["mean"]), float(cell["low"]), float(cell["high"]))
        for name, cell in found.items()
    }


def _point(entry: Mapping[str, Any]) -> CostPoint:
    value, low, high = (100 * float(entry[name]) for name in ("ndcg", "low", "high"))
    cost, chosen = float(entry["gflops_per_query"]), bool(entry.get("is_chosen"))
    label = (
        f"layer {entry['layer']}, compression {entry['ratio']}: nDCG@10 {value:.1f}, {cost:.1f} GFLOPs"
        f"{', chosen' if chosen else ''}"
    )
    return CostPoint(label, cost, value, low, high, f"compression {entry['ratio']}", chosen)


def _percent(value: Any) -> float | None:
    return None if value is None else 100 * float(value)
