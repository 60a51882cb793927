"""A measurement: a model's values in one setting on one data set, their mean and bootstrap intervals.

A resample is described by *how often each item was drawn* (a row of counts that sums to N), so one matrix
product evaluates a mean on thousands of resamples, and rank statistics (Spearman, average precision) need
one sort in all. Percentile intervals: Efron & Tibshirani, An Introduction to the Bootstrap, chapter 13.

Four ways lead from values to a score, and each has its own honest interval:

- ``mean``: one value per query (nDCG@10, average precision, accuracy); queries are resampled.
- ``spearman``: one predicted similarity per pair and its gold score; pairs are resampled.
- ``average_precision``: one predicted similarity per pair and its 0/1 label; pairs are resampled.
- ``replicates``: the values already are the score on bootstrap resamples (mteb's clustering draws its sets
  of texts with replacement), so the interval is read off them.

What is resampled must be independent. Where few texts make many pairs, two pairs that share a text are not,
and so the texts are drawn: a pair counts as often as both of its texts were drawn together (Snijders and
Borgatti 1999). And the classifiers of a label task are a sample too: they are drawn beside the texts.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icl_embed.errors import EvaluationError

Counts = NDArray[np.float64]
Floats = NDArray[np.float64]
Statistic = Callable[[Counts], Floats]
"""Maps counts [R, N] to one value per resample [R]; NaN where the resample does not define it."""

MIN_PAIRS_PER_TEXT = 3.0  # from here on texts are resampled; below, most pairs share none
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
    """A paired difference with its percentile interval and two-sided bootstrap p-value.

    Attributes
        error: its standard error; 0 where there is no spread.
    """

    mean: float
    low: float
    high: float
    p_value: float
    error: float = 0.0

    @property
    def detectable(self) -> float:
        """The true difference that is found four times out of five at the level of 5 %."""
        return detectable_difference(self.error)

    @property
    def in_points(self) -> str:
        """``+4.2 (+3.1 to +5.4)``: percentage points."""
        return points(self.mean, self.low, self.high)

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0.0 or self.high < 0.0


def detectable_difference(error: float, *, level: float = 0.05, power: float = 0.8) -> float:
    """The true difference that a comparison with this standard error finds with probability ``power``.

    (z of level + z of power) times the error (Bloom, Evaluation Review 19, 1995).
    """
    normal = NormalDist()
    return (normal.inv_cdf(1.0 - level / 2) + normal.inv_cdf(power)) * error


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


def bootstrap_pairs(
    statistic: Statistic, pairs: Sequence[tuple[str, str]], *, resamples: int, seed: int
) -> Floats:
    """The statistic of pairs on ``resamples`` resamples of the texts that make them [R]."""
    texts = dict.fromkeys(text for pair in pairs for text in pair)
    known = {text: number for number, text in enumerate(texts)}
    first, second = (np.array([known[pair[side]] for pair in pairs]) for side in (0, 1))
    generator, parts = np.random.default_rng(seed), []
    chunk = max(1, CHUNK_ELEMENTS // len(pairs))
    for start in range(0, resamples, chunk):
        drawn = _draw(generator, len(known), min(chunk, resamples - start))
        parts.append(statistic(drawn[:, first] * drawn[:, second]))
    return np.concatenate(parts)


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
    error = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return Difference(interval.mean, interval.low, interval.high, p_value, error)


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


Aggregation = Literal["mean", "spearman", "average_precision", "replicates"]


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Measurement:
    """The values behind one score.

    Attributes
        dataset: name of the data set; measurements are compared only within one.
        aggregation: how the values become one score.
        ids: one stable identity per value.
        values: one number per identity.
        targets: gold score or label per identity, for the statistics that need one.
        pairs: the two texts of each item, where items are pairs.
        draws: the score of each classifier that the values are an average over, if any.
    """

    dataset: str
    aggregation: Aggregation
    ids: tuple[str, ...]
    values: tuple[float, ...]
    targets: tuple[float, ...] | None = None
    pairs: tuple[tuple[str, str], ...] | None = None
    draws: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the lengths and the identities.

        Raises
            EvaluationError: nothing was measured, or an identity appears twice.
        """
        if not self.ids:
            raise EvaluationError(f"{self.dataset}: nothing was measured; the test split is empty")
        if len(set(self.ids)) != len(self.ids):
            twice = next(name for name in self.ids if self.ids.count(name) > 1)
            raise EvaluationError(f"{self.dataset}: the test identity {twice!r} appears more than once")
        if len(self.values) != len(self.ids) or len(self.targets or self.ids) != len(self.ids):
            raise EvaluationError(f"{self.dataset}: {len(self.ids)} identities, {len(self.values)} values")

    @property
    def point(self) -> float:
        """The score."""
        return point_estimate(self._statistic(), len(self.ids))

    def replicates(self, how: Bootstrap) -> NDArray[np.float64]:
        """The score on resampled items [R]; paired between measurements of the same items."""
        if self.aggregation == "replicates":
            generator = np.random.default_rng(self._seed(how))
            return np.asarray(self.values)[generator.integers(len(self.values), size=how.resamples)]
        return _drawn(self, how)

    @property
    def shares_texts(self) -> bool:
        """Whether few texts make many pairs, which then are not independent of each other."""
        if self.pairs is None:
            return False
        texts = {text for pair in self.pairs for text in pair}
        return 2 * len(self.pairs) >= MIN_PAIRS_PER_TEXT * len(texts)

    def interval(self, how: Bootstrap) -> Interval:
        """The score with its interval."""
        drawn = np.asarray(self.values) if self.aggregation == "replicates" else self.replicates(how)
        return percentile_interval(self.point, drawn, how.confidence)

    def _statistic(self) -> Statistic:
        if self.aggregation in ("mean", "replicates"):
            return mean_of(self.values)
        if self.targets is None:
            raise EvaluationError(f"{self.dataset}: {self.aggregation} needs gold values beside predictions")
        make = spearman_of if self.aggregation == "spearman" else average_precision_of
        return make(self.values, self.targets)

    def _seed(self, how: Bootstrap) -> int:
        # Data sets are independent samples: each has its own stream, shared by all models and settings.
        return zlib.crc32(f"{how.seed}:{self.dataset}".encode())


