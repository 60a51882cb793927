"""Flow: score the embedder and its baselines; choose among the checkpoints that training kept."""

from __future__ import annotations

from collections.abc import Iterable

from prefect.artifacts import create_markdown_artifact

from flows.benchmark import Found, show
from flows.build_pool import prepare_data
from flows.declaring import Override, Preset, pipeline_flow
from flows.train_embedder import train
from icl_embed.pipeline import checkpoints
from icl_embed.pipeline.run import Run, open_run
from icl_embed.store import StageKey
from tasks.stages import run_stage


@pipeline_flow("evaluate-checkpoint")
def evaluate_checkpoint(preset: Preset = "demo", overrides: list[Override] | None = None) -> list[str]:
    """Evaluate the embedder of a preset; trains it first if it does not exist.

    With ``train.snapshot_every`` the best of its checkpoints, chosen on dev splits, is scored as well.
    """
    run = open_run(preset, overrides or [])
    prepare_data(run)
    train(run)
    keys = [*evaluate(run), *(choose_and_evaluate(run) if run.config.train.snapshot_every else [])]
    show(run, Found(keys))
    return [key.reference for key in keys]


def evaluate(run: Run) -> list[StageKey]:
    """Every system on every data set, the controls made first; returns the scores."""
    for key in run.keys.controls.values():
        run_stage(run, key)
    return _scored(run, run.keys.all_scores())


def _scored(run: Run, keys: Iterable[StageKey]) -> list[StageKey]:
    made = list(keys)
    for key in made:
        run_stage(run, key)
    return made


def choose_and_evaluate(run: Run) -> list[StageKey]:
    """Every checkpoint on the dev splits, the best one on the test splits; returns the test scores."""
    for checkpoint in checkpoints.checkpoints_of(run):
        if checkpoint.key != run.keys.embedder:
            run_stage(run, checkpoint.key)
        _scored(run, checkpoints.dev_scores(run, checkpoint))
    best, choice = checkpoints.choose_checkpoint(run)
    table = (choice.path / checkpoints.TABLE_NAME).read_text(encoding="utf-8")
    create_markdown_artifact(table, key="checkpoints", description=f"chosen: {best.name}")
    return _scored(run, checkpoints.test_scores(run, best))
