"""The pool's Parquet files: what readers use while, and after, the database is written.

Order is fixed by the queries and row groups by this module, so equal content gives equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icl_embed.pool.database import Connection, read_script, run_script

ROW_GROUP_ROWS = 65_536

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


def _batches(connection: Connection, name: str) -> Iterator[pa.Table]:
    sources = connection.sql("SELECT dataset, kind, instruction, weight FROM sources").to_arrow_table()
    # from here on the connection is busy
    found = connection.sql(read_script(f"export/{name}")).to_arrow_reader(ROW_GROUP_ROWS)
    return _with_negatives(found, sources) if name == "train" else map(pa.table, found)


def _with_negatives(found: Iterable[pa.RecordBatch], sources: pa.Table) -> Iterator[pa.Table]:
    """Training rows of a table in which each pair is followed by its negatives."""
    rest: list[pa.Table] = []
    for batch in found:
        starts = np.flatnonzero(np.asarray(batch.column("position")) < 0)
        last = int(starts[-1]) if len(starts) else 0  # whose negatives may go on in the next batch
        if last:
            yield _training_rows(pa.concat_tables([*rest, pa.table(batch.slice(0, last))]), sources)
            rest = []
        rest.append(pa.table(batch.slice(last)))
    if rest:
        yield _training_rows(pa.concat_tables(rest), sources)


def _training_rows(listed: pa.Table, sources: pa.Table) -> pa.Table:
    is_pair = np.asarray(listed.column("position")) < 0
    pairs, negatives = listed.filter(pa.array(is_pair)), listed.filter(pa.array(~is_pair))
    starts = np.flatnonzero(is_pair)
    ends = np.append(starts[1:], len(is_pair)) - np.arange(1, len(starts) + 1)
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    scores = negatives.column("score").combine_chunks()
    num_scores = np.concatenate([[0], np.cumsum(np.asarray(scores.is_valid()))])[offsets]
    about = sources.take(pc.index_in(pairs.column("dataset"), sources.column("dataset")))
    columns = {name: pairs.column(name) for name in ("pair_id", "dataset", "query", "label")}
    columns |= {name: about.column(name) for name in ("kind", "instruction", "weight")}
    columns |= {
        "positive": pairs.column("text"),
        "response": pairs.column("text"),
        "positive_score": pairs.column("score"),
        "negatives": pa.ListArray.from_arrays(offsets, negatives.column("text").combine_chunks()),
        "negative_scores": pa.ListArray.from_arrays(offsets, scores, mask=pa.array(np.diff(num_scores) == 0)),
    }
    return pa.table({name: columns[name] for name in EXPORTS["train"].names})


def _row_groups(batches: Iterator[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """DuckDB's batches have any size; ours must not depend on it."""
    table = schema.empty_table()
    for batch in batches:
        table = pa.concat_tables([table, batch.cast(schema)])
        while table.num_rows >= ROW_GROUP_ROWS:
            yield table.slice(0, ROW_GROUP_ROWS).combine_chunks()
            table = table.slice(ROW_GROUP_ROWS)
    if table.num_rows:
        yield table.combine_chunks()
