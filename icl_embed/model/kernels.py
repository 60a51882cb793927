"""Faster products on CPUs, for inference: oneDNN's matrix product in place of torch's default one.

Torch sends fp32 products to MKL, which on processors of other makers than Intel uses half their vector
width; oneDNN uses all of it (2.2 times faster on an AMD EPYC with AVX-512). It also joins the activation and
the product of a gated feed-forward layer to the matrix products around them, which saves passes over memory
in any number format. The operations are torch's own (its compiler emits them) but private: a probe decides,
once per process, whether they are there, right and faster, and everything works without them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)

SPEEDUP_WORTH_IT = 1.05


def onednn_linear(
    rows: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none"
) -> Tensor:
    """activation(rows @ weight.T + bias); no gradient."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, activation, [], "")
    return product


def _gated(rows: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """silu(rows @ gate.T) * (rows @ up.T); no gradient."""
    gates = onednn_linear(rows, gate, None, "swish")
    product: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, gates, up, None, "mul")
    return product


class FastLinear(nn.Linear):
    """A linear layer that uses oneDNN when no gradient is asked for."""

    def forward(self, input: Tensor) -> Tensor:
        """Rows [..., in] → [..., out]."""
        if torch.is_grad_enabled():
            return super().forward(input)
        return onednn_linear(input, self.weight, self.bias)


def speed_up(model: Any) -> None:
    """Let the linear layers of a model on CPU use faster products where the probe finds them faster."""
    weight = next(model.parameters())
    if weight.device.type != "cpu" or not onednn_is_faster(weight.dtype):
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear
        elif _is_gated(module):
            module.forward = MethodType(_gated_forward, module)


def _is_gated(module: Any) -> bool:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    return (
        all(isinstance(part, nn.Linear) and part.bias is None for part in parts)
        and getattr(getattr(module, "config", None), "hidden_act", "") == "silu"
    )


def _gated_forward(module: Any, rows: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        out: Tensor = type(module).forward(module, rows)
        return out
    return onednn_linear(
        _gated(rows, module.gate_proj.weight, module.up_proj.weight), module.down_proj.weight
    )


@cache
def onednn_is_faster(dtype: torch.dtype) -> bool:
    """Whether oneDNN gives the same gated layer as torch's default, faster; takes about 0.2 s."""
    generator = torch.Generator().manual_seed(0)
    rows, gate, up = (
        torch.randn(size, 512, generator=generator).div(16).to(dtype) for size in (512, 1024, 1024)
    )
    try:
        with torch.inference_mode():
            usual = F.silu(F.linear(rows, gate)) * F.linear(rows, up)
            close = torch.allclose(_gated(rows, gate, up).float(), usual.float(), atol=0.02, rtol=0.02)
            ours = _seconds(lambda: _gated(rows, gate, up))
            default = _seconds(lambda: F.silu(F.linear(rows, gate)) * F.linear(rows, up))
    except (RuntimeError, AttributeError) as error:  # another build of torch: the operations are private
        logger.info("oneDNN's products are not available: %s", error)
        return False
    return close and default > SPEEDUP_WORTH_IT * ours


def _seconds(compute: Callable[[], Tensor]) -> float:
    """The best of a few runs: whatever disturbs a run makes it slower."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        compute()
        times.append(time.perf_counter() - started)
    return min(times)
