"""The cheapest way to rerank that loses little on development queries.

Ways are compared with full depth, query by query. The bound is on the mean loss, or, to be safe, on the upper
end of its bootstrap interval. Choosing the best of many on the same queries flatters the choice a little:
what it loses on unseen queries is for an evaluation to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from icl_embed.errors import EvaluationError
from icl_embed.evaluate.measurement import Bootstrap
from icl_embed.evaluate.statistics import (
    Difference,
    Floats,
    Interval,
    paired_difference,
    percentile_interval,
)
from icl_embed.rerank.measuring.candidates import Candidates
from icl_embed.rerank.measuring.grid import Grid
from icl_embed.rerank.ways import Way

ROUNDING = 1e-12  # equal qualities summed in another order


@dataclass(frozen=True)
class Limit:
    """What a choice may lose.

    Attributes
        max_loss: nDCG@10 as a fraction (0.005 is half a point).
        safe: hold the upper end of the loss's interval to it instead of the mean.
    """

    max_loss: float
    safe: bool = False
    how: Bootstrap = field(default_factory=Bootstrap)

    def allows(self, loss: Difference) -> bool:
        """Whether a loss is small enough."""
        return (loss.high if self.safe else loss.mean) <= self.max_loss + ROUNDING


@dataclass(frozen=True)
class Tried:
    """One way on the development queries.

    Attributes
        quality: nDCG@10, averaged over data sets.
        loss: full depth minus this way, paired.
        flops: mean operations per query.
        is_efficient: nothing tried is both cheaper and at least as good.
    """

    way: Way
    quality: Interval
    loss: Difference
    flops: float
    is_allowed: bool
    is_efficient: bool


@dataclass(frozen=True)
class Choice:
    """The chosen way among all that were tried, cheapest first."""

    chosen: Tried
    full: Tried
    tried: tuple[Tried, ...]
    limit: Limit

    @property
    def flops_saved(self) -> float:
        """Share of full depth's operations that the choice saves, both sharing the query's part."""
        return 1.0 - self.chosen.flops / self.full.flops


def choose_way(grid: Grid, ways: Sequence[Way], full: Way, limit: Limit) -> Choice:
    """The cheapest way within the limit; full depth itself when nothing cheaper is.

    Of equally cheap ways the better one is taken.
    """
    tried = tried_ways(grid, ways, full, limit)
    whole = next(one for one in tried if one.way == full)
    allowed = [one for one in tried if one.is_allowed or one is whole]
    chosen = min(allowed, key=lambda one: (one.flops, -one.quality.mean))
    return Choice(chosen, whole, tuple(tried), limit)


def tried_ways(grid: Grid, ways: Sequence[Way], full: Way, limit: Limit) -> list[Tried]:
    """Every way with its quality, loss and cost, cheapest first."""
    drawn = _replicates(grid, ways, limit.how)
    costs = {way: float(grid.flops(way).mean()) for way in ways}
    best, tried = -1.0, []
    for way in sorted(ways, key=lambda way: (costs[way], -grid.quality(way))):
        point = grid.quality(way)
        pair = (drawn[full], drawn[way])
        loss = paired_difference((grid.quality(full), point), pair, limit.how.confidence)
        quality = percentile_interval(point, drawn[way], limit.how.confidence)
        tried.append(Tried(way, quality, loss, costs[way], limit.allows(loss), point > best + ROUNDING))
        best = max(best, point)
    return tried


def _replicates(grid: Grid, ways: Sequence[Way], how: Bootstrap) -> dict[Way, Floats]:
    """The average quality on resampled queries [R] of every way; the same resamples for all."""
    drawn: dict[Way, Floats] = {way: np.zeros(how.resamples) for way in ways}
    for number in range(len(grid.sets)):  # outside, because the draws of one data set are kept for a while
        for way in ways:
            drawn[way] = drawn[way] + grid.measurements(way)[number].replicates(how) / len(grid.sets)
    return drawn


def refuse_test_queries(inputs: Sequence[Candidates]) -> None:
    """Choosing by test queries would make every later score on them worthless.

    Raises
        EvaluationError: an evaluation of a test split is among the inputs.
    """
    test = [candidates.dataset for candidates in inputs if candidates.split == "test"]
    if test:
        raise EvaluationError(
            f"{', '.join(test)}: these are test queries; a way is chosen on development queries only. Give "
            "evaluations of a dev split (the flow distill-reranker makes them), or a .jsonl file of queries"
        )
