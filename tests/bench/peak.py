"""The machine's peak: the best rate that any matrix product reaches here, with the threads the encoders have."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

ROWS = 4096
SECONDS = 0.5


def gemm_peak(dtype: str, width: int, inner: int) -> float:
    """GFLOP/s of the fastest of a few products: the model's own shapes and a large square, by every kernel."""
    shapes = [(width, inner), (inner, width), (2048, 2048)]
    return max(
        _rate(product, ROWS, columns, rows, getattr(torch, dtype))
        for columns, rows in shapes
        for product in _kernels()
    )


def _kernels() -> list[Callable[[Tensor, Tensor], Tensor]]:
    """Torch's own choice (MKL for fp32), and oneDNN by name where the build has it."""
    kernels: list[Callable[[Tensor, Tensor], Tensor]] = [torch.nn.functional.linear]
    if torch.backends.mkldnn.is_available():
        onednn = torch.ops.mkldnn._linear_pointwise
        kernels.append(lambda left, weight: onednn(left, weight, None, "none", [], ""))
    return kernels


def _rate(
    product: Callable[[Tensor, Tensor], Tensor], tokens: int, columns: int, rows: int, dtype: torch.dtype
) -> float:
    left = torch.randn(tokens, columns, dtype=dtype)
    weight = torch.randn(rows, columns, dtype=dtype)
    best = float("inf")
    until = time.perf_counter() + SECONDS
    with torch.inference_mode():
        product(left, weight)
        while time.perf_counter() < until:
            started = time.perf_counter()
            product(left, weight)
            best = min(best, time.perf_counter() - started)
    return 2 * tokens * columns * rows / best / 1e9
