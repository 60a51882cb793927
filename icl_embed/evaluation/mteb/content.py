"""What a loaded task asks and what answers it, and the examples that its training split offers.

The rules are the pool's: the response of a labelled text is its label's name, of a query a passage that
answers it, of a text one that means the same; one example per query, both sides short enough for a prompt.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset
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

from icl_embed.config import POSITIVE_SHARE
from icl_embed.errors import DataError, MissingTaskError
from icl_embed.evaluation.mteb.mirror import FolderSet, HubFolder
from icl_embed.evaluation.mteb.mirror_rows import refuse_duplicates, search_rows
from icl_embed.evaluation.mteb.official import Template, from_hub, judged_splits, new_task
from icl_embed.evaluation.mteb.values import ItemsOfTest
from icl_embed.examples import Example
from icl_embed.pool.build import MAX_EXAMPLE_WORDS
from icl_embed.pool.examples import Candidate
from icl_embed.texts import clean_texts, compared_forms, text_id

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
    first, second = ([text_id(str(text)) for text in data[side]] for side in sides[:2])
    pairs = tuple(zip(first, second, strict=True))
    return Content(ItemsOfTest(name, _numbered(len(gold)), list(gold), pairs), asked)


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


TRAIN = "train"
Pairs = list[tuple[str, str]]


def training_candidates(template: Template, source: FolderSet | HubFolder | None) -> list[Candidate]:
    """Candidates of a task, in the order of its training split; none if it has no such split.

    Parameters
        source: where the task was served from; None is the hub.
    """
    task = template.task
    if isinstance(task, AbsTaskRetrieval):
        return _candidates(_search_pairs(template, source), labelled=False)
    train = task.train_split if isinstance(task, AbsTaskClassification) else TRAIN
    if template.split == train or train not in template.all_splits:
        return []
    data = template.all_splits[train]
    if isinstance(task, AbsTaskClassification | AbsTaskClustering | AbsTaskClusteringLegacy):
        return _candidates(_labelled(task, data), labelled=True)
    if isinstance(task, AbsTaskSTS):
        return _candidates(_similar(data, task.column_names, data["score"], POSITIVE_SHARE), labelled=False)
    if isinstance(task, AbsTaskPairClassification):
        data = Dataset.from_dict(data[0]) if len(data) == 1 else data
        sides = (task.input1_column_name, task.input2_column_name)
        return _candidates(_similar(data, sides, data[task.label_column_name], 1.0), labelled=False)
    return []


def _candidates(pairs: Pairs, *, labelled: bool) -> list[Candidate]:
    if not pairs:
        return []
    columns = zip(*pairs, strict=True)
    queries, responses = (clean_texts(pa.array(column, pa.string())).to_pylist() for column in columns)
    seen: set[str] = set()
    kept = []
    for key, query, response in zip(compared_forms(queries), queries, responses, strict=True):
        if not key or not response or key in seen:
            continue
        seen.add(key)
        if max(len(query.split()), len(response.split())) <= MAX_EXAMPLE_WORDS:
            kept.append(Candidate(Example(query, response), response if labelled else ""))
    return kept


def _labelled(task: Any, data: Dataset) -> Pairs:
    """Texts with the names of their labels; none if the labels are bare numbers, which say nothing."""
    names: Iterable[Any]
    label = data.features.get(task.label_column_name)
    if "label_text" in data.column_names:
        names = data["label_text"]
    elif isinstance(label, ClassLabel):
        names = [label.int2str(number) for number in data[task.label_column_name]]
    else:
        names = flat(data[task.label_column_name])
    pairs = list(zip(flat(data[task.input_column_name]), flat(names), strict=False))
    return [(text, name) for text, name in pairs if isinstance(name, str) and not name.isdigit()]


def _similar(data: Dataset, sides: Any, scores: Iterable[Any], share: float) -> Pairs:
    values = list(map(float, scores))
    least = share * max(values, default=0.0)
    pairs = zip(data[sides[0]], data[sides[1]], values, strict=True)
    return [(first, second) for first, second, score in pairs if score >= least > 0]


def _search_pairs(template: Template, source: FolderSet | HubFolder | None) -> Pairs:
    if template.split == TRAIN:
        return []
    if isinstance(source, FolderSet):
        rows = search_rows(source, TRAIN) if TRAIN in source.splits else None
    else:
        rows = _hub_training_rows(template, source)
    return _answered(rows) if rows else []


def _hub_training_rows(template: Template, source: HubFolder | None) -> Any:
    known: Any = type(template.task).__mro__[2]  # beneath our dynamic class and KeptValues
    if TRAIN not in judged_splits(known.metadata, source, template.subset):
        return None
    task = new_task(known, split=TRAIN, subset=template.subset)
    try:
        return from_hub(task, source, split=TRAIN, subset=template.subset).data
    except MissingTaskError:
        return None


def _answered(rows: Any) -> Pairs:
    """Each query with the best judged of its passages, the first of equals by identity."""
    every = rows["relevant_docs"].items()
    judged = {name: found for name, found in every if max(found.values(), default=0) > 0}
    best = {name: min(found, key=lambda one: (-found[one], one)) for name, found in judged.items()}
    wanted = set(best.values())
    places = [row for row, name in enumerate(rows["corpus"]["id"]) if name in wanted]
    passages = rows["corpus"].select(places)
    texts = dict(zip(passages["id"], _retrieval_texts(passages, PromptType.document), strict=True))
    queries = zip(rows["queries"]["id"], _retrieval_texts(rows["queries"], PromptType.query), strict=True)
    return [(text, texts[best[name]]) for name, text in queries if texts.get(best.get(name, ""))]
