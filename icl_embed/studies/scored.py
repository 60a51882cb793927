"""Scores of one model by task and setting, read from ``score`` artefacts, and how two of them compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from icl_embed.benchmark.asked import AskedSetting
from icl_embed.config import ExampleStrategy
from icl_embed.errors import EvaluationError
from icl_embed.evaluate.measurement import Bootstrap, Measured, Measurement, average, average_difference
from icl_embed.evaluate.scores import EvaluationScores, read_measurements, read_scores
from icl_embed.evaluate.significance import (
    Randomisation,
    average_randomisation_p,
    holm,
    minimum_detectable_effect,
)


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
