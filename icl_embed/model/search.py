"""The best passages of each query, by exact dot products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from icl_embed.errors import ConfigError, ModelError

SCORES_AT_ONCE = 1 << 26  # 256 MiB of float32


@dataclass(frozen=True, eq=False)
class SearchResult:
    """For each query its best passages, best first; equal scores in the order of the passages.

    Attributes
        indices: [Q, K] int64, positions in the list of passages.
        scores: [Q, K] float32, cosines.
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]


def best_passages(queries: NDArray[np.float32], passages: NDArray[np.float32], *, top_k: int) -> SearchResult:
    """The ``top_k`` passages (all, if there are fewer) of each query, from vectors [Q, D] and [P, D].

    Raises
        ConfigError: ``top_k`` is not positive.
        ModelError: the vectors are of different lengths.
    """
    if top_k < 1:
        raise ConfigError(f"top_k must be at least 1, found {top_k}")
    if passages.ndim != 2 or queries.shape[1] != passages.shape[1]:
        raise ModelError(
            f"queries and passages must be vectors of one length, found {queries.shape} and {passages.shape}"
        )
    top_k = min(top_k, len(passages))
    indices = np.zeros((len(queries), top_k), np.int64)
    scores = np.zeros((len(queries), top_k), np.float32)
    if not top_k:
        return SearchResult(indices, scores)
    step = max(1, SCORES_AT_ONCE // len(passages))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        indices[part], scores[part] = _top(queries[part] @ passages.T, top_k)
    return SearchResult(indices, scores)


def _top(scores_QP: NDArray[np.float32], top_k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Exact in ties too: of equal scores at the border, the earliest passages are kept."""
    threshold = torch.from_numpy(scores_QP).topk(top_k).values[:, -1:].numpy()
    chosen = np.empty((len(scores_QP), top_k), np.int64)
    for row, scores in enumerate(scores_QP):
        candidates = np.flatnonzero(scores >= threshold[row])
        chosen[row] = candidates[np.argsort(-scores[candidates], kind="stable")[:top_k]]
    return chosen, np.take_along_axis(scores_QP, chosen, axis=1)
