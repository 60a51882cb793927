"""The records of a mirror folder in the shape in which mteb's task classes hold their data.

Columns get the names that the task's class asks for, so the class's own transform and metric see what they
would see from the hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
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

from icl_embed.benchmark.mteb.mirror_folder import FolderSet
from icl_embed.corpus.records import Record, where
from icl_embed.errors import DataError, EvaluationError

Columns = dict[str, list[Any]]


def rows_for(task: Any, served: FolderSet, split: str) -> Any:
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
    make = _maker(task, served)
    return DatasetDict({name: Dataset.from_dict(make(served.read(name))) for name in served.splits})


def search_rows(served: FolderSet, split: str) -> dict[str, Any]:
    """Corpus, queries, relevance judgements and candidates of one split."""
    return _retrieval(served, split) if served.kind == "retrieval" else _reranking(served.read(split))


def _retrieval(served: FolderSet, split: str) -> dict[str, Any]:
    corpus = {"id": "_id", "title": "title", "text": "text"}
    passages = _columns(served.read("corpus"), corpus, optional={"title": ""})
    queries = _columns(served.read("queries"), {"id": "_id", "text": "text"})
    for name, columns in (("corpus", passages), ("queries", queries)):
        _refuse_duplicates(f"{served.name}/{name}", columns["id"])
    if not passages["id"]:
        raise DataError(f"{served.name}: the corpus is missing or empty; expected corpus.jsonl with passages")
    judged: dict[str, dict[str, int]] = {}
    for record in served.read(f"qrels/{split}"):
        query, passage = str(_field(record, "query-id")), str(_field(record, "corpus-id"))
        judged.setdefault(query, {})[passage] = _whole(record, "score")
    asked = _judged_queries(served, split, queries, judged)
    _refuse_unknown(served, "passage", {name for found in judged.values() for name in found}, passages["id"])
    return {
        "corpus": Dataset.from_dict(passages),
        "queries": Dataset.from_dict(asked),
        "relevant_docs": judged,
        "top_ranked": None,
    }


def _judged_queries(
    served: FolderSet, split: str, queries: Columns, judged: Mapping[str, Mapping[str, int]]
) -> Columns:
    """The queries of a split, in file order, as mteb's loader leaves them.

    Raises
        DataError: a judgement of an unknown query, or a query that no split judges.
    """
    _refuse_unknown(served, "query", set(judged), queries["id"])
    elsewhere = {
        str(_field(record, "query-id"))
        for other in served.splits
        if other != split
        for record in served.read(f"qrels/{other}")
    }
    lost = [name for name in queries["id"] if name not in judged and name not in elsewhere]
    if lost:
        raise DataError(
            f"{served.name}: the query {lost[0]!r} has no relevance judgement in any split "
            f"({len(lost)} of {len(queries['id'])} queries); add its judgements or remove it"
        )
    kept = [row for row, name in enumerate(queries["id"]) if name in judged]
    return {name: [values[row] for row in kept] for name, values in queries.items()}


def _reranking(records: Iterable[Record]) -> dict[str, Any]:
    passages: dict[str, str] = {}
    queries: Columns = {"id": [], "text": []}
    judged, candidates = {}, {}
    for number, record in enumerate(records):
        positives, negatives = (_texts(record, name) for name in ("positive", "negative"))
        if not positives or not set(negatives) - set(positives):
            raise DataError(
                f"{where(record)}: a query to rerank needs a positive and a negative, found "
                f"{len(positives)} and {len(negatives)}"
            )
        name = f"{number:06d}"
        queries["id"].append(name)
        queries["text"].append(_field(record, "query"))
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


def neutral_id(text: str) -> str:
    """An identity that says nothing of relevance: the metric breaks tied scores by it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _maker(task: Any, served: FolderSet) -> Any:
    if isinstance(task, AbsTaskClassification):
        text, label = task.input_column_name, task.label_column_name
        return lambda records: _labelled(records, text, label)
    if isinstance(task, AbsTaskClustering | AbsTaskClusteringLegacy):
        text, label = task.input_column_name, task.label_column_name
        # Older sets hold one row per set of texts; classes that flatten them say so by their transform.
        nested = isinstance(task, AbsTaskClusteringLegacy) or _transforms(task)
        return lambda records: _one_row(_labelled(records, text, label), nested)
    if isinstance(task, AbsTaskPairClassification):
        names = {task.input1_column_name: "sentence1", task.input2_column_name: "sentence2"}
        nested = _transforms(task)
        return lambda records: _one_row(
            _columns(records, {**names, task.label_column_name: "label"}, whole="label"), nested
        )
    if isinstance(task, AbsTaskSTS):
        first, second = task.column_names
        return lambda records: _columns(
            records, {first: "sentence1", second: "sentence2", "score": "score"}, number="score"
        )
    raise EvaluationError(
        f"{task.metadata.name}: a mirror folder has no rows for {task.metadata.type} tasks; "
        "mirror this task in the hub's layout (a hub cache, or a folder with its README.md)"
    )


def _transforms(task: Any) -> bool:
    return type(task).dataset_transform is not AbsTask.dataset_transform


def _labelled(records: list[Record], text: str, label: str) -> Columns:
    fallback = "label" if all("label" in record for record in records) else "label_text"
    columns = _columns(records, {text: "text", label: fallback})
    if all("label_text" in record for record in records):
        columns["label_text"] = [record["label_text"] for record in records]
    return columns


def _one_row(columns: Columns, nested: bool) -> Columns:
    return {name: [values] for name, values in columns.items()} if nested else columns


def _columns(
    records: Iterable[Record],
    fields: Mapping[str, str],
    *,
    optional: Mapping[str, str] | None = None,
    number: str = "",
    whole: str = "",
) -> Columns:
    columns: Columns = {name: [] for name in fields}
    for record in records:
        for name, wanted in fields.items():
            if wanted in (optional or {}) and record.get(wanted) is None:
                columns[name].append((optional or {})[wanted])
            elif wanted == number:
                columns[name].append(_number(record, wanted))
            elif wanted == whole:
                columns[name].append(_whole(record, wanted))
            else:
                columns[name].append(_field(record, wanted))
    return columns


def _field(record: Record, name: str) -> Any:
    value = record.get(name)
    if value is None or (name in ("text", "query", "sentence1", "sentence2") and not isinstance(value, str)):
        raise DataError(f"{where(record)}: the field {name!r} is missing or no text, found {value!r}")
    return str(value) if name == "_id" else value


def _number(record: Record, name: str) -> float:
    try:
        return float(_field(record, name))
    except (TypeError, ValueError) as error:
        raise DataError(f"{where(record)}: {name} is not a number: {record[name]!r}") from error


def _whole(record: Record, name: str) -> int:
    value = _number(record, name)
    if not value.is_integer():
        raise DataError(f"{where(record)}: {name} must be a whole number, found {record[name]!r}")
    return int(value)


def _texts(record: Record, name: str) -> list[str]:
    value = _field(record, name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where(record)}: {name} must be a text or a list of texts, found {value!r}")
    return texts


def _refuse_duplicates(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{what}: the identity {name!r} appears twice; each needs its own")
        seen.add(name)


def _refuse_unknown(served: FolderSet, what: str, named: set[str], known: list[str]) -> None:
    unknown = sorted(named - set(known))
    if unknown:
        raise DataError(
            f"{served.name}: a relevance judgement names the {what} {unknown[0]!r}, which is not in its file "
            f"({len(unknown)} such); the files do not belong together"
        )
