"""The pool's tables: their documentation, and the proof that they hold what the build put into them.

DuckDB opens a file whose write-ahead log was cut without any error, a few rows short (spec/reliability.md,
V7). So the build records row count and content hash of each table, and every verified open compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from icl_embed.errors import PoolError
from icl_embed.pool.database import DATABASE_NAME, Connection, fetch_all, open_read_only, quote_identifier

TABLES = ("sources", "texts", "splits", "evaluation_texts", "pairs", "negatives", "passages", "examples")
LINEAGE = "lineage"


@dataclass(frozen=True)
class Column:
    """A documented column of the schema."""

    table: str
    table_comment: str
    name: str
    type: str
    comment: str


def describe_schema(connection: Connection) -> list[Column]:
    """Every column with its comment, in order of definition."""
    rows = fetch_all(
        connection,
        """
        SELECT table_name, coalesce(t.comment, ''), column_name, data_type, coalesce(c.comment, '')
        FROM duckdb_columns() AS c JOIN duckdb_tables() AS t USING (table_name)
        WHERE NOT c.internal AND NOT t.temporary
        ORDER BY t.table_oid, column_index
        """,
    )
    return [Column(*row) for row in rows]


def record_lineage(connection: Connection) -> dict[str, int]:
    """Write row count and content hash of every table into ``lineage``; return the counts."""
    counts = {}
    for table in TABLES:
        num_rows, content_hash = _measure(connection, table)
        connection.execute("INSERT INTO lineage VALUES (?, ?, ?)", [table, num_rows, content_hash])
        counts[table] = num_rows
    return counts


@contextmanager
def open_pool(folder: Path, *, verify: bool = True) -> Iterator[Connection]:
    """Open a pool artefact for reading, after comparing every table with the record of its build.

    Raises
        PoolError: no pool there, a writer has it open, or a table is not what the build left.
    """
    with open_read_only(folder / DATABASE_NAME) as connection:
        if verify:
            verify_tables(connection, folder)
        yield connection


def verify_tables(connection: Connection, folder: Path) -> None:
    """Compare every table with its ``lineage`` record.

    Raises
        PoolError: a table is missing, or has other rows than when it was built.
    """
    present = {row[0] for row in fetch_all(connection, "SELECT table_name FROM duckdb_tables()")}
    recorded = {}
    if LINEAGE in present:
        rows = fetch_all(connection, "SELECT table_name, num_rows, content_hash FROM lineage")
        recorded = {name: (num_rows, content_hash) for name, num_rows, content_hash in rows}
    advice = "move this pool aside and build it again"
    for table in TABLES:
        if table not in present or table not in recorded:
            raise PoolError(f"{folder}: the table {table} or its record is missing; {advice}")
        found, expected = _measure(connection, table), recorded[table]
        if found != expected:
            raise PoolError(
                f"{folder}: the table {table} has {found[0]} rows with hash {found[1][:12]}, the build "
                f"left {expected[0]} with hash {expected[1][:12]}; {advice}"
            )


def _measure(connection: Connection, table: str) -> tuple[int, str]:
    name = quote_identifier(table, TABLES)
    query = f"SELECT count(*), coalesce(bit_xor(md5_number(t::VARCHAR)), 0)::VARCHAR FROM {name} AS t"  # noqa: S608
    row = fetch_all(connection, query)[0]
    return int(row[0]), str(row[1])
