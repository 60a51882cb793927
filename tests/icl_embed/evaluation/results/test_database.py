"""The results database: what it holds, how it follows the store, what it refuses."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from icl_embed.errors import EvaluationError, StoreError
from icl_embed.evaluation.results.compare import read_measured, read_stored
from icl_embed.evaluation.results.database import RESULTS_NAME, TABLES, refresh, rows, user_query
from icl_embed.evaluation.scores import Absence
from icl_embed.store import Store
from icl_embed.store.lock import exclusive
from tests.icl_embed.evaluation.results.scored_store import add_scores


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_scores(tmp_path, "ours", "SciFact", {"zero-shot": [0.5, 0.25, 1.0], "5-shot": [1.0, 0.5, 1.0]})
    targets = [3.0, 1.0, 2.0]
    add_scores(
        tmp_path,
        "ours",
        "STS",
        {"zero-shot": [0.9, 0.1, 0.3]},
        aggregation="spearman",
        targets=targets,
    )
    return tmp_path


def count(root: Path, table: str) -> int:
    return int(rows(refresh(root), f"SELECT count(*) FROM {table}")[0][0])


def test_every_score_item_and_example_is_there_with_the_artefact_it_came_from(root: Path) -> None:
    path = refresh(root)
    found = rows(path, "SELECT task, setting, mean, data_fingerprint FROM scores ORDER BY ALL")
    assert [row[:2] for row in found] == [
        ("STS", "zero-shot"),
        ("SciFact", "5-shot"),
        ("SciFact", "zero-shot"),
    ]
    assert found[2][2] == pytest.approx(7 / 12)
    query = "SELECT item_id, value, target FROM item_values JOIN scores USING (reference, setting) WHERE task = 'STS'"
    assert rows(path, f"{query} ORDER BY position") == [("q0", 0.9, 3.0), ("q1", 0.1, 1.0), ("q2", 0.3, 2.0)]
    assert rows(path, "SELECT DISTINCT query, response FROM examples") == [("what [bold]is", "an answer")]
    lineage = rows(path, "SELECT reference, git_commit, libraries, created FROM artefacts ORDER BY ALL")
    assert [row[0] for row in lineage] == sorted(one.reference for one in Store(root).artefacts())
    assert all(json.loads(row[2])["mteb"] and row[3].endswith("Z") for row in lineage)


def test_measurements_come_back_as_they_were_written(root: Path) -> None:
    path = refresh(root)
    scores = {(one.task, one.setting): one for one in read_stored(path)}
    groups = [[scores["STS", "zero-shot"]], [scores["SciFact", "zero-shot"], scores["SciFact", "5-shot"]]]
    sts, both = read_measured(path, groups)
    assert (sts.ids, sts.aggregation, sts.point) == (("q0", "q1", "q2"), "spearman", 1.0)
    assert both.values == (0.75, 0.375, 1.0)


def test_a_refresh_without_news_writes_nothing(root: Path) -> None:
    before = refresh(root).stat()
    after = refresh(root).stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_new_artefacts_are_added_and_removed_ones_vanish(root: Path) -> None:
    refresh(root)
    added = add_scores(root, "theirs", "SciFact", {"zero-shot": [0.0, 0.0, 1.0]})
    assert count(root, "scores") == 4
    shutil.rmtree(added.path)
    assert count(root, "scores") == 3
    assert count(root, "artefacts") == 2
    assert rows(refresh(root), "SELECT * FROM item_values WHERE reference = ?", [added.reference]) == []


def test_a_rebuilt_artefact_replaces_its_rows(root: Path) -> None:
    artefact = add_scores(root, "ours", "News", {"zero-shot": [0.1]})
    refresh(root)
    shutil.rmtree(artefact.path)
    again = add_scores(root, "ours", "News", {"zero-shot": [0.9]})
    assert again.reference == artefact.reference
    found = rows(refresh(root), "SELECT value FROM item_values WHERE reference = ?", [again.reference])
    assert found == [(0.9,)]


def test_damaged_artefacts_are_left_out_with_a_warning(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = add_scores(root, "theirs", "SciFact", {"zero-shot": [0.0, 0.0, 1.0]})
    (bad.path / "scores.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        assert count(root, "artefacts") == 2
    assert f"{bad.reference} is left out: scores.json has 2 bytes" in caplog.text


def test_scores_of_another_version_are_left_out_with_a_warning(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = add_scores(root, "theirs", "SciFact", {"zero-shot": [0.0, 0.0, 1.0]}, more={"kind": "haiku"})
    with caplog.at_level(logging.WARNING):
        assert count(root, "artefacts") == 2
    assert f"{odd.reference} is left out" in caplog.text
    assert "unknown kind 'haiku'" in caplog.text


def test_a_value_that_is_not_finite_leaves_the_whole_artefact_out(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tests.icl_embed.evaluation.results.scored_store.Measurement.interval", lambda self, how: Fixed
    )
    add_scores(root, "theirs", "SciFact", {"zero-shot": [0.0, float("nan"), 1.0]})
    with caplog.at_level(logging.WARNING):
        assert count(root, "artefacts") == 2
        assert count(root, "item_values") == 9
    assert "holds a value that is not finite" in caplog.text


class Fixed:
    mean = low = high = 0.5


@pytest.mark.parametrize("content", [b"not a database", b""])
def test_a_file_that_is_no_database_is_built_again(root: Path, content: bytes) -> None:
    (root / RESULTS_NAME).write_bytes(content)
    assert count(root, "scores") == 3


def test_a_file_of_another_version_is_built_again(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = refresh(root)
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE version SET version = 99")
    with caplog.at_level(logging.WARNING):
        assert count(root, "scores") == 3
    assert "written by another version" in caplog.text


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no scores in .*icl-embed eval run"):
        refresh(tmp_path)


def test_while_another_process_refreshes_readers_see_what_was_there(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refresh(root)
    add_scores(root, "theirs", "SciFact", {"zero-shot": [0.0, 0.0, 1.0]})
    with exclusive(root / f".{RESULTS_NAME}.lock", "it"), caplog.at_level(logging.WARNING):
        assert count(root, "scores") == 3
    assert "another process refreshes" in caplog.text
    assert count(root, "scores") == 4


def test_the_first_refresh_by_two_processes_names_the_other(root: Path) -> None:
    with (
        exclusive(root / f".{RESULTS_NAME}.lock", "it"),
        pytest.raises(StoreError, match=f"process {os.getpid()}; wait for it"),
    ):
        refresh(root)


MANY = """
import sys
from pathlib import Path
from icl_embed.evaluation.results.database import refresh, rows
from tests.icl_embed.evaluation.results.scored_store import add_scores
seen = 0
for number in range(8):
    add_scores(Path(sys.argv[1]), sys.argv[2], f"task {number}", {"zero-shot": [0.5, 0.25, 1.0]})
    path = refresh(Path(sys.argv[1]))
    [(scores, items)] = rows(path, "SELECT count(DISTINCT reference), count(*) FROM item_values")
    assert items == 3 * scores + 3, (scores, items)  # one of the first artefacts has two settings
    assert scores >= seen, (scores, seen)
    seen = scores
