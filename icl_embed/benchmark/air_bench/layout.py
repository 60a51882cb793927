"""Where AIR-Bench keeps things: repositories, their parts (splits, as the hub calls them), and a writer.

A task's passages and queries are in one repository, its relevance judgements in another (``…-dev`` is public,
the test split's is not). One repository serves several versions (configurations) and data sets::

    qa_wiki_en/README.md                                 which files make up which part
    qa_wiki_en/AIR-Bench_24.05/corpus_default.jsonl      {"id", "text"}
    qa_wiki_en/AIR-Bench_24.05/queries_default_dev.jsonl {"id", "text"}
    qrels-qa_wiki_en-dev/AIR-Bench_24.05/qrels_default_dev.jsonl {"qid", "docid", "relevance"}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from icl_embed.benchmark.air_bench.names import TaskName
from icl_embed.store.files import write_atomically

OWNER = "AIR-Bench"
README = "README.md"


@dataclass(frozen=True)
class Part:
    """One table of a task: the repository, the configuration and the split that hold it.

    Attributes
        task: that it is a part of.
    """

    task: str
    repository: str
    config: str
    split: str


def corpus_part(name: TaskName) -> Part:
    """The passages."""
    return Part(name.full, _repository(name), name.config, f"corpus_{_plain(name)}")


def queries_part(name: TaskName, split: str) -> Part:
    """The queries of a split; version 24.04 has but one and does not name it."""
    return Part(name.full, _repository(name), name.config, f"queries_{_plain(name)}{_ending(name, split)}")


def judgements_part(name: TaskName, split: str) -> Part:
    """The relevance judgements of a split."""
    repository = f"qrels-{_repository(name)}" + ("-dev" if split == "dev" else "")
    return Part(name.full, repository, name.config, f"qrels_{_plain(name)}{_ending(name, split)}")


def write_task(
    folder: Path,
    name: TaskName,
    split: str,
    *,
    passages: Mapping[str, str],
    queries: Mapping[str, str],
    relevance: Mapping[str, Mapping[str, int]] | None,
) -> None:
    """Write a task's split into a folder in AIR-Bench's layout, beside what is already there.

    The result can be read by us, by ``datasets.load_dataset`` and, from the folder above one called
    ``AIR-Bench``, by ``air-benchmark`` itself.

    Takes
        relevance: query -> passage -> grade; None writes a split without judgements.

    Raises
        StoreError: the disk refused.
    """
    _write_part(folder, corpus_part(name), ({"id": key, "text": text} for key, text in passages.items()))
    _write_part(
        folder, queries_part(name, split), ({"id": key, "text": text} for key, text in queries.items())
    )
    if relevance is not None:
        rows = (
            {"qid": query, "docid": passage, "relevance": grade}
            for query, grades in relevance.items()
            for passage, grade in grades.items()
        )
        _write_part(folder, judgements_part(name, split), rows)


def _write_part(folder: Path, part: Part, rows: Iterable[Mapping[str, Any]]) -> None:
    root = folder / part.repository
    write_atomically(
        root / part.config / f"{part.split}.jsonl", b"".join(orjson.dumps(row) + b"\n" for row in rows)
    )
    write_atomically(root / README, _card(root).encode())


def _card(root: Path) -> str:
    """A data set card whose configurations list every file there is."""
    lines = ["---", "configs:"]
    for config in sorted(path for path in root.iterdir() if path.is_dir()):
        lines += [f"- config_name: {config.name}", "  data_files:"]
        for file in sorted(config.glob("*.jsonl")):
            lines += [f"  - split: {file.stem}", f"    path: {config.name}/{file.name}"]
    return "\n".join([*lines, "---", ""])


def _repository(name: TaskName) -> str:
    return f"{name.type}_{name.domain}_{name.language}"


def _plain(name: TaskName) -> str:
    return name.dataset.replace("-", "_")  # a split's name on the hub may not hold a hyphen


def _ending(name: TaskName, split: str) -> str:
    return "" if name.version == "24.04" else f"_{split}"
