"""Prefect tasks that bring data and models here."""

from __future__ import annotations

from prefect import task

from icl_embed.pipeline.run import Run
from icl_embed.store import StageKey
from tasks import policies
from tasks.stage_log import built


@task(name="fetch-base-model", **policies.FETCH)
def fetch_base_model(run: Run, key: StageKey) -> str:
    """Fetch, verify and convert the base model."""
    return built(run, key).reference


@task(name="build-dataset", **policies.FETCH)
def build_dataset(run: Run, key: StageKey) -> str:
    """Fetch and verify one card's source and read it into rows."""
    return built(run, key).reference


@task(name="fetch-task-data", **policies.FETCH)
def fetch_task_data(run: Run, key: StageKey) -> str:
    """Fetch, verify and count the data of a benchmark task."""
    return built(run, key).reference


@task(name="build-pool", **policies.COMPUTE)
def build_pool(run: Run, key: StageKey) -> str:
    """Clean, deduplicate and decontaminate all data sets into the example pool."""
    return built(run, key).reference


@task(name="mine-negatives", **policies.COMPUTE)
def mine_negatives(run: Run, key: StageKey) -> str:
    """Mine hard negatives for every training pair."""
    return built(run, key).reference
