"""The one door to DeepSpeed: wrap a model, step it, save it, load it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from icl_embed.config import OptimizerConfig
from icl_embed.errors import TrainingError
from icl_embed.train.place import Place

TAG = "state"


class Engine:
    """A model under DeepSpeed's ZeRO optimizer.

    DeepSpeed averages gradients over ranks; our losses are written so that their *sum* over ranks is the
    global loss, so ``backward`` multiplies by the number of ranks.
    """

    def __init__(self, model: torch.nn.Module, config: OptimizerConfig, place: Place) -> None:
        _settle_environment(place)
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            raise TrainingError("the model has no trainable parameter; check train.lora.targets")
        optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
        self._world_size = place.world_size
        self._engine, *_ = deepspeed.initialize(
            model=model,
            model_parameters=trained,
            optimizer=optimizer,
            config=_settings(config, place),
            dist_init_required=False,
        )

    def backward(self, loss: torch.Tensor) -> None:
        """Back-propagate this rank's share of the loss."""
        self._engine.backward(loss * self._world_size)

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the global gradient norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def save(self, folder: Path) -> None:
        """Write trainable weights and optimizer state; every rank must call it."""
        self._engine.save_checkpoint(
            str(folder), tag=TAG, client_state={}, save_latest=False, exclude_frozen_parameters=True
        )

    def load(self, folder: Path) -> None:
        """Restore what ``save`` wrote, with the same number of ranks.

        DeepSpeed reads its own checkpoints as pickles: the caller verifies the folder's manifest first.

        Raises
            TrainingError: DeepSpeed found nothing to load (it only warns, and would train from scratch).
        """
        loaded, _ = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        if loaded is None:
            raise TrainingError(f"no state could be read from the checkpoint {folder}")


def _settings(config: OptimizerConfig, place: Place) -> dict[str, Any]:
    return {
        # One micro-batch per step: our batches are built by hand, this only satisfies DeepSpeed's arithmetic.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": place.dtype == torch.bfloat16},
        # Sums over ranks in bf16 would lose what fp32 keeps; LoRA gradients are small enough to send whole.
        "communication_data_type": "fp32",
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def _settle_environment(place: Place) -> None:
    """DeepSpeed guesses its accelerator from the environment; tell it instead."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if place.device.type == "cuda" else "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
