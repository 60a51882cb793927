"""Three ways to rerank the same test queries, timed by turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icl_embed.evaluation.reranker.candidates import Candidates, RankedQuery
from icl_embed.rerank.pairs import PairTokens
from icl_embed.rerank.reranker import Reranker, score_by
from icl_embed.rerank.ways import Cascade, Way, full_way
from tests.bench.rerank_reference import ReferenceReranker
from tests.bench.rounds import Say, fastest, spread, take_turns

LIGHT, FULL, REFERENCE = "lightweight", "full depth", "reference way"
REFERENCE_BATCHES = (8, 16, 32, 64)
SETTLING_QUERIES = 4

Numbers = Sequence[int]  # of the queries that one call reranks
Contestants = Mapping[str, Callable[[Numbers], float]]  # seconds of a call


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
        """Seconds of every round, the ratios, and how far the reference's scores are from ours.

        Once with all queries in one call, as an evaluation or a batch job reranks, and once with a call for
        each, as a search engine does.
        """
        reference = ReferenceReranker(folder, dtype=self.reranker.model.decoder.dtype)
        full = full_way(self.reranker.settings)

        def with_reference(numbers: Numbers, batch_size: int) -> float:
            tokens = [pair for number in numbers for pair in self.tokens[number]]
            started = time.perf_counter()
            reference.score(tokens, batch_size=batch_size)
            return time.perf_counter() - started

        say("the reference's batch size")
        numbers = range(len(self.queries))
        few = numbers[:SETTLING_QUERIES]
        size, tried = fastest(lambda one: with_reference(few, one), REFERENCE_BATCHES, say)
        contestants: Contestants = {
            LIGHT: lambda mine: self._ours(mine, way),
            FULL: lambda mine: self._ours(mine, full),
            REFERENCE: lambda mine: with_reference(mine, size),
        }
        together = _measured(contestants, [numbers], rounds, say)
        alone = _measured(contestants, [[number] for number in numbers], rounds, say)
        return {
            "headlines": {
                "time_vs_full_depth": together["vs_full_depth"],
                "time_vs_reference": together["vs_reference"],
                "latency_vs_full_depth": alone["vs_full_depth"],
                "latency_vs_reference": alone["vs_reference"],
            },
            "all_queries_in_one_call": together,
            "a_call_per_query": alone,
            "queries": len(self.queries),
            "pairs": sum(map(len, self.tokens)),
            "tokens": sum(len(pair) for pairs in self.tokens for pair in pairs),
            "reference_batch_size": size,
            "reference_batches_tried": {str(one): round(found, 4) for one, found in tried.items()},
            "largest_score_difference_to_reference": self._difference(reference, size),
        }

    def _ours(self, numbers: Numbers, way: Way) -> float:
        """Seconds as the library counts them: packing and model, not tokenisation."""
        pairs = [pair for number in numbers for pair in self.queries[number].pairs]
        if isinstance(way, Cascade):
            return self.reranker.score_cascade(pairs, way, batch_tokens=self.batch_tokens).seconds
        return float(self.reranker.score_exits(pairs, way, batch_tokens=self.batch_tokens).seconds[-1])

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


def _measured(contestants: Contestants, calls: Sequence[Numbers], rounds: int, say: Say) -> dict[str, Any]:
    """Ratios of the median rounds, their spread, the seconds behind them, and those of a call."""
    each: dict[str, list[float]] = {name: [] for name in contestants}

    def timed(name: str) -> float:
        found = [contestants[name](numbers) for numbers in calls]
        each[name] += found
        return sum(found)

    for run in contestants.values():  # warm up
        run(calls[0])
    seconds = take_turns({name: lambda _, name=name: timed(name) for name in contestants}, rounds, say)
    return {
        "vs_full_depth": _ratio(seconds, LIGHT, FULL),
        "vs_reference": _ratio(seconds, LIGHT, REFERENCE),
        "full_depth_vs_reference": _ratio(seconds, FULL, REFERENCE),
        "spread_vs_full_depth": spread(seconds[LIGHT], seconds[FULL]),
        "spread_vs_reference": spread(seconds[LIGHT], seconds[REFERENCE]),
        "seconds": {name: [round(one, 4) for one in found] for name, found in seconds.items()},
        "seconds_per_call": {name: _percentiles(found) for name, found in each.items()},
    }


def _ratio(seconds: Mapping[str, Sequence[float]], fast: str, slow: str) -> float:
    return round(statistics.median(seconds[fast]) / statistics.median(seconds[slow]), 4)


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{share}": round(float(np.percentile(values, share)), 4) for share in (50, 90, 99)}
