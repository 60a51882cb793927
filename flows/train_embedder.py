"""Flow: everything an embedder needs, then its training."""

from __future__ import annotations

from flows.build_pool import prepare_data
from flows.declaring import Override, Preset, pipeline_flow
from icl_embed.pipeline.run import Run, open_run
from tasks.stages import run_stage


@pipeline_flow("train-embedder")
def train_embedder(preset: Preset = "demo", overrides: list[Override] | None = None) -> str:
    """Train an embedder, building whatever it needs first."""
    run = open_run(preset, overrides or [])
    prepare_data(run)
    return train(run)


def train(run: Run) -> str:
    """The teacher if the embedder learns from one, and training; returns the embedder's reference."""
    if "teacher" in run.keys.embedder.inputs:
        teach(run)
    if run.keys.imitated:
        run_stage(run, run.keys.imitated)
    return run_stage(run, run.keys.embedder)


def teach(run: Run) -> None:
    """The reranker's own base model, if it has one, and the teacher's scores, if the run has a teacher.

    A teacher that is the run's own reranker is trained first.
    """
    keys = run.keys
    if keys.reranker_base:
        run_stage(run, keys.reranker_base)
    if keys.own_reranker:
        run_stage(run, keys.own_reranker)
    if keys.teacher:
        run_stage(run, keys.teacher)
