"""The key of every stage, computed from the config alone.

A key holds exactly what the stage reads. Raise a stage's version when its code changes what it produces.
Paths, numbers of processes and checkpoint intervals are left out: they do not change a result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icl_embed.config import RANKING_KINDS, ModelConfig, RunConfig, Section
from icl_embed.errors import ConfigError, ModelError
from icl_embed.evaluation.request import ScoredModel
from icl_embed.evaluation.scores import BM25
from icl_embed.model.architectures import read_config, refuse_architecture, sliding_window
from icl_embed.model.base import refuse_incomplete
from icl_embed.model.dtype import name_dtype
from icl_embed.model.settings import EmbedderSettings
from icl_embed.pipeline.stages.score import card_scores
from icl_embed.sources.card import Card
from icl_embed.store import StageKey, Store
from icl_embed.store.digests import digests_of
from icl_embed.store.manifest import MANIFEST_NAME

VERSIONS: Mapping[str, int] = {
    "base-model": 1,
    "dataset": 3,
    "pool": 3,
    "negatives": 3,
    "embedder": 4,
    "checkpoint": 1,
    "checkpoint-choice": 1,
    "teacher-scores": 1,
    "reranker": 2,
    "reranker-choice": 2,
    "reranker-evaluation": 3,
    "report": 2,
}

NO_RESULT = {"launch": True, "optimizer": {"save_every", "keep_checkpoints"}}


def make_key(
    stage: str, settings: Mapping[str, Any], inputs: Mapping[str, str] | None = None, *, label: str
) -> StageKey:
    """The key of a stage at its present version."""
    return StageKey(stage, VERSIONS[stage], settings, inputs or {}, label)


def dump(section: Section, exclude: Any = None) -> dict[str, Any]:
    """A config section as JSON types, without what is excluded."""
    return section.model_dump(mode="json", exclude=exclude)


DIGESTS_NAME = ".digests.json"  # in the store
USED_LATER = {"dtype", "attention", "pooling", "template", "prompt"}
READ_SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".jinja"}  # what transformers reads of a folder
OLD_WEIGHTS = ".bin"  # read where there are no others


def base_model_key(config: RunConfig) -> StageKey:
    """The key of the base model: of a package or the hub by its pin, of a folder by what is in it.

    Raises
        ConfigError: the folder does not exist.
        ModelError: it lacks what a model folder has.
    """
    settings = dump(config.model, USED_LATER)
    name = config.model.name
    if config.model.source == "local":
        folder = Path(name)
        settings = {
            "source": "local",
            "content": folder_content(folder, config.paths.store / DIGESTS_NAME),
            "num_layers": config.model.num_layers,
        }
        name = folder.resolve().name
    return make_key("base-model", settings, label=name)


def folder_content(folder: Path, memory: Path) -> str:
    """A hash of all files of a local model folder that loading it reads; their names count, its own does not.

    Raises
        ConfigError, ModelError: as ``base_model_key``.
    """
    _refuse_no_model(folder)
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST_NAME)
    read = [path for path in paths if path.suffix in READ_SUFFIXES]
    if not any(path.suffix == ".safetensors" for path in read):
        read += [path for path in paths if path.suffix == OLD_WEIGHTS]
    lines = [f"{path.name}:{digest}\n" for path, digest in zip(read, digests_of(read, memory), strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _refuse_no_model(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"model.name is {folder}, which is not a folder; name the base model's folder")
    refuse_incomplete(folder)


def settings_of(key: StageKey, mine: ModelConfig) -> ModelConfig:
    """What to fetch: the key's settings; where a folder lies is this machine's business."""
    settings = dict(key.settings)
    if settings.pop("content", None) is not None:
        settings["name"] = mine.name
    return ModelConfig(**settings)


def refuse_changed(config: RunConfig, key: StageKey) -> None:
    """Refuse a local folder that is no longer what its key says.

    Raises
        ModelError: it was changed since the run was planned, perhaps while it was read.
    """
    if key.settings["source"] == "local" and base_model_key(config).settings != key.settings:
        raise ModelError(f"the model folder {config.model.name} changed while the run read it; run again")


def refuse_unfit(config: RunConfig) -> None:
    """Refuse a base model that cannot do what the run asks, as soon as its ``config.json`` is at hand.

    That of a local folder is; that of a package or the hub is once it was fetched (``refuse_unfit_folder``).

    Raises
        ModelError: an architecture that is not supported.
        ConfigError: prompts longer than the model looks back.
    """
    if config.model.source == "local":
        _refuse_no_model(Path(config.model.name))
        refuse_unfit_folder(config, Path(config.model.name))
        return
    key = base_model_key(config)
    folder = Store(config.paths.store).path_of(key.stage, key.fingerprint)
    if (folder / "config.json").is_file():
        refuse_unfit_folder(config, folder)


def refuse_unfit_folder(config: RunConfig, folder: Path) -> None:
    """As ``refuse_unfit``, for a folder that is at hand."""
    description = read_config(folder)
    refuse_architecture(description, config.model.name)
    window = sliding_window(description)
    too_long = [f"{name} = {length}" for name, length in _lengths(config) if window and length > window]
    if too_long:
        raise ConfigError(
            f"{config.model.name} only looks back {window} tokens in some layers (sliding_window), but the "
            f"config allows longer prompts: {', '.join(too_long)}. Set these to at most {window}, or choose "
            "a model without a sliding window"
        )


def _lengths(config: RunConfig) -> Iterator[tuple[str, int]]:
    """Every budget that bounds a sequence, by the name of its setting."""
    prompts = {"model": config.model.prompt, "train": config.train.prompt, "evaluate": config.evaluate.prompt}
    for section, prompt in prompts.items():
        if section != "train" or config.train.examples.wanted:
            yield f"{section}.prompt.total_tokens", prompt.total_tokens
        yield f"{section}.prompt.query_tokens", prompt.query_tokens
        yield f"{section}.prompt.passage_tokens", prompt.passage_tokens
    yield "rerank.max_tokens", config.rerank.max_tokens


BASE, TRAINED = "base", "trained"  # what a run calls its models
FIRST_STAGES = (TRAINED, BM25)  # the systems whose passages are reranked, or compared with


def tuning_sets(config: RunConfig, cards: Mapping[str, Card]) -> list[str]:
    """The data sets whose dev split says how to rerank; none when the config does.

    Raises
        ConfigError: a named data set is not part of the run, or nothing is ranked there.
    """
    tune = config.rerank.tune
    if not tune.enabled:
        return []
    wrong = [name for name in tune.datasets if name not in cards or cards[name].kind not in RANKING_KINDS]
    if wrong:
        raise ConfigError(
            f"rerank.tune.datasets names {', '.join(wrong)}; expected retrieval or reranking sets of "
            "data.train or data.evaluate"
        )
    split_off = [
        name
        for name in config.data.train
        if cards[name].kind in RANKING_KINDS and cards[name].splits.fractions()[1] > 0
    ]
    return list(tune.datasets) or split_off


def reranker_choice_key(config: RunConfig, reranker: StageKey, tuning: Iterable[StageKey]) -> StageKey:
    """The way to rerank that loses little on development queries."""
    left_out = {"max_queries": True, "cutoff_layer": True, "tune": {"enabled", "datasets"}}
    inputs = {"reranker": reranker.reference, **{key.label: key.reference for key in tuning}}
    return make_key("reranker-choice", _measuring(config, left_out), inputs, label=config.preset)


def reranker_evaluation_key(
    config: RunConfig, reranker: StageKey, choice: StageKey | None, first_stages: Iterable[StageKey]
) -> StageKey:
    """The reranked test queries of every ranking task, with BM25 beside them."""
    chosen = {"choice": choice.reference} if choice else {}
    ranked = {key.label: key.reference for key in first_stages}
    inputs = {"reranker": reranker.reference, **chosen, **ranked}
    return make_key("reranker-evaluation", _measuring(config, {"tune": True}), inputs, label=config.preset)


def _measuring(config: RunConfig, left_out: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rerank": dump(config.rerank, {**NO_RESULT, "lora": True, **left_out}),
        "evaluate": {name: getattr(config.evaluate, name) for name in ("bootstrap_resamples", "confidence")},
        "dtype": name_dtype(config.model.dtype),
        "seed": config.seed,
    }


@dataclass(frozen=True)
class PipelineKeys:
    """The keys of one run, in the order in which stages can be built."""

    base_model: StageKey
    datasets: dict[str, StageKey]
    pool: StageKey
    negatives: StageKey
    embedder: StageKey
    scores: dict[tuple[str, str], list[StageKey]]  # (system, data set): one per setting
    reranker: StageKey
    tuning_scores: dict[str, list[StageKey]]  # the embedder on dev splits: what the reranker is tuned on
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
    models = {
        BM25: ScoredModel(BM25),
        BASE: ScoredModel(BASE, base.reference),
        TRAINED: ScoredModel(TRAINED, embedder.reference),
    }
    wanted = [name for name in models if name == TRAINED or name in config.evaluate.baselines]
    scores = {
        (system, name): card_scores(config, name, datasets[name], pool, models[system])
        for system in wanted  # model after model, so that each is loaded once
        for name in config.data.evaluate
        if system != BM25 or cards[name].kind in RANKING_KINDS
    }
    reranker = reranker_key(config, base, negatives, teacher if config.teacher.reranker else None)
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
        for key in keys
    ]
    reranked = reranker_evaluation_key(config, reranker, choice, first)
    inputs = [base, *datasets.values(), pool, negatives, embedder, *scored, reranker]
    inputs += [*tuned, *([choice] if choice else []), reranked]
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
        scores=scores,
        reranker=reranker,
        tuning_scores=tuning,
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
        "dtype": name_dtype(config.model.dtype),
    }
    return own, make_key("teacher-scores", settings, inputs, label=config.preset)


def embedder_key(
    config: RunConfig, base: StageKey, negatives: StageKey, teacher: StageKey | None = None
) -> StageKey:
    """The trained embedder; with a teacher, distilled from its scores."""
    settings = {
        "train": dump(config.train, {**NO_RESULT, "tokenizer_workers": True}),
        "embedder": embedder_settings(config).model_dump(mode="json"),
        "dtype": name_dtype(config.model.dtype),
        "seed": config.seed,
    }
    if not config.train.cross_device_negatives:
        settings["ranks"] = config.train.ranks  # each rank then has its own negatives
    return make_key("embedder", settings, _training_inputs(base, negatives, teacher), label=config.preset)


def reranker_key(
    config: RunConfig, base: StageKey, negatives: StageKey, teacher: StageKey | None = None
) -> StageKey:
    """The reranker; with a teacher, distilled from its scores as well as from itself."""
    read_later = {"top_k": True, "max_queries": True, "cutoff_layer": True, "tune": True}
    settings = {
        "rerank": dump(config.rerank, {**NO_RESULT, **read_later}),
        "dtype": name_dtype(config.model.dtype),
        "seed": config.seed,
    }
    return make_key("reranker", settings, _training_inputs(base, negatives, teacher), label=config.preset)


def _training_inputs(base: StageKey, negatives: StageKey, teacher: StageKey | None) -> dict[str, str]:
    inputs = {"base-model": base.reference, "negatives": negatives.reference}
    return inputs if teacher is None else inputs | {"teacher": teacher.reference}


def embedder_settings(config: RunConfig) -> EmbedderSettings:
    """How the trained embedder is published: its budgets, training's attention and pooling."""
    return EmbedderSettings(
        attention=config.model.attention,
        pooling=config.model.pooling,
        template=config.model.template,
        prompt=config.model.prompt,
    )
