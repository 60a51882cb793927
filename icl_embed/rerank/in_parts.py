"""Scoring many pairs with something to watch: part by part, the pairs of a query together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from icl_embed.rerank.score import Pair, Reranker, Scores
from icl_embed.rerank.ways import Way

PAIRS_AT_ONCE = 512


def score_in_parts(
    reranker: Reranker,
    pairs: Sequence[Pair],
    way: Way,
    *,
    batch_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores [N] in the order of the pairs; a query's candidates go through the model in one part.

    Parameters
        progress: told how many pairs are behind and how many there are.

    Raises
        DataError, ModelError: as ``Reranker.score``.
    """
    scores = np.empty(len(pairs), np.float32)
    behind = 0
    for part in _parts(pairs):
        exits = reranker.score_exits([pairs[number] for number in part], way, batch_tokens=batch_tokens)
        scores[part] = exits.scores[-1]
        behind += len(part)
        if progress:
            progress(behind, len(pairs))
    return scores


def _parts(pairs: Sequence[Pair]) -> list[list[int]]:
    by_query: dict[str, list[int]] = {}
    for number, (query, _) in enumerate(pairs):
        by_query.setdefault(query, []).append(number)
    parts: list[list[int]] = []
    for numbers in by_query.values():
        if parts and len(parts[-1]) + len(numbers) <= PAIRS_AT_ONCE:
            parts[-1] += numbers
        else:
            parts.append(list(numbers))
    return parts
