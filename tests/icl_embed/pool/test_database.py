import shutil
import subprocess
import sys
import time

import duckdb
import pytest

from icl_embed.errors import PoolError
from icl_embed.pool.database import (
    DATABASE_NAME,
    TABLES,
    describe_schema,
    open_for_build,
    open_pool,
    open_read_only,
    quote_identifier,
    run_user_query,
)
from tests.icl_embed.pool.datasets import build, retrieval_row, write_dataset


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    home = tmp_path_factory.mktemp("database")
    return build(home, write_dataset(home / "data", [retrieval_row(n) for n in range(20)]))


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_every_table_and_column_is_documented(pool):
    with open_pool(pool) as connection:
        columns = describe_schema(connection)
    assert {column.table for column in columns} == {*TABLES, "lineage"}
    assert [column for column in columns if not column.comment or not column.table_comment] == []


def test_text_ids_are_unique_and_all_references_resolve(pool):
    with open_pool(pool) as connection:
        (total, distinct) = connection.execute(
            "SELECT count(*), count(DISTINCT text_id) FROM texts"
        ).fetchall()[0]
        assert total == distinct > 0
        lost = connection.execute(
            "SELECT count(*) FROM pairs WHERE query_id NOT IN (SELECT text_id FROM texts) "
            "OR positive_id NOT IN (SELECT text_id FROM texts)"
        ).fetchall()
        assert lost == [(0,)]


HOLD = """
import sys, time
from pathlib import Path
from icl_embed.pool.database import open_for_build
with open_for_build(Path(sys.argv[1])):
    print("open", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_within_seconds_who_holds_the_pool(tmp_path):
    path = tmp_path / DATABASE_NAME
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout.readline() == "open\n"
            for opened in (open_for_build, open_read_only):
                started = time.monotonic()
                with pytest.raises(PoolError, match=rf"open for writing in .*PID {holder.pid}"), opened(path):
                    pass
                assert time.monotonic() - started < 5
        finally:
            holder.kill()
    with open_for_build(path):
        pass  # the kernel dropped the dead holder's lock


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM parquet_scan('train.parquet')",
        "COPY sources TO '/tmp/stolen.csv'",
        "ATTACH '/tmp/other.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA enable_profiling",
        "DROP TABLE pairs",
        "DELETE FROM pairs",
        "INSERT INTO pairs SELECT * FROM pairs",
        "CREATE TABLE t AS SELECT 1",
        "CREATE TEMP TABLE t AS SELECT 1",
        "EXPLAIN ANALYZE DELETE FROM pairs",
        "SELECT 1; DROP TABLE pairs",
        "SELECT * FROM secret",
        "",
        "SELEC 1",
    ],
)
def test_a_query_can_read_the_pool_and_nothing_else(pool, query):
    secret = "a Python local is not a table"  # noqa: F841
    before = (pool / DATABASE_NAME).read_bytes()
    with pytest.raises(PoolError):
        run_user_query(pool / DATABASE_NAME, query)
    assert (pool / DATABASE_NAME).read_bytes() == before


def test_a_query_returns_its_first_rows_and_says_that_there_are_more(pool):
    result = run_user_query(pool / DATABASE_NAME, "SELECT pair_id FROM pairs ORDER BY ALL", limit=3)
    assert (result.columns, len(result.rows), result.truncated) == (["pair_id"], 3, True)
    assert not run_user_query(pool / DATABASE_NAME, "DESCRIBE pairs").truncated


@pytest.mark.parametrize("name", ['pairs"; DROP TABLE pairs; --', "PAIRS", "", "pairs\0", "sqlite_master"])
def test_identifiers_outside_the_list_are_refused(name):
    with pytest.raises(PoolError, match="unknown table or column"):
        quote_identifier(name, TABLES)


def test_identifiers_are_quoted_even_when_they_are_allowed():
    name = 'a"; DROP TABLE t; --'
    connection = duckdb.connect()
    connection.execute(f"CREATE TABLE {quote_identifier(name, [name])} (x INTEGER)")
    assert connection.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [(name,)]


def test_hostile_names_and_texts_are_data_not_sql(tmp_path):
    nasty = "x'); DROP TABLE pairs; --"
    rows = [retrieval_row(1, query=nasty), retrieval_row(2, positives=["$dataset {0} %s \\"])]
    source = write_dataset(tmp_path / nasty.replace("/", ""), rows)
    folder = build(tmp_path, source)
    with open_pool(folder) as connection:
        assert connection.execute("SELECT count(*) FROM pairs WHERE dataset = ?", [nasty]).fetchall() == [
            (2,)
        ]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM pairs WHERE position = 0",
        "UPDATE sources SET weight = 2",
        "DROP TABLE texts",
        "DELETE FROM lineage",
        "DROP TABLE lineage",
    ],
)
def test_a_table_that_is_not_as_the_build_left_it_is_noticed(pool, tmp_path, statement):
    folder = tmp_path / "copy"
    shutil.copytree(pool, folder)
    with duckdb.connect(str(folder / DATABASE_NAME)) as connection:
        connection.execute(statement)
    with pytest.raises(PoolError, match="build it again"), open_pool(folder):
        pass


def test_a_truncated_database_is_a_pool_error(pool, tmp_path):
    (tmp_path / DATABASE_NAME).write_bytes((pool / DATABASE_NAME).read_bytes()[:5000])
    with pytest.raises(PoolError), open_pool(tmp_path):
        pass


def test_a_missing_pool_is_not_created(tmp_path):
    with pytest.raises(PoolError, match="there is no pool"), open_pool(tmp_path):
        pass
    assert names_in(tmp_path) == set()


def test_a_build_leaves_no_scratch_files(pool):
    names = {"pool.duckdb", "train.parquet", "examples.parquet", "passages.parquet", "relations.parquet"}
    assert names_in(pool) == {*names, "statistics.json"}


def test_larger_than_memory_work_spills_to_disk_and_cleans_up(tmp_path):
    with open_for_build(tmp_path / DATABASE_NAME, memory_limit="100MB") as connection:
        connection.execute(
            "CREATE TEMP TABLE big AS "
            "SELECT sha256(i::VARCHAR) AS x, sha256((-i)::VARCHAR) AS y FROM range(800000) AS r(i) ORDER BY x"
        )
        spilled = connection.execute("SELECT coalesce(sum(size), 0) FROM duckdb_temporary_files()").fetchall()
        assert spilled[0][0] > 0, "the test proves nothing if memory sufficed"
        assert connection.execute("SELECT count(DISTINCT x) FROM big").fetchall() == [(800_000,)]
    assert names_in(tmp_path) == {DATABASE_NAME}
