"""Scores, quality and cost of every way to rerank, from one pass per width.

A pass shows the scores of all its exits, so nothing is scored twice: what a way ranks is read off the pass
that shows its exit, and what it costs is counted from the real lengths of the same passages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from icl_embed.evaluate.measurement import Measurement
from icl_embed.rerank.candidates import Candidates, RankedQuery
from icl_embed.rerank.flops import Costs, costs_of
from icl_embed.rerank.metrics import METRICS, NDCG
from icl_embed.rerank.pair_tokens import PairTokens
from icl_embed.rerank.score import Exits, Reranker
from icl_embed.rerank.shape import Shape
from icl_embed.rerank.ways import Way, exits_of

Progress = Callable[[str, int, int], None]
"""Told the data set, how many queries are behind and how many there are."""


@dataclass(frozen=True)
class ScoredQuery:
    """A query's candidates with their scores at every exit of every pass."""

    query: RankedQuery
    tokens: Sequence[PairTokens]
    exits: Mapping[Shape, Exits]


@dataclass(frozen=True)
class ScoredSet:
    """The queries of one data set, scored."""

    candidates: Candidates
    queries: tuple[ScoredQuery, ...]

    def measurement(self, values: Sequence[float]) -> Measurement:
        """Per-query values as a measurement, for intervals and paired comparisons."""
        ids = tuple(scored.query.query_id for scored in self.queries)
        return Measurement(self.candidates.dataset, "mean", ids, tuple(values))

    def first_stage(self, metric: str = NDCG) -> Measurement:
        """The order in which the candidates came."""
        measure = METRICS[metric]
        return self.measurement(
            [
                measure(one.query.relevance, range(len(one.query.passages), 0, -1), one.query.judged)
                for one in self.queries
            ]
        )


@dataclass
class Grid:
    """Every way on every data set; quality and cost are worked out when asked for, and kept.

    Attributes
        exits: each exit with the pass that shows it.
    """

    sets: Sequence[ScoredSet]
    exits: Mapping[Shape, Shape]
    costs: Costs
    _measured: dict[tuple[Way, str], list[Measurement]] = field(default_factory=dict)
    _flops: dict[Way, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def num_queries(self) -> int:
        """Queries of all data sets."""
        return sum(len(one.queries) for one in self.sets)

    def scores(self, scored: ScoredQuery, way: Way) -> NDArray[np.float32]:
        """Scores [N] of a query's candidates."""
        exits = scored.exits[self.exits[way]]
        found: NDArray[np.float32] = exits.scores[exits.layers.index(way.cutoff_layer)]
        return found

    def measurements(self, way: Way, metric: str = NDCG) -> list[Measurement]:
        """One measurement per data set."""
        if (way, metric) not in self._measured:
            measure = METRICS[metric]
            self._measured[way, metric] = [
                one.measurement(
                    [
                        measure(scored.query.relevance, self.scores(scored, way), scored.query.judged)
                        for scored in one.queries
                    ]
                )
                for one in self.sets
            ]
        return self._measured[way, metric]

    def quality(self, way: Way) -> float:
        """nDCG@10, averaged over data sets."""
        return float(np.mean([measured.point for measured in self.measurements(way)]))

    def flops(self, way: Way) -> NDArray[np.int64]:
        """Operations per query, over the queries of all data sets."""
        if way not in self._flops:
            self._flops[way] = np.array([self.costs.ranking(one.tokens, way) for one in self._queries()])
        return self._flops[way]

    def flops_without_sharing(self, way: Way) -> NDArray[np.int64]:
        """The same when every candidate goes through the model with its own copy of the query."""
        return np.array([self.costs.ranking(one.tokens, way, share_query=False) for one in self._queries()])

    def seconds(self, way: Way) -> NDArray[np.float64]:
        """Seconds per query until the pass had the scores of this exit."""
        shown = [one.exits[self.exits[way]] for one in self._queries()]
        return np.array([exits.seconds[exits.layers.index(way.cutoff_layer)] for exits in shown])

    def lengths(self) -> dict[str, dict[str, float]]:
        """Tokens of queries, passages and whole pairs: mean and quantiles over all pairs."""
        pairs = [pair for one in self._queries() for pair in one.tokens]
        parts = {
            "query": [len(pair.query) for pair in pairs],
            "passage": [len(pair.passage) for pair in pairs],
            "pair": [len(pair) for pair in pairs],
        }
        return {name: _summary(lengths) for name, lengths in parts.items()}

    def _queries(self) -> list[ScoredQuery]:
        return [scored for one in self.sets for scored in one.queries]


def score_grid(
    reranker: Reranker,
    inputs: Sequence[Candidates],
    passes: Sequence[Shape],
    *,
    batch_tokens: int,
    progress: Progress | None = None,
) -> Grid:
    """Score every candidate in every pass.

    Raises
        DataError: an empty query or passage.
        ModelError: a score is not finite.
    """
    tell = progress or (lambda *_: None)
    for whole in passes:  # warm up: the clock starts afterwards
        reranker.score_exits(inputs[0].queries[0].pairs, whole, batch_tokens=batch_tokens)
    sets = []
    for candidates in inputs:
        scored = []
        for number, query in enumerate(candidates.queries):
            tell(candidates.dataset, number, len(candidates.queries))
            exits = {
                whole: reranker.score_exits(query.pairs, whole, batch_tokens=batch_tokens) for whole in passes
            }
            scored.append(ScoredQuery(query, reranker.pairs.pairs(query.pairs), exits))
        sets.append(ScoredSet(candidates, tuple(scored)))
        tell(candidates.dataset, len(candidates.queries), len(candidates.queries))
    return Grid(sets, exits_of(reranker.settings, passes), costs_of(reranker.model.decoder))


def _summary(lengths: Sequence[int]) -> dict[str, float]:
    values = np.asarray(lengths)
    quantiles = {f"p{share}": float(np.percentile(values, share)) for share in (5, 25, 50, 75, 95)}
    return {"mean": round(float(values.mean()), 2), **quantiles, "max": float(values.max())}
