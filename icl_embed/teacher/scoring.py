"""The teacher-scores stage: every training pair scored, in shards that a killed run does not score again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from icl_embed.config import Kind
from icl_embed.errors import DataError, ModelError
from icl_embed.teacher.scores import (
    SHARD_NAME,
    Keys,
    Pair,
    ScoreJoin,
    Scores,
    TeacherScores,
    TeacherTable,
    distinct_pairs,
    keys_of,
    read_row_pairs,
    read_shard,
    read_teacher_scores,
    write_about,
    write_shard,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")
ROWS_JOINED = 4096  # at a time
ScorePairs = Callable[[Sequence[Pair]], ArrayLike]  # (query, passage) pairs -> scores [N], higher is better


@dataclass(frozen=True)
class Teacher:
    """Who scores: a name that says which weights (it stands in every row), and the model's scores."""

    name: str
    score: ScorePairs


def score_training_pairs(
    rows_path: Path,
    out_dir: Path,
    work_dir: Path,
    teacher: Teacher,
    *,
    kinds: Collection[Kind],
    shard_pairs: int,
    on_line: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Score the pairs of ``train.parquet`` and write a whole, verified table to ``out_dir``.

    Parameters
        work_dir: where finished shards survive a crash; the next call takes those that are whole and hold
            the pairs that are due, and scores the others.
        on_line: told about every shard.

    Returns
        counts: pairs, shards, shards taken over, and how often the teacher puts the positive first.

    Raises
        DataError: the rows cannot be read, or have no pair of these kinds.
        ModelError: the teacher gave a score that is not finite, or not one per pair.
        StoreError: the disk refused.
    """
    num_pairs = sum(1 for _ in distinct_pairs(rows_path, kinds))
    if not num_pairs:
        raise DataError(
            f"{rows_path} has no training pair of the kinds {', '.join(sorted(kinds))}; set teacher.kinds to "
            "kinds that data.train has, or teacher.source to 'none'"
        )
    num_shards = -(-num_pairs // shard_pairs)
    on_line(f"{teacher.name} scores {num_pairs:,} training pairs in {num_shards} shards")
    names, resumed = [], 0
    for number, pairs in enumerate(_chunks(distinct_pairs(rows_path, kinds), shard_pairs), start=1):
        name = SHARD_NAME.format(number - 1)
        was_done = _score_shard(work_dir / name, teacher, pairs)
        shutil.copyfile(work_dir / name, out_dir / name)
        on_line(f"shard {number}/{num_shards}: {len(pairs)} pairs{' (scored before)' if was_done else ''}")
        names.append(name)
        resumed += was_done
    write_about(
        out_dir,
        TeacherTable(teacher=teacher.name, kinds=tuple(sorted(kinds)), pairs=num_pairs, shards=tuple(names)),
    )
    counts = {"pairs": num_pairs, "shards": num_shards, "shards_resumed": resumed}
    return {"teacher": teacher.name, **counts, **verify(read_teacher_scores(out_dir), rows_path)}


def verify(scores: TeacherScores, rows_path: Path) -> dict[str, Any]:
    """Check that a table scores the pairs of ``train.parquet``, all of them and no others.

    Returns
        counts: rows, and the share of rows whose positive the teacher scores above every negative: a teacher
        that ranks at random has nothing to teach.

    Raises
        DataError: a pair without a score, or a score without a pair.
    """
    join, num_rows, ranked, first = ScoreJoin(scores), 0, 0, 0
    for rows in _chunks(map(keys_of, read_row_pairs(rows_path, scores.kinds)), ROWS_JOINED):
        found = join.take(np.concatenate(rows))
        for row in np.split(found, np.cumsum([len(row) for row in rows])[:-1]):
            num_rows += 1
            ranked += len(row) > 1
            first += bool(len(row) > 1 and row[0] > row[1:].max())
    join.finish()
    return {"rows": num_rows, "positive_first": round(first / max(1, ranked), 4)}


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _score_shard(path: Path, teacher: Teacher, pairs: Sequence[Pair]) -> bool:
    """Score some pairs into a file, unless it holds their scores; returns whether it did."""
    keys = keys_of(pairs)
    if _is_done(path, teacher.name, keys):
        return True
    write_shard(path, teacher.name, keys, _checked(teacher.score(pairs), pairs, teacher.name))
    return False


def _is_done(path: Path, teacher: str, keys: Keys) -> bool:
    """Whether a shard of an earlier run holds exactly these pairs; the order within it means nothing."""
    if not path.exists():
        return False
    try:
        found_teacher, found, _ = read_shard(path)
    except DataError as error:
        logger.warning("a shard is scored again: %s", error)
        return False
    if found_teacher == teacher and np.array_equal(np.sort(found), np.sort(keys)):
        return True
    logger.warning("%s is scored again: it holds other pairs, or those of another teacher", path.name)
    return False


def _checked(found: ArrayLike, pairs: Sequence[Pair], teacher: str) -> Scores:
    scores = np.asarray(found, np.float32)
    if scores.shape != (len(pairs),):
        raise ModelError(f"{teacher} gave scores of the shape {scores.shape} for {len(pairs)} pairs")
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise ModelError(
            f"{teacher} gave {scores[wrong[0]]} to the query {pairs[wrong[0]][0][:60]!r} ({len(wrong)} of "
            f"{len(pairs)} scores are not finite); its weights are broken, or set model.dtype to float32"
        )
    return scores
