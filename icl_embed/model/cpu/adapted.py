"""A frozen layer and its low-rank adapter in fewer passes over memory, for fp32 training on CPU.

An adapter of rank 32 costs little arithmetic, but as separate operations it reads and writes the whole
output of the layer four more times: scale, add, and both for the gradient. Here products accumulate in place.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor

from icl_embed.model.cpu.kernels import FastLinear, fast_linear

ADAPTER = "default"


class _AdaptedProduct(torch.autograd.Function):
    """rows @ weight.T + bias + scaling · (rows @ down.T) @ up.T; the weight is frozen."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
    ) -> Tensor:
        narrow = (rows @ down.t()).mul_(scaling)
        ctx.save_for_backward(rows, narrow, weight, down, up)
        ctx.scaling = scaling
        return fast_linear(rows, weight, bias).addmm_(narrow, up.t())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, narrow, weight, down, up = ctx.saved_tensors
        grad = grads[0].contiguous()
        narrow_grad = (grad @ up).mul_(ctx.scaling)
        rows_grad = None
        if ctx.needs_input_grad[0]:
            rows_grad = fast_linear(grad, weight.t()).addmm_(narrow_grad, down)
        return rows_grad, None, None, narrow_grad.t() @ rows, grad.t() @ narrow, None


def join_adapters(model: Any) -> None:
    """Let every adapted frozen layer compute as one, where its adapter is plain (no dropout, no variant)."""
    for module in model.modules():
        if _is_plain(module):
            module.forward = MethodType(_forward, module)


def _is_plain(module: Any) -> bool:
    if type(getattr(module, "base_layer", None)) is not FastLinear or ADAPTER not in module.lora_A:
        return False
    parts = (module.lora_A[ADAPTER], module.lora_B[ADAPTER])
    return (
        ADAPTER not in module.lora_variant
        and isinstance(module.lora_dropout[ADAPTER], torch.nn.Identity)
        and all(part.bias is None and part.weight.dtype == torch.float32 for part in parts)
    )


def _forward(module: Any, rows: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    usual = not torch.is_grad_enabled() or module.merged or module.disable_adapters
    if usual or module.base_layer.weight.requires_grad or args or kwargs:
        out: Tensor = type(module).forward(module, rows, *args, **kwargs)
        return out
    flat = rows.reshape(-1, rows.shape[-1])
    product: Tensor = _AdaptedProduct.apply(  # type: ignore[no-untyped-call]
        flat,
        module.base_layer.weight,
        module.base_layer.bias,
        module.lora_A[ADAPTER].weight,
        module.lora_B[ADAPTER].weight,
        module.scaling[ADAPTER],
    )
    return product.view(*rows.shape[:-1], -1)
