"""What a loaded task asks and what answers it, as plain texts; checked, and hashed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from mteb._create_dataloaders import _retrieval_texts
from mteb.abstasks import (
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskClusteringLegacy,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.types import PromptType

from icl_embed.benchmark.mteb.mirror_search import refuse_duplicates
from icl_embed.benchmark.mteb.official import Template
from icl_embed.errors import DataError
from icl_embed.evaluate.mteb_values import ItemsOfTest

logger = logging.getLogger(__name__)
HASHED_ROWS = 1000


@dataclass(frozen=True)
class Content:
    """The evaluated texts of a task.

    Attributes
        items: identities and gold labels or scores, in mteb's order.
        asked: texts that are encoded as queries: queries, texts, or both sides of the pairs.
        answers: passages that answer a query (search tasks).
        notes: what is odd about the data, counted.
    """

    items: ItemsOfTest
    asked: tuple[str, ...]
    answers: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


def content_of(template: Template) -> Content:
    """Read a loaded task.

    Raises
        DataError: an empty corpus or split, an identity that appears twice, a test label without a training
            text, pairs that are all alike.
    """
    task, data, name = template.task, template.data, template.task.metadata.name
    if isinstance(task, AbsTaskRetrieval):
        return _search(name, data)
    if not len(data) or not any(flat(data[data.column_names[0]])):
        raise DataError(f"{name}: the split {template.split} is empty; nothing to evaluate")
    if isinstance(task, AbsTaskPairClassification):
        data = Dataset.from_dict(data[0]) if len(data) == 1 else data
        sides = (task.input1_column_name, task.input2_column_name)
        return _pairs(name, data, sides, data[task.label_column_name])
    if isinstance(task, AbsTaskSTS):
        return _pairs(name, data, task.column_names, data["score"])
    if isinstance(task, AbsTaskClassification):
        _need_training_texts(name, template)
        return _texts(name, data[task.input_column_name], data[task.label_column_name])
    if isinstance(task, AbsTaskClustering | AbsTaskClusteringLegacy):
        texts, labels = data[task.input_column_name], data[task.label_column_name]
        nested = not isinstance(texts[0], str)  # older sets: one row per set of texts
        return _texts(name, flat(texts), flat(labels) if nested else list(map(str, labels)))
    # Bitext mining, summarisation: every text column is asked; mteb gives no value per row anyway.
    columns = [column for column in data.column_names if _is_text(data, column)]
    return _texts(name, [text for column in columns for text in flat(data[column])], ())


def fingerprint_of(template: Template) -> str:
    """Hash of the evaluated data (for classification also of the training texts), wherever it was read."""
    task, data = template.task, template.data
    if isinstance(task, AbsTaskRetrieval):
        candidates = data["top_ranked"] or {}
        judged = {name: dict(sorted(found.items())) for name, found in data["relevant_docs"].items()}
        ranked = [[name, list(candidates[name])] for name in sorted(candidates)]
        parts = [_batches(data["corpus"]), _batches(data["queries"]), [sorted(judged.items())], ranked]
        return _hash(part for rows in parts for part in rows)
    splits = [data]
    if isinstance(task, AbsTaskClassification):
        splits.append(template.all_splits[task.train_split])
    return _hash(batch for split in splits for batch in _batches(_needed(task, split)))


def _needed(task: Any, data: Dataset) -> Dataset:
    named = ("input_column_name", "label_column_name", "input1_column_name", "input2_column_name")
    wanted = {getattr(task, name, None) for name in named} | {*getattr(task, "column_names", ()), "score"}
    kept = [name for name in sorted(data.column_names) if name in wanted]
    return data.select_columns(kept) if len(kept) > 1 else data


def _as_numbers(batch: dict[str, Any]) -> dict[str, Any]:
    # A score of 4 is written as 4 here and as 4.0 there.
    return {**batch, "score": list(map(float, batch["score"]))} if "score" in batch else batch


def _batches(data: Dataset) -> Iterable[Any]:
    yield from map(_as_numbers, data.iter(HASHED_ROWS))


def _hash(parts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part, sort_keys=True, ensure_ascii=True, default=str).encode())
    return digest.hexdigest()[:16]


def _search(name: str, data: Any) -> Content:
    judged = {query: found for query, found in data["relevant_docs"].items() if found}
    for what, rows in (("corpus", data["corpus"]), ("queries", data["queries"])):
        if not len(rows):
            raise DataError(f"{name}: the {what} is empty; nothing to search")
        refuse_duplicates(f"{name}: {what}", rows["id"])
    queries = data["queries"].select([row for row, one in enumerate(data["queries"]["id"]) if one in judged])
    if not len(queries):
        raise DataError(f"{name}: no query has a relevance judgement in this split; nothing can be scored")
    relevant = {passage for found in judged.values() for passage, grade in found.items() if grade > 0}
    rows = [row for row, one in enumerate(data["corpus"]["id"]) if one in relevant]
    notes = {
        "queries_without_judgement": len(data["queries"]) - len(queries),
        "judgements_of_unknown_queries": len(set(judged) - set(queries["id"])),
        "judged_passages_not_in_corpus": len(relevant) - len(rows),
    }
    notes = {key: count for key, count in notes.items() if count}
    if notes:
        logger.warning("%s: %s", name, ", ".join(f"{count} {key}" for key, count in notes.items()))
    answers = data["corpus"].select(rows)
    return Content(
        ItemsOfTest(name, tuple(queries["id"])),
        tuple(_retrieval_texts(queries, PromptType.query)),
        (*_retrieval_texts(answers, PromptType.document), *answers["text"]),
        notes,
    )


def _pairs(name: str, data: Dataset, sides: Sequence[Any], gold: Sequence[Any]) -> Content:
    if len(set(gold)) < 2:
        raise DataError(f"{name}: all {len(gold)} pairs have the same score; nothing to compare")
    asked = (*data[sides[0]], *data[sides[1]])
    return Content(ItemsOfTest(name, _numbered(len(gold)), list(gold)), asked)


def _need_training_texts(name: str, template: Template) -> None:
    train, label = template.task.train_split, template.task.label_column_name
    rows = template.all_splits[train] if train in template.all_splits else ()
    found = len({str(one) for one in rows[label]}) if len(rows) else 0
    if found < 2:
        raise DataError(
            f"{name}: its classifier learns from the split {train!r}, which has {found} labels, expected at "
            "least 2; add that split to the mirror"
        )


def _texts(name: str, texts: Sequence[str], labels: Sequence[Any]) -> Content:
    return Content(ItemsOfTest(name, _numbered(len(texts)), list(labels)), tuple(texts))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"{number:06d}" for number in range(count))


def flat(values: Iterable[Any]) -> list[Any]:
    """The members of lists, and single values, in one list."""
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def _is_text(data: Dataset, column: str) -> bool:
    first = data[0][column]
    return isinstance(next(iter(flat([first])), None), str)
