"""A teacher's scores reach the rows by id: order, data set and position mean nothing."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from icl_embed.errors import DataError
from icl_embed.teacher.scores import TeacherTable, distinct_pairs, keys_of, write_about, write_shard
from icl_embed.train.rows import Row, read_training_sets
from tests.icl_embed.teacher.rows import KINDS, TEACHER, score, score_of, write_rows


def write_scores(folder: Path, rows_path: Path, *, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> Path:
    """A table of all pairs, in an order of its own."""
    folder.mkdir()
    pairs = list(distinct_pairs(rows_path, kinds))
    random.Random(seed).shuffle(pairs)
    write_shard(folder / "a.parquet", TEACHER, keys_of(pairs[:7]), score(pairs[:7]))
    write_shard(folder / "b.parquet", TEACHER, keys_of(pairs[7:]), score(pairs[7:]))
    shards = ("b.parquet", "a.parquet")
    write_about(folder, TeacherTable(teacher=TEACHER, kinds=kinds, pairs=len(pairs), shards=shards))
    return folder


def read(rows_path: Path, teacher_dir: Path | None = None) -> dict[str, list[Row]]:
    """The rows of every data set."""
    found = read_training_sets(rows_path, rows_path.parent, teacher_dir)
    return {one.name: list(one.rows) for one in found}


def test_every_row_gets_the_scores_of_its_own_pairs_in_whatever_order_they_were_written(
    tmp_path: Path,
) -> None:
    rows_path = write_rows(tmp_path / "train.parquet")
    found = [read(rows_path, write_scores(tmp_path / str(seed), rows_path, seed=seed)) for seed in (1, 2)]
    assert found[0] == found[1]
    by_name = found[0]
    for row in (*by_name["facts"], *by_name["again"]):
        assert row.positive_score == pytest.approx(score_of(row.query, row.positive))
        expected = [score_of(row.query, text) if text.strip() else None for text in row.negatives]
        assert list(row.negative_scores) == pytest.approx(expected)
    assert all(row.positive_score is None for row in by_name["labels"])


def test_a_teacher_means_the_same_as_scores_that_come_with_the_data(tmp_path: Path) -> None:
    """The embedder's distillation reads both from the same fields."""
    rows_path = write_rows(tmp_path / "train.parquet")
    records = parquet.read_table(rows_path).to_pylist()
    taught = read(rows_path, write_scores(tmp_path / "scores", rows_path))
    rows = {(name, number): row for name, mine in taught.items() for number, row in enumerate(mine)}
    counts: dict[str, int] = {}
    for record in records:
        number = counts.setdefault(record["dataset"], 0)
        counts[record["dataset"]] += 1
        row = rows[record["dataset"], number]
        record["positive_score"], record["negative_scores"] = row.positive_score, list(row.negative_scores)
    parquet.write_table(pa.Table.from_pylist(records), tmp_path / "native.parquet")
    assert read(tmp_path / "native.parquet") == taught


def test_scores_of_other_rows_are_refused(tmp_path: Path) -> None:
    rows_path = write_rows(tmp_path / "train.parquet")
    scores = write_scores(tmp_path / "scores", rows_path)
    with pytest.raises(DataError, match="gave no score"):
        read(write_rows(tmp_path / "more.parquet", 11), scores)
    with pytest.raises(DataError, match="which is no training pair"):
        read(write_rows(tmp_path / "less.parquet", 9), scores)


def test_rows_of_kinds_that_were_not_scored_keep_what_they_have(tmp_path: Path) -> None:
    rows_path = write_rows(tmp_path / "train.parquet")
    plain = read(rows_path)
    some = write_scores(tmp_path / "some", rows_path, kinds=("retrieval",))
    taught = read(rows_path, some)
    assert taught["again"] == plain["again"] and taught["labels"] == plain["labels"]
    assert taught["facts"] != plain["facts"]
    bare = [dataclasses.replace(row, positive_score=None, negative_scores=()) for row in taught["facts"]]
    assert bare == plain["facts"]
