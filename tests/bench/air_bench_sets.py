"""Retrieval sets in the folder format, written as AIR-Bench publishes its own."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from icl_embed.evaluation.air_bench.data import write_task
from icl_embed.evaluation.air_bench.names import TaskName

# set -> (AIR-Bench name, the source's split that becomes dev)
SETS = {
    "pubmedqa": ("air-bench/qa_healthcare_pubmedqa_en", "train"),
    "cosqa": ("air-bench/qa_web_cosqa_en", "dev"),
}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def drawn(keys: Iterable[str], count: int | None) -> list[str]:
    """All, or a draw that is the same everywhere."""
    return sorted(keys, key=lambda key: hashlib.sha256(key.encode()).hexdigest())[:count]


def write_folders(
    source: Path, task: TaskName, dev: str, out: Path, *, num_queries: int | None, num_passages: int | None
) -> None:
    """Both splits; only the private folder has the judgements of test.

    A smaller corpus keeps every relevant passage of the queries that are kept, and is filled up by draw.
    """
    rows = read_jsonl(source / "corpus.jsonl.gz")
    passages = {row["_id"]: f"{row.get('title') or ''}\n{row['text']}".strip() for row in rows}
    texts = {row["_id"]: row["text"] for row in read_jsonl(source / "queries.jsonl.gz")}
    judged: dict[str, dict[str, dict[str, int]]] = {}
    for split, theirs in (("dev", dev), ("test", "test")):
        found: dict[str, dict[str, int]] = {}
        with gzip.open(source / "qrels" / f"{theirs}.tsv.gz", "rt", encoding="utf-8") as lines:
            for query, passage, grade in list(csv.reader(lines, delimiter="\t"))[1:]:
                found.setdefault(query, {})[passage] = int(grade)
        judged[split] = {query: found[query] for query in drawn(found, num_queries)}
    if num_passages is not None:
        kept = {key for split in judged.values() for grades in split.values() for key in grades}
        kept.update(drawn(set(passages) - kept, max(0, num_passages - len(kept))))
        passages = {key: text for key, text in passages.items() if key in kept}
    for split, relevance in judged.items():
        queries = {key: texts[key] for key in relevance}
        for folder in ("AIR-Bench", "private"):
            shown = None if (split, folder) == ("test", "AIR-Bench") else relevance
            write_task(out / folder, task, split, passages=passages, queries=queries, relevance=shown)
