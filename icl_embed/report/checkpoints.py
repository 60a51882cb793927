"""The checkpoints of a training side by side, and which of them is best on the dev splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icl_embed.errors import EvaluationError
from icl_embed.evaluate.measurement import Bootstrap, average, average_difference
from icl_embed.evaluate.scores import FEW_SHOT, ZERO_SHOT, read_measurements, read_scores
from icl_embed.evaluate.statistics import Difference, Interval


@dataclass(frozen=True)
class CheckpointChoice:
    """Averages over the dev sets, by step.

    Attributes
        best: the step with the highest average; of equals the earlier one.
        setting: what the average is taken of: few-shot where every set has examples, else zero-shot.
        scores: by step, the average with its interval over test items.
        over_last: the best one minus the last one, paired.
    """

    best: int
    setting: str
    scores: Mapping[int, Interval]
    over_last: Difference


def choose_best(evaluations: Mapping[int, Sequence[Path]], how: Bootstrap) -> CheckpointChoice:
    """Choose among steps by their evaluation folders, the same data sets in the same order for each.

    Raises
        EvaluationError: no steps, or an evaluation that cannot be read.
    """
    if not evaluations:
        raise EvaluationError("there is no checkpoint to choose from")
    measured = {
        step: [read_measurements(folder, read_scores(folder)) for folder in folders]
        for step, folders in evaluations.items()
    }
    every = [settings for mine in measured.values() for settings in mine]
    setting = FEW_SHOT if all(FEW_SHOT in settings for settings in every) else ZERO_SHOT
    chosen = {step: [settings[setting] for settings in mine] for step, mine in measured.items()}
    scores = {step: average(mine, how) for step, mine in chosen.items()}
    best = max(sorted(scores), key=lambda step: scores[step].mean)
    pairs = list(zip(chosen[best], chosen[max(chosen)], strict=True))
    return CheckpointChoice(best, setting, scores, average_difference(pairs, how))


def choice_table(choice: CheckpointChoice) -> str:
    """Markdown: a row per step, and how sure the choice is."""
    lines = [f"| step | {choice.setting} on the dev splits |", "|---|---|"]
    for step, score in sorted(choice.scores.items()):
        cell = f"**{score.in_percent}**" if step == choice.best else score.in_percent
        lines.append(f"| {step} | {cell} |")
    return "\n".join([*lines, "", _verdict(choice)]) + "\n"


def _verdict(choice: CheckpointChoice) -> str:
    if choice.best == max(choice.scores):
        return f"The last step, {choice.best}, is the best."
    gain = choice.over_last
    sure = "" if gain.is_significant else "; that may be chance"
    return f"Step {choice.best} is best, {gain.in_points} over the last one{sure}."
