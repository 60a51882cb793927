"""How fast one model encodes, trains and reranks on a GPU, and how far that is from what the GPU can multiply.

``python -m tests.bench.gpu_speed --out FILE`` (``--model FOLDER`` for another than the laptop's base model)

Few-shot queries are timed with their prefix shared, and with a copy of it before every query; both against
zero-shot. Training is the forward and backward pass of one step with adapters; reranking is a model whose heads
nobody trained, which costs the same. A share of the peak is that of a large product of the same format, measured
in the same run. ``--device cpu`` runs all of it without a GPU, to try the script.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from icl_embed.config import LoraConfig, RerankConfig
from icl_embed.examples import Example
from icl_embed.model.architectures import read_config
from icl_embed.model.batching import Group
from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.model.dtype import resolve_dtype
from icl_embed.model.embedder import Embedder
from icl_embed.model.lora import attach
from icl_embed.pipeline.build import build
from icl_embed.pipeline.run import open_run
from icl_embed.rerank.folder import start_from
from icl_embed.rerank.reranker import Reranker
from icl_embed.store.files import write_atomically
from icl_embed.train.cost import Rows, effort_of, step_flops
from tests.bench.machine import describe_machine

ROUNDS = 5
WORDS = 60  # of a passage, about as many tokens
QUERY_WORDS = 12
SHOTS = 5
GROUPS, GROUP_SIZE, PASSAGES = 8, 8, 8  # of a training step: queries that share examples, passages of a query
CANDIDATES = 50  # of a query that are reranked


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, help="a model folder; unset: the base model of the preset laptop"
    )
    parser.add_argument("--texts", type=int, default=2048)
    parser.add_argument("--batch-tokens", type=int, default=65536)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    folder = options.model or build(run := open_run("laptop"), run.keys.base_model).path
    embedder = Embedder.load(folder, device=options.device)
    found = measure(embedder, options.texts, options.batch_tokens)
    found["reranking"] = reranking(folder, embedder.device, options.texts, options.batch_tokens)
    found["training"] = training(embedder, 1e12 * found["peak_tflops"])  # last: the model has adapters then
    write_atomically(options.out, json.dumps(found, indent=1).encode())
    print(json.dumps(found, indent=1))


def measure(embedder: Embedder, num_texts: int, batch_tokens: int) -> dict[str, Any]:
    """Tokens a second and shares of the peak of passages, zero-shot and few-shot queries."""
    draw = random.Random(0)
    passages = texts(embedder.tokenizer, draw, num_texts, WORDS)
    queries = texts(embedder.tokenizer, draw, num_texts, QUERY_WORDS)
    responses = texts(embedder.tokenizer, draw, SHOTS, WORDS)
    examples = [Example(*pair) for pair in zip(queries, responses, strict=False)]
    instruction = "Given a question, retrieve passages that answer it"
    zero, few = embedder.compile_task(instruction), embedder.compile_task(instruction, examples)
    weights = sum(
        parameter.numel() for name, parameter in embedder.model.named_parameters() if "embed" not in name
    )
    peak = peak_flops(embedder.device, embedder.model.dtype)
    rows = {
        "passages": embedder.prompts.passages(passages),
        "queries": embedder.prompts.query_tails(instruction, queries),
    }
    tokens = {name: sum(map(len, found)) for name, found in rows.items()}

    def copied() -> None:  # what a library does that knows no shared prefix
        prefix = few.prefix.tokens
        step = max(1, batch_tokens // (len(prefix) + len(rows["queries"][0])))
        with torch.inference_mode():
            for start in range(0, num_texts, step):
                part = rows["queries"][start : start + step]
                embedder.embed_groups([Group([list(prefix) + list(row)]) for row in part])

    def encode(task: Any) -> Callable[[], object]:
        return lambda: embedder.encode_queries(queries, task=task, batch_tokens=batch_tokens)

    seconds = {
        "passages": timed(lambda: embedder.encode_passages(passages, batch_tokens=batch_tokens)),
        "zero_shot": timed(encode(zero)),
        "few_shot": timed(encode(few)),
        "few_shot_copied_prefix": timed(copied),
    }
    return {
        "machine": describe_machine(1) | {"accelerator": name_of(embedder.device)},
        "dtype": embedder.dtype,
        "texts": num_texts,
        "weights_millions": round(weights / 1e6, 1),
        "prefix_tokens": len(few.prefix.tokens),
        "peak_tflops": round(peak / 1e12, 4),
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "passage_tokens_per_second": round(tokens["passages"] / seconds["passages"]),
        "passage_share_of_peak": round(2 * weights * tokens["passages"] / seconds["passages"] / peak, 4),
        "few_shot_over_zero_shot": round(seconds["few_shot"] / seconds["zero_shot"], 3),
        "copied_over_shared": round(seconds["few_shot_copied_prefix"] / seconds["few_shot"], 2),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)
        if embedder.device.type == "cuda"
        else None,
    }


def texts(tokenizer: Any, draw: random.Random, count: int, length: int) -> list[str]:
    """So many texts of words that are one token each."""
    words = [token for token in tokenizer.get_vocab() if token.isalpha() and token.isascii()]
    return [" ".join(draw.choices(words, k=length)) for _ in range(count)]


def training(embedder: Embedder, peak: float) -> dict[str, float]:
    """Tokens a second of a step's passes, and the share of the peak that its operations are (MFU)."""
    lora = LoraConfig()
    shape = DecoderShape.of(embedder.model.config)
    tuned = Embedder(attach(embedder.model, lora, seed=0), embedder.tokenizer, embedder.settings)
    tuned.model.train()
    prefix, query, passage = [1] * SHOTS * (WORDS + QUERY_WORDS), [2] * QUERY_WORDS, [3] * WORDS
    queries = GROUPS * GROUP_SIZE
    groups = [Group([query] * GROUP_SIZE, prefix) for _ in range(GROUPS)]
    groups.append(Group([passage] * (PASSAGES * queries)))

    def step() -> None:
        tuned.model.zero_grad()
        tuned.embed_groups(groups).square().sum().backward()

    rows = [
        Rows(GROUPS, len(prefix)),
        Rows(queries, len(query), after=len(prefix)),
        Rows(PASSAGES * queries, len(passage)),
    ]
    tokens = sum(one.count * one.tokens for one in rows)
    adapters = shape.adapter_parameters(lora.rank, lora.targets)
    flops = step_flops(effort_of(shape, rows), forwards=1, adapter_flops=2 * adapters * tokens)
    seconds = timed(step)
    return {"tokens_per_second": round(tokens / seconds), "mfu": round(flops / seconds / peak, 4)}


