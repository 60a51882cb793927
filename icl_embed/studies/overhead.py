"""What examples cost when queries are encoded: prompt, tokens, latency, throughput, memory, operations.

Timing is honest: every way and shot count is warmed up, then they take turns round by round, so that a
machine that slows down slows all; figures are medians over rounds. Memory is taken in a pass of its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from icl_embed.errors import EvaluationError
from icl_embed.examples import Example
from icl_embed.model.embedder import Embedder
from icl_embed.model.text_encoder import Vectors
from icl_embed.studies.flops import DecoderFlops
from icl_embed.studies.machine import peak_bytes
from icl_embed.studies.ways import PrefixInFull, SharedPrefix, Way

Progress = Callable[[str], None]


@dataclass(frozen=True)
class OverheadPlan:
    """What is measured, and how often.

    Attributes
        shots: counts of examples; each takes the first of the same examples.
        batch: queries encoded at once for throughput and memory.
        singles: queries encoded one by one for latency, per round.
        rounds: how often everything takes its turn.
    """

    shots: tuple[int, ...] = (0, 1, 5, 10)
    batch: int = 64
    singles: int = 20
    rounds: int = 3


@dataclass
class _Timed:
    """One way at one shot count, with its seconds, its memory and its vectors."""

    shots: int
    way: Way
    prompt: list[float] = field(default_factory=list)
    prepare: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)
    batch: list[float] = field(default_factory=list)
    peak: int | None = None
    vectors: Vectors = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def keep(self, queries: Sequence[str]) -> None:
        """Encode once more, for memory and vectors."""
        self.vectors = self.way.batch(queries)


def measure_overhead(
    embedder: Embedder,
    *,
    instruction: str,
    examples: Sequence[Example],
    queries: Sequence[str],
    plan: OverheadPlan,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """One row per shot count and way.

    Takes
        examples: as many as the largest shot count, in the order in which they are shown.
        queries: distinct; the first ``plan.batch`` are encoded.

    Raises
        EvaluationError: too few examples or queries, or a model that embeds its examples.
    """
    batch = list(dict.fromkeys(queries))[: plan.batch]
    if len(batch) < 2 or len(examples) < max(plan.shots):
        raise EvaluationError(
            f"overhead needs 2 distinct queries and {max(plan.shots)} examples, found {len(batch)} and "
            f"{len(examples)}; choose another task or fewer shots"
        )
    timed = [
        _Timed(shots, way(embedder, instruction, tuple(examples[:shots])))
        for shots in plan.shots
        for way in (SharedPrefix, PrefixInFull)
    ]
    for one in timed:  # the first calls pay for allocations and the choice of kernels
        one.way.batch(batch[: max(2, plan.batch // 8)])
        one.way.one(batch[0])
    for number in range(plan.rounds):
        for one in timed:
            if progress:
                progress(f"round {number + 1} of {plan.rounds}: {one.shots} shots, {one.way.name}")
            _take_turn(one, batch, batch[: plan.singles])
    for one in timed:
        one.peak = peak_bytes(partial(one.keep, batch), embedder.device)
    return [_row(one, embedder, batch, _distance(timed, one.shots)) for one in timed]


def _take_turn(one: _Timed, batch: Sequence[str], singles: Sequence[str]) -> None:
    one.prepare.append(_seconds(one.way.prepare))
    for query in singles:
        one.prompt.append(_seconds(one.way.build, query))
        one.single.append(_seconds(one.way.one, query))
    one.batch.append(_seconds(one.way.batch, batch))


def _seconds(run: Callable[..., object], *arguments: object) -> float:
    # Every way ends with vectors in main memory, which waits for an accelerator.
    started = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - started


def _distance(timed: Sequence[_Timed], shots: int) -> float:
    first, second = (one.vectors for one in timed if one.shots == shots)
    return float(np.abs(first - second).max())


def _row(one: _Timed, embedder: Embedder, batch: Sequence[str], distance: float) -> dict[str, Any]:
    prompts, way = embedder.prompts, one.way
    prefix = prompts.prefix(way.instruction, way.examples)
    tails = [len(tail) for tail in prompts.query_tails(way.instruction, batch)]
    flops, size = DecoderFlops.of(embedder.model.config), len(prefix.tokens)
    is_shared = way.name == "shared"
    whole = flops.shared(size, tails) if is_shared else flops.in_full(size, tails)
    median_tail = round(statistics.median(tails))
    single = flops.sequence(median_tail, after=size) if is_shared else flops.sequence(size + median_tail)
    p50, p95 = np.percentile(one.single, [50, 95])
    return {
        "shots": one.shots,
        "way": way.name,
        "examples_shown": prefix.num_examples,
        "prefix_tokens": size,
        "query_tokens": round(statistics.fmean(tails), 2),
        "prompt_ms": round(1000 * statistics.median(one.prompt), 4),
        "prepare_ms": round(1000 * statistics.median(one.prepare), 3),
        "latency_p50_ms": round(1000 * float(p50), 3),
        "latency_p95_ms": round(1000 * float(p95), 3),
        "queries_per_second": round(len(batch) / statistics.median(one.batch), 3),
        "queries_per_second_low": round(len(batch) / max(one.batch), 3),
        "queries_per_second_high": round(len(batch) / min(one.batch), 3),
        "peak_bytes": one.peak,
        "gflops_per_query_in_batch": round(whole / len(batch) / 1e9, 6),
        "gflops_single_query": round(single / 1e9, 6),
        "largest_difference": distance,
    }
