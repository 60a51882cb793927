"""Flow: score the embedder and its baselines; choose among the checkpoints that training kept."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from flows.build_pool import prepare_data
from flows.declaring import Override, Preset, pipeline_flow
from flows.train_embedder import train
from icl_embed.pipeline import checkpoints
from icl_embed.pipeline.run import Run, open_run
from tasks import evaluation, training
from tasks.policies import run_stage


@pipeline_flow("evaluate-checkpoint")
def evaluate_checkpoint(preset: Preset = "demo", overrides: list[Override] | None = None) -> list[str]:
    """Evaluate the embedder of a preset; trains it first if it does not exist.

    With ``train.snapshot_every`` the best of its checkpoints, chosen on dev splits, is scored as well.
    """
    run = open_run(preset, overrides or [])
    prepare_data(run)
    train(run)
    return [*evaluate(run), *(choose_and_evaluate(run) if run.config.train.snapshot_every else [])]


def evaluate(run: Run) -> list[str]:
    """Every system on every data set; returns the references of the scores."""
    return [run_stage(evaluation.evaluate, run, key) for key in run.keys.evaluations.values()]


def choose_and_evaluate(run: Run) -> list[str]:
    """Every checkpoint on the dev splits, the best one on the test splits; returns the test scores."""
    for checkpoint in checkpoints.checkpoints_of(run):
        if checkpoint.key != run.keys.embedder:
            run_stage(training.restore_checkpoint, run, checkpoint.key)
        for key in checkpoints.dev_evaluations(run, checkpoint):
            run_stage(evaluation.evaluate, run, key)
    best, choice = checkpoints.choose_checkpoint(run)
    table = (choice.path / checkpoints.TABLE_NAME).read_text(encoding="utf-8")
    create_markdown_artifact(table, key="checkpoints", description=f"chosen: {best.name}")
    return [run_stage(evaluation.evaluate, run, key) for key in checkpoints.test_evaluations(run, best)]
