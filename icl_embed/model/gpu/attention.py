"""Attention of a packed batch on a GPU: two calls of the flash kernel, however many rows and prefixes.

The kernel takes sequences of any lengths, one behind the other. One call computes every row's own causal
part; rows that continue one prefix are a single long sequence of queries against it, so a second call
computes the prefix part of all groups. The two are merged by their log-sum-exp, as on CPU. Segment by
segment, the same work is so many launches that a GPU mostly waits for the next one.

The backward pass hands the kernel the merged output and log-sum-exp with each part: its formulas then give
that part's share of the exact gradient, because they need nothing else of the other part (as in Ring
Attention, arXiv 2310.01889).

Legend of tensor shapes: T packed tokens, F of them that continue a prefix, P tokens of all prefixes, H query
heads, K key heads, D width of a head, N sequences.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WIDEST_HEAD, WIDTH_UNIT = 256, 8  # what the kernel takes
FORMATS = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Spans:
    """Sequences that lie one behind the other.

    Attributes
        bounds: [N + 1] int32, where each starts, and where the last one ends.
        longest: tokens of the longest.
    """

    bounds: Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Iterable[int], device: torch.device | None) -> Spans:
        """Sequences of these lengths."""
        known = torch.tensor([0, *lengths])
        return cls(known.cumsum(0).to(torch.int32).to(device), int(known.max()))


@dataclass(frozen=True)
class Prefixes:
    """Which tokens continue a prefix, and where the prefixes are.

    Attributes
        tokens: [F] places of the tokens, group after group; None for all tokens.
        places: [P] places of the prefixes' own tokens; None where keys and values come from elsewhere.
        groups, prefixes: the tokens and the prefixes as sequences, pair by pair.
    """

    tokens: Tensor | None
    places: Tensor | None
    groups: Spans
    prefixes: Spans


@dataclass(frozen=True)
class Plan:
    """How a packed batch goes through the kernel; the same for all layers."""

    rows: Spans
    prefixes: Prefixes | None


def can_attend(query: Tensor, *, softcap: float | None) -> bool:
    """Whether the kernel takes these queries [..., D]."""
    width = query.shape[-1]
    return (
        query.device.type == "cuda"
        and softcap is None
        and query.dtype in FORMATS
        and width <= WIDEST_HEAD
        and not width % WIDTH_UNIT
        and torch.backends.cuda.is_flash_attention_available()
    )


def attend_packed(
    own: tuple[Tensor, Tensor, Tensor], far: tuple[Tensor, Tensor] | None, plan: Plan, scaling: float
) -> Tensor:
    """Causal attention [T, H, D] within rows, and of rows to their prefixes.

    Parameters
        own: queries [T, H, D], keys and values [T, K, D].
        far: keys and values [P, K, D] of a prefix that is not part of the batch.
    """
    attended: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        *own, *(far or (None, None)), plan, scaling
    )
    return attended


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        far_key: Tensor | None,
        far_value: Tensor | None,
        plan: Plan,
        scaling: float,
    ) -> Tensor:
        out, lse = forward_kernel(query, key, value, plan.rows, plan.rows, causal=True, scaling=scaling)
        if plan.prefixes is not None:
            seen = _seen(key, value, far_key, far_value, plan.prefixes)
            out, lse = _merge(query, out, lse, seen, plan.prefixes, scaling)
        ctx.save_for_backward(query, key, value, far_key, far_value, out, lse)
        ctx.plan, ctx.scaling = plan, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, far_key, far_value, out, lse = ctx.saved_tensors
        grad, plan, scaling = grads[0].contiguous(), ctx.plan, ctx.scaling
        grads_own = backward_kernel(
            grad, query, key, value, out, lse, plan.rows, plan.rows, causal=True, scaling=scaling
        )
        if plan.prefixes is None:
            return (*grads_own, None, None, None, None)
        tokens, places = plan.prefixes.tokens, plan.prefixes.places
        grads_far = backward_kernel(
            _chosen(grad, tokens),
            _chosen(query, tokens),
            *_seen(key, value, far_key, far_value, plan.prefixes),
            _chosen(out, tokens),
            _chosen(lse.T, tokens).T.contiguous(),
            plan.prefixes.groups,
            plan.prefixes.prefixes,
            causal=False,
            scaling=scaling,
        )
        query_grad = _added(grads_own[0], tokens, grads_far[0])
        if places is None:
            return query_grad, *grads_own[1:], *grads_far[1:], None, None
        key_grad, value_grad = (
            own.index_add_(0, places, more) for own, more in zip(grads_own[1:], grads_far[1:], strict=True)
        )
        return query_grad, key_grad, value_grad, None, None, None, None


def _seen(
    key: Tensor, value: Tensor, far_key: Tensor | None, far_value: Tensor | None, prefixes: Prefixes
) -> tuple[Tensor, Tensor]:
    """Keys and values [P, K, D] of all prefixes."""
    if far_key is not None and far_value is not None:
        return far_key, far_value
    return _chosen(key, prefixes.places), _chosen(value, prefixes.places)


def _merge(
    query: Tensor,
    own: Tensor,
    own_lse: Tensor,
    seen: tuple[Tensor, Tensor],
    prefixes: Prefixes,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """The attention [T, H, D] and log-sum-exp [H, T] over both parts."""
    tokens = prefixes.tokens
    far, far_lse = forward_kernel(
        _chosen(query, tokens), *seen, prefixes.groups, prefixes.prefixes, causal=False, scaling=scaling
    )
    near_lse = _chosen(own_lse.T, tokens)  # [F, H]
    share = torch.sigmoid(far_lse.T - near_lse).unsqueeze(-1)
    near = _chosen(own, tokens).to(lse_type := own_lse.dtype)
    merged = torch.lerp(near, far.to(lse_type), share).to(own.dtype)
    lse = torch.logaddexp(near_lse, far_lse.T)
    if tokens is None:
        return merged, lse.T.contiguous()
    return own.index_copy_(0, tokens, merged), own_lse.index_copy_(1, tokens, lse.T.contiguous())


def _chosen(rows: Tensor, places: Tensor | None) -> Tensor:
    return rows if places is None else rows.index_select(0, places)


def _added(rows: Tensor, places: Tensor | None, more: Tensor) -> Tensor:
    return rows + more if places is None else rows.index_add_(0, places, more)


def forward_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Spans,
    keys: Spans,
    *,
    causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Attention [T, H, D] of sequences of queries to sequences of keys, and log-sum-exp [H, T] float32."""
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, queries.bounds, keys.bounds, queries.longest, keys.longest, 0.0, causal, False,
        scale=scaling,
    )  # fmt: skip
    return out, lse


def backward_kernel(  # noqa: PLR0913 - what the kernel asks for
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    queries: Spans,
    keys: Spans,
    *,
    causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, given the whole output and log-sum-exp."""
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=query.device)
    query_grad, key_grad, value_grad = torch.ops.aten._flash_attention_backward(
        grad, query, key, value, out, lse, queries.bounds, keys.bounds, queries.longest, keys.longest,
        0.0, causal, no_dropout, torch.empty(0, device=query.device), scale=scaling,
    )  # fmt: skip
    return query_grad, key_grad, value_grad
