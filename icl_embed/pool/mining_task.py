"""What hard negatives are mined from: one data set's queries, passages and relations, as numbers.

Texts stay in Arrow columns, a tenth of what they would take as Python objects; whatever points at a text is
its position. Files are read batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from numpy.typing import NDArray

from icl_embed.config import LABEL_KINDS
from icl_embed.errors import PoolError
from icl_embed.texts import compared_column

BATCH_ROWS = 8192
Positions = NDArray[np.int64]


class Texts(Sequence[str]):
    """A column of texts, read as a list."""

    def __init__(self, parts: Sequence[pa.Array]) -> None:
        whole = [part.cast(pa.large_string()) for part in parts]
        self.column: pa.Array = pa.concat_arrays(whole) if whole else pa.array([], pa.large_string())

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            first, last, step = place.indices(len(self))
            found: list[str] = self.column[first:last:step].to_pylist()
            return found
        text: str = self.column[int(place)].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), BATCH_ROWS):
            yield from self[first : first + BATCH_ROWS]

    def compared(self) -> Texts:
        """Their match keys."""
        starts = range(0, len(self), BATCH_ROWS)
        return Texts([compared_column(self.column[first : first + BATCH_ROWS]) for first in starts])

    def positions_of(self, texts: pa.Array) -> Positions:
        """Where the texts of a column stand here; -1 for those that do not."""
        found = pc.index_in(texts.cast(pa.large_string()), value_set=self.column)
        return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), np.int64)


@dataclass(frozen=True)
class Lists:
    """A list of positions for each of N things.

    Attributes
        starts: int64 [N + 1].
    """

    starts: Positions
    values: Positions

    @classmethod
    def grouped(cls, owners: Positions, values: Positions, count: int) -> Lists:
        """The values of each owner, in the order given."""
        order = np.argsort(owners, kind="stable")
        return cls(np.searchsorted(owners[order], np.arange(count + 1)), values[order])

    def of(self, owner: int) -> Positions:
        """The positions of one."""
        return self.values[self.starts[owner] : self.starts[owner + 1]]


@dataclass(frozen=True)
class Task:
    """One data set's pairs of a query and a positive. Pairs are sorted by query, then by id.

    Attributes
        name, kind, instruction: of the data set.
        passages, passage_keys: candidate texts and their match keys.
        queries, query_keys: distinct queries and their match keys.
        pair_ids: by row of the file that the pairs come from.
        pair_row, pair_query, pair_positive: of each pair its row in that file, its query, its positive.
        given: by row of the file, the passages that are its negatives already.
        num_given: by row of the file, how many negatives it has already, passages or not.
        related: by ``key_of_query``, the passages that the data relates to the query.
        key_of_query: queries with one match key share their relations.
    """

    name: str
    kind: str
    instruction: str
    passages: Texts
    passage_keys: Texts
    queries: Texts
    query_keys: Texts
    pair_ids: Texts
    pair_row: Positions
    pair_query: Positions
    pair_positive: Positions
    given: Lists
    num_given: Positions
    related: Lists
    key_of_query: Positions

    @property
    def has_labels(self) -> bool:
        """Whether the passages are label texts."""
        return self.kind in LABEL_KINDS

    def pairs_of(self, first: int, last: int) -> range:
        """The pairs of the queries first … last - 1."""
        low, high = np.searchsorted(self.pair_query, [first, last])
        return range(int(low), int(high))


def dataset_names(pool_dir: Path) -> list[str]:
    """Names of the trained data sets of a pool, sorted."""
    path = pool_dir / "train.parquet"
    try:
        with pq.ParquetFile(path, pre_buffer=False) as parquet:
            found: set[str] = set()
            for batch in parquet.iter_batches(columns=["dataset"]):
                found.update(pc.unique(batch.column("dataset")).to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise PoolError(f"{path} cannot be read: {error}; build the pool again") from error
    return sorted(found)


def read_batches(pool_dir: Path, name: str, dataset: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of one data set in an export, in their order.

    Raises
        PoolError: the file is missing or damaged.
    """
    path = pool_dir / f"{name}.parquet"
    try:
        scanner = pads.dataset(path).scanner(
            columns=list(columns),
            filter=pc.field("dataset") == dataset,
            batch_size=BATCH_ROWS,
            batch_readahead=1,
            fragment_readahead=1,
            use_threads=False,
        )
        for batch in scanner.to_batches():
            if batch.num_rows:
                yield pa.table(batch)
    except (pa.ArrowException, OSError) as error:
        raise PoolError(f"{path} cannot be read: {error}; build the pool again") from error


