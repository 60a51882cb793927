"""A against B over the tasks they share, item by item; found by the names that a user types."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, product
from pathlib import Path

from icl_embed.config import Kind
from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import (
    Aggregation,
    Bootstrap,
    Difference,
    Measured,
    Measurement,
    average_difference,
    average_over_seeds,
    check_same_items,
    compare,
    compare_unpaired,
)
from icl_embed.evaluation.results.database import rows
from icl_embed.evaluation.significance import (
    Randomisation,
    average_randomisation_p,
    holm,
    minimum_detectable_effect,
    randomisation_p,
)

_SEED = re.compile(r" seed \d+")


@dataclass(frozen=True)
class StoredScore:
    """One row of the table ``scores``: one model, task and setting of one artefact."""

    reference: str
    task: str
    family: str
    kind: Kind
    metric: str
    aggregation: Aggregation
    model: str
    model_fingerprint: str
    setting: str
    mean: float
    low: float
    high: float
    num_items: int
    query_tokens_mean: float | None
    trained_on: bool
    data_fingerprint: str
    created: str
    git_commit: str

    @property
    def setting_of_all_seeds(self) -> str:
        """The setting without the seed of its examples: ``5-shot`` for ``5-shot seed 2``."""
        return _SEED.sub("", self.setting)


_COLUMNS = ", ".join(StoredScore.__dataclass_fields__)


def read_stored(path: Path, *, all_times: bool = False) -> list[StoredScore]:
    """The scores of a database, oldest first.

    Parameters
        all_times: also those that a newer artefact of the same model, task and setting replaces.
    """
    found = [StoredScore(*row) for row in rows(path, f"SELECT {_COLUMNS} FROM scores ORDER BY ALL")]  # noqa: S608
    found.sort(key=lambda score: (score.created, score.reference))
    if all_times:
        return found
    return list({(one.model_fingerprint, one.model, one.task, one.setting): one for one in found}.values())


def read_measured(path: Path, groups: Sequence[Sequence[StoredScore]]) -> list[Measured]:
    """One measurement per group, averaged over its draws of examples if there are several.

    Raises
        EvaluationError: the draws of a group were not measured on the same items.
    """
    found = _read_measurements(path, [score for seeds in groups for score in seeds])
    return [average_over_seeds([found[one.reference, one.setting] for one in seeds]) for seeds in groups]


_ITEMS = """
SELECT reference, setting, item_id, value, target, first, second, draws
FROM item_values JOIN scores USING (reference, setting)
JOIN (SELECT unnest(?) AS reference, unnest(?) AS setting) USING (reference, setting)
ORDER BY reference, setting, position
"""


def _read_measurements(path: Path, scores: Sequence[StoredScore]) -> dict[tuple[str, str], Measurement]:
    wanted = {(score.reference, score.setting): score for score in scores}
    references, settings = zip(*wanted, strict=True)
    items = rows(path, _ITEMS, [list(references), list(settings)])
    found = {}
    for key, members in groupby(items, key=lambda item: item[:2]):
        _, _, names, values, targets, first, second, draws = zip(*members, strict=True)
        score, gold = wanted[key], None if None in targets else targets
        pairs = None if None in first else tuple(zip(first, second, strict=True))
        drawn = tuple(json.loads(draws[0]))
        found[key] = Measurement(score.task, score.aggregation, names, values, gold, pairs, drawn)
    return found


SHORTEST_FINGERPRINT = 4


@dataclass(frozen=True)
class Entrant:
    """One model in one setting, with its scores.

    Attributes
        setting: without the seed of the examples, unless one seed was asked for.
        scores: per task, one score per draw of examples.
    """

    model: str
    fingerprint: str
    setting: str
    scores: dict[str, tuple[StoredScore, ...]]

    @property
    def label(self) -> str:
        """``trained@5-shot``."""
        return self.model if self.model == self.setting else f"{self.model}@{self.setting}"


def all_entrants(scores: Iterable[StoredScore]) -> list[Entrant]:
    """Every model in every setting; draws of examples that differ only by their seed are one setting."""
    grouped: dict[tuple[str, str, str], list[StoredScore]] = {}
    for score in scores:
        grouped.setdefault((score.model, score.model_fingerprint, score.setting_of_all_seeds), []).append(
            score
        )
    return [
        Entrant(model, fingerprint, setting, _by_task(members))
        for (model, fingerprint, setting), members in sorted(grouped.items())
    ]


def find_entrants(scores: Sequence[StoredScore], text: str) -> list[Entrant]:
    """The entrants that ``name``, ``fingerprint`` or ``name@setting`` names, one per setting.

    Raises
        EvaluationError: no such model or setting (near names are suggested), or several models of one name.
    """
    if text in {score.model for score in scores}:
        return all_entrants(scores_of_model(scores, text))
    name, found, setting = text.rpartition("@")
    if not found:
        return all_entrants(scores_of_model(scores, text))
    mine = scores_of_model(scores, name)
    exact = [score for score in mine if score.setting == setting != score.setting_of_all_seeds]
    if exact:
        first = exact[0]
        return [Entrant(first.model, first.model_fingerprint, setting, _by_task(exact))]
    entrants = all_entrants(mine)
    chosen = [entrant for entrant in entrants if entrant.setting == setting]
    if not chosen:
        known = [entrant.setting for entrant in entrants]
        raise EvaluationError(f"{name} was not scored in the setting {setting!r}; {_hint(setting, known)}")
    return chosen


def scores_of_model(scores: Sequence[StoredScore], name: str) -> list[StoredScore]:
    """The scores of the model with this name, or whose fingerprint starts so.

    Raises
        EvaluationError: no such model, or several.
    """
    mine = [score for score in scores if score.model == name]
    if not mine and len(name) >= SHORTEST_FINGERPRINT:
        mine = [score for score in scores if score.model_fingerprint.startswith(name)]
    if not mine:
        known_or_suggest("model", name, {score.model for score in scores})
    newest = {score.model_fingerprint: score.created for score in mine}
    if len(newest) > 1:
        listed = ", ".join(f"{fingerprint} ({created})" for fingerprint, created in newest.items())
        raise EvaluationError(f"{name!r} is {len(newest)} models: {listed}; name one by its fingerprint")
    return mine


def pair_entrants(first: Sequence[Entrant], second: Sequence[Entrant]) -> list[tuple[Entrant, Entrant]]:
    """Who is compared with whom: equal settings, else the only setting of one side with each of the other.

    Raises
        EvaluationError: no setting in common.
    """
    by_setting = {entrant.setting: entrant for entrant in second}
    pairs = [(one, by_setting[one.setting]) for one in first if one.setting in by_setting]
    if not pairs and 1 in (len(first), len(second)):
        pairs = list(product(first, second))
    if not pairs:
        raise EvaluationError(
            f"{first[0].model} and {second[0].model} have no setting in common: "
            f"{_listed(first)} against {_listed(second)}; name them, e.g. "
            f"{first[0].label} {second[0].label}"
        )
    return pairs


def known_or_suggest(what: str, name: str, known: Collection[str]) -> None:
    """Refuse a name that is not known.

    Raises
        EvaluationError: it is not; near names are suggested.
    """
    if name not in known:
        raise EvaluationError(f"no scores of a {what} {name!r}; {_hint(name, sorted(known))}")


def _by_task(scores: Iterable[StoredScore]) -> dict[str, tuple[StoredScore, ...]]:
    tasks: dict[str, tuple[StoredScore, ...]] = {}
    for score in sorted(scores, key=lambda one: (one.task, one.setting)):
        tasks[score.task] = (*tasks.get(score.task, ()), score)
    return tasks


def _listed(entrants: Sequence[Entrant]) -> str:
    return ", ".join(entrant.setting for entrant in entrants)


def _hint(wanted: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(wanted, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"


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
