"""What the reranker is measured on: the first stage's best passages per test query, and nDCG@10."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from icl_embed.errors import EvaluationError
from icl_embed.evaluate.scores import TOP_PASSAGES_NAME, read_scores

CUT = 10
COLUMNS = ("query_id", "query", "passage", "rank", "relevance")


@dataclass(frozen=True)
class RankedQuery:
    """A test query with its candidates in first-stage order."""

    query_id: str
    query: str
    passages: tuple[str, ...]
    relevance: tuple[int, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The (query, passage) pairs to score."""
        return [(self.query, passage) for passage in self.passages]


@dataclass(frozen=True)
class Candidates:
    """The test queries of one data set."""

    dataset: str
    trained_on: bool
    queries: tuple[RankedQuery, ...]

    @property
    def reachable(self) -> float:
        """Share of queries with a relevant passage among the candidates: no reranker can serve the others."""
        return float(np.mean([any(query.relevance) for query in self.queries]))


def read_candidates(
    evaluations: Sequence[Path], *, top_k: int, max_queries: int, seed: int
) -> list[Candidates]:
    """Candidates of every evaluation that ranked a corpus; others are left out.

    Parameters
        max_queries: queries kept per data set, sampled by hash.

    Raises
        EvaluationError: a file is damaged, or no evaluation ranked a corpus.
    """
    found = [
        _read_one(folder, top_k=top_k, max_queries=max_queries, seed=seed)
        for folder in evaluations
        if (folder / TOP_PASSAGES_NAME).exists()
    ]
    if not found:
        raise EvaluationError(
            f"none of the {len(evaluations)} evaluations has {TOP_PASSAGES_NAME}; reranking needs "
            "at least one retrieval data set in data.evaluate"
        )
    return sorted(found, key=lambda candidates: candidates.dataset)


def _read_one(folder: Path, *, top_k: int, max_queries: int, seed: int) -> Candidates:
    import pyarrow as pa
    from pyarrow import parquet

    path = folder / TOP_PASSAGES_NAME
    try:
        rows = parquet.read_table(path, columns=list(COLUMNS)).to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise EvaluationError(f"cannot read {path}: {error}") from error
    by_query: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_query.setdefault(row["query_id"], []).append(row)
    if not by_query:
        raise EvaluationError(f"{path} holds no query; evaluate the embedder on this data set again")
    kept = sorted(by_query, key=lambda query_id: hashlib.sha256(f"{seed}:{query_id}".encode()).digest())
    scores = read_scores(folder)
    queries = tuple(_ranked_query(by_query[query_id], top_k) for query_id in sorted(kept[:max_queries]))
    return Candidates(scores.dataset, scores.trained_on, queries)


def _ranked_query(rows: list[dict[str, Any]], top_k: int) -> RankedQuery:
    best = sorted(rows, key=lambda row: row["rank"])[:top_k]
    return RankedQuery(
        best[0]["query_id"],
        best[0]["query"],
        tuple(row["passage"] for row in best),
        tuple(row["relevance"] for row in best),
    )


def ndcg_at_10(relevance: Sequence[int], scores: ArrayLike) -> float:
    """nDCG@10 of candidates ranked by score; equal scores keep the first stage's order.

    Linear gain, as trec_eval. The ideal is the best order *of these candidates*: a relevant passage that the
    first stage missed is charged to the first stage (a query without any counts 0), not to the reranker.
    """
    gains = np.asarray(relevance, dtype=np.float64)
    discounts = 1.0 / np.log2(np.arange(2, 2 + min(CUT, len(gains))))
    ranked = gains[np.argsort(-np.asarray(scores), kind="stable")][:CUT]
    ideal = np.sort(gains)[::-1][:CUT]
    best = float(ideal @ discounts)
    return float(ranked @ discounts) / best if best > 0 else 0.0
