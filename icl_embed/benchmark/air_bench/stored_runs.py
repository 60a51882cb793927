"""From stored score artefacts of ``icl-embed eval run`` to archives for AIR-Bench's leaderboard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_embed.benchmark.air_bench.names import FAMILY, TaskName
from icl_embed.benchmark.air_bench.search_results import (
    NO_RERANKER,
    SearchResults,
    retriever_name,
    save_results,
)
from icl_embed.benchmark.air_bench.submission import pack_submission
from icl_embed.errors import EvaluationError
from icl_embed.evaluate.scores import EXAMPLES_NAME, read_ranking, read_scores


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

    Takes
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
