"""FlagEmbedding's rows as small record batches of one schema, from Parquet or JSON lines.

What is not there is null: scores, ``category``, ``type`` and ``prompt`` may be absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from icl_embed.corpus.read_json import read_jsonl
from icl_embed.corpus.records import Tolerance, fault
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched

SCHEMA = pa.schema(
    {
        "query": pa.string(),
        "pos": pa.list_(pa.string()),
        "neg": pa.list_(pa.string()),
        "pos_scores": pa.list_(pa.float64()),
        "neg_scores": pa.list_(pa.float64()),
        "category": pa.string(),
        "type": pa.string(),
        "prompt": pa.string(),
    }
)
NEEDED = ("query", "pos")
BATCH_ROWS = 256  # a row may hold two hundred long documents


def read_batches(file: Fetched) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(rows before it, batch) of every batch; of a Parquet file only the columns of the schema are read.

    Raises
        DataError: not such a file, damaged, or a column is missing or of another type; names file and record.
    """
    if not file.name.endswith(".parquet"):
        yield from _of_lines(file)
        return
    start = 0
    try:
        with file.open() as handle, pq.ParquetFile(handle, pre_buffer=False) as parquet:
            there = parquet.schema_arrow.names
            _refuse_missing(file.name, there)
            columns = [name for name in SCHEMA.names if name in there]
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                yield start, _conformed(batch, file.name)
                start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise fault(file.name, start + 1, f"cannot be read as Parquet: {error}") from error


def _refuse_missing(name: str, there: Sequence[str]) -> None:
    missing = [column for column in NEEDED if column not in there]
    if missing:
        raise DataError(f"{name}: no column {' and '.join(missing)}; it has: {', '.join(there)}")


def _conformed(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    columns = []
    for field in SCHEMA:
        index = batch.schema.get_field_index(field.name)
        try:
            columns.append(
                pa.nulls(len(batch), field.type) if index < 0 else batch.column(index).cast(field.type)
            )
        except pa.ArrowException as error:
            found = batch.schema.field(index).type
            raise DataError(
                f"{name}: the column {field.name} should hold {field.type}, found {found}"
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _of_lines(file: Fetched) -> Iterator[tuple[int, pa.RecordBatch]]:
    start = 0
    lines = read_jsonl(file, Table(format="jsonl"), Tolerance(0.0, file.name))
    while records := list(islice(lines, BATCH_ROWS)):
        for record in records:
            _check_record(record, file.name)
        yield start, pa.RecordBatch.from_pylist(records, schema=SCHEMA)
        start += len(records)


def _check_record(record: dict[str, Any], name: str) -> None:
    """See that a record has the schema's types, so that Arrow need not guess.

    Raises
        DataError: it has not.
    """
    missing = [column for column in NEEDED if column not in record]
    if missing:
        there = ", ".join(key for key in record if not key.startswith("_"))
        raise fault(name, record["_number"], f"no field {' and '.join(missing)}; it has: {there}")
    for field in SCHEMA:
        value = record.get(field.name)
        is_list = pa.types.is_list(field.type)
        inner: type | tuple[type, ...] = (int, float) if field.name.endswith("_scores") else str
        items = value if is_list and isinstance(value, list) else [value]
        fits = all(item is None or (isinstance(item, inner) and not isinstance(item, bool)) for item in items)
        if not fits or (is_list and value is not None and not isinstance(value, list)):
            what = f"a list of {'numbers' if inner is not str else 'texts'}" if is_list else "a text"
            raise fault(name, record["_number"], f"{field.name} should be {what}, found {str(value)[:60]!r}")
