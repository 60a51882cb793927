"""Flow: the whole way from sources to a report. Start reading here."""

from __future__ import annotations

from flows.benchmark import Found, measure, show
from flows.build_pool import prepare_data
from flows.declaring import Override, Preset, pipeline_flow
from flows.distill_reranker import distill, report
from flows.evaluate_checkpoint import evaluate
from flows.train_embedder import train
from icl_embed.pipeline.benchmarks import models_of_run
from icl_embed.pipeline.estimate import refuse_no_room
from icl_embed.pipeline.run import open_run


@pipeline_flow("full-pipeline")
def full_pipeline(preset: Preset = "demo", overrides: list[Override] | None = None) -> str:
    """Data, pool, negatives, training, evaluation, reranker, report; returns the report's path.

    Parameters
        preset: a name from icl_embed/config/presets, or the path of a TOML file.
        overrides: settings on top of the preset, e.g. ``["train.optimizer.learning_rate=1e-4"]``.
    """
    run = open_run(preset, overrides or [])
    refuse_no_room(run, run.keys)
    prepare_data(run)
    train(run)
    evaluate(run)
    distill(run)
    found = measure(run, models_of_run(run))
    show(run, Found([*run.keys.all_scores(), *found.scores], found.missing))
    return report(run, found)
