"""The values behind an mteb score: which items, which number each, and how they become the score.

Where mteb exposes them: per query (retrieval, reranking), per text (classification), per pair (sts, pair
classification), per set of texts (clustering). Where it does not, its score itself is the only value, and a
note says that no interval over test items can be given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mteb.abstasks import (
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskClusteringLegacy,
    AbsTaskMultilabelClassification,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import Measurement

SEARCH_TOLERANCE = 6e-6  # mteb rounds search metrics to five decimals
TOLERANCE = 1e-6
TREC_NAMES = {
    "ndcg_at": "ndcg_cut",
    "map_at": "map_cut",
    "recall_at": "recall",
    "precision_at": "P",
    "hit_rate_at": "success",
}
STS_SIMILARITIES = {"cosine_spearman": "cosine_scores", "spearman": "similarity_scores"}
PAIR_SIMILARITIES = {
    "cosine": ("cosine_scores", 1.0),
    "dot": ("dot_scores", 1.0),
    "euclidean": ("euclidean_distances", -1.0),
    "manhattan": ("manhattan_distances", -1.0),
    "similarity": ("similarity_scores", 1.0),
}
Notes = dict[str, Any]


@dataclass(frozen=True)
class ItemsOfTest:
    """The test items of a task, in the order in which mteb sees them.

    Attributes
        task: name of the task.
        ids: identities of queries, texts or pairs.
        gold: label or score of each, empty for search tasks.
        pairs: which texts each pair is made of, for tasks of pairs.
    """

    task: str
    ids: tuple[str, ...]
    gold: Sequence[Any] = ()
    pairs: tuple[tuple[str, str], ...] | None = None


def tolerance_of(task: Any) -> float:
    """How far the aggregate of the values may be from the score that mteb reports."""
    return SEARCH_TOLERANCE if isinstance(task, AbsTaskRetrieval) else TOLERANCE


def measure(task: Any, scores: Mapping[str, Any], items: ItemsOfTest) -> tuple[Measurement, Notes]:
    """The values behind the main score of a task that has run.

    Parameters
        task: the task object, with ``KeptValues``.
        scores: mteb's scores of the split and subset.

    Raises
        EvaluationError: a query has no score.
    """
    metric = task.metadata.main_score
    found: tuple[Measurement, Notes] | None = None
    if isinstance(task, AbsTaskRetrieval):
        found = _per_query(task, metric, items)
    elif isinstance(task, AbsTaskSTS) and metric in STS_SIMILARITIES:
        found = _per_pair(task, STS_SIMILARITIES[metric], items)
    elif isinstance(task, AbsTaskPairClassification) and metric.endswith("_ap"):
        found = _per_labelled_pair(task, metric, scores, items)
    elif isinstance(task, AbsTaskClustering | AbsTaskClusteringLegacy):
        found = _per_set(metric, scores, items)
    elif isinstance(task, AbsTaskClassification) and metric == "accuracy":
        found = _per_text(task, items)
    return found or _per_experiment(task, metric, scores, items)


def _per_query(task: Any, metric: str, items: ItemsOfTest) -> tuple[Measurement, Notes] | None:
    wanted = re.fullmatch(r"(\w+_at)_(\d+)", "recall_at_1" if metric == "accuracy" else metric)
    missing = sorted(set(items.ids) - set(task.query_scores))
    if missing:
        raise EvaluationError(f"{items.task}: mteb scored no passages for query {missing[0]}")
    if wanted is None or wanted[1] not in {*TREC_NAMES, "mrr_at"}:
        return None
    if wanted[1] == "mrr_at":
        depth = int(wanted[2])
        values = [
            _reciprocal_rank(task.predictions[name], task.judgements[name], depth) for name in items.ids
        ]
    else:
        trec = f"{TREC_NAMES[wanted[1]]}_{wanted[2]}"
        values = [float(task.query_scores[name][trec]) for name in items.ids]
    return Measurement(items.task, "mean", items.ids, tuple(values)), {}


def _reciprocal_rank(found: Mapping[str, float], judged: Mapping[str, int], depth: int) -> float:
    # trec_eval breaks ties by descending identity.
    order = sorted(found.items(), key=lambda item: (item[1], item[0]), reverse=True)[:depth]
    ranks = [rank for rank, (name, _) in enumerate(order, start=1) if judged.get(name, 0) > 0]
    return 1.0 / ranks[0] if ranks else 0.0


def _per_pair(task: Any, similarity: str, items: ItemsOfTest) -> tuple[Measurement, Notes] | None:
    predicted = task.predictions[similarity]
    if predicted is None or len(predicted) != len(items.ids):
        return None
    values = tuple(float(value) for value in predicted)
    gold = tuple(map(float, items.gold))
    measured = Measurement(items.task, "spearman", items.ids, values, gold, items.pairs)
    return measured, {"similarity": similarity}


def _per_labelled_pair(
    task: Any, metric: str, scores: Mapping[str, Any], items: ItemsOfTest
) -> tuple[Measurement, Notes] | None:
    # max_ap is the best of several similarities; the winner's values are the ones behind the score.
    named = metric.removesuffix("_ap")
    winner = named if named != "max" else max(PAIR_SIMILARITIES, key=lambda name: scores[f"{name}_ap"])
    if winner not in PAIR_SIMILARITIES:
        return None
    similarity, sign = PAIR_SIMILARITIES[winner]
    values = tuple(sign * float(value) for value in task.predictions[similarity])
    gold = tuple(map(float, items.gold))
    notes = {"similarity": similarity}
    return Measurement(items.task, "average_precision", items.ids, values, gold, items.pairs), notes


def _per_text(task: Any, items: ItemsOfTest) -> tuple[Measurement, Notes] | None:
    # mteb fits several classifiers; the value of a text is the share of them that get it right.
    runs = task.predictions
    several_labels = isinstance(task, AbsTaskMultilabelClassification)
    if several_labels or any(len(run) != len(items.ids) for run in runs):
        return None
    truth = list(items.gold)
    values = tuple(sum(run[row] == label for run in runs) / len(runs) for row, label in enumerate(truth))
    notes = {
        "classifiers": len(runs),
        "texts_per_label": task.samples_per_label,
        "labels": len(set(truth)),
    }
    draws = tuple(
        sum(one == label for one, label in zip(run, truth, strict=True)) / len(truth) for run in runs
    )
    return Measurement(items.task, "mean", items.ids, values, draws=draws), notes


def _per_set(metric: str, scores: Mapping[str, Any], items: ItemsOfTest) -> tuple[Measurement, Notes] | None:
    drawn = scores.get({"v_measure": "v_measures", "ami": "ami_scores"}.get(metric, ""))
    if drawn is None:
        return None
    levels = drawn.values() if isinstance(drawn, Mapping) else [drawn]
    values = [float(value) for level in levels for value in level]
    names = tuple(f"set-{number:03d}" for number in range(len(values)))
    notes = {"cluster_sets": len(values), "texts": len(items.ids), "labels": _distinct(items.gold)}
    return Measurement(items.task, "replicates", names, tuple(values)), notes


def _per_experiment(
    task: Any, metric: str, scores: Mapping[str, Any], items: ItemsOfTest
) -> tuple[Measurement, Notes]:
    runs = scores.get("scores_per_experiment") or ()
    values = tuple(float(run[metric]) for run in runs if run.get(metric) is not None)
    if values:
        names = tuple(f"classifier-{number:03d}" for number in range(len(values)))
        notes = {"interval": "over the classifiers' draws of training texts only, not over test texts"}
        return Measurement(items.task, "replicates", names, values), notes
    alone = Measurement(items.task, "replicates", ("whole test",), (float(scores["main_score"]),))
    return alone, {"interval": f"none: mteb gives no value per test item for {metric}"}


def _distinct(gold: Sequence[Any]) -> int:
    return len({str(label) for label in gold})
