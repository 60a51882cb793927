"""How each stage is built from its key: the one table that joins the graph to the rooms.

A builder reads its settings from the *key*, not from the config: what is used is exactly what was hashed.
Only what cannot change a result (paths, processes, progress) comes from the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from icl_embed.pipeline.run import Run
from icl_embed.pipeline.stages import (
    base_model,
    embedder,
    public_embedder,
    re_evaluation,
    report,
    reranker,
    reranking,
    score,
    task_data,
    teacher_scores,
    training_data,
)
from icl_embed.pipeline.stages.training_jobs import OnLine
from icl_embed.store import Artefact, StageKey

Counts = Mapping[str, Any]


def build(
    run: Run, key: StageKey, on_line: OnLine | None = None, on_start: Callable[[], None] | None = None
) -> Artefact:
    """The artefact of a key: verified if it is there, produced if not.

    Parameters
        on_line: called with every line that a long subprocess prints.
        on_start: called when the artefact is not there and producing it begins.

    Raises
        StoreError: an input is missing or damaged, the artefact is locked, or the disk refuses.
        IclEmbedError: whatever the stage itself refuses.
    """

    def produce(out_dir: Path) -> Counts:
        if on_start is not None:
            on_start()
        if key.stage in _TRAINERS:
            return _TRAINERS[key.stage](run, key, out_dir, on_line)
        return _BUILDERS[key.stage](run, key, out_dir)

    return run.store.build(key, produce)


_BUILDERS: Mapping[str, Callable[[Run, StageKey, Path], Counts]] = {
    base_model.STAGE: base_model.build_base_model,
    training_data.DATASET: training_data.build_dataset,
    training_data.POOL: training_data.build_pool,
    training_data.NEGATIVES: training_data.build_negatives,
    public_embedder.STAGE: public_embedder.build_public_embedder,
    embedder.CHECKPOINT: embedder.build_checkpoint_model,
    task_data.STAGE: task_data.build_task_data,
    score.STAGE: score.build_score,
    reranking.CHOICE: reranking.build_reranker_choice,
    reranking.EVALUATION: reranking.build_reranker_evaluation,
    re_evaluation.RE_EVALUATION: re_evaluation.build_comparison,
    re_evaluation.ACCEPTED: re_evaluation.build_accepted,
    report.STAGE: report.build_report,
}

_TRAINERS: Mapping[str, Callable[[Run, StageKey, Path, OnLine | None], Counts]] = {
    embedder.STAGE: embedder.build_embedder,
    embedder.CONTROL: embedder.build_embedder,
    reranker.STAGE: reranker.build_reranker,
    teacher_scores.STAGE: teacher_scores.build_teacher_scores,
}

LAUNCHING_STAGES = frozenset({embedder.STAGE, embedder.CONTROL, reranker.STAGE})
"""Stages whose model runs in processes that they launch."""
