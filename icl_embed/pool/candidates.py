"""Candidates for hard negatives: the passages that look most like an answer to a query.

Queries are ranked a shard at a time. A ``ByScores`` gives a block of queries a score for every passage and
takes the best; a ``ByVectors`` searches vectors, which may lie on disk. Ranking is exact (but for FAISS,
where it is asked for), and ties go to the lower index.

Shape letters: Q queries, P passages, K ranks, B queries of a block, L labels, N pairs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from icl_embed.bm25 import bm25_tokens, index_texts
from icl_embed.errors import PoolError
from icl_embed.model.search import SearchResult, VectorRows, best_passages, finite_rows
from icl_embed.pool.mining_task import Task
from icl_embed.store.files import write_atomically

logger = logging.getLogger(__name__)

Embed = Callable[[Sequence[str], str | None], VectorRows]  # (texts, instruction or None) -> [N, D]
Search = Callable[[VectorRows], Callable[[NDArray[np.float32], int], SearchResult]]
"""Passages -> (queries, K) -> their best."""

BLOCK_SCORES = 8_000_000  # scores held at once by each thread: 32 MB
PAIRS_AT_ONCE = 8192
MAX_THREADS = 16


@dataclass(frozen=True)
class Ranking:
    """The best passages of each query of a shard.

    Attributes
        passages: int32 [Q, K], best first; -1 where there are fewer.
        scores: float32 [Q, K].
        positive_scores: float32 [N] of the pairs of these queries.
    """

    passages: NDArray[np.int32]
    scores: NDArray[np.float32]
    positive_scores: NDArray[np.float32]


class Ranker(Protocol):
    """Ranks passages for queries."""

    def rank(self, task: Task, first: int, last: int) -> Ranking:
        """The best passages of the queries first … last - 1, and the scores of their pairs."""


def exact_search(passages: VectorRows) -> Callable[[NDArray[np.float32], int], SearchResult]:
    """Search of all passages, on the CPU."""
    return lambda queries, top_k: best_passages(queries, passages, top_k=top_k)


class Scorer(Protocol):
    """Scores of queries against passages; higher is better."""

    num_queries: int
    num_passages: int
    floor: float  # scores up to this say nothing, e.g. 0 for BM25: no shared word

    def score(self, first: int, last: int) -> NDArray[np.float32]:
        """Scores of the queries first … last - 1, float32 [B, P]."""
        ...


class Bm25Scorer:
    """BM25 (bm25s, Lucene variant) of queries against passages."""

    floor = 0.0

    def __init__(self, queries: Sequence[str], passages: Sequence[str]) -> None:
        self.num_queries, self.num_passages = len(queries), len(passages)
        self._queries = queries
        self._index = index_texts(passages)

    def score(self, first: int, last: int) -> NDArray[np.float32]:
        """As ``Scorer.score``."""
        scores = np.zeros((last - first, self.num_passages), np.float32)
        for row, tokens in enumerate(bm25_tokens(self._queries[first:last])):
            if self._index is not None and tokens:
                scores[row] = self._index.get_scores(tokens)
        return scores


class DenseScorer:
    """Inner products of query and passage vectors, exact; a vector that is not finite is a ModelError."""

    floor = -np.inf

    def __init__(self, queries: VectorRows, passages: VectorRows) -> None:
        _refuse_two_widths(queries, passages)
        self.num_queries, self.num_passages = queries.shape[0], passages.shape[0]
        self._queries = queries
        self._passages = finite_rows(passages[:], 0, "passage").numpy()

    def score(self, first: int, last: int) -> NDArray[np.float32]:
        """As ``Scorer.score``."""
        asked = finite_rows(self._queries[first:last], first, "query").numpy()
        scores: NDArray[np.float32] = asked @ self._passages.T
        return scores


class LabelScorer:
    """Labels as passages: a label's score for a query is that of its most similar text.

    So the hardest label for a text is the one whose texts it could be mistaken for, whatever the labels are
    called ("1 star" and "5 stars" differ in one word, their reviews do not).
    """

    def __init__(self, texts: Scorer, label_of_text: NDArray[np.int64], num_labels: int) -> None:
        self.num_queries, self.num_passages, self.floor = texts.num_queries, num_labels, texts.floor
        self._texts = texts
        self._order = np.argsort(label_of_text, kind="stable")
        self._labels, self._starts = np.unique(label_of_text[self._order], return_index=True)

    def score(self, first: int, last: int) -> NDArray[np.float32]:
        """As ``Scorer.score``, [B, L]; a label without texts gets -inf."""
        by_label = self._texts.score(first, last)[:, self._order]
        scores = np.full((last - first, self.num_passages), -np.inf, np.float32)
        scores[:, self._labels] = np.maximum.reduceat(by_label, self._starts, axis=1)
        return scores


@dataclass(frozen=True)
class ByScores:
    """Ranks by scores of all passages, a block of queries at a time and several blocks at once.

    Attributes
        depth: ranks to keep (K).
        width: columns that the scorer holds internally, if more than its passages.
    """

    scorer: Scorer
    depth: int
    width: int = 0

    def rank(self, task: Task, first: int, last: int) -> Ranking:
        """As ``Ranker.rank``."""
        pairs = task.pairs_of(first, last)
        found = _empty(last - first, min(self.depth, self.scorer.num_passages), len(pairs))
        step = max(1, BLOCK_SCORES // max(1, self.scorer.num_passages, self.width))

        def block(start: int) -> None:
            stop = min(start + step, last)
            scores = self.scorer.score(start, stop)
            mine = slice(*np.searchsorted(task.pair_query, [start, stop]))
            places = slice(mine.start - pairs.start, mine.stop - pairs.start)
            queries = task.pair_query[mine] - start
            found.positive_scores[places] = scores[queries, task.pair_positive[mine]]
            for row in range(start, stop):
                best = top_ranked(scores[row - start], self.depth, self.scorer.floor)
                found.passages[row - first, : len(best)] = best
                found.scores[row - first, : len(best)] = scores[row - start, best]

        with ThreadPoolExecutor(_threads()) as threads:
            list(threads.map(block, range(first, last, step)))
        return found


class ByVectors:
    """Ranks by inner products of vectors."""

    def __init__(self, queries: VectorRows, passages: VectorRows, *, depth: int, search: Search) -> None:
        _refuse_two_widths(queries, passages)
        self._queries, self._passages, self._depth = queries, passages, depth
        self._search = search(passages)

    def rank(self, task: Task, first: int, last: int) -> Ranking:
        """As ``Ranker.rank``; raises ModelError if a vector is not finite."""
        asked = np.asarray(self._queries[first:last], np.float32)
        best = self._search(asked, self._depth)
        pairs = task.pairs_of(first, last)
        found = _empty(len(asked), best.indices.shape[1], len(pairs))
        found.passages[:], found.scores[:] = best.indices, best.scores
        for start in range(pairs.start, pairs.stop, PAIRS_AT_ONCE):
            mine = slice(start, min(start + PAIRS_AT_ONCE, pairs.stop))
            queries = asked[task.pair_query[mine] - first]
            positives = np.asarray(self._passages[task.pair_positive[mine]], np.float32)
            places = slice(mine.start - pairs.start, mine.stop - pairs.start)
            found.positive_scores[places] = np.einsum("nd,nd->n", queries, positives)
        return found


def kept_ranking(path: Path | None, about: str, rank: Callable[[], Ranking]) -> Ranking:
    """The ranking that a file holds, or a new one, which is then kept in it; None keeps nothing.

    A file is used if its bytes are those that were written, and for the same queries under the same settings.

    Parameters
        about: what decides the ranking.

    Raises
        StoreError: the disk refused.
    """
    from safetensors.numpy import save

    if path is None:
        return rank()
    if path.exists():
        try:
            return _read_ranking(path, about)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is ranked again: %s", path.name, error)
    found = rank()
    arrays = {field.name: getattr(found, field.name) for field in fields(Ranking)}
    data = save(arrays)
    facts = json.dumps({"about": about, "sha256": hashlib.sha256(data).hexdigest()}).encode()
    write_atomically(path, facts + b"\n" + data)
    return found


def _read_ranking(path: Path, about: str) -> Ranking:
    from safetensors.numpy import load

    head, _, data = path.read_bytes().partition(b"\n")
    facts = json.loads(head)
    if facts["about"] != about:
        raise ValueError("it holds another ranking")
    if facts["sha256"] != hashlib.sha256(data).hexdigest():
        raise ValueError("its bytes are not those that were written")
    return Ranking(**load(data))


def _empty(num_queries: int, depth: int, num_pairs: int) -> Ranking:
    return Ranking(
        np.full((num_queries, depth), -1, np.int32),
        np.full((num_queries, depth), -np.inf, np.float32),
        np.zeros(num_pairs, np.float32),
    )


def _threads() -> int:
    return min(MAX_THREADS, len(os.sched_getaffinity(0)))


def _refuse_two_widths(queries: VectorRows, passages: VectorRows) -> None:
    if len(queries.shape) != 2 or len(passages.shape) != 2 or queries.shape[1] != passages.shape[1]:
        raise PoolError(
            f"embed must return [N, D] vectors of one width, found {queries.shape} and {passages.shape}"
        )


def top_ranked(scores: NDArray[np.float32], depth: int, floor: float = -np.inf) -> NDArray[np.int64]:
    """Indices of the best scores above ``floor``, best first, ties by index: the same on every machine."""
    kept = np.flatnonzero(scores > floor)
    if len(kept) > depth:
        # Every index that reaches the last place, then a stable sort: no tie is left to the partition.
        last = np.partition(scores[kept], len(kept) - depth)[len(kept) - depth]
        kept = kept[scores[kept] >= last]
    return kept[np.argsort(-scores[kept], kind="stable")][:depth]
