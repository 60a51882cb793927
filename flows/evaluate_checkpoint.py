"""Flow: score the embedder and its baselines on every evaluation data set."""

from __future__ import annotations

from prefect import flow

from flows.build_pool import prepare_data
from flows.train_embedder import train
from icl_embed.pipeline.run import Run, open_run
from tasks import evaluation
from tasks.policies import DOWNLOADS, run_stage


@flow(name="evaluate-checkpoint", task_runner=DOWNLOADS)
def evaluate_checkpoint(preset: str = "demo", overrides: list[str] | None = None) -> list[str]:
    """Evaluate the embedder of a preset; trains it first if it does not exist."""
    run = open_run(preset, overrides or [])
    prepare_data(run)
    train(run)
    return evaluate(run)


def evaluate(run: Run) -> list[str]:
    """Every system on every data set; returns the references of the scores."""
    return [run_stage(evaluation.evaluate, run, key) for key in run.keys.evaluations.values()]
