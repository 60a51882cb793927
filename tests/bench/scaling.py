"""Time and memory of each stage from one GPU to many and from a million passages to a billion: docs/scaling.md.

python -m tests.bench.scaling > docs/scaling.md          # seconds

Operations and bytes are counted; what a GPU reaches of its peak is assumed, and the pool is carried on from the
measured one. Nothing here runs a model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.pipeline.known_sizes import ASSUMED, PUBLISHED_MODELS
from icl_embed.train.cost import Machine
from tests.bench.options import RESULTS

MODEL = "mistralai/Mistral-7B-v0.1"
PASSAGES = (1_000_000, 10_000_000, 1_000_000_000)
GPUS = (1, 8, 64)
QUERIES_PER_PASSAGE = 0.1
CANDIDATES = 15  # of a query, that a teacher scores
EXAMPLES, EXAMPLE_TOKENS = 5, 200
BATCH_TOKENS = 65_536
QUERIES_AT_ONCE = 16_384  # negatives.shard_queries: what a search holds while the passages pass by
DISK = 2e9  # bytes a second that one node reads
NODE = 8  # GPUs
FP32_PEAK = 67e12  # operations a second of an H100 (its data sheet) on numbers in fp32
BF16, F16 = 2, 2
HOUR, GIGABYTE = 3600.0, 1e9


@dataclass(frozen=True)
class Stage:
    """Operations of a stage, bytes that it reads from the disk, and what it keeps there."""

    name: str
    flops: float
    read: float
    kept: float
    is_search: bool = False  # products in fp32, by the GPUs of one node

    def hours(self, machine: Machine) -> float:
        """As long as the slower of the two takes; eight GPUs share a node's disk."""
        nodes = max(1, machine.gpus // NODE)
        if self.is_search:
            gpus = min(NODE, machine.gpus)
            return max(self.flops / (FP32_PEAK * machine.mfu * gpus), self.read / DISK) / HOUR
        return max(machine.seconds(self.flops), self.read / (DISK * nodes)) / HOUR


def stages(shape: DecoderShape, passages: int) -> Iterator[Stage]:
    """Every stage that runs a model over so many passages."""
    lengths, queries = ASSUMED["retrieval"], passages * QUERIES_PER_PASSAGE
    vector = shape.width * F16
    query = int(lengths.instruction + lengths.query)
    prefix = EXAMPLES * EXAMPLE_TOKENS
    yield Stage("encode passages", passages * shape.sequence(int(lengths.passage)), 0, passages * vector)
    yield Stage("encode queries", queries * shape.sequence(query), 0, queries * vector)
    yield Stage(
        f"encode queries, {EXAMPLES} examples",
        shape.sequence(prefix) + queries * shape.sequence(query, after=prefix), 0, queries * vector,
    )  # fmt: skip
    rounds = -(-queries // QUERIES_AT_ONCE)
    flops = 2 * queries * passages * shape.width
    yield Stage("search, exact, on one node", flops, rounds * passages * vector, 0, is_search=True)
    pair = int(lengths.passage) + query
    yield Stage("teacher scores", queries * CANDIDATES * shape.sequence(pair), 0, queries * CANDIDATES * 12)


def page() -> str:
    """The whole document."""
    shape = PUBLISHED_MODELS[MODEL][0]
    pool = json.loads((RESULTS / "pool.json").read_text(encoding="utf-8"))
    measured = pool["pools"][str(pool["largest"])]
    activations = BATCH_TOKENS * (4 * shape.width + 2 * shape.inner) * BF16
    lines = [HEAD]
    for passages in PASSAGES:
        lines += [
            f"\n## {passages:,} passages, {int(passages * QUERIES_PER_PASSAGE):,} queries\n",
            "| stage | operations | "
            + " | ".join(f"hours, {gpus} × H100" for gpus in GPUS)
            + " | disk, GB |",
            "|---|" + "---|" * (len(GPUS) + 2),
        ]
        texts = passages * (1 + QUERIES_PER_PASSAGE)
        factor = texts / measured["texts"]
        hours, size = measured["seconds"] * factor / HOUR, measured["written_gb"] * factor
        cells = " | ".join([shown(hours)] * len(GPUS))
        lines.append(f"| pool, on two CPU cores | – | {cells} | {shown(size)} |")
        for stage in stages(shape, passages):
            cells = " | ".join(shown(stage.hours(Machine("H100", gpus))) for gpus in GPUS)
            kept = shown(stage.kept / GIGABYTE) if stage.kept else "–"
            lines.append(f"| {stage.name} | {stage.flops:.1e} | {cells} | {kept} |")
    facts = {
        "weights": shape.parameters * BF16 / GIGABYTE,
        "activations": activations / GIGABYTE,
        "prefix": 2
        * shape.layers
        * shape.key_heads
        * shape.head_width
        * BF16
        * EXAMPLES
        * EXAMPLE_TOKENS
        / GIGABYTE,
        "peak": measured["peak_rss_gb"],
        "seconds": measured["seconds"],
        "texts": measured["texts"] / 1e6,
    }
    return "\n".join(lines) + "\n" + FOOT.format(**facts)


def shown(number: float) -> str:
    """Two digits that count."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


HEAD = """# How far it scales, on paper

Written by `python -m tests.bench.scaling`. **Only the pool was measured at size** (ten million texts; carried on in
proportion to the texts, which it was from one million to ten). Everything else is counted, for a decoder of the shape of
Mistral-7B in bf16: two operations per multiply-add, attention included, passages of 160 tokens, queries of 40 with their
instruction. A GPU is taken to reach 40 % of its peak (as `icl-embed plan --mfu`), and many to be as good as the sum of each,
which encoding and scoring come near to: batches go to whoever is free, and nothing is exchanged. Eight GPUs share a node's
disk, which reads 2 GB/s."""

FOOT = """
Memory, the same at every size: a GPU holds {weights:.1f} GB of weights and about {activations:.1f} GB of activations for a
batch of 65,536 tokens; the keys and values of five examples take {prefix:.2f} GB, once per task. The search holds {queries} queries and a
block of passages, the pool {peak:.1f} GB at its peak ({texts:.0f} million texts, `memory_limit` 4GB, {seconds:.0f} s measured).

What the tables say:

- **The search is what does not scale.** It grows with the square, stays on the GPUs of one node, computes in fp32 and reads
  every vector again for each shard of queries, which the disk limits: a node whose memory holds ten million vectors needs 0.11
  hours on eight GPUs instead of 0.71. From some ten million passages on, `negatives.search = "faiss"` compares a query with the
  passages of the nearest cells only (64 of 2√P), but holds its index in one node's memory: 8 TB for a billion vectors of 4,096
  dimensions, so vectors must be shorter (Matryoshka) or the corpus cut into parts. A billion passages were not tried, and
  several devices in a search only as threads on a CPU.
- **The pool is one process on one node**, and that is enough: ten hours for a billion texts, if what was seen up to ten million
  goes on; more memory than that was not tried.
- **Examples cost little where a prefix is shared**: the operations of queries with five examples grow by attention to the prefix
  alone.
- Training is not in the tables: `icl-embed plan --preset paper --gpus N` counts it.
""".replace("{queries}", f"{QUERIES_AT_ONCE:,}")


if __name__ == "__main__":
    sys.stdout.write(page())
