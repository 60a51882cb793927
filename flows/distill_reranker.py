"""Flow: distil the lightweight reranker and measure it on the embedder's results."""

from __future__ import annotations

from prefect import flow

from flows.build_pool import prepare_data
from flows.evaluate_checkpoint import evaluate
from flows.train_embedder import train
from icl_embed.pipeline.run import Run, open_run
from tasks import evaluation, training
from tasks.policies import DOWNLOADS, run_stage


@flow(name="distill-reranker", task_runner=DOWNLOADS)
def distill_reranker(preset: str = "demo", overrides: list[str] | None = None) -> str:
    """Train and evaluate the reranker, building whatever it needs first."""
    run = open_run(preset, overrides or [])
    prepare_data(run)
    train(run)
    evaluate(run)
    return distill(run)


def distill(run: Run) -> str:
    """Training, tuning and evaluation of the reranker; returns the reference of its scores."""
    run_stage(training.train_reranker, run, run.keys.reranker)
    for key in run.keys.tuning_evaluations.values():
        run_stage(evaluation.evaluate, run, key)
    if run.keys.reranker_choice is not None:
        run_stage(evaluation.tune_reranker, run, run.keys.reranker_choice)
    return run_stage(evaluation.evaluate_reranker, run, run.keys.reranker_evaluation)
