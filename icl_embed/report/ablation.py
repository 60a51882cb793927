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

    Raises
        EvaluationError: an evaluation is missing or damaged.
    """
    lines = [
        "| variant | loss, first and last 10 steps | zero-shot | few-shot | few-shot over zero-shot |",
        "|---|---|---|---|---|",
    ]
    for variant in variants:
        pairs = [pair for folder in variant.evaluations if (pair := _zero_and_few(folder))]
        zero = average([pair[0] for pair in pairs], how)
        few = average([pair[1] for pair in pairs], how)
        gain = average_difference([(few_shot, zero_shot) for zero_shot, few_shot in pairs], how)
        cells = [variant.label, _losses(variant.embedder), zero.in_percent, few.in_percent, gain.in_points]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


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
