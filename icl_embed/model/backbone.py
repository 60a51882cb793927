"""The transformer under the embedder: load it, run it over token lists.

Rows are padded on the right. With causal attention a real token never looks at padding, so no mask is
needed and the fast attention kernels stay usable; with bidirectional attention a mask hides the padding.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icl_embed.errors import ModelError
from icl_embed.model.base import refuse_incomplete
from icl_embed.model.shared_prefix import PrefixStates, continue_prefix

logger = logging.getLogger(__name__)


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


def quiet_transformers() -> None:
    """Keep loading reports out of our output: an unused language-model head is what we want, not news."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def token_states(
    model: Any,
    tokens: Tensor,
    lengths: Tensor,
    *,
    attention: str = "causal",
    prefix: PrefixStates | None = None,
) -> Tensor:
    """Final hidden states [B, L, D] of right-padded tokens [B, L].

    With ``prefix``, each row continues that sequence (causal attention only).
    """
    tokens = tokens.to(model.device)
    if attention == "bidirectional":
        if prefix is not None:
            raise ModelError("a prefix can only be shared under causal attention")
        mask = _see_all(tokens, lengths, states_dtype=model.dtype)
        return states_of(model(input_ids=tokens, attention_mask=mask, use_cache=False))
    if prefix is None:
        return states_of(model(input_ids=tokens, use_cache=False))
    return continue_prefix(model, prefix, tokens)


def states_of(output: Any) -> Tensor:
    """The last hidden state of a model output."""
    states: Tensor = output.last_hidden_state
    return states


def _see_all(tokens: Tensor, lengths: Tensor, *, states_dtype: torch.dtype) -> Tensor:
    """An additive [B, 1, L, L] mask in which every position sees all real tokens of its row."""
    padding = torch.arange(tokens.shape[1]) >= lengths[:, None]
    mask = torch.zeros(padding.shape, dtype=states_dtype)
    mask.masked_fill_(padding, torch.finfo(states_dtype).min)
    return mask[:, None, None, :].expand(-1, 1, tokens.shape[1], -1).to(tokens.device)
