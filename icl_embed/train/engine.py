"""The one door to DeepSpeed: wrap a model, step it, save it, load it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from icl_embed.config import OptimizerConfig
from icl_embed.config.deepspeed import merged
from icl_embed.errors import TrainingError
from icl_embed.launch.worker import beat
from icl_embed.train.distributed import Place

TAG = "state"


class Engine:
    """A model under DeepSpeed's ZeRO optimizer.

    DeepSpeed averages gradients over ranks; our losses are written so that their *sum* over ranks is the
    global loss, so ``backward`` multiplies by the number of ranks.

    Parameters
        rates: as of an objective.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config: OptimizerConfig,
        place: Place,
        rates: Mapping[str, float],
    ) -> None:
        _settle_environment(place)
        import deepspeed

        _avoid_compiling(deepspeed)
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        by_rate = _by_rate(model, rates)
        trained = [parameter for parameters in by_rate.values() for parameter in parameters]
        if not trained:
            raise TrainingError("the model has no trainable parameter; check train.lora.targets")
        self._rates = tuple(by_rate)
        optimizer = torch.optim.AdamW(
            [{"params": parameters} for parameters in by_rate.values()],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self._world_size = place.world_size
        self._zero_stage = config.zero_stage
        self._trained = trained
        with _explained():
            self._engine, *_ = deepspeed.initialize(
                model=model,
                model_parameters=trained,
                optimizer=optimizer,
                config=engine_settings(config, place.dtype),
                dist_init_required=False,
            )

    @property
    def takes_other_ranks(self) -> bool:
        """Whether more or fewer ranks could read what these write: where each holds the whole state."""
        return self._zero_stage == 0

    def backward(self, loss: torch.Tensor, *, is_last: bool = True) -> None:
        """Back-propagate this rank's share of the loss, or of one of the parts that make up an update.

        Gradients of the parts add up. Those of stages 0 and 1 meet the other ranks' with the last part only;
        stages 2 and 3, which keep no whole gradient, exchange each part.
        """
        self._engine.set_gradient_accumulation_boundary(is_last)
        if self._zero_stage == 3:
            # Stage 3 counts the backward passes of an update here, from the engine's own forward, which we do
            # not use. Uncounted, each pass would overwrite the gradients of the one before.
            self._engine.optimizer.clear_backward_seen_flag()
        self._engine.backward(loss * self._world_size)
        beat()

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the global gradient norm before clipping."""
        for group, rate in zip(self._engine.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * learning_rate
        plain = [parameter.grad for parameter in self._trained if parameter.grad is not None]
        own_norm = torch.nn.utils.get_total_norm(plain) if self._zero_stage == 0 and plain else None
        self._engine.step()
        beat()
        norm = self._engine.get_global_grad_norm()
        return float(own_norm if norm is None and own_norm is not None else norm)

    def save(self, folder: Path) -> None:
        """Write trainable weights and optimizer state; every rank must call it."""
        self._engine.save_checkpoint(
            str(folder), tag=TAG, client_state={}, save_latest=False, exclude_frozen_parameters=True
        )

    def load(self, folder: Path) -> None:
        """Restore what ``save`` wrote, with the same number of ranks unless the engine takes others.

        DeepSpeed reads its own checkpoints as pickles: the caller verifies the folder's manifest first.

        Raises
            TrainingError: DeepSpeed found nothing to load (it only warns, and would train from scratch).
        """
        loaded, _ = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        if loaded is None:
            raise TrainingError(f"no state could be read from the checkpoint {folder}")


@contextmanager
def whole_weights(
    model: torch.nn.Module, *, only_trained: bool = False, changed: bool = False
) -> Iterator[None]:
    """Give every rank all weights of a model while the block runs; every rank must enter it.

    Only ZeRO 3 spreads weights over ranks; otherwise this does nothing.

    Parameters
        only_trained: leave the frozen ones, which may be more than a device holds, where they are.
        changed: keep what the first rank writes into them.
    """
    import deepspeed

    parameters = [
        parameter
        for parameter in model.parameters()
        if hasattr(parameter, "ds_id") and (parameter.requires_grad or not only_trained)
    ]
    with deepspeed.zero.GatheredParameters(
        parameters, modifier_rank=0 if changed else None, enabled=bool(parameters)
    ):
        yield


@contextmanager
def partitioned_loading(config: OptimizerConfig, place: Place) -> Iterator[bool]:
    """Under ZeRO 3, spread a model over the ranks while it is read, so that it may be larger than a device.

    Yields whether that is so.
    """
    if config.zero_stage != 3:
        yield False
        return
    _settle_environment(place)
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    told = HfDeepSpeedConfig(
        engine_settings(config, place.dtype)
    )  # transformers holds it by a weak reference
    try:
        yield bool(told)
    finally:
        unset_hf_deepspeed_config()


def _by_rate(model: torch.nn.Module, rates: Mapping[str, float]) -> dict[float, list[torch.nn.Parameter]]:
    """Trainable parameters by how many times the learning rate theirs is."""
    found: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = next((rate for start, rate in rates.items() if name.startswith(start)), 1.0)
            found.setdefault(rate, []).append(parameter)
    return found


def engine_settings(config: OptimizerConfig, dtype: torch.dtype) -> dict[str, Any]:
    """What DeepSpeed is told: our settings, and the user's over them.

    Raises
        TrainingError: the user's want another precision than the model has, or what DeepSpeed gets wrong.
    """
    in_bf16 = dtype == torch.bfloat16
    wants_fp32_sums = config.deepspeed.get("data_types", {}).get("grad_accum_dtype") == "fp32"
    if in_bf16 and wants_fp32_sums and config.zero_stage < 2:
        # DeepSpeed 0.19: stage 0 has no such sum; the optimizer of stage 1 adds every part once more with
        # each part after it (seen in its gradient norms beside those of the other stages).
        raise TrainingError(
            "the DeepSpeed settings say data_types.grad_accum_dtype = 'fp32', which DeepSpeed does not do "
            f"rightly in ZeRO stage {config.zero_stage} in bfloat16: set optimizer.zero_stage = 2"
        )
    asked = config.deepspeed.get("bf16", {}).get("enabled", in_bf16)
    if asked != in_bf16:
        raise TrainingError(
            f"the DeepSpeed settings say bf16.enabled = {asked}, but the model is in {dtype}: set "
            'model.dtype, or take it out of the file (or write "auto")'
        )
    ours: dict[str, Any] = {
        # One micro-batch per step: our batches are built by hand, this only satisfies DeepSpeed's arithmetic.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": in_bf16},
        # Sums over ranks in bf16 would lose what fp32 keeps; LoRA gradients are small enough to send whole.
        "communication_data_type": "fp32",
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # with offload: ours is torch's AdamW, which needs no compiler
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
    if in_bf16 and config.zero_stage > 1:
        # The parts of an update are many (gradient cache): their sum in bf16 would lose the small ones.
        ours["data_types"] = {"grad_accum_dtype": "fp32"}
    return merged(ours, config.deepspeed)


@contextmanager
def _explained() -> Iterator[None]:
    """DeepSpeed's refusal of a setting, as an error of ours."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise TrainingError(
            f"DeepSpeed does not take the settings of optimizer.deepspeed: {wrong}"
        ) from error


def _avoid_compiling(deepspeed: Any) -> None:
    """Keep DeepSpeed from compiling its shared-memory all-reduce when the process group is wrapped.

    Only its tensor-parallel inference calls that operation; training goes through gloo or NCCL. Compiling
    takes a minute, needs a compiler, and is guarded by a file: a process killed meanwhile leaves it behind,
    and every later training of that user would wait for it for ever.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _settle_environment(place: Place) -> None:
    """DeepSpeed guesses its accelerator from the environment; tell it instead."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if place.device.type == "cuda" else "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
