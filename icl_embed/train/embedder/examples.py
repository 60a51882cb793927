"""Which examples a query is shown in training: how many, which ones, and how the task is named above them.

A model learns to read examples only where they say something that instruction and label names do not
(MetaICL, arXiv 2110.15943; symbol tuning, arXiv 2305.08298): hence instructions that say nothing, labels
under arbitrary names, and examples like the query (RARe, arXiv 2410.20088).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest

import numpy as np

from icl_embed.bm25 import Bm25Index, words_of
from icl_embed.config import ExamplesConfig
from icl_embed.examples import Example
from icl_embed.train.embedder.batches import Batch, in_random_order
from icl_embed.train.rows import Row, Rows, TrainingSet

GENERIC_INSTRUCTION = "Given a text, find the text that belongs to it"
NEAR_COPY = 0.8  # Jaccard similarity of words: so alike a query would give its own answer away
SEARCHED_ROWS = 50_000  # of a data set, in random order; a step must not wait for a search of millions


def readers_of(mine: range, config: ExamplesConfig) -> list[range]:
    """Positions in the batch, of one rank, cut into those that see the same examples."""
    size = {"per_query": 1, "per_group": config.group_size, "per_batch": len(mine)}[config.sharing]
    return [range(start, start + size) for start in range(mine.start, mine.stop, size)]


def draw_examples(
    batch: Batch,
    readers: range,
    config: ExamplesConfig,
    *,
    hidden: Collection[str],
    seed: int,
    neighbours: Neighbours | None = None,
) -> list[Example]:
    """The examples shown to some queries of a batch, in the order of the prompt.

    Their number is drawn by ``config.counts``, else uniform on 0 … max_per_query (paper section 3.3); the
    mode ``fixed`` shows all of its few. Examples of one query or group come from the other rows of the batch,
    those of a whole batch from the rest of its data set, in random order; in the mode ``nearest`` they are
    the rows of the data set whose queries are most like the readers', the nearest last, beside the query.
    Labels under arbitrary names are all explained, by an example each.

    Parameters
        readers: positions in the batch of the queries that will see the examples.
        hidden: texts that must not be shown, the readers' queries and positives. Only the labels of label
            tasks, which repeat by nature, may be answers nevertheless.
        neighbours: of the batch's data set, for the mode ``nearest``.
    """
    if config.mode == "none":
        return []
    if config.mode == "fixed":
        rows = fixed_rows(batch.training_set, config.fixed_count, seed=seed)
        return [Example(row.query, row.response) for row in rows if _may_show(row, hidden)]
    whole_batch = config.sharing == "per_batch"
    rng = random.Random(f"{seed}:{batch.step}:{'batch' if whole_batch else readers.start}")
    count = _draw_count(config, rng)
    if batch.names:
        return _explain_names(batch, count, rng, hidden)
    if neighbours is not None:
        found = neighbours.of([batch.rows[position] for position in readers], count, hidden)
        return [Example(row.query, row.response) for row in reversed(found)]
    source = batch.training_set.rows if whole_batch else batch.rows
    rows = draw_rows(count, source, rng, lambda row: _may_show(row, hidden))
    return [Example(row.query, row.response) for row in rows]


def draw_for_passages(
    batch: Batch, config: ExamplesConfig, *, hidden: Collection[str], seed: int
) -> list[Example]:
    """The examples that the passages of a symmetric task are shown; none in most steps.

    At inference both sides of such a task are queries with examples. They come from the rest of the data set.

    Parameters
        hidden: every text of the step.
    """
    rng = random.Random(f"{seed}:{batch.step}:passages")
    if config.mode == "none" or rng.random() >= config.symmetric_passages:
        return []
    count = _draw_count(config, rng)
    if batch.names:
        return _explain_names(batch, count, rng, hidden)
    rows = draw_rows(count, batch.training_set.rows, rng, lambda row: _may_show(row, hidden))
    return [Example(row.query, row.response) for row in rows]


def draw_instruction(
    batch: Batch, readers: range, config: ExamplesConfig, examples: Sequence[Example], *, seed: int
) -> str:
    """The task's instruction; where examples say what is asked, in some prompts one that says nothing."""
    rng = random.Random(f"{seed}:{batch.step}:{readers.start}:instruction")
    is_generic = bool(examples) and rng.random() < config.generic_instruction
    return GENERIC_INSTRUCTION if is_generic else batch.training_set.instruction


