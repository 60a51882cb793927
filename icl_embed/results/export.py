"""Results for others: tables as JSON, CSV and Parquet, and mteb's own result folders."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from icl_embed.errors import EvaluationError
from icl_embed.results.stored import StoredScore
from icl_embed.store.files import write_atomically


def format_of(path: Path) -> str:
    """The format that a file's name asks for.

    Raises
        EvaluationError: another ending.
    """
    ending = path.suffix.removeprefix(".").lower()
    if ending not in _MAKERS:
        raise EvaluationError(f"expected a file that ends in .json, .csv or .parquet, found {path.name!r}")
    return ending


def score_rows(scores: Sequence[StoredScore]) -> list[dict[str, Any]]:
    """One row per score, all columns."""
    return [asdict(score) for score in scores]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows in the format of the file's name.

    Raises
        EvaluationError: another ending, or nothing to write.
        StoreError: the disk refuses.
    """
    make = _MAKERS[format_of(path)]
    if not rows:
        raise EvaluationError("there is nothing to write: no score fits")
    write_atomically(path, make(rows))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, empty where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return csv_text(rows).encode()


def _json(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return (json.dumps(list(rows), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


_MAKERS: dict[str, Callable[[Sequence[Mapping[str, Any]]], bytes]] = {
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
}
