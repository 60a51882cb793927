"""The stage that chooses the lightweight way: development queries in, ``choice.json`` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icl_embed.config import RerankConfig
from icl_embed.evaluate.measurement import Bootstrap
from icl_embed.rerank.calibration import Calibration, calibrate
from icl_embed.rerank.measuring.candidates import Candidates, read_candidates
from icl_embed.rerank.measuring.choice import ChoiceRecord, record_of, write_choice
from icl_embed.rerank.measuring.grid import Grid, Progress, score_grid
from icl_embed.rerank.measuring.tune import Limit, choose_way, refuse_test_queries
from icl_embed.rerank.score import Reranker
from icl_embed.rerank.shape import Shape
from icl_embed.rerank.ways import Way, cascades_over, full_way, name_of, passes_of, shape_of, way_of_record


def tune_reranker(  # noqa: PLR0913 - the stage's whole context, passed once
    reranker_folder: Path,
    evaluations: Sequence[Path],
    config: RerankConfig,
    out_dir: Path,
    *,
    seed: int,
    bootstrap: Bootstrap,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> Mapping[str, Any]:
    """Choose the cheapest way within ``config.tune.max_loss``; returns counts for the manifest.

    Parameters
        evaluations: evaluations of the embedder on dev splits.
        seed: which queries are kept when a data set has more than ``config.tune.max_queries``.

    Raises
        EvaluationError: no evaluation ranked a corpus, one is of a test split, or a file is damaged.
        ModelError: the reranker folder is incomplete, or a score is not finite.
    """
    tune = config.tune
    inputs = read_candidates(evaluations, top_k=config.top_k, max_queries=tune.max_queries, seed=seed)
    reranker = Reranker.load(reranker_folder, device=device, dtype=dtype)
    record = tune_on(
        reranker,
        inputs,
        limit=Limit(tune.max_loss / 100, tune.safe, bootstrap),
        ratios=(config.compress_ratio, *config.compress_ratios_trained),
        cascades=tune.cascades,
        batch_tokens=config.batch_tokens,
        progress=progress,
    )
    write_choice(out_dir, record)
    result = record.chosen_result
    return {
        "chosen": name_of(way_of_record(record.chosen, reranker.settings)),
        "ways": len(record.tried),
        "queries": sum(record.datasets.values()),
        "loss": round(result.loss.mean, 4),
        "flops_saved_fraction": round(result.flops_saved_fraction, 4),
    }


def tune_on(
    reranker: Reranker,
    inputs: Sequence[Candidates],
    *,
    limit: Limit,
    ratios: Sequence[int],
    cascades: bool,
    batch_tokens: int,
    progress: Progress | None = None,
) -> ChoiceRecord:
    """Score the candidates once per width, and choose among everything that those scores show.

    Raises
        EvaluationError: a data set is a test split.
        ModelError: a score is not finite.
    """
    refuse_test_queries(inputs)
    settings = reranker.settings
    passes = passes_of(settings, ratios)
    grid = score_grid(reranker, inputs, passes, batch_tokens=batch_tokens, progress=progress)
    ways: list[Way] = list(grid.exits)
    if cascades:
        ways += cascades_over(grid.exits, settings.head_layers)
    choice = choose_way(grid, ways, full_way(settings), limit)
    return record_of(
        choice,
        settings,
        batch_tokens=batch_tokens,
        datasets={one.candidates.dataset: len(one.queries) for one in grid.sets},
        calibration=_calibration(grid, shape_of(choice.chosen.way)),
    )


def _calibration(grid: Grid, shape: Shape) -> Calibration | None:
    """What makes probabilities of an exit's scores, from every candidate of the development queries."""
    scores = np.concatenate([grid.scores(one, shape) for one in grid.queries])
    labels = np.concatenate([np.asarray(one.query.relevance) > 0 for one in grid.queries])
    if labels.all() or not labels.any():
        return None
    return calibrate(shape, scores, labels)
