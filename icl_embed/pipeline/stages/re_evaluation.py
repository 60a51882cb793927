"""Re-evaluation: the newest published model of a preset, scored again when data, code or model changed.

Two kinds of artefacts: ``accepted-scores``, a chain whose last link is the reference, with copies of its
values so that nothing else has to be kept; and ``re-evaluation``, the comparison of new scores with it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.errors import StoreError
from icl_embed.evaluation.results.regression import (
    Scored,
    Verdict,
    judge,
    read_scored,
    scoring_code,
    verdict_table,
)
from icl_embed.evaluation.tasks.rows import PREFIX
from icl_embed.few_shot.settings import AskedSetting
from icl_embed.pipeline.stages.score import TRAINED
from icl_embed.store import Artefact, StageKey
from icl_embed.store.key import explain_difference

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run

ACCEPTED = "accepted-scores"
RE_EVALUATION = "re-evaluation"
KEYS_NAME = "keys.json"
TABLE_NAME = "re_evaluation.md"
VERDICT_NAME = "re_evaluation.json"
COPIED = ("scores.json", "per_query.parquet")


@dataclass(frozen=True)
class ReEvaluation:
    """What would be scored, against what.

    Attributes
        model: the newest published embedder of the preset.
        scores: key per data set and setting; they hold the code's hash, so that changed code scores again.
        reference: the last accepted scores; None on the first run.
    """

    model: Artefact
    scores: dict[str, StageKey]
    reference: Artefact | None

    @property
    def changes(self) -> list[str]:
        """What differs from the accepted scores, each once; empty when nothing does."""
        if self.reference is None:
            return ["there are no accepted scores yet"]
        before = json.loads((self.reference.path / KEYS_NAME).read_bytes())
        found: dict[str, None] = {}
        for name in {**before, **self.scores}:
            if name not in before or name not in self.scores:
                found[f"{name}: {'dropped from' if name in before else 'added to'} the preset"] = None
            elif self.scores[name].parts() != before[name]:
                found.update(dict.fromkeys(explain_difference(self.scores[name].parts(), before[name])))
        return list(found)


def plan_re_evaluation(run: Run) -> ReEvaluation:
    """The keys of a re-evaluation, without doing any of it.

    Raises
        StoreError: no whole model of this preset is published.
    """
    model = _newest_model(run)
    code = scoring_code()
    scores = {
        f"{PREFIX}{name}, {group}": replace(
            key,
            settings={**key.settings, "code": code},
            inputs={**key.inputs, "model": model.reference},
        )
        for (system, name), keys in run.keys.scores.items()
        if system == TRAINED
        for group, key in _one_of_each_group(run, keys).items()
    }
    return ReEvaluation(model, scores, _last_accepted(run))


def _one_of_each_group(run: Run, keys: Sequence[StageKey]) -> dict[str, StageKey]:
    """A key for each setting whatever its seed: the seed that the config shows, where there are several."""
    found: dict[str, StageKey] = {}
    for key in keys:
        asked = AskedSetting(**key.settings["asked"])
        group = replace(asked, seed=0).name
        if group not in found or asked.seed == run.config.evaluate.example_seed:
            found[group] = key
    return found


def comparison_key(run: Run, plan: ReEvaluation, level: float) -> StageKey:
    """The key of the comparison with the reference.

    Raises
        StoreError: there is no reference.
    """
    if plan.reference is None:
        raise StoreError("there are no accepted scores to compare with; the first run accepts its own")
    settings = {
        "preset": run.config.preset,
        "level": level,
        "confidence": run.config.evaluate.confidence,
        "resamples": run.config.evaluate.bootstrap_resamples,
        "seed": run.config.seed,
    }
    inputs = {"reference": plan.reference.reference, **_references(plan)}
    return StageKey(RE_EVALUATION, 1, settings, inputs, run.config.preset)


def accepted_key(run: Run, plan: ReEvaluation, reason: str) -> StageKey:
    """The key of the next link of accepted scores."""
    inputs = _references(plan)
    if plan.reference is not None:
        inputs["reference"] = plan.reference.reference
    settings = {
        "preset": run.config.preset,
        "reason": reason,
        "evaluations": {name: key.parts() for name, key in plan.scores.items()},
    }
    return StageKey(ACCEPTED, 1, settings, inputs, run.config.preset)


def build_accepted(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Copy the values of all evaluations, and the keys that they were made with."""
    evaluations = key.settings["evaluations"]
    for name in evaluations:
        scored = run.input(key, name).path
        folder = out_dir / name
        folder.mkdir(parents=True)
        for file in COPIED:
            if (scored / file).is_file():  # what could not be asked so has no values
                shutil.copyfile(scored / file, folder / file)
    (out_dir / KEYS_NAME).write_text(json.dumps(evaluations, indent=1, sort_keys=True), encoding="utf-8")
    return {"tasks": len(evaluations), "reason": key.settings["reason"]}


