"""The model that a job trains: what is loaded, what is trained, and what is published."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from icl_embed.config import TrainConfig
from icl_embed.errors import TrainingError
from icl_embed.model.backbone import load_backbone
from icl_embed.model.cpu.adapted import join_adapters
from icl_embed.model.cpu.kernels import speed_up_frozen
from icl_embed.model.demonstrations import add_demonstrations, take_demonstrations
from icl_embed.model.embedder import Embedder
from icl_embed.model.lora import (
    ADAPTER_FOLDER,
    attach,
    load_adapter,
    load_four_bit,
    merge,
    move_adapter,
    save_adapter,
)
from icl_embed.model.settings import add_special_tokens, write_settings
from icl_embed.train.distributed import Place
from icl_embed.train.embedder.snapshots import BEST, SNAPSHOTS, snapshot_folder
from icl_embed.train.embedder.start import start_from
from icl_embed.train.engine import partitioned_loading, whole_weights
from icl_embed.train.job import EmbedderJob


@dataclass(frozen=True)
class TrainedModel:
    """An embedder in training, and what is needed to publish it."""

    job: EmbedderJob
    embedder: Embedder
    trained_tokens: Sequence[int]
    is_partitioned: bool = False  # over the ranks: its frozen weights are never whole on a device

    def publish(self, place: Place, instead: Path | None = None) -> None:
        """Write weights, tokenizer and settings as a model folder; every rank must call it.

        Parameters
            instead: a folder of weights to publish in place of those in the model.

        Raises
            ModelError: these cannot be read.
        """
        with whole_weights(self.embedder.model, only_trained=self.job.train.tuning == "lora"):
            if place.is_first:
                self._write(place, instead)

    def keep_only(self, steps: Collection[int]) -> None:
        """Drop the ``BEST`` weights of all other steps."""
        kept = {snapshot_folder(self.job.work_dir, step, BEST) for step in steps}
        for folder in (self.job.work_dir / BEST).glob("step-*"):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def snapshot(self, step: int, place: Place, family: str = SNAPSHOTS) -> None:
        """Keep the weights of a step in the work folder until ``publish``; every rank must call it."""
        folder = snapshot_folder(self.job.work_dir, step, family)
        partial = folder.with_name(f"{folder.name}.partial")
        with whole_weights(self.embedder.model, only_trained=self.job.train.tuning == "lora"):
            if place.is_first:
                shutil.rmtree(partial, ignore_errors=True)
                shutil.rmtree(folder, ignore_errors=True)
                self._write_trained(partial)
                partial.rename(folder)

    def _write_trained(self, folder: Path) -> None:
        if self.job.train.tuning == "lora":
            save_adapter(self.embedder.model, folder)
        else:
            self.embedder.model.save_pretrained(folder)
            self.embedder.tokenizer.save_pretrained(folder)

    def _write(self, place: Place, instead: Path | None) -> None:
        job, model = self.job, self.embedder.model
        if job.settings.template.demonstrations:
            take_demonstrations(model, job.out_dir)
        if instead is not None and job.train.tuning == "full":
            model, _ = load_backbone(instead, device=place.device, dtype=place.dtype)
        if job.train.tuning == "lora":
            if instead is not None:
                load_adapter(model, instead)
            save_adapter(model, job.out_dir / ADAPTER_FOLDER)
            elsewhere = job.train.four_bit_base or self.is_partitioned
            model = merge(self._on_full_base(place.dtype) if elsewhere else model)
        model.save_pretrained(job.out_dir)
        self.embedder.tokenizer.save_pretrained(job.out_dir)
        write_settings(job.out_dir, job.settings)
        if (job.work_dir / SNAPSHOTS).is_dir():
            shutil.copytree(job.work_dir / SNAPSHOTS, job.out_dir / SNAPSHOTS)

    def _on_full_base(self, dtype: torch.dtype) -> Any:
        """The adapters on the base they will be used with, where training had it in 4 bits or in pieces."""
        base, tokenizer = load_backbone(self.job.model_dir, device=torch.device("cpu"), dtype=dtype)
        if self.trained_tokens:
            add_special_tokens(base, tokenizer)
        return move_adapter(
            self.embedder.model, base, self.job.train.lora, trained_tokens=self.trained_tokens
        )


def load_for_training(job: EmbedderJob, place: Place) -> TrainedModel:
    """Load the base model and prepare it as the job says.

    Raises
        ModelError: the folder cannot be loaded, or the model cannot be tuned that way.
        TrainingError: an option that this model does not have, or an adapter that does not fit.
        ConfigError: there is no adapter to start from.
    """
    train = job.train
    with partitioned_loading(train.optimizer, place) as is_partitioned:
        load = load_four_bit if train.four_bit_base else load_backbone
        model, tokenizer = load(job.model_dir, device=place.device, dtype=place.dtype)
        whole = partial(whole_weights, changed=True)
        tokens = add_special_tokens(model, tokenizer, whole) if job.settings.template.special_tokens else []
    if train.activation_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise TrainingError(
                f"{type(model).__name__} cannot recompute activations; "
                "set train.activation_checkpointing = false"
            )
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if job.settings.template.demonstrations:
        _refuse_beside_demonstrations(train)
        with whole_weights(model.get_input_embeddings()):
            add_demonstrations(model)
    if train.tuning == "lora":
        speed_up_frozen(model)
        with whole_weights(model.get_input_embeddings()):  # the tokens' rows start as they are there
            model = attach(model, train.lora, seed=job.seed, trained_tokens=tokens)
        if train.start_from is not None:
            start_from(model, train.start_from)
        if not train.optimizer.spreads_weights:  # joined layers are not called
            join_adapters(model)
    if job.settings.template.demonstrations:
        model.demonstrations.requires_grad_(True)  # adapters freeze everything else
    settings = job.settings.model_copy(update={"prompt": train.prompt})
    embedder = Embedder(model, tokenizer, settings)
    embedder.model.train()
    return TrainedModel(job, embedder, tokens, is_partitioned)


def _refuse_beside_demonstrations(train: TrainConfig) -> None:
    """Raises TrainingError for options that would lose the demonstration embeddings."""
    if train.snapshot_every:
        raise TrainingError("train.snapshot_every does not keep demonstration embeddings; set it to 0")
    if train.start_from is not None:
        raise TrainingError("an adapter has no demonstration embeddings; leave train.start_from out")
    if train.dev.keep == "best":
        raise TrainingError("train.dev.keep = 'best' does not keep demonstration embeddings; use 'last'")
