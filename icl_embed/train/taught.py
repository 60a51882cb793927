"""Training rows with a teacher's scores, joined by id: the one way by which they reach any loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from icl_embed.teacher.pairs import keys_of, row_pairs
from icl_embed.teacher.table import read_teacher_scores
from icl_embed.train.rows import Row, TrainingSet, read_training_sets


def read_taught_sets(rows_path: Path, teacher_dir: Path | None) -> list[TrainingSet]:
    """Read ``train.parquet``; the scores of the teacher take the place of those that came with the data.

    Rows of kinds that the teacher did not score keep what they have.

    Parameters
        teacher_dir: a table of teacher scores; None when there is no teacher.

    Raises
        TrainingError: as ``read_training_sets``.
        DataError: the table is damaged, lacks a pair of these rows, or scores a pair that they do not have.
    """
    training_sets = read_training_sets(rows_path)
    if teacher_dir is None:
        return training_sets
    scores = read_teacher_scores(teacher_dir)
    taught = [one for one in training_sets if one.kind in scores.kinds]
    pairs = [row_pairs(row.query, row.positive, row.negatives) for one in taught for row in one.rows]
    found = scores.join(keys_of([pair for row in pairs for pair in row])).tolist()
    ends = np.cumsum([len(row) for row in pairs]).tolist()
    by_passage = [
        {passage: score for (_, passage), score in zip(row, found[end - len(row) : end], strict=True)}
        for row, end in zip(pairs, ends, strict=True)
    ]
    remaining = iter(by_passage)
    return [
        _taught(one, [next(remaining) for _ in one.rows]) if one.kind in scores.kinds else one
        for one in training_sets
    ]


def _taught(training_set: TrainingSet, scores: Sequence[Mapping[str, float]]) -> TrainingSet:
    rows = [_with_scores(row, mine) for row, mine in zip(training_set.rows, scores, strict=True)]
    return dataclasses.replace(training_set, rows=rows)


def _with_scores(row: Row, scores: Mapping[str, float]) -> Row:
    negatives = tuple(scores.get(text) for text in row.negatives)  # None: a blank one, which nobody scores
    return dataclasses.replace(row, positive_score=scores[row.positive], negative_scores=negatives)
