"""A data set's share of a pool, read back for mining: texts become indices, relations become sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icl_embed.config import LABEL_KINDS
from icl_embed.corpus.clean import match_keys
from icl_embed.errors import PoolError


@dataclass(frozen=True)
class Task:
    """One data set's share of the pool, with passages and queries as indices.

    Attributes
        name, kind, instruction: of the data set.
        table: its rows of train.parquet, sorted by query.
        passages, passage_keys: candidate texts and their match keys.
        queries: distinct queries.
        pair_query: int64 [rows], index of each row's query, ascending.
        pair_positive: int64 [rows], index of each row's positive among the passages.
        related: query match key -> indices of passages that the data relates to it.
    """

    name: str
    kind: str
    instruction: str
    table: pa.Table
    passages: list[str]
    passage_keys: list[str]
    queries: list[str]
    query_keys: list[str]
    pair_query: np.ndarray
    pair_positive: np.ndarray
    related: Mapping[str, frozenset[int]]

    @property
    def has_labels(self) -> bool:
        """Whether the passages are label texts."""
        return self.kind in LABEL_KINDS


def dataset_names(pool_dir: Path) -> list[str]:
    """Names of the trained data sets of a pool, sorted."""
    path = pool_dir / "train.parquet"
    try:
        column = pq.read_table(path, columns=["dataset"], use_threads=False).column("dataset")
    except (pa.ArrowException, OSError) as error:
        raise PoolError(f"{path} cannot be read: {error}; build the pool again") from error
    return sorted(pc.unique(column).to_pylist())


def load_task(pool_dir: Path, name: str) -> Task:
    """Read one data set's training pairs, candidate passages and known relations from a pool artefact."""
    # Rows sorted by query make every query's pairs neighbours; pair_id keeps the order total.
    table = _read(pool_dir, "train", name).sort_by([("query", "ascending"), ("pair_id", "ascending")])
    passages: list[str] = _read(pool_dir, "passages", name).column("passage").to_pylist()
    passage_keys = keys_of(passages)
    index_of = {key: index for index, key in enumerate(passage_keys)}
    all_queries = table.column("query").to_pylist()
    queries = list(dict.fromkeys(all_queries))
    query_index = {query: index for index, query in enumerate(queries)}
    try:
        positives = [index_of[key] for key in keys_of(table.column("positive").to_pylist())]
    except KeyError as error:
        raise PoolError(f"{pool_dir}: a positive of {name} is not among its passages: {error}") from error
    relations = _read(pool_dir, "relations", name)
    related: dict[str, set[int]] = {}
    for query, passage in zip(
        keys_of(relations.column("query").to_pylist()),
        keys_of(relations.column("passage").to_pylist()),
        strict=True,
    ):
        if passage in index_of:
            related.setdefault(query, set()).add(index_of[passage])
    first = table.slice(0, 1).to_pylist()[0]
    return Task(
        name=name,
        kind=first["kind"],
        instruction=first["instruction"],
        table=table,
        passages=passages,
        passage_keys=passage_keys,
        queries=queries,
        query_keys=keys_of(queries),
        pair_query=np.array([query_index[query] for query in all_queries], np.int64),
        pair_positive=np.array(positives, np.int64),
        related={query: frozenset(indices) for query, indices in related.items()},
    )


def keys_of(texts: Sequence[str]) -> list[str]:
    """Match keys of some texts."""
    keys: list[str] = match_keys(pa.array(list(texts), pa.string())).to_pylist()
    return keys


def _read(pool_dir: Path, name: str, dataset: str) -> pa.Table:
    path = pool_dir / f"{name}.parquet"
    try:
        return pq.read_table(path, filters=pc.field("dataset") == dataset, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise PoolError(f"{path} cannot be read: {error}; build the pool again") from error
