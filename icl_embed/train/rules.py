"""What the loss does with each kind of task, and data sets that no rule can train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icl_embed.config import LABEL_KINDS, RANKING_KINDS, Kind, KindRule, TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.train.rows import TrainingSet


@dataclass(frozen=True)
class Rule:
    """A kind's rule with every blank filled in (see ``KindRule``)."""

    num_negatives: int
    in_batch_negatives: bool
    distil: bool


def rule_of(config: TrainConfig, kind: Kind, *, targets_labels: bool) -> Rule:
    """The rule of one batch.

    Where labels are the targets, in-batch negatives are off unless asked for (paper section 3.3): few
    labels make a batch, and the hard negatives already are the other labels.
    """
    given = config.kinds.get(kind, KindRule())
    return Rule(
        num_negatives=config.num_negatives if given.num_negatives is None else given.num_negatives,
        in_batch_negatives=not targets_labels
        if given.in_batch_negatives is None
        else given.in_batch_negatives,
        distil=kind in RANKING_KINDS if given.distil is None else given.distil,
    )


def refuse_unusable(training_sets: Sequence[TrainingSet], config: TrainConfig) -> None:
    """Check every data set before the first step.

    Raises
        TrainingError: a data set too small to fill a batch (and, where a batch shares its examples, to leave
            some), or of a label kind without labels; the message names it.
    """
    examples = config.examples
    draws_outside = examples.mode == "in_batch" and examples.sharing == "per_batch" and examples.wanted
    for training_set in training_sets:
        batch_size, found = config.batch_size_of(training_set.kind), len(training_set.rows)
        if found < batch_size:
            raise TrainingError(
                f"data set {training_set.name} has {found} training rows, fewer than a batch of "
                f"{batch_size}; lower train.batch_size or move it from data.train to data.evaluate"
            )
        if draws_outside and found == batch_size:
            raise TrainingError(
                f"data set {training_set.name} has {found} training rows, all in every batch: none is left "
                "to be a shared example; lower train.batch_size or use examples.sharing = per_query"
            )
        if training_set.kind in LABEL_KINDS and not all(row.label for row in training_set.rows):
            raise TrainingError(
                f"data set {training_set.name} is of the kind {training_set.kind}, but has rows without "
                "a label; map a label in its card or give it another kind"
            )
