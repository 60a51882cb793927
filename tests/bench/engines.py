"""Encoding by several processes: how much faster two are than one, and what Ray costs beside a pipe.

make bench-engines                                       # the committed result; some minutes
make bench-engines BENCH_ARGS='--texts 200 --rounds 1 --out quick.json'

Every process computes with one thread. The model has made-up weights, on which the speed does not depend.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icl_embed.model.embedder import Embedder
from icl_embed.model.encoder_pool import EncoderPool
from tests.bench.machine import describe_machine
from tests.bench.options import RESULTS
from tests.tiny_models import build_model

LAYERS, WIDTH = 6, 384
WORDS = (10, 120)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5, help="of all contestants, one after the other")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "engines.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe_machine(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = build_model(Path(scratch) / "model", layers=LAYERS, width=WIDTH)
        result = measure(folder, made_up_texts(options.texts), options.rounds, options.processes)
    result |= {"texts": options.texts, "layers": LAYERS, "width": WIDTH, "machine": machine}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{json.dumps(result)}\nwritten to {options.out}\n")


def made_up_texts(count: int) -> list[str]:
    """Texts of very different lengths, the same every time."""
    rng = random.Random(1)
    return [" ".join(rng.choices(("sun", "moon", "star"), k=rng.randint(*WORDS))) for _ in range(count)]


def measure(folder: Path, texts: list[str], rounds: int, processes: int) -> dict[str, Any]:
    """Seconds of each contestant, the ratios of their medians, and how far their vectors are apart."""
    devices = ["cpu"] * processes
    alone = Embedder.load(folder, device="cpu", dtype="float32")
    with (
        EncoderPool(folder, devices, dtype="float32") as local,
        EncoderPool(folder, devices, dtype="float32", engine="ray") as ray,
    ):
        contestants: dict[str, Callable[[list[str]], Any]] = {
            "one process": alone.encode_passages,
            "local": local.encode_passages,
            "ray": ray.encode_passages,
        }
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        vectors = {name: encode(texts[:50]) for name, encode in contestants.items()}  # warm
        for _ in range(rounds):
            for name, encode in contestants.items():
                began = time.perf_counter()
                vectors[name] = encode(texts)
                seconds[name].append(round(time.perf_counter() - began, 3))
    middle = {name: statistics.median(found) for name, found in seconds.items()}
    reference = vectors["one process"]
    return {
        "processes": processes,
        "seconds": seconds,
        "local_vs_one": round(middle["one process"] / middle["local"], 2),
        "ray_vs_one": round(middle["one process"] / middle["ray"], 2),
        "ray_overhead": round(middle["ray"] / middle["local"] - 1, 3),
        "largest_difference": float(max(np.abs(found - reference).max() for found in vectors.values())),
    }


if __name__ == "__main__":
    main()
