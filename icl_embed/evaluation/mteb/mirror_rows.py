"""From the records of a mirror's files to the shape in which mteb's task classes hold their data.

Columns get the names that the task's class asks for, so the class's own transform and metric see what they
would see from the hub.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
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

from icl_embed.corpus.records import Record, where
from icl_embed.errors import DataError, EvaluationError
from icl_embed.evaluation.mteb.mirror import FolderSet
from icl_embed.evaluation.tasks.rows import neutral_id

Columns = dict[str, list[Any]]
Reader = Callable[[Record, str], Any]


def columns_of(records: Iterable[Record], fields: Mapping[str, tuple[str, Reader]]) -> Columns:
    """Column name → its values; a field is the record's field and what reads it.

    Raises
        DataError: a field is missing or not what its reader expects.
    """
    columns: Columns = {name: [] for name in fields}
    for record in records:
        for name, (wanted, read) in fields.items():
            columns[name].append(read(record, wanted))
    return columns


def value_of(record: Record, name: str) -> Any:
    """Whatever a field holds, but not nothing.

    Raises
        DataError: it is missing.
    """
    value = record.get(name)
    if value is None:
        raise DataError(f"{where(record)}: the field {name!r} is missing")
    return value


def text_of(record: Record, name: str) -> str:
    """A text.

    Raises
        DataError: missing, or no text.
    """
    value = value_of(record, name)
    if not isinstance(value, str):
        raise DataError(f"{where(record)}: {name} must be a text, found {value!r}")
    return value


def optional_text_of(record: Record, name: str) -> str:
    """A text; empty if there is none."""
    return text_of(record, name) if record.get(name) is not None else ""


def texts_of(record: Record, name: str) -> list[str]:
    """A text or a list of texts, as a list.

    Raises
        DataError: missing, or something else.
    """
    value = value_of(record, name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where(record)}: {name} must be a text or a list of texts, found {value!r}")
    return texts


def identity_of(record: Record, name: str) -> str:
    """An identity, as text; files hold them as numbers too."""
    return str(value_of(record, name))


def number_of(record: Record, name: str) -> float:
    """A finite number.

    Raises
        DataError: missing, or no such number.
    """
    try:
        number = float(value_of(record, name))
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where(record)}: {name} must be a number, found {record[name]!r}")
    return number


def whole_number_of(record: Record, name: str) -> int:
    """A whole number.

    Raises
        DataError: missing, or no such number.
    """
    number = number_of(record, name)
    if not number.is_integer():
        raise DataError(f"{where(record)}: {name} must be a whole number, found {record[name]!r}")
    return int(number)


logger = logging.getLogger(__name__)


def search_rows(served: FolderSet, split: str) -> dict[str, Any]:
    """What one split of a task of mteb's holds: corpus, queries, relevant_docs, top_ranked.

    As from the hub, a judgement may name a query or passage that is not there, and a query may have none;
    ``content_of`` counts what concerns the split.

    Raises
        DataError: a record lacks a field, an identity appears twice, most judgements name what is not there,
            the corpus is empty.
    """
    return _retrieval(served, split) if served.kind == "retrieval" else _reranking(served.read(split))


def _retrieval(served: FolderSet, split: str) -> dict[str, Any]:
    fields = {"id": ("_id", identity_of), "text": ("text", text_of)}
    titled = {**fields, "title": ("title", optional_text_of)}
    passages = columns_of(served.read("corpus"), titled)
    queries = columns_of(served.read("queries"), fields)
    for name, columns in (("corpus", passages), ("queries", queries)):
        refuse_duplicates(f"{served.name}/{name}", columns["id"])
    if not passages["id"]:
        raise DataError(f"{served.name}: the corpus is missing or empty; expected corpus.jsonl with passages")
    judged: dict[str, dict[str, int]] = {}
    for record in served.read(f"qrels/{split}"):
        query, passage = identity_of(record, "query-id"), identity_of(record, "corpus-id")
        judged.setdefault(query, {})[passage] = whole_number_of(record, "score")
    _refuse_foreign(served, split, judged, queries["id"], passages["id"])
    asked = _judged_queries(served, split, queries, judged)
    return {
        "corpus": Dataset.from_dict(passages),
        "queries": Dataset.from_dict(asked),
        "relevant_docs": judged,
        "top_ranked": None,
    }


def _judged_queries(
    served: FolderSet, split: str, queries: Columns, judged: Mapping[str, Mapping[str, int]]
) -> Columns:
    """The queries of a split, in file order, as mteb's loader leaves them."""
    elsewhere = {
        identity_of(record, "query-id")
        for other in served.splits
        if other != split
        for record in served.read(f"qrels/{other}")
    }
    lost = [name for name in queries["id"] if name not in judged and name not in elsewhere]
    if lost:
        logger.warning(
            "%s: %d of %d queries have no relevance judgement in any split and are left out, e.g. %r",
            served.name,
            len(lost),
            len(queries["id"]),
            lost[0],
        )
    kept = [row for row, name in enumerate(queries["id"]) if name in judged]
    return {name: [values[row] for row in kept] for name, values in queries.items()}


def _reranking(records: Iterable[Record]) -> dict[str, Any]:
    passages: dict[str, str] = {}
    queries: Columns = {"id": [], "text": []}
    judged, candidates = {}, {}
    for number, record in enumerate(records):
        positives, negatives = (texts_of(record, name) for name in ("positive", "negative"))
        if not positives or not set(negatives) - set(positives):
            raise DataError(
                f"{where(record)}: a query to rerank needs a positive and a negative, found "
                f"{len(positives)} and {len(negatives)}"
            )
        name = f"{number:06d}"
        queries["id"].append(name)
        queries["text"].append(text_of(record, "query"))
        found = {neutral_id(text): text for text in (*positives, *negatives)}
        passages |= found
        judged[name] = {neutral_id(text): 1 for text in positives}
        candidates[name] = sorted(found)
    return {
        "corpus": Dataset.from_dict({"id": list(passages), "text": list(passages.values())}),
        "queries": Dataset.from_dict(queries),
        "relevant_docs": judged,
        "top_ranked": candidates,
    }


def refuse_duplicates(what: str, names: Iterable[str]) -> None:
    """Each identity once.

    Raises
        DataError: one appears twice.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{what}: the identity {name!r} appears twice; each needs its own")
        seen.add(name)


def _refuse_foreign(
    served: FolderSet,
    split: str,
    judged: Mapping[str, Mapping[str, int]],
    queries: Iterable[str],
    passages: Iterable[str],
) -> None:
    """Some judgements may be of what is not there; when most are, they are of another set.

    Raises
        DataError: most are.
    """
    known_queries, known_passages = set(queries), set(passages)
    pairs = [(query, passage) for query, found in judged.items() for passage in found]
    foreign = [
        f"the query {query!r}" if query not in known_queries else f"the passage {passage!r}"
        for query, passage in pairs
        if query not in known_queries or passage not in known_passages
    ]
    if len(foreign) > len(pairs) / 2:
        raise DataError(
            f"{served.name}: {len(foreign)} of {len(pairs)} relevance judgements of {split} name what is not "
            f"in its files, e.g. {foreign[0]}; the files do not belong together"
        )


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
