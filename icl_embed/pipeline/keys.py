"""The keys of one run: how its stages hang together, computed from the config alone.

Each stage's own key is in ``stages``: it holds exactly what the stage reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from icl_embed.config import RANKING_KINDS, RunConfig
from icl_embed.evaluation.request import ScoredModel
from icl_embed.evaluation.scores import BM25
from icl_embed.pipeline.stages.base_model import base_model_key
from icl_embed.pipeline.stages.embedder import control_key, embedder_key
from icl_embed.pipeline.stages.public_embedder import public_embedder_key
from icl_embed.pipeline.stages.report import report_key
from icl_embed.pipeline.stages.reranker import reranker_key
from icl_embed.pipeline.stages.reranking import reranker_choice_key, reranker_evaluation_key, tuning_sets
from icl_embed.pipeline.stages.score import (
    BASE,
    BASE_MEAN,
    NO_EXAMPLES,
    PUBLIC,
    TRAINED,
    card_scores,
    first_stages_of,
    mean_pooled,
)
from icl_embed.pipeline.stages.teacher_scores import teacher_keys
from icl_embed.pipeline.stages.training_data import dataset_key, negatives_key, pool_key
from icl_embed.sources.card import Card
from icl_embed.store import StageKey

FIRST_STAGES = (TRAINED, BM25)  # the systems whose passages are reranked, or compared with


@dataclass(frozen=True)
class PipelineKeys:
    """The keys of one run, in the order in which stages can be built."""

    base_model: StageKey
    datasets: dict[str, StageKey]
    pool: StageKey
    negatives: StageKey
    embedder: StageKey
    controls: dict[str, StageKey]  # models that it is compared with, beside the base model
    scores: dict[tuple[str, str], list[StageKey]]  # (system, data set): one per setting
    reranker: StageKey
    tuning_scores: dict[str, list[StageKey]]  # the embedder on dev splits: what the reranker is tuned on
    reranker_choice: StageKey | None  # None: the config says how to rerank
    reranker_evaluation: StageKey
    report: StageKey
    own_reranker: StageKey | None = None  # trained without a teacher, to be one
    teacher: StageKey | None = None
    imitated: StageKey | None = None  # the embedder that ours learns from
    reranker_base: StageKey | None = None  # where the reranker starts from another base model

    def __iter__(self) -> Iterator[StageKey]:
        yield self.base_model
        yield from self.datasets.values()
        yield self.pool
        yield self.negatives
        made = (self.reranker_base, self.own_reranker, self.teacher, self.imitated)
        yield from (key for key in made if key)
        yield self.embedder
        yield from (key for key in self.controls.values() if key != self.imitated)
        yield from self.all_scores()
        yield from (key for keys in self.tuning_scores.values() for key in keys)
        if self.reranker != self.own_reranker:
            yield self.reranker
        if self.reranker_choice:
            yield self.reranker_choice
        yield self.reranker_evaluation
        yield self.report

    def all_scores(self, *systems: str) -> Iterator[StageKey]:
        """On the test splits, model after model; of all systems, or of some."""
        for (system, _), keys in self.scores.items():
            if not systems or system in systems:
                yield from keys


def control_keys(
    config: RunConfig, base: StageKey, negatives: StageKey, taught: StageKey | None
) -> dict[str, StageKey]:
    """The models of ``evaluate.baselines`` that are made or fetched for the comparison alone."""
    wanted = config.evaluate.baselines
    keys: dict[str, StageKey] = {}
    if NO_EXAMPLES in wanted:
        keys[NO_EXAMPLES] = control_key(config, base, negatives, taught)
    if PUBLIC in wanted:
        keys[PUBLIC] = public_embedder_key(config)
    return keys


def scored_models(
    config: RunConfig, base: StageKey, embedder: StageKey, controls: Mapping[str, StageKey]
) -> dict[str, ScoredModel]:
    """What a run compares: the baselines that it asks for, in order, then its embedder."""
    known = {
        BM25: ScoredModel(BM25),
        BASE: ScoredModel(BASE, base.reference),
        BASE_MEAN: ScoredModel(mean_pooled(base.label), base.reference, is_renamed=True, pooling="mean"),
        **{name: ScoredModel(name, key.reference) for name, key in controls.items()},
    }
    models = {name: model for name, model in known.items() if name in config.evaluate.baselines}
    return models | {TRAINED: ScoredModel(TRAINED, embedder.reference)}


def pipeline_keys(config: RunConfig, catalog: Mapping[str, Card]) -> PipelineKeys:
    """All keys of a run."""
    names = dict.fromkeys((*config.data.train, *config.data.evaluate))
    cards = {name: catalog[name] for name in names}
    base = base_model_key(config)
    datasets = {name: dataset_key(config, card) for name, card in cards.items()}
    pool = pool_key(config, cards, datasets)
    negatives = negatives_key(config, base, pool)
    other = base_model_key(config, config.rerank.base) if config.rerank.base else None
    own, teacher = teacher_keys(config, other or base, negatives)
    taught = teacher if config.teacher.embedder else None
    embedder = embedder_key(config, base, negatives, taught)
    controls = control_keys(config, base, negatives, taught)
    models = scored_models(config, base, embedder, controls)
    scores = {
        (system, name): card_scores(config, name, datasets[name], pool, models[system])
        for system in models  # model after model, so that each is loaded once
        for name in config.data.evaluate
        if system != BM25 or cards[name].kind in RANKING_KINDS
    }
    reranker = reranker_key(config, other or base, negatives, teacher if config.teacher.reranker else None)
    tuning = {
        name: card_scores(config, name, datasets[name], pool, models[TRAINED], "dev")
        for name in tuning_sets(config, cards)
    }
    tuned = [key for keys in tuning.values() for key in keys]
    choice = reranker_choice_key(config, reranker, tuned) if tuning else None
    scored = [key for keys in scores.values() for key in keys]
    first = [
        key
        for (system, name), keys in scores.items()
        if system in FIRST_STAGES and cards[name].kind in RANKING_KINDS
        for key in first_stages_of(keys)
    ]
    reranked = reranker_evaluation_key(config, reranker, choice, first)
    inputs = [base, *datasets.values(), pool, negatives, embedder, *controls.values(), *scored, reranker]
    inputs += [*tuned, *([choice] if choice else []), reranked]
    report = report_key(config, inputs)
    return PipelineKeys(
        base_model=base,
        datasets=datasets,
        pool=pool,
        negatives=negatives,
        reranker_base=None if other == base else other,
        own_reranker=own,
        teacher=teacher,
        imitated=public_embedder_key(config) if "teacher-model" in embedder.inputs else None,
        embedder=embedder,
        controls=controls,
        scores=scores,
        reranker=reranker,
        tuning_scores=tuning,
        reranker_choice=choice,
        reranker_evaluation=reranked,
        report=report,
    )
