"""What examples cost: zero-shot, few-shot over a shared prefix, and few-shot the plain way, in one run.

``python -m tests.bench.few_shot_cost`` encodes the same queries with the demo's base model, interleaving the ways
so that a machine that slows down slows all of them, and writes medians and ratios to
``tests/bench/results/few_shot_cost.json``. The plain way is the same model fed prefix and query of each text as
one sequence, in the same length-sorted batches: what any encoder without prefix sharing does.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from icl_embed.config import ModelConfig
from icl_embed.examples import Example
from icl_embed.model.base import fetch_base_model
from icl_embed.model.embedder import Embedder
from icl_embed.store import StageKey, Store
from icl_embed.store.manifest import git_commit, library_versions

RESULT = Path(__file__).parent / "results" / "few_shot_cost.json"
ROUNDS = 5
NUM_QUERIES = 32
NUM_EXAMPLES = 5
INSTRUCTION = (
    "Given a description of a software vulnerability, retrieve the weakness that it is an example of"
)
SENTENCE = "The parser of version {} copies a name of unchecked length into a fixed buffer on the stack"
RESPONSE = (
    "Out-of-bounds write: the product writes data past the end, or before the beginning, of the buffer. " * 3
)


def base_model() -> Path:
    """The demo's base model at full depth, from the local store or its package."""
    config = ModelConfig()
    key = StageKey("base-model", 1, config.model_dump(mode="json", exclude={"dtype"}), label=config.name)
    return Store(Path("store")).build(key, lambda out: fetch_base_model(config, Path("downloads"), out)).path


def measure(folder: Path, dtype: str) -> dict[str, float]:
    """Median seconds of each way, ratios, and the least cosine between the two few-shot ways."""
    embedder = Embedder.load(folder, device="cpu", dtype=dtype)
    queries = [SENTENCE.format(number) for number in range(NUM_QUERIES)]
    examples = [Example(SENTENCE.format(f"x{number}"), RESPONSE) for number in range(NUM_EXAMPLES)]
    prefix = embedder.prompts.prefix(INSTRUCTION, examples).tokens
    tails = embedder.prompts.query_tails(INSTRUCTION, queries)

    def plain() -> np.ndarray:
        return embedder._encode([prefix + tail for tail in tails], None, 8192, show_progress=False)

    ways: dict[str, Callable[[], np.ndarray]] = {
        "zero_shot": lambda: embedder.encode_queries(queries, instruction=INSTRUCTION),
        "few_shot": lambda: embedder.encode_queries(queries, instruction=INSTRUCTION, examples=examples),
        "few_shot_plain": plain,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    vectors: dict[str, np.ndarray] = {}
    for _ in range(ROUNDS):
        for name, encode in ways.items():
            started = time.perf_counter()
            vectors[name] = encode()
            seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    cosine = (vectors["few_shot"] * vectors["few_shot_plain"]).sum(axis=1).min()
    return {
        **{f"{name}_seconds": round(value, 3) for name, value in median.items()},
        "few_time_vs_zero": round(median["few_shot"] / median["zero_shot"], 3),
        "few_speedup_vs_plain": round(median["few_shot_plain"] / median["few_shot"], 3),
        "min_cosine_to_plain": round(float(cosine), 6),
        "prefix_tokens": len(prefix),
        "query_tokens": len(tails[0]),
    }


def main() -> None:
    """Measure both number formats and write the result file."""
    folder = base_model()
    result = {
        "queries": NUM_QUERIES,
        "rounds": ROUNDS,
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "libraries": library_versions(),
        "commit": git_commit(),
        **{dtype: measure(folder, dtype) for dtype in ("float32", "bfloat16")},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(RESULT.read_text(encoding="utf-8"))


def processor() -> str:
    """The processor's name as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
