"""Choosing the number format: bf16 where this machine computes in it, fp32 otherwise."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from icl_embed.errors import ConfigError

BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")  # of x86 and Arm, as torch names them


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
    """``auto`` is bf16 on devices that compute in it, fp32 on others.

    What a device is decides, never a stopwatch: the format is part of what names a result, so it has to be
    the same whenever it is asked for.

    Raises
        ConfigError: an unknown format.
    """
    if name == "auto":
        return torch.bfloat16 if computes_in_bf16(device) else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in known:
        raise ConfigError(f"dtype must be auto, float32 or bfloat16, found {name!r}")
    return known[name]


def name_dtype(name: str, device: str = "auto") -> str:
    """``resolve_dtype`` by name, for keys and files.

    Raises
        ConfigError: an unknown format or device.
    """
    if name != "auto":
        return name
    return str(resolve_dtype(name, resolve_device(device))).removeprefix("torch.")


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16; others would emulate them slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found: Mapping[str, object] = torch.cpu.get_capabilities()
    return any(bool(found.get(name)) for name in BF16_INSTRUCTIONS)
