"""The pool's Parquet files: what readers use while, and after, the database is written.

Order is fixed by the queries and row groups by this module, so equal content gives equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from icl_embed.pool.database import Connection, fetch_count, read_script, run_script

ROW_GROUP_ROWS = 65_536
PART_ROWS = ROW_GROUP_ROWS  # of train, whose lists of negatives no limit of the database's memory holds back

TEXTS = pa.list_(pa.string())
SCORES = pa.list_(pa.float64())
EXPORTS = {
    "train": pa.schema(
        {
            "pair_id": pa.string(),
            "dataset": pa.string(),
            "kind": pa.string(),
            "instruction": pa.string(),
            "query": pa.string(),
            "positive": pa.string(),
            "negatives": TEXTS,
            "label": pa.string(),
            "response": pa.string(),
            "positive_score": pa.float64(),
            "negative_scores": SCORES,
            "weight": pa.float64(),
        }
    ),
    "examples": pa.schema(
        {
            "dataset": pa.string(),
            "kind": pa.string(),
            "instruction": pa.string(),
            "query": pa.string(),
            "response": pa.string(),
            "label": pa.string(),
            "rank": pa.int32(),
        }
    ),
    "passages": pa.schema({"dataset": pa.string(), "passage": pa.string()}),
    "relations": pa.schema({"dataset": pa.string(), "query": pa.string(), "passage": pa.string()}),
}


def export_all(connection: Connection, folder: Path) -> dict[str, int]:
    """Write every export; return its number of rows by name."""
    run_script(connection, "export_pairs")
    return {name: _export(connection, name, folder / f"{name}.parquet") for name in EXPORTS}


def _export(connection: Connection, name: str, path: Path) -> int:
    schema, num_rows = EXPORTS[name], 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer, ThreadPoolExecutor(1) as beside:
        writing: Future[None] | None = None
        for group in _row_groups(_batches(connection, name), schema):
            if writing:
                writing.result()
            writing = beside.submit(writer.write_table, group)
            num_rows += group.num_rows
        if writing:
            writing.result()
    return num_rows


def _batches(connection: Connection, name: str) -> Iterator[pa.RecordBatch]:
    query = read_script(f"export/{name}")
    parts: list[dict[str, int]] = [{}]
    if name == "train":
        total = fetch_count(connection, "SELECT count(*) FROM export_pairs")
        parts = [{"first": row, "last": row + PART_ROWS} for row in range(0, total, PART_ROWS)]
    for part in parts:
        yield from connection.sql(query, params=part).to_arrow_reader(ROW_GROUP_ROWS)


def _row_groups(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """DuckDB's batches have any size; ours must not depend on it."""
    table = schema.empty_table()
    for batch in batches:
        table = pa.concat_tables([table, pa.table(batch).cast(schema)])
        while table.num_rows >= ROW_GROUP_ROWS:
            yield table.slice(0, ROW_GROUP_ROWS).combine_chunks()
            table = table.slice(ROW_GROUP_ROWS)
    if table.num_rows:
        yield table.combine_chunks()
