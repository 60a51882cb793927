"""The key of every stage, computed from the config, and from what is in the model folders that it names.

A key holds exactly what the stage reads. Raise a stage's version when its code changes what it produces.
Paths, numbers of processes and checkpoint intervals are left out: they do not change a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from icl_embed.config import RANKING_KINDS, RunConfig
from icl_embed.errors import ConfigError
from icl_embed.model.settings import EmbedderSettings
from icl_embed.pipeline.base_model import base_model_key
from icl_embed.pipeline.key_parts import NO_RESULT, dump, make_key
from icl_embed.pipeline.reranking_keys import reranker_choice_key, reranker_evaluation_key, tuning_sets
from icl_embed.sources.card import Card
from icl_embed.store import StageKey


@dataclass(frozen=True)
class PipelineKeys:
    """The keys of one run, in the order in which stages can be built."""

    base_model: StageKey
    datasets: dict[str, StageKey]
    pool: StageKey
    negatives: StageKey
    embedder: StageKey
    evaluations: dict[tuple[str, str], StageKey]  # (system, data set)
    reranker: StageKey
    tuning_evaluations: dict[str, StageKey]  # the embedder on dev splits: what the reranker is tuned on
    reranker_choice: StageKey | None  # None: the config says how to rerank
    reranker_evaluation: StageKey
    report: StageKey
    own_reranker: StageKey | None = None  # trained without a teacher, to be one
    teacher: StageKey | None = None

    def __iter__(self) -> Iterator[StageKey]:
        yield self.base_model
        yield from self.datasets.values()
        yield self.pool
        yield self.negatives
        yield from (key for key in (self.own_reranker, self.teacher) if key)
        yield self.embedder
        yield from self.evaluations.values()
        if self.reranker != self.own_reranker:
            yield self.reranker
        yield from self.tuning_evaluations.values()
        if self.reranker_choice:
            yield self.reranker_choice
        yield self.reranker_evaluation
        yield self.report


def pipeline_keys(config: RunConfig, catalog: Mapping[str, Card]) -> PipelineKeys:
    """All keys of a run."""
    names = dict.fromkeys((*config.data.train, *config.data.evaluate))
    cards = {name: catalog[name] for name in names}
    base = base_model_key(config)
    datasets = {name: dataset_key(config, card) for name, card in cards.items()}
    pool = pool_key(config, cards, datasets)
    negatives = negatives_key(config, base, pool)
    own, teacher = teacher_keys(config, base, negatives)
    embedder = embedder_key(config, base, negatives, teacher if config.teacher.embedder else None)
    systems = {"bm25": None, "base": base, "trained": embedder}
    wanted = [name for name in systems if name == "trained" or name in config.evaluate.baselines]
    evaluations = {
        (system, name): evaluation_key(config, system, systems[system], cards[name], datasets[name], pool)
        for name in config.data.evaluate
        for system in wanted
        if system != "bm25" or cards[name].kind in RANKING_KINDS
    }
    reranker = reranker_key(config, base, negatives, teacher if config.teacher.reranker else None)
    tuning = {
        name: evaluation_key(config, "trained", embedder, cards[name], datasets[name], pool, split="dev")
        for name in tuning_sets(config, cards)
    }
    choice = reranker_choice_key(config, reranker, tuning) if tuning else None
    reranked = reranker_evaluation_key(config, cards, reranker, choice, evaluations)
    inputs = [base, *datasets.values(), pool, negatives, embedder, *evaluations.values(), reranker]
    inputs += [*tuning.values(), *([choice] if choice else []), reranked]
    report = make_key(
        "report",
        {"config": dump(config, {"paths": True, "teacher": {"folder"}, "model": _where(config)})},
        {_role(config, key): key.reference for key in inputs},
        label=config.preset,
    )
    return PipelineKeys(
        base_model=base,
        datasets=datasets,
        pool=pool,
        negatives=negatives,
        own_reranker=own,
        teacher=teacher,
        embedder=embedder,
        evaluations=evaluations,
        reranker=reranker,
        tuning_evaluations=tuning,
        reranker_choice=choice,
        reranker_evaluation=reranked,
        report=report,
    )


def _where(config: RunConfig) -> set[str]:
    """What says only where a model lies; the base model's key knows what it is."""
    return {"name", "version", "filename", "sha256", "member"} if config.model.source == "local" else set()


def _role(config: RunConfig, key: StageKey) -> str:
    """What a stage is to the report; the name of a local folder is no part of it."""
    is_folder = key.stage == "base-model" and config.model.source == "local"
    return key.stage if is_folder else f"{key.stage}:{key.label}"


def dataset_key(config: RunConfig, card: Card) -> StageKey:
    """Rows of one card: its content-deciding part and the size caps."""
    caps = dump(config.data, {"train": True, "evaluate": True})
    return make_key("dataset", {"card": card.settings(), "caps": caps}, label=card.name)


