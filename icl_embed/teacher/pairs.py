"""The pairs that a teacher scores: every query with its positive and its hard negatives, each once.

A pair is known by the pool's ids of its two texts, so it has one score in whatever row, data set or position
it stands, and scores can be joined to rows that were built again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from icl_embed.errors import DataError

Pair = tuple[str, str]  # query, passage
Keys = NDArray[np.bytes_]  # ids of query and passage, one after the other

ID_LENGTH = 16
KEY_DTYPE = f"S{2 * ID_LENGTH}"
COLUMNS = ("kind", "query", "positive", "negatives")
BATCH_ROWS = 8192


def text_id(text: str) -> str:
    """The pool's id of a text in its stored form: the first 64 bits of its sha256, 16 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def keys_of(pairs: Sequence[Pair]) -> Keys:
    """The keys [N] of pairs; a text that several pairs share is hashed once."""
    ids = {text: text_id(text) for pair in pairs for text in pair}
    return np.array([ids[query] + ids[passage] for query, passage in pairs], KEY_DTYPE)


def row_pairs(query: str, positive: str, negatives: Sequence[str]) -> list[Pair]:
    """The pairs of one training row, the positive's first; blank negatives are nothing to score."""
    passages = dict.fromkeys((positive, *(text for text in negatives if text.strip())))
    return [(query, passage) for passage in passages]


def read_row_pairs(rows_path: Path, kinds: Collection[str]) -> Iterator[list[Pair]]:
    """The pairs of every row of ``train.parquet`` whose task is of one of the kinds, in file order.

    Raises
        DataError: the file is missing or damaged, or lacks a column.
    """
    try:
        with pq.ParquetFile(rows_path) as parquet:
            missing = [name for name in COLUMNS if name not in parquet.schema_arrow.names]
            if missing:
                raise DataError(f"{rows_path}: expected the columns {list(COLUMNS)}, missing are {missing}")
            for batch in parquet.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    if row["kind"] in kinds:
                        yield row_pairs(row["query"], row["positive"], row["negatives"] or ())
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{rows_path} cannot be read: {error}; mine the negatives again") from error


def distinct_pairs(rows_path: Path, kinds: Collection[str]) -> Iterator[Pair]:
    """Every pair once, where it first appears. Needs about 120 bytes of memory per pair, whatever its length.

    Raises
        DataError: as ``read_row_pairs``.
    """
    seen: set[bytes] = set()
    for pairs in read_row_pairs(rows_path, kinds):
        for pair, key in zip(pairs, keys_of(pairs).tolist(), strict=True):
            if key not in seen:
                seen.add(key)
                yield pair
