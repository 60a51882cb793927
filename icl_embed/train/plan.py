"""Which rows meet in which step: a few numbers, and a function of the seed.

One data set per step (paper section 3.3; reference code AbsDataset): all passages of a batch then come from
the same distribution and in-batch negatives are informative. The plan of every step is fixed before training,
so resuming is looking up a number.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from icl_embed.config import OptimizerConfig
from icl_embed.train.rows import TrainingSet

Planned = tuple[int, tuple[int, ...]]  # a data set, and its row numbers


class StepPlan(Sequence[Planned]):
    """For each step, the data set and its row numbers.

    Kept are two numbers per step, and of each data set the order of one epoch, 4 bytes per row, from the
    first step on that needs it.
    """

    def __init__(
        self,
        training_sets: Sequence[TrainingSet],
        batch_sizes: Sequence[int],
        chosen: NDArray[np.int32],
        seed: int,
    ) -> None:
        """Number the turns of every data set.

        Parameters
            chosen: the data set of each step [S].
        """
        self._names = [one.name for one in training_sets]
        self._num_rows = [len(one.rows) for one in training_sets]
        self._batch_sizes = batch_sizes
        self._chosen = chosen
        self._turns = np.zeros(len(chosen), np.int32)
        for number in range(len(training_sets)):
            mine = chosen == number
            self._turns[mine] = np.arange(mine.sum())
        self._seed = seed
        self._orders: dict[int, tuple[int, array[int]]] = {}

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, step: int) -> Planned: ...
    @overload
    def __getitem__(self, step: slice) -> list[Planned]: ...
    def __getitem__(self, step: int | slice) -> Planned | list[Planned]:
        if isinstance(step, slice):
            return [self[number] for number in range(len(self))[step]]
        chosen, turn = int(self._chosen[step]), int(self._turns[step])
        size = self._batch_sizes[chosen]
        epoch, place = divmod(turn, self._num_rows[chosen] // size)  # what does not fill a batch is dropped
        return chosen, tuple(self._order(chosen, epoch)[place * size : (place + 1) * size])

    def _order(self, chosen: int, epoch: int) -> array[int]:
        """The rows of a data set as an epoch shuffles them; asked for again and again, then the next one."""
        known, order = self._orders.get(chosen, (-1, array("i")))
        if known != epoch:
            order = array("i", range(self._num_rows[chosen]))
            random.Random(f"{self._seed}:{self._names[chosen]}:{epoch}").shuffle(order)
            self._orders[chosen] = epoch, order
        return order


def plan_steps(
    training_sets: Sequence[TrainingSet],
    *,
    steps: int,
    batch_sizes: Sequence[int],
    seed: int,
    by_rows: bool = False,
) -> StepPlan:
    """Plan so many steps.

    Data sets are drawn by weight; each runs through its rows in an order shuffled anew every epoch, dropping
    what does not fill a batch.

    Parameters
        batch_sizes: rows per step of each data set, over all ranks; no data set has fewer rows.
        by_rows: nothing is drawn. The batches of all data sets are shuffled together, and all of them come
            in an epoch, so that a data set counts by its rows (paper; AbsDataset).
    """
    choose = _by_rows if by_rows else _by_weight
    return StepPlan(training_sets, batch_sizes, choose(training_sets, steps, batch_sizes, seed), seed)


def count_steps(
    training_sets: Sequence[TrainingSet], optimizer: OptimizerConfig, batch_sizes: Sequence[int]
) -> int:
    """The steps of a training: as many as it asks for, or those of its epochs, rounded, and one at least."""
    if not optimizer.epochs:
        return optimizer.steps
    return max(1, round(optimizer.epochs * sum(_batches_of(training_sets, batch_sizes))))


def _batches_of(training_sets: Sequence[TrainingSet], batch_sizes: Sequence[int]) -> list[int]:
    return [len(one.rows) // size for one, size in zip(training_sets, batch_sizes, strict=True)]


def _by_weight(
    training_sets: Sequence[TrainingSet], steps: int, _batch_sizes: Sequence[int], seed: int
) -> NDArray[np.int32]:
    chooser = random.Random(f"{seed}:datasets")
    numbers, weights = range(len(training_sets)), [one.weight for one in training_sets]
    return np.fromiter((chooser.choices(numbers, weights)[0] for _ in range(steps)), np.int32, steps)


def _by_rows(
    training_sets: Sequence[TrainingSet], steps: int, batch_sizes: Sequence[int], seed: int
) -> NDArray[np.int32]:
    once = np.repeat(np.arange(len(training_sets), dtype=np.int32), _batches_of(training_sets, batch_sizes))
    epochs = []
    for epoch in range(-(-steps // len(once))):
        order = array("i", once.tolist())
        random.Random(f"{seed}:datasets:{epoch}").shuffle(order)
        epochs.append(np.array(order, np.int32))
    return np.concatenate(epochs)[:steps]
