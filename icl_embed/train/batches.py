"""Which rows meet in which step: a pure function of the seed.

One data set per step (paper section 3.3; reference code AbsDataset): all passages of a batch then come from
the same distribution and in-batch negatives are informative. The plan of every step is fixed before training,
so resuming is looking up a number.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from icl_embed.config import LABEL_KINDS
from icl_embed.train.rows import Row, TrainingSet


@dataclass(frozen=True)
class Batch:
    """The rows of one step over all ranks."""

    step: int
    training_set: TrainingSet
    rows: tuple[Row, ...]
    targets_labels: bool  # label tasks only: the positive is the label's text, not another text of the label

    @property
    def targets_texts(self) -> bool:
        """Whether the positive of a row is another text of its label."""
        return self.training_set.kind in LABEL_KINDS and not self.targets_labels


def plan_steps(
    training_sets: Sequence[TrainingSet], *, steps: int, batch_sizes: Sequence[int], seed: int
) -> list[tuple[int, tuple[int, ...]]]:
    """For each step, the data set and its row numbers.

    Data sets are drawn by weight; each runs through its rows in an order shuffled anew every epoch, dropping
    what does not fill a batch.

    Parameters
        batch_sizes: rows per step of each data set, over all ranks.
    """
    chooser = random.Random(f"{seed}:datasets")
    queues: list[list[int]] = [[] for _ in training_sets]
    epochs = [0] * len(training_sets)
    plan = []
    for _ in range(steps):
        [chosen] = chooser.choices(range(len(training_sets)), [one.weight for one in training_sets])
        size = batch_sizes[chosen]
        if len(queues[chosen]) < size:
            queues[chosen] = _epoch_order(training_sets[chosen], epochs[chosen], seed)
            epochs[chosen] += 1
        plan.append((chosen, tuple(queues[chosen][:size])))
        del queues[chosen][:size]
    return plan


def _epoch_order(training_set: TrainingSet, epoch: int, seed: int) -> list[int]:
    order = list(range(len(training_set.rows)))
    random.Random(f"{seed}:{training_set.name}:{epoch}").shuffle(order)
    return order


def make_batch(
    training_sets: Sequence[TrainingSet],
    planned: tuple[int, tuple[int, ...]],
    *,
    step: int,
    label_target: str,
) -> Batch:
    """The batch of one planned step."""
    chosen, numbers = planned
    training_set = training_sets[chosen]
    targets_labels = label_target == "label" or (label_target == "mixed" and step % 2 == 0)
    if training_set.kind not in LABEL_KINDS:
        targets_labels = False
    rows = tuple(training_set.rows[number] for number in numbers)
    return Batch(step, training_set, rows, targets_labels)
