"""Faster products on CPUs: oneDNN's matrix product in place of torch's default one, where it is faster.

Torch sends fp32 products to MKL, which on processors of other makers than Intel uses at most 256 bits of
their vectors. With AVX-512 oneDNN uses all of them (2.2 times faster on an AMD EPYC); without it MKL is
faster. oneDNN also joins the activation and the product of a gated feed-forward layer to the matrix products
around them, which saves passes over memory in any number format. The operations are torch's own (its compiler
emits them) but private: they are tried once per process, and everything works without them.
"""

from __future__ import annotations

import logging
import os
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icl_embed.model.cpu.heap import keep_freed_memory

logger = logging.getLogger(__name__)

MKL_IS_FASTER = ("DEFAULT", "AVX2")  # as torch names the instructions it uses

# oneDNN prepares a product for each number of rows and keeps it, and so does torch above it: by default 1024
# each, of about a MiB, so that a process grows with every new length of a text. A forward pass needs five to
# ten (and oneDNN counts each twice); to prepare one again takes less than a millisecond. Both read these
# variables at their first product, so they are set where every forward of ours is imported from; what the
# environment already says stands.
KEPT_PRODUCTS = {"LRU_CACHE_CAPACITY": 16, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": 32}
TRAINING_KEEPS = 16  # times as many: a step has some hundred shapes, and meets all of them in each layer
for _name, _number in KEPT_PRODUCTS.items():
    os.environ.setdefault(_name, str(_number))


def keep_products_of_training() -> None:
    """Let this process keep the products of a whole training step; call it before the first product.

    Each layer asks for the same products, forward and backward. With room for fewer than there are, the next
    one needed is always the one just dropped, and steps in bf16 take almost twice as long.
    """
    for name, number in KEPT_PRODUCTS.items():
        if os.environ[name] == str(number):  # else the user's
            os.environ[name] = str(number * TRAINING_KEEPS)


def onednn_linear(
    rows: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none"
) -> Tensor:
    """activation(rows @ weight.T + bias); no gradient."""
    # Slices with gaps would fall to a reference kernel a thousand times slower.
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows.contiguous(), weight, bias, activation, [], "")
    return product


def _gated(rows: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """silu(rows @ gate.T) * (rows @ up.T); no gradient."""
    gates = onednn_linear(rows, gate, None, "swish")
    product: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, gates, up, None, "mul")
    return product


def fast_linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes rows @ weight.T + bias by the library that is faster here; oneDNN's has no gradient."""
    if onednn_is_faster(rows.dtype):
        return onednn_linear(rows, weight, bias)
    return F.linear(rows, weight, bias)


class _FrozenProduct(torch.autograd.Function):
    """A product with a weight that is not trained; the gradient flows to the rows alone."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return fast_linear(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return fast_linear(grads[0], weight.t()), None, None


class FastLinear(nn.Linear):
    """A linear layer that uses the faster library unless its own weight is trained."""

    def forward(self, input: Tensor) -> Tensor:
        """Rows [..., in] → [..., out]."""
        if not torch.is_grad_enabled():
            return fast_linear(input, self.weight, self.bias)
        if self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad):
            return super().forward(input)
        product: Tensor = _FrozenProduct.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return product


def speed_up(model: Any) -> None:
    """For inference on CPU: keep freed memory, and use oneDNN where it is faster."""
    weight = next(model.parameters())
    if weight.device.type != "cpu":
        return
    keep_freed_memory()
    if not onednn_is_faster(weight.dtype):
        return
    _use_fast_linears(model)
    for module in model.modules():
        if _is_gated(module):
            module.forward = partial(_gated_forward, module)  # unlike a method it can be pickled


def undo_speed_up(model: Any) -> None:
    """Torch's own layers again: on another machine another choice may be right."""
    for module in model.modules():
        if type(module) is FastLinear:
            module.__class__ = nn.Linear  # type: ignore[assignment]
        if getattr(module.__dict__.get("forward"), "func", None) is _gated_forward:
            del module.forward


def speed_up_frozen(model: Any) -> None:
    """For training adapters: faster products with frozen fp32 weights on CPU; torch has them in bf16."""
    weight = next(model.parameters())
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        _use_fast_linears(model)


def _use_fast_linears(model: Any) -> None:
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear


def _is_gated(module: Any) -> bool:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    return (
        all(isinstance(part, nn.Linear) and part.bias is None for part in parts)
        and getattr(getattr(module, "config", None), "hidden_act", "") == "silu"
    )


def _gated_forward(module: Any, rows: Tensor) -> Tensor:
    parts = (module.gate_proj, module.up_proj, module.down_proj)
    if torch.is_grad_enabled() or not all(type(part) is FastLinear for part in parts):  # e.g. adapters came
        out: Tensor = type(module).forward(module, rows)
        return out
    gate, up, down = (part.weight for part in parts)
    return onednn_linear(_gated(rows, gate, up), down)


@cache
def onednn_is_right(dtype: torch.dtype) -> bool:
    """Whether the operations exist here and give what torch's default ones give."""
    rows, gate, up = _probe(dtype)
    try:
        with torch.inference_mode():
            found = _gated(rows, gate, up)
    except (RuntimeError, AttributeError) as error:  # another build of torch: the operations are private
        logger.info("oneDNN's products are not available: %s", error)
        return False
    return torch.allclose(found.float(), _usual(rows, gate, up).float(), atol=0.02, rtol=0.02)


@cache
def onednn_is_faster(dtype: torch.dtype) -> bool:
    """Whether they are right, and faster than torch's default by what is known of this kind of processor.

    Nothing is measured: a choice that depends on the machine's load would give two workers other last bits,
    and break the promise that a resumed training ends with the same ones.
    """
    return torch.backends.cpu.get_cpu_capability() not in MKL_IS_FASTER and onednn_is_right(dtype)


def _probe(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows, gate, up = (torch.randn(size, 512, generator=generator).div(16) for size in (512, 1024, 1024))
    return rows.to(dtype), gate.to(dtype), up.to(dtype)


def _usual(rows: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(F.linear(rows, gate)) * F.linear(rows, up)
