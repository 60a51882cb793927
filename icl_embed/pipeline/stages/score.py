"""Stage ``score``: one model on one benchmark task in one setting."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import EvaluateConfig, PromptConfig
from icl_embed.evaluation.scores import BM25
from icl_embed.few_shot.settings import AskedSetting, settings_of_run
from icl_embed.pipeline.stages.task_data import places_of, task_data_key, task_names_of
from icl_embed.store import StageKey, Store
from icl_embed.store.files import sha256_of

if TYPE_CHECKING:
    from icl_embed.evaluation.models import OpenedModel
    from icl_embed.pipeline.run import Run

STAGE, VERSION = "score", 2


@dataclass(frozen=True)
class ScoredModel:
    """A model as a score's key knows it.

    Attributes
        name: as labels call it.
        reference: its artefact; empty for BM25 and for a folder of the user's own.
        folder, fingerprint: of the user's own folder; the key holds what is in it, not where it lies.
    """

    name: str
    reference: str = ""
    folder: Path | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Scoring:
    """One task: its data, which must be there first, and every model on it in every setting."""

    task: str
    data: StageKey
    scores: tuple[StageKey, ...]


def scorings_of(run: Run, models: Sequence[ScoredModel]) -> list[Scoring]:
    """All scores of a run's benchmark tasks.

    Raises
        ConfigError: an unknown task.
    """
    config = run.config.evaluate
    found = []
    for name in task_names_of(config, run.store):
        data = task_data_key(name, config, run.store)
        keys = [
            score_key(run, name, data, model, asked)
            for model in models
            for asked in (settings_of_run(config) if model.name != BM25 else [None])
        ]
        found.append(Scoring(name, data, tuple(keys)))
    return found


def score_key(
    run: Run, task: str, data: StageKey, model: ScoredModel, asked: AskedSetting | None
) -> StageKey:
    """What decides a score. BM25 is asked in no setting: it has no prompt, examples or number format."""
    config = run.config.evaluate
    counts = ("label_experiments", "cluster_sets", "bootstrap_resamples", "confidence")
    settings: dict[str, Any] = {
        "evaluate": {name: getattr(config, name) for name in counts},
        "mteb": importlib.metadata.version("mteb"),
        "seed": run.config.seed,
    }
    inputs = {"task-data": data.reference}
    if model.reference:
        inputs["model"] = model.reference
    if asked is not None:
        settings |= {"asked": asked.as_json(), "model": model.fingerprint, "dtype": run.config.model.dtype}
        settings["prompt"] = config.prompt.model_dump(mode="json")
    if asked is not None and asked.shots:
        settings["example_files"] = _digest(config.example_files)
        settings["selection"] = config.selection.model_dump(mode="json")
    setting = asked.name if asked else BM25
    return StageKey(STAGE, VERSION, settings, inputs, f"{model.name} on {task}, {setting}")


def build_score(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """Measure; where the task or the model cannot be asked so, the artefact says why.

    Raises
        EvaluationError: the data or a vector cannot be used, or an example leaks.
        ModelError: the model cannot be loaded.
    """
    from icl_embed.evaluation.grid import vectors_of
    from icl_embed.evaluation.models import open_model
    from icl_embed.evaluation.score import Cell
    from icl_embed.evaluation.tasks.fetched import open_fetched
    from icl_embed.few_shot.sources import ExampleSource, offer_examples
    from icl_embed.model.cached_encoding import CachingEncoder

    settings, seed = key.settings, key.settings["seed"]
    config = _config_of(run.config.evaluate, settings)
    task = open_fetched(run.input(key, "task-data").path, places_of(config, run.store))
    instruction = task.facts.instruction
    if "asked" not in settings:
        bm25 = open_model(BM25, run.store, prompt=config.prompt)
        return Cell(bm25, task, None, None, instruction, config, seed).measure_or_say(out_dir, None)
    folder = run.input(key, "model").path if "model" in key.inputs else run.folders[settings["model"]]
    model = opened(folder, run.store.root, config.prompt, settings["dtype"])
    asked = AskedSetting(**settings["asked"])
    source = ExampleSource(config.example_files)
    offered = offer_examples(task, source) if asked.shots else None
    cell = Cell.planned(model, task, asked, offered, instruction, config, source=source, seed=seed)
    encoder = CachingEncoder(model.encoder, config.batch_tokens, store=vectors_of(model, run.store))
    return cell.measure_or_say(out_dir, encoder)


@lru_cache(maxsize=1)
def opened(folder: Path, store: Path, prompt: PromptConfig, dtype: str) -> OpenedModel:
    """A model, kept until another is asked for: the scores of one model follow each other."""
    from icl_embed.evaluation.models import open_model

    return open_model(str(folder), Store(store), prompt=prompt, dtype=dtype)


def _config_of(mine: EvaluateConfig, settings: Mapping[str, Any]) -> EvaluateConfig:
    """The evaluation as the key has it; where mirrors and example files lie is this machine's business."""
    hashed = {name: settings[name] for name in ("prompt", "selection") if name in settings}
    return EvaluateConfig.model_validate(mine.model_dump() | settings["evaluate"] | hashed)


def _digest(path: Path | None) -> str:
    if path is None:
        return ""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    return " ".join(sha256_of(one)[:16] for one in files)
