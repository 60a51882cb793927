"""Is A better than B? Paired randomisation tests, correction over many tasks, and what could be detected.

Under the null hypothesis the labels A and B of each test item are exchangeable. A test draws many
re-labellings and asks how often they give a difference at least as large as the observed one (Noreen,
Computer-Intensive Methods, 1989; for retrieval: Smucker, Allan & Carterette, CIKM 2007). What is swapped:

- ``mean``: the two values of an item, that is the sign of its difference.
- ``spearman``, ``average_precision``: the two *rank-normalised* predictions of an item, because the
  similarities of two models live on different scales. Spearman's correlation is then taken as Pearson's
  correlation of the swapped ranks: equal to it without swaps, and a valid statistic with them.
- ``replicates``: nothing can be swapped, since the values are the score on resamples of one set of texts.
  Their spread estimates the standard error, so the null distribution is t with (sets - 1) degrees.

p-values are two-sided and count the observed labelling itself, so they are never zero (Phipson & Smyth,
Statistical Applications in Genetics and Molecular Biology 9, 2010).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import (
    CHUNK_ELEMENTS,
    Bootstrap,
    Floats,
    Measured,
    Measurement,
    average_difference,
    average_ranks,
    check_same_items,
    detectable_difference,
    parts_of,
)

Swaps = NDArray[np.bool_]
Relabelled = Callable[[Swaps], Floats]
"""Maps swaps [P, N] to the difference A - B under each of them [P]."""

ROUNDING = 1e-12  # equal differences summed in another order


@dataclass(frozen=True)
class Randomisation:
    """How many re-labellings are drawn; the smallest possible p-value is 1 / (permutations + 1)."""

    permutations: int = 5000
    seed: int = 0


@lru_cache(maxsize=128)
def null_differences(first: Measured, second: Measured, how: Randomisation) -> Floats:
    """The difference first - second under random re-labellings of the items [P].

    Several seeds of a side are re-labelled together, item by item: they are not independent evidence. Kept
    for the averages that ask for them again: they are small, drawing them is not.

    Raises
        EvaluationError: not the same items, or a value that is not finite.
    """
    check_same_items(first, second)
    generator = np.random.default_rng(zlib.crc32(f"{how.seed}:{first.dataset}:labels".encode()))
    pairs = [(a, b) for a in parts_of(first) for b in parts_of(second)]
    if first.aggregation == "replicates":
        return _null_of_replicates(pairs, how, generator)
    relabelled = [_relabelled(a, b) for a, b in pairs]
    chunk = max(1, CHUNK_ELEMENTS // len(first.ids))
    drawn = []
    for start in range(0, how.permutations, chunk):
        swaps = generator.random((min(chunk, how.permutations - start), len(first.ids))) < 0.5
        drawn.append(np.mean([difference(swaps) for difference in relabelled], axis=0))
    return np.concatenate(drawn)


def randomisation_p(first: Measured, second: Measured, how: Randomisation) -> float:
    """Two-sided p-value of the difference between two measurements of the same items.

    Raises
        EvaluationError: as ``null_differences``, or a side has no defined score.
    """
    return _p_value(first.point - second.point, null_differences(first, second, how), first.dataset)


def average_randomisation_p(pairs: Sequence[tuple[Measured, Measured]], how: Randomisation) -> float:
    """Two-sided p-value of the average difference over data sets, each re-labelled on its own."""
    observed = float(np.mean([first.point - second.point for first, second in pairs]))
    null = np.mean([null_differences(first, second, how) for first, second in pairs], axis=0)
    return _p_value(observed, null, "the average")


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that all tests together err with at most the level (Holm, 1979)."""
    count, running = len(p_values), 0.0
    adjusted = [0.0] * count
    for position, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        running = max(running, min(1.0, (count - position) * p_values[index]))
        adjusted[index] = running
    return adjusted


def minimum_detectable_effect(
    pairs: Sequence[tuple[Measured, Measured]], how: Bootstrap, *, level: float = 0.05, power: float = 0.8
) -> float:
    """The true difference (averaged over the pairs) that a comparison would find with probability ``power``.

    NaN when the two sides agree on every item: there is no spread to tell it from.

    Raises
        EvaluationError: not the same items.
    """
    error = average_difference(pairs, how).error
    return detectable_difference(error, level=level, power=power) if error > ROUNDING else float("nan")


