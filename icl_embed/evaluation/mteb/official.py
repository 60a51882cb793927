"""Task objects with their data: mteb's own classes, metrics and metadata; only where data come from differs.

A task object is loaded once, as a template. Each run gets its own copy with the random state of the freshly
loaded task: mteb's clustering and classification draw from a state inside the object, and a second run on
the same object would draw other texts.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from datasets import get_dataset_split_names
from mteb.abstasks import AbsTask, AbsTaskRetrieval, AbsTaskSTS

from icl_embed.errors import EvaluationError, MissingTaskError
from icl_embed.evaluation.mteb.local_tasks import (
    KeptValues,
    LocalClassification,
    LocalClustering,
    LocalPairs,
    LocalSearch,
    LocalSimilarity,
    LocalTask,
    describe_task,
)
from icl_embed.evaluation.mteb.mirror import FolderSet, HubFolder
from icl_embed.evaluation.mteb.mirror_rows import rows_for, shapes_of
from icl_embed.evaluation.tasks.rows import EvaluationInput

DEFAULT = "default"
LOCAL_CLASSES: dict[str, type[LocalTask]] = {
    "retrieval": LocalSearch,
    "reranking": LocalSearch,
    "classification": LocalClassification,
    "clustering": LocalClustering,
    "sts": LocalSimilarity,
    "pair_classification": LocalPairs,
}


@dataclass(frozen=True)
class Template:
    """A loaded task, to be copied for each run.

    Attributes
        task: an object of mteb's class with ``KeptValues``.
        split, subset: the only ones that a copy evaluates.
    """

    task: Any
    split: str
    subset: str

    def fresh(self) -> Any:
        """A task object that no run has touched."""
        task = copy.copy(self.task)
        task.rng_state, task.np_rng = copy.deepcopy((self.task.rng_state, self.task.np_rng))
        if isinstance(task, AbsTaskRetrieval):
            # mteb puts filtered judgements and queries back into this mapping.
            task.dataset = {self.subset: {self.split: dict(self.data)}}
        return task

    @property
    def data(self) -> Any:
        """The evaluated split: a Dataset, or the corpus, queries and judgements of a search task."""
        return self.all_splits[self.split]

    @property
    def all_splits(self) -> Any:
        """Everything that was loaded of the subset, by split."""
        loaded = self.task.dataset
        return loaded[self.subset] if self.subset in loaded else loaded


def new_task(known: type[AbsTask], *, split: str, subset: str) -> Any:
    """An unloaded task object of mteb's class that keeps the values behind its score.

    Raises
        EvaluationError: the task is not about text alone.
    """
    if list(known.metadata.modalities) != ["text"]:
        kinds = " and ".join(known.metadata.modalities)
        raise EvaluationError(f"{known.metadata.name} is about {kinds}; only text is embedded here")
    task = type(known.__name__, (KeptValues, known), {})()
    task.filter_eval_splits([split])
    task.hf_subsets = [subset]
    return task


def from_folder(task: Any, served: FolderSet, *, split: str, subset: str) -> Template:
    """Fill an unloaded task from a mirror folder, and let it transform the data as it would the hub's.

    Raises
        DataError: a file or record is not what the format or the manifest says.
        EvaluationError: the task's transform does not fit data in this form.
    """
    failure: Exception | None = None
    for nested in shapes_of(task):
        filled = copy.copy(task)
        filled.rng_state, filled.np_rng = copy.deepcopy((task.rng_state, task.np_rng))
        rows = rows_for(filled, served, split, nested=nested)
        by_subset = task.metadata.is_multilingual or isinstance(task, AbsTaskRetrieval)
        filled.dataset = {subset: rows} if by_subset else rows
        try:
            filled.dataset_transform()
        except Exception as error:
            failure = error
            continue
        filled.data_loaded = True
        return Template(filled, split, subset)
    raise EvaluationError(
        f"{task.metadata.name} changes its data after loading, and cannot do so with the rows of "
        f"{served.folder} ({type(failure).__name__}: {failure}); mirror it in the hub's layout"
    ) from failure


def from_hub(task: Any, found: HubFolder | None, *, split: str, subset: str) -> Template:
    """Let mteb's own loader read a task: from a folder in the hub's layout, or from the hub itself.

    Raises
        EvaluationError: the folder is not what the loader expects.
        MissingTaskError: without a folder, and the hub cannot be reached or does not have the data.
    """
    if found is not None:
        point_to(task, path=str(found.folder))
    try:
        task.load_data()
        if isinstance(task, AbsTaskRetrieval):
            task.convert_v1_dataset_format_to_v2(num_proc=None)
    except Exception as error:
        raise _unloadable(task, found, error) from error
    if found is not None:
        point_to(task, path=type(task).metadata.dataset["path"])
    return Template(task, split, subset)


def judged_splits(metadata: Any, found: HubFolder | None, subset: str) -> list[str]:
    """The splits of a search task that have relevance judgements in the hub's layout; empty if unknown.

    mteb's loader, asked for a split that is not there, takes the only one that is: a wrong name would be
    scored on the test split, and a missing training split would give test queries as examples.
    """
    path = str(found.folder) if found else metadata.dataset["path"]
    revision = None if found else metadata.dataset["revision"]
    for config in (DEFAULT, "qrels") if subset == DEFAULT else (f"{subset}-qrels",):
        try:
            return list(get_dataset_split_names(path, config_name=config, revision=revision))
        except (OSError, ValueError):
            continue
    return []


def from_local_set(served: FolderSet, *, split: str) -> Template:
    """A task for a set that mteb does not know, with the usual metric of its kind.

    Raises
        DataError: as ``from_folder``.
    """
    known = LOCAL_CLASSES[served.kind]
    described = EvaluationInput(
        name=served.name,
        kind=served.kind,
        instruction=served.instruction or known.abstask_prompt,
        folder=served.folder,
        fingerprint="unread",
        licence=served.licence,
    )
    metadata = describe_task(described).model_copy(update={"eval_splits": [split]})
    task = known(metadata, None)
    rows = rows_for(task, served, split)
    task.dataset = {DEFAULT: rows}
    if isinstance(task, LocalClustering):
        task.max_documents_per_cluster = len(rows[split])
    if isinstance(task, AbsTaskSTS):
        task.min_score, task.max_score = min(rows[split]["score"]), max(rows[split]["score"])
    return Template(task, split, DEFAULT)


def point_to(task: Any, **source: str) -> None:
    """Say where a task object's data come from (path, revision), leaving its class's metadata alone."""
    # A copy: the metadata of a class is shared by every object that anybody makes of it.
    source = {**task.metadata.dataset, **source}
    task.metadata = task.metadata.model_copy(update={"dataset": source})


def _unloadable(task: Any, found: HubFolder | None, error: Exception) -> EvaluationError:
    name, reason = task.metadata.name, f"{type(error).__name__}: {error}"
    if found is not None:
        return EvaluationError(
            f"{name}: mteb cannot load {found.folder} ({reason}); it must have the files and the README.md "
            "configs of the hub's data set"
        )
    offline = isinstance(error, ConnectionError)
    hint = "the hub cannot be reached" if offline else "the hub's data could not be loaded"
    return MissingTaskError(
        name, f"{hint} ({reason}); serve it from local files with --mirror DIR, or go online"
    )
