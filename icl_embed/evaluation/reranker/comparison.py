"""Two rerankers on the same candidates, exit by exit: which training is better, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icl_embed.errors import ConfigError
from icl_embed.evaluation.measurement import (
    Bootstrap,
    Difference,
    Interval,
    Measurement,
    average,
    average_difference,
)
from icl_embed.evaluation.reranker.candidates import NDCG, Candidates
from icl_embed.evaluation.reranker.measure import Grid, Progress, score_grid
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.shape import Shape
from icl_embed.rerank.ways import full_way, name_of


@dataclass(frozen=True)
class Compared:
    """One exit, or the mean over all of them; nDCG@10 averaged over data sets, queries paired."""

    name: str
    first: Interval
    second: Interval
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """Two rerankers: each exit, the mean over exits, and the mean over those before the last."""

    exits: tuple[Compared, ...]
    mean: Compared
    early_mean: Compared | None


def compare_rerankers(
    first: Reranker,
    second: Reranker,
    inputs: Sequence[Candidates],
    how: Bootstrap,
    *,
    batch_tokens: int,
    progress: Progress | None = None,
) -> Comparison:
    """First minus second at every exit of whole passages.

    The mean over exits is taken query by query before anything is resampled, so its interval is that of a
    single quantity and not of many.

    Raises
        ConfigError: they have heads at other layers.
        DataError, ModelError: as ``Reranker.score``.
    """
    layers = [one.settings.head_layers for one in (first, second)]
    if layers[0] != layers[1]:
        raise ConfigError(
            f"the rerankers have heads at {list(layers[0])} and at {list(layers[1])}; only exits that both "
            "have can be compared"
        )
    whole = full_way(first.settings)
    grids = [
        score_grid(one, inputs, [whole], batch_tokens=batch_tokens, progress=progress)
        for one in (first, second)
    ]
    exits = list(grids[0].exits)
    early = exits[:-1]
    return Comparison(
        tuple(_compared(name_of(shape), grids, [shape], how) for shape in exits),
        _compared("mean over exits", grids, exits, how),
        _compared("mean over exits before the last", grids, early, how) if early else None,
    )


def _compared(name: str, grids: Sequence[Grid], exits: Sequence[Shape], how: Bootstrap) -> Compared:
    first, second = ([_mean_of(grid, number, exits) for number in range(len(grid.sets))] for grid in grids)
    difference = average_difference(list(zip(first, second, strict=True)), how)
    return Compared(name, average(first, how), average(second, how), difference)


def _mean_of(grid: Grid, number: int, exits: Sequence[Shape]) -> Measurement:
    """The mean over exits of each query of a data set."""
    values = np.mean([grid.measurements(shape, NDCG)[number].values for shape in exits], axis=0)
    return grid.sets[number].measurement(values.tolist())
