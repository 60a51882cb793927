"""Candidate examples from a task's own training split, in the form in which training shows examples.

The rules are the pool's: the response of a labelled text is its label's name, of a query a passage that
answers it, of a text one that means the same; one example per query, both sides short enough for a prompt.
"""

from __future__ import annotations

from collections.abc import Iterable
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

from icl_embed.benchmark.mteb.content import flat
from icl_embed.benchmark.mteb.mirror_folder import FolderSet
from icl_embed.benchmark.mteb.mirror_hub import HubFolder
from icl_embed.benchmark.mteb.mirror_search import search_rows
from icl_embed.benchmark.mteb.official import Template, from_hub, judged_splits, new_task
from icl_embed.corpus.clean import clean_texts
from icl_embed.errors import MissingTaskError
from icl_embed.examples import Example
from icl_embed.pool.build import MAX_EXAMPLE_WORDS, POSITIVE_SHARE
from icl_embed.pool.choose import Candidate, compared_forms

TRAIN = "train"
Pairs = list[tuple[str, str]]


def training_candidates(template: Template, source: FolderSet | HubFolder | None) -> list[Candidate]:
    """Candidates of a task, in the order of its training split; none if it has no such split.

    Takes
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
