"""Subsets that spread out: maximal marginal relevance, and k-center, over unit vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Similarities = NDArray[np.float32]


def choose_by_mmr(
    vectors: Vectors, relevance: Similarities, count: int, *, relevance_share: float
) -> list[int]:
    """Rows chosen one by one for relevance, less their likeness to what was chosen before.

    The next row maximises ``share · relevance − (1 − share) · max similarity to a chosen row``; ties go to
    the first. Carbonell & Goldstein 1998, The use of MMR; for examples: Diverse-ICL, arXiv 2505.01842.

    Takes
        vectors: unit vectors [N, D].
        relevance: similarity of each row [N] to what the examples are for.
        count: rows wanted; fewer are returned if there are fewer.
        relevance_share: 1 is plain nearest, 0 looks at diversity alone.
    """
    chosen: list[int] = []
    likeness = np.zeros(len(vectors), np.float32)  # to the chosen rows; nothing is chosen yet
    while len(chosen) < min(count, len(vectors)):
        gain = relevance_share * relevance - (1.0 - relevance_share) * likeness
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        similarity = vectors @ vectors[best]
        likeness = similarity if not chosen else np.maximum(likeness, similarity)
        chosen.append(best)
    return chosen


def choose_k_center(vectors: Vectors, count: int, *, first: int) -> list[int]:
    """Rows such that every row has a chosen one near it: the next is always the farthest from those chosen.

    The largest distance to a chosen row is at most twice the best possible (Gonzalez 1985, Clustering to
    minimize the maximum intercluster distance). Ties go to the first row.

    Takes
        vectors: unit vectors [N, D]; the distance is one minus cosine.
        count: rows wanted; fewer are returned if there are fewer.
        first: the row to begin with.
    """
    if not len(vectors) or count < 1:
        return []
    chosen = [first]
    nearest = vectors @ vectors[first]
    while len(chosen) < min(count, len(vectors)):
        nearest[chosen] = np.inf
        farthest = int(np.argmin(nearest))
        chosen.append(farthest)
        nearest = np.maximum(nearest, vectors @ vectors[farthest])
    return chosen
