"""Which examples each query is shown: a pure function of (seed, step, query), the same on every rank."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence

from icl_embed.config import ExamplesConfig
from icl_embed.examples import Example
from icl_embed.train.batches import Batch
from icl_embed.train.rows import Row, TrainingSet


def readers_of(mine: range, config: ExamplesConfig) -> list[range]:
    """Positions in the batch, of one rank, cut into those that see the same examples."""
    size = {"per_query": 1, "per_group": config.group_size, "per_batch": len(mine)}[config.sharing]
    return [range(start, start + size) for start in range(mine.start, mine.stop, size)]


def draw_examples(
    batch: Batch, readers: range, config: ExamplesConfig, *, hidden: Collection[str], seed: int
) -> list[Example]:
    """The examples shown to some queries of a batch.

    The number k is uniform on 0 … max_per_query (paper section 3.3); the mode ``fixed`` shows all of its few.
    Examples of one query or group come from the other rows of the batch, those of a whole batch from the
    rest of its data set, in random order.

    Parameters
        readers: positions in the batch of the queries that will see the examples.
        hidden: texts that must not be shown, the readers' queries and positives. Only the labels of label
            tasks, which repeat by nature, may be answers nevertheless.
    """
    if config.mode == "none":
        return []
    if config.mode == "fixed":
        rows = fixed_rows(batch.training_set, config.fixed_count, seed=seed)
        return [Example(row.query, row.response) for row in rows if _may_show(row, hidden)]
    whole_batch = config.sharing == "per_batch"
    rng = random.Random(f"{seed}:{batch.step}:{'batch' if whole_batch else readers.start}")
    count = rng.randint(0, config.max_per_query)
    source = batch.training_set.rows if whole_batch else batch.rows
    rows = _draw_rows(count, source, rng, lambda row: _may_show(row, hidden))
    return [Example(row.query, row.response) for row in rows]


def fixed_rows(training_set: TrainingSet, count: int, *, seed: int) -> list[Row]:
    """The rows that the mode ``fixed`` shows in every step of a data set."""
    rng = random.Random(f"{seed}:{training_set.name}:fixed")
    return _draw_rows(count, training_set.rows, rng, lambda _row: True)


def in_random_order(rng: random.Random, size: int) -> Iterator[int]:
    """The numbers below ``size`` in random order; the first few cost nothing however many there are."""
    moved: dict[int, int] = {}  # a Fisher-Yates shuffle that remembers only the places it has touched
    for left in range(size, 0, -1):
        chosen = rng.randrange(left)
        yield moved.get(chosen, chosen)
        moved[chosen] = moved.get(left - 1, left - 1)


def _may_show(row: Row, hidden: Collection[str]) -> bool:
    return row.query not in hidden and (bool(row.label) or row.positive not in hidden)


def _draw_rows(
    count: int, source: Sequence[Row], rng: random.Random, may_show: Callable[[Row], bool]
) -> list[Row]:
    drawn: dict[str, Row] = {}
    places = in_random_order(rng, len(source))
    while len(drawn) < count and (place := next(places, None)) is not None:
        row = source[place]
        if may_show(row):
            drawn.setdefault(row.query, row)
    return list(drawn.values())
