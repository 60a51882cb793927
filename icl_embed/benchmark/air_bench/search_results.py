"""Search results as AIR-Bench keeps them: one file per task's split, below its retriever and reranker.

Layout::

    <retriever>/<reranker or NoReranker>/<type>/<domain>/<language>_<data set>_<split>.json

AIR-Bench takes a file that exists for the result of whatever model has that name, so the name must say all
that the result depends on: see ``retriever_name``.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from icl_embed.benchmark.air_bench.catalogue import SPLITS
from icl_embed.benchmark.air_bench.names import TaskName
from icl_embed.errors import EvaluationError
from icl_embed.store.files import write_atomically
from icl_embed.store.key import canonical_json

NO_RERANKER = "NoReranker"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class SearchResults:
    """The rankings of one task's split by one retriever and, perhaps, reranker.

    Attributes
        retriever, reranker: become folders; letters, digits, dots, hyphens and underscores.
        ranking: query -> passage -> score.
    """

    task: TaskName
    split: str
    retriever: str
    reranker: str
    ranking: Mapping[str, Mapping[str, float]]

    @property
    def place(self) -> str:
        """Where its file lies within its retriever's and reranker's folder."""
        task = self.task
        return f"{task.type}/{task.domain}/{task.language}_{task.dataset}_{self.split}.json"


def retriever_name(model: str, fingerprint: str, setting: str, asked: Mapping[str, Any]) -> str:
    """A name that no other model, checkpoint, instruction or example set shares, over all tasks of a run.

    Takes
        setting: its name, e.g. ``3-shot``.
        asked: task -> what its queries were asked with, as JSON types.
    """
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", model).strip(".-")[:80] or "model"
    shots = re.sub(r"[^A-Za-z0-9.-]+", "-", setting).strip(".-")[:60] or "setting"
    digest = hashlib.sha256(canonical_json([model, fingerprint, setting, dict(asked)]).encode()).hexdigest()
    return f"{plain}-{fingerprint[:12]}-{shots}-{digest[:12]}"


def save_results(folder: Path, results: SearchResults) -> Path:
    """Write the file of one task's split below a folder of search results.

    Raises
        EvaluationError: a name that is no file name, an empty ranking, a score that is not finite.
        StoreError: the disk refused.
    """
    for name in (results.retriever, results.reranker):
        refuse_odd_name(name)
    _refuse_unusable(results)
    task = results.task
    content = {
        "model_name": results.retriever,
        "reranker_name": results.reranker,
        "benchmark_version": task.config,
        "task_type": task.type,
        "domain": task.domain,
        "language": task.language,
        "dataset_name": task.dataset,
        "split": results.split,
        "search_results": {query: dict(found) for query, found in results.ranking.items()},
    }
    path = folder / results.retriever / results.reranker / results.place
    write_atomically(path, orjson.dumps(content))
    return path


def load_results(path: Path) -> SearchResults:
    """Read one file of search results.

    Raises
        EvaluationError: not such a file, or its content contradicts its place.
    """
    try:
        content: dict[str, Any] = orjson.loads(path.read_bytes())
        version = content["benchmark_version"].removeprefix("AIR-Bench_")
        where = (content["task_type"], content["domain"], content["language"], content["dataset_name"])
        ranking = content["search_results"]
        results = SearchResults(
            TaskName(version, *where),
            content["split"],
            content["model_name"],
            content["reranker_name"],
            ranking,
        )
        _refuse_unusable(results)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EvaluationError(f"{path} is not a file of AIR-Bench search results: {error}") from error
    expected = f"{results.retriever}/{results.reranker}/{results.place}"
    if not path.as_posix().endswith(f"/{expected}"):
        raise EvaluationError(f"{path} says that it belongs at {expected}; a file was moved or renamed")
    return results


def refuse_odd_name(name: str) -> None:
    """Refuse a retriever's or reranker's name that cannot be a folder's.

    Raises
        EvaluationError: it cannot.
    """
    if not _PLAIN.fullmatch(name):
        raise EvaluationError(
            f"{name!r} cannot name a retriever or reranker: expected up to 200 letters, digits, dots, "
            "hyphens and underscores, starting with a letter or digit"
        )


def _refuse_unusable(results: SearchResults) -> None:
    name = f"{results.task} by {results.retriever}"
    if results.split not in SPLITS:
        raise EvaluationError(f"{name}: unknown split {results.split!r}, expected {' or '.join(SPLITS)}")
    if not results.ranking:
        raise EvaluationError(f"{name}: the ranking holds no query")
    for query, found in results.ranking.items():
        bad = next((passage for passage, score in found.items() if not math.isfinite(score)), None)
        if bad is not None:
            raise EvaluationError(f"{name}: the score of {bad!r} for query {query!r} is {found[bad]}")