def _p_value(observed: float, null: Floats, name: str) -> float:
    if not np.isfinite(observed) or not np.isfinite(null).all():
        raise EvaluationError(
            f"{name}: the score is not defined (all predictions or all labels are equal); nothing to test"
        )
    extreme = int((np.abs(null) >= abs(observed) - ROUNDING).sum())
    return (extreme + 1) / (len(null) + 1)


def _relabelled(first: Measurement, second: Measurement) -> Relabelled:
    a, b = np.asarray(first.values), np.asarray(second.values)
    if first.aggregation == "mean":
        return _mean_relabelled(a, b)
    if first.targets is None or first.targets != second.targets:
        raise EvaluationError(f"{first.dataset}: the gold values of the two runs differ; evaluate both again")
    make = _spearman_relabelled if first.aggregation == "spearman" else _precision_relabelled
    return make(average_ranks(a), average_ranks(b), np.asarray(first.targets))


def _mean_relabelled(a: Floats, b: Floats) -> Relabelled:
    difference = a - b
    # a swapped item counts against the sum twice: once missing, once with the other sign
    return lambda swaps: (difference.sum() - 2.0 * (swaps.astype(np.float64) @ difference)) / len(difference)


def _spearman_relabelled(a: Floats, b: Floats, targets: ArrayLike) -> Relabelled:
    gold = average_ranks(targets)
    gold = gold - gold.mean()
    a, b = a - a.mean(), b - b.mean()  # both means are (N + 1) / 2
    moments = np.stack([(a - b) * gold, a - b, a**2 - b**2], axis=1)

    def correlation(sums: Floats, start: Floats, sign: int) -> Floats:
        products, total, squares = start[:, None] + sign * sums.T
        scale = np.sqrt((squares - total**2 / len(gold)) * (gold**2).sum())
        found: Floats = np.divide(products, scale, out=np.full(len(scale), np.nan), where=scale > 0)
        return found

    def difference(swaps: Swaps) -> Floats:
        sums = swaps.astype(np.float64) @ moments  # what moves from one side to the other
        of_a = np.array([a @ gold, a.sum(), a @ a])
        of_b = np.array([b @ gold, b.sum(), b @ b])
        return correlation(sums, of_a, -1) - correlation(sums, of_b, 1)

    return difference


def _precision_relabelled(a: Floats, b: Floats, labels: ArrayLike) -> Relabelled:
    truth = np.asarray(labels)

    def difference(swaps: Swaps) -> Floats:
        return _average_precisions(np.where(swaps, b, a), truth) - _average_precisions(
            np.where(swaps, a, b), truth
        )

    return difference


def _average_precisions(values: Floats, labels: Floats) -> Floats:
    """Average precision of each row [P, N] against labels [N]; tied values share one threshold."""
    order = np.argsort(-values, axis=1, kind="stable")
    sorted_values, hits = np.take_along_axis(values, order, axis=1), labels[order]
    places = np.arange(values.shape[1])
    ends = np.ones(values.shape, dtype=np.bool_)
    ends[:, :-1] = np.diff(sorted_values, axis=1) != 0
    last = np.where(ends, places, values.shape[1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]  # the end of each value's run of ties
    precision = np.cumsum(hits, axis=1) / (places + 1)
    found: Floats = (np.take_along_axis(precision, last, axis=1) * hits).sum(axis=1) / hits.sum(axis=1)
    return found


def _null_of_replicates(
    pairs: Sequence[tuple[Measurement, Measurement]], how: Randomisation, generator: np.random.Generator
) -> Floats:
    differences = np.mean([np.asarray(a.values) - np.asarray(b.values) for a, b in pairs], axis=0)
    if len(differences) < 2:
        raise EvaluationError(f"{pairs[0][0].dataset}: one set of texts has no spread; evaluate more sets")
    return np.std(differences, ddof=1) * generator.standard_t(len(differences) - 1, size=how.permutations)
