"""How good one ranking is: the usual metrics at a cut of 10, per query, as trec_eval computes them.

Gains are linear. What the first stage did not find counts against every ranking of its passages, so that
first stage, BM25 and rerankers are measured on one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

CUT = 10
NDCG = "ndcg_at_10"

Metric = Callable[[Sequence[int], ArrayLike, Sequence[int] | None], float]


def ranked_grades(relevance: Sequence[int], scores: ArrayLike) -> NDArray[np.float64]:
    """Grades of the ten best passages, best first; equal scores keep the order of the list."""
    grades = np.asarray(relevance, dtype=np.float64)
    ranked: NDArray[np.float64] = grades[np.argsort(-np.asarray(scores), kind="stable")][:CUT]
    return ranked


def ndcg_at_10(relevance: Sequence[int], scores: ArrayLike, judged: Sequence[int] | None = None) -> float:
    """nDCG@10 of candidates ranked by score; 0 for a query without a relevant passage.

    Parameters
        relevance: grade of each candidate.
        judged: grades of every passage known to be relevant, candidate or not; None: the candidates' own.
    """
    best = _discounted(np.sort(np.asarray(relevance if judged is None else judged, np.float64))[::-1][:CUT])
    return _discounted(ranked_grades(relevance, scores)) / best if best > 0 else 0.0


def reciprocal_rank_at_10(
    relevance: Sequence[int], scores: ArrayLike, _judged: Sequence[int] | None = None
) -> float:
    """One over the rank of the first relevant passage, 0 beyond the tenth."""
    hits = np.flatnonzero(ranked_grades(relevance, scores) > 0)
    return 1.0 / (1 + int(hits[0])) if len(hits) else 0.0


def recall_at_10(relevance: Sequence[int], scores: ArrayLike, judged: Sequence[int] | None = None) -> float:
    """Share of the relevant passages that are among the first ten."""
    known = int((np.asarray(relevance if judged is None else judged) > 0).sum())
    return int((ranked_grades(relevance, scores) > 0).sum()) / known if known else 0.0


def _discounted(grades: NDArray[np.float64]) -> float:
    return float(grades @ (1.0 / np.log2(np.arange(2, 2 + len(grades)))))


METRICS: Mapping[str, Metric] = {
    NDCG: ndcg_at_10,
    "mrr_at_10": reciprocal_rank_at_10,
    "recall_at_10": recall_at_10,
}
