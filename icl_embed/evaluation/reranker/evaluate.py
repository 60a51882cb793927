"""The reranker-evaluation stage: the embedder's best passages, reranked at every depth and width.

The lightweight way is fixed *before* any test query is seen: by tuning on development queries, or by the
config. The curve shows what other ways would have scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icl_embed.config import ONE_HERE, EngineConfig, RerankConfig
from icl_embed.evaluation.measurement import Bootstrap
from icl_embed.evaluation.reranker.candidates import read_candidates
from icl_embed.evaluation.reranker.measure import Progress, Systems, curve_of, measure_systems, summarise
from icl_embed.evaluation.reranker.tuning import read_choice, way_of
from icl_embed.rerank.folder import RerankerSettings
from icl_embed.rerank.shape import lightweight_shape
from icl_embed.rerank.timed import opened_reranker
from icl_embed.rerank.ways import Way, name_of
from icl_embed.store.files import write_atomically

SCORES_NAME = "scores.json"
CURVE_NAME = "curve.json"
VALUES_NAME = "per_query.parquet"


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
    engine: EngineConfig = ONE_HERE,
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
    inputs = read_candidates(evaluations, top_k=config.top_k, max_queries=config.max_queries, seed=seed)
    with opened_reranker(reranker_folder, engine, device=device, dtype=dtype) as reranker:
        systems = measure_systems(
            reranker,
            inputs,
            _lightweight(reranker.settings, config, choice),
            ratios=(config.compress_ratio, *config.compress_ratios_trained),
            batch_tokens=config.batch_tokens,
            bm25=bm25,
            progress=progress,
        )
    scores = summarise(systems, bootstrap) | {
        "chosen_by": "development queries" if choice else "config, before any test query was seen",
        "skipped": len(evaluations) - len(inputs),
    }
    write_results(out_dir, systems, scores, bootstrap)
    return _counts(systems, scores)


def _lightweight(settings: RerankerSettings, config: RerankConfig, choice: Path | None) -> Way:
    if choice is None:
        return lightweight_shape(config, settings.head_layers)
    return way_of(read_choice(choice), settings)


def _counts(systems: Systems, scores: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "queries": systems.grid.num_queries,
        "datasets": [one.candidates.dataset for one in systems.grid.sets],
        "skipped": scores["skipped"],
        "chosen": scores["chosen"],
        "flops_saved_fraction": round(scores["flops_saved_fraction"], 4),
        "relative_loss": round(scores["relative_loss"], 4),
    }


def write_results(out_dir: Path, systems: Systems, scores: Mapping[str, Any], how: Bootstrap) -> None:
    """Write the files of the stage.

    Raises
        StoreError: the disk refused.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_json(out_dir / SCORES_NAME, scores)
    _write_json(out_dir / CURVE_NAME, curve_of(systems, how))
    _write_values(out_dir / VALUES_NAME, systems)


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False).encode())


def _write_values(path: Path, systems: Systems) -> None:
    """nDCG@10 of every query: one row per query and way; the first stage is one of them."""
    import pyarrow as pa
    from pyarrow import parquet

    names = ("dataset", "query_id", "way", "value")
    types = (pa.string(), pa.string(), pa.string(), pa.float64())
    series = [("first stage", scored.first_stage()) for scored in systems.grid.sets]
    series += [
        (name_of(way), measured) for way in systems.ways for measured in systems.grid.measurements(way)
    ]
    rows = [
        (measured.dataset, query_id, name, value)
        for name, measured in series
        for query_id, value in zip(measured.ids, measured.values, strict=True)
    ]
    columns = {name: [row[number] for row in rows] for number, name in enumerate(names)}
    schema = pa.schema(list(zip(names, types, strict=True)))
    parquet.write_table(pa.table(columns, schema=schema), path)
