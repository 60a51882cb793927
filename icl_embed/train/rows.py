"""The training rows: what the mining stage wrote, column by column, with a hash for every text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from icl_embed.config import Kind
from icl_embed.errors import TrainingError


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