def load_task(pool_dir: Path, name: str) -> Task:
    """Read one data set's training pairs, candidate passages and known relations from a pool artefact.

    Raises
        PoolError: a file is missing or damaged, or a positive is not among the passages.
    """
    passages = Texts(_column(pool_dir, "passages", name, "passage"))
    keys = passages.compared()
    pair_ids, queries, positives, given, num_given = [], [], [], [], []
    about: dict[str, str] = {}
    for batch in read_batches(
        pool_dir, "train", name, ("kind", "instruction", "pair_id", "query", "positive", "negatives")
    ):
        about = about or batch.select(["kind", "instruction"]).slice(0, 1).to_pylist()[0]
        pair_ids.append(_array(batch, "pair_id"))
        queries.append(_array(batch, "query"))
        positive = _array(batch, "positive")
        positives.append(keys.positions_of(compared_column(positive)))
        if (positives[-1] < 0).any():
            lost = positive[int(np.argmin(positives[-1]))]
            raise PoolError(f"{pool_dir}: a positive of {name} is not among its passages: {lost}")
        negatives = _array(batch, "negatives")
        given.append(keys.positions_of(compared_column(negatives.flatten())))
        num_given.append(negatives.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
    relations = read_batches(pool_dir, "relations", name, ("query", "passage"))
    counts = np.concatenate([*num_given, np.empty(0, np.int64)]).astype(np.int64)
    owners = np.repeat(np.arange(len(counts)), counts)
    return make_task(
        name,
        about["kind"],
        about["instruction"],
        passages=(passages, keys),
        pair_ids=Texts(pair_ids),
        pairs=(Texts(queries), np.concatenate(positives)),
        given=Lists.grouped(*_known(owners, np.concatenate(given)), len(counts)),
        num_given=counts,
        relations=(
            (compared_column(_array(batch, "query")), compared_column(_array(batch, "passage")))
            for batch in relations
        ),
    )


def make_task(  # noqa: PLR0913 - everything that a task is
    name: str,
    kind: str,
    instruction: str,
    *,
    passages: tuple[Texts, Texts],
    pair_ids: Texts,
    pairs: tuple[Texts, Positions],
    given: Lists,
    num_given: Positions,
    relations: Iterator[tuple[pa.Array, pa.Array]],
) -> Task:
    """Put the pairs in order, and find the positions of everything.

    Parameters
        passages: texts and match keys.
        pairs: query text and position of the positive, by row of the file.
        relations: match keys of queries and of passages; those of neither mean nothing here.
    """
    all_queries, positives = pairs
    by_text = pa.table({"query": all_queries.column, "pair_id": pair_ids.column})
    order = pc.sort_indices(by_text, sort_keys=[("query", "ascending"), ("pair_id", "ascending")])
    coded = pc.take(all_queries.column, order).dictionary_encode()
    queries = Texts([coded.dictionary])
    query_keys = queries.compared()
    coded_keys = query_keys.column.dictionary_encode()
    distinct_keys = Texts([coded_keys.dictionary])
    owners, related = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for query, passage in relations:
        owner, position = _known(distinct_keys.positions_of(query), passages[1].positions_of(passage))
        owners.append(owner)
        related.append(position)
    rows = np.asarray(order.to_numpy(), np.int64)
    return Task(
        name=name,
        kind=kind,
        instruction=instruction,
        passages=passages[0],
        passage_keys=passages[1],
        queries=queries,
        query_keys=query_keys,
        pair_ids=pair_ids,
        pair_row=rows,
        pair_query=np.asarray(coded.indices.to_numpy(), np.int64),
        pair_positive=positives[rows],
        given=given,
        num_given=num_given,
        related=Lists.grouped(np.concatenate(owners), np.concatenate(related), len(distinct_keys)),
        key_of_query=np.asarray(coded_keys.indices.to_numpy(), np.int64),
    )


def _known(owners: Positions, positions: Positions) -> tuple[Positions, Positions]:
    known = (owners >= 0) & (positions >= 0)
    return owners[known], positions[known]


def _array(batch: pa.Table, name: str) -> pa.Array:
    return batch.column(name).combine_chunks()


def _column(pool_dir: Path, export: str, dataset: str, name: str) -> list[pa.Array]:
    return [_array(batch, name) for batch in read_batches(pool_dir, export, dataset, (name,))]
