"""The training rows: what mining wrote, with a teacher's scores where there are any, joined by id."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from icl_embed.config import Kind
from icl_embed.errors import TrainingError
from icl_embed.teacher.scores import keys_of, read_teacher_scores, row_pairs


@dataclass(frozen=True)
class Row:
    """One training pair with its hard negatives; the teacher's scores where the data has them.

    ``negative_scores`` is empty, or aligned with ``negatives``: a mined negative has no score.
    """

    query: str
    positive: str
    response: str
    label: str
    negatives: tuple[str, ...]
    positive_score: float | None = None
    negative_scores: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class TrainingSet:
    """The rows of one data set."""

    name: str
    kind: Kind
    instruction: str
    weight: float
    rows: Sequence[Row]

    @cached_property
    def positions_by_label(self) -> Mapping[str, Sequence[int]]:
        """Row numbers of every label."""
        positions: dict[str, list[int]] = {}
        for position, row in enumerate(self.rows):
            positions.setdefault(row.label, []).append(position)
        return positions


def read_training_sets(path: Path) -> list[TrainingSet]:
    """Read ``train.parquet``, in data-set order.

    Raises
        TrainingError: no rows at all, or scores that are not aligned with their negatives.
    """
    from pyarrow import parquet

    by_name: dict[str, list[dict[str, Any]]] = {}
    for record in parquet.read_table(path).to_pylist():
        by_name.setdefault(record["dataset"], []).append(record)
    if not by_name:
        raise TrainingError(f"{path} has no training rows; check data.train and the pool's statistics")
    return [_training_set(name, records) for name, records in sorted(by_name.items())]


def _training_set(name: str, records: list[dict[str, Any]]) -> TrainingSet:
    first = records[0]
    rows = [_row(name, record) for record in records]
    return TrainingSet(name, first["kind"], str(first["instruction"]), float(first["weight"]), rows)


def _row(name: str, record: Mapping[str, Any]) -> Row:
    negatives, scores = tuple(record["negatives"] or ()), tuple(record.get("negative_scores") or ())
    if scores and len(scores) != len(negatives):
        raise TrainingError(
            f"data set {name} has {len(scores)} teacher scores for {len(negatives)} negatives of the query "
            f"{record['query'][:60]!r}; build the negatives again"
        )
    return Row(
        query=str(record["query"]),
        positive=str(record["positive"]),
        response=str(record["response"]),
        label=str(record["label"] or ""),
        negatives=negatives,
        positive_score=record.get("positive_score"),
        negative_scores=scores,
    )


def text_hash(text: str) -> int:
    """A positive 63-bit number for a text, equal on every rank; 0 stands for the empty text."""
    if not text:
        return 0
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


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
