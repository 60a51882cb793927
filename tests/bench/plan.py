"""How close ``icl-embed plan``'s estimates are: ``python -m tests.bench.plan``, or ``make bench-plan``.

A Llama-type model of SmolLM2-135M's width with random weights (what a step takes does not depend on their values)
trains on made-up rows on CPU in several ways. Compared per way: tokens, operations as torch counts them,
memory (what the graph keeps; where recomputation hides it, the growth of the process), and seconds. The part of the
machine's peak that training reaches is taken from the first way; the seconds of the others follow from it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from icl_embed.experiments.overhead import peak_bytes
from icl_embed.model.architectures import read_config
from icl_embed.model.cpu.kernels import fast_linear
from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.pipeline.known_sizes import measured_sets
from icl_embed.train import cost
from icl_embed.train.job import EmbedderJob
from tests.bench.machine import describe_machine
from tests.measured_steps import HERE, backward, measure, opened
from tests.tiny_models import build_model
from tests.training_jobs import make_job, write_rows

RESULT = Path(__file__).parent / "results" / "plan.json"
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gradient cache": {"gradient_cache": True, "batch_tokens": 1024},
    "recomputed activations": {"activation_checkpointing": True},
    "examples per group": {"examples": {"sharing": "per_group", "group_size": 4}},
    "no examples": {"examples": {"mode": "none"}},
}


def peak_flops(shape: DecoderShape, rounds: int = 5) -> float:
    """Operations per second of the machine's best product, of the model's own sizes."""
    rows, weight = torch.randn(1024, shape.width), torch.randn(shape.inner, shape.width)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        with torch.no_grad():
            for _ in range(10):
                fast_linear(rows, weight)
        seconds.append((time.perf_counter() - started) / 10)
    return 2 * rows.numel() * shape.inner / min(seconds)


def said(
    job: EmbedderJob, shape: DecoderShape, kinds: list[Any], lengths: dict[Any, Any]
) -> dict[str, float]:
    """The estimate of some steps: sums of tokens and operations, and the most memory."""
    train, tokens, flops, held = job.train, 0.0, 0.0, 0.0
    adapters = shape.adapter_parameters(train.lora.rank, train.lora.targets)
    for kind in kinds:
        rows = cost.embedder_step(train, kind, lengths[kind])
        mine = cost.tokens_of(rows)
        forwards = 1 + train.gradient_cache + train.activation_checkpointing
        tokens += mine
        flops += cost.step_flops(
            cost.effort_of(shape, rows), forwards=forwards, adapter_flops=2 * adapters * mine
        )
        held = max(held, cost.held_tokens(train, mine))
    per_layer = cost.layer_activations(shape, train.lora, 4)
    memory = cost.activation_bytes(
        shape, held, per_layer, element=4, checkpointing=train.activation_checkpointing
    )
    return {"tokens": tokens, "flops": flops, "activation_bytes": memory}


def found(job: EmbedderJob, steps: int) -> tuple[dict[str, float], list[Any]]:
    """What the same steps took; seconds are of a second pass, with the products that training uses."""
    measured = [measure(job, step) for step in range(steps)]
    objective, builder = opened(job)
    seconds, kinds, grown = [], [builder.build(step).kind for step in range(steps)], 0
    for step in range(steps):
        started = time.perf_counter()
        backward(objective.loss(step, HERE)[0])
        seconds.append(time.perf_counter() - started)
        if job.train.activation_checkpointing:
            grown = max(
                grown, peak_bytes(lambda step=step: backward(objective.loss(step, HERE)[0]), HERE.device) or 0
            )
    return {
        "tokens": sum(one.tokens for one in measured),
        "flops": sum(one.flops for one in measured),
        "activation_bytes": grown or max(one.kept_bytes for one in measured),
        "seconds": sum(seconds),
        "seconds_per_step_median": statistics.median(seconds),
    }, kinds


def main() -> None:
    """Measure every way, and write how close the estimates are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--queries", type=int, default=16, help="of a step")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = build_model(folder / "model", layers=options.layers, width=576)
        rows, shape = write_rows(folder / "train.parquet"), DecoderShape.of(read_config(model))
        peak, result, used = peak_flops(shape), {}, 0.0
        for name, way in WAYS.items():
            job = make_job(folder / name, model, rows, batch_size=options.queries, **way).model_copy(
                update={"seed": 5}
            )
            real, kinds = found(job, options.steps)
            lengths = {one.kind: one.lengths for one in measured_sets(rows, model, job.settings.template)}
            planned = said(job, shape, kinds, lengths)
            used = used or real["flops"] / real["seconds"] / peak
            planned["seconds"] = planned["flops"] / (peak * used)
            ratios = {key: round(value / real[key], 3) for key, value in planned.items()}
            result[name] = {"said_over_found": ratios, "found": real}
            print(name, ratios, flush=True)
    content = {
        "machine": describe_machine(torch.get_num_threads()),
        "setting": {
            "layers": options.layers,
            "width": 576,
            "steps": options.steps,
            "queries": options.queries,
        },
        "peak_gflop_per_second": round(peak / 1e9, 1),
        "used_of_peak": round(used, 3),
        "ways": result,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
