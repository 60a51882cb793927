"""Search results as AIR-Bench keeps them, and the archives that its leaderboard takes.

Layout::

    <retriever>/<reranker or NoReranker>/<type>/<domain>/<language>_<data set>_<split>.json

AIR-Bench takes a file that exists for the result of whatever model has that name, so the name must say all
that the result depends on: see ``retriever_name``.

``<retriever>_<reranker>.zip`` holds ``<type>/<domain>/<language>_<data set>_test.json``. The leaderboard
scores nothing else, and its packing script refuses folders that are no type or domain of AIR-Bench.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.air_bench.names import FAMILY, SPLITS, TYPES, TaskName, domains, published
from icl_embed.evaluation.scores import EXAMPLES_NAME, read_ranking, read_scores
from icl_embed.store.files import fsync_path, write_atomically
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

    Parameters
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


_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same results make the same archive

logger = logging.getLogger(__name__)


def pack_submission(folder: Path, target: Path, *, retriever: str, reranker: str = NO_RERANKER) -> Path:
    """Check a retriever's results and pack those of the test split into the archive to upload.

    Parameters
        folder: of search results, as ``save_results`` fills it.
        target: folder for the archive.

    Raises
        EvaluationError: no test results, a file that AIR-Bench would refuse, results of two versions.
    """
    for name in (retriever, reranker):
        refuse_odd_name(name)
    root = folder / retriever / reranker
    files = _checked_files(root)
    _report_missing(root, files)
    target.mkdir(parents=True, exist_ok=True)
    archive = target / f"{retriever}_{reranker}.zip"
    temporary = archive.with_name(f".{archive.name}.partial-{os.getpid()}")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
            for place, path in files.items():
                member = zipfile.ZipInfo(place, _EPOCH)
                member.compress_type = zipfile.ZIP_DEFLATED
                member.external_attr = 0o644 << 16
                with path.open("rb") as source, packed.open(member, "w") as sink:
                    shutil.copyfileobj(source, sink)
        fsync_path(temporary)
        temporary.replace(archive)
    except OSError as error:
        raise EvaluationError(f"cannot write {archive}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return archive


def _checked_files(root: Path) -> dict[str, Path]:
    """Place -> path of every test result; everything below the root must be a result."""
    found: dict[str, Path] = {}
    versions = set()
    for path in sorted(path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()):
        place = path.relative_to(root).as_posix()
        kind, _, rest = place.partition("/")
        if path.is_symlink() or kind not in TYPES or rest.partition("/")[0] not in domains():
            raise EvaluationError(
                f"{path}: AIR-Bench takes <type>/<domain>/<language>_<data set>_<split>.json with a type of "
                f"{', '.join(TYPES)} and a domain of {', '.join(domains())}; remove what is not a result"
            )
        results = load_results(path)
        if results.split == "test":
            versions.add(results.task.version)
            found[place] = path
    if not found:
        raise EvaluationError(
            f"{root} holds no result of the test split; AIR-Bench evaluates nothing else, run with that split"
        )
    if len(versions) > 1:
        raise EvaluationError(f"{root} mixes AIR-Bench {' and '.join(sorted(versions))}; submit one version")
    return found


def _report_missing(root: Path, files: Mapping[str, Path]) -> None:
    version = load_results(next(iter(files.values()))).task.version
    expected = {
        f"{one.type}/{one.domain}/{one.language}_{one.dataset}_test.json"
        for one in published()
        if one.version == version and "test" in one.queries
    }
    missing = sorted(expected - set(files))
    if missing:
        logger.warning(
            "%s holds %d of the %d test tasks of AIR-Bench %s; the first that is missing is %s",
            root, len(expected) - len(missing), len(expected), version, missing[0],
        )  # fmt: skip


@dataclass(frozen=True)
class StoredRun:
    """One score artefact of an AIR-Bench task.

    Attributes
        asked: what its queries were asked with, as ``examples.json`` has it.
    """

    folder: Path
    task: TaskName
    model: str
    fingerprint: str
    setting: str
    asked: dict[str, Any]

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Runs of one group go into one archive."""
        return self.model, self.fingerprint, self.setting, self.task.version


def pack_stored_runs(
    folders: Sequence[Path], target: Path, *, model: str = "", setting: str = ""
) -> list[Path]:
    """Archives of the test runs among score artefacts, one per model, setting and AIR-Bench version.

    Parameters
        folders: of score artefacts; those of other benchmarks and splits are left out.
        target: folder for ``search_results/`` and the archives.
        model, setting: leave out the runs of other models, in other settings.

    Raises
        EvaluationError: no run of a test split, two runs of one task in one setting, a damaged artefact, or
            an archive that AIR-Bench would refuse.
    """
    groups: dict[tuple[str, str, str, str], dict[TaskName, StoredRun]] = {}
    for run in map(_stored_run, folders):
        if run is None or (model or run.model) != run.model or (setting or run.setting) != run.setting:
            continue
        known = groups.setdefault(run.group, {}).setdefault(run.task, run)
        if known is not run:
            raise EvaluationError(
                f"{known.folder} and {run.folder} are both {run.setting} of {run.model} on {run.task}, with "
                "other examples or data; name the folders to submit"
            )
    if not groups:
        raise EvaluationError(
            f"none of the {len(folders)} score artefacts is a test split of AIR-Bench, of the model and "
            "setting asked for; make them with icl-embed eval run --tasks air-bench/qa --split test"
        )
    return [_pack(list(runs.values()), target) for _, runs in sorted(groups.items())]


def _pack(runs: Sequence[StoredRun], target: Path) -> Path:
    first = runs[0]
    asked = {str(run.task): run.asked for run in sorted(runs, key=lambda run: run.task)}
    name = retriever_name(first.model, first.fingerprint, first.setting, asked)
    for run in runs:
        ranking = read_ranking(run.folder)
        save_results(target / "search_results", SearchResults(run.task, "test", name, NO_RERANKER, ranking))
    return pack_submission(target / "search_results", target, retriever=name)


def _stored_run(folder: Path) -> StoredRun | None:
    scores = read_scores(folder)
    if scores.family != FAMILY or scores.split != "test":
        return None
    task = TaskName.parse(scores.dataset, version=scores.subset.removeprefix("AIR-Bench_"))
    settings = [one.setting for one in scores.results] + [one.setting for one in scores.absent]
    if len(settings) != 1:
        raise EvaluationError(f"{folder} has {len(settings)} settings, a score artefact has one")
    path = folder / EXAMPLES_NAME
    try:
        shown = json.loads(path.read_bytes()) if path.is_file() else {}
        asked = dict(shown.get(settings[0], {}))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise EvaluationError(f"{path} is not a list of examples: {error}") from error
    return StoredRun(folder, task, scores.model, scores.model_fingerprint, settings[0], asked)