@dataclass(frozen=True)
class SeedAverage:
    """The average score over several draws of examples, each measured on the same items.

    For rank statistics, where an average of values has no meaning. The interval speaks of test items alone:
    how much the score moves between draws is another question.
    """

    parts: tuple[Measurement, ...]

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.parts[0].dataset

    @property
    def aggregation(self) -> Aggregation:
        """How the values of each part become its score."""
        return self.parts[0].aggregation

    @property
    def ids(self) -> tuple[str, ...]:
        """The items, the same for all parts."""
        return self.parts[0].ids

    @property
    def point(self) -> float:
        """The average score."""
        return float(np.mean([part.point for part in self.parts]))

    def replicates(self, how: Bootstrap) -> NDArray[np.float64]:
        """The average score on resampled items [R]."""
        drawn: NDArray[np.float64] = np.mean([part.replicates(how) for part in self.parts], axis=0)
        return drawn

    def interval(self, how: Bootstrap) -> Interval:
        """The average score with its interval."""
        return percentile_interval(self.point, self.replicates(how), how.confidence)


Measured = Measurement | SeedAverage


def average_over_seeds(measurements: Sequence[Measurement]) -> Measured:
    """One measurement of several draws: values averaged item by item (means) or set by set (replicates).

    Raises
        EvaluationError: none was given, or they were not measured on the same items.
    """
    if not measurements:
        raise EvaluationError("an average over seeds needs at least one measurement, found none")
    first = measurements[0]
    for other in measurements[1:]:
        check_same_items(first, other)
    if len(measurements) == 1:
        return first
    if first.aggregation in ("mean", "replicates"):
        values = np.mean([one.values for one in measurements], axis=0)
        draws = np.mean([one.draws for one in measurements], axis=0) if first.draws else np.empty(0)
        return dataclasses.replace(first, values=tuple(values.tolist()), draws=tuple(draws.tolist()))
    return SeedAverage(tuple(measurements))


def parts_of(measured: Measured) -> tuple[Measurement, ...]:
    """The measurements behind a score: one, or one per draw of examples."""
    return measured.parts if isinstance(measured, SeedAverage) else (measured,)


@lru_cache(maxsize=1024)
def _drawn(measured: Measurement, how: Bootstrap) -> NDArray[np.float64]:
    # A report compares each measurement several times; its replicates are small, drawing them is not.
    statistic, seed = measured._statistic(), measured._seed(how)
    if measured.pairs is not None and measured.shares_texts:
        return bootstrap_pairs(statistic, measured.pairs, resamples=how.resamples, seed=seed)
    drawn = bootstrap(statistic, len(measured.ids), resamples=how.resamples, seed=seed)
    return drawn + _classifier_noise(measured.draws, how.resamples, seed) if measured.draws else drawn


