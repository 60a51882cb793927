"""Scores, quality and cost of every way to rerank, from one pass per width.

A pass shows the scores of all its exits, so nothing is scored twice: what a way ranks is read off the pass
that shows its exit, and what it costs is counted from the real lengths of the same passages. The same holds
for cascades, because a candidate's score does not depend on the others: who would go on can be told from the
scores of a pass that carried all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icl_embed.errors import ConfigError
from icl_embed.evaluate.measurement import Measurement
from icl_embed.rerank.cascade import Cascade, Outcome
from icl_embed.rerank.flops import Costs, query_flops
from icl_embed.rerank.measuring.candidates import Candidates, RankedQuery
from icl_embed.rerank.measuring.metrics import METRICS, NDCG
from icl_embed.rerank.pair_tokens import PairTokens
from icl_embed.rerank.score import Exits, Reranker
from icl_embed.rerank.shape import Shape
from icl_embed.rerank.ways import Way, exits_of, name_of, shape_of

Progress = Callable[[str, int, int], None]
"""Told the data set, how many queries are behind and how many there are."""


@dataclass(frozen=True)
class ScoredQuery:
    """A query's candidates with their scores at every exit of every pass.

    Attributes
        ran: scores and seconds of the cascades that were run by themselves.
    """

    query: RankedQuery
    tokens: Sequence[PairTokens]
    exits: Mapping[Shape, Exits]
    ran: dict[Cascade, tuple[NDArray[np.float64], float]] = field(default_factory=dict)


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
        return len(self.queries)

    def scores(self, scored: ScoredQuery, way: Way) -> NDArray[np.floating[Any]]:
        """Scores [N] of a query's candidates; of a cascade those that order all of them."""
        if isinstance(way, Cascade):
            return scored.ran[way][0] if way in scored.ran else self._outcome(scored, way).scores
        return self._at(scored, way, way.cutoff_layer)

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
            self._flops[way] = np.array([self._query_flops(one, way) for one in self.queries])
        return self._flops[way]

    def flops_without_sharing(self, shape: Shape) -> NDArray[np.int64]:
        """The same when every candidate goes through the model with its own copy of the query."""
        return np.array(
            [query_flops(self.costs, one.tokens, shape, share_queries=False) for one in self.queries]
        )

    def seconds(self, way: Way) -> NDArray[np.float64]:
        """Seconds per query: of the run, or until a pass had the scores of this exit.

        Raises
            ConfigError: a cascade that was not run by itself.
        """
        if isinstance(way, Cascade):
            if not all(way in one.ran for one in self.queries):
                raise ConfigError(f"{name_of(way)}: a cascade's seconds are known once it was run")
            return np.array([one.ran[way][1] for one in self.queries])
        shown = [one.exits[self.exits[way]] for one in self.queries]
        return np.array([exits.seconds[exits.layers.index(way.cutoff_layer)] for exits in shown])

    def lengths(self) -> dict[str, dict[str, float]]:
        """Tokens of queries, passages and whole pairs: mean and quantiles over all pairs."""
        pairs = [pair for one in self.queries for pair in one.tokens]
        parts = {
            "query": [len(pair.query) for pair in pairs],
            "passage": [len(pair.passage) for pair in pairs],
            "pair": [len(pair) for pair in pairs],
        }
        return {name: _summary(lengths) for name, lengths in parts.items()}

    def _at(self, scored: ScoredQuery, way: Way, layer: int) -> NDArray[np.float32]:
        exits = scored.exits[self.exits[shape_of(way)]]
        found: NDArray[np.float32] = exits.scores[exits.layers.index(layer)]
        return found

    def _outcome(self, scored: ScoredQuery, cascade: Cascade) -> Outcome:
        def scores_of(layer: int, candidates: Sequence[int]) -> NDArray[np.float32]:
            return self._at(scored, cascade, layer)[list(candidates)]

        [outcome] = cascade.outcomes(scores_of, [len(scored.tokens)])
        return outcome

    def _query_flops(self, scored: ScoredQuery, way: Way) -> int:
        reached = self._outcome(scored, way).reached if isinstance(way, Cascade) else None
        return query_flops(self.costs, scored.tokens, way, reached=reached)

    @property
    def queries(self) -> list[ScoredQuery]:
        """Those of all data sets."""
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
        DataError: an empty query.
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
    return Grid(sets, exits_of(reranker.settings, passes), reranker.costs)


def time_cascade(
    reranker: Reranker, grid: Grid, cascade: Cascade, *, batch_tokens: int, progress: Progress | None = None
) -> None:
    """Run a cascade by itself on every query: its scores and seconds then are those of the run."""
    tell = progress or (lambda *_: None)
    reranker.score_cascade(grid.queries[0].query.pairs, cascade, batch_tokens=batch_tokens)  # warm up
    for number, one in enumerate(grid.queries, start=1):
        found = reranker.score_cascade(one.query.pairs, cascade, batch_tokens=batch_tokens)
        one.ran[cascade] = (found.scores, found.seconds)
        tell(name_of(cascade), number, grid.num_queries)


def _summary(lengths: Sequence[int]) -> dict[str, float]:
    values = np.asarray(lengths)
    quantiles = {f"p{share}": float(np.percentile(values, share)) for share in (5, 25, 50, 75, 95)}
    return {"mean": round(float(values.mean()), 2), **quantiles, "max": float(values.max())}
