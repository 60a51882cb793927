"""Stage ``score``: one model on one task in one setting, for own cards and benchmarks alike."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import EngineConfig, EvaluateConfig, Pooling, PromptConfig, RunConfig
from icl_embed.evaluation.request import ScoredModel, ScoreRequest
from icl_embed.evaluation.scores import BM25, STAGE
from icl_embed.evaluation.tasks.rows import PREFIX
from icl_embed.examples import ExampleSet
from icl_embed.experiments.corruptions import off_task
from icl_embed.few_shot.settings import AskedSetting, main_settings, placebo_setting, settings_of_run
from icl_embed.few_shot.sources import ExampleSource, Offered, offer_examples
from icl_embed.model.dtype import name_dtype
from icl_embed.pipeline.stages.task_data import places_of, task_names_of
from icl_embed.pool.examples import eligible_examples
from icl_embed.store import StageKey, Store

if TYPE_CHECKING:
    from icl_embed.evaluation.models import OpenedModel, SecondStage
    from icl_embed.pipeline.run import Run

BASE, TRAINED = "base", "trained"  # what a run calls its models
BASE_MEAN, NO_EXAMPLES, PUBLIC = "base_mean", "no_examples", "public"


def mean_pooled(label: str) -> str:
    """What tables call a base model that is pooled by the mean of its tokens."""
    return f"{label} mean-pooled"


__all__ = ["BASE", "STAGE", "TRAINED", "ScoredModel", "Scoring", "build_score", "card_scores", "scorings_of"]


@dataclass(frozen=True)
class Scoring:
    """One task: its data, which must be there first, and every model on it in every setting."""

    task: str
    data: StageKey
    scores: tuple[StageKey, ...]


def scorings_of(run: Run, models: Sequence[ScoredModel]) -> list[Scoring]:
    """All scores of a run's ``evaluate.tasks``; own cards among them are asked as ``data.evaluate`` is.

    Raises
        ConfigError: an unknown task or card.
    """
    from icl_embed.evaluation.tasks.fetched import digest_of, task_data_key
    from icl_embed.pipeline.stages.training_data import dataset_key

    config, found = run.config, []
    files = config.evaluate.example_files
    examples = {"source": ExampleSource(files), "example_files": digest_of(files) if files else ""}
    for name in task_names_of(config.evaluate, run.store):
        if name.startswith(PREFIX):
            card = run.card(name.removeprefix(PREFIX))
            data = run.keys.datasets.get(card.name) or dataset_key(config, card)
            keys = [card_scores(config, card.name, data, run.keys.pool, model) for model in models]
        else:
            data = task_data_key(name, places_of(config.evaluate, run.store))
            asked = settings_of_run(config.evaluate)
            keys = [_score_keys(config, name, data, model, asked, **examples) for model in models]
        found.append(Scoring(name, data, tuple(key for mine in keys for key in mine)))
    return found


def card_scores(
    config: RunConfig, card: str, data: StageKey, pool: StageKey, model: ScoredModel, split: str = "test"
) -> list[StageKey]:
    """A model on an own card: on test in every setting, on dev in the two that choices are made by.

    Its examples come from the pool.
    """
    is_test, task = split == "test", f"{PREFIX}{card}"
    asked = settings_of_run(config.evaluate) if is_test else main_settings(config.evaluate)
    keys = _score_keys(config, task, data, model, asked, split=split, pool=pool.reference)
    if not (config.evaluate.placebo and is_test and model.name == TRAINED):
        return keys
    others = sorted(name for name in config.data.train if name != card)
    placebo = random.Random(f"{config.seed}:{card}:placebo").choice(others) if others else ""
    asked = [placebo_setting(config.evaluate)]
    more = _score_keys(config, task, data, model, asked, split=split, pool=pool.reference, placebo=placebo)
    return [*keys, *(more if placebo else [])]


def first_stages_of(scores: Sequence[StageKey]) -> list[StageKey]:
    """Of a model's scores on one task those that a reranker may start from: without examples, and with most.

    The latter is missing where a task has no examples. Of several draws it is the first; a placebo is none.
    """

    def shots(key: StageKey) -> int:
        return int(key.settings.get("asked", {}).get("shots", 0))

    clean = [key for key in scores if "placebo" not in key.settings.get("examples", {})]
    most = max(clean, key=shots)  # the first of equals
    return [key for key in clean if not shots(key) or key is most]


def _score_keys(
    config: RunConfig,
    task: str,
    data: StageKey,
    model: ScoredModel,
    settings: Sequence[AskedSetting],
    **more: Any,
) -> list[StageKey]:
    """A model on a task in every setting; BM25 is asked in none. ``more`` says where examples come from."""
    asked: Sequence[AskedSetting | None] = [None] if model.name == BM25 else settings
    if model.name == PUBLIC:  # it takes no examples
        asked = [one for one in settings if not one.shots]
    dtype = name_dtype(config.model.dtype)
    return [
        ScoreRequest(
            data.reference, task, model, one, config.evaluate, dtype=dtype, seed=config.seed, **more
        ).key
        for one in asked
    ]


def build_score(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Measure; where the task or the model cannot be asked so, the artefact says why.

    Raises
        EvaluationError: the data or a vector cannot be used, or an example leaks.
        ModelError: the model cannot be loaded.
    """
    from icl_embed.evaluation.asking import plan_setting
    from icl_embed.evaluation.grid import vectors_of
    from icl_embed.evaluation.models import open_model
    from icl_embed.evaluation.score import Cell
    from icl_embed.evaluation.tasks.fetched import open_stored
    from icl_embed.model.cached_encoding import CachingEncoder

    settings, seed = key.settings, key.settings["seed"]
    config = _config_of(run.config.evaluate, settings)
    places = places_of(config, run.store, settings.get("split"))
    task = open_stored(run.input(key, "dataset" if "dataset" in key.inputs else "task-data"), places)
    instruction = task.facts.instruction
    asks_bm25 = "asked" not in settings
    model = (
        open_model(BM25, run.store, prompt=config.prompt) if asks_bm25 else _model(run, key, config.prompt)
    )
    if "reranker" in settings:
        model = replace(model, second=_reranker(run, key))

    def encoder() -> CachingEncoder:
        vectors = vectors_of(model, run.store, settings.get("code", {}).get("source", ""))
        return CachingEncoder(model.encoder, config.batch_tokens, store=vectors)

    if asks_bm25:
        return Cell(model, task, None, None, instruction, config, seed).measure_or_say(out_dir, encoder)
    asked = AskedSetting(**settings["asked"])
    pool = run.input(key, "pool").path if "pool" in key.inputs else None
    source = ExampleSource(None if pool else config.example_files, pool)
    offered = offer_examples(task, source) if asked.shots else None
    placebo = settings.get("examples", {}).get("placebo")
    plan = plan_setting(
        asked,
        task,
        offered,
        instruction=instruction,
        config=config,
        source=source,
        change=Placebo(pool, placebo) if pool and placebo else None,
    )
    return Cell(model, task, plan, offered, instruction, config, seed).measure_or_say(out_dir, encoder)


