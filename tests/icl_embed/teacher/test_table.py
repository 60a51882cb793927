from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from icl_embed.errors import DataError, StoreError
from icl_embed.teacher.scores import (
    ABOUT_NAME,
    SCHEMA,
    TeacherTable,
    keys_of,
    read_teacher_scores,
    write_about,
    write_shard,
)
from tests.icl_embed.teacher.rows import TEACHER

PAIRS = [("q0", "a"), ("q0", "b"), ("q1", "a"), ("q1", "c"), ("q2", "d")]
SCORES = [3.0, -1.0, 0.5, 2.0, 7.0]


def write_table(
    folder: Path, *, pairs=PAIRS, scores=SCORES, split: int = 3, claimed: int | None = None
) -> Path:
    folder.mkdir(exist_ok=True)
    write_shard(folder / "one.parquet", TEACHER, keys_of(pairs[:split]), np.array(scores[:split], np.float32))
    write_shard(folder / "two.parquet", TEACHER, keys_of(pairs[split:]), np.array(scores[split:], np.float32))
    about = TeacherTable(
        teacher=TEACHER,
        kinds=("retrieval",),
        pairs=len(pairs) if claimed is None else claimed,
        shards=("one.parquet", "two.parquet"),
    )
    write_about(folder, about)
    return folder


def change(folder: Path, column: str, values: list[object]) -> None:
    """Write the second shard again with another column."""
    table = parquet.read_table(folder / "two.parquet")
    number = table.schema.get_field_index(column)
    field = SCHEMA.field(column)
    table = table.set_column(number, field, pa.array(values, field.type))
    parquet.write_table(table, folder / "two.parquet")


def test_scores_are_found_by_id_in_whatever_order_they_were_written(tmp_path: Path) -> None:
    asked = [PAIRS[3], PAIRS[0], PAIRS[4], PAIRS[1], PAIRS[2], PAIRS[0]]
    expected = [2.0, 3.0, 7.0, -1.0, 0.5, 3.0]
    order = [4, 2, 0, 3, 1]
    shuffled = {"pairs": [PAIRS[n] for n in order], "scores": [SCORES[n] for n in order]}
    for name, options in (("straight", {}), ("shuffled", shuffled), ("one shard", {"split": 0})):
        if name == "one shard":  # an empty shard has no teacher: it is never written
            with pytest.raises(DataError, match="expected the scores of one teacher"):
                read_teacher_scores(write_table(tmp_path / name, **options))
            continue
        found = read_teacher_scores(write_table(tmp_path / name, **options))
        assert found.join(keys_of(asked)).tolist() == expected
        assert (found.teacher, found.kinds, len(found)) == (TEACHER, {"retrieval"}, 5)


def test_a_pair_without_a_score_is_named(tmp_path: Path) -> None:
    scores = read_teacher_scores(write_table(tmp_path / "t"))
    missing = [*PAIRS, ("q9", "a"), ("q9", "b")]
    with pytest.raises(
        DataError, match=r"gave no score to query \w{16} with passage \w{16} \(2 of 7 pairs\)"
    ) as raised:
        scores.join(keys_of(missing))
    assert keys_of([("q9", "a")])[0].decode()[:16] in str(raised.value)
    assert "score the pairs again" in str(raised.value)


def test_a_score_of_an_unknown_pair_is_named(tmp_path: Path) -> None:
    scores = read_teacher_scores(write_table(tmp_path / "t"))
    with pytest.raises(DataError, match=r"which is no training pair \(1 of 5 scores\)") as raised:
        scores.join(keys_of(PAIRS[:4]))
    assert keys_of([PAIRS[4]])[0].decode()[16:] in str(raised.value)
    with pytest.raises(DataError, match="5 of 5 scores"):
        scores.join(keys_of([]))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("score", [float("nan"), 1.0], r"two.parquet, row 0: the score is missing, NaN or infinite \(1 of 2"),
        ("score", [1.0, float("-inf")], "row 1: the score is missing, NaN or infinite"),
        ("score", [1.0, None], "row 1: the score is missing"),
        ("query_id", ["0123456789abcdef", "Q0"], "row 1: query_id is no id of 16 hex digits"),
        ("passage_id", [None, "0123456789abcdef"], "row 0: passage_id is no id"),
        ("teacher", [TEACHER, "another"], "expected the scores of one teacher, found"),
        ("teacher", ["another", "another"], f"expected scores of {TEACHER}, found some of another"),
        ("teacher", [None, None], "expected the scores of one teacher"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused(tmp_path: Path, column: str, values: list[object], message: str) -> None:
    folder = write_table(tmp_path / "t")
    change(folder, column, values)
    with pytest.raises(DataError, match=message):
        read_teacher_scores(folder)


def test_a_pair_with_two_scores_is_refused_within_a_shard_and_across_shards(tmp_path: Path) -> None:
    for number, repeated in enumerate(([*PAIRS[:4], PAIRS[3]], [*PAIRS[:4], PAIRS[0]])):
        folder = write_table(tmp_path / str(number), pairs=repeated)
        with pytest.raises(DataError, match=r"query \w{16} with passage \w{16} has two scores"):
            read_teacher_scores(folder)


def test_a_lost_shard_or_row_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 6 scored pairs, found 5"):
        read_teacher_scores(write_table(tmp_path / "short", claimed=6))
    folder = write_table(tmp_path / "lost")
    (folder / "two.parquet").unlink()
    with pytest.raises(DataError, match=r"two.parquet cannot be read"):
        read_teacher_scores(folder)
    (folder / "two.parquet").write_bytes((folder / "one.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"two.parquet cannot be read.*score the pairs again"):
        read_teacher_scores(folder)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no teacher.json"):
        read_teacher_scores(tmp_path)
    folder = write_table(tmp_path / "t")
    parquet.write_table(pa.table({"query": ["q"], "score": [1.0]}), folder / "two.parquet")
    with pytest.raises(DataError, match="expected the columns"):
        read_teacher_scores(folder)
    about = json.loads((folder / ABOUT_NAME).read_text())
    (folder / ABOUT_NAME).write_text(json.dumps({**about, "shards": ["../one.parquet"]}))
    with pytest.raises(StoreError, match="would leave"):
        read_teacher_scores(folder)
    (folder / ABOUT_NAME).write_text(json.dumps({**about, "kinds": ["poetry"]}))
    with pytest.raises(DataError, match="teacher.json is not valid"):
        read_teacher_scores(folder)
