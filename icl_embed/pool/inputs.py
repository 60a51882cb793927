"""What the pool is built from: data set artefacts, checked column by column before a row is believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from icl_embed.config import Kind
from icl_embed.corpus.clean import clean_texts
from icl_embed.errors import DataError

Progress = Callable[[str, int, int], None]  # (what is being done, how many are done, of how many)

BATCH_ROWS = 32_768
TEXTS = pa.list_(pa.string())
SCORES = pa.list_(pa.float64())
ROW_SCHEMA = pa.schema(
    {
        "row_id": pa.string(),
        "split": pa.string(),
        "query": pa.string(),
        "positives": TEXTS,
        "negatives": TEXTS,
        "label": pa.string(),
        "score": pa.float64(),
        "positive_scores": SCORES,
        "negative_scores": SCORES,
    }
)
PASSAGE_SCHEMA = pa.schema({"passage_id": pa.string(), "split": pa.string(), "text": pa.string()})


@dataclass(frozen=True)
class PoolInput:
    """One data set of the pool.

    Attributes
        name: the card's name.
        kind: the task's kind.
        instruction: the task's sentence.
        folder: the data set artefact (``rows.parquet`` and, for retrieval, ``corpus.parquet``).
        trained: False for data sets that are only evaluated; they give examples, not training pairs.
        fingerprint: of the artefact.
    """

    name: str
    kind: Kind
    instruction: str
    folder: Path
    trained: bool
    fingerprint: str


def read_rows(source: PoolInput) -> Iterator[pa.Table]:
    """Batches of ``rows.parquet`` in file order, texts in their stored form.

    Raises
        DataError: the file is missing or damaged, or a column is missing or of another type.
    """
    for batch in _read(source.folder / "rows.parquet", ROW_SCHEMA):
        columns = {name: batch.column(name).combine_chunks() for name in ROW_SCHEMA.names}
        columns["query"] = clean_texts(columns["query"])
        for name in ("positives", "negatives"):
            columns[name] = _clean_lists(columns[name])
        columns["label"] = clean_texts(columns["label"])
        yield pa.table(columns)


def read_passages(source: PoolInput) -> Iterator[pa.Table]:
    """Batches of ``corpus.parquet``; nothing for kinds without a corpus.

    Raises
        DataError: as ``read_rows``.
    """
    if source.kind != "retrieval":
        return
    for batch in _read(source.folder / "corpus.parquet", PASSAGE_SCHEMA):
        text = clean_texts(batch.column("text").combine_chunks())
        yield batch.set_column(batch.schema.get_field_index("text"), "text", text)


def _read(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path) as parquet:
            missing = [name for name in schema.names if name not in parquet.schema_arrow.names]
            if missing:
                raise DataError(f"{path}: expected the columns {schema.names}, missing are {missing}")
            for batch in parquet.iter_batches(BATCH_ROWS, columns=schema.names):
                yield pa.table(_cast(batch, schema, path))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; build the data set artefact again") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}; build the data set artefact again") from error


def _cast(batch: pa.RecordBatch, schema: pa.Schema, path: Path) -> dict[str, pa.Array]:
    columns = {}
    for field in schema:
        column = batch.column(field.name)
        try:
            columns[field.name] = column.cast(field.type)
            columns[field.name].validate(full=True)
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: the column {field.name} should hold {field.type}, found {column.type}: {error}"
            ) from error
    return columns


def _clean_lists(lists: pa.ListArray) -> pa.ListArray:
    """Clean the texts inside the lists; a null list becomes an empty one."""
    offsets = pa.array([0, *_running_lengths(lists)], pa.int32())
    return pa.ListArray.from_arrays(offsets, clean_texts(lists.flatten()))


def _running_lengths(lists: pa.ListArray) -> list[int]:
    lengths = lists.value_lengths().fill_null(0)
    return list(pa.compute.cumulative_sum(lengths).to_pylist())
