"""Training sets of rows that a test spells out, by the way that all rows take: ``train.parquet``, then the mapped file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from icl_embed.train.rows import Row, TrainingSet, read_training_sets


def made_set(name: str, kind: str, instruction: str, weight: float, rows: Iterable[Row]) -> TrainingSet:
    """A data set; its file is gone from the folder, but not from the map."""
    about = {"dataset": name, "kind": kind, "instruction": instruction, "weight": weight}
    with tempfile.TemporaryDirectory() as folder:
        path = write_records(Path(folder) / "train.parquet", [{**about, **asdict(row)} for row in rows])
        [found] = read_training_sets(path, Path(folder))
    return found


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    """Rows as ``train.parquet``."""
    pq.write_table(pa.Table.from_pylist(records), path)
    return path
