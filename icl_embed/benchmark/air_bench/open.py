"""From a name to a task: its data found, read, and held against what AIR-Bench published."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from icl_embed.benchmark.air_bench import folder as local
from icl_embed.benchmark.air_bench import hub
from icl_embed.benchmark.air_bench.catalogue import LATEST, SPLITS
from icl_embed.benchmark.air_bench.data import AirData, checked_data
from icl_embed.benchmark.air_bench.layout import Part, corpus_part, judgements_part, queries_part
from icl_embed.benchmark.air_bench.names import TaskName, unknown_name
from icl_embed.benchmark.air_bench.task import AirBenchTask
from icl_embed.errors import EvaluationError

logger = logging.getLogger(__name__)

Read = Callable[[Part], Iterable[Mapping[str, Any]]]


def open_air_bench_task(
    name: str, *, folder: Path | None = None, version: str = LATEST, split: str = "dev"
) -> AirBenchTask:
    """Load and check one split of a task.

    A local folder may also hold data of one's own, named like a data set of AIR-Bench's that does not exist
    (``air-bench/qa_healthcare_mine_en``), and judgements that are not public.

    Takes
        name: as ``names.resolve`` returns it; a version in it goes before ``version``.
        folder: repositories in AIR-Bench's layout, or a Hugging Face cache; None asks the hub.
        split: ``dev`` (judged) or ``test``.

    Raises
        MissingTaskError: the folder does not hold the task, or the hub cannot give it.
        EvaluationError: an unknown task, version or split, data that break a rule, or a folder whose sizes
            are not those that AIR-Bench published.
        DataError, SourceError: a file cannot be read.
    """
    task = TaskName.parse(name, version=version)
    _check_split(task, split, folder)
    data = _read(task, split, folder, with_corpus=None)
    return AirBenchTask(
        name=task,
        split=split,
        data=data,
        served_from=_served_from(task, split, data, folder),
        other_split=partial(_judged_dev, task, folder, data.passages) if split == "test" else _nothing,
    )


def _check_split(task: TaskName, split: str, folder: Path | None) -> None:
    published = task.published
    if published is not None:
        known: Iterable[str] = published.queries
    elif folder is None:
        raise unknown_name(str(task), task.version)  # only a folder holds data of one's own
    else:
        known = SPLITS if task.version != "24.04" else ("test",)
    if split not in known:
        raise EvaluationError(
            f"{task} has no split {split!r} in AIR-Bench {task.version}; it has: {', '.join(known)}"
        )


def _read(
    task: TaskName, split: str, folder: Path | None, *, with_corpus: Mapping[str, str] | None
) -> AirData:
    """A split; ``with_corpus`` saves reading the passages twice."""
    read: Read = hub.read_part if folder is None else partial(local.read_part, folder)
    judgements = judgements_part(task, split)
    judged = split == "dev" or (folder is not None and local.has_part(folder, judgements))
    passages = (
        read(corpus_part(task))
        if with_corpus is None
        else ({"id": key, "text": text} for key, text in with_corpus.items())
    )
    return checked_data(
        f"{task} ({split})",
        passages,
        read(queries_part(task, split)),
        read(judgements) if judged else None,
    )


def _judged_dev(task: TaskName, folder: Path | None, passages: Mapping[str, str]) -> AirData | None:
    """The dev split beside an evaluated test split, if there is one."""
    published = task.published
    if published is not None and "dev" not in published.queries:
        return None
    if task.version == "24.04" or (
        folder is not None and not local.has_part(folder, judgements_part(task, "dev"))
    ):
        return None
    return _read(task, "dev", folder, with_corpus=passages)


def _nothing() -> None:
    return None


def _served_from(task: TaskName, split: str, data: AirData, folder: Path | None) -> str:
    published = task.published
    if published is None:
        return "mirror (own data in AIR-Bench's layout)"
    found = (len(data.passages), len(data.queries))
    expected = (published.passages, published.queries[split])
    differs = (
        f"{task} ({split}) has {found[0]} passages and {found[1]} queries, the table of AIR-Bench "
        f"{task.version} says {expected[0]} and {expected[1]}"
    )
    if folder is None:
        if found != expected:  # the hub is the original; our table may be behind it
            logger.warning("%s; scores may not compare with older ones", differs)
        return "hub"
    if found != expected:
        raise EvaluationError(
            f"{folder}: {differs}; fetch it again, or give data of your own another data set name, like "
            f"{task.type}_{task.domain}_mine_{task.language}"
        )
    return "mirror (sizes as published)"