@dataclass(frozen=True)
class Placebo:
    """As many examples of another data set of the pool."""

    pool: Path
    dataset: str

    def __call__(self, examples: ExampleSet, _offered: Offered, asked: AskedSetting) -> ExampleSet:
        return off_task(examples, eligible_examples(self.pool, self.dataset), asked.seed)


def _model(run: Run, key: StageKey, prompt: PromptConfig) -> OpenedModel:
    dtype, named = key.settings["dtype"], key.settings["model"]
    if "model" in key.inputs:
        name, pooling = named.get("name", ""), named.get("pooling")
        return opened(
            run.input(key, "model").path, run.store.root, prompt, dtype, name, run.config.engine, pooling
        )
    folder = run.folders[named["fingerprint"]]
    return opened(folder, run.store.root, prompt, dtype, named["name"], run.config.engine)


@lru_cache(maxsize=1)
def opened(
    folder: Path,
    store: Path,
    prompt: PromptConfig,
    dtype: str,
    name: str,
    engine: EngineConfig,
    pooling: Pooling | None = None,
) -> OpenedModel:
    """A model, kept until another is asked for: the scores of one model follow each other."""
    from icl_embed.evaluation.models import open_model

    return open_model(
        str(folder), Store(store), prompt=prompt, dtype=dtype, name=name, pooling=pooling, engine=engine
    )


def _reranker(run: Run, key: StageKey) -> SecondStage:
    from icl_embed.evaluation.reranker.tuning import CHOICE_NAME

    asked = key.settings["reranker"]
    own = asked.get("fingerprint")
    folder = run.folders[own] if own else run.input(key, "reranker").path
    choice = run.input(key, "choice").path / CHOICE_NAME if "choice" in key.inputs else None
    return opened_reranker(folder, choice, run.store.root, asked["top_k"], asked["dtype"], run.config.engine)


@lru_cache(maxsize=1)
def opened_reranker(
    folder: Path, choice: Path | None, store: Path, top_k: int, dtype: str, engine: EngineConfig
) -> SecondStage:
    """A reranker, kept until another is asked for."""
    from icl_embed.evaluation.models import open_second_stage

    return open_second_stage(
        str(folder), Store(store), choice=choice, top_k=top_k, device="auto", dtype=dtype, engine=engine
    )


def _config_of(mine: EvaluateConfig, settings: Mapping[str, Any]) -> EvaluateConfig:
    """The evaluation as the key has it; where mirrors and example files lie is this machine's business."""
    named = {**settings, **settings.get("examples", {})}
    hashed = {name: named[name] for name in ("prompt", "selection") if name in named}
    return EvaluateConfig.model_validate(mine.model_dump() | settings["evaluate"] | hashed)
