"""Attention of many queries to one shared prefix, without a copy of the prefix per query.

The keys and values of the prefix are the same for every row, so its part of the attention is one large
product over all rows; each row's own causal part is computed apart, and the two are merged exactly by their
log-sum-exp (Hydragen, arXiv 2402.05099). Inference on CPU uses torch's flash kernels for both parts, which
never build the score matrix; training and other devices use plain, differentiable operations.

Legend of tensor shapes: B rows, H query heads, K key heads, G = H / K, L tokens of a row, P of the prefix,
D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icl_embed.errors import ModelError

ATTENTION_NAME = "icl_shared_prefix"


@dataclass(frozen=True)
class PrefixStates:
    """Keys and values of a prefix, one [1, K, P, D] pair per layer."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def num_tokens(self) -> int:
        """Length of the prefix."""
        return int(self.keys[0].shape[2])


def encode_prefix(model: Any, tokens: list[int]) -> PrefixStates:
    """Run a prefix once. Gradients flow through it unless the caller disables them."""
    from transformers import DynamicCache

    ids = torch.tensor([tokens], device=model.device)
    cache = model(input_ids=ids, past_key_values=DynamicCache(), use_cache=True).past_key_values
    return PrefixStates(
        tuple(layer.keys for layer in cache.layers), tuple(layer.values for layer in cache.layers)
    )


def continue_prefix(model: Any, prefix: PrefixStates, tokens: Tensor) -> Tensor:
    """Final hidden states [B, L, width] of rows [B, L] that each continue the prefix.

    Raises
        ModelError: the sequence is longer than the model's sliding attention window.
    """
    _refuse_sliding(model.config, prefix.num_tokens + tokens.shape[1])
    positions = torch.arange(prefix.num_tokens, prefix.num_tokens + tokens.shape[1], device=tokens.device)
    with _attention(model):
        output = model(
            input_ids=tokens,
            position_ids=positions[None, :].expand(len(tokens), -1),
            use_cache=False,
            shared_prefix=prefix,
        )
    states: Tensor = output.last_hidden_state
    return states


def _refuse_sliding(config: Any, num_tokens: int) -> None:
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and num_tokens > window:
        raise ModelError(
            f"examples and query take {num_tokens} tokens, but the model only looks back {window}; "
            "lower prompt.total_tokens"
        )


@contextmanager
def _attention(model: Any) -> Iterator[None]:
    """Let the model's layers call our attention for the duration of the block."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(ATTENTION_NAME, attend)
    AttentionMaskInterface.register(ATTENTION_NAME, lambda *_args, **_kwargs: None)  # we mask by ourselves
    previous = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        model.config._attn_implementation = previous


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    scaling: float,
    shared_prefix: PrefixStates,
    softcap: float | None = None,
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """One layer's attention: query [B, H, L, D], key and value [B, K, L, D] → [B, L, H, D]."""
    prefix_key = shared_prefix.keys[module.layer_idx]
    prefix_value = shared_prefix.values[module.layer_idx]
    flash = query.device.type == "cpu" and not torch.is_grad_enabled() and softcap is None
    query = query * scaling
    if flash:
        out = _attend_by_flash(query, key, value, prefix_key, prefix_value)
    else:
        out = _attend_by_formula(query, key, value, prefix_key, prefix_value, softcap)
    return out.transpose(1, 2), None


def _fold(query: Tensor, key_heads: int) -> Tensor:
    """[B, H, L, D] → [1, K, B·G·L, D]: all rows that meet the same key head, as one long row."""
    rows, heads, length, width = query.shape
    grouped = query.reshape(rows, key_heads, heads // key_heads, length, width).transpose(0, 1)
    return grouped.reshape(1, key_heads, -1, width)


def _unfold(folded: Tensor, shape: torch.Size) -> Tensor:
    """Undo ``_fold`` for a tensor [1, K, B·G·L, …]: → [B, H, L, …]."""
    rows, heads, length, _ = shape
    key_heads = folded.shape[1]
    tail = folded.shape[3:]
    apart = folded.reshape(key_heads, rows, heads // key_heads, length, *tail).transpose(0, 1)
    return apart.reshape(rows, heads, length, *tail)


def _attend_by_flash(
    query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor
) -> Tensor:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    groups = query.shape[1] // key.shape[1]
    own, own_lse = kernel(
        query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), 0.0, True, scale=1.0
    )
    far, far_lse = kernel(_fold(query, key.shape[1]), prefix_key, prefix_value, 0.0, False, scale=1.0)
    share = torch.sigmoid(own_lse - _unfold(far_lse, query.shape)).unsqueeze(-1).to(query.dtype)
    return torch.lerp(_unfold(far, query.shape), own, share)


def _attend_by_formula(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    softcap: float | None,
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    own = query @ key.transpose(2, 3)
    far = _unfold(_fold(query, prefix_key.shape[1]) @ prefix_key.transpose(2, 3), query.shape)
    if softcap is not None:
        own, far = softcap * torch.tanh(own / softcap), softcap * torch.tanh(far / softcap)
    length = query.shape[2]
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    own = own.masked_fill(future, -torch.inf)
    weights = torch.cat([far, own], dim=-1).softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    far_length = far.shape[-1]
    far_out = _fold(weights[..., :far_length], prefix_value.shape[1]) @ prefix_value
    return _unfold(far_out, query.shape) + weights[..., far_length:] @ value
