"""The figures of a reranker evaluation, as JSON types: intervals, losses, costs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from icl_embed.evaluate.measurement import Bootstrap, average, average_difference
from icl_embed.rerank.measuring.loss import relative_loss
from icl_embed.rerank.measuring.metrics import METRICS, NDCG
from icl_embed.rerank.measuring.systems import FIRST_STAGE, FULL_DEPTH, LIGHTWEIGHT, Systems
from icl_embed.rerank.ways import name_of, record_way


def summarise(systems: Systems, how: Bootstrap) -> dict[str, Any]:
    """Quality of every system with intervals, and what the lightweight way saves and loses.

    Fractions throughout. ``loss`` is full depth minus lightweight, queries paired.
    """
    grid, full, chosen = systems.grid, systems.full, systems.lightweight
    pairs = systems.against_full(chosen)
    relative = relative_loss(pairs, how)
    spent, recomputing = (
        float(flops.sum()) for flops in (grid.flops(chosen), grid.flops_without_sharing(full))
    )
    everywhere = {metric: systems.everywhere(metric) for metric in METRICS}
    first = everywhere[NDCG][FIRST_STAGE]
    return {
        "datasets": [_dataset_summary(systems, number, how) for number in range(len(grid.sets))],
        "averages": {
            metric: {name: asdict(average(measured, how)) for name, measured in found.items()}
            for metric, found in everywhere.items()
        },
        "gains": {
            name: asdict(average_difference(list(zip(everywhere[NDCG][name], first, strict=True)), how))
            for name in (FULL_DEPTH, LIGHTWEIGHT)
        },
        "metric": f"{NDCG} over all relevant passages that are known",
        "chosen": record_way(chosen).model_dump(mode="json") | {"name": name_of(chosen)},
        "full_depth": record_way(full).model_dump(mode="json") | {"name": name_of(full)},
        "flops_saved_fraction": 1.0 - spent / float(grid.flops(full).sum()),
        "flops_saved_against_recomputing_queries": 1.0 - spent / recomputing,
        "seconds_saved_fraction": 1.0 - float(grid.seconds(chosen).sum() / grid.seconds(full).sum()),
        "relative_loss": relative.mean,
        "relative_loss_interval": asdict(relative),
        "loss": asdict(average_difference(pairs, how)),
        "tokens": grid.lengths(),
    }


def curve_of(systems: Systems, how: Bootstrap) -> list[dict[str, Any]]:
    """One entry per way: quality averaged over data sets, cost averaged over queries."""
    grid, curve = systems.grid, []
    for way in systems.ways:
        interval = average(grid.measurements(way), how)
        seconds = grid.seconds(way)
        curve.append(
            {
                **record_way(way).model_dump(mode="json"),
                "name": name_of(way),
                "ndcg": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "loss": asdict(average_difference(systems.against_full(way), how)),
                "gflops_per_query": float(grid.flops(way).mean()) / 1e9,
                "seconds_per_query": float(seconds.mean()),
                "seconds_p95": float(np.percentile(seconds, 95)),
                "is_chosen": way == systems.lightweight,
            }
        )
    return curve


def _dataset_summary(systems: Systems, number: int, how: Bootstrap) -> dict[str, Any]:
    scored = systems.grid.sets[number]
    candidates = scored.candidates
    found = {metric: systems.of(number, metric) for metric in METRICS}
    return {
        "dataset": candidates.dataset,
        "trained_on": candidates.trained_on,
        "num_queries": len(scored.queries),
        "candidates_mean": float(np.mean([len(query.passages) for query in candidates.queries])),
        "reachable": candidates.reachable,
        **{name: asdict(measured.interval(how)) for name, measured in found[NDCG].items()},
        "other_metrics": {
            metric: {name: measured.point for name, measured in measurements.items()}
            for metric, measurements in found.items()
            if metric != NDCG
        },
    }
