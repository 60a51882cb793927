"""Flow: sources → rows → example pool → hard negatives."""

from __future__ import annotations

from prefect import flow

from icl_embed.pipeline.run import Run, open_run
from tasks import data
from tasks.policies import DOWNLOADS, prepared, run_stage


@flow(name="build-pool", task_runner=DOWNLOADS)
def build_pool(preset: str = "demo", overrides: list[str] | None = None) -> str:
    """Fetch the data sets of a preset, build the pool and mine hard negatives."""
    return prepare_data(open_run(preset, overrides or []))


def prepare_data(run: Run) -> str:
    """Everything up to the mined training rows; returns their reference."""
    prepare_pool(run)
    if "base-model" in run.keys.negatives.inputs:
        run_stage(data.fetch_base_model, run, run.keys.base_model)
    return run_stage(data.mine_negatives, run, run.keys.negatives)


def prepare_pool(run: Run) -> str:
    """Data sets and example pool; returns the pool's reference."""
    # Downloads wait for the network, so they may run at once; the rest uses all cores by itself.
    waiting = [prepared(data.build_dataset, run, key).submit(run, key) for key in run.keys.datasets.values()]
    for future in waiting:
        future.result()
    return run_stage(data.build_pool, run, run.keys.pool)
