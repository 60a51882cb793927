"""The reranker-evaluation stage: the embedder's best passages, reranked at every depth and width.

The lightweight shape is fixed by the config *before* any test query is seen (its cutoff layer, or the middle
head); the curve shows what other shapes would have scored. Choosing a shape on a development split is not
done here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from icl_embed.config import RerankConfig
from icl_embed.evaluate.measurement import Bootstrap, average, average_difference
from icl_embed.rerank.candidates import read_candidates
from icl_embed.rerank.grid import DatasetGrid, Point, measure
from icl_embed.rerank.score import Reranker
from icl_embed.rerank.shape import Shape, choose_shape, lightweight_shape
from icl_embed.store.files import write_atomically

SCORES_NAME = "scores.json"
CURVE_NAME = "curve.json"
VALUES_NAME = "per_query.parquet"


def evaluate_reranker(
    reranker_folder: Path,
    evaluations: Sequence[Path],
    config: RerankConfig,
    out_dir: Path,
    *,
    seed: int,
    bootstrap: Bootstrap,
    device: str = "auto",
    dtype: str = "auto",
) -> Mapping[str, Any]:
    """Measure a reranker and write ``scores.json``, ``curve.json`` and ``per_query.parquet``.

    Parameters
        evaluations: artefact folders of the embedder's evaluations; those without top passages are left out.
        seed: which queries are kept when a data set has more than ``config.max_queries``.

    Raises
        EvaluationError: no evaluation ranked a corpus, or a file is damaged.
        ModelError: the reranker folder is incomplete, or a score is not finite.
        ConfigError: the config asks for a depth or width that the reranker does not have.
    """
    reranker = Reranker.load(reranker_folder, device=device, dtype=dtype)
    heads = reranker.settings.head_layers
    chosen, full = lightweight_shape(config, heads), choose_shape(heads)
    inputs = read_candidates(evaluations, top_k=config.top_k, max_queries=config.max_queries, seed=seed)
    grids = [measure(reranker, candidates, config) for candidates in inputs]
    scores = _scores(grids, chosen, full, bootstrap)
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_json(out_dir / SCORES_NAME, scores)
    _write_json(out_dir / CURVE_NAME, _curve(grids, chosen, bootstrap))
    _write_values(out_dir / VALUES_NAME, grids)
    return {
        "queries": sum(len(grid.first_stage) for grid in grids),
        "datasets": [grid.candidates.dataset for grid in grids],
        "skipped": len(evaluations) - len(grids),
        "chosen": scores["chosen"],
        "flops_saved_fraction": round(scores["flops_saved_fraction"], 4),
        "relative_loss": round(scores["relative_loss"], 4),
    }


def _scores(grids: Sequence[DatasetGrid], chosen: Shape, full: Shape, how: Bootstrap) -> dict[str, Any]:
    pairs = [
        (grid.measurement(grid.points[full].ndcg), grid.measurement(grid.points[chosen].ndcg))
        for grid in grids
    ]
    full_mean = average([first for first, _ in pairs], how).mean
    loss = average_difference(pairs, how)
    spent = {
        name: float(sum(sum(grid.points[shape].flops) for grid in grids))
        for name, shape in (("full", full), ("chosen", chosen))
    }
    recomputing = float(sum(sum(grid.recomputing_flops) for grid in grids))
    seconds = [sum(sum(grid.points[shape].seconds) for grid in grids) for shape in (full, chosen)]
    return {
        "datasets": [_dataset_scores(grid, chosen, full, how) for grid in grids],
        "metric": "ndcg_at_10 of the reranked candidates",
        "chosen": _describe(chosen),
        "full_depth": _describe(full),
        "chosen_by": "config, before any test query was seen",
        "flops_saved_fraction": 1.0 - spent["chosen"] / spent["full"],
        "flops_saved_against_recomputing_queries": 1.0 - spent["chosen"] / recomputing,
        "seconds_saved_fraction": 1.0 - seconds[1] / seconds[0],
        "relative_loss": loss.mean / full_mean if full_mean else 0.0,
        "loss": asdict(loss),
    }


def _dataset_scores(grid: DatasetGrid, chosen: Shape, full: Shape, how: Bootstrap) -> dict[str, Any]:
    rankings: dict[str, Sequence[float]] = {
        "first_stage": grid.first_stage,
        "full_depth": grid.points[full].ndcg,
        "lightweight": grid.points[chosen].ndcg,
    }
    return {
        "dataset": grid.candidates.dataset,
        "trained_on": grid.candidates.trained_on,
        "num_queries": len(grid.first_stage),
        "candidates_mean": float(np.mean([len(query.passages) for query in grid.candidates.queries])),
        "reachable": grid.candidates.reachable,
        **{name: asdict(grid.measurement(values).interval(how)) for name, values in rankings.items()},
    }


def _curve(grids: Sequence[DatasetGrid], chosen: Shape, how: Bootstrap) -> list[dict[str, Any]]:
    """One entry per shape: quality averaged over data sets, cost averaged over queries."""
    curve = []
    for shape in grids[0].points:
        points: list[Point] = [grid.points[shape] for grid in grids]
        interval = average(
            [grid.measurement(point.ndcg) for grid, point in zip(grids, points, strict=True)], how
        )
        flops = np.concatenate([np.asarray(point.flops, dtype=np.float64) for point in points])
        curve.append(
            {
                **_describe(shape),
                "ndcg": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "gflops_per_query": float(flops.mean()) / 1e9,
                "seconds_per_query": float(np.mean(np.concatenate([point.seconds for point in points]))),
                "is_chosen": shape == chosen,
            }
        )
    return curve


def _describe(shape: Shape) -> dict[str, Any]:
    return {
        "layer": shape.cutoff_layer,
        "ratio": shape.compress_ratio,
        "compress_layers": list(shape.compress_layers),
    }


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False).encode())


def _write_values(path: Path, grids: Sequence[DatasetGrid]) -> None:
    """One row per query and shape; the first stage has layer 0."""
    import pyarrow as pa
    from pyarrow import parquet

    names = ("dataset", "query_id", "layer", "ratio", "value")
    types = (pa.string(), pa.string(), pa.int32(), pa.int32(), pa.float64())
    rows: list[tuple[Any, ...]] = []
    for grid in grids:
        ids = [query.query_id for query in grid.candidates.queries]
        series = [(0, 1, grid.first_stage)]
        series += [
            (shape.cutoff_layer, shape.compress_ratio, tuple(point.ndcg))
            for shape, point in grid.points.items()
        ]
        for layer, ratio, values in series:
            rows += [
                (grid.candidates.dataset, query_id, layer, ratio, value)
                for query_id, value in zip(ids, values, strict=True)
            ]
    columns = {name: [row[number] for row in rows] for number, name in enumerate(names)}
    schema = pa.schema(list(zip(names, types, strict=True)))
    parquet.write_table(pa.table(columns, schema=schema), path)
