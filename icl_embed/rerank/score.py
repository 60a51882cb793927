"""The reranker that users hold: (query, passage) pairs in, scores out, at any depth and width.

Pairs that share a query share its keys and values: everything before the passage goes through the model once
per query instead of once per candidate, with the same scores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from icl_embed.errors import ModelError
from icl_embed.model.batching import plan_batches
from icl_embed.model.dtype import resolve_device, resolve_dtype
from icl_embed.rerank.compress import Rows, make_rows
from icl_embed.rerank.decoder import QueryPrefix
from icl_embed.rerank.model import RerankerModel
from icl_embed.rerank.pair_tokens import PairBuilder, PairTokens
from icl_embed.rerank.saved import RerankerSettings, read_reranker
from icl_embed.rerank.shape import Shape, choose_shape

Scores = NDArray[np.float32]
Pair = tuple[str, str]

BATCH_TOKENS = 8192


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


@dataclass
class Reranker:
    """Scores how well a passage serves a query.

    Examples::

        reranker = Reranker.load(folder)
        reranker.rank("symptoms of flu", passages, top_k=10)
        reranker.score(pairs, cutoff_layer=8, compress_ratio=2)
    """

    model: RerankerModel
    tokenizer: Any
    settings: RerankerSettings

    def __post_init__(self) -> None:
        """Build the prompt builder once."""
        self.pairs = PairBuilder(self.tokenizer, self.settings.max_tokens, self.settings.prompt)

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto", dtype: str = "auto") -> Reranker:
        """Load a reranker folder.

        Raises
            ModelError: the folder is incomplete or damaged.
        """
        place = resolve_device(device)
        return cls(*read_reranker(Path(folder), device=place, dtype=resolve_dtype(dtype, place)))

    def shape(
        self,
        *,
        cutoff_layer: int | None = None,
        compress_ratio: int | None = None,
        compress_layers: Sequence[int] | None = None,
    ) -> Shape:
        """The shape that these options mean for this model; none of them is full depth, uncompressed.

        Raises
            ConfigError: this model cannot run it.
        """
        return choose_shape(
            self.settings.head_layers,
            cutoff_layer=cutoff_layer,
            compress_ratio=compress_ratio,
            compress_layers=compress_layers,
            default_layers=self.settings.compress_layers,
        )

    def score(
        self,
        pairs: Sequence[Pair],
        *,
        cutoff_layer: int | None = None,
        compress_ratio: int | None = None,
        compress_layers: Sequence[int] | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> Scores:
        """Scores [N] of (query, passage) pairs, higher is better; full depth unless told otherwise.

        Raises
            ConfigError: this model cannot run the depth or width asked for.
            DataError: an empty query or passage.
            ModelError: a score is not finite.
        """
        shape = self.shape(
            cutoff_layer=cutoff_layer, compress_ratio=compress_ratio, compress_layers=compress_layers
        )
        scores: Scores = self.score_exits(pairs, shape, batch_tokens=batch_tokens).scores[-1]
        return scores

    def rank(
        self,
        query: str,
        passages: Sequence[str],
        *,
        top_k: int | None = None,
        cutoff_layer: int | None = None,
        compress_ratio: int | None = None,
        compress_layers: Sequence[int] | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> list[RankedPassage]:
        """The best passages of a query, best first; equal scores keep their order.

        Raises
            ConfigError, DataError, ModelError: as ``score``.
        """
        scores = self.score(
            [(query, passage) for passage in passages],
            cutoff_layer=cutoff_layer,
            compress_ratio=compress_ratio,
            compress_layers=compress_layers,
            batch_tokens=batch_tokens,
        )
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [RankedPassage(int(spot), passages[spot], float(scores[spot])) for spot in order]

    def score_exits(
        self,
        pairs: Sequence[Pair],
        shape: Shape,
        *,
        batch_tokens: int = BATCH_TOKENS,
        share_queries: bool = True,
    ) -> Exits:
        """Scores at every head up to the shape's cutoff, from one pass.

        ``seconds`` at a head is the time a pass that stops there would take: deeper layers, of the candidates
        and of their query's prefix alike, are only computed afterwards.

        Parameters
            share_queries: compute a query's part once for its candidates; False is the reference's way.

        Raises
            DataError, ModelError: as ``score``.
        """
        layers = tuple(layer for layer in self.settings.head_layers if layer <= shape.cutoff_layer)
        scores = np.empty((len(layers), len(pairs)), np.float32)
        seconds = np.zeros(len(layers))
        tokens = self.pairs.pairs(pairs)
        with torch.inference_mode():
            for numbers, rows, query in _batches(tokens, self.pairs.pad, batch_tokens, share_queries):
                started = time.perf_counter()
                prefix = QueryPrefix(self.model.decoder, query) if query else None
                for number, (_, exit_scores) in enumerate(self.model.walk(rows, shape, prefix)):
                    scores[number, numbers] = exit_scores.cpu().numpy()  # waits for the device
                    seconds[number] += time.perf_counter() - started
        _refuse_not_finite(scores, pairs)
        return Exits(layers, scores, seconds)


def _batches(
    tokens: Sequence[PairTokens], pad: int, batch_tokens: int, share_queries: bool
) -> Iterator[tuple[list[int], Rows, list[int]]]:
    """Pair numbers, their rows, and the query tokens they share (none: the rows are whole)."""
    by_query: dict[tuple[int, ...], list[int]] = {}
    for number, pair in enumerate(tokens):
        by_query.setdefault(tuple(pair.query), []).append(number)
    alone: list[int] = []
    for query, numbers in by_query.items():
        if len(numbers) == 1 or not share_queries:
            alone += numbers
            continue
        lengths = [len(tokens[number]) - len(query) for number in numbers]
        for batch in plan_batches(lengths, batch_tokens, extra_tokens=len(query)):
            chosen = [numbers[spot] for spot in batch]
            yield chosen, make_rows([tokens[spot] for spot in chosen], pad, after_query=True), list(query)
    for batch in plan_batches([len(tokens[number]) for number in alone], batch_tokens):
        chosen = [alone[spot] for spot in batch]
        yield chosen, make_rows([tokens[spot] for spot in chosen], pad), []


def _refuse_not_finite(scores: Scores, pairs: Sequence[Pair]) -> None:
    finite = np.isfinite(scores).all(axis=0)
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise ModelError(
            f"the score of pair {bad} (query {pairs[bad][0][:60]!r}) is not finite, as are "
            f"{int((~finite).sum())} of {len(pairs)}; the model's weights or dtype are broken"
        )
