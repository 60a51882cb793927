"""Three ways to rerank the same test queries, timed by turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icl_embed.rerank.cascade import Cascade
from icl_embed.rerank.measuring.candidates import Candidates, RankedQuery
from icl_embed.rerank.pair_tokens import PairTokens
from icl_embed.rerank.running import score_by
from icl_embed.rerank.score import Reranker
from icl_embed.rerank.ways import Way, full_way
from tests.bench.rerank_reference import ReferenceReranker
from tests.bench.rounds import Say, fastest, spread, take_turns

LIGHT, FULL, REFERENCE = "lightweight", "full depth", "reference way"
REFERENCE_BATCHES = (8, 16, 32, 64)
SETTLING_QUERIES = 4


@dataclass(frozen=True)
class TimedQueries:
    """Test queries of all data sets in turn, as texts and as tokens."""

    reranker: Reranker
    queries: tuple[RankedQuery, ...]
    tokens: tuple[list[PairTokens], ...]
    batch_tokens: int

    @classmethod
    def of(
        cls, reranker: Reranker, inputs: Sequence[Candidates], count: int, *, batch_tokens: int
    ) -> TimedQueries:
        """The first queries of every data set, as many of each as can be."""
        by_turns = [
            candidates.queries[number]
            for number in range(max(len(candidates.queries) for candidates in inputs))
            for candidates in inputs
            if number < len(candidates.queries)
        ][:count]
        tokens = tuple(reranker.pairs.pairs(query.pairs) for query in by_turns)
        return cls(reranker, tuple(by_turns), tokens, batch_tokens)

    def compare(self, folder: Path, way: Way, *, rounds: int, say: Say) -> dict[str, Any]:
        """Seconds of every round, the ratios, and how far the reference's scores are from ours."""
        reference = ReferenceReranker(folder, dtype=self.reranker.model.decoder.dtype)

        def with_reference(batch_size: int, queries: int | None = None) -> float:
            return self._timed(
                lambda number: reference.score(self.tokens[number], batch_size=batch_size), queries
            )

        say("the reference's batch size")
        size, tried = fastest(lambda one: with_reference(one, SETTLING_QUERIES), REFERENCE_BATCHES, say)
        each: dict[str, list[float]] = {LIGHT: [], FULL: []}
        full = full_way(self.reranker.settings)
        contestants: Mapping[str, Callable[[int], float]] = {
            LIGHT: lambda _: self._ours(way, each[LIGHT]),
            FULL: lambda _: self._ours(full, each[FULL]),
            REFERENCE: lambda _: with_reference(size),
        }
        for run in contestants.values():  # warm up
            run(0)
        each[LIGHT].clear()
        each[FULL].clear()
        seconds = take_turns(contestants, rounds, say)
        return {
            "headlines": {
                "time_vs_full_depth": _ratio(seconds, FULL),
                "time_vs_reference": _ratio(seconds, REFERENCE),
            },
            "spread_vs_full_depth": spread(seconds[LIGHT], seconds[FULL]),
            "spread_vs_reference": spread(seconds[LIGHT], seconds[REFERENCE]),
            "full_depth_vs_reference": round(
                statistics.median(seconds[FULL]) / statistics.median(seconds[REFERENCE]), 4
            ),
            "seconds": {name: [round(one, 4) for one in found] for name, found in seconds.items()},
            "latency_per_query": {name: _percentiles(found) for name, found in each.items()},
            "queries": len(self.queries),
            "pairs": sum(map(len, self.tokens)),
            "tokens": sum(len(pair) for pairs in self.tokens for pair in pairs),
            "reference_batch_size": size,
            "reference_batches_tried": {str(one): round(found, 4) for one, found in tried.items()},
            "largest_score_difference_to_reference": self._difference(reference, size),
        }

    def _ours(self, way: Way, each: list[float]) -> float:
        """Seconds as the library counts them: packing and model, not tokenisation."""
        before = len(each)
        for query in self.queries:
            if isinstance(way, Cascade):
                found = self.reranker.score_cascade(query.pairs, way, batch_tokens=self.batch_tokens)
                each.append(found.seconds[0])
            else:
                exits = self.reranker.score_exits(query.pairs, way, batch_tokens=self.batch_tokens)
                each.append(float(exits.seconds[-1]))
        return sum(each[before:])

    def _timed(self, run: Callable[[int], Any], queries: int | None = None) -> float:
        started = time.perf_counter()
        for number in range(len(self.queries) if queries is None else min(queries, len(self.queries))):
            run(number)
        return time.perf_counter() - started

    def _difference(self, reference: ReferenceReranker, size: int) -> float:
        full = full_way(self.reranker.settings)
        gaps = [
            np.abs(
                score_by(self.reranker, query.pairs, full, batch_tokens=self.batch_tokens)
                - reference.score(tokens, batch_size=size)
            ).max()
            for query, tokens in list(zip(self.queries, self.tokens, strict=True))[:SETTLING_QUERIES]
        ]
        return round(float(max(gaps)), 5)


def _ratio(seconds: Mapping[str, Sequence[float]], slow: str) -> float:
    return round(statistics.median(seconds[LIGHT]) / statistics.median(seconds[slow]), 4)


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{share}_ms": round(1000 * float(np.percentile(values, share)), 2) for share in (50, 90, 99)}
