"""Low-rank adapters (peft): attach for training, merge or save alone, also over a base in 4 bits."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from icl_embed.config import LoraConfig
from icl_embed.errors import ModelError
from icl_embed.model.architectures import linear_names
from icl_embed.model.backbone import quiet_transformers
from icl_embed.model.base import refuse_incomplete
from icl_embed.store.files import write_atomically

logger = logging.getLogger(__name__)

ADAPTER_FOLDER = "adapter"  # beside the merged weights of a trained model
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def attach(model: Any, config: LoraConfig, *, seed: int, trained_tokens: Sequence[int] = ()) -> Any:
    """Freeze the model and add adapters; their initial weights are a function of the seed.

    Parameters
        trained_tokens: ids of tokens whose rows of the embedding table are trained as well.

    Raises
        ModelError: no layer has one of the target names.
    """
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    targets = linear_names(model.config, config.targets)
    settings = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        bias="none",
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),  # GPT-2's
        trainable_token_indices=list(trained_tokens) or None,
    )
    _warn_of_absent(model, targets)
    torch.manual_seed(seed)
    try:
        # The optimizer keeps fp32 master weights, so adapters may compute in the model's own dtype.
        return get_peft_model(model, settings, autocast_adapter_dtype=False)
    except ValueError as error:
        raise ModelError(f"cannot attach adapters to {', '.join(config.targets)}: {error}") from error


def _warn_of_absent(model: Any, targets: Sequence[str]) -> None:
    """Say which targets name no layer: peft passes over them in silence, and trains less than was asked."""
    names = [name for name, _ in model.named_modules()]
    absent = [one for one in targets if not any(f".{name}".endswith(f".{one}") for name in names)]
    if absent:
        linears = {
            name.rpartition(".")[2]
            for name, part in model.named_modules()
            if isinstance(part, torch.nn.Linear)
        }
        logger.warning(
            "no layer of %s is called %s, so fewer get adapters; its linear layers are %s: set lora.targets",
            type(model).__name__, ", ".join(absent), ", ".join(sorted(linears)),
        )  # fmt: skip


def merge(model: Any) -> Any:
    """The plain model on the CPU with the adapters added to its weights, tensor by tensor.

    Each sum is taken in fp32: adding a small update to a bf16 weight would round most of it away. All of them
    at once would need three times the model's memory, which the GPU that just trained it does not have.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    dtype = model.dtype
    model.to("cpu")
    for layer in list(model.modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.float()
            layer.merge()
            layer.to(dtype)
    return model.unload()


def move_adapter(trained: Any, base: Any, config: LoraConfig, *, trained_tokens: Sequence[int] = ()) -> Any:
    """The adapters of one model on another with the same layers, e.g. of a 4-bit base on the full one."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    moved = attach(base, config, seed=0, trained_tokens=trained_tokens)
    set_peft_model_state_dict(moved, get_peft_model_state_dict(trained, save_embedding_layers=False))
    return moved


def load_adapter(model: Any, folder: Path) -> None:
    """Give the adapters of a model the weights that ``save_adapter`` wrote.

    Raises
        ModelError: missing, damaged, or of other layers.
    """
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / ADAPTER_WEIGHTS
    try:
        found = set_peft_model_state_dict(model, load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"{path} is not an adapter of this model: {error}") from error
    if found.unexpected_keys:
        raise ModelError(f"{path} has weights of layers that this model lacks: {found.unexpected_keys[0]}")


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapters alone, in peft's format: ``adapter_model.safetensors`` and ``adapter_config.json``.

    Equal adapters give equal bytes, and no path of this machine is written: whoever publishes the adapter
    names its base model.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    # Whole embedding layers are no part of an adapter; trained rows of them are, and are written.
    states = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in states.items()},
        folder / ADAPTER_WEIGHTS,
        metadata={"format": "pt"},
    )
    config = model.peft_config["default"].to_dict() | {
        "base_model_name_or_path": None,
        "inference_mode": True,
    }
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    write_atomically(folder / "adapter_config.json", json.dumps(plain, indent=1, sort_keys=True).encode())


def load_four_bit(folder: Path, *, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """The headless model with 4-bit linear layers, and its tokenizer; it computes in ``dtype``.

    Raises
        ModelError: bitsandbytes is missing, or the folder cannot be loaded.
    """
    from transformers import AutoModel, AutoTokenizer, BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ModelError(
            "train.four_bit_base needs bitsandbytes: pip install 'icl-embed[gpu]', or set it to false"
        )
    refuse_incomplete(folder)
    quiet_transformers()
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(
            folder,
            dtype=dtype,
            quantization_config=settings,
            device_map={"": device},
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load the model in {folder} in 4 bits: {error}") from error
    return model, tokenizer
