"""Flow: everything an embedder needs, then its training."""

from __future__ import annotations

from prefect import flow

from flows.build_pool import prepare_data
from icl_embed.pipeline.run import Run, open_run
from tasks import data, training
from tasks.policies import DOWNLOADS, run_stage


@flow(name="train-embedder", task_runner=DOWNLOADS)
def train_embedder(preset: str = "demo", overrides: list[str] | None = None) -> str:
    """Train an embedder, building whatever it needs first."""
    run = open_run(preset, overrides or [])
    run_stage(
        data.fetch_base_model, run, run.keys.base_model
    )  # first: what cannot be trained is refused here
    prepare_data(run)
    return train(run)


def train(run: Run) -> str:
    """Base model, teacher if the embedder learns from it, and training; returns the embedder's reference."""
    run_stage(data.fetch_base_model, run, run.keys.base_model)
    if "teacher" in run.keys.embedder.inputs:
        teach(run)
    return run_stage(training.train_embedder, run, run.keys.embedder)


def teach(run: Run) -> None:
    """The teacher's scores, if the run has a teacher; its own one is trained first."""
    keys = run.keys
    if keys.own_reranker:
        run_stage(training.train_reranker, run, keys.own_reranker)
    if keys.teacher:
        run_stage(training.score_teacher, run, keys.teacher)
