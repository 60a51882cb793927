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
    average_over_trainings,
    difference_over_trainings,
)
from icl_embed.evaluation.scores import read_measurements, read_scores
from icl_embed.few_shot.settings import FEW_SHOT, ZERO_SHOT
from icl_embed.train.metrics import METRICS_NAME, read_metrics, step_lines

LOSS_STEPS = 10


@dataclass(frozen=True)
class VariantResult:
    """The artefacts of one training: its variant's settings as text, its embedder, and its scores."""

    label: str
    embedder: Path
    scores: Sequence[Path]


def ablation_table(trained: Sequence[VariantResult], how: Bootstrap) -> str:
    """Markdown: a row per variant, averages over the data sets that none was trained on, in %.

    Trainings of one label are one variant with several seeds: their average, with an interval over seeds too.
    Differences are paired: few-shot minus zero-shot, and each variant's few-shot minus that of the first one.

    Raises
        EvaluationError: an evaluation is missing or damaged, or variants were not measured on the same items.
    """
    header = (
        *("variant", f"loss, first and last {LOSS_STEPS} steps", "zero-shot", "few-shot"),
        *("few-shot over zero-shot", "few-shot over the first variant's"),
    )
    lines = [_row(header), "|" + "---|" * len(header)]
    found = [
        {name: pair for name, one in _by_dataset(one.scores).items() if (pair := _zero_and_few(one))}
        for one in trained
    ]
    everywhere = [name for name in found[0] if all(name in one for one in found)]
    first: list[list[Measurement]] = []
    for label in dict.fromkeys(one.label for one in trained):
        mine = [number for number, one in enumerate(trained) if one.label == label]
        zero, few = ([[found[at][name][side] for name in everywhere] for at in mine] for side in (0, 1))
        scores = (average_over_trainings(side, how).in_percent for side in (zero, few))
        gain = difference_over_trainings(_paired(few, zero), how).in_points
        is_paired = len(first) == len(few)
        over_first = difference_over_trainings(_paired(few, first), how).in_points if is_paired else "–"
        losses = _losses([trained[at].embedder for at in mine])
        lines.append(_row((_with_seeds(label, len(mine)), losses, *scores, gain, over_first)))
        first = first or few
    return "\n".join(lines) + "\n"


def _paired(
    first: Sequence[Sequence[Measurement]], second: Sequence[Sequence[Measurement]]
) -> list[list[tuple[Measurement, Measurement]]]:
    """Training by training, data set by data set."""
    return [list(zip(*sides, strict=True)) for sides in zip(first, second, strict=True)]


def _with_seeds(label: str, count: int) -> str:
    return label if count == 1 else ", ".join([*filter(None, [label]), f"{count} seeds"])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class _OneDataset:
    """A data set with its measurements by number of examples."""

    trained_on: bool
    by_shots: dict[int, Measurement]


def _by_dataset(folders: Sequence[Path]) -> dict[str, _OneDataset]:
    """The scores of one model, put together again; in the order of the folders."""
    found: dict[str, _OneDataset] = {}
    for folder in folders:
        scores = read_scores(folder)
        measured = read_measurements(folder, scores)
        mine = found.setdefault(scores.dataset, _OneDataset(scores.trained_on, {}))
        for result in scores.results:
            mine.by_shots.setdefault(result.shots, measured[result.setting])
    return found


def _zero_and_few(dataset: _OneDataset) -> tuple[Measurement, Measurement] | None:
    """Without and with examples on an unseen data set; None where it was trained on or there were none."""
    most = max(dataset.by_shots, default=0)
    if dataset.trained_on or not most or 0 not in dataset.by_shots:
        return None
    return dataset.by_shots[0], dataset.by_shots[most]


def _losses(embedders: Sequence[Path]) -> str:
    logs = [[line["loss"] for line in step_lines(read_metrics(one / METRICS_NAME))] for one in embedders]
    first = [loss for losses in logs for loss in losses[:LOSS_STEPS]]
    last = [loss for losses in logs for loss in losses[-LOSS_STEPS:]]
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


def choose_best(folders: Mapping[int, Sequence[Path]], how: Bootstrap) -> CheckpointChoice:
    """Choose among steps by their score folders, the same data sets in the same order for each.

    Raises
        EvaluationError: no steps, or a score that cannot be read.
    """
    if not folders:
        raise EvaluationError("there is no checkpoint to choose from")
    measured = {step: _by_dataset(mine).values() for step, mine in folders.items()}
    shots = min(max(one.by_shots, default=0) for mine in measured.values() for one in mine)
    setting = FEW_SHOT if shots else ZERO_SHOT
    chosen = {step: [one.by_shots[shots] for one in mine] for step, mine in measured.items()}
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
