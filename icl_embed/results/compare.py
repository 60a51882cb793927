"""A against B over the tasks they share, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icl_embed.errors import EvaluationError
from icl_embed.evaluate.measurement import (
    Bootstrap,
    Measured,
    average_difference,
    check_same_items,
    compare,
    compare_unpaired,
)
from icl_embed.evaluate.significance import (
    Randomisation,
    average_randomisation_p,
    holm,
    minimum_detectable_effect,
    randomisation_p,
)
from icl_embed.evaluate.statistics import Difference
from icl_embed.results.entrants import Entrant
from icl_embed.results.stored import StoredScore, read_measured


@dataclass(frozen=True)
class Procedure:
    """How sure a comparison wants to be.

    Attributes
        level: chance of a false finding, over all tasks of a table together.
        power: chance of finding a true difference of the detectable size.
    """

    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    randomisation: Randomisation = field(default_factory=Randomisation)
    level: float = 0.05
    power: float = 0.8


@dataclass(frozen=True)
class Pair:
    """One task that both sides were measured on."""

    task: str
    metric: str
    first: Measured
    second: Measured
    seeds: tuple[int, int] = (1, 1)
    trained_on: bool = False
    same_items: bool = True


@dataclass(frozen=True)
class Row:
    """One task, or the average of all (fractions of one).

    Attributes
        p_value: of the randomisation test, two-sided, of this row alone.
        p_holm: corrected for the number of tasks; the average is one test and needs no correction.
        detectable: the smallest true difference that a test at the level would find with the wanted power;
            None when the sides agree on every item.
        seeds: draws of examples behind each side.
        same_items: whether items were paired; if not, the interval and the p-value are those of two samples.
    """

    task: str
    metric: str
    first: float
    second: float
    difference: Difference
    p_value: float
    p_holm: float
    detectable: float | None
    num_items: int
    seeds: tuple[int, int] = (1, 1)
    trained_on: bool = False
    same_items: bool = True


@dataclass(frozen=True)
class Comparison:
    """First minus second, per task and on average.

    Attributes
        average: None for a single task.
        skipped: tasks that only one side has, or whose items differ, and why.
    """

    first: str
    second: str
    rows: tuple[Row, ...]
    average: Row | None
    level: float
    skipped: dict[str, str] = field(default_factory=dict)


def compare_entrants(path: Path, first: Entrant, second: Entrant, how: Procedure) -> Comparison:
    """Compare two entrants of the results database.

    Raises
        EvaluationError: they share no task with the same items.
    """
    pairs, skipped = [], {}
    for task in sorted({*first.scores, *second.scores}):
        try:
            pairs.append(_pair(path, task, first, second))
        except EvaluationError as error:
            skipped[task] = str(error)
    if not pairs:
        reasons = "; ".join(f"{task}: {reason}" for task, reason in skipped.items())
        raise EvaluationError(f"{first.label} and {second.label} share no task: {reasons}")
    average = average_row(pairs, how) if len(pairs) > 1 else None
    return Comparison(first.label, second.label, compare_pairs(pairs, how), average, how.level, skipped)


def compare_pairs(pairs: Sequence[Pair], how: Procedure) -> tuple[Row, ...]:
    """One row per pair, with Holm's correction over them.

    Raises
        EvaluationError: a pair was not measured on the same items, or has no defined score.
    """
    p_values = [_p_value(pair, how) for pair in pairs]
    adjusted = holm(p_values)
    return tuple(
        _row(pair, p_value, p_holm, how, tests=len(pairs))
        for pair, p_value, p_holm in zip(pairs, p_values, adjusted, strict=True)
    )


def average_row(pairs: Sequence[Pair], how: Procedure) -> Row:
    """The plain average over pairs of the same items.

    Raises
        EvaluationError: a pair was not measured on the same items.
    """
    both = [(pair.first, pair.second) for pair in pairs]
    p_value = average_randomisation_p(both, how.randomisation)
    return Row(
        task=f"average of {len(pairs)}",
        metric="mean of main scores",
        first=sum(pair.first.point for pair in pairs) / len(pairs),
        second=sum(pair.second.point for pair in pairs) / len(pairs),
        difference=average_difference(both, how.bootstrap),
        p_value=p_value,
        p_holm=p_value,
        detectable=_detectable(both, how, tests=1),
        num_items=sum(len(pair.first.ids) for pair in pairs),
    )


def _p_value(pair: Pair, how: Procedure) -> float:
    if not pair.same_items:
        return compare_unpaired(pair.first, pair.second, how.bootstrap).p_value
    return randomisation_p(pair.first, pair.second, how.randomisation)


def _row(pair: Pair, p_value: float, p_holm: float, how: Procedure, *, tests: int) -> Row:
    both = [(pair.first, pair.second)]
    difference = (compare if pair.same_items else compare_unpaired)(pair.first, pair.second, how.bootstrap)
    return Row(
        task=pair.task,
        metric=pair.metric,
        first=pair.first.point,
        second=pair.second.point,
        difference=difference,
        p_value=p_value,
        p_holm=p_holm,
        detectable=_detectable(both, how, tests=tests) if pair.same_items else None,
        num_items=len(pair.first.ids),
        seeds=pair.seeds,
        trained_on=pair.trained_on,
        same_items=pair.same_items,
    )


def _detectable(both: Sequence[tuple[Measured, Measured]], how: Procedure, *, tests: int) -> float | None:
    # The strictest of Holm's thresholds: what the first of many tests has to pass.
    size = minimum_detectable_effect(both, how.bootstrap, level=how.level / tests, power=how.power)
    return None if size != size else size  # noqa: PLR0124 - NaN


def _pair(path: Path, task: str, first: Entrant, second: Entrant) -> Pair:
    for side, other in ((first, second), (second, first)):
        if task not in side.scores:
            raise EvaluationError(f"only {other.label} was measured on it")
    seeds = first.scores[task], second.scores[task]
    facts: set[tuple[str, str]] = {(one.metric, one.data_fingerprint) for side in seeds for one in side}
    if len(facts) > 1:
        found = " and ".join(sorted(f"{metric} of data {data or 'unknown'}" for metric, data in facts))
        raise EvaluationError(f"not the same measurement: {found}; score both on one version of the data")
    measured = read_measured(path, seeds)
    check_same_items(measured[0], measured[1])
    one: StoredScore = seeds[0][0]
    trained_on = any(score.trained_on for side in seeds for score in side)
    counts = (len(seeds[0]), len(seeds[1]))
    return Pair(task, one.metric, measured[0], measured[1], counts, trained_on)
