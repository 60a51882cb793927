"""A measurement: the values of one model in one setting on one data set, and how they make one score.

Four ways lead from values to a score, and each has its own honest interval:

- ``mean``: one value per query (nDCG@10, average precision, accuracy); queries are resampled.
- ``spearman``: one predicted similarity per pair and its gold score; pairs are resampled.
- ``average_precision``: one predicted similarity per pair and its 0/1 label; pairs are resampled.
- ``replicates``: the values already are the score on bootstrap resamples (mteb's clustering draws its sets
  of texts with replacement), so the interval is read off them.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from icl_embed.errors import EvaluationError
from icl_embed.evaluate.statistics import (
    Difference,
    Interval,
    Statistic,
    average_precision_of,
    bootstrap,
    mean_of,
    paired_difference,
    percentile_interval,
    point_estimate,
    spearman_of,
)

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
    """

    dataset: str
    aggregation: Aggregation
    ids: tuple[str, ...]
    values: tuple[float, ...]
    targets: tuple[float, ...] | None = None

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
        return dataclasses.replace(first, values=tuple(values.tolist()))
    return SeedAverage(tuple(measurements))


def parts_of(measured: Measured) -> tuple[Measurement, ...]:
    """The measurements behind a score: one, or one per draw of examples."""
    return measured.parts if isinstance(measured, SeedAverage) else (measured,)


@lru_cache(maxsize=1024)
def _drawn(measured: Measurement, how: Bootstrap) -> NDArray[np.float64]:
    # A report compares each measurement several times; its replicates are small, drawing them is not.
    statistic, seed = measured._statistic(), measured._seed(how)
    return bootstrap(statistic, len(measured.ids), resamples=how.resamples, seed=seed)


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
    return percentile_interval(*point_and_replicates(measurements, how), how.confidence)


def average_difference(pairs: Sequence[tuple[Measured, Measured]], how: Bootstrap) -> Difference:
    """The average over data sets of first minus second, items paired within each data set.

    Raises
        EvaluationError: a pair was not measured on the same items.
    """
    for first, second in pairs:
        check_same_items(first, second)
    (first_point, first_drawn), (second_point, second_drawn) = (
        point_and_replicates(sides, how) for sides in zip(*pairs, strict=True)
    )
    return paired_difference((first_point, second_point), (first_drawn, second_drawn), how.confidence)


def point_and_replicates(
    measurements: Sequence[Measured], how: Bootstrap
) -> tuple[float, NDArray[np.float64]]:
    """The plain average over data sets, and the same on resampled items [R]."""
    drawn: NDArray[np.float64] = np.mean([item.replicates(how) for item in measurements], axis=0)
    return float(np.mean([item.point for item in measurements])), drawn