def fixed_rows(training_set: TrainingSet, count: int, *, seed: int) -> list[Row]:
    """The rows that the mode ``fixed`` shows in every step of a data set."""
    rng = random.Random(f"{seed}:{training_set.name}:fixed")
    return draw_rows(count, training_set.rows, rng, lambda _row: True)


def draw_rows(
    count: int, source: Sequence[Row], rng: random.Random, may_show: Callable[[Row], bool]
) -> list[Row]:
    """Up to ``count`` rows with different queries, in random order."""
    drawn: dict[str, Row] = {}
    places = in_random_order(rng, len(source))
    while len(drawn) < count and (place := next(places, None)) is not None:
        row = source[place]
        if may_show(row):
            drawn.setdefault(row.query, row)
    return list(drawn.values())


def _draw_count(config: ExamplesConfig, rng: random.Random) -> int:
    if config.counts:
        return rng.choices(range(len(config.counts)), config.counts)[0]
    return rng.randint(0, config.max_per_query)


def _explain_names(batch: Batch, count: int, rng: random.Random, hidden: Collection[str]) -> list[Example]:
    """An example of every label that was renamed, then others of these labels, in random order."""
    known, rows = batch.training_set.positions_by_label, batch.training_set.rows
    drawn: dict[str, Row] = {}
    labels = list(batch.names)
    turns = chain(labels, (rng.choice(labels) for _ in range(max(0, count - len(labels)))))
    for label in turns:
        mine = rows.select(known[label])
        for row in draw_rows(1, mine, rng, lambda row: row.query not in hidden and row.query not in drawn):
            drawn[row.query] = row
    shown = list(drawn.values())
    rng.shuffle(shown)
    return [Example(row.query, batch.names[row.label]) for row in shown]


def _may_show(row: Row, hidden: Collection[str]) -> bool:
    return row.query not in hidden and (bool(row.label) or row.positive not in hidden)


@dataclass
class Neighbours:
    """The rows of a data set whose queries share words with a query (BM25).

    The one thing about rows that is kept in memory: an index of up to ``SEARCHED_ROWS`` queries per data set.
    """

    training_set: TrainingSet
    seed: int
    _rows: Rows = field(init=False)
    _index: Bm25Index = field(init=False)

    def __post_init__(self) -> None:
        self._rows = self.training_set.rows
        if len(self._rows) > SEARCHED_ROWS:
            rng = random.Random(f"{self.seed}:{self.training_set.name}:searched")
            searched = sorted(rng.sample(range(len(self._rows)), SEARCHED_ROWS))
            self._rows = self._rows.select(np.array(searched, np.int32))
        self._index = Bm25Index.build(list(map(self._rows.query, range(len(self._rows)))))

    def of(self, readers: Sequence[Row], count: int, hidden: Collection[str]) -> list[Row]:
        """The ``count`` rows nearest to any of the readers, which take turns; the nearest first.

        A row that a reader would find its own answer in, itself or a near copy, is left out.
        """
        taken = [set(words_of(row.query)) for row in readers]
        by_reader = [self._nearest(row.query, count + len(readers), hidden, taken) for row in readers]
        found: dict[str, Row] = {}
        for row in chain.from_iterable(zip_longest(*by_reader)):
            if row is not None and len(found) < count:
                found.setdefault(row.query, row)
        return list(found.values())

    def _nearest(
        self, query: str, count: int, hidden: Collection[str], taken: Sequence[set[str]]
    ) -> Iterator[Row]:
        for number, _ in self._index.best(query, 2 * count):
            row = self._rows[number]
            words = set(words_of(row.query))
            copies = any(len(words & other) >= NEAR_COPY * len(words | other) for other in taken)
            if not copies and _may_show(row, hidden):
                yield row
