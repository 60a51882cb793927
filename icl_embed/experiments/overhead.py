"""What examples cost when queries are encoded: tokens, latency, throughput, memory, operations.

Operations are counted as ``model.decoder_shape`` does.

Timing is honest: every way and shot count is warmed up, then they take turns round by round, so that a
machine that slows down slows all; figures are medians over rounds. Memory is taken in a pass of its own.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from icl_embed.errors import EvaluationError
from icl_embed.examples import Example, ExampleSet
from icl_embed.model.batching import plan_batches
from icl_embed.model.compiled import CompiledTask
from icl_embed.model.cpu.heap import give_back_freed_memory
from icl_embed.model.decoder_shape import DecoderShape
from icl_embed.model.embedder import Embedder
from icl_embed.model.text_encoder import BATCH_TOKENS, Vectors
from icl_embed.store.manifest import processor

PROCESS = Path("/proc/self")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Facts that decide a timing, and the load that may have disturbed it."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """The most memory that ``run`` needs at once, above what was held before it.

    On a GPU what torch allocates, elsewhere the resident memory of the process (Linux); None where the
    system does not tell.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    give_back_freed_memory()  # without this, a second run would seem to need none
    try:
        (PROCESS / "clear_refs").write_text("5")  # the high-water mark starts anew (proc(5))
        before = _status("VmRSS")
        run()
        return max(0, _status("VmHWM") - before)
    except (OSError, KeyError):
        run()
        return None


def _status(name: str) -> int:
    lines = (PROCESS / "status").read_text(encoding="utf-8").splitlines()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(values[name].split()[0]) * 1024


WayName = Literal["shared", "in full"]


class Way(Protocol):
    """One way to ask with one set of examples."""

    name: WayName
    instruction: str
    examples: ExampleSet

    def prepare(self) -> None:
        """What is done once per task, before its first query."""

    def build(self, query: str) -> object:
        """The prompt of one query as token ids."""

    def one(self, query: str) -> Vectors:
        """The vector [1, D] of one query, prepared before."""

    def batch(self, queries: Sequence[str]) -> Vectors:
        """Vectors [N, D] of many queries, preparation included."""


@dataclass
class SharedPrefix:
    """Keys and values of the prefix once per task: ``compile_task`` and ``encode_queries``."""

    embedder: Embedder
    instruction: str
    examples: ExampleSet
    name: WayName = "shared"
    _task: CompiledTask | None = field(default=None, repr=False)

    def prepare(self) -> None:
        """Compile the task."""
        self._task = self.embedder.compile_task(self.instruction, self.examples)

    def build(self, query: str) -> object:
        """Tokens after the prefix."""
        return self.embedder.prompts.query_tails(self.instruction, [query])

    def one(self, query: str) -> Vectors:
        """Through the public function."""
        return self.embedder.encode_queries([query], task=self._task)

    def batch(self, queries: Sequence[str]) -> Vectors:
        """Compile, then encode."""
        self.prepare()
        return self.embedder.encode_queries(queries, task=self._task)


@dataclass
class PrefixInFull:
    """Prefix and query as one sequence per query, as the reference code does.

    The tokens of the prefix are kept between queries, so that the ways differ by the model's work alone.
    """

    embedder: Embedder
    instruction: str
    examples: ExampleSet
    name: WayName = "in full"
    _prefix: list[int] = field(default_factory=list, repr=False)

    def prepare(self) -> None:
        """Tokens of the prefix.

        Raises
            EvaluationError: the prompt holds embedded examples, which have no tokens.
        """
        prefix = self.embedder.prompts.prefix(self.instruction, self.examples)
        if prefix.demonstrations:
            raise EvaluationError(
                "this model embeds its examples (template.demonstrations), they have no tokens to encode in "
                "full; measure a model that reads its examples as text"
            )
        self._prefix = prefix.tokens

    def build(self, query: str) -> object:
        """Tokens of everything, examples included."""
        prompts = self.embedder.prompts
        tokens = prompts.prefix(self.instruction, self.examples).tokens
        return [tokens + tail for tail in prompts.query_tails(self.instruction, [query])]

    def one(self, query: str) -> Vectors:
        """One forward of the whole sequence."""
        return self._embed(self._rows([query]))

    def batch(self, queries: Sequence[str]) -> Vectors:
        """All sequences, in batches of equal cost."""
        self.prepare()
        rows = self._rows(queries)
        batches = plan_batches([len(row) for row in rows], BATCH_TOKENS)
        vectors = np.zeros((len(rows), self.embedder.dimension), np.float32)
        for members in batches:
            vectors[members] = self._embed([rows[member] for member in members])
        return vectors

    def _rows(self, queries: Sequence[str]) -> list[list[int]]:
        tails = self.embedder.prompts.query_tails(self.instruction, queries)
        return [self._prefix + tail for tail in tails]

    def _embed(self, rows: list[list[int]]) -> Vectors:
        found: Vectors = self.embedder.embed_batch(rows).cpu().numpy()
        return found


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

    Parameters
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
    flops, size = DecoderShape.of(embedder.model.config), len(prefix.tokens)
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
