"""The best passages of each query by exact dot products, of vectors in memory or on disk.

Passages are taken block by block and never all at once, so they may be more than the memory holds: an array,
a memory-mapped file, or shards on disk (``StoredVectors``). Products are in float32 whatever the vectors are
stored in. Numbers stored in float16 are off by up to 5·10⁻⁴ of themselves, which errors average out: a cosine
of unit vectors of 384 dimensions is off by 10⁻⁵ (``tests/bench/results/mine.json`` has the measured figure).

Shape letters: Q queries, P passages of a block, K ranks, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icl_embed.errors import ConfigError, ModelError

SCORES_AT_ONCE = 1 << 26  # 256 MiB of float32
BLOCK_NUMBERS = 1 << 25  # of passages that are searched at once: 128 MiB of float32
BLOCK_PASSAGES = 1 << 16
MANY = 4  # times K new candidates for a query: the block's own best are found first
Found = tuple[Tensor, Tensor]  # scores and positions [Q, K]


class VectorRows(Protocol):
    """Vectors [N, D] whose rows can be read a few at a time; an array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N and D."""

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        """The vectors of a slice, or of an array of positions."""


@dataclass(frozen=True, eq=False)
class UnitRows:
    """Vectors as vectors of length one, so that products of them are cosines."""

    vectors: VectorRows

    @property
    def shape(self) -> tuple[int, ...]:
        """N and D."""
        return self.vectors.shape

    def __getitem__(self, rows: Any, /) -> NDArray[np.float32]:
        """Some of the vectors, in float32."""
        found = np.asarray(self.vectors[rows], np.float32)
        unit: NDArray[np.float32] = found / np.linalg.norm(found, axis=1, keepdims=True)
        return unit


@dataclass(frozen=True, eq=False)
class SearchResult:
    """For each query its best passages, best first; equal scores in the order of the passages.

    Attributes
        indices: [Q, K] int64, positions in the list of passages.
        scores: [Q, K] float32, cosines.
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]


def best_passages(
    queries: NDArray[np.float32],
    passages: VectorRows,
    *,
    top_k: int,
    devices: Sequence[torch.device | str] = ("cpu",),
) -> SearchResult:
    """The ``top_k`` passages (all, if there are fewer) of each query, from vectors [Q, D] and [P, D].

    Parameters
        devices: where products are computed, each of other blocks of passages; a device takes the queries and
            one block at a time.

    Raises
        ConfigError: ``top_k`` is not positive.
        ModelError: the vectors are of different lengths, or one is not finite.
    """
    if top_k < 1:
        raise ConfigError(f"top_k must be at least 1, found {top_k}")
    if len(passages.shape) != 2 or queries.shape[1] != passages.shape[1]:
        raise ModelError(
            f"queries and passages must be vectors of one length, found {queries.shape} and {passages.shape}"
        )
    asked = finite_rows(queries, 0, "query")
    blocks = _Shared(blocks_of(passages))
    shape = (len(queries), min(top_k, passages.shape[0]))
    if len(devices) == 1:
        scores, indices = _best_of(asked.to(devices[0]), blocks, shape)
    else:  # products leave the interpreter to other threads
        with ThreadPoolExecutor(len(devices)) as threads:
            found = [threads.submit(_best_of, asked.to(device), blocks, shape) for device in devices]
            parts = [one.result() for one in found]
        scores, indices = _best_of_all(parts, shape[1])
    return SearchResult(indices.cpu().numpy(), scores.cpu().numpy())


class _Shared(Iterator[tuple[int, Tensor]]):
    """Blocks that several threads take, each block once."""

    def __init__(self, blocks: Iterator[tuple[int, Tensor]]) -> None:
        self._blocks, self._lock = blocks, Lock()

    def __next__(self) -> tuple[int, Tensor]:
        with self._lock:
            return next(self._blocks)


def _best_of(asked: Tensor, blocks: Iterator[tuple[int, Tensor]], shape: tuple[int, int]) -> Found:
    """The best of the blocks that are taken here: scores and positions [Q, K], on the queries' device."""
    device = asked.device
    scores = torch.full(shape, -torch.inf, device=device)
    indices = torch.full(shape, -1, dtype=torch.int64, device=device)
    for first, block in blocks:
        passages_PD = block.to(device)
        step = max(1, SCORES_AT_ONCE // len(block))
        for start in range(0, len(asked), step):
            part = slice(start, start + step)
            _merge(scores[part], indices[part], _products(asked[part], passages_PD), first)
    return scores, indices


def _best_of_all(parts: Sequence[Found], top_k: int) -> Found:
    """Of each query the best of all parts; equal scores in the order of the passages."""
    scores, indices = (torch.cat([one.cpu() for one in each], dim=1) for each in zip(*parts, strict=True))
    by_place = indices.argsort(dim=1)
    scores, indices = scores.gather(1, by_place), indices.gather(1, by_place)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    return scores.gather(1, order), indices.gather(1, order)


def blocks_of(passages: VectorRows) -> Iterator[tuple[int, Tensor]]:
    """The position of the first vector of each block, and the block in float32.

    Raises
        ModelError: a vector is not finite.
    """
    count, dimension = passages.shape
    step = max(1, min(BLOCK_PASSAGES, BLOCK_NUMBERS // max(1, dimension)))
    for first in range(0, count, step):
        yield first, finite_rows(passages[first : first + step], first, "passage")


def finite_rows(vectors: NDArray[Any], first: int, what: str) -> Tensor:
    """Vectors in float32, if every number can be compared; raises ModelError if not."""
    found = torch.from_numpy(np.require(vectors, np.float32, "W"))  # torch takes no read-only memory map
    finite = found.isfinite().all(dim=1)
    if not finite.all():
        row = first + int((~finite).nonzero()[0])
        raise ModelError(
            f"the vector of {what} {row} is not finite ({int((~finite).sum())} of {len(found)}); no score of "
            "it would mean anything, check the model's weights and dtype"
        )
    return found


def _products(queries_QD: Tensor, passages_PD: Tensor) -> Tensor:
    if queries_QD.device.type == "cpu":  # numpy's products, so that they are those that others compute
        return torch.from_numpy(queries_QD.numpy() @ passages_PD.numpy().T)
    return queries_QD @ passages_PD.T


def _merge(scores: Tensor, indices: Tensor, found_QP: Tensor, first: int) -> None:
    """Put the passages of a block among the best so far, in place.

    Exact in ties too: what was there came earlier, so only higher scores enter; and the sort is stable.
    """
    top_k = scores.shape[1]
    enters = found_QP > scores[:, -1:]
    counts = enters.count_nonzero(dim=1)
    if top_k < found_QP.shape[1] and int(counts.max()) > MANY * top_k:
        enters &= found_QP >= found_QP.topk(top_k).values[:, -1:]
        counts = enters.count_nonzero(dim=1)
    width = int(counts.max())
    if not width:
        return
    rows, columns = enters.nonzero(as_tuple=True)
    places = top_k + torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    room = (len(scores), top_k + width)
    all_scores = torch.full(room, -torch.inf, device=scores.device)
    all_indices = torch.full(room, -1, dtype=torch.int64, device=scores.device)
    all_scores[:, :top_k], all_indices[:, :top_k] = scores, indices
    all_scores[rows, places], all_indices[rows, places] = found_QP[rows, columns], columns + first
    order = all_scores.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    scores.copy_(all_scores.gather(1, order))
    indices.copy_(all_indices.gather(1, order))
