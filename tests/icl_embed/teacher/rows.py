"""A small ``train.parquet``, and a teacher that needs no model: a pair's score is a function of its texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from icl_embed.teacher.scores import Pair, Scores

TEACHER = "reranker:0123456789abcdef"
KINDS = ("reranking", "retrieval")


def score_of(query: str, passage: str) -> float:
    return hashlib.sha256(f"{query}|{passage}".encode()).digest()[0] / 16


def score(pairs: Sequence[Pair]) -> Scores:
    return np.array([score_of(*pair) for pair in pairs], np.float32)


def training_row(dataset: str, kind: str, number: int, negatives: Sequence[str]) -> dict[str, object]:
    return {
        "dataset": dataset, "kind": kind, "query": f"q{number}", "positive": f"p{number}",
        "negatives": list(negatives), "instruction": "i", "response": "", "label": None, "weight": 1.0,
        "positive_score": None, "negative_scores": None,
    }  # fmt: skip


def write_rows(path: Path, num_rows: int = 10) -> Path:
    """Retrieval rows that share passages and hold a blank one, one row twice, and rows of another kind."""
    rows = [
        training_row("facts", "retrieval", number, [f"p{number + 1}", "far away", " ", "far away"])
        for number in range(num_rows)
    ]
    rows += [training_row("again", "reranking", 0, ["p1", "only here"])]
    rows += [training_row("labels", "classification", number, ["other"]) for number in range(3)]
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    return path
