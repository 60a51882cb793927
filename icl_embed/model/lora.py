"""Low-rank adapters: attach for training, merge for publishing (peft)."""

from __future__ import annotations

from typing import Any

import torch

from icl_embed.config import LoraConfig
from icl_embed.errors import ModelError


def attach(model: Any, config: LoraConfig, *, seed: int) -> Any:
    """Freeze the model and add adapters; their initial weights are a function of the seed.

    Raises
        ModelError: no layer has one of the target names.
    """
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    settings = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        bias="none",
    )
    torch.manual_seed(seed)
    try:
        # The optimizer keeps fp32 master weights, so adapters may compute in the model's own dtype.
        return get_peft_model(model, settings, autocast_adapter_dtype=False)
    except ValueError as error:
        raise ModelError(f"cannot attach adapters to {', '.join(config.targets)}: {error}") from error


def merge(model: Any) -> Any:
    """The plain model with the adapters added to its weights.

    The sum is taken in fp32: adding a small update to a bf16 weight would round most of it away.
    """
    dtype = model.dtype
    return model.float().merge_and_unload().to(dtype)
