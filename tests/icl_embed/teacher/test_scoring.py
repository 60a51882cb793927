from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from icl_embed.errors import DataError, ModelError
from icl_embed.teacher.scores import (
    Pair,
    Scores,
    distinct_pairs,
    keys_of,
    read_shard,
    read_teacher_scores,
    write_shard,
)
from icl_embed.teacher.scoring import Teacher, score_training_pairs, verify
from tests.icl_embed.teacher.rows import KINDS, TEACHER, score, score_of, write_rows

NUM_PAIRS = 31  # ten rows with three distinct passages, and one more in the other data set


class Counting:
    """The teacher, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Pair] = []

    def __call__(self, pairs: Sequence[Pair]) -> Scores:
        self.asked += pairs
        return score(pairs)


def run(home: Path, out: str, score=score, shard_pairs: int = 8, lines: list[str] | None = None, **options):
    (home / out).mkdir()
    return score_training_pairs(
        home / "train.parquet",
        home / out,
        home / "work",
        Teacher(options.pop("teacher", TEACHER), score),
        kinds=options.pop("kinds", KINDS),
        shard_pairs=shard_pairs,
        on_line=(lines if lines is not None else []).append,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_rows(tmp_path / "train.parquet")
    return tmp_path


def test_every_training_pair_is_scored_once_and_the_log_counts_them(home: Path) -> None:
    teacher, lines = Counting(), []
    counts = run(home, "out", teacher, lines=lines)
    pairs = list(distinct_pairs(home / "train.parquet", KINDS))
    assert teacher.asked == pairs
    assert (counts["pairs"], counts["shards"], counts["shards_resumed"]) == (NUM_PAIRS, 4, 0)
    assert lines[0] == f"{TEACHER} scores 31 training pairs in 4 shards"
    assert lines[1:] == [f"shard {n}/4: {size} pairs" for n, size in ((1, 8), (2, 8), (3, 8), (4, 7))]
    found = read_teacher_scores(home / "out").join(keys_of(pairs))
    assert found.tolist() == pytest.approx([score_of(*pair) for pair in pairs])
    rows = 11
    best = sum(
        score_of(f"q{n}", f"p{n}") > max(score_of(f"q{n}", f"p{n + 1}"), score_of(f"q{n}", "far away"))
        for n in range(10)
    ) + (score_of("q0", "p0") > max(score_of("q0", "p1"), score_of("q0", "only here")))
    assert counts["rows"] == rows
    assert counts["positive_first"] == pytest.approx(best / rows, abs=1e-4)


def test_finished_shards_of_a_broken_run_are_not_scored_again(home: Path) -> None:
    class Fails(Counting):
        def __call__(self, pairs: Sequence[Pair]) -> Scores:
            if len(self.asked) >= 16:
                raise ConnectionError("the machine went away")
            return super().__call__(pairs)

    first, second, lines = Fails(), Counting(), []
    with pytest.raises(ConnectionError):
        run(home, "first", first)
    counts = run(home, "second", second, lines=lines)
    assert counts["shards_resumed"] == 2
    assert lines[1:3] == ["shard 1/4: 8 pairs (scored before)", "shard 2/4: 8 pairs (scored before)"]
    assert first.asked + second.asked == list(distinct_pairs(home / "train.parquet", KINDS))
    shutil.rmtree(home / "work")
    whole = run(home, "whole")
    assert {**counts, "shards_resumed": 0} == whole
    for path in sorted((home / "whole").iterdir()):
        assert path.read_bytes() == (home / "second" / path.name).read_bytes(), path.name


def test_a_shard_that_is_damaged_or_of_other_pairs_is_scored_again(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(home, "first")
    work = home / "work"
    damaged, other, stranger, shuffled = (work / f"scores-0000{n}.parquet" for n in range(4))
    damaged.write_bytes(damaged.read_bytes()[:-7])
    write_shard(other, TEACHER, *read_shard(stranger)[1:])
    write_shard(stranger, "another:teacher", *read_shard(stranger)[1:])
    _, keys, scores = read_shard(shuffled)
    write_shard(shuffled, TEACHER, keys[::-1], scores[::-1])
    teacher = Counting()
    with caplog.at_level(logging.WARNING):
        counts = run(home, "second", teacher)
    assert counts["shards_resumed"] == 1  # the order of a shard means nothing
    assert teacher.asked == list(distinct_pairs(home / "train.parquet", KINDS))[:24]
    assert caplog.text.count("scored again") == 3
    pairs = list(distinct_pairs(home / "train.parquet", KINDS))
    found = [read_teacher_scores(home / name).join(keys_of(pairs)) for name in ("first", "second")]
    assert found[0].tolist() == found[1].tolist()


def test_another_shard_size_than_before_gives_the_same_scores(home: Path) -> None:
    run(home, "first")
    counts = run(home, "second", shard_pairs=5)
    assert (counts["pairs"], counts["shards"], counts["shards_resumed"]) == (NUM_PAIRS, 7, 0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda pairs: [float("nan")] * len(pairs), r"gave nan to the query 'q0' \(8 of 8"),
        (lambda pairs: [*[1.0] * (len(pairs) - 1), float("inf")], r"gave inf to the query"),
        (lambda pairs: [1.0] * (len(pairs) - 1), r"shape \(7,\) for 8 pairs"),
        (lambda pairs: np.zeros((len(pairs), 2)), r"shape \(8, 2\) for 8 pairs"),
    ],
)
def test_a_teacher_that_gives_no_usable_score_is_refused_and_nothing_is_kept(
    home: Path, answer, message
) -> None:
    with pytest.raises(ModelError, match=message):
        run(home, "out", answer)
    assert not list((home / "work").glob("*")) if (home / "work").exists() else True
    assert not list((home / "out").iterdir())


def test_without_any_pair_of_these_kinds_there_is_nothing_to_score(home: Path) -> None:
    with pytest.raises(DataError, match="no training pair of the kinds sts; set teacher.kinds"):
        run(home, "out", kinds=("sts",))


def test_the_finished_table_is_compared_with_the_rows(home: Path) -> None:
    run(home, "out")
    scores = read_teacher_scores(home / "out")
    write_rows(home / "more.parquet", 12)
    with pytest.raises(DataError, match="gave no score"):
        verify(scores, home / "more.parquet")
    write_rows(home / "less.parquet", 9)
    with pytest.raises(DataError, match="which is no training pair"):
        verify(scores, home / "less.parquet")
