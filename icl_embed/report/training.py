"""The training run in numbers and as a loss curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from icl_embed.report.charts import Point
from icl_embed.train.metrics import METRICS_NAME, read_metrics


@dataclass(frozen=True)
class TrainingFacts:
    """What the log of a training run says.

    ``facts`` are (name, value) rows for reading; ``points`` is the loss at each step and ``smooth`` its
    trailing mean.
    """

    facts: tuple[tuple[str, str], ...]
    points: tuple[Point, ...]
    smooth: tuple[Point, ...]


def read_training(folder: Path | None) -> TrainingFacts | None:
    """The facts of an embedder's or reranker's training; None when there is no log."""
    lines = [line for line in read_metrics(folder / METRICS_NAME) if "loss" in line] if folder else []
    if not lines:
        return None
    points = tuple((float(line["step"]), float(line["loss"])) for line in lines)
    share = max(1, len(lines) // 10)
    losses = [loss for _, loss in points]
    facts = [
        ("steps", f"{len(lines):,}"),
        ("loss, first tenth", f"{fmean(losses[:share]):.3f}"),
        ("loss, last tenth", f"{fmean(losses[-share:]):.3f}"),
        *_averages(lines),
        ("seconds in steps", f"{sum(float(line.get('seconds', 0.0)) for line in lines):,.0f}"),
    ]
    return TrainingFacts(tuple(facts), points, _smooth(points))


def _averages(lines: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    wanted = {
        "examples_per_query": ("examples per query, really used", "{:.2f}"),
        "useful_token_share": ("useful tokens (not padding)", "{:.0%}"),
        "tokens_per_second": ("tokens per second", "{:,.0f}"),
        "grad_norm": ("gradient norm", "{:.2f}"),
    }
    found = []
    for name, (label, form) in wanted.items():
        values = [float(line[name]) for line in lines if isinstance(line.get(name), int | float)]
        if values:
            found.append((f"{label}, mean" if name == "grad_norm" else label, form.format(fmean(values))))
    return found


def _smooth(points: Sequence[Point]) -> tuple[Point, ...]:
    window = max(1, len(points) // 15)
    return tuple(
        (points[end][0], fmean(loss for _, loss in points[max(0, end + 1 - window) : end + 1]))
        for end in range(len(points))
    )
