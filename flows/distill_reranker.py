"""Flow: distil the lightweight reranker and measure it on the embedder's results."""

from __future__ import annotations

from flows.build_pool import prepare_data
from flows.declaring import Override, Preset, pipeline_flow
from flows.evaluate_checkpoint import evaluate
from flows.train_embedder import teach, train
from icl_embed.pipeline.run import Run, open_run
from tasks import evaluation, training
from tasks.policies import run_stage


@pipeline_flow("distill-reranker")
def distill_reranker(preset: Preset = "demo", overrides: list[Override] | None = None) -> str:
    """Teacher scores, training, tuning, evaluation and report of the reranker; returns the report's path.

    Whatever is missing is built first; the embedder gives the passages that are reranked.
    """
    run = open_run(preset, overrides or [])
    prepare_data(run)
    train(run)
    evaluate(run)
    distill(run)
    return report(run)


def distill(run: Run) -> str:
    """Training, tuning and evaluation of the reranker; returns the reference of its scores."""
    teach(run)
    run_stage(training.train_reranker, run, run.keys.reranker)
    for key in run.keys.tuning_evaluations.values():
        run_stage(evaluation.evaluate, run, key)
    if run.keys.reranker_choice is not None:
        run_stage(evaluation.tune_reranker, run, run.keys.reranker_choice)
    return run_stage(evaluation.evaluate_reranker, run, run.keys.reranker_evaluation)


def report(run: Run) -> str:
    """The report over everything that the run made; returns the path of its page."""
    run_stage(evaluation.write_report, run, run.keys.report)
    return str((run.artefact(run.keys.report).path / "index.html").resolve())
