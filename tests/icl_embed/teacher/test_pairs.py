from __future__ import annotations

from pathlib import Path

import pytest

from icl_embed.errors import DataError
from icl_embed.pool.database import DATABASE_NAME, fetch_all, open_read_only
from icl_embed.teacher.scores import distinct_pairs, keys_of, text_id
from tests.icl_embed.pool.datasets import build, retrieval_row, write_dataset
from tests.icl_embed.teacher.rows import KINDS, write_rows


def test_ids_are_those_of_the_pools_texts(tmp_path: Path) -> None:
    rows = [retrieval_row(n) for n in range(5)] + [
        retrieval_row(6, query="größe  \U0001f600", positives=["Ångström 值"])
    ]
    pool = build(tmp_path, write_dataset(tmp_path / "data", rows))
    with open_read_only(pool / DATABASE_NAME) as connection:
        texts = fetch_all(connection, "SELECT text_id, text FROM texts")
    assert len(texts) > 10
    assert all(text_id(text) == name for name, text in texts)


def test_every_pair_comes_once_and_blank_passages_and_other_kinds_do_not(tmp_path: Path) -> None:
    pairs = list(distinct_pairs(write_rows(tmp_path / "train.parquet", 3), KINDS))
    expected = [
        ("q0", "p0"), ("q0", "p1"), ("q0", "far away"), ("q1", "p1"), ("q1", "p2"), ("q1", "far away"),
        ("q2", "p2"), ("q2", "p3"), ("q2", "far away"), ("q0", "only here"),
    ]  # fmt: skip
    assert pairs == expected
    assert keys_of(pairs)[0].decode() == text_id("q0") + text_id("p0")
    assert len(set(keys_of(pairs).tolist())) == len(pairs)


def test_rows_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="broken.parquet cannot be read.*mine the negatives again"):
        list(distinct_pairs(tmp_path / "broken.parquet", KINDS))
    with pytest.raises(DataError, match="missing.parquet"):
        list(distinct_pairs(tmp_path / "missing.parquet", KINDS))
