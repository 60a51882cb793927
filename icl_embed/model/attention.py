"""Attention over a packed sequence, with prefixes that many rows share and nobody copies.

The keys and values of a prefix are the same for every row that continues it, so that part of the attention is
one large product over all rows; each row's own causal part is computed apart, and the two are merged exactly
by their log-sum-exp (Hydragen, arXiv 2402.05099). Inference on CPU uses torch's flash kernel for the row's
part, and for the prefix's part products in blocks that stay in the cache; neither builds the whole score
matrix. For short rows on CPU that is too much ado: their score matrices are small, and batched products make
them two to three times faster. A GPU in 16 bits takes all rows and prefixes at once (``gpu.attention``).
Training on CPU, fp32 on a GPU and capped scores use plain, differentiable operations where a prefix is
shared, and torch's own attention where none is; they hold the scores of some rows at a time.

Legend of tensor shapes: T packed tokens, R rows, H query heads, K key heads, L tokens of a row, P of the
prefix, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from icl_embed.errors import ModelError
from icl_embed.model.cpu.kernels import onednn_is_faster, onednn_linear
from icl_embed.model.gpu.attention import Plan, attend_packed, can_attend
from icl_embed.model.packing import Layout, Segment
from icl_embed.model.pooling import last_looks

SHORT_ROW = 256  # tokens of prefix and row up to which whole score matrices are faster on CPU
SCORES_IN_CACHE = 2**20  # of short rows that are computed together
SCORES_AT_ONCE = 2**26  # by the plain formula: 256 MiB in fp32
ROWS_IN_CACHE = 1024  # query rows whose scores against a prefix of usual length stay in the processor's cache
ATTENTION_NAME = "icl_packed"


def use_packed_attention(model: Any) -> None:
    """Make the layers of a transformers model call ``attend``; chosen once, so recomputation finds it too."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(ATTENTION_NAME, attend)
    AttentionMaskInterface.register(ATTENTION_NAME, lambda *_args, **_kwargs: None)  # the layout is our mask
    model.config._attn_implementation = ATTENTION_NAME


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    scaling: float,
    layout: Layout | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """One layer's attention: query [1, H, T, D], key and value [1, K, T, D] → [1, T, H, D].

    Attention dropout is not applied; published causal models do not use it.

    Raises
        ModelError: a sequence is longer than the layer's sliding window, or the layer has attention sinks.
    """
    if layout is None:
        raise ModelError(
            f"{type(module).__name__} was not told how its rows are packed; use Embedder's methods, or "
            "Reranker's"
        )
    _refuse_unknown(layout, sliding_window, others)
    if layout.recorded is not None:
        layout.recorded.append((key, value))
    plan = layout.plan if can_attend(query, softcap=softcap) else None
    if plan is not None and layout.looks is None:
        return _attend_by_kernel(query, key, value, layout, plan, module.layer_idx, scaling), None
    # Split once: the gradient of a split is one concatenation, that of a slice is as long as all the states.
    sizes = [segment.stop - segment.start for segment in layout.segments]
    parts = list(
        zip(*(torch.split(states[0], sizes, dim=1) for states in (query * scaling, key, value)), strict=True)
    )
    outs, looks = [], []
    for segment, mine in zip(layout.segments, parts, strict=True):
        own = tuple(_rows(states, segment) for states in mine)
        far = _prefix_of(segment, layout, parts, module.layer_idx)
        if plan is None:
            out = _attend_rows(own, far, segment, causal=layout.causal, softcap=softcap)
            outs.append(_tokens(out, segment))
        if layout.looks is not None:
            looks.append(last_looks(own[0], own[1], far and far[0], segment, softcap=softcap))
    if layout.looks is not None:
        layout.looks.append(torch.cat(looks))
    if plan is not None:
        return _attend_by_kernel(query, key, value, layout, plan, module.layer_idx, scaling), None
    return torch.cat(outs)[None], None


def _attend_by_kernel(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, plan: Plan, layer: int, scaling: float
) -> Tensor:
    """All segments at once, on a GPU: [1, H, T, D] and [1, K, T, D] → [1, T, H, D]."""
    shared = layout.shared
    far = None if shared is None else (_by_token(shared.keys[layer]), _by_token(shared.values[layer]))
    own = (_by_token(query), _by_token(key), _by_token(value))
    return attend_packed(own, far, plan, scaling)[None]


def _by_token(states: Tensor) -> Tensor:
    """[1, heads, T, D] → [T, heads, D]."""
    return states[0].transpose(0, 1)


