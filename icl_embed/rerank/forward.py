"""Pairs through the model in batches that fit the memory, and what scoring gives back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from icl_embed.errors import ModelError
from icl_embed.model.memory import MemoryLimit, unless_out_of_memory
from icl_embed.rerank.decoder import QueryStates, device_of
from icl_embed.rerank.model import RerankerModel
from icl_embed.rerank.pairs import Pair, PairBatch, PairTokens, pack_pairs, plan_pair_batches, plan_searches
from icl_embed.rerank.shape import Shape
from icl_embed.rerank.ways import Cascade, Outcome, run_cascade

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class RankedPassage:
    """A passage with its score and its position in the list it came from."""

    position: int
    passage: str
    score: float


@dataclass(frozen=True)
class Exits:
    """Scores at every head that a pass went by: layers [E], scores [E, N], seconds to get there [E]."""

    layers: tuple[int, ...]
    scores: Scores
    seconds: NDArray[np.float64]


@dataclass(frozen=True)
class CascadeScores:
    """What a cascade scored and cost.

    Attributes
        scores: [N] float64, comparable within a query: final scores of those kept to the end; all others lie
            below, in the order of the layers they reached and then of their scores there.
        layers: [N] the layer whose head gave each score; 0 for a blank passage, which none has read.
        flops: of each query, in order of appearance.
        seconds: of all of them, from tokens to scores.
    """

    scores: NDArray[np.float64]
    layers: NDArray[np.int64]
    flops: tuple[int, ...]
    seconds: float


def refuse_not_finite(scores: Scores, unique: Sequence[Pair], places: Sequence[int]) -> None:
    """Raise ModelError naming the first pair with a score [E, N] that is not finite.

    Parameters
        unique: the different pairs, as scored.
        places: where each of the caller's pairs is among them.
    """
    broken = ~np.isfinite(scores).all(axis=0)
    if broken.any():
        bad = int(np.flatnonzero(broken)[0])
        raise ModelError(
            f"the score of pair {places.index(bad)} (query {unique[bad][0][:60]!r}) is not finite, as are "
            f"{int(broken.sum())} of {len(unique)}; the model's weights or dtype are broken"
        )


Seconds = NDArray[np.float64]


class Passes:
    """Passes of one call.

    Parameters
        memory: what is known of the limit; it learns when memory runs out.
        batch_tokens: tokens that go through the model at once, if the memory holds as many.
        share_queries: compute a query's part once for its candidates.
    """

    def __init__(
        self, model: RerankerModel, memory: MemoryLimit, *, batch_tokens: int, share_queries: bool = True
    ) -> None:
        self._model, self._memory = model, memory
        self._batch_tokens, self._share = batch_tokens, share_queries
        self._query: tuple[tuple[int, ...], QueryStates] | None = None  # of the batch before

    def exits(
        self, tokens: Sequence[PairTokens], shape: Shape
    ) -> Iterator[tuple[list[int], Scores, Seconds]]:
        """Numbers of the pairs of each batch, scores [E, n] at the heads passed, seconds [E] to get there.

        Raises
            ModelError: one pair does not fit the memory, or is longer than the model looks back.
        """
        yield from self._exits(tokens, list(range(len(tokens))), shape)

    def cascades(
        self, searches: Sequence[Sequence[PairTokens]], cascade: Cascade
    ) -> Iterator[tuple[int, Outcome]]:
        """What a cascade makes of the candidates of each query, with the query's number, as they come.

        Raises
            ModelError: as ``exits``.
        """
        yield from self._cascades(searches, list(range(len(searches))), cascade)

    @property
    def _limit(self) -> int:
        return min(self._batch_tokens, self._memory.tokens or self._batch_tokens)

    def _exits(
        self, tokens: Sequence[PairTokens], numbers: Sequence[int], shape: Shape
    ) -> Iterator[tuple[list[int], Scores, Seconds]]:
        mine = [tokens[number] for number in numbers]
        for batch in plan_pair_batches(mine, self._limit, share_queries=self._share):
            chosen = [numbers[spot] for spot in batch.numbers]
            found = unless_out_of_memory(
                partial(self._run, batch, [mine[spot] for spot in batch.numbers], shape)
            )
            if not isinstance(found, str):
                yield chosen, *found
                continue
            if len(chosen) == 1:
                raise _does_not_fit(batch.num_tokens, found)
            self._memory.lower(batch.num_tokens)
            yield from self._exits(tokens, chosen, shape)

    def _cascades(
        self, searches: Sequence[Sequence[PairTokens]], numbers: Sequence[int], cascade: Cascade
    ) -> Iterator[tuple[int, Outcome]]:
        limit = self._limit
        for together in plan_searches([searches[number] for number in numbers], limit):
            chosen = [numbers[spot] for spot in together]
            mine = [searches[number] for number in chosen]
            found = unless_out_of_memory(partial(run_cascade, self._model, mine, cascade, batch_tokens=limit))
            if not isinstance(found, str):
                yield from zip(chosen, found, strict=True)
                continue
            lengths = [len(pair) - len(pair.query) for search in mine for pair in search]
            if limit < max(lengths):
                raise _does_not_fit(max(lengths), found)
            self._memory.lower(min(limit, sum(lengths)))
            yield from self._cascades(searches, chosen, cascade)

    def _run(self, batch: PairBatch, tokens: Sequence[PairTokens], shape: Shape) -> tuple[Scores, Seconds]:
        started = time.perf_counter()
        query = self._states_of(batch.query)
        pairs = pack_pairs(
            tokens,
            share_queries=self._share,
            shared=query.states if query else None,
            device=device_of(self._model.decoder),
        )
        scores, seconds = [], []
        for _, found in self._model.walk(pairs, shape, query):
            scores.append(found.cpu().numpy())  # waits for the device
            seconds.append(time.perf_counter() - started)
        return np.stack(scores), np.array(seconds)

    def _states_of(self, query: tuple[int, ...]) -> QueryStates | None:
        if not query:
            return None
        if self._query is None or self._query[0] != query:
            self._query = (query, QueryStates(self._model.decoder, list(query)))
        return self._query[1]


def _does_not_fit(num_tokens: int, reason: str) -> ModelError:
    return ModelError(
        f"one pair of {num_tokens} tokens does not fit the memory; lower rerank.max_tokens, compress, leave "
        f"at an earlier layer, or use a larger device ({reason})"
    )
