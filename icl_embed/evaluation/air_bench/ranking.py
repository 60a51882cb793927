"""Exact search over a corpus, and AIR-Bench's metrics of what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytrec_eval

from icl_embed.bm25 import Bm25Index
from icl_embed.evaluation.air_bench.data import Relevance
from icl_embed.model.cached_encoding import CachingEncoder, Setting
from icl_embed.model.search import UnitRows, best_passages

Ranking = dict[str, dict[str, float]]
"""query -> passage -> score, best first."""

SEARCH_TOP_K = 1000  # AIR-Bench's own default


def search(
    encoder: CachingEncoder,
    setting: Setting,
    *,
    queries: Mapping[str, str],
    passages: Mapping[str, str],
    top_k: int = SEARCH_TOP_K,
) -> Ranking:
    """The ``top_k`` passages of each query; of equal scores, the first in the order of the corpus.

    Raises
        EvaluationError: a vector cannot be compared.
        ConfigError: ``top_k`` is not positive.
    """
    ids = list(passages)
    found = best_passages(
        UnitRows(encoder.queries(list(queries.values()), setting))[:],
        UnitRows(encoder.stored_passages(list(passages.values()))),
        top_k=top_k,
    )
    return {
        query: {
            ids[row]: float(score)
            for row, score in zip(found.indices[number], found.scores[number], strict=True)
        }
        for number, query in enumerate(queries)
    }


def search_bm25(
    queries: Mapping[str, str], passages: Mapping[str, str], *, top_k: int = SEARCH_TOP_K
) -> Ranking:
    """The passages that share a word with each query, by BM25.

    Raises
        NoBaselineError: no query has a word that any passage has.
    """
    index = Bm25Index.build(list(passages.values()))
    index.refuse_as_baseline(list(queries.values()))
    ids = list(passages)
    return {
        query: {ids[row]: score for row, score in index.best(text, top_k)} for query, text in queries.items()
    }


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
