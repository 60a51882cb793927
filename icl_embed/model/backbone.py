"""The transformer under the embedder: load it, run it over packed token lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icl_embed.errors import ModelError
from icl_embed.model.base import refuse_incomplete
from icl_embed.model.groups import Group
from icl_embed.model.packing import Pack, PrefixStates, pack
from icl_embed.prompts import Tokens


def load_backbone(folder: Path, *, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """The headless model and its tokenizer.

    Raises
        ModelError: the folder is incomplete or transformers cannot read it.
    """
    from transformers import AutoModel, AutoTokenizer

    refuse_incomplete(folder)
    quiet_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load the model in {folder}: {error}") from error
    return model.to(device), tokenizer


def load_description(folder: Path) -> tuple[Any, Any]:
    """The model's config and its tokenizer, without weights.

    Raises
        ModelError: the folder is incomplete or transformers cannot read it.
    """
    from transformers import AutoConfig, AutoTokenizer

    refuse_incomplete(folder)
    quiet_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return AutoConfig.from_pretrained(folder, trust_remote_code=False), tokenizer
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load the model in {folder}: {error}") from error


def quiet_transformers() -> None:
    """Keep loading reports out of our output: an unused language-model head is what we want, not news."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def token_states(model: Any, pack: Pack) -> Tensor:
    """Final hidden states [T, D] of a packed batch; differentiable.

    Raises
        ModelError: the architecture does not hand our layout to its attention, or cannot attend that way.
    """
    output = model(
        input_ids=pack.tokens[None], position_ids=pack.positions[None], use_cache=False, layout=pack.layout
    )
    states: Tensor = output.last_hidden_state
    return states[0]


def encode_prefix(model: Any, tokens: Tokens) -> PrefixStates:
    """Run a prefix once and keep its keys and values."""
    packed = pack([Group([tokens])], device=model.device)
    recorded: list[tuple[Tensor, Tensor]] = []
    token_states(model, replace(packed, layout=replace(packed.layout, recorded=recorded)))
    return PrefixStates(tuple(key for key, _ in recorded), tuple(value for _, value in recorded))
