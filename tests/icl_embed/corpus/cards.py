"""Small cards with their data, written where a test wants them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from icl_embed.corpus.dataset import build_dataset
from icl_embed.sources import Card, load_card

HEAD = """
name = "{name}"
kind = "{kind}"
title = "A small data set"
instruction = "Do the task"
licence = "CC0-1.0"
homepage = ""
{layout}
[source]
kind = "local"
path = "{path}"
"""
LIMITS = {"max_train_rows": 10_000, "max_test_queries": 10_000, "max_test_passages": 10_000}


def write_card(folder: Path, kind: str, body: str = "", *, path: str = "data", layout: str = "") -> Card:
    folder.mkdir(parents=True, exist_ok=True)
    layout = f'layout = "{layout}"' if layout else ""
    text = HEAD.format(name="small", kind=kind, path=path, layout=layout) + body
    (folder / "small.toml").write_text(text, encoding="utf-8")
    return load_card(folder / "small.toml")


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def build(card: Card, folder: Path, **limits: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Counts and rows."""
    counts = build_dataset(card, folder / "downloads", folder / "out", **{**LIMITS, **limits})
    return counts, pq.read_table(folder / "out" / "rows.parquet").to_pylist()


def corpus(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "out" / "corpus.parquet").to_pylist()
