"""Which rows meet in which step, and which examples each query is shown: pure functions of the seed.

One data set per step (paper section 3.3; reference code AbsDataset): all passages of a batch then come from
the same distribution and in-batch negatives are informative. The plan of every step is fixed before training,
so resuming is looking up a number.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from icl_embed.config import LABEL_KINDS, ExamplesConfig
from icl_embed.examples import Example
from icl_embed.train.rows import Row, TrainingSet


@dataclass(frozen=True)
class Batch:
    """The rows of one step over all ranks."""

    training_set: TrainingSet
    rows: tuple[Row, ...]
    targets_labels: bool  # label tasks only: the positive is the label's text, not another text of the label


def plan_steps(
    training_sets: Sequence[TrainingSet], *, steps: int, batch_size: int, seed: int
) -> list[tuple[int, tuple[int, ...]]]:
    """For each step, the data set and its row numbers.

    Data sets are drawn by weight; each runs through its rows in an order shuffled anew every epoch, dropping
    what does not fill a batch.
    """
    chooser = random.Random(f"{seed}:datasets")
    queues: list[list[int]] = [[] for _ in training_sets]
    epochs = [0] * len(training_sets)
    plan = []
    for _ in range(steps):
        [chosen] = chooser.choices(range(len(training_sets)), [one.weight for one in training_sets])
        if len(queues[chosen]) < batch_size:
            queues[chosen] = _epoch_order(training_sets[chosen], epochs[chosen], seed)
            epochs[chosen] += 1
        plan.append((chosen, tuple(queues[chosen][:batch_size])))
        del queues[chosen][:batch_size]
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
    return Batch(training_set, tuple(training_set.rows[number] for number in numbers), targets_labels)


def draw_examples(
    rows: Sequence[Row], shown_to: range, config: ExamplesConfig, *, seed: int, step: int
) -> list[Example]:
    """The examples shown to one query, or to the queries of one group.

    k is uniform on 0 … max_per_query (paper section 3.3). Examples come from the other rows of the batch, in
    random order, and never repeat a query they are shown to, nor (outside label tasks, where labels repeat by
    nature) its positive.

    Parameters
        rows: the whole batch over all ranks.
        shown_to: positions in ``rows`` of the queries that will see the examples.
    """
    rng = random.Random(f"{seed}:{step}:{shown_to.start}")
    count = rng.randint(0, config.max_per_query)
    queries = {rows[position].query for position in shown_to}
    answers = {rows[position].positive for position in shown_to if not rows[position].label}
    others = [
        row
        for position, row in enumerate(rows)
        if position not in shown_to and row.query not in queries and row.positive not in answers
    ]
    return [Example(row.query, row.response) for row in rng.sample(others, min(count, len(others)))]


def draw_same_label(training_set: TrainingSet, row: Row, *, seed: int, step: int) -> str:
    """Another text with the same label; the row's own text when it is the only one."""
    rng = random.Random(f"{seed}:{step}:{row.query}")
    texts = [
        other.query for other in training_set.rows if other.label == row.label and other.query != row.query
    ]
    return rng.choice(texts) if texts else row.query


def choose_negatives(row: Row, count: int, *, seed: int, step: int) -> list[str]:
    """``count`` hard negatives of a row, without repeats while there are enough, else cycled."""
    rng = random.Random(f"{seed}:{step}:{row.query}:negatives")
    if not row.negatives:
        return []
    shuffled = rng.sample(row.negatives, len(row.negatives))
    return [shuffled[number % len(shuffled)] for number in range(count)]
