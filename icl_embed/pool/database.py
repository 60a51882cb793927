"""The one door to DuckDB, and the pool's tables with the proof that they hold what the build wrote.

Data enters and leaves as Arrow tables, so no connection of ours ever needs the file system: every one is
opened with external access off (no ``read_text``, ``COPY``, ``ATTACH``, ``INSTALL``), without access to
Python variables, and with a memory limit beyond which it spills to disk. Readers of the file are read-only
and get a locked configuration. What this does not protect against: a query that merely takes long.

DuckDB opens a file whose write-ahead log was cut without any error, a few rows short (spec/reliability.md,
V7). So the build records row count and content hash of each table, and every verified open compares them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from icl_embed.errors import PoolError

DATABASE_NAME = "pool.duckdb"
Connection = duckdb.DuckDBPyConnection

_CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
_READING_STATEMENTS = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


@dataclass(frozen=True)
class QueryResult:
    """Rows of a user's query; ``truncated`` says that there were more than the limit."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    truncated: bool


@contextmanager
def open_for_build(path: Path, *, memory_limit: str = "2GB", threads: int = 2) -> Iterator[Connection]:
    """The single writer. On leaving, everything is in the file and the write-ahead log is gone.

    Raises
        PoolError: another process has the file open (named), or DuckDB refused something.
    """
    spill = path.with_name(f".{path.name}.spill")
    config = {**_CLOSED, "memory_limit": memory_limit, "threads": threads, "temp_directory": str(spill)}
    with _translated(path):
        connection = duckdb.connect(str(path), config=config)
        try:
            yield connection
            connection.execute("CHECKPOINT")
        finally:
            connection.close()
            shutil.rmtree(spill, ignore_errors=True)


@contextmanager
def open_read_only(path: Path, *, memory_limit: str = "2GB", threads: int = 2) -> Iterator[Connection]:
    """A reader that can change nothing: not the file, not the machine, not its own settings.

    Raises
        PoolError: no such pool, a writer has it open (named), or DuckDB refused something.
    """
    if not path.is_file():
        raise PoolError(f"there is no pool at {path}; build one with the flow build-pool")
    config = {**_CLOSED, "memory_limit": memory_limit, "threads": threads, "temp_directory": ""}
    with _translated(path):
        connection = duckdb.connect(str(path), read_only=True, config=config)
        try:
            connection.execute("SET lock_configuration = true")
            yield connection
        finally:
            connection.close()


def run_user_query(path: Path, query: str, *, limit: int = 100) -> QueryResult:
    """Run one SELECT (or EXPLAIN, DESCRIBE, SHOW) that a user wrote, and return its first rows.

    Raises
        PoolError: several statements, a statement that does not read, or an SQL error.
    """
    with open_read_only(path) as connection:
        statements = connection.extract_statements(query)
        if len(statements) != 1:
            raise PoolError(f"expected one SQL statement, found {len(statements)}")
        if statements[0].type not in _READING_STATEMENTS:
            kind = statements[0].type.name
            raise PoolError(f"the database is read-only: expected a SELECT, found {kind}")
        cursor = connection.execute(statements[0])
        columns = [column[0] for column in cursor.description or []]
        rows = cursor.fetchmany(limit + 1)
    return QueryResult(columns, rows[:limit], truncated=len(rows) > limit)


def run_script(connection: Connection, name: str, **values: Any) -> None:
    """Run the statements of ``sql/<name>.sql`` in order; each binds the ``$values`` that it names."""
    for statement in connection.extract_statements(read_script(name)):
        bound = {key: values[key] for key in sorted(statement.named_parameters)}
        connection.execute(statement, bound)


def fetch_all(connection: Connection, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """All rows of a small result. A result read only in part would block the connection."""
    return connection.execute(query, list(values)).fetchall()


def fetch_count(connection: Connection, query: str, values: Sequence[Any] = ()) -> int:
    """The one number that a ``SELECT count(…)`` returns."""
    return int(fetch_all(connection, query, values)[0][0])


def read_script(name: str) -> str:
    """The text of a script beside this module."""
    return (files("icl_embed.pool") / "sql" / f"{name}.sql").read_text(encoding="utf-8")


@contextmanager
def arrow_input(connection: Connection, name: str, table: pa.Table) -> Iterator[None]:
    """Let SQL read an Arrow table under a name for the duration of the block."""
    connection.register(name, table)
    try:
        yield
    finally:
        connection.unregister(name)


def quote_identifier(name: str, allowed: Sequence[str]) -> str:
    """An identifier safe to put into SQL text: it must be one of ``allowed``, and is quoted anyway.

    Raises
        PoolError: the name is not in the list.
    """
    if name not in allowed:
        raise PoolError(f"unknown table or column {name!r}; known are {', '.join(sorted(allowed))}")
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise PoolError(_explain(path, str(error))) from error


def _explain(path: Path, message: str) -> str:
    holder = re.search(r"Conflicting lock is held in (.+?)(?:\.? See also|$)", message, re.DOTALL)
    if holder:
        return (
            f"{path} is open for writing in {holder[1].strip()}; wait until it has finished, or read the "
            "Parquet files of a published pool instead"
        )
    if "Out of Memory" in message:
        message += "; raise pool.memory_limit, or lower pool.threads"
    return f"{path}: {message}"


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
