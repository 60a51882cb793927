"""Benchmark tasks of a run: who is scored, which scores there are to make, what they say together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icl_embed.errors import ConfigError
from icl_embed.evaluation.scores import BM25
from icl_embed.pipeline.run import Run
from icl_embed.pipeline.stages.score import ScoredModel
from icl_embed.store import StageKey

if TYPE_CHECKING:
    from icl_embed.evaluation.grid import NotMeasured
    from icl_embed.evaluation.summary import Summary

FROM_HUB = "hub:"


def models_of_run(run: Run) -> list[ScoredModel]:
    """What a run compares: its embedder, and the baselines that it evaluates."""
    keys = run.keys
    known = {BM25: ScoredModel(BM25), "base": ScoredModel("base", keys.base_model.reference)}
    baselines = [known[name] for name in run.config.evaluate.baselines]
    return [*baselines, ScoredModel("trained", keys.embedder.reference)]


def named_models(run: Run, names: Sequence[str]) -> list[ScoredModel]:
    """Models that a user names.

    Parameters
        names: ``bm25``, a folder, an artefact (``embedder/1f0c``, a label), or ``hub:org/name@revision``.

    Raises
        ConfigError: a hub model without a pinned revision.
        ModelError: there is no such model.
        SourceError: the hub cannot give it.
    """
    return [_named_model(run, name) for name in dict.fromkeys(names)]


def _named_model(run: Run, name: str) -> ScoredModel:
    from icl_embed.evaluation.models import fingerprint_of
    from icl_embed.store.models import find_model

    if name == BM25:
        return ScoredModel(BM25)
    if name.startswith(FROM_HUB):
        folder = _from_hub(run, name.removeprefix(FROM_HUB))
        return ScoredModel(name.removeprefix(FROM_HUB), folder=folder, fingerprint=fingerprint_of(folder))
    found = find_model(run.store, name)
    if found.artefact is not None:
        return ScoredModel(name or found.artefact.manifest.label, found.artefact.reference)
    folder = found.path.resolve()
    return ScoredModel(folder.name, folder=folder, fingerprint=fingerprint_of(folder))


def _from_hub(run: Run, name: str) -> Path:
    from icl_embed.sources.hub import fetch_hub_model

    repository, _, revision = name.partition("@")
    if not revision:
        raise ConfigError(f"{FROM_HUB}{name} names no revision; give its commit: {FROM_HUB}{name}@<commit>")
    return fetch_hub_model(repository, revision, run.config.paths.downloads)


def overrides_of(settings: Mapping[str, object]) -> list[str]:
    """Settings of ``evaluate`` as overrides of a preset; what is None stays as the preset has it."""
    return [f"evaluate.{name}={json.dumps(value)}" for name, value in settings.items() if value is not None]


def summaries_of(run: Run, keys: Iterable[StageKey], missing: Sequence[NotMeasured]) -> list[Summary]:
    """The scores of a run's benchmark tasks, model by model; every key must be built."""
    from icl_embed.evaluation.grid import Measured, Outcome
    from icl_embed.evaluation.measurement import Bootstrap
    from icl_embed.evaluation.scores import read_scores
    from icl_embed.evaluation.summary import summarise

    by_model: dict[str, Outcome] = {}
    for key in keys:
        artefact = run.artefact(key)
        name = read_scores(artefact.path).model
        outcome = by_model.setdefault(name, Outcome(missing=list(missing)))
        outcome.measured.append(Measured(artefact, is_new=False))
    evaluate = run.config.evaluate
    how = Bootstrap(evaluate.bootstrap_resamples, evaluate.confidence, run.config.seed)
    return [summarise(outcome, name, how) for name, outcome in by_model.items()]
