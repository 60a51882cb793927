"""One table over variants of a run: what each trained to, and how it scores without and with examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icl_embed.evaluate.measurement import Bootstrap, Measurement, average, average_difference
from icl_embed.evaluate.scores import FEW_SHOT, ZERO_SHOT, read_measurements, read_scores
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
