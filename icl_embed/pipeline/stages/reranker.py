"""Stage ``reranker``: the distillation of the lightweight reranker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import RunConfig, identity, restored
from icl_embed.model.dtype import name_dtype
from icl_embed.pipeline.stages.training_jobs import OnLine, common_settings, run_job, training_inputs
from icl_embed.store import StageKey
from icl_embed.train.reranker.batches import RerankerJob

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run


STAGE, VERSION = "reranker", 2


def reranker_key(
    config: RunConfig, base: StageKey, negatives: StageKey, teacher: StageKey | None = None
) -> StageKey:
    """The reranker; with a teacher, distilled from its scores as well as from itself.

    Parameters
        base: the base model that it starts from, its own or the run's.
    """
    settings = {
        "rerank": identity(config.rerank, "base", "top_k", "max_queries", "cutoff_layer", "tune"),
        "dtype": name_dtype(config.model.dtype),
        "seed": config.seed,
    }
    return StageKey(STAGE, VERSION, settings, training_inputs(base, negatives, teacher), config.preset)


def build_reranker(run: Run, key: StageKey, out_dir: Path, on_line: OnLine | None) -> Mapping[str, Any]:
    """Distil the reranker in a subprocess."""
    rerank = restored(key.settings["rerank"], run.config.rerank)
    job = RerankerJob(**common_settings(run, key, out_dir), rerank=rerank)
    return run_job("icl_embed.train.reranker", job, rerank.launch, on_line)
