"""Bootstrap intervals for any statistic of test items, alone or as a paired difference.

A resample is described by *how often each item was drawn* (a row of counts that sums to N), so one matrix
product evaluates a mean on thousands of resamples, and rank statistics (Spearman, average precision) need
one sort in all. Percentile intervals: Efron & Tibshirani, An Introduction to the Bootstrap, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icl_embed.errors import EvaluationError

Counts = NDArray[np.float64]
Floats = NDArray[np.float64]
Statistic = Callable[[Counts], Floats]
"""Maps counts [R, N] to one value per resample [R]; NaN where the resample does not define it."""

CHUNK_ELEMENTS = 4_000_000  # counts held in memory at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval."""

    mean: float
    low: float
    high: float

    @property
    def in_percent(self) -> str:
        """``54.0 (43.2–63.7)``."""
        return f"{100 * self.mean:.1f} ({100 * self.low:.1f}–{100 * self.high:.1f})"


def points(mean: float, low: float, high: float) -> str:
    """A difference as people read it, in percentage points: ``+4.2 (+3.1 to +5.4)``."""
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


@dataclass(frozen=True)
class Difference:
    """A paired difference with its percentile interval and two-sided bootstrap p-value."""

    mean: float
    low: float
    high: float
    p_value: float

    @property
    def in_points(self) -> str:
        """``+4.2 (+3.1 to +5.4)``: percentage points."""
        return points(self.mean, self.low, self.high)

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0.0 or self.high < 0.0


def mean_of(values: ArrayLike) -> Statistic:
    """The mean of per-item values [N]."""
    items = _finite(values)
    return lambda counts: counts @ items / counts.sum(axis=1)


def spearman_of(predictions: ArrayLike, targets: ArrayLike) -> Statistic:
    """Spearman's rank correlation of predictions [N] and targets [N], ties by average rank."""
    rank_predictions, rank_targets = _ranker(_finite(predictions)), _ranker(_finite(targets))

    def statistic(counts: Counts) -> Floats:
        total = counts.sum(axis=1, keepdims=True)
        # Average ranks 1..n always have the mean (n + 1) / 2.
        first = rank_predictions(counts) - (total + 1) / 2
        second = rank_targets(counts) - (total + 1) / 2
        covariance = (counts * first * second).sum(axis=1)
        scale = np.sqrt((counts * first**2).sum(axis=1) * (counts * second**2).sum(axis=1))
        result: Floats = np.divide(covariance, scale, out=np.full(len(counts), np.nan), where=scale > 0)
        return result

    return statistic


def average_precision_of(scores: ArrayLike, labels: ArrayLike) -> Statistic:
    """Average precision of scores [N] against labels [N] in {0, 1}; tied scores share one threshold."""
    values, truth = _finite(scores), _finite(labels)
    order = np.argsort(-values, kind="stable")
    truth = truth[order]
    is_last_of_tie = np.append(np.diff(values[order]) != 0, True)

    def statistic(counts: Counts) -> Floats:
        drawn = counts[:, order]
        hits = np.cumsum(drawn * truth, axis=1)[:, is_last_of_tie]
        seen = np.cumsum(drawn, axis=1)[:, is_last_of_tie]
        precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        total = hits[:, -1]
        gained = np.diff(hits, axis=1, prepend=0.0)
        area = (precision * gained).sum(axis=1)
        result: Floats = np.divide(area, total, out=np.full(len(counts), np.nan), where=total > 0)
        return result

    return statistic


def point_estimate(statistic: Statistic, num_items: int) -> float:
    """The statistic on the items themselves.

    Raises
        EvaluationError: there are no items.
    """
    if num_items < 1:
        raise EvaluationError("a statistic needs at least one test item, found none")
    return float(statistic(np.ones((1, num_items)))[0])


def bootstrap(statistic: Statistic, num_items: int, *, resamples: int, seed: int) -> Floats:
    """The statistic on ``resamples`` resamples [R]; equal seeds and sizes draw equal items.

    Drawing does not depend on the statistic, so two systems measured on the same items with the same seed
    give paired replicates.
    """
    if resamples * num_items <= CHUNK_ELEMENTS:
        return statistic(_drawn_at_once(num_items, resamples, seed))
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_ELEMENTS // num_items)
    parts = []
    for start in range(0, resamples, chunk):
        parts.append(statistic(_draw(generator, num_items, min(chunk, resamples - start))))
    return np.concatenate(parts)


@lru_cache(maxsize=2)
def _drawn_at_once(num_items: int, resamples: int, seed: int) -> Counts:
    # Drawing costs far more than a statistic; all systems on one data set share the draws.
    counts = _draw(np.random.default_rng(seed), num_items, resamples)
    counts.flags.writeable = False
    return counts


def _draw(generator: np.random.Generator, num_items: int, resamples: int) -> Counts:
    shares = np.full(num_items, 1.0 / num_items)
    counts: Counts = generator.multinomial(num_items, shares, size=resamples).astype(np.float64)
    return counts


def percentile_interval(point: float, replicates: Floats, confidence: float) -> Interval:
    """The central ``confidence`` share of the replicates; undefined replicates are left out."""
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return Interval(point, float("nan"), float("nan"))
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return Interval(point, float(low), float(high))


def paired_difference(
    points: tuple[float, float], replicates: tuple[Floats, Floats], confidence: float
) -> Difference:
    """First minus second, from paired replicates.

    The p-value is twice the smaller share of replicates on one side of zero, with one added to numerator and
    denominator so that it is never zero (Davison & Hinkley, Bootstrap Methods, section 4.2.5).
    """
    differences = replicates[0] - replicates[1]
    differences = differences[~np.isnan(differences)]
    interval = percentile_interval(points[0] - points[1], differences, confidence)
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    p_value = min(1.0, 2.0 * (min(below, above) + 1) / (len(differences) + 1))
    return Difference(interval.mean, interval.low, interval.high, p_value)


def average_ranks(values: ArrayLike) -> Floats:
    """Ranks 1 to N of values [N]; equal values share the average of their ranks."""
    items = _finite(values)
    ranks: Floats = _ranker(items)(np.ones((1, len(items))))[0]
    return ranks


def _ranker(values: Floats) -> Callable[[Counts], Floats]:
    """A function from counts [R, N] to the average rank of each item within its resample [R, N]."""
    _, groups = np.unique(values, return_inverse=True)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))

    def ranks(counts: Counts) -> Floats:
        sizes = np.add.reduceat(counts[:, order], starts, axis=1)
        group_ranks = np.cumsum(sizes, axis=1) - sizes + (sizes + 1) / 2
        return group_ranks[:, groups]

    return ranks


def _finite(values: ArrayLike) -> Floats:
    items = np.asarray(values, dtype=np.float64)
    if not np.isfinite(items).all():
        where = int(np.flatnonzero(~np.isfinite(items))[0])
        raise EvaluationError(f"test item {where} has the value {items[where]}, expected a finite number")
    return items
