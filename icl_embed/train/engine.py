"""The one door to DeepSpeed: wrap a model, step it, save it, load it."""

from __future__ import annotations

import io
import logging
import os
import shutil
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
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
        deepspeed = _deepspeed(place)
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
        self._place = place
        self._config = config
        self._trained = trained
        with _explained():
            self._engine, *_ = deepspeed.initialize(
                model=model,
                model_parameters=trained,
                optimizer=optimizer,
                config=engine_settings(config, place.dtype),
                dist_init_required=False,
            )

    def backward(self, loss: torch.Tensor, *, is_last: bool = True) -> None:
        """Back-propagate this rank's share of the loss, or of one of the parts that make up an update.

        Gradients of the parts add up. Those of stages 0 and 1 meet the other ranks' with the last part only;
        stages 2 and 3, which keep no whole gradient, exchange each part.
        """
        self._engine.set_gradient_accumulation_boundary(is_last)
        if self._config.spreads_weights:
            # Stage 3 counts the backward passes of an update here, from the engine's own forward, which we do
            # not use. Uncounted, each pass would overwrite the gradients of the one before.
            self._engine.optimizer.clear_backward_seen_flag()
        self._engine.backward(loss * self._place.world_size)
        beat()

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the global gradient norm before clipping."""
        for group, rate in zip(self._engine.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * learning_rate
        plain = [parameter.grad for parameter in self._trained if parameter.grad is not None]
        own_norm = torch.nn.utils.get_total_norm(plain) if self._config.zero_stage == 0 and plain else None
        self._engine.step()
        beat()
        norm = self._engine.get_global_grad_norm()
        return float(own_norm if norm is None and own_norm is not None else norm)

    def save(self, folder: Path) -> None:
        """Write trainable weights and optimizer state; every rank must call it."""
        self._engine.save_checkpoint(
            str(folder), tag=TAG, client_state={}, save_latest=False, exclude_frozen_parameters=True
        )

    def load(self, folder: Path, *, ranks: int) -> None:
        """Restore what ``save`` wrote; every rank must call it.

        ZeRO 1 to 3 write each rank's part of the state. Another number of ranks has its first one put the
        parts together (DeepSpeed's universal checkpoints), then each takes its own part of them.

        DeepSpeed reads its own checkpoints as pickles: the caller verifies the folder's manifest first.

        Parameters
            ranks: how many wrote it.

        Raises
            TrainingError: DeepSpeed found nothing to load (it only warns, and would train from scratch).
        """
        if ranks == self._place.world_size or self._config.zero_stage == 0:
            self._load(folder, joined=False)
            return
        joined = folder.with_name(f"{folder.name}.joined")
        if self._place.is_first:
            shutil.rmtree(joined, ignore_errors=True)
            _join_parts(folder / TAG, joined / TAG)
        self._place.wait()
        self._load(joined, joined=True)
        self._place.wait()
        if self._place.is_first:
            shutil.rmtree(joined, ignore_errors=True)

    def _load(self, folder: Path, *, joined: bool) -> None:
        self._engine._config.load_universal_checkpoint = joined
        loaded, _ = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        if loaded is None:
            raise TrainingError(f"no state could be read from the checkpoint {folder}")
        if joined and self._config.spreads_weights:
            # DeepSpeed 0.19 gives all groups of parameters one counter, and each would count on in it.
            for state in self._engine.optimizer.optimizer.state.values():
                state["step"] = state["step"].clone()


def _join_parts(parts: Path, joined: Path) -> None:
    """Put the ranks' parts of a checkpoint together; what DeepSpeed prints meanwhile is nobody's business."""
    from deepspeed.checkpoint.ds_to_universal import main

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        main(
            Namespace(
                input_folder=str(parts),
                output_folder=str(joined),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
        )


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
    if not config.spreads_weights:
        yield False
        return
    _deepspeed(place)
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


def _deepspeed(place: Place) -> Any:
    """The library, told what it would guess, and kept from compiling its shared-memory all-reduce.

    Only its tensor-parallel inference calls that operation; training goes through gloo or NCCL. Compiling
    takes a minute, needs a compiler, and is guarded by a file: a process killed meanwhile leaves it behind,
    and every later training of that user would wait for it for ever.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if place.device.type == "cuda" else "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
