"""From the names on a command line to tasks: whose they are, and where their data lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icl_embed.config import EvaluateConfig
from icl_embed.errors import ConfigError
from icl_embed.evaluation.air_bench.names import LATEST, is_air_bench, resolve, usual_split
from icl_embed.evaluation.tasks.local import find_dataset, open_dataset
from icl_embed.evaluation.tasks.rows import PREFIX as LOCAL_PREFIX
from icl_embed.evaluation.tasks.task import BenchmarkTask
from icl_embed.store import Store


@dataclass(frozen=True)
class TaskPlaces:
    """Where tasks are looked for.

    Attributes
        store: data sets of the project, named ``data/…``.
        mirror: folder of mteb tasks; None asks the hub.
        air_bench: folder in AIR-Bench's layout; None asks the hub.
        split: evaluated instead of a task's usual one.
        air_bench_version: for names that do not say it; "" for the latest.
        config: how local data sets are scored.
    """

    store: Store
    mirror: Path | None = None
    air_bench: Path | None = None
    split: str | None = None
    air_bench_version: str = ""
    config: EvaluateConfig = field(default_factory=EvaluateConfig)


def split_names(text: str) -> list[str]:
    """Names between commas; a comma inside brackets belongs to a name, as in ``MTEB(eng, v2)``."""
    names, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            names.append("")
        else:
            names[-1] += letter
    return [name.strip() for name in names if name.strip()]


def task_names(asked: Sequence[str], places: TaskPlaces) -> list[str]:
    """The tasks that names of tasks, groups and benchmarks stand for, each once, in the order asked.

    Raises
        ConfigError: nothing was asked, a name twice, or an unknown name (near ones are suggested).
        EvaluationError: an unknown AIR-Bench name.
    """
    twice = [name for name, count in Counter(asked).items() if count > 1]
    if twice:
        raise ConfigError(f"the task {twice[0]!r} is named {Counter(asked)[twice[0]]} times, expected once")
    if not asked:
        raise ConfigError("no task was named; e.g. --tasks SciFact,STSBenchmark,data/cwe-examples")
    found: dict[str, None] = {}
    for name in asked:
        found |= dict.fromkeys(_expanded(name, places))
    return list(found)


def _expanded(name: str, places: TaskPlaces) -> list[str]:
    if name.startswith(LOCAL_PREFIX):
        return [name]
    if is_air_bench(name):
        version = places.air_bench_version or LATEST
        split, own_data = places.split or usual_split(name, version), places.air_bench is not None
        return resolve([name], version=version, split=split, own_data=own_data)
    from icl_embed.evaluation.mteb.names import resolve as resolve_mteb

    return resolve_mteb([name], mirror=places.mirror)


def open_task(name: str, places: TaskPlaces) -> BenchmarkTask:
    """Load and check one task of ``task_names``.

    Raises
        MissingTaskError: it is not where it was looked for.
        EvaluationError, DataError, SourceError: its data cannot be used.
    """
    if name.startswith(LOCAL_PREFIX):
        return open_dataset(find_dataset(name, places.store), places.config, places.split or "")
    if is_air_bench(name):
        from icl_embed.evaluation.air_bench.task import open_air_bench_task

        return open_air_bench_task(
            name,
            folder=places.air_bench,
            version=places.air_bench_version or LATEST,
            split=places.split or usual_split(name, places.air_bench_version),
        )
    from icl_embed.evaluation.mteb.opening import open_mteb_task

    return open_mteb_task(name, mirror=places.mirror, split=places.split)
