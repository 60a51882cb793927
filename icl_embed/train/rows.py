"""The training rows: what the mining stage wrote, column by column, with a hash for every text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icl_embed.config import Kind
from icl_embed.errors import TrainingError


@dataclass(frozen=True)
class Row:
    """One training pair with its hard negatives."""

    query: str
    positive: str
    response: str
    label: str
    negatives: tuple[str, ...]


@dataclass(frozen=True)
class TrainingSet:
    """The rows of one data set."""

    name: str
    kind: Kind
    instruction: str
    weight: float
    rows: Sequence[Row]


def read_training_sets(path: Path, *, batch_size: int) -> list[TrainingSet]:
    """Read ``train.parquet``, in data-set order.

    Raises
        TrainingError: no rows at all, or a data set too small to fill a batch.
    """
    from pyarrow import parquet

    by_name: dict[str, list[dict[str, object]]] = {}
    for record in parquet.read_table(path).to_pylist():
        by_name.setdefault(record["dataset"], []).append(record)
    if not by_name:
        raise TrainingError(f"{path} has no training rows; check data.train and the pool's statistics")
    for name, records in by_name.items():
        if len(records) < batch_size:
            raise TrainingError(
                f"data set {name} has {len(records)} training rows, fewer than a batch of {batch_size}; "
                "lower train.batch_size or move it from data.train to data.evaluate"
            )
    return [_training_set(name, records) for name, records in sorted(by_name.items())]


def _training_set(name: str, records: list[dict[str, object]]) -> TrainingSet:
    first = records[0]
    rows = [
        Row(
            query=str(record["query"]),
            positive=str(record["positive"]),
            response=str(record["response"]),
            label=str(record["label"] or ""),
            negatives=tuple(record["negatives"] or ()),  # type: ignore[arg-type]
        )
        for record in records
    ]
    return TrainingSet(
        name,
        first["kind"],  # type: ignore[arg-type]
        str(first["instruction"]),
        float(first["weight"]),  # type: ignore[arg-type]
        rows,
    )


def text_hash(text: str) -> int:
    """A positive 63-bit number for a text, equal on every rank; 0 stands for the empty text."""
    if not text:
        return 0
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
