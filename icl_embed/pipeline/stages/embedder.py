"""Stage ``embedder``: the contrastive training, and ``checkpoint``: the model after an earlier step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_embed.config import RunConfig, TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.model.dtype import name_dtype
from icl_embed.model.settings import EmbedderSettings
from icl_embed.pipeline.stages.training_jobs import (
    NO_RESULT,
    OnLine,
    common_settings,
    run_job,
    training_inputs,
    with_checkpointing,
)
from icl_embed.store import StageKey
from icl_embed.train.job import EmbedderJob

if TYPE_CHECKING:
    from icl_embed.pipeline.run import Run


STAGE, VERSION = "embedder", 4
CHECKPOINT, CHECKPOINT_VERSION = "checkpoint", 1


def embedder_key(
    config: RunConfig, base: StageKey, negatives: StageKey, teacher: StageKey | None = None
) -> StageKey:
    """The trained embedder; with a teacher, distilled from its scores."""
    settings = {
        "train": config.train.model_dump(mode="json", exclude=NO_RESULT | {"tokenizer_workers": True}),
        "embedder": embedder_settings(config).model_dump(mode="json"),
        "dtype": name_dtype(config.model.dtype),
        "seed": config.seed,
    }
    if not config.train.cross_device_negatives:
        settings["ranks"] = config.train.ranks  # each rank then has its own negatives
    return StageKey(STAGE, VERSION, settings, training_inputs(base, negatives, teacher), config.preset)


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
    train = TrainConfig(
        **{
            **key.settings["train"],
            "launch": run.config.train.launch,
            "tokenizer_workers": run.config.train.tokenizer_workers,
            "optimizer": with_checkpointing(key.settings["train"]["optimizer"], run.config.train.optimizer),
        }
    )
    job = EmbedderJob(
        **common_settings(run, key, out_dir),
        train=train,
        settings=EmbedderSettings(**key.settings["embedder"]),
    )
    counts = run_job("icl_embed.train.embedder", job, train.launch, on_line)
    if train.examples.wanted and not counts["examples_used"]:
        raise TrainingError(
            "no query saw a single example during training although train.examples asks for up to "
            f"{train.examples.wanted}; raise the prompt's token budgets"
        )
    return counts


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
