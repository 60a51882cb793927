"""The second stage: the first passages of a ranking, scored again by a model that reads query and passage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from icl_embed.errors import EvaluationError

Ranking = dict[str, dict[str, float]]
"""Query -> passage -> score."""

RERANK_TOP_K = 100  # AIR-Bench's own default
PAIRS_AT_ONCE = 4096


class PairScorer(Protocol):
    """Scores pairs; ``icl_embed.rerank.reranker.Reranker`` is one."""

    def score(self, pairs: Sequence[tuple[str, str]], /) -> ArrayLike:
        """One score [N] per (query, passage), higher is better; comparable within a query."""


def whole_queries(queries: Sequence[str], wanted: int = PAIRS_AT_ONCE) -> Iterator[slice]:
    """Slices of about ``wanted`` pairs that leave the pairs of a query together.

    A scorer may compare a query's passages with each other, as a cascade does.

    Parameters
        queries: of each pair; those of one query are neighbours.
    """
    start = 0
    for spot in range(1, len(queries) + 1):
        is_last = spot == len(queries)
        if is_last or (spot - start >= wanted and queries[spot] != queries[spot - 1]):
            yield slice(start, spot)
            start = spot


def rerank(
    ranking: Mapping[str, Mapping[str, float]],
    scorer: PairScorer,
    *,
    queries: Mapping[str, str],
    passages: Mapping[str, str],
    top_k: int = RERANK_TOP_K,
) -> Ranking:
    """The first ``top_k`` passages of each query with the scorer's scores, best first.

    Passages beyond them are dropped, as mteb and AIR-Bench do; of equal scores the first stage's order stays.

    Raises
        EvaluationError: ``top_k`` is not positive, the ranking names a query or passage that does not exist,
            or the scorer returns another number of scores, or one that is not finite.
    """
    if top_k < 1:
        raise EvaluationError(f"top_k must be at least 1, found {top_k}")
    kept = {
        query: [key for key, _ in islice(sorted(found.items(), key=lambda item: -item[1]), top_k)]
        for query, found in ranking.items()
    }
    keys = [(query, passage) for query, chosen in kept.items() for passage in chosen]
    unknown = next((pair for pair in keys if pair[0] not in queries or pair[1] not in passages), None)
    if unknown is not None:
        raise EvaluationError(f"the ranking names query {unknown[0]!r} and passage {unknown[1]!r}; unknown")
    reranked: Ranking = {query: {} for query in ranking}
    for together in whole_queries([query for query, _ in keys]):
        part = keys[together]
        scores = _checked(scorer.score([(queries[query], passages[key]) for query, key in part]), part)
        for (query, passage), score in zip(part, scores, strict=True):
            reranked[query][passage] = score
    return {
        query: dict(sorted(found.items(), key=lambda item: -item[1])) for query, found in reranked.items()
    }


def _checked(scores: ArrayLike, pairs: Sequence[tuple[str, str]]) -> list[float]:
    values = np.asarray(scores, np.float64)
    if values.shape != (len(pairs),):
        raise EvaluationError(f"the reranker returned scores of shape {values.shape} for {len(pairs)} pairs")
    if not np.isfinite(values).all():
        first = int(np.flatnonzero(~np.isfinite(values))[0])
        raise EvaluationError(
            f"the reranker's score for {pairs[first]} is {values[first]}, expected a number"
        )
    found: list[float] = values.tolist()
    return found
