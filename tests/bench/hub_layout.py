"""A set of a mirror folder, written again as the hub has it: a cache folder that mteb's own loader reads.

Written from the files alone, without a line of the code that is compared with it.
"""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[dict[str, Any]]


def write_hub_copy(source: Path, cache: Path, hub_path: str, revision: str, *, subset: str = "") -> Path:
    """Write one set as ``cache/datasets--…/snapshots/<revision>``; returns that folder.

    Takes
        source: a folder with jsonl and tsv files, plain or gzipped (retrieval, labelled texts, pairs).
        hub_path: of the data set, e.g. ``mteb/scifact``.
        subset: the configs' prefix (``en``) of a retrieval task with subsets.
    """
    folder = cache / f"datasets--{hub_path.replace('/', '--')}" / "snapshots" / revision
    folder.mkdir(parents=True)
    if (source / "qrels").is_dir():
        configs = _retrieval(source, folder, f"{subset}-" if subset else "")
    else:
        splits = {path.name.split(".")[0]: read_rows(path) for path in sorted(source.glob("*.jsonl*"))}
        configs = {"default": {split: _write(folder, split, rows) for split, rows in splits.items()}}
    (folder / "README.md").write_text(_card(configs), encoding="utf-8")
    return folder


def _retrieval(source: Path, folder: Path, prefix: str) -> dict[str, dict[str, str]]:
    judged = {path.name.split(".")[0]: read_rows(path) for path in sorted((source / "qrels").glob("*.tsv*"))}
    corpus, queries = (read_rows(next(source.glob(f"{name}.jsonl*"))) for name in ("corpus", "queries"))
    fields = ("_id", "title", "text")
    passages = [{name: row.get(name, "") for name in fields} for row in corpus]
    asked = [{name: row[name] for name in ("_id", "text")} for row in queries]
    return {
        f"{prefix}qrels" if prefix else "default": {
            split: _write(folder, f"qrels-{split}", rows) for split, rows in judged.items()
        },
        f"{prefix}corpus": {"corpus": _write(folder, "corpus", passages)},
        f"{prefix}queries": {"queries": _write(folder, "queries", asked)},
    }


def read_rows(path: Path) -> Rows:
    """The rows of a jsonl or tsv file."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as handle:
        if ".tsv" in path.name:
            rows = csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
            return [{**row, "score": int(row["score"])} for row in rows]
        return [json.loads(line) for line in handle]


def _write(folder: Path, name: str, rows: Rows) -> str:
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return f"{name}.parquet"


def _card(configs: dict[str, dict[str, str]]) -> str:
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, name in splits.items():
            lines += [f"  - split: {split}", f"    path: {name}"]
    return "\n".join([*lines, "---", ""])
