"""Benchmark tasks of a run: who is scored, which scores there are to make, what they say together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from icl_embed.errors import ConfigError
from icl_embed.evaluation.request import FULL_DEPTH, ScoredModel, ScoredReranker
from icl_embed.evaluation.reranking import RERANK_TOP_K
from icl_embed.evaluation.scores import BM25
from icl_embed.model.dtype import name_dtype
from icl_embed.pipeline.keys import scored_models
from icl_embed.pipeline.run import Run
from icl_embed.pipeline.stages.score import TRAINED, scorings_of
from icl_embed.store import StageKey

if TYPE_CHECKING:
    from icl_embed.evaluation.grid import NotMeasured
    from icl_embed.evaluation.models import SecondStage
    from icl_embed.evaluation.summary import Summary

FROM_HUB = "hub:"


def models_of_run(run: Run) -> list[ScoredModel]:
    """What a run compares: its embedder, alone and before its reranker, and the baselines it evaluates."""
    keys, top_k = run.keys, run.config.evaluate.rerank_top_k
    models = scored_models(run.config, keys.base_model, keys.embedder, keys.controls)
    if not top_k:
        return [*models.values()]
    choice = keys.reranker_choice.reference if keys.reranker_choice else ""
    second = ScoredReranker(
        top_k,
        name_dtype(run.config.model.dtype),
        reference=keys.reranker.reference,
        way="" if choice else FULL_DEPTH,
        choice=choice,
    )
    return [*models.values(), replace(models[TRAINED], second=second)]


def named_reranker(run: Run, name: str) -> SecondStage:
    """A reranker that a user names, run as tuning chose for it, if it was tuned.

    Parameters
        name: a folder, an artefact, or a label.

    Raises
        ModelError: there is none.
    """
    from icl_embed.evaluation.models import open_second_stage
    from icl_embed.evaluation.reranker.stored import find_choice
    from icl_embed.store.models import RERANKERS, find_model

    folder = find_model(run.store, name, RERANKERS).path
    return open_second_stage(
        str(folder),
        run.store,
        choice=find_choice(folder, run.store),
        top_k=run.config.evaluate.rerank_top_k or RERANK_TOP_K,
        device="auto",
        dtype=name_dtype(run.config.model.dtype),
    )


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
    """The scores of a run, model by model, each once; every key must be built."""
    from icl_embed.evaluation.measurement import Bootstrap
    from icl_embed.evaluation.summary import summaries_of_folders

    evaluate = run.config.evaluate
    how = Bootstrap(evaluate.bootstrap_resamples, evaluate.confidence, run.config.seed)
    once = {key.reference: key for key in keys}.values()
    return summaries_of_folders((run.artefact(key).path for key in once), how, missing)


def report_with(run: Run, benchmarks: Iterable[StageKey], missing: Sequence[NotMeasured]) -> StageKey:
    """The report's key, with the scores on benchmark tasks and what could not be had of them."""
    key = run.keys.report
    mine = {f"{one.stage}:{one.label}": one.reference for one in benchmarks}
    if not mine and not missing:
        return key
    told = {"missing": {one.task: one.reason for one in missing}} if missing else {}
    return replace(key, settings={**key.settings, **told}, inputs={**key.inputs, **mine})


def planned_keys(run: Run) -> list[StageKey]:
    """Everything that ``full-pipeline`` would build, if every benchmark task can be had.

    Raises
        ConfigError: an unknown task.
    """
    *before, _ = run.keys
    scorings = scorings_of(run, models_of_run(run))
    scores = [key for one in scorings for key in one.scores]
    every = [*before, *(one.data for one in scorings), *scores, report_with(run, scores, ())]
    return list({key.reference: key for key in every}.values())
