"""What a model card says about a model, read from the store it was made in: every figure has an artefact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from icl_embed.evaluation.scores import STAGE, EvaluationScores, SettingScore, read_scores
from icl_embed.few_shot.settings import CLEAN, ZERO_SHOT
from icl_embed.sources import Card, Collection
from icl_embed.store import Artefact, Store
from icl_embed.store.key import canonical_json
from icl_embed.store.lineage import ancestors, sources_of, trained_datasets
from icl_embed.store.manifest import Manifest


@dataclass(frozen=True)
class DatasetFact:
    """A data set behind the model; what only its card knows is empty when there is no card."""

    name: str
    kind: str
    instruction: str
    is_trained_on: bool
    source: str
    licence: str
    homepage: str
    hub_name: str


@dataclass(frozen=True)
class ScoreFact:
    """The model's scores on one data set, and the untrained base's beside them."""

    scores: EvaluationScores
    zero_shot: SettingScore | None
    few_shot: SettingScore | None
    base_zero_shot: SettingScore | None


@dataclass(frozen=True)
class ModelFacts:
    """Everything the store knows about a model.

    Attributes
        reference: the artefact.
        base: the settings of the base model's artefact (source, name, version, …), empty when unknown.
        recipe: (setting, value) of the artefact's key.
    """

    reference: str
    manifest: Manifest
    base: Mapping[str, Any]
    base_source: str
    datasets: Sequence[DatasetFact]
    scores: Sequence[ScoreFact]
    recipe: Sequence[tuple[str, str]]


def gather_facts(store: Store, artefact: Artefact, catalog: Mapping[str, Card | Collection]) -> ModelFacts:
    """Walk the lineage of a model.

    Raises
        EvaluationError: an evaluation of it cannot be read.
    """
    line = list(ancestors(store, artefact))
    made_from = {one.manifest.stage: one.manifest for one in line if one.manifest is not None}
    base = made_from.get("base-model")
    trained = trained_datasets(store, artefact)
    manifests = {
        one.role: one.manifest for one in line if one.reference.startswith("dataset/") and one.manifest
    }
    return ModelFacts(
        reference=artefact.reference,
        manifest=artefact.manifest,
        base=base.key["settings"] if base else {},
        base_source="; ".join(sources_of(base)) if base else "",
        datasets=[
            _dataset(manifest, catalog.get(name.partition("/")[0]), is_trained_on=name in trained)
            for name, manifest in sorted(manifests.items())
        ],
        scores=_scores(store, artefact.reference, f"base-model/{base.fingerprint}" if base else ""),
        recipe=_leaves(artefact.manifest.key["settings"]),
    )


def _dataset(manifest: Manifest, card: Card | Collection | None, *, is_trained_on: bool) -> DatasetFact:
    said = manifest.key["settings"].get("card", {})
    source = said.get("source", {})
    return DatasetFact(
        name=manifest.label,
        kind=str(said.get("kind", "")),
        instruction=str(said.get("instruction", "")),
        is_trained_on=is_trained_on,
        source="; ".join(sources_of(manifest)),
        licence=card.licence if card else "",
        homepage=card.homepage if card else "",
        hub_name=str(source.get("repository", "")) if source.get("kind") == "hub" else "",
    )


def _scores(store: Store, reference: str, base: str) -> list[ScoreFact]:
    """The newest scores per task, without examples and with most.

    The base is beside them where it was asked in the same way.
    """
    scored = [one for one in store.artefacts() if one.stage == STAGE and _is_final(one)]
    rivals = {canonical_json(one.manifest.key): one for one in scored}
    found: dict[str, ScoreFact] = {}
    for one in scored:
        key = one.manifest.key
        if key["inputs"].get("model") != reference:
            continue
        scores = read_scores(one.path)
        before = found.get(scores.dataset, ScoreFact(scores, None, None, None))
        for result in scores.results:
            if not result.shots:
                rival = rivals.get(canonical_json({**key, "inputs": {**key["inputs"], "model": base}}))
                zero_of_base = read_scores(rival.path).of(ZERO_SHOT) if rival else None
                before = replace(before, scores=scores, zero_shot=result, base_zero_shot=zero_of_base)
            elif before.few_shot is None or result.shots >= before.few_shot.shots:
                before = replace(before, few_shot=result)
        found[scores.dataset] = before
    return sorted(
        found.values(), key=lambda fact: (fact.scores.trained_on, fact.scores.kind, fact.scores.dataset)
    )


def _is_final(score: Artefact) -> bool:
    """What a card tells: no score that choices were made by, or of a model with a reranker after it."""
    settings = score.manifest.key["settings"]
    clean = settings.get("asked", {}).get("quality", CLEAN) == CLEAN
    return settings.get("split") != "dev" and "reranker" not in settings and clean


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in tree.items():
        found += (
            _leaves(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else [(prefix + name, str(value))]
        )
    return found
