"""Quality and cost of every exit layer at every ratio, on one data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from icl_embed.config import RerankConfig
from icl_embed.evaluate.measurement import Measurement
from icl_embed.rerank.candidates import Candidates, RankedQuery, ndcg_at_10
from icl_embed.rerank.flops import Costs, costs_of
from icl_embed.rerank.score import Reranker
from icl_embed.rerank.shape import Shape, choose_shape


@dataclass
class Point:
    """What one shape scored and cost, query by query."""

    shape: Shape
    ndcg: list[float] = field(default_factory=list)
    flops: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class DatasetGrid:
    """All shapes on one data set; ``recomputing_flops`` is full depth without sharing the query's part."""

    candidates: Candidates
    first_stage: tuple[float, ...]
    points: dict[Shape, Point]
    recomputing_flops: tuple[int, ...]

    def measurement(self, values: Sequence[float]) -> Measurement:
        """Per-query values as a measurement, for intervals and paired comparisons."""
        ids = tuple(query.query_id for query in self.candidates.queries)
        return Measurement(self.candidates.dataset, "mean", ids, tuple(values))


def shapes_of(heads: Sequence[int], config: RerankConfig) -> list[Shape]:
    """Every exit at every trained ratio, without the shapes whose compression would never act."""
    ratios = sorted({1, config.compress_ratio, *config.compress_ratios_trained})
    first = min(config.compress_layers, default=heads[-1])
    return [
        choose_shape(heads, cutoff_layer=layer, compress_ratio=ratio, default_layers=config.compress_layers)
        for ratio in ratios
        for layer in heads
        if ratio == 1 or layer > first
    ]


def measure(reranker: Reranker, candidates: Candidates, config: RerankConfig) -> DatasetGrid:
    """Rerank every query at every shape: one pass per ratio gives all its exits, with the time to each."""
    shapes = shapes_of(reranker.settings.head_layers, config)
    points = {shape: Point(shape) for shape in shapes}
    deepest = [shape for shape in shapes if shape.cutoff_layer == reranker.settings.head_layers[-1]]
    costs = costs_of(reranker.model.decoder)
    _rerank(
        reranker, candidates.queries[0], deepest, {}, costs, config
    )  # warm up: the clock starts afterwards
    for query in candidates.queries:
        _rerank(reranker, query, deepest, points, costs, config)
    full = choose_shape(reranker.settings.head_layers)
    return DatasetGrid(
        candidates,
        tuple(ndcg_at_10(query.relevance, range(len(query.passages), 0, -1)) for query in candidates.queries),
        points,
        tuple(
            costs.ranking(reranker.pairs.pairs(query.pairs), full, share_query=False)
            for query in candidates.queries
        ),
    )


def _rerank(
    reranker: Reranker,
    query: RankedQuery,
    deepest: Sequence[Shape],
    points: dict[Shape, Point],
    costs: Costs,
    config: RerankConfig,
) -> None:
    tokens = reranker.pairs.pairs(query.pairs)
    for shape in deepest:
        exits = reranker.score_exits(query.pairs, shape, batch_tokens=config.batch_tokens)
        for layer, scores, seconds in zip(exits.layers, exits.scores, exits.seconds, strict=True):
            inside = tuple(entered for entered in shape.compress_layers if entered < layer)
            # An exit before the first compression is the uncompressed shape, already measured as such.
            exit_shape = Shape(layer, shape.compress_ratio if inside else 1, inside)
            if exit_shape.compress_ratio == shape.compress_ratio and exit_shape in points:
                point = points[exit_shape]
                point.ndcg.append(ndcg_at_10(query.relevance, scores))
                point.flops.append(costs.ranking(tokens, exit_shape))
                point.seconds.append(float(seconds))
