"""Scores over shot counts and over example qualities: the studies ``shots`` and ``examples``.

Several seeds of a setting are averaged before anything is compared: they are draws of examples, not of test
items. Intervals are over test items; ``seed_low`` and ``seed_high`` say how far the draws lie apart.

Every score is an artefact of its own, shared with ``icl-embed eval run``: what either has measured, the other
finds. The study is an artefact too, made from those scores.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from icl_embed.config import ExampleStrategy
from icl_embed.errors import EvaluationError, IclEmbedError
from icl_embed.evaluation.grid import Outcome, Progress, RunRequest, run_grid
from icl_embed.evaluation.measurement import (
    Bootstrap,
    Measured,
    Measurement,
    average,
    average_difference,
    average_over_seeds,
)
from icl_embed.evaluation.models import OpenedModel
from icl_embed.evaluation.scores import EvaluationScores, read_measurements, read_scores
from icl_embed.evaluation.significance import (
    Randomisation,
    average_randomisation_p,
    holm,
    minimum_detectable_effect,
)
from icl_embed.evaluation.tasks.opening import open_task
from icl_embed.examples import ExampleSet
from icl_embed.experiments.corruptions import QUALITIES, checked_quality, corrupt
from icl_embed.experiments.record import STAGE, Row, Study, StudyName, write_study
from icl_embed.few_shot.settings import CLEAN, OFF_TASK, AskedSetting, settings_of
from icl_embed.few_shot.sources import Offered, offer_examples
from icl_embed.store import Artefact, StageKey, Store


@dataclass(frozen=True)
class Statistics:
    """How intervals and p-values are made."""

    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    randomisation: Randomisation = field(default_factory=Randomisation)


@dataclass(frozen=True)
class Scored:
    """One model on one task in one setting.

    Attributes
        scores: the artefact's own summary; it holds one result.
        asked: the setting.
    """

    scores: EvaluationScores
    asked: AskedSetting
    measurement: Measurement
    folder: Path

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.scores.dataset

    @property
    def tokens(self) -> float:
        """Tokens of a query with everything before it, on average."""
        return self.scores.results[0].query_tokens_mean or 0.0

    @property
    def shown(self) -> int:
        """Examples that fitted into the prompt; what was asked for where that is not known."""
        found = self.scores.results[0].examples_shown
        return self.asked.shots if found is None else found


def read_scored(folders: Sequence[Path]) -> list[Scored]:
    """Read score artefacts; those without a score (no public judgements) are left out.

    Raises
        EvaluationError: a folder is not a score artefact.
    """
    found = []
    for folder in folders:
        scores = read_scores(folder)
        if not scores.results:
            continue
        for setting, measured in read_measurements(folder, scores).items():
            result = next(one for one in scores.results if one.setting == setting)
            strategy = cast("ExampleStrategy", result.selection or "random")
            asked = AskedSetting(result.shots, strategy, result.seed, result.quality)
            if not result.shots:
                asked = AskedSetting(0)
            found.append(Scored(scores, asked, measured, folder))
    return found


def by_task(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Grouped by task, in the order of first appearance.

    Raises
        EvaluationError: two models, or one task in two versions of its data.
    """
    models = sorted({one.scores.model_fingerprint for one in scored})
    if len(models) > 1:
        names = ", ".join(sorted({one.scores.model for one in scored}))
        raise EvaluationError(f"a study is of one model, found scores of {len(models)} ({names})")
    groups: dict[str, list[Scored]] = {}
    for one in scored:
        groups.setdefault(one.task, []).append(one)
    for task, members in groups.items():
        if len({one.scores.data_fingerprint for one in members}) > 1:
            raise EvaluationError(f"{task}: scores of different versions of its data cannot be compared")
    return groups


def summarised(measured: Sequence[Measured], how: Statistics) -> dict[str, float]:
    """Mean and interval of one task's score, or of the average of several tasks."""
    interval = average(measured, how.bootstrap)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def compared(
    pairs: Sequence[tuple[Measured, Measured]], how: Statistics, name: str
) -> dict[str, float | None]:
    """First minus second: interval, p-value, detectable effect; all None without pairs.

    Keys are ``over_NAME``, ``over_NAME_low``, ``over_NAME_high``, ``over_NAME_p``, ``over_NAME_mde``.
    """
    key = f"over_{name}"
    names = (key, f"{key}_low", f"{key}_high", f"{key}_p", f"{key}_mde")
    if not pairs:
        return dict.fromkeys(names)
    gap = average_difference(pairs, how.bootstrap)
    p_value = average_randomisation_p(pairs, how.randomisation)
    effect = minimum_detectable_effect(pairs, how.bootstrap)
    # Two equal runs have no spread: nothing can be said about what would have been found.
    values = (gap.mean, gap.low, gap.high, p_value, None if effect != effect else effect)  # noqa: PLR0124
    return dict(zip(names, values, strict=True))