def _classifier_noise(draws: tuple[float, ...], resamples: int, seed: int) -> Floats:
    """How far the average over as many classifiers, drawn anew, is from the one that was measured [R]."""
    scores, generator = np.asarray(draws), np.random.default_rng(seed + 1)
    chosen = generator.integers(len(scores), size=(resamples, len(scores)))
    noise: Floats = scores[chosen].mean(axis=1) - scores.mean()
    return noise


def check_same_items(first: Measured, second: Measured) -> None:
    """Refuse to compare what cannot be paired.

    Raises
        EvaluationError: another data set, other items, or another way from values to a score.
    """
    if (first.dataset, first.ids, first.aggregation) != (second.dataset, second.ids, second.aggregation):
        raise EvaluationError(
            f"cannot compare {first.dataset} ({len(first.ids)} items, {first.aggregation}) with "
            f"{second.dataset} ({len(second.ids)} items, {second.aggregation}): not the same test items"
        )


def compare(first: Measured, second: Measured, how: Bootstrap) -> Difference:
    """First minus second, item by item.

    Raises
        EvaluationError: they were not measured on the same items.
    """
    check_same_items(first, second)
    points = (first.point, second.point)
    return paired_difference(points, (first.replicates(how), second.replicates(how)), how.confidence)


def compare_unpaired(first: Measured, second: Measured, how: Bootstrap) -> Difference:
    """First minus second when their items differ: independent resamples, so a wider interval."""
    points = (first.point, second.point)
    other = dataclasses.replace(how, seed=how.seed + 1)
    return paired_difference(points, (first.replicates(how), second.replicates(other)), how.confidence)


def average(measurements: Sequence[Measured], how: Bootstrap) -> Interval:
    """The plain average over data sets, with an interval over their items (not over data sets)."""
    return average_over_trainings([measurements], how)


def average_difference(pairs: Sequence[tuple[Measured, Measured]], how: Bootstrap) -> Difference:
    """The average over data sets of first minus second, items paired within each data set.

    Raises
        EvaluationError: a pair was not measured on the same items.
    """
    return difference_over_trainings([pairs], how)


def average_over_trainings(trainings: Sequence[Sequence[Measured]], how: Bootstrap) -> Interval:
    """The mean over trainings of one recipe of their average over data sets.

    The interval speaks of test items and of trainings: another seed is another model.
    """
    found = [point_and_replicates(measurements, how) for measurements in trainings]
    return percentile_interval(*_over_trainings(found, how), how.confidence)


def difference_over_trainings(
    trainings: Sequence[Sequence[tuple[Measured, Measured]]], how: Bootstrap
) -> Difference:
    """The mean over trainings of the average difference, first minus second.

    Parameters
        trainings: the pairs of one training each, or of two with the same seed.

    Raises
        EvaluationError: a pair was not measured on the same items.
    """
    found = []
    for pairs in trainings:
        for first, second in pairs:
            check_same_items(first, second)
        (point, drawn), (other, others) = (
            point_and_replicates(sides, how) for sides in zip(*pairs, strict=True)
        )
        found.append((point - other, drawn - others))
    point, replicates = _over_trainings(found, how)
    return paired_difference((point, 0.0), (replicates, np.zeros_like(replicates)), how.confidence)


def _over_trainings(found: Sequence[tuple[float, Floats]], how: Bootstrap) -> tuple[float, Floats]:
    """The mean of several trainings' values, and its replicates over items and trainings [R].

    Of few trainings a bootstrap knows the spread badly, so their mean moves by Student's t.
    """
    points = np.array([point for point, _ in found])
    replicates: Floats = np.mean([drawn for _, drawn in found], axis=0)
    count = len(points)
    if count > 1:
        moved = np.random.default_rng(how.seed).standard_t(count - 1, size=len(replicates))
        replicates = replicates + moved * points.std(ddof=1) / np.sqrt(count)
    return float(points.mean()), replicates


def point_and_replicates(
    measurements: Sequence[Measured], how: Bootstrap
) -> tuple[float, NDArray[np.float64]]:
    """The plain average over data sets, and the same on resampled items [R]."""
    drawn: NDArray[np.float64] = np.mean([item.replicates(how) for item in measurements], axis=0)
    return float(np.mean([item.point for item in measurements])), drawn
