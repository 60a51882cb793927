"""Smaller vectors: int8 with one scale per dimension (4 times), or one bit per dimension (32 times).

Both keep the order of scores well enough to find candidates; rank the best of them again with float queries
(int8) or float vectors (binary) where every place counts. ``cosine_loss`` measures what was lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icl_embed.errors import ModelError

Vectors = NDArray[np.float32]
Int8Codes = NDArray[np.int8]
BinaryCodes = NDArray[np.uint8]

LARGEST_CODE = 127
ROWS_AT_ONCE = 65536  # of int8 passages, converted to float for the product


@dataclass(frozen=True, eq=False)
class Int8Scale:
    """Symmetric int8 codes: ``vector ≈ codes × steps``, dimension by dimension.

    Attributes
        steps: [D] float32, what one unit of a code is worth.
    """

    steps: Vectors

    @classmethod
    def fit(cls, vectors: Vectors) -> Int8Scale:
        """A scale that clips none of ``vectors`` [N, D]: a sample of what will be stored, or all of it.

        Raises
            ModelError: no vectors, or one that is not finite.
        """
        vectors = _checked(vectors)
        if not len(vectors):
            raise ModelError("int8 scales need at least one vector to be measured on")
        largest = np.abs(vectors).max(axis=0)
        # A dimension that is zero everywhere has no scale; any step restores it exactly.
        return cls(np.where(largest > 0, largest / LARGEST_CODE, 1.0).astype(np.float32))

    def quantise(self, vectors: Vectors) -> Int8Codes:
        """[N, D] float32 → [N, D] int8; values beyond the calibration are clipped."""
        codes = np.rint(_checked(vectors, len(self.steps)) / self.steps)
        return np.asarray(codes.clip(-LARGEST_CODE, LARGEST_CODE), np.int8)

    def dequantise(self, codes: Int8Codes) -> Vectors:
        """[N, D] int8 → [N, D] float32, about what was quantised."""
        return np.asarray(codes * self.steps, np.float32)

    def scores(self, queries: Vectors | Int8Codes, passages: Int8Codes) -> Vectors:
        """Dot products [Q, P]. Queries are few: leave them floats [Q, D] and lose half as much."""
        if queries.dtype == np.int8:
            queries = self.dequantise(np.asarray(queries, np.int8))
        weighted = np.asarray(queries, np.float32) * self.steps
        scores = np.empty((len(queries), len(passages)), np.float32)
        for start in range(0, len(passages), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            scores[:, part] = weighted @ passages[part].astype(np.float32).T
        return scores


def binarise(vectors: Vectors) -> BinaryCodes:
    """The signs of [N, D] as packed bits [N, ⌈D / 8⌉] uint8: 1 where positive, unused bits 0."""
    return np.packbits(_checked(vectors) > 0, axis=1)


def unpack_binary(codes: BinaryCodes, dimension: int) -> Vectors:
    """Unit vectors [N, D] float32 with the stored signs."""
    signs = np.unpackbits(codes, axis=1, count=dimension).astype(np.float32) * 2 - 1
    return np.asarray(signs / np.sqrt(dimension), np.float32)


def binary_scores(queries: BinaryCodes, passages: BinaryCodes, dimension: int) -> Vectors:
    """1 - 2 · hamming / D for all pairs, [Q, P]: the cosine of the unpacked vectors, from -1 to 1."""
    differing = np.empty((len(queries), len(passages)), np.float32)
    for row, query in enumerate(queries):
        differing[row] = np.bitwise_count(passages ^ query).sum(axis=1, dtype=np.int32)
    return 1 - 2 * differing / np.float32(dimension)


def cosine_loss(vectors: Vectors, restored: Vectors) -> float:
    """1 - the mean cosine between vectors and what a code kept of them."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(restored, axis=1)
    return float(1 - ((vectors * restored).sum(axis=1) / norms).mean())


def _checked(vectors: Vectors, dimension: int | None = None) -> Vectors:
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or (dimension is not None and vectors.shape[1] != dimension):
        raise ModelError(f"expected vectors [N, {dimension or 'D'}], found an array of shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ModelError("a vector is not finite; a code of it would mean nothing")
    return vectors
