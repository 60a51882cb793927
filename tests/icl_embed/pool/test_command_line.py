import pytest
from typer.testing import CliRunner

from icl_embed.cli.pool import app
from icl_embed.errors import PoolError
from icl_embed.pool.build import build_pool
from icl_embed.pool.examples import latest_pool
from icl_embed.store import StageKey, Store
from tests.icl_embed.pool.datasets import LENIENT, build, labelled_rows, retrieval_row, write_dataset

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    home = tmp_path_factory.mktemp("command-line")
    rows = [*labelled_rows(12, ["[red]stop", "go"]), *labelled_rows(2, ["go"], "test")]
    return build(home, write_dataset(home / "signals", rows, kind="classification"))


def run(*arguments):
    result = RUNNER.invoke(app, list(map(str, arguments)), env={"COLUMNS": "160"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_stats_show_sizes_rejections_and_contact_with_evaluated_text(pool):
    output = run("stats", "--pool", pool)
    assert "signals" in output
    assert "evaluated_exact" in output
    assert "1.000" in output


def test_sql_prints_a_table_and_shows_markup_as_text(pool):
    output = run("sql", "SELECT DISTINCT label FROM pairs ORDER BY label", "--pool", pool)
    assert "[red]stop" in output
    assert "more with --limit" in run("sql", "SELECT * FROM pairs", "--pool", pool, "--limit", 1)


def test_sql_cannot_write_or_read_files(pool):
    with pytest.raises(PoolError):
        run("sql", "SELECT * FROM read_text('/etc/hostname')", "--pool", pool)


def test_examples_are_drawn_by_seed(pool):
    assert run("examples", "signals", "--pool", pool, "--count", 2) == run(
        "examples", "signals", "--pool", pool, "--count", 2
    )


def test_schema_explains_every_table(pool):
    output = run("schema", "--pool", pool)
    for words in ("Why the pair was rejected", "One row per data set", "Exclusive or of the md5"):
        assert words in output


def test_every_command_has_help_with_an_example():
    for command in ("stats", "sql", "examples", "schema"):
        assert "Example: icl-embed pool" in run(command, "--help")


def test_the_newest_pool_of_the_store_is_taken(tmp_path):
    store = Store(tmp_path / "store")
    with pytest.raises(PoolError, match="holds no pool"):
        latest_pool(store.root)
    source = write_dataset(tmp_path / "data", [retrieval_row(n) for n in range(5)])
    for seed in (1, 2):
        key = StageKey("pool", 1, {"seed": seed})
        artefact = store.build(key, lambda out, seed=seed: build_pool([source], LENIENT, out, seed=seed))
    assert latest_pool(store.root).parent == artefact.path.parent
    assert "data" in run("stats", "--store", store.root)