def _refuse_unknown(layout: Layout, sliding_window: int | None, others: dict[str, Any]) -> None:
    if sliding_window and layout.longest > sliding_window:
        raise ModelError(
            f"a prompt takes {layout.longest} tokens, but the model only looks back {sliding_window}; "
            "lower prompt.total_tokens (of a reranker: rerank.max_tokens)"
        )
    if others.get("s_aux") is not None:
        raise ModelError("the model uses attention sinks, which packed attention does not support")


def _rows(states: Tensor, segment: Segment) -> Tensor:
    """[heads, tokens of the segment, D] → [R, heads, L, D]."""
    if segment.gather is not None:
        states = states.index_select(1, segment.gather)
    shape = (len(states), len(segment.lengths), segment.length, states.shape[-1])
    return states.reshape(shape).transpose(0, 1)


def _tokens(out: Tensor, segment: Segment) -> Tensor:
    """[R, H, L, D] → [tokens of the segment, H, D]."""
    flat = out.transpose(1, 2).flatten(0, 1)
    return flat if segment.scatter is None else flat.index_select(0, segment.scatter)


def _prefix_of(
    segment: Segment, layout: Layout, parts: Sequence[tuple[Tensor, ...]], layer: int
) -> tuple[Tensor, Tensor] | None:
    """Keys and values [1, K, P, D] that the rows of a segment attend to besides their own."""
    if segment.prefix is not None:
        _, key, value = parts[segment.prefix]
        return key[None], value[None]
    if layout.shared is not None:
        return layout.shared.keys[layer], layout.shared.values[layer]
    return None


def _attend_rows(
    own: tuple[Tensor, ...],
    far: tuple[Tensor, Tensor] | None,
    segment: Segment,
    *,
    causal: bool,
    softcap: float | None,
) -> Tensor:
    query, key, value = own
    is_cpu_inference = query.device.type == "cpu" and not torch.is_grad_enabled()
    if softcap is None and causal and is_cpu_inference:
        if segment.length + (far[0].shape[2] if far else 0) <= SHORT_ROW:
            return _attend_short(query, key, value, far)
        if far is not None:
            return _attend_by_flash(query, key, value, far)
    if softcap is None and far is None:
        return _attend_by_torch(query, key, value, segment, causal=causal)
    return _attend_by_formula(query, key, value, far, _hidden(segment, query, causal=causal), softcap)


def _attend_by_torch(query: Tensor, key: Tensor, value: Tensor, segment: Segment, *, causal: bool) -> Tensor:
    mask = None if causal or segment.scatter is None else ~_hidden(segment, query, causal=False)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=1.0, enable_gqa=True
    )


def _hidden(segment: Segment, query: Tensor, *, causal: bool) -> Tensor:
    """[R or 1, 1, L, L] bool, True where a token must not look: the future, or padding."""
    if causal:
        length = segment.length
        return torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)[None, None]
    columns = torch.arange(segment.length, device=query.device)
    lengths = torch.tensor(segment.lengths, device=query.device)
    return (columns >= lengths[:, None])[:, None, None, :]


