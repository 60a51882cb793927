"""Flow: distil the lightweight reranker and measure it on the embedder's results."""

from __future__ import annotations

from flows.benchmark import NOTHING, Found, show
from flows.build_pool import prepare_data
from flows.declaring import Override, Preset, pipeline_flow
from flows.evaluate_checkpoint import evaluate
from flows.train_embedder import teach, train
from icl_embed.pipeline.benchmarks import report_with
from icl_embed.pipeline.run import Run, open_run
from tasks.stages import run_stage


@pipeline_flow("distill-reranker")
def distill_reranker(preset: Preset = "demo", overrides: list[Override] | None = None) -> str:
    """Teacher scores, training, tuning, evaluation and report of the reranker; returns the report's path.

    Whatever is missing is built first; the embedder gives the passages that are reranked.
    """
    run = open_run(preset, overrides or [])
    prepare_data(run)
    train(run)
    evaluate(run)
    show(run, Found(list(run.keys.all_scores())))
    distill(run)
    return report(run)


def distill(run: Run) -> str:
    """Training, tuning and evaluation of the reranker; returns the reference of its scores."""
    for keys in run.keys.tuning_scores.values():
        for key in keys:
            run_stage(run, key)
    teach(run)
    run_stage(run, run.keys.reranker)
    if run.keys.reranker_choice is not None:
        run_stage(run, run.keys.reranker_choice)
    return run_stage(run, run.keys.reranker_evaluation)


def report(run: Run, benchmarks: Found = NOTHING) -> str:
    """The report over everything that the run made; returns the path of its page."""
    key = report_with(run, benchmarks.scores, benchmarks.missing)
    run_stage(run, key)
    return str((run.artefact(key).path / "index.html").resolve())
