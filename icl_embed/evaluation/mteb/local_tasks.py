"""mteb task objects over a dataset artefact: mteb's own classes and metrics, our local rows.

A task is built fresh for every run. mteb's clustering and classification keep a random state inside the
task; a second run on the same object would draw other texts and its scores could not be paired.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.types import Licenses

from icl_embed.config import EvaluateConfig
from icl_embed.evaluation.tasks.rows import EvaluationInput, LabelData, PairData, SearchData, TaskData

MAIN_SCORES = {
    "retrieval": "ndcg_at_10",
    "reranking": "map_at_1000",
    "classification": "accuracy",
    "clustering": "v_measure",
    "sts": "cosine_spearman",
    "pair_classification": "max_ap",
}
"""The main score that mteb's own tasks of each kind declare."""

_TYPES = {
    "retrieval": "Retrieval",
    "reranking": "Reranking",
    "classification": "Classification",
    "clustering": "Clustering",
    "sts": "STS",
    "pair_classification": "PairClassification",
}


class KeptValues:
    """Mixed in before a task class of mteb's: keeps what the score is made of, and writes no file.

    ``predictions`` is what mteb would write into its prediction folder; ``query_scores`` holds every metric
    of each query as mteb averages it, ``judgements`` its relevance judgements (search tasks only). A task
    object runs one split of one subset, once.
    """

    predictions: Any = None
    query_scores: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    judgements: Mapping[str, Mapping[str, int]] = MappingProxyType({})

    def check_if_dataset_is_superseded(self) -> None:
        """Say nothing: this version of the task was asked for, and mteb would say it at every run."""

    def _save_task_predictions(self, predictions: Any, *_: Any, **__: Any) -> None:
        self.predictions = predictions

    def task_specific_scores(
        self, scores: dict[str, dict[str, float]], qrels: Any, *rest: Any, **more: Any
    ) -> dict[str, float]:
        """Keep what mteb is about to average; the task's own extra scores stay."""
        self.query_scores, self.judgements = scores, qrels
        own: dict[str, float] = super().task_specific_scores(scores, qrels, *rest, **more)  # type: ignore[misc]
        return own


class _LocalTask(KeptValues):
    """What our tasks add to mteb's: data is handed in."""

    def __init__(self, metadata: TaskMetadata, dataset: Any) -> None:
        self.metadata = metadata
        super().__init__()
        self.dataset = dataset
        self.data_loaded = True

    def load_data(self, *_: Any, **__: Any) -> None:
        """Nothing to load: the data came with the task."""


class LocalSearch(_LocalTask, AbsTaskRetrieval):  # type: ignore[misc]
    """Retrieval over a corpus, or reranking of each query's candidates."""


class LocalClassification(_LocalTask, AbsTaskClassification):  # type: ignore[misc]
    """Logistic regression on few labelled vectors, repeated."""


class LocalClustering(_LocalTask, AbsTaskClustering):  # type: ignore[misc]
    """Mini-batch k-means on bootstrap sets of the texts (the v2 variant)."""

    # mteb embeds 4 % of the texts by default, which leaves a handful of a small test split.
    max_fraction_of_documents_to_embed = None


class LocalPairs(_LocalTask, AbsTaskPairClassification):  # type: ignore[misc]
    """Similarity of pairs against 0/1 labels."""


class LocalSimilarity(_LocalTask, AbsTaskSTS):  # type: ignore[misc]
    """Similarity of pairs against gold scores."""


LocalTask = LocalSearch | LocalClassification | LocalClustering | LocalPairs | LocalSimilarity


def build_task(dataset: EvaluationInput, data: TaskData, config: EvaluateConfig) -> LocalTask:
    """A fresh mteb task over the data of one data set."""
    metadata = describe_task(dataset)
    if isinstance(data, SearchData):
        return LocalSearch(metadata, _search_dataset(data))
    if isinstance(data, PairData):
        return _pair_task(dataset, data, metadata)
    if dataset.kind == "classification":
        task = LocalClassification(metadata, _label_dataset(data))
        task.n_experiments = config.label_experiments
        return task
    clustering = LocalClustering(metadata, _cluster_dataset(data))
    clustering.n_clusters = config.cluster_sets
    clustering.max_documents_per_cluster = len(data.texts)  # a bootstrap set is as large as the split
    return clustering


def describe_task(dataset: EvaluationInput) -> TaskMetadata:
    """Metadata that says what this is: a local data set at a local revision, not an official mteb task."""
    licence = dataset.licence.lower()
    known = typing.get_args(Licenses)
    described = dataset.title or dataset.name
    return TaskMetadata(
        name=f"local-{dataset.name}",
        description=f"{described} (local data set; licence: {dataset.licence or 'not specified'})",
        dataset={"path": f"icl-embed/{dataset.name}", "revision": f"local-{dataset.fingerprint}"},
        type=_TYPES[dataset.kind],
        category="t2c" if dataset.kind in ("classification", "clustering") else "t2t",
        modalities=["text"],
        reference=dataset.homepage if dataset.homepage.startswith(("https://", "http://")) else None,
        license=licence if licence in known else "not specified",
        prompt=dataset.instruction,
        eval_splits=["test"],
        eval_langs=[dataset.language],
        main_score=MAIN_SCORES[dataset.kind],
    )


def _search_dataset(data: SearchData) -> dict[str, Any]:
    split = {
        "corpus": _columns(id=list(data.passages), text=list(data.passages.values())),
        "queries": _columns(id=list(data.queries), text=list(data.queries.values())),
        "relevant_docs": {query: dict.fromkeys(names, 1) for query, names in data.relevant.items()},
        "top_ranked": None if data.candidates is None else {q: list(p) for q, p in data.candidates.items()},
    }
    return {"default": {"test": split}}


def _label_dataset(data: LabelData) -> dict[str, Any]:
    numbers = {label: number for number, label in enumerate(sorted(set(data.train_labels)))}
    return {
        "default": DatasetDict(
            train=_columns(text=data.train_texts, label=[numbers[label] for label in data.train_labels]),
            test=_columns(text=data.texts, label=[numbers[label] for label in data.labels]),
        )
    }


def _cluster_dataset(data: LabelData) -> dict[str, Any]:
    numbers = {label: number for number, label in enumerate(sorted(set(data.labels)))}
    labels = [numbers[label] for label in data.labels]
    return {"default": {"test": _columns(sentences=data.texts, labels=labels)}}


def _pair_task(dataset: EvaluationInput, data: PairData, metadata: TaskMetadata) -> LocalTask:
    if dataset.kind == "pair_classification":
        labels = [int(score) for score in data.scores]
        rows = _columns(sentence1=data.first, sentence2=data.second, labels=labels)
        return LocalPairs(metadata, {"default": {"test": rows}})
    rows = _columns(sentence1=data.first, sentence2=data.second, score=data.scores)
    task = LocalSimilarity(metadata, {"default": {"test": rows}})
    task.min_score, task.max_score = min(data.scores), max(data.scores)
    return task


def _columns(**columns: Any) -> Dataset:
    return Dataset.from_dict({name: list(values) for name, values in columns.items()})
