"""What a model card says about a model, read from the store it was made in: every figure has an artefact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icl_embed.evaluation.scores import EvaluationScores, SettingScore, read_scores
from icl_embed.few_shot.settings import FEW_SHOT, ZERO_SHOT
from icl_embed.sources import Card
from icl_embed.store import Artefact, Store
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
        training: figures of the training run.
    """

    reference: str
    manifest: Manifest
    base: Mapping[str, Any]
    base_source: str
    datasets: Sequence[DatasetFact]
    scores: Sequence[ScoreFact]
    recipe: Sequence[tuple[str, str]]


def gather_facts(store: Store, artefact: Artefact, catalog: Mapping[str, Card]) -> ModelFacts:
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
            _dataset(manifest, catalog.get(name), is_trained_on=name in trained)
            for name, manifest in sorted(manifests.items())
        ],
        scores=_scores(store, artefact.reference, f"base-model/{base.fingerprint}" if base else ""),
        recipe=_leaves(artefact.manifest.key["settings"]),
    )


def _dataset(manifest: Manifest, card: Card | None, *, is_trained_on: bool) -> DatasetFact:
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
    """The newest evaluation per data set; the base is compared where it was evaluated in the same way."""
    evaluated = [one for one in store.artefacts() if one.stage == "evaluation"]
    found: dict[str, ScoreFact] = {}
    for one in evaluated:
        key = one.manifest.key
        if key["inputs"].get("model") != reference:
            continue
        scores = read_scores(one.path)
        same = [
            other
            for other in evaluated
            if other.manifest.key["inputs"] == {**key["inputs"], "model": base}
            and other.manifest.key["settings"]["evaluate"] == key["settings"]["evaluate"]
        ]
        rival = read_scores(same[-1].path).of(ZERO_SHOT) if same else None
        found[scores.dataset] = ScoreFact(scores, scores.of(ZERO_SHOT), scores.of(FEW_SHOT), rival)
    return sorted(
        found.values(), key=lambda fact: (fact.scores.trained_on, fact.scores.kind, fact.scores.dataset)
    )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in tree.items():
        found += (
            _leaves(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else [(prefix + name, str(value))]
        )
    return found
