"""What the pool is built from: data set artefacts, checked column by column, and read into the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icl_embed.config import LABEL_KINDS, Kind
from icl_embed.errors import DataError, PoolError
from icl_embed.pool.database import Connection, arrow_input, fetch_all, run_script
from icl_embed.pool.pages import Progress, computed, read_ahead
from icl_embed.texts import clean_texts

BATCH_ROWS = 16_384
MORSEL_ROWS = 2_048  # that one of DuckDB's threads takes at a time
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


def read_rows(source: PoolInput, threads: int = 1) -> Iterator[pa.Table]:
    """Batches of ``rows.parquet`` in file order, texts in their stored form.

    Raises
        DataError: the file is missing or damaged, or a column is missing or of another type.
    """
    return _read(source.folder / "rows.parquet", ROW_SCHEMA, _clean_rows, threads)


def read_passages(source: PoolInput, threads: int = 1) -> Iterator[pa.Table]:
    """Batches of ``corpus.parquet``; nothing for kinds without a corpus.

    Raises
        DataError: as ``read_rows``.
    """
    if source.kind == "retrieval":
        yield from _read(source.folder / "corpus.parquet", PASSAGE_SCHEMA, _clean_passages, threads)


def _clean_rows(batch: pa.Table) -> pa.Table:
    columns = {name: batch.column(name).combine_chunks() for name in ROW_SCHEMA.names}
    columns["query"] = clean_texts(columns["query"])
    for name in ("positives", "negatives"):
        columns[name] = _clean_lists(columns[name])
    columns["label"] = clean_texts(columns["label"])
    return pa.table(columns)


def _clean_passages(batch: pa.Table) -> pa.Table:
    text = clean_texts(batch.column("text").combine_chunks())
    return batch.set_column(batch.schema.get_field_index("text"), "text", text)


def _read(
    path: Path, schema: pa.Schema, clean: Callable[[pa.Table], pa.Table], threads: int
) -> Iterator[pa.Table]:
    def prepared(batch: pa.RecordBatch) -> pa.Table:
        cleaned = clean(_cast(batch, schema, path))
        return pa.Table.from_batches(cleaned.to_batches(max_chunksize=MORSEL_ROWS))

    return computed(prepared, read_ahead(_batches(path, schema)), threads)


def _batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    try:
        # without pre_buffer, which would hold the whole file in memory
        with pq.ParquetFile(path, pre_buffer=False) as parquet:
            missing = [name for name in schema.names if name not in parquet.schema_arrow.names]
            if missing:
                raise DataError(f"{path}: expected the columns {schema.names}, missing are {missing}")
            yield from parquet.iter_batches(BATCH_ROWS, columns=schema.names)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; build the data set artefact again") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}; build the data set artefact again") from error


def _cast(batch: pa.RecordBatch, schema: pa.Schema, path: Path) -> pa.Table:
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
    return pa.table(columns)


def _clean_lists(lists: pa.ListArray) -> pa.ListArray:
    """Clean the texts inside the lists; a null list becomes an empty one."""
    ends = pc.cumulative_sum(lists.value_lengths().fill_null(0))
    offsets = pa.concat_arrays([pa.array([0], ends.type), ends])
    return pa.ListArray.from_arrays(offsets, clean_texts(lists.flatten()))


# What a row must be before anything is computed from it: (what is wrong, query for the first offender).
_ROW_CHECKS = (
    ("row_id is missing", "SELECT dataset, coalesce(row_id, '?') FROM incoming_rows WHERE row_id IS NULL"),
    (
        "row_id appears twice",
        "SELECT dataset, row_id FROM incoming_rows GROUP BY ALL HAVING count(*) > 1",
    ),
    (
        "split is not train, dev or test",
        "SELECT dataset, row_id FROM incoming_rows WHERE coalesce(split, '') NOT IN ('train', 'dev', 'test')",
    ),
    (
        "positive_scores needs one score per positive",
        "SELECT dataset, row_id FROM incoming_rows WHERE len(positive_scores) <> len(positive_ids)",
    ),
    (
        "negative_scores needs one score per negative",
        "SELECT dataset, row_id FROM incoming_rows WHERE len(negative_scores) <> len(negative_ids)",
    ),
    (
        "a teacher score is not finite",
        "SELECT dataset, row_id FROM incoming_rows WHERE len(list_filter("
        "list_concat(positive_scores, negative_scores), lambda s: NOT isfinite(s))) > 0",
    ),
)


def add_sources(
    connection: Connection, inputs: Sequence[PoolInput], threads: int, progress: Progress | None
) -> None:
    """Read every data set into the scratch tables.

    Raises
        DataError: a file or a row breaks the format; the message names it.
        PoolError: two data sets have the same name.
    """
    names = [source.name for source in inputs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise PoolError(f"each data set enters a pool once, found twice: {', '.join(repeated)}")
    for done, source in enumerate(sorted(inputs, key=lambda source: source.name)):
        if progress:
            progress("reading data sets", done, len(inputs))
        connection.execute(
            "INSERT INTO sources VALUES (?, ?, ?, ?, ?, NULL, NULL)",
            [source.name, source.kind, source.instruction, source.trained, source.fingerprint],
        )
        for batch in read_rows(source, threads):
            with arrow_input(connection, "incoming_batch", batch):
                has_labels = source.kind in LABEL_KINDS
                run_script(connection, "add_rows", dataset=source.name, has_labels=has_labels)
        for batch in read_passages(source, threads):
            with arrow_input(connection, "incoming_batch", batch):
                run_script(connection, "add_passages", dataset=source.name)
    _check_rows(connection)


def _check_rows(connection: Connection) -> None:
    for problem, query in _ROW_CHECKS:
        for dataset, row_id in fetch_all(connection, f"{query} ORDER BY ALL LIMIT 1"):
            raise DataError(f"data set {dataset}, row {row_id}: {problem}; build the data set again")
