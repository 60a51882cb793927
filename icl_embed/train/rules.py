"""What the loss does with each kind of task, and data sets that no rule can train on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from icl_embed.config import LABEL_KINDS, RANKING_KINDS, Kind, KindRule, TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.train.rows import TrainingSet

logger = logging.getLogger(__name__)

HALF = 0.5  # of the batches of a data set


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


def refuse_nothing_to_learn(training_sets: Sequence[TrainingSet], config: TrainConfig) -> None:
    """Say which rows cannot teach anything, before the model is loaded.

    Raises
        TrainingError: no row of any data set can have a negative.
    """
    teaches = False
    for training_set in training_sets:
        found = len(training_set.rows)
        silent = _rows_without_negative(training_set, config)
        teaches |= silent < found
        if silent:
            logger.warning(
                "warning: %d of %d rows of %s can have no negative and teach nothing%s",
                silent, found, training_set.name, _why(training_set),
            )  # fmt: skip
        _warn_of_one_label(training_set, config)
    if not teaches:
        names = ", ".join(f"{one.name}{_why(one)}" for one in training_sets)
        raise TrainingError(
            f"nothing can be learned: no row of {names} can have a negative, so every loss would be 0; add "
            "data with several labels or several positives, mine negatives, or raise train.num_negatives"
        )


def _rows_without_negative(training_set: TrainingSet, config: TrainConfig) -> int:
    """How many rows no other row, label or mined text can be a negative of."""
    is_labelled = training_set.kind in LABEL_KINDS
    if is_labelled and len(training_set.positions_by_label) > 1:
        return 0  # texts of other labels can always be drawn
    rule = rule_of(config, training_set.kind, targets_labels=is_labelled)
    uses_given = rule.num_negatives > 0 and not (is_labelled and config.label_target == "text")
    others = not is_labelled and rule.in_batch_negatives and _batch_has_others(training_set, config)
    return sum(
        not (others or (uses_given and any(text.strip() and text != row.positive for text in row.negatives)))
        for row in training_set.rows
    )


def _batch_has_others(training_set: TrainingSet, config: TrainConfig) -> bool:
    """Whether two rows can meet that have neither query nor positive in common."""
    first = training_set.rows[0]
    return config.batch_size_of(training_set.kind) > 1 and any(
        row.positive != first.positive and row.query != first.query for row in training_set.rows
    )


def _warn_of_one_label(training_set: TrainingSet, config: TrainConfig) -> None:
    """Texts of one label are no negatives of each other, and a batch of one label has no others."""
    groups = training_set.positions_by_label
    if training_set.kind not in LABEL_KINDS or len(groups) < 2:
        return
    label, count = max(((label, len(rows)) for label, rows in groups.items()), key=lambda one: one[1])
    others = config.batch_size_of(training_set.kind) - 1
    if (count / len(training_set.rows)) ** others > HALF:
        logger.warning(
            "warning: %d of %d rows of %s have the label %r, so most batches have no other, and steps "
            "that compare texts (train.label_target) teach next to nothing; balance the labels",
            count, len(training_set.rows), training_set.name, label,
        )  # fmt: skip


def _why(training_set: TrainingSet) -> str:
    if training_set.kind not in LABEL_KINDS or len(training_set.positions_by_label) != 1:
        return ""
    return f" (all have the label {next(iter(training_set.positions_by_label))!r})"