"""


def test_processes_that_refresh_at_once_see_whole_artefacts_and_lose_none(root: Path) -> None:
    refresh(root)
    started = [
        subprocess.Popen([sys.executable, "-c", MANY, str(root), name], stderr=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    for process in started:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    assert count(root, "artefacts") == 2 + 16


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY scores TO '/tmp/stolen.csv'",
        "ATTACH '/tmp/other.duckdb'",
        "DELETE FROM scores",
        "CREATE TABLE t AS SELECT 1",
        "SELECT 1; DROP TABLE scores",
        "SET enable_external_access = true",
        "SELEC 1",
        "",
    ],
)
def test_a_user_query_reads_the_results_and_nothing_else(root: Path, query: str) -> None:
    path = refresh(root)
    before = path.read_bytes()
    with pytest.raises(EvaluationError):
        user_query(root, query, limit=10)
    assert path.read_bytes() == before


def test_a_user_query_sees_new_scores_at_once_and_says_that_there_are_more(root: Path) -> None:
    result = user_query(root, "SELECT item_id FROM item_values ORDER BY ALL", limit=2)
    assert (result.columns, len(result.rows), result.truncated) == (["item_id"], 2, True)


def test_every_column_has_its_meaning(root: Path) -> None:
    refresh(root)
    comments = user_query(root, "SELECT table_name, column_name, comment FROM duckdb_columns()", limit=500)
    documented = {(table, column) for table, column, comment in comments.rows if comment}
    assert documented >= {(table, column) for table, columns in TABLES.items() for column in columns}


def test_absent_settings_are_kept_with_their_reason(root: Path) -> None:
    add_scores(root, "m", "T", {"zero-shot": [1.0]}, absent=(Absence("5-shot", "no examples left"),))
    found = rows(refresh(root), "SELECT model, task, setting, reason FROM absences")
    assert found == [("m", "T", "5-shot", "no examples left")]


def test_another_split_or_subset_is_another_task(root: Path) -> None:
    add_scores(root, "m", "T", {"zero-shot": [1.0]}, more={"split": "dev", "subset": "de"})
    assert ("T/de:dev",) in rows(refresh(root), "SELECT task FROM scores")