def _attend_short(query: Tensor, key: Tensor, value: Tensor, far: tuple[Tensor, Tensor] | None) -> Tensor:
    """Scores of whole rows in fp32, of as many at once as the cache holds; a prefix is copied to each row."""
    rows, heads, length, width = query.shape
    key_heads = key.shape[1]
    seen = far[0].shape[2] if far else 0
    future = torch.full((length, length), -torch.inf).triu(1)
    mask = F.pad(future, (seen, 0)).repeat(heads // key_heads, 1)
    out = torch.empty_like(query)
    step = max(1, SCORES_IN_CACHE // (heads * length * (seen + length)))
    for start in range(0, rows, step):
        block = slice(start, start + step)
        keys, values = key[block], value[block]
        count = len(keys)
        if far is not None:
            keys = torch.cat([far[0].expand(count, -1, -1, -1), keys], dim=2)
            values = torch.cat([far[1].expand(count, -1, -1, -1), values], dim=2)
        folded = query[block].float().reshape(count * key_heads, -1, width)
        scores = torch.baddbmm(mask, folded, keys.float().flatten(0, 1).transpose(1, 2))
        weights = scores.softmax(dim=-1).to(value.dtype)
        out[block] = torch.bmm(weights, values.flatten(0, 1)).view(count, heads, length, width)
    return out


def _fold(query: Tensor, key_heads: int) -> Tensor:
    """[R, H, L, D] → [1, K, R·G·L, D], G = H / K: all rows that meet the same key head, as one long row."""
    rows, heads, length, width = query.shape
    grouped = query.reshape(rows, key_heads, heads // key_heads, length, width).transpose(0, 1)
    return grouped.reshape(1, key_heads, -1, width)


def _unfold(folded: Tensor, shape: torch.Size) -> Tensor:
    """Undo ``_fold`` for a tensor [1, K, R·G·L, …]: → [R, H, L, …]."""
    rows, heads, length, _ = shape
    key_heads = folded.shape[1]
    tail = folded.shape[3:]
    apart = folded.reshape(key_heads, rows, heads // key_heads, length, *tail).transpose(0, 1)
    return apart.reshape(rows, heads, length, *tail)


def _attend_by_flash(query: Tensor, key: Tensor, value: Tensor, far: tuple[Tensor, Tensor]) -> Tensor:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    groups = query.shape[1] // key.shape[1]
    own, own_lse = kernel(
        query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), 0.0, True, scale=1.0
    )
    out, lse = _attend_far(_fold(query, key.shape[1]), *far)
    share = torch.sigmoid(own_lse - _unfold(lse, query.shape)).unsqueeze(-1).to(query.dtype)
    return torch.lerp(_unfold(out, query.shape), own, share)


def _attend_far(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of [1, K, N, D] to all of a prefix [1, K, P, D]: the result, and log-sum-exp [1, K, N]."""
    by = _attend_far_by_products if onednn_is_faster(query.dtype) else _attend_far_by_flash
    return by(query, key, value)


def _attend_far_by_flash(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, lse = kernel(query, key, value, 0.0, False, scale=1.0)
    return out, lse


def _attend_far_by_products(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    for head in range(query.shape[1]):
        value_DP, key_PD = value[0, head].t().contiguous(), key[0, head].float()
        for start in range(0, query.shape[2], ROWS_IN_CACHE):
            rows = slice(start, start + ROWS_IN_CACHE)
            # in fp32, as kernels sum them: scores rounded to bf16 err five times as much, a tenth faster
            scores = onednn_linear(query[0, head, rows].float(), key_PD)
            highest = scores.amax(-1, keepdim=True)
            weights = scores.sub_(highest).exp_()
            total = weights.sum(-1, keepdim=True)
            out[0, head, rows] = onednn_linear(weights.to(query.dtype), value_DP) / total
            lse[0, head, rows] = (highest + total.log()).squeeze(-1)
    return out, lse


def _attend_by_formula(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    far: tuple[Tensor, Tensor] | None,
    hidden: Tensor,
    softcap: float | None,
) -> Tensor:
    """Plain products, which autograd can follow, in blocks of rows whose scores are no more than a limit.

    Training computes a block's scores again in the backward pass instead of keeping those of all rows.
    """
    rows, heads, length, _ = query.shape
    step = max(1, SCORES_AT_ONCE // (heads * length * (length + (far[0].shape[2] if far else 0))))
    if step >= rows:
        return _formula(query, key, value, far, hidden, softcap)
    outs = []
    per_row = (query, key, value, hidden.expand(rows, -1, -1, -1))
    for mine in zip(*(torch.split(states, step) for states in per_row), strict=True):
        block = (*mine[:3], far, mine[3], softcap)
        if torch.is_grad_enabled():
            out = checkpoint(_formula, *block, use_reentrant=False, preserve_rng_state=False)
        else:
            out = _formula(*block)
        outs.append(out)
    return torch.cat(outs)


def _formula(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    far: tuple[Tensor, Tensor] | None,
    hidden: Tensor,
    softcap: float | None,
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    # Scores near a cap of 50 lie 0.25 apart in bf16: capped ones are summed in fp32, as kernels sum all.
    wide = query.dtype if softcap is None else torch.promote_types(query.dtype, torch.float32)
    scores = query.to(wide) @ key.to(wide).repeat_interleave(groups, 1).transpose(2, 3)
    seen = 0
    if far is not None:
        seen = far[0].shape[2]
        far_scores = _fold(query.to(wide), key.shape[1]) @ far[0].to(wide).transpose(2, 3)
        scores = torch.cat([_unfold(far_scores, query.shape), scores], -1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores[..., seen:].masked_fill_(hidden, -torch.inf)
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(wide, torch.float32)).to(query.dtype)
    out = weights[..., seen:] @ value.repeat_interleave(groups, 1)
    if far is not None:
        out = out + _unfold(_fold(weights[..., :seen], key.shape[1]) @ far[1], query.shape)
    return out
