"""Stage ``task-data``: a benchmark task's data from the hub or a mirror, verified, checked and counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import EvaluateConfig
from icl_embed.store import StageKey, Store

if TYPE_CHECKING:
    from icl_embed.evaluation.tasks.opening import TaskPlaces
    from icl_embed.pipeline.run import Run

STAGE = "task-data"


def places_of(config: EvaluateConfig, store: Store, split: str | None = None) -> TaskPlaces:
    """Where a run looks for benchmark tasks."""
    from icl_embed.evaluation.tasks.opening import TaskPlaces

    return TaskPlaces(store, config.mirror, config.air_bench, split, config=config)


def task_names_of(config: EvaluateConfig, store: Store) -> list[str]:
    """The benchmark tasks of a run, groups and benchmarks taken apart.

    Raises
        ConfigError: an unknown name (near ones are suggested), or one named twice.
    """
    if not config.tasks:
        return []
    from icl_embed.evaluation.tasks.opening import task_names

    return task_names(config.tasks, places_of(config, store))


def build_task_data(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Fetch, open and count a task's data.

    Raises
        MissingTaskError: neither mirror nor hub has it.
        SourceUnreachableError: the hub stumbles; trying again can help.
    """
    from icl_embed.evaluation.tasks.fetched import fetch_task

    config = run.config
    places = places_of(config.evaluate, run.store)
    return fetch_task(key.settings["task"], places, config.paths.downloads, out_dir)
