"""Names: what mteb calls its tasks and benchmarks, and how one task, subset and split is written.

``SciFact``, ``STS22[de]`` (a language subset), ``MSMARCO[default@dev]`` (a subset and a split). Without
brackets a task is asked in its English subset and its usual split.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mteb
from mteb.abstasks import AbsTask
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.get_tasks import _TASK_RENAMES, _TASKS_REGISTRY

from icl_embed.errors import ConfigError
from icl_embed.evaluation.mteb.mirror import names_of_folders

ENGLISH = "eng-Latn"
USUAL_SPLITS = ("test", "validation", "dev")
USUAL_SUBSETS = ("default", "en", "eng", "en-en", "english")


@dataclass(frozen=True)
class AskedTask:
    """One task as it was asked for; None leaves the choice to the task."""

    task: str
    subset: str | None = None
    split: str | None = None


def resolve(names: Sequence[str], *, mirror: Path | None = None) -> list[str]:
    """Task and benchmark names as task names, each once, in the order asked.

    A benchmark becomes its tasks, an aggregate task (CQADupstackRetrieval) its parts, a renamed task its new
    name. Where a benchmark asks for another subset or split than a bare name would, the brackets say so.

    Parameters
        names: tasks, tasks with brackets, or benchmarks such as ``MTEB(eng, v2)``.
        mirror: a folder whose sets may be named too: a copy of a task becomes the task, any other set keeps
            its folder's name.

    Raises
        ConfigError: a name that neither mteb nor the mirror has; the nearest are suggested.
    """
    local = names_of_folders(mirror) if mirror else {}
    found = [name for asked in names for name in _expanded(asked, local)]
    return list(dict.fromkeys(found))


def parse(name: str) -> AskedTask:
    """A task name with its brackets taken apart."""
    match = re.fullmatch(r"(?P<task>.+?)\[(?P<subset>[^\[\]@]*)(@(?P<split>[^\[\]@]+))?\]", name)
    if name in _TASKS_REGISTRY or match is None:
        return AskedTask(_TASK_RENAMES.get(name, name))
    task = _TASK_RENAMES.get(match["task"], match["task"])
    return AskedTask(task, match["subset"] or None, match["split"])


def task_class(name: str) -> type[AbsTask] | None:
    """The class that mteb has for a bare task name, if it has one."""
    known: type[AbsTask] | None = _TASKS_REGISTRY.get(name)
    return known


def usual_subset(metadata: Any) -> str:
    """The subset that a bare name means: the only one, or the first that is English and nothing else."""
    subsets = metadata.hf_subsets_to_langscripts
    english = [name for name, languages in subsets.items() if set(languages) == {ENGLISH}]
    for name in USUAL_SUBSETS:
        if name in english or (name in subsets and len(subsets) == 1):
            return name
    return str((english or list(subsets))[0])


def usual_split(splits: Sequence[str]) -> str:
    """The split that a bare name means: test, else validation or dev, else the first."""
    return next((name for name in USUAL_SPLITS if name in splits), splits[0])


def _expanded(asked: str, local: Mapping[str, str]) -> list[str]:
    if asked in local and asked not in _TASKS_REGISTRY:
        return [local[asked]]
    if parse(asked).task in _TASKS_REGISTRY:
        wanted = parse(asked)
        parts = _parts(wanted.task)
        return [asked if part == wanted.task and "[" in asked else part for part in parts]
    if asked in _benchmark_names():
        return [name for task in mteb.get_benchmark(asked).tasks for name in _as_asked_by_benchmark(task)]
    raise _unknown(asked, local)


def _parts(name: str) -> list[str]:
    known = _TASKS_REGISTRY[name]
    if not issubclass(known, AbsTaskAggregate):
        return [name]
    return [part for task in known.metadata.tasks for part in _parts(task.metadata.name)]


def _as_asked_by_benchmark(task: AbsTask) -> list[str]:
    if isinstance(task, AbsTaskAggregate):
        return _parts(task.metadata.name)
    name, metadata = task.metadata.name, task.metadata
    split = usual_split(task.eval_splits)
    at = "" if split == usual_split(metadata.eval_splits) else f"@{split}"
    if list(task.hf_subsets) == [usual_subset(metadata)] and not at:
        return [name]
    return [f"{name}[{subset}{at}]" for subset in task.hf_subsets]


@cache
def _benchmark_names() -> frozenset[str]:
    benchmarks = mteb.get_benchmarks()
    return frozenset(name for one in benchmarks for name in (one.name, *(one.aliases or ())))


def _unknown(asked: str, local: Mapping[str, str]) -> ConfigError:
    known = [*local, *_TASKS_REGISTRY, *_benchmark_names()]
    folded = {name.casefold(): name for name in known}
    longer = [name for name in folded if name.startswith(asked.casefold())]
    near = list(dict.fromkeys([*longer, *difflib.get_close_matches(asked.casefold(), folded, n=3)]))[:3]
    hint = f"did you mean {' or '.join(folded[name] for name in near)}?" if near else "nothing is called so"
    return ConfigError(
        f"mteb has no task or benchmark {asked!r}; {hint} "
        "(mteb lists its names with `mteb available-tasks` and `mteb available-benchmarks`)"
    )