def reranking(folder: Path, device: torch.device, num_texts: int, batch_tokens: int) -> dict[str, float]:
    """Pairs a second at full depth, and how much faster half the depth with half the passage's tokens is."""
    depth = DecoderShape.of(read_config(folder)).layers
    config = RerankConfig(start_layer=depth // 2, compress_layers=(depth // 4,))
    model = Reranker(*start_from(folder, config, device=device, dtype=resolve_dtype("auto", device)))
    draw = random.Random(1)
    passages = texts(model.tokenizer, draw, num_texts, WORDS)
    queries = texts(model.tokenizer, draw, -(-num_texts // CANDIDATES), QUERY_WORDS)
    pairs = [(queries[number // CANDIDATES], passage) for number, passage in enumerate(passages)]
    full = timed(lambda: model.score(pairs, batch_tokens=batch_tokens))
    light = timed(
        lambda: model.score(pairs, batch_tokens=batch_tokens, cutoff_layer=depth // 2, compress_ratio=2)
    )
    return {"pairs_per_second": round(num_texts / full, 1), "lightweight_is_faster": round(full / light, 2)}


def timed(work: Callable[[], object]) -> float:
    """Seconds, the median of a few rounds after one that warms up."""
    found = []
    for _ in range(1 + ROUNDS):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:])


def peak_flops(device: torch.device, dtype: torch.dtype, size: int = 8192) -> float:
    """Operations a second of one large product."""
    size = size if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / timed(lambda: left @ right)


def name_of(device: torch.device) -> str:
    """What the accelerator is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    main()
