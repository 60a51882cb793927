"""Which library multiplies faster on this processor, MKL (torch's choice) or oneDNN, and which one we take.

``python -m tests.bench.products``: one thread, shapes of SmolLM2-135M, rounds by turns, the best time of each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from icl_embed.model import attention
from icl_embed.model.cpu.kernels import _gated, onednn_is_faster, onednn_linear
from tests.bench.machine import describe_machine
from tests.bench.options import RESULTS

WIDTH, INNER, HEAD, KEY_HEADS, HEADS_PER_KEY = 576, 1536, 64, 3, 3
PREFIX = 450  # tokens of five examples

Contestants = tuple[Callable[[], Any], Callable[[], Any]]


def contestants(tokens: int) -> dict[str, Contestants]:
    """What is computed: by torch's default, by oneDNN."""
    draw = torch.Generator().manual_seed(0)

    def made(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    rows, wide, up, gate = made(tokens, WIDTH), made(tokens, INNER), made(INNER, WIDTH), made(INNER, WIDTH)
    query = made(1, KEY_HEADS, HEADS_PER_KEY * tokens, HEAD)
    key, value = made(1, KEY_HEADS, PREFIX, HEAD), made(1, KEY_HEADS, PREFIX, HEAD)
    return {
        "forward": (lambda: F.linear(rows, up), lambda: onednn_linear(rows, up)),
        "backward": (lambda: wide @ up, lambda: onednn_linear(wide, up.t())),
        "gated layer": (
            lambda: F.silu(F.linear(rows, gate)) * F.linear(rows, up),
            lambda: _gated(rows, gate, up),
        ),
        "attention to a prefix": (
            lambda: attention._attend_far_by_flash(query, key, value),
            lambda: attention._attend_far_by_products(query, key, value),
        ),
    }


def measure(tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of both, and how many times as fast oneDNN is."""
    found = {}
    for name, both in contestants(tokens).items():
        best = [float("inf")] * 2
        for _ in range(rounds):
            for number, compute in enumerate(both):
                began = time.perf_counter()
                compute()
                best[number] = min(best[number], time.perf_counter() - began)
        usual, onednn = (round(1000 * seconds, 2) for seconds in best)
        found[name] = {"default_ms": usual, "onednn_ms": onednn, "onednn_is_faster": round(usual / onednn, 2)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "products.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        measured = {tokens: measure(tokens, options.rounds) for tokens in (100, 700, 2048)}
    result = {
        "milliseconds_by_tokens": measured,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "we_take_onednn": onednn_is_faster(torch.float32),
        "machine": describe_machine(1),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{json.dumps(result, indent=1)}\nwritten to {options.out}\n")


if __name__ == "__main__":
    main()
