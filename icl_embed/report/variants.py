"""Variants of a training side by side: ablations, and the checkpoints of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import (
    Bootstrap,
    Difference,
    Interval,
    Measurement,
    average,
    average_difference,
)
from icl_embed.evaluation.scores import read_measurements, read_scores
from icl_embed.few_shot.settings import FEW_SHOT, ZERO_SHOT
from icl_embed.train.metrics import METRICS_NAME, read_metrics

LOSS_STEPS = 10


@dataclass(frozen=True)
class VariantResult:
    """The artefacts of one variant: its settings as text, its embedder, and its evaluations."""

    label: str
    embedder: Path
    evaluations: Sequence[Path]


def ablation_table(variants: Sequence[VariantResult], how: Bootstrap) -> str:
    """Markdown: a row per variant, averages over the data sets it was not trained on, in %.

    Differences are paired: few-shot minus zero-shot, and each variant's few-shot minus that of the first one.

    Raises
        EvaluationError: an evaluation is missing or damaged, or variants were not measured on the same items.
    """
    header = (
        *("variant", f"loss, first and last {LOSS_STEPS} steps", "zero-shot", "few-shot"),
        *("few-shot over zero-shot", "few-shot over the first variant's"),
    )
    lines = [_row(header), "|" + "---|" * len(header)]
    first: list[Measurement] = []
    for variant in variants:
        pairs = [pair for folder in variant.evaluations if (pair := _zero_and_few(folder))]
        zero, few = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        gain = average_difference(list(zip(few, zero, strict=True)), how)
        scores = (average(zero, how).in_percent, average(few, how).in_percent)
        over_first = average_difference(list(zip(few, first, strict=True)), how).in_points if first else "–"
        lines.append(_row((variant.label, _losses(variant.embedder), *scores, gain.in_points, over_first)))
        first = first or few
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _zero_and_few(folder: Path) -> tuple[Measurement, Measurement] | None:
    """Both settings on an unseen data set; None where it was trained on or there were no examples."""
    scores = read_scores(folder)
    measured = read_measurements(folder, scores)
    if scores.trained_on or not {ZERO_SHOT, FEW_SHOT} <= set(measured):
        return None
    return measured[ZERO_SHOT], measured[FEW_SHOT]


def _losses(embedder: Path) -> str:
    losses = [line["loss"] for line in read_metrics(embedder / METRICS_NAME)]
    first, last = losses[:LOSS_STEPS], losses[-LOSS_STEPS:]
    return f"{sum(first) / len(first):.2f} → {sum(last) / len(last):.2f}"


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
