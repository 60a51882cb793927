"""A frozen base in 4 bits, under adapters, (QLoRA, arXiv 2305.14314)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from icl_embed.errors import ModelError
from icl_embed.model.backbone import quiet_transformers
from icl_embed.model.base import refuse_incomplete


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
