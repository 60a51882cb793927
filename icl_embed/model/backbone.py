"""The transformer under the embedder: load it, run it over packed token lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icl_embed.errors import ModelError
from icl_embed.model.base import refuse_incomplete
from icl_embed.model.groups import Group
from icl_embed.model.packing import Pack, PrefixStates, pack
from icl_embed.prompts import SLOT, Tokens


def load_backbone(folder: Path, *, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """The headless model and its tokenizer.

    Raises
        ModelError: the folder is incomplete or transformers cannot read it.
    """
    from transformers import AutoModel, AutoTokenizer

    with _reading(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
    return model.to(device), tokenizer


def load_description(folder: Path) -> tuple[Any, Any]:
    """The model's config and its tokenizer, without weights.

    Raises
        ModelError: the folder is incomplete or transformers cannot read it.
    """
    from transformers import AutoConfig, AutoTokenizer

    with _reading(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return AutoConfig.from_pretrained(folder, trust_remote_code=False), tokenizer


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    refuse_incomplete(folder)
    quiet_transformers()
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load the model in {folder}: {error}") from error


def quiet_transformers() -> None:
    """Keep loading reports out of our output: an unused language-model head is what we want, not news."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def token_states(model: Any, pack: Pack, slots_SD: Tensor | None = None) -> Tensor:
    """Final hidden states [T, D] of a packed batch; differentiable.

    Parameters
        slots_SD: input embeddings for the slots of the pack, in order.

    Raises
        ModelError: the architecture does not hand our layout to its attention, or cannot attend that way.
    """
    inputs = {"input_ids": pack.tokens[None]} if slots_SD is None else _with_slots(model, pack, slots_SD)
    output = model(**inputs, position_ids=pack.positions[None], use_cache=False, layout=pack.layout)
    states: Tensor = output.last_hidden_state
    return states[0]


def _with_slots(model: Any, pack: Pack, slots_SD: Tensor) -> dict[str, Tensor]:
    embeddings = model.get_input_embeddings()(pack.tokens.clamp(min=0))
    is_slot = (pack.tokens == SLOT)[:, None]
    return {"inputs_embeds": embeddings.masked_scatter(is_slot, slots_SD.to(embeddings.dtype))[None]}


def encode_prefix(model: Any, tokens: Tokens, slots_SD: Tensor | None = None) -> PrefixStates:
    """Run a prefix once and keep its keys and values."""
    packed = pack([Group([tokens])], device=model.device)
    recorded: list[tuple[Tensor, Tensor]] = []
    token_states(model, replace(packed, layout=replace(packed.layout, recorded=recorded)), slots_SD)
    return PrefixStates(tuple(key for key, _ in recorded), tuple(value for _, value in recorded))
