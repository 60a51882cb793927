"""Choosing the number format: bf16 where this machine is fast at it, fp32 otherwise."""

from __future__ import annotations

import time
from functools import cache

import torch

from icl_embed.errors import ConfigError

SPEEDUP_WORTH_IT = 1.3  # below this the coarser numbers are not worth their noise


def resolve_device(name: str) -> torch.device:
    """``auto`` is a GPU when there is one.

    Raises
        ConfigError: torch knows no such device, or this machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu, cuda, cuda:0, …; found {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"this machine has {torch.cuda.device_count()} CUDA devices; {name} is not among them"
        )
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bf16 on GPUs that have it and on CPUs where a probe shows it to be faster."""
    if name == "float32":
        return torch.float32
    if name == "bfloat16":
        return torch.bfloat16
    if name != "auto":
        raise ConfigError(f"dtype must be auto, float32 or bfloat16, found {name!r}")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if bf16_speedup_on_cpu() >= SPEEDUP_WORTH_IT else torch.float32


@cache
def bf16_speedup_on_cpu() -> float:
    """How many times faster a transformer-sized matrix product is in bf16 than in fp32, in about 0.1 s."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.ones(512, 768, dtype=dtype)
        right = torch.ones(768, 1536, dtype=dtype)
        for _ in range(2):
            left @ right
        started = time.perf_counter()
        for _ in range(6):
            left @ right
        seconds[dtype] = time.perf_counter() - started
    return seconds[torch.float32] / seconds[torch.bfloat16]
