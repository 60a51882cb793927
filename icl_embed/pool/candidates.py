"""Candidates for hard negatives: the passages that look most like an answer to a query.

A scorer gives a block of queries a score for every passage; ``rank_candidates`` turns scores into the best
few per query. Ranking is exact, ties go to the lower index, and a score that is not finite never ranks: NaN
would otherwise be the best of all (it sorts first in DuckDB and in ``torch.topk``).

Shape letters: Q queries, P passages, K ranks, B queries of a block, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icl_embed.bm25 import bm25_tokens, empty_index
from icl_embed.config import LABEL_KINDS
from icl_embed.errors import PoolError
from icl_embed.texts import compared_column


@dataclass(frozen=True)
class Task:
    """One data set's share of the pool, with passages and queries as indices.

    Attributes
        name, kind, instruction: of the data set.
        table: its rows of train.parquet, sorted by query.
        passages, passage_keys: candidate texts and their match keys.
        queries: distinct queries.
        pair_query: int64 [rows], index of each row's query, ascending.
        pair_positive: int64 [rows], index of each row's positive among the passages.
        related: query match key -> indices of passages that the data relates to it.
    """

    name: str
    kind: str
    instruction: str
    table: pa.Table
    passages: list[str]
    passage_keys: list[str]
    queries: list[str]
    query_keys: list[str]
    pair_query: np.ndarray
    pair_positive: np.ndarray
    related: Mapping[str, frozenset[int]]

    @property
    def has_labels(self) -> bool:
        """Whether the passages are label texts."""
        return self.kind in LABEL_KINDS


def dataset_names(pool_dir: Path) -> list[str]:
    """Names of the trained data sets of a pool, sorted."""
    path = pool_dir / "train.parquet"
    try:
        column = pq.read_table(path, columns=["dataset"], use_threads=False).column("dataset")
    except (pa.ArrowException, OSError) as error:
        raise PoolError(f"{path} cannot be read: {error}; build the pool again") from error
    return sorted(pc.unique(column).to_pylist())


def load_task(pool_dir: Path, name: str) -> Task:
    """Read one data set's training pairs, candidate passages and known relations from a pool artefact."""
    # Rows sorted by query make every query's pairs neighbours; pair_id keeps the order total.
    table = _read(pool_dir, "train", name).sort_by([("query", "ascending"), ("pair_id", "ascending")])
    passages: list[str] = _read(pool_dir, "passages", name).column("passage").to_pylist()
    passage_keys = keys_of(passages)
    index_of = {key: index for index, key in enumerate(passage_keys)}
    all_queries = table.column("query").to_pylist()
    queries = list(dict.fromkeys(all_queries))
    query_index = {query: index for index, query in enumerate(queries)}
    try:
        positives = [index_of[key] for key in keys_of(table.column("positive").to_pylist())]
    except KeyError as error:
        raise PoolError(f"{pool_dir}: a positive of {name} is not among its passages: {error}") from error
    relations = _read(pool_dir, "relations", name)
    related: dict[str, set[int]] = {}
    for query, passage in zip(
        keys_of(relations.column("query").to_pylist()),
        keys_of(relations.column("passage").to_pylist()),
        strict=True,
    ):
        if passage in index_of:
            related.setdefault(query, set()).add(index_of[passage])
    first = table.slice(0, 1).to_pylist()[0]
    return Task(
        name=name,
        kind=first["kind"],
        instruction=first["instruction"],
        table=table,
        passages=passages,
        passage_keys=passage_keys,
        queries=queries,
        query_keys=keys_of(queries),
        pair_query=np.array([query_index[query] for query in all_queries], np.int64),
        pair_positive=np.array(positives, np.int64),
        related={query: frozenset(indices) for query, indices in related.items()},
    )


def keys_of(texts: Sequence[str]) -> list[str]:
    """Match keys of some texts."""
    keys: list[str] = compared_column(pa.array(list(texts), pa.string())).to_pylist()
    return keys


