"""Flow: sources → rows → example pool → hard negatives."""

from __future__ import annotations

from flows.declaring import Override, Preset, pipeline_flow
from icl_embed.pipeline.estimate import refuse_no_room
from icl_embed.pipeline.run import Run, open_run
from icl_embed.store import StageKey
from tasks.stages import reference_of, run_stage, submit_stage


@pipeline_flow("build-pool")
def build_pool(preset: Preset = "demo", overrides: list[Override] | None = None) -> str:
    """Fetch the data sets of a preset, build the pool and mine hard negatives."""
    run = open_run(preset, overrides or [])
    refuse_no_room(run, [*run.keys.datasets.values(), run.keys.pool, run.keys.negatives])
    prepare_pool(run, *([run.keys.base_model] if "base-model" in run.keys.negatives.inputs else []))
    return run_stage(run, run.keys.negatives)


def prepare_data(run: Run) -> None:
    """Base model and mined training rows; what cannot be kept is refused before anything is fetched."""
    keys = run.keys
    refuse_no_room(run, [keys.base_model, *keys.datasets.values(), keys.pool, keys.negatives, keys.embedder])
    prepare_pool(run, keys.base_model)
    run_stage(run, keys.negatives)


def prepare_pool(run: Run, *first: StageKey) -> str:
    """Data sets and example pool; returns the pool's reference.

    Parameters
        first: what else is fetched, and waited for first: what cannot be used ends the flow before the pool.
    """
    # Downloads wait for the network, so they may run at once; the rest uses all cores by itself.
    waiting = [(key, submit_stage(run, key)) for key in (*first, *run.keys.datasets.values())]
    for key, future in waiting:
        future.wait()
        reference_of(future.state, key)
    return run_stage(run, run.keys.pool)