def with_holm(rows: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Rows with ``over_NAME_holm``: p-values corrected over the tasks' rows, and apart over the averages'."""
    adjusted: dict[int, float] = {}
    for is_average in (False, True):
        tested = [
            number
            for number, row in enumerate(rows)
            if row["is_average"] is is_average and row[f"over_{name}_p"] is not None
        ]
        corrected = holm([rows[number][f"over_{name}_p"] for number in tested])
        adjusted |= dict(zip(tested, corrected, strict=True))
    return [{**row, f"over_{name}_holm": adjusted.get(number)} for number, row in enumerate(rows)]


ZERO = "zero-shot"


@dataclass(frozen=True)
class _Point:
    """One task at one place of the curve, all seeds together; ``shown`` is what fitted into every prompt."""

    measured: Measured
    seeds: tuple[float, ...]
    tokens: float
    shown: int


Curve = dict[Any, _Point]


def shot_rows(scored: Sequence[Scored], how: Statistics) -> list[dict[str, Any]]:
    """One row per task and shot count, then those of the average; compared with zero-shot.

    Raises
        EvaluationError: several models, several strategies, or a task without its zero-shot score.
    """
    clean = [one for one in scored if one.asked.quality == CLEAN]
    _refuse_mixture({one.asked.selection for one in clean if one.asked.shots}, "strategies")
    curves = {task: _curve(members, lambda one: one.asked.shots) for task, members in by_task(clean).items()}
    for task, curve in curves.items():
        if 0 not in curve:
            raise EvaluationError(f"{task} has no zero-shot score to compare with; add 0 to the shots")
    places = sorted({shots for curve in curves.values() for shots in curve})
    return with_holm(_rows(curves, places, "shots", {"zero": 0}, how), "zero")


def quality_rows(scored: Sequence[Scored], how: Statistics) -> list[dict[str, Any]]:
    """One row per task and quality, then those of the average; compared with zero-shot and with clean.

    Raises
        EvaluationError: several models or shot counts, or a task without its clean score.
    """
    shown = [one for one in scored if one.asked.shots]
    _refuse_mixture({(one.asked.shots, one.asked.selection) for one in shown}, "ways to show examples")

    def place(one: Scored) -> str:
        return one.asked.quality if one.asked.shots else ZERO

    curves = {task: _curve(members, place) for task, members in by_task(scored).items()}
    for task, curve in curves.items():
        if CLEAN not in curve:
            raise EvaluationError(f"{task} has no score with clean examples to compare with")
    places = [name for name in (ZERO, *QUALITIES) if any(name in curve for curve in curves.values())]
    baselines = {"zero": ZERO, "clean": CLEAN}
    return with_holm(with_holm(_rows(curves, places, "quality", baselines, how), "zero"), "clean")


def _curve(members: Sequence[Scored], place_of: Callable[[Scored], Hashable]) -> Curve:
    groups: dict[Hashable, dict[int, Scored]] = {}
    for one in members:
        groups.setdefault(place_of(one), {})[one.asked.seed] = one
    return {
        place: _Point(
            average_over_seeds([one.measurement for one in draws.values()]),
            tuple(one.measurement.point for one in draws.values()),
            float(np.mean([one.tokens for one in draws.values()])),
            min(one.shown for one in draws.values()),
        )
        for place, draws in groups.items()
    }


def _rows(
    curves: dict[str, Curve],
    places: Sequence[Hashable],
    axis: str,
    baselines: Mapping[str, Hashable],
    how: Statistics,
) -> list[dict[str, Any]]:
    rows = [
        {"task": task, "is_average": False, axis: place, **_figures([curve], place, baselines, how)}
        for task, curve in curves.items()
        for place in places
        if place in curve
    ]
    complete = [curve for curve in curves.values() if all(place in curve for place in places)]
    if len(complete) > 1:
        label = f"average of {len(complete)} tasks"
        rows += [
            {"task": label, "is_average": True, axis: place, **_figures(complete, place, baselines, how)}
            for place in places
        ]
    return rows


def _figures(
    curves: Sequence[Curve], place: Hashable, baselines: Mapping[str, Hashable], how: Statistics
) -> dict[str, Any]:
    points = [curve[place] for curve in curves]
    draws = np.mean([point.seeds for point in points], axis=0) if _same_seeds(points) else []
    figures: dict[str, Any] = {
        **summarised([point.measured for point in points], how),
        "seeds": min(len(point.seeds) for point in points),
        "seed_low": float(np.min(draws)) if len(draws) else None,
        "seed_high": float(np.max(draws)) if len(draws) else None,
        "examples_shown": min(point.shown for point in points),
        "query_tokens": round(float(np.mean([point.tokens for point in points])), 2),
    }
    for name, baseline in baselines.items():
        is_compared = place != baseline and all(baseline in curve for curve in curves)
        pairs = [(curve[place].measured, curve[baseline].measured) for curve in curves] if is_compared else []
        figures |= compared(pairs, how, name)
    return figures


def _same_seeds(points: Sequence[_Point]) -> bool:
    return len({len(point.seeds) for point in points}) == 1


def _refuse_mixture(found: set[Any], what: str) -> None:
    if len(found) > 1:
        raise EvaluationError(f"one study compares one of them, found several {what}: {sorted(found)}")


VERSION = 1


@dataclass(frozen=True)
class Qualities:
    """Makes the examples of any quality; a ``ChangeExamples`` of the grid.

    Attributes
        offered: the candidates of all tasks; off-task examples of one are drawn from the next.
    """

    offered: Sequence[Offered] = ()

    def __call__(self, examples: ExampleSet, offered: Offered, asked: AskedSetting) -> ExampleSet:
        """The examples in the quality that was asked for.

        Raises
            EvaluationError: they cannot be made, for example off-task without a second task.
        """
        candidates = self._next(offered) if asked.quality == OFF_TASK else offered.rows
        return corrupt(asked.quality, examples, candidates, asked.seed)

    def _next(self, offered: Offered) -> Sequence[Any]:
        known = [one.fingerprint for one in self.offered]
        mine = known.index(offered.fingerprint) if offered.fingerprint in known else 0
        others = [*self.offered[mine + 1 :], *self.offered[:mine]]
        return next((one.rows for one in others if one.rows and one.fingerprint != offered.fingerprint), ())


def quality_settings(
    shots: int, qualities: Sequence[str], seeds: Sequence[int], *, selection: ExampleStrategy = "random"
) -> tuple[AskedSetting, ...]:
    """Zero-shot, clean examples, and each quality; raises ConfigError for an unknown one."""
    names = dict.fromkeys([CLEAN, *map(checked_quality, qualities)])
    shown = [AskedSetting(shots, selection, seed, name) for name in names for seed in seeds]
    return (AskedSetting(0), *shown)


def study_shots(
    request: RunRequest,
    model: OpenedModel,
    store: Store,
    *,
    shots: Sequence[int],
    seeds: Sequence[int],
    selection: ExampleStrategy = "random",
    progress: Progress | None = None,
) -> tuple[Artefact, Outcome]:
    """The shot-count curve over tasks and seeds; zero-shot is always measured.

    Raises
        EvaluationError: no task gave a score.
        ModelError, StoreError: as ``run_grid``.
    """
    asked = tuple(settings_of(sorted({0, *shots}), [selection], seeds))
    outcome = run_grid(replace(request, asked=asked), model, store, progress=progress)
    facts = {"shots": sorted({0, *shots}), "seeds": list(seeds), "selection": selection}
    return _publish("shots", outcome, request, model, store, facts), outcome


def study_examples(
    request: RunRequest,
    model: OpenedModel,
    store: Store,
    *,
    shots: int,
    qualities: Sequence[str],
    seeds: Sequence[int],
    progress: Progress | None = None,
) -> tuple[Artefact, Outcome]:
    """Scores by the quality of the examples, with zero-shot and clean examples beside them.

    Raises
        ConfigError: an unknown quality.
        EvaluationError: no task gave a score.
        ModelError, StoreError: as ``run_grid``.
    """
    asked = quality_settings(shots, qualities, seeds)
    change = Qualities(_candidates(request) if OFF_TASK in qualities else ())
    outcome = run_grid(replace(request, asked=asked, change=change), model, store, progress=progress)
    facts = {"shots": shots, "seeds": list(seeds), "selection": "random"}
    return _publish("examples", outcome, request, model, store, facts), outcome


def _candidates(request: RunRequest) -> list[Offered]:
    found = []
    for name in request.tasks:
        try:
            found.append(offer_examples(open_task(name, request.places), request.source))
        except IclEmbedError:  # the run itself will say what is wrong with this task
            continue
    return found


def _publish(
    name: StudyName,
    outcome: Outcome,
    request: RunRequest,
    model: OpenedModel,
    store: Store,
    facts: dict[str, Any],
) -> Artefact:
    artefacts = [one.artefact for one in outcome.measured]
    if not artefacts:
        reasons = [
            f"{one.task}: {one.reason}" for one in (*outcome.missing, *outcome.failed, *outcome.absent)
        ]
        raise EvaluationError(f"the study {name} has no score: {'; '.join(reasons[:5]) or 'no task'}")
    config = request.config
    how = Statistics(Bootstrap(config.bootstrap_resamples, config.confidence, request.seed))
    without = (*outcome.missing, *outcome.absent, *outcome.failed)
    notes = [f"{one.task} {one.setting} was not measured: {one.reason}".replace("  ", " ") for one in without]
    settings = {
        "study": name,
        "model": model.about.fingerprint,
        "facts": facts,
        "notes": notes,
        "statistics": [config.bootstrap_resamples, config.confidence, request.seed],
    }
    inputs = {f"score {number}": one.reference for number, one in enumerate(artefacts)}
    key = StageKey(STAGE, VERSION, settings, inputs, f"{name} study of {model.about.name}")

    def produce(folder: Any) -> dict[str, Any]:
        scored = read_scored([one.path for one in artefacts])
        rows: Sequence[Row] = shot_rows(scored, how) if name == "shots" else quality_rows(scored, how)
        about = model.about
        return write_study(
            folder, Study(name, about.name, about.fingerprint, tuple(rows), {**facts, "notes": notes})
        )

    return store.build(key, produce)
