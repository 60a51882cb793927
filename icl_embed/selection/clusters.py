"""Spherical k-means: centres of unit vectors, and which centre is nearest to a vector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from icl_embed.selection.diversity import Vectors, choose_k_center

MAX_ROUNDS = 50


def find_centres(vectors: Vectors, count: int) -> Vectors:
    """Unit centres [K, D] of at most ``count`` groups; deterministic.

    Starts from rows that are far from each other (k-center from the row nearest to the mean) and alternates
    between assigning rows and averaging them until nothing moves (Dhillon & Modha 2001). A group that loses
    all its rows is dropped.
    """
    start = int(np.argmax(vectors @ vectors.mean(axis=0)))
    centres = vectors[choose_k_center(vectors, count, first=start)]
    groups = nearest_centre(vectors, centres)
    for _ in range(MAX_ROUNDS):
        sums = np.stack([vectors[groups == group].sum(axis=0) for group in np.unique(groups)])
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        moved = nearest_centre(vectors, centres)
        if np.array_equal(moved, groups):
            break
        groups = moved
    return np.asarray(centres, np.float32)


def nearest_centre(vectors: Vectors, centres: Vectors) -> NDArray[np.intp]:
    """The centre [N] nearest to each vector [N, D]; ties go to the first."""
    return np.asarray(np.argmax(vectors @ centres.T, axis=1))
