"""AIR-Bench's metrics, by the code that it uses (trec_eval), with the value of each query kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytrec_eval

from icl_embed.benchmark.air_bench.data import Relevance

K_VALUES = (1, 3, 5, 10, 100, 1000)
MAIN_SCORES = {"qa": "ndcg_at_10", "long-doc": "recall_at_10"}
_TREC_NAMES = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P"}

Scores = dict[str, dict[str, float]]


def score_queries(
    relevance: Relevance, ranking: Mapping[str, Mapping[str, float]], k_values: Sequence[int] = K_VALUES
) -> Scores:
    """Query -> metric -> value: ndcg, map, recall, precision and mrr at every k.

    trec_eval orders equal scores by descending passage identity; AIR-Bench's mrr keeps the order given.
    A query whose ranking is empty counts as 0.
    """
    cuts = ",".join(map(str, k_values))
    measures = {f"{trec}.{cuts}" for trec in _TREC_NAMES.values()}
    found = pytrec_eval.RelevanceEvaluator(relevance, measures).evaluate(
        {query: dict(ranking.get(query, {})) for query in relevance}
    )
    scores: Scores = {}
    for query, grades in relevance.items():
        values = found.get(query, {})
        scores[query] = {
            f"{ours}_at_{k}": float(values.get(f"{trec}_{k}", 0.0))
            for ours, trec in _TREC_NAMES.items()
            for k in k_values
        }
        first = _first_relevant(grades, ranking.get(query, {}))
        scores[query] |= {f"mrr_at_{k}": 1.0 / first if 0 < first <= k else 0.0 for k in k_values}
    return scores


def averaged(scores: Scores) -> dict[str, float]:
    """The mean of each metric over queries, to five decimals as AIR-Bench reports it."""
    metrics = next(iter(scores.values()))
    return {name: round(float(np.mean([values[name] for values in scores.values()])), 5) for name in metrics}


def _first_relevant(grades: Mapping[str, int], ranked: Mapping[str, float]) -> int:
    """The rank, from 1, of the first relevant passage; 0 if there is none."""
    order = sorted(ranked.items(), key=lambda item: item[1], reverse=True)
    return next((rank for rank, (key, _) in enumerate(order, start=1) if grades.get(key, 0) > 0), 0)
