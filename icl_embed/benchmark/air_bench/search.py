"""Exact search: the best passages of each query by cosine, over a corpus taken in portions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from icl_embed.evaluate.bm25 import Bm25Index
from icl_embed.evaluate.encoding import CachingEncoder, Setting, Vectors
from icl_embed.model.search import best_passages

Ranking = dict[str, dict[str, float]]
"""query -> passage -> score, best first."""

SEARCH_TOP_K = 1000  # AIR-Bench's own default
PASSAGES_AT_ONCE = 50_000


def search(
    encoder: CachingEncoder,
    setting: Setting,
    *,
    queries: Mapping[str, str],
    passages: Mapping[str, str],
    top_k: int = SEARCH_TOP_K,
    passages_at_once: int = PASSAGES_AT_ONCE,
) -> Ranking:
    """The ``top_k`` passages of each query; of equal scores, the first in the order of the corpus.

    At most (queries x ``passages_at_once``) scores exist at a time, and the portions of ``best_passages``
    within that.

    Raises
        EvaluationError: a vector cannot be compared.
        ConfigError: ``top_k`` is not positive.
    """
    asked = _unit(encoder.queries(list(queries.values()), setting))
    ids, texts = list(passages), list(passages.values())
    rows = np.zeros((len(asked), 0), np.int64)
    scores = np.zeros((len(asked), 0), np.float32)
    for start in range(0, len(texts), passages_at_once):
        found = best_passages(
            asked, _unit(encoder.passages(texts[start : start + passages_at_once])), top_k=top_k
        )
        rows, scores = _merged((rows, scores), (found.indices + start, found.scores), top_k)
    return {
        query: {ids[row]: float(score) for row, score in zip(rows[number], scores[number], strict=True)}
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


def _merged(
    first: tuple[NDArray[np.int64], NDArray[np.float32]],
    second: tuple[NDArray[np.int64], NDArray[np.float32]],
    top_k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best of two sorted lists per query; a stable sort keeps earlier passages first among equals."""
    rows = np.concatenate([first[0], second[0]], axis=1)
    scores = np.concatenate([first[1], second[1]], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
