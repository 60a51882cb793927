"""Scores over shot counts, and over example qualities: rows of the studies ``shots`` and ``examples``.

Several seeds of a setting are averaged before anything is compared: they are draws of examples, not of test
items. Intervals are over test items; ``seed_low`` and ``seed_high`` say how far the draws lie apart.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icl_embed.benchmark.asked import CLEAN
from icl_embed.errors import EvaluationError
from icl_embed.evaluate.measurement import Measured, average_over_seeds
from icl_embed.studies.corruptions import QUALITIES
from icl_embed.studies.scored import Scored, Statistics, by_task, compared, summarised, with_holm

ZERO = "zero-shot"


@dataclass(frozen=True)
class _Point:
    """One task at one place of the curve, all seeds together; ``shown`` is what fitted into every prompt."""

    measured: Measured
    seeds: tuple[float, ...]
    tokens: float
    shown: int


Curve = dict[Any, _Point]


def shot_rows(scored: Sequence[Scored], how: Statistics) -> list[dict[str, Any]]:
    """One row per task and shot count, then those of the average; compared with zero-shot.

    Raises
        EvaluationError: several models, several strategies, or a task without its zero-shot score.
    """
    clean = [one for one in scored if one.asked.quality == CLEAN]
    _refuse_mixture({one.asked.selection for one in clean if one.asked.shots}, "strategies")
    curves = {task: _curve(members, lambda one: one.asked.shots) for task, members in by_task(clean).items()}
    for task, curve in curves.items():
        if 0 not in curve:
            raise EvaluationError(f"{task} has no zero-shot score to compare with; add 0 to the shots")
    places = sorted({shots for curve in curves.values() for shots in curve})
    return with_holm(_rows(curves, places, "shots", {"zero": 0}, how), "zero")


def quality_rows(scored: Sequence[Scored], how: Statistics) -> list[dict[str, Any]]:
    """One row per task and quality, then those of the average; compared with zero-shot and with clean.

    Raises
        EvaluationError: several models or shot counts, or a task without its clean score.
    """
    shown = [one for one in scored if one.asked.shots]
    _refuse_mixture({(one.asked.shots, one.asked.selection) for one in shown}, "ways to show examples")

    def place(one: Scored) -> str:
        return one.asked.quality if one.asked.shots else ZERO

    curves = {task: _curve(members, place) for task, members in by_task(scored).items()}
    for task, curve in curves.items():
        if CLEAN not in curve:
            raise EvaluationError(f"{task} has no score with clean examples to compare with")
    places = [name for name in (ZERO, *QUALITIES) if any(name in curve for curve in curves.values())]
    baselines = {"zero": ZERO, "clean": CLEAN}
    return with_holm(with_holm(_rows(curves, places, "quality", baselines, how), "zero"), "clean")


def _curve(members: Sequence[Scored], place_of: Callable[[Scored], Hashable]) -> Curve:
    groups: dict[Hashable, dict[int, Scored]] = {}
    for one in members:
        groups.setdefault(place_of(one), {})[one.asked.seed] = one
    return {
        place: _Point(
            average_over_seeds([one.measurement for one in draws.values()]),
            tuple(one.measurement.point for one in draws.values()),
            float(np.mean([one.tokens for one in draws.values()])),
            min(one.shown for one in draws.values()),
        )
        for place, draws in groups.items()
    }


def _rows(
    curves: dict[str, Curve],
    places: Sequence[Hashable],
    axis: str,
    baselines: Mapping[str, Hashable],
    how: Statistics,
) -> list[dict[str, Any]]:
    rows = [
        {"task": task, "is_average": False, axis: place, **_figures([curve], place, baselines, how)}
        for task, curve in curves.items()
        for place in places
        if place in curve
    ]
    complete = [curve for curve in curves.values() if all(place in curve for place in places)]
    if len(complete) > 1:
        label = f"average of {len(complete)} tasks"
        rows += [
            {"task": label, "is_average": True, axis: place, **_figures(complete, place, baselines, how)}
            for place in places
        ]
    return rows


def _figures(
    curves: Sequence[Curve], place: Hashable, baselines: Mapping[str, Hashable], how: Statistics
) -> dict[str, Any]:
    points = [curve[place] for curve in curves]
    draws = np.mean([point.seeds for point in points], axis=0) if _same_seeds(points) else []
    figures: dict[str, Any] = {
        **summarised([point.measured for point in points], how),
        "seeds": min(len(point.seeds) for point in points),
        "seed_low": float(np.min(draws)) if len(draws) else None,
        "seed_high": float(np.max(draws)) if len(draws) else None,
        "examples_shown": min(point.shown for point in points),
        "query_tokens": round(float(np.mean([point.tokens for point in points])), 2),
    }
    for name, baseline in baselines.items():
        is_compared = place != baseline and all(baseline in curve for curve in curves)
        pairs = [(curve[place].measured, curve[baseline].measured) for curve in curves] if is_compared else []
        figures |= compared(pairs, how, name)
    return figures


def _same_seeds(points: Sequence[_Point]) -> bool:
    return len({len(point.seeds) for point in points}) == 1


def _refuse_mixture(found: set[Any], what: str) -> None:
    if len(found) > 1:
        raise EvaluationError(f"one study compares one of them, found several {what}: {sorted(found)}")
