"""The reranker-evaluation stage: the embedder's best passages, reranked at every depth and width.

The lightweight way is fixed *before* any test query is seen: by tuning on development queries, or by the
config. The curve shows what other ways would have scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icl_embed.config import RerankConfig
from icl_embed.evaluate.measurement import Bootstrap, Measurement, average, average_difference
from icl_embed.rerank.candidates import read_candidates
from icl_embed.rerank.choice import read_choice, way_of
from icl_embed.rerank.first_stage import bm25_measurements
from icl_embed.rerank.grid import Grid, Progress, ScoredSet, score_grid
from icl_embed.rerank.loss import relative_loss
from icl_embed.rerank.metrics import METRICS, NDCG
from icl_embed.rerank.score import Reranker
from icl_embed.rerank.shape import lightweight_shape
from icl_embed.rerank.ways import Way, full_way, passes_of, record_way
from icl_embed.store.files import write_atomically

SCORES_NAME = "scores.json"
CURVE_NAME = "curve.json"
VALUES_NAME = "per_query.parquet"


@dataclass(frozen=True)
class Systems:
    """What a table compares: nDCG@10 or another metric of each, one measurement per data set.

    Attributes
        bm25: BM25 as a first stage of its own, where it was evaluated.
    """

    grid: Grid
    full: Way
    lightweight: Way
    bm25: Mapping[str, Mapping[str, Measurement]]

    def of(self, number: int, metric: str) -> dict[str, Measurement]:
        """The systems on one data set."""
        scored = self.grid.sets[number]
        found = self.bm25.get(scored.candidates.dataset)
        return {
            **({"bm25": found[metric]} if found else {}),
            "first_stage": scored.first_stage(metric),
            "full_depth": self.grid.measurements(self.full, metric)[number],
            "lightweight": self.grid.measurements(self.lightweight, metric)[number],
        }

    def everywhere(self, metric: str) -> dict[str, list[Measurement]]:
        """The systems that were measured on all data sets."""
        each = [self.of(number, metric) for number in range(len(self.grid.sets))]
        return {name: [one[name] for one in each] for name in each[0] if all(name in one for one in each)}


def evaluate_reranker(  # noqa: PLR0913 - the stage's whole context, passed once
    reranker_folder: Path,
    evaluations: Sequence[Path],
    config: RerankConfig,
    out_dir: Path,
    *,
    seed: int,
    bootstrap: Bootstrap,
    bm25: Sequence[Path] = (),
    choice: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> Mapping[str, Any]:
    """Measure a reranker and write ``scores.json``, ``curve.json`` and ``per_query.parquet``.

    Parameters
        evaluations: evaluations of the embedder, or ``.jsonl`` files; those without passages are left out.
        seed: which queries are kept when a data set has more than ``config.max_queries``.
        bm25: evaluations of BM25 on the same data sets, to compare with.
        choice: what tuning chose; None takes the lightweight shape of the config.

    Raises
        EvaluationError: no evaluation ranked a corpus, or a file is damaged.
        ModelError: the reranker folder is incomplete, or a score is not finite.
        ConfigError: config or choice ask for a depth or width that the reranker does not have.
    """
    reranker = Reranker.load(reranker_folder, device=device, dtype=dtype)
    settings = reranker.settings
    chosen: Way = (
        lightweight_shape(config, settings.head_layers)
        if choice is None
        else way_of(read_choice(choice), settings)
    )
    inputs = read_candidates(evaluations, top_k=config.top_k, max_queries=config.max_queries, seed=seed)
    ratios = (config.compress_ratio, *config.compress_ratios_trained)
    grid = score_grid(
        reranker,
        inputs,
        passes_of(settings, ratios),
        batch_tokens=config.batch_tokens,
        progress=progress,
    )
    systems = Systems(grid, full_way(settings), chosen, bm25_measurements(bm25, grid.sets))
    scores = _scores(systems, bootstrap) | {
        "chosen_by": "development queries" if choice else "config, before any test query was seen",
        "skipped": len(evaluations) - len(inputs),
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_json(out_dir / SCORES_NAME, scores)
    _write_json(out_dir / CURVE_NAME, _curve(systems, bootstrap))
    _write_values(out_dir / VALUES_NAME, systems)
    return {
        "queries": grid.num_queries,
        "datasets": [one.candidates.dataset for one in grid.sets],
        "skipped": scores["skipped"],
        "chosen": scores["chosen"],
        "flops_saved_fraction": round(scores["flops_saved_fraction"], 4),
        "relative_loss": round(scores["relative_loss"], 4),
    }


def _scores(systems: Systems, how: Bootstrap) -> dict[str, Any]:
    grid, full, chosen = systems.grid, systems.full, systems.lightweight
    pairs = list(zip(grid.measurements(full), grid.measurements(chosen), strict=True))
    relative = relative_loss(pairs, how)
    spent, saved_of = float(grid.flops(chosen).sum()), float(grid.flops(full).sum())
    recomputing = float(grid.flops_without_sharing(full).sum())
    everywhere = systems.everywhere(NDCG)
    first = everywhere["first_stage"]
    return {
        "datasets": [_dataset_scores(systems, number, how) for number in range(len(grid.sets))],
        "averages": {
            metric: {
                name: asdict(average(measured, how)) for name, measured in systems.everywhere(metric).items()
            }
            for metric in METRICS
        },
        "gains": {
            name: asdict(average_difference(list(zip(everywhere[name], first, strict=True)), how))
            for name in ("full_depth", "lightweight")
        },
        "metric": f"{NDCG} over all relevant passages that are known",
        "chosen": record_way(chosen).model_dump(mode="json"),
        "full_depth": record_way(full).model_dump(mode="json"),
        "flops_saved_fraction": 1.0 - spent / saved_of,
        "flops_saved_against_recomputing_queries": 1.0 - spent / recomputing,
        "seconds_saved_fraction": 1.0 - float(grid.seconds(chosen).sum() / grid.seconds(full).sum()),
        "relative_loss": relative.mean,
        "relative_loss_interval": asdict(relative),
        "loss": asdict(average_difference(pairs, how)),
        "tokens": grid.lengths(),
    }


def _dataset_scores(systems: Systems, number: int, how: Bootstrap) -> dict[str, Any]:
    scored: ScoredSet = systems.grid.sets[number]
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


def _curve(systems: Systems, how: Bootstrap) -> list[dict[str, Any]]:
    """One entry per exit and width: quality averaged over data sets, cost averaged over queries."""
    grid, curve = systems.grid, []
    reference = grid.measurements(systems.full)
    for way in grid.exits:
        measured = grid.measurements(way)
        interval = average(measured, how)
        seconds = grid.seconds(way)
        curve.append(
            {
                **record_way(way).model_dump(mode="json"),
                "ndcg": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "loss": asdict(average_difference(list(zip(reference, measured, strict=True)), how)),
                "gflops_per_query": float(grid.flops(way).mean()) / 1e9,
                "seconds_per_query": float(seconds.mean()),
                "seconds_p95": float(np.percentile(seconds, 95)),
                "is_chosen": way == systems.lightweight,
            }
        )
    return curve


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False).encode())


def _write_values(path: Path, systems: Systems) -> None:
    """nDCG@10 of every query: one row per query and way; the first stage has layer 0."""
    import pyarrow as pa
    from pyarrow import parquet

    fields = {
        "dataset": pa.string(),
        "query_id": pa.string(),
        "layer": pa.int32(),
        "ratio": pa.int32(),
        "compress_layers": pa.list_(pa.int32()),
        "value": pa.float64(),
    }
    rows: list[dict[str, Any]] = []
    for number, scored in enumerate(systems.grid.sets):
        first = {"layer": 0, "ratio": 1, "compress_layers": []}
        series = [(first, scored.first_stage())]
        series += [
            (record_way(way).model_dump(mode="json"), systems.grid.measurements(way)[number])
            for way in systems.grid.exits
        ]
        for described, measured in series:
            rows += [
                {"dataset": measured.dataset, "query_id": query_id, "value": value, **described}
                for query_id, value in zip(measured.ids, measured.values, strict=True)
            ]
    parquet.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(fields.items()))), path)