def build_comparison(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Compare new evaluations with accepted scores; the table, and the verdict as JSON."""
    from icl_embed.evaluation.measurement import Bootstrap
    from icl_embed.evaluation.results.compare import Procedure
    from icl_embed.evaluation.significance import Randomisation

    settings = key.settings
    reference = run.input(key, "reference")
    before = json.loads((reference.path / KEYS_NAME).read_bytes())
    names = [name for name in key.inputs if name != "reference"]
    old = _scored({name: (reference.path / name, parts) for name, parts in before.items()})
    artefacts = {name: run.input(key, name) for name in names}
    new = _scored({name: (one.path, one.manifest.key) for name, one in artefacts.items()})
    how = Procedure(
        Bootstrap(settings["resamples"], settings["confidence"], settings["seed"]),
        Randomisation(seed=settings["seed"]),
        level=settings["level"],
    )
    verdict = judge(old, new, how)
    text = json.dumps(verdict.as_json(), indent=1)
    (out_dir / VERDICT_NAME).write_text(text, encoding="utf-8")
    (out_dir / TABLE_NAME).write_text(verdict_table(verdict), encoding="utf-8")
    return _counts(verdict)


def _counts(verdict: Verdict) -> dict[str, Any]:
    fallen = [row.task for row in verdict.fallen]
    return {"compared": len(verdict.rows), "fell": fallen, "lost": list(verdict.lost)}


def _scored(folders: Mapping[str, tuple[Path, Mapping[str, Any]]]) -> list[Scored]:
    return [
        one
        for folder, parts in folders.values()
        for one in read_scored(folder, str(parts["inputs"].get("dataset", "")))
    ]


def _references(plan: ReEvaluation) -> dict[str, str]:
    return {name: key.reference for name, key in plan.scores.items()}


def _newest_model(run: Run) -> Artefact:
    preset = run.config.preset
    found = [one for one in run.store.artefacts() if one.stage == "embedder" and one.manifest.label == preset]
    if not found:
        raise StoreError(
            f"no model of the preset {preset} is published in {run.store.root}; train one with "
            f"icl-embed run train-embedder {run.options}"
        )
    return run.store.get("embedder", found[-1].fingerprint)


def _last_accepted(run: Run) -> Artefact | None:
    """The end of the chain: accepted scores that no others refer to.

    Raises
        StoreError: it is damaged. It cannot be made again, and without it a fall would pass unseen.
    """
    mine = [one for one in run.store.artefacts() if one.stage == ACCEPTED]
    mine = [one for one in mine if one.manifest.label == run.config.preset]
    followed = {one.manifest.key["inputs"].get("reference") for one in mine}
    ends = [one for one in mine if one.reference not in followed]
    if not ends:
        return None
    damage = run.store.damage(ACCEPTED, ends[-1].fingerprint)
    if damage:
        raise StoreError(
            f"{ends[-1].reference}: {damage}; restore it, or remove its folder to compare with the scores "
            "that were accepted before it"
        )
    return ends[-1]
