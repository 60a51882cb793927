"""``icl-embed eval compare | leaderboard | history | export | sql`` as a user types them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from flows.command_line import app
from icl_embed.errors import EvaluationError
from icl_embed.evaluation.results.database import refresh
from icl_embed.evaluation.results.tables import write_rows
from tests.icl_embed.evaluation.results.scored_store import add_scores


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    generator = np.random.default_rng(0)
    for task in ("Alpha", "Beta", "AVeryLongTaskNameFromABenchmark-with-parts"):
        base = generator.random(40)
        add_scores(folder, "weak", task, {"zero-shot": list(base * 0.5)})
        add_scores(folder, "strong", task, {"zero-shot": list(base), "5-shot": list(base * 0.9)})
    return folder


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["eval", *arguments, "--store", str(root)], env={"COLUMNS": "100"})


def shown(root: Path, *arguments: str) -> str:
    result = run(root, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_compare_prints_every_task_the_average_and_how_to_read_it(root: Path) -> None:
    output = shown(root, "compare", "strong", "weak")
    assert "strong@zero-shot − weak@zero-shot" in output
    assert "average of 3" in output
    assert "smallest true difference" in output
    assert "Holm" in output
    assert max(map(len, output.splitlines())) <= 100


def test_compare_as_json_has_the_same_figures(root: Path, tmp_path: Path) -> None:
    shown(root, "compare", "strong", "weak", "--task", "Alpha", "--json", str(tmp_path / "difference.json"))
    [comparison] = json.loads((tmp_path / "difference.json").read_text())
    [row] = comparison["rows"]
    assert row["difference"]["mean"] == pytest.approx(row["first"] - row["second"])
    assert comparison["average"] is None
    printed = json.loads(shown(root, "compare", "strong", "weak", "--task", "Alpha", "--json", "-"))
    assert printed == [comparison]


def test_the_leaderboard_shows_what_was_not_tested(root: Path, tmp_path: Path) -> None:
    add_scores(root, "newcomer", "Alpha", {"zero-shot": [0.5] * 40})
    output = shown(root, "leaderboard")
    assert "newcomer" in output
    assert "1/3" in output
    assert "· not tested" in output
    assert max(map(len, output.splitlines())) <= 100
    files = {name: tmp_path / f"board.{name}" for name in ("md", "json", "csv")}
    shown(
        root, "leaderboard", "--markdown", str(files["md"]), "--json", str(files["json"]),
        "--csv", str(files["csv"]),
    )  # fmt: skip
    assert "| 1 | strong | zero-shot |" in files["md"].read_text()
    rows = json.loads(files["json"].read_text())
    untested = [row for row in rows if row["model"] == "newcomer" and row["task"] == "Beta"]
    assert [row["mean"] for row in untested] == [None]
    with files["csv"].open() as handle:
        assert len(list(csv.DictReader(handle))) == len(rows)


def test_the_leaderboard_takes_some_models_and_another_order(root: Path) -> None:
    output = shown(root, "leaderboard", "--model", "weak", "--model", "strong", "--sort", "Beta")
    assert "newcomer" not in output
    assert run(root, "leaderboard", "--model", "wek").exception.args[0].endswith("did you mean weak?")


def test_history_lists_the_scores_of_a_model(root: Path) -> None:
    output = shown(root, "history", "strong", "--task", "Alpha")
    assert output.count("strong-f") == 2
    assert max(map(len, output.splitlines())) <= 100


@pytest.mark.parametrize("ending", ["json", "csv", "parquet"])
def test_export_writes_one_row_per_score(root: Path, tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"scores.{ending}"
    shown(root, "export", str(target), "--model", "strong")
    if ending == "parquet":
        rows = pq.read_table(target).to_pylist()
    elif ending == "json":
        rows = json.loads(target.read_text())
    else:
        rows = list(csv.DictReader(target.read_text().splitlines()))
    assert len(rows) == 6
    assert {row["model"] for row in rows} == {"strong"}
    assert all(row["reference"].startswith("score/") for row in rows)


def test_export_refuses_other_endings_and_nothing_to_write(root: Path, tmp_path: Path) -> None:
    error = run(root, "export", str(tmp_path / "scores.xlsx")).exception
    assert isinstance(error, EvaluationError)
    assert "expected a file that ends in .json, .csv or .parquet" in str(error)
    with pytest.raises(EvaluationError, match="nothing to write"):
        write_rows(tmp_path / "scores.csv", [])


def test_export_to_mteb_says_what_has_no_place_there(root: Path, tmp_path: Path) -> None:
    output = shown(root, "export", str(tmp_path / "results"), "--mteb", "--model", "weak")
    assert "0 results" in output
    assert "left out Alpha, weak, zero-shot" in output


def test_sql_shows_texts_as_they_are(root: Path) -> None:
    refresh(root)
    output = shown(root, "sql", "SELECT DISTINCT query FROM examples")
    assert "what [bold]is" in output
    output = shown(root, "sql", "SELECT item_id FROM item_values", "--limit", "3")
    assert "first 3 rows" in output
    assert isinstance(run(root, "sql", "DROP TABLE scores").exception, EvaluationError)


@pytest.mark.parametrize("command", ["compare", "leaderboard", "history", "export", "sql"])
def test_every_command_has_an_example(command: str) -> None:
    help_text = CliRunner().invoke(app, ["eval", command, "--help"], env={"COLUMNS": "200"}).output
    assert f"icl-embed eval {command}" in help_text
