"""Tables: CSV, TSV, Parquet and Arrow (the files of a saved Hugging Face data set)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from icl_embed.corpus.dotted import select
from icl_embed.corpus.read_lines import MAX_LINE_BYTES, text_lines
from icl_embed.corpus.records import Record, Tolerance, fault, place_fields
from icl_embed.errors import DataError
from icl_embed.sources.card_rows import Table
from icl_embed.sources.fetched import Fetched

BATCH_ROWS = 4096
QRELS = ("query-id", "corpus-id", "score")
csv.field_size_limit(MAX_LINE_BYTES)  # of all readers of the process; Python's own is 128 KiB


def read_tsv(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[Record]:
    """Tab-separated values without quoting, as the tab can never be inside a value."""
    columns = list(table.columns)
    for number, text in text_lines(file, table, tolerance):
        cells = text.split("\t")
        if not columns:
            columns = cells
            continue
        try:
            yield _row(cells, columns, table, file.name, number)
        except DataError as error:
            tolerance.reject(error)


def read_qrels(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[Record]:
    """Relevance judgements: BEIR's table, or TREC's lines (query, iteration, passage, grade).

    The fields are BEIR's in both cases. Three columns without a header are BEIR's, in its order.
    """
    columns: list[str] = []
    for number, text in text_lines(file, table, tolerance):
        cells = text.split("\t") if "\t" in text else text.split()
        if not columns:
            columns, is_header = _qrels_columns(cells)
            if is_header:
                continue
        try:
            yield _row(cells, columns, table, file.name, number)
        except DataError as error:
            tolerance.reject(error)


def _qrels_columns(cells: list[str]) -> tuple[list[str], bool]:
    """(columns, whether this first line is their header)."""
    try:
        float(cells[-1])
    except ValueError:
        return cells, True
    trec = [QRELS[0], "iteration", *QRELS[1:]]
    return (trec if len(cells) == len(trec) else list(QRELS)), False


def read_csv(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[Record]:
    """Comma-separated values with RFC 4180 quoting; a quoted value may span lines."""
    columns = list(table.columns)
    lines = (text + "\n" for _, text in text_lines(file, table, tolerance))
    reader = csv.reader(lines, delimiter=table.delimiter or ",", strict=True)
    number = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # after a broken quote nobody knows where the next record starts: not tolerated
            raise fault(file.name, reader.line_num, f"is not valid CSV: {error}") from error
        if not columns:
            columns = cells
            continue
        number += 1
        try:
            yield _row(cells, columns, table, file.name, number)
        except DataError as error:
            tolerance.reject(error)


def _row(cells: list[str], columns: list[str], table: Table, file: str, number: int) -> Record:
    if len(cells) != len(columns):
        raise fault(file, number, f"has {len(cells)} values, expected {len(columns)} ({', '.join(columns)})")
    if len(set(columns)) != len(columns):
        raise fault(
            file,
            number,
            f"the columns are not unique: {', '.join(columns)}; if the first line is no header, name the "
            "columns in the card: columns = […]",
        )
    values = dict(zip(columns, cells, strict=True))
    if not table.fields:
        return {**values, **place_fields(file, number)}
    found = {name: values[path] for name, path in table.fields.items() if path in values}
    return {**found, **place_fields(file, number)}


def read_parquet(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[Record]:
    """The rows of a Parquet file, batch by batch.

    Raises
        DataError: not Parquet, or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with file.open() as handle:
            for batch in pq.ParquetFile(handle, pre_buffer=False).iter_batches(batch_size=BATCH_ROWS):
                for value in batch.to_pylist():
                    number += 1
                    yield select(value, table.fields, file.name, number)
    except (pa.ArrowException, OSError) as error:
        raise fault(file.name, number + 1, f"cannot be read as Parquet: {error}") from error


def read_arrow(file: Fetched, table: Table, tolerance: Tolerance) -> Iterator[Record]:
    """The rows of an Arrow stream or file, as ``datasets.Dataset.save_to_disk`` writes them.

    Raises
        DataError: not Arrow, or damaged.
    """
    import pyarrow as pa

    number = 0
    try:
        with file.open() as handle:
            for batch in _arrow_batches(handle.read()):
                for value in batch.to_pylist():
                    number += 1
                    yield select(value, table.fields, file.name, number)
    except (pa.ArrowException, OSError) as error:
        raise fault(file.name, number + 1, f"cannot be read as Arrow: {error}") from error


def _arrow_batches(data: bytes) -> Iterator[Any]:
    from pyarrow import ipc

    if data.startswith(b"ARROW1"):
        reader = ipc.open_file(data)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
        return
    yield from ipc.open_stream(data)
