"""Flow: sources → rows → example pool → hard negatives."""

from __future__ import annotations

from flows.declaring import Override, Preset, pipeline_flow
from icl_embed.pipeline.estimate import refuse_no_room
from icl_embed.pipeline.run import Run, open_run
from tasks.stages import reference_of, run_stage, submit_stage


@pipeline_flow("build-pool")
def build_pool(preset: Preset = "demo", overrides: list[Override] | None = None) -> str:
    """Fetch the data sets of a preset, build the pool and mine hard negatives."""
    run = open_run(preset, overrides or [])
    refuse_no_room(run, [*run.keys.datasets.values(), run.keys.pool, run.keys.negatives])
    if "base-model" in run.keys.negatives.inputs:
        run_stage(run, run.keys.base_model)
    prepare_pool(run)
    return run_stage(run, run.keys.negatives)


def prepare_data(run: Run) -> None:
    """Base model and mined training rows; what cannot be kept or trained is refused before other work."""
    keys = run.keys
    refuse_no_room(run, [keys.base_model, *keys.datasets.values(), keys.pool, keys.negatives, keys.embedder])
    run_stage(run, keys.base_model)
    prepare_pool(run)
    run_stage(run, run.keys.negatives)


def prepare_pool(run: Run) -> str:
    """Data sets and example pool; returns the pool's reference."""
    # Downloads wait for the network, so they may run at once; the rest uses all cores by itself.
    datasets = run.keys.datasets.values()
    waiting = [(key, submit_stage(run, key)) for key in datasets]
    for key, future in waiting:
        future.wait()
        reference_of(future.state, key)
    return run_stage(run, run.keys.pool)