def _read(pool_dir: Path, name: str, dataset: str) -> pa.Table:
    path = pool_dir / f"{name}.parquet"
    try:
        return pq.read_table(path, filters=pc.field("dataset") == dataset, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise PoolError(f"{path} cannot be read: {error}; build the pool again") from error


Embed = Callable[[Sequence[str], str | None], np.ndarray]  # (texts, instruction or None) -> [N, D]


BLOCK_SCORES = 8_000_000  # scores held at once: 32 MB


class Scorer(Protocol):
    """Scores of queries against passages; higher is better."""

    num_queries: int
    num_passages: int
    floor: float  # scores up to this say nothing, e.g. 0 for BM25: no shared word

    def score(self, first: int, last: int) -> np.ndarray:
        """Scores of the queries first … last - 1, float32 [B, P]."""
        ...


@dataclass(frozen=True)
class Ranking:
    """The best passages of each query.

    Attributes
        passages: int64 [Q, K], best first; -1 where there are fewer.
        scores: float32 [Q, K].
        positive_scores: float32 [number of (query, positive) pairs], in the order they were given.
        num_non_finite: scores that were thrown away because they were NaN or infinite.
    """

    passages: np.ndarray
    scores: np.ndarray
    positive_scores: np.ndarray
    num_non_finite: int


class Bm25Scorer:
    """BM25 (bm25s, Lucene variant) of queries against passages."""

    floor = 0.0

    def __init__(self, queries: Sequence[str], passages: Sequence[str]) -> None:
        self.num_queries, self.num_passages = len(queries), len(passages)
        self._queries = bm25_tokens(queries)
        tokens = bm25_tokens(passages)
        self._index = None
        if any(tokens):  # bm25s cannot index a corpus without a single word
            self._index = empty_index()
            self._index.index(tokens, show_progress=False)

    def score(self, first: int, last: int) -> np.ndarray:
        """As ``Scorer.score``."""
        scores = np.zeros((last - first, self.num_passages), np.float32)
        for row, tokens in enumerate(self._queries[first:last]):
            if self._index is not None and tokens:
                scores[row] = self._index.get_scores(tokens)
        return scores


class DenseScorer:
    """Inner products of query and passage vectors, exact."""

    floor = -np.inf

    def __init__(self, queries: np.ndarray, passages: np.ndarray) -> None:
        if queries.ndim != 2 or passages.ndim != 2 or queries.shape[1] != passages.shape[1]:
            raise PoolError(
                f"embed must return [N, D] vectors of one width, found {queries.shape} and {passages.shape}"
            )
        self.num_queries, self.num_passages = len(queries), len(passages)
        self._queries = queries.astype(np.float32, copy=False)
        self._passages = passages.astype(np.float32, copy=False)

    def score(self, first: int, last: int) -> np.ndarray:
        """As ``Scorer.score``."""
        with np.errstate(invalid="ignore", over="ignore"):  # rank_candidates counts what is not finite
            return self._queries[first:last] @ self._passages.T


class LabelScorer:
    """Labels as passages: a label's score for a query is that of its most similar text.

    So the hardest label for a text is the one whose texts it could be mistaken for, whatever the labels are
    called ("1 star" and "5 stars" differ in one word, their reviews do not).
    """

    def __init__(self, texts: Scorer, label_of_text: np.ndarray, num_labels: int) -> None:
        self.num_queries, self.num_passages, self.floor = texts.num_queries, num_labels, texts.floor
        self._texts = texts
        self._order = np.argsort(label_of_text, kind="stable")
        self._labels, self._starts = np.unique(label_of_text[self._order], return_index=True)

    def score(self, first: int, last: int) -> np.ndarray:
        """As ``Scorer.score``, [B, L]; a label without texts gets -inf."""
        by_label = self._texts.score(first, last)[:, self._order]
        scores = np.full((last - first, self.num_passages), -np.inf, np.float32)
        scores[:, self._labels] = np.maximum.reduceat(by_label, self._starts, axis=1)
        return scores


def rank_candidates(
    scorer: Scorer, *, depth: int, pair_query: np.ndarray, pair_positive: np.ndarray, block_passages: int = 0
) -> Ranking:
    """Rank all passages for all queries, a block at a time.

    Parameters
        depth: ranks to keep (K).
        pair_query: int [number of pairs], ascending; the query of each (query, positive) pair.
        pair_positive: int, index of the pair's positive among the passages.
        block_passages: columns that the scorer holds internally, if more than its passages.

    Raises
        PoolError: not a single score is finite.
    """
    depth = min(depth, scorer.num_passages)
    passages = np.full((scorer.num_queries, depth), -1, np.int64)
    scores = np.full((scorer.num_queries, depth), -np.inf, np.float32)
    positive_scores = np.zeros(len(pair_query), np.float32)
    num_non_finite = 0
    block = max(1, BLOCK_SCORES // max(1, scorer.num_passages, block_passages))
    for first in range(0, scorer.num_queries, block):
        last = min(first + block, scorer.num_queries)
        scored = scorer.score(first, last)
        bad = np.isnan(scored) | np.isposinf(scored)
        num_non_finite += int(bad.sum())
        scored[bad] = -np.inf
        low, high = np.searchsorted(pair_query, [first, last])
        positive_scores[low:high] = scored[pair_query[low:high] - first, pair_positive[low:high]]
        for row in range(first, last):
            best = top_ranked(scored[row - first], depth, scorer.floor)
            passages[row, : len(best)] = best
            scores[row, : len(best)] = scored[row - first, best]
    if num_non_finite and num_non_finite == scorer.num_queries * scorer.num_passages:
        raise PoolError("every candidate score is NaN or infinite: the embedder is broken, check its weights")
    return Ranking(passages, scores, positive_scores, num_non_finite)


def top_ranked(scores: np.ndarray, depth: int, floor: float = -np.inf) -> np.ndarray:
    """Indices of the best scores above ``floor``, best first, ties by index: the same on every machine."""
    kept = np.flatnonzero(scores > floor)
    if len(kept) > depth:
        # Every index that reaches the last place, then a stable sort: no tie is left to the partition.
        last = np.partition(scores[kept], len(kept) - depth)[len(kept) - depth]
        kept = kept[scores[kept] >= last]
    return kept[np.argsort(-scores[kept], kind="stable")][:depth]
