"""Scores as mteb keeps them, so that its own tools load and compare them, and they can be submitted.

``<out>/results/<org__model>/<revision>/<Task>.json`` for zero-shot, and below ``experiments/<settings>`` for
every other way to ask; ``model_meta.json`` beside them. The revision is the checkpoint's fingerprint.

mteb names an experiment by its settings alone and takes results under an unchanged name for the same
experiment. So the settings of a few-shot experiment hold a hash of the examples of all its tasks: other
examples, another experiment.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mteb.cache import ResultCache
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.results import TaskResult

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.mteb.names import task_class
from icl_embed.evaluation.scores import BM25, SettingScore, read_scores
from icl_embed.store.key import canonical_json

logger = logging.getLogger(__name__)
NO_PLACE_IN_MTEB = "mteb has no such task"


@dataclass(frozen=True)
class Written:
    """What was written, and what has no place among mteb's results.

    Attributes
        files: one per task and setting.
        skipped: what was left out → why.
    """

    files: tuple[Path, ...]
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class _Result:
    """One task in one setting, with mteb's own record of it."""

    folder: Path
    meta: Mapping[str, Any]
    result: TaskResult
    score: SettingScore

    @property
    def settings(self) -> dict[str, Any]:
        """How the task was asked, without what was shown."""
        if not self.score.shots:
            return {}
        ways = {"selection": self.score.selection, "seed": self.score.seed, "quality": self.score.quality}
        return {"shots": self.score.shots} | {name: value for name, value in ways.items() if value}

    @property
    def model(self) -> tuple[str, str]:
        """Name and revision."""
        return self.meta["name"], self.meta["revision"]


def write_mteb_results(folders: Sequence[Path], out: Path) -> Written:
    """Write the results of score (or evaluation) artefacts in mteb's layout.

    Parameters
        folders: artefacts with ``scores.json`` and ``mteb/<setting>.json``.
        out: folder that becomes (or is) a result cache of mteb.

    Returns
        the files, and what was skipped: sets that mteb has no task for, results of other benchmarks.

    Raises
        EvaluationError: an artefact cannot be read, or two of them hold the same task, model and setting with
            different scores.
    """
    found, skipped = _read(folders)
    experiments: dict[str, list[_Result]] = defaultdict(list)
    for one in found:
        experiments[canonical_json([*one.model, one.settings])].append(one)
    cache = ResultCache(out)
    files = [path for members in experiments.values() for path in _write(_distinct(members), cache)]
    for name, reason in skipped.items():
        logger.info("not written: %s (%s)", name, reason)
    return Written(tuple(files), skipped)


def _read(folders: Sequence[Path]) -> tuple[list[_Result], dict[str, str]]:
    found: list[_Result] = []
    skipped: dict[str, str] = {}
    for folder in folders:
        scores = read_scores(folder)
        for score in scores.results:
            path = folder / "mteb" / f"{score.setting}.json"
            label = f"{scores.dataset}, {scores.model}, {score.setting}"
            if not path.is_file():
                skipped[label] = "it is not a result of mteb"
                continue
            one = _result(path, score)
            if task_class(one.result.task_name) is None:
                skipped[label] = NO_PLACE_IN_MTEB
            elif score.setting == BM25:
                skipped[label] = "BM25 is a baseline, not a model to submit"
            else:
                found.append(one)
    return found, skipped


def _result(path: Path, score: SettingScore) -> _Result:
    try:
        fields = json.loads(path.read_bytes())
        meta = fields.pop("model")
        return _Result(path.parent.parent, meta, TaskResult.from_dict(fields), score)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise EvaluationError(f"{path} is not a result of mteb: {error}; evaluate again") from error


def _distinct(members: list[_Result]) -> list[_Result]:
    """Subsets and splits of one task become one result, as mteb keeps them."""
    merged: dict[str, _Result] = {}
    for one in sorted(members, key=lambda one: (one.result.task_name, str(one.folder))):
        known = merged.get(one.result.task_name)
        merged[one.result.task_name] = _joined(known, one) if known else one
    return list(merged.values())


def _joined(first: _Result, second: _Result) -> _Result:
    scores = {split: list(entries) for split, entries in first.result.scores.items()}
    for split, entries in second.result.scores.items():
        for entry in entries:
            same = [old for old in scores.get(split, []) if old["hf_subset"] == entry["hf_subset"]]
            if not same:
                scores.setdefault(split, []).append(entry)
            elif same[0]["main_score"] != entry["main_score"]:
                raise EvaluationError(
                    f"{first.folder} and {second.folder} both hold {first.result.task_name} ({split}, "
                    f"{entry['hf_subset']}) of {first.model[0]}, {first.score.setting}, with scores "
                    f"{same[0]['main_score']} and {entry['main_score']}; export one of them"
                )
    return replace(first, result=first.result.model_copy(update={"scores": scores}))


def _write(members: list[_Result], cache: ResultCache) -> list[Path]:
    settings = members[0].settings
    if settings:
        shown = {one.result.task_name: one.meta["experiment_kwargs"]["examples"] for one in members}
        settings["examples"] = hashlib.sha256(canonical_json(shown).encode()).hexdigest()[:16]
    fields = {**members[0].meta, "experiment_kwargs": settings or None}
    if fields.get("similarity_fn_name"):
        fields["similarity_fn_name"] = ScoringFunction(fields["similarity_fn_name"])
    meta = ModelMeta.create_empty(fields)
    files = []
    for one in members:
        cache.save_to_cache(one.result, meta)
        files.append(cache.get_task_result_path(one.result.task_name, meta))
    return files
