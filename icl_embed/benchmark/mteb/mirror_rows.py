"""The records of a mirror folder in the shape in which mteb's task classes hold their data.

Columns get the names that the task's class asks for, so the class's own transform and metric see what they
would see from the hub.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskClusteringLegacy,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)

from icl_embed.benchmark.mteb.mirror_columns import (
    Columns,
    columns_of,
    number_of,
    text_of,
    value_of,
    whole_number_of,
)
from icl_embed.benchmark.mteb.mirror_folder import FolderSet
from icl_embed.benchmark.mteb.mirror_search import search_rows
from icl_embed.corpus.records import Record
from icl_embed.errors import EvaluationError


class NamedAsAsked(DatasetDict):  # type: ignore[misc]  # datasets is untyped to us
    """Splits whose columns are named as their task wants them in the end.

    Many tasks rename the hub's columns first; a renaming that is done already changes nothing.
    """

    def rename_column(self, original_column_name: str, new_column_name: str) -> NamedAsAsked:
        """Rename a column, or leave it if it has its new name already."""
        if all(
            new_column_name in rows.column_names and original_column_name not in rows.column_names
            for rows in self.values()
        ):
            return self
        return NamedAsAsked(super().rename_column(original_column_name, new_column_name))

    def rename_columns(self, column_mapping: dict[str, str]) -> NamedAsAsked:
        """Rename several."""
        renamed = self
        for old, new in column_mapping.items():
            renamed = renamed.rename_column(old, new)
        return renamed


def shapes_of(task: Any) -> tuple[bool, ...]:
    """Whether a task's data may be one row per set of texts (true), or one row per text, likeliest first."""
    if isinstance(task, AbsTaskClusteringLegacy):
        return (True,)
    if isinstance(task, AbsTaskClustering) and type(task).dataset_transform is not AbsTask.dataset_transform:
        return (True, False)  # most transforms flatten the sets of an older version
    return (False,)


def rows_for(task: Any, served: FolderSet, split: str, *, nested: bool = False) -> Any:
    """What ``task.dataset`` is to be, without the level of subsets.

    Returns
        search tasks: {split: corpus, queries, relevant_docs, top_ranked}; others: a DatasetDict of all
        splits.

    Raises
        DataError: a record lacks a field, an identity appears twice, a judgement names what is not there.
        EvaluationError: the folder's format has no rows for this type of task.
    """
    if isinstance(task, AbsTaskRetrieval):
        return {split: search_rows(served, split)}
    splits = {}
    for name in served.splits:
        columns = _columns(task, served.read(name))
        splits[name] = Dataset.from_dict(
            {column: [values] for column, values in columns.items()} if nested else columns
        )
    return NamedAsAsked(splits)


def _columns(task: Any, records: list[Record]) -> Columns:
    if isinstance(task, AbsTaskClassification | AbsTaskClustering | AbsTaskClusteringLegacy):
        return _labelled(records, task.input_column_name, task.label_column_name)
    if isinstance(task, AbsTaskPairClassification):
        fields = {
            task.input1_column_name: ("sentence1", text_of),
            task.input2_column_name: ("sentence2", text_of),
            task.label_column_name: ("label", whole_number_of),
        }
        return columns_of(records, fields)
    if isinstance(task, AbsTaskSTS):
        first, second = task.column_names
        fields = {
            first: ("sentence1", text_of),
            second: ("sentence2", text_of),
            "score": ("score", number_of),
        }
        return columns_of(records, fields)
    raise EvaluationError(
        f"{task.metadata.name}: a mirror folder has no rows for {task.metadata.type} tasks; "
        "mirror this task in the hub's layout (a hub cache, or a folder with its README.md)"
    )


def _labelled(records: list[Record], text: str, label: str) -> Columns:
    named = "label" if all("label" in record for record in records) else "label_text"
    columns = columns_of(records, {text: ("text", text_of), label: (named, value_of)})
    if all("label_text" in record for record in records):
        columns["label_text"] = [record["label_text"] for record in records]
    return columns
