"""Stage ``embedder``: the contrastive training; ``control``: the same without examples; ``checkpoint``: the
model after an earlier step.

A gain of few-shot over zero-shot may be a loss of zero-shot: the control tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import ExamplesConfig, RunConfig, TeacherConfig, TrainConfig, identity, restored
from icl_embed.errors import TrainingError
from icl_embed.model.dtype import name_dtype
from icl_embed.model.settings import EmbedderSettings
from icl_embed.pipeline.stages.public_embedder import public_embedder_key
from icl_embed.pipeline.stages.teacher_scores import content_of
from icl_embed.pipeline.stages.training_jobs import (
    OnLine,
    common_settings,
    run_job,
    training_inputs,
)
from icl_embed.store import StageKey
from icl_embed.store.manifest import MANIFEST_NAME, read_manifest
from icl_embed.train.embedder.published import read_published
from icl_embed.train.embedder.start import adapter_fingerprint, find_adapter
from icl_embed.train.job import DevSource, EmbedderJob

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run


STAGE, VERSION = "embedder", 4
CONTROL, CONTROL_VERSION = "control", 1
CHECKPOINT, CHECKPOINT_VERSION = "checkpoint", 1


def embedder_key(
    config: RunConfig, base: StageKey, negatives: StageKey, teacher: StageKey | None = None
) -> StageKey:
    """The trained embedder; with a teacher, distilled from its scores or its vectors.

    Raises
        ConfigError: the folder of a teacher does not exist, or there is no adapter to start from.
    """
    settings = {
        "train": identity(config.train),
        "embedder": embedder_settings(config).model_dump(mode="json"),
        "dtype": name_dtype(config.model.dtype),
        "seed": config.seed if config.train.seed is None else config.train.seed,
    }
    if not config.train.cross_device_negatives:
        settings["ranks"] = config.train.ranks  # each rank then has its own negatives
    if config.train.start_from is not None:
        settings["start_from"] = adapter_fingerprint(config.train.start_from)
    inputs = training_inputs(base, negatives, teacher)
    if config.teacher.source == "embedder":
        told = config.teacher.model_dump(mode="json", include={"kinds", "temperature"})
        if config.teacher.folder is None:
            inputs["teacher-model"] = public_embedder_key(config).reference
        else:
            told["model"] = content_of(config.teacher.folder)
        settings["teacher"] = told
    return StageKey(STAGE, VERSION, settings, inputs, config.preset)


def control_key(
    config: RunConfig, base: StageKey, negatives: StageKey, teacher: StageKey | None = None
) -> StageKey:
    """The embedder of a run, trained as it is but for the examples: the same data, steps and seed.

    It is a stage of its own so that nothing ever takes it for the newest embedder.
    """
    train = config.train.model_copy(update={"examples": ExamplesConfig(mode="none")})
    key = embedder_key(config.model_copy(update={"train": train}), base, negatives, teacher)
    return replace(key, stage=CONTROL, version=CONTROL_VERSION, label=f"{key.label} without examples")


def embedder_settings(config: RunConfig) -> EmbedderSettings:
    """How the trained embedder is published: its budgets, training's attention and pooling."""
    return EmbedderSettings(
        attention=config.model.attention,
        pooling=config.model.pooling,
        template=config.model.template,
        prompt=config.model.prompt,
    )


def build_embedder(run: Run, key: StageKey, out_dir: Path, on_line: OnLine | None) -> Mapping[str, Any]:
    """Train the embedder in a subprocess; a killed run resumes from its work folder."""
    train = _started(run, key, restored(key.settings["train"], run.config.train))
    job = EmbedderJob(
        **common_settings(run, key, out_dir),
        train=train,
        settings=EmbedderSettings(**key.settings["embedder"]),
        **_imitated(run, key),
        dev_sources=_dev_sources(run, key) if train.dev.every else (),
    )
    counts = run_job("icl_embed.train.embedder", job, train.launch, on_line)
    if train.examples.wanted and not counts["examples_used"]:
        raise TrainingError(
            "no query saw a single example during training although train.examples asks for up to "
            f"{train.examples.wanted}; raise the prompt's token budgets"
        )
    return {**counts, **read_published(out_dir)}


def _started(run: Run, key: StageKey, train: TrainConfig) -> TrainConfig:
    """With the adapter to start from where this run has it, if the key knows one.

    Raises
        TrainingError: it was trained on another base model, or is another adapter than the key's by now.
    """
    folder = train.start_from
    if folder is None or "start_from" not in key.settings:
        return train.model_copy(update={"start_from": None})
    adapter = find_adapter(folder)
    if adapter_fingerprint(folder) != key.settings["start_from"]:
        raise TrainingError(f"the adapter in {adapter} has changed since this run was planned; plan it again")
    is_artefact = adapter != folder and (folder / MANIFEST_NAME).is_file()
    mine = key.inputs["base-model"]
    base = read_manifest(folder).key["inputs"].get("base-model", mine) if is_artefact else mine
    if base != mine:
        raise TrainingError(
            f"train.start_from: the adapter in {adapter} was trained on {base}, this run's base model is "
            f"{mine}; start from an adapter of the same base, or set model as it was"
        )
    return train.model_copy(update={"start_from": adapter.absolute()})


def _dev_sources(run: Run, key: StageKey) -> tuple[DevSource, ...]:
    """The data sets that the training rows come from; the pool knows them, and the key knows the pool."""
    negatives = StageKey(**run.input(key, "negatives").manifest.key)
    pool = StageKey(**run.input(negatives, "pool").manifest.key)
    found = []
    for name in pool.settings["trained"]:
        dataset = run.input(pool, name)
        card = dataset.manifest.key["settings"]["card"]
        found.append(
            DevSource(
                name=name,
                kind=card["kind"],
                instruction=card["instruction"],
                folder=dataset.path.absolute(),
            )
        )
    return tuple(found)


def _imitated(run: Run, key: StageKey) -> dict[str, Any]:
    """The embedder that is learned from; a folder is known by its content, and lies where this run says."""
    if "teacher" not in key.settings:
        return {}
    told = {name: key.settings["teacher"][name] for name in ("kinds", "temperature")}
    has_artefact = "teacher-model" in key.inputs
    folder = run.input(key, "teacher-model").path if has_artefact else run.config.teacher.folder
    teacher = TeacherConfig(source="embedder", embedder=True, reranker=False, **told)
    return {"teacher_model": folder and folder.absolute(), "teacher": teacher}


def checkpoint_key(run: Run, step: int) -> StageKey:
    """The model after an earlier step that training kept."""
    trained = run.keys.embedder
    settings = {name: trained.settings[name] for name in ("train", "embedder", "dtype")} | {"step": step}
    inputs = {"embedder": trained.reference, "base-model": trained.inputs["base-model"]}
    return StageKey(CHECKPOINT, CHECKPOINT_VERSION, settings, inputs, f"{trained.label} step {step}")


def build_checkpoint_model(run: Run, key: StageKey, out_dir: Path) -> Mapping[str, Any]:
    """The model folder of an earlier step."""
    from icl_embed.train.embedder.snapshots import build_checkpoint, snapshot_folder

    step = key.settings["step"]
    build_checkpoint(
        run.input(key, "base-model").path,
        snapshot_folder(run.input(key, "embedder").path, step),
        out_dir,
        train=TrainConfig(**key.settings["train"]),
        settings=EmbedderSettings(**key.settings["embedder"]),
        dtype=key.settings["dtype"],
    )
    return {"step": step}