def pool_key(config: RunConfig, cards: Mapping[str, Card], datasets: Mapping[str, StageKey]) -> StageKey:
    """The pool: every data set, which of them are trained on, and the cleaning rules."""
    trained = sorted(name for name in cards if name in config.data.train)
    settings = {"pool": dump(config.pool), "trained": trained, "seed": config.seed}
    return make_key(
        "pool", settings, {name: key.reference for name, key in datasets.items()}, label=config.preset
    )


def negatives_key(config: RunConfig, base: StageKey, pool: StageKey) -> StageKey:
    """Mined negatives; the base model is an input only when it is used."""
    inputs = {"pool": pool.reference}
    if "dense" in config.negatives.methods:
        inputs["base-model"] = base.reference
    return make_key(
        "negatives", {"negatives": dump(config.negatives), "seed": config.seed}, inputs, label=config.preset
    )


def teacher_keys(
    config: RunConfig, base: StageKey, negatives: StageKey
) -> tuple[StageKey | None, StageKey | None]:
    """The run's own reranker where that is the teacher, and the scores of the training pairs, if any.

    A folder is known by what it holds, not by its path.

    Raises
        ConfigError: the folder does not exist.
    """
    from icl_embed.model.fingerprints import folder_fingerprint

    if config.teacher.source == "none":
        return None, None
    own = reranker_key(config, base, negatives) if config.teacher.source == "own" else None
    folder, inputs = config.teacher.folder, {"negatives": negatives.reference}
    if own is not None:
        inputs["reranker"] = own.reference
    if folder is not None and not folder.is_dir():
        raise ConfigError(
            f"teacher.folder is {folder}, which does not exist; name the teacher's model folder"
        )
    settings = {
        "teacher": dump(config.teacher, {"folder", "reranker", "embedder"}),
        "model": folder_fingerprint(folder) if folder is not None else "",
        "max_tokens": config.rerank.max_tokens,
        "dtype": config.model.dtype,
    }
    return own, make_key("teacher-scores", settings, inputs, label=config.preset)


def embedder_key(
    config: RunConfig, base: StageKey, negatives: StageKey, teacher: StageKey | None = None
) -> StageKey:
    """The trained embedder; with a teacher, distilled from its scores."""
    settings = {
        "train": dump(config.train, {**NO_RESULT, "tokenizer_workers": True}),
        "embedder": embedder_settings(config).model_dump(mode="json"),
        "dtype": config.model.dtype,
        "seed": config.seed,
    }
    if not config.train.cross_device_negatives:
        settings["ranks"] = config.train.ranks  # each rank then has its own negatives
    return make_key("embedder", settings, _training_inputs(base, negatives, teacher), label=config.preset)


def evaluation_key(
    config: RunConfig,
    system: str,
    model: StageKey | None,
    card: Card,
    dataset: StageKey,
    pool: StageKey,
    *,
    split: Literal["test", "dev"] = "test",
) -> StageKey:
    """Scores of one system on one data set; BM25 has no model and sees no examples."""
    inputs = {"dataset": dataset.reference}
    if model is not None:
        inputs |= {"model": model.reference, "pool": pool.reference}
    settings = {
        "system": system,
        "dataset": card.name,
        "split": split,
        "evaluate": dump(config.evaluate, {"baselines": True}),
        "trained_on": card.name in config.data.train,
        "dtype": config.model.dtype,
        "seed": config.seed,
    }
    label = f"{system} on {card.name}" + (" dev" if split == "dev" else "")
    return make_key("evaluation", settings, inputs, label=label)


def reranker_key(
    config: RunConfig, base: StageKey, negatives: StageKey, teacher: StageKey | None = None
) -> StageKey:
    """The reranker; with a teacher, distilled from its scores as well as from itself."""
    read_later = {"top_k": True, "max_queries": True, "cutoff_layer": True, "tune": True}
    settings = {
        "rerank": dump(config.rerank, {**NO_RESULT, **read_later}),
        "dtype": config.model.dtype,
        "seed": config.seed,
    }
    return make_key("reranker", settings, _training_inputs(base, negatives, teacher), label=config.preset)


def _training_inputs(base: StageKey, negatives: StageKey, teacher: StageKey | None) -> dict[str, str]:
    inputs = {"base-model": base.reference, "negatives": negatives.reference}
    return inputs if teacher is None else inputs | {"teacher": teacher.reference}


def embedder_settings(config: RunConfig) -> EmbedderSettings:
    """How the trained embedder will be used: evaluation budgets, training's attention and pooling."""
    return EmbedderSettings(
        attention=config.model.attention,
        pooling=config.model.pooling,
        template=config.model.template,
        prompt=config.evaluate.prompt,
    )
