"""The reranker that users hold: (query, passage) pairs in, scores out, at any depth and width.

Pairs that share a query share its keys and values: everything before the passage goes through the model once
per query instead of once per candidate, with the same scores.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from icl_embed.errors import ConfigError, DataError
from icl_embed.model.attention import use_packed_attention
from icl_embed.model.cpu.kernels import speed_up
from icl_embed.model.dtype import resolve_device, resolve_dtype
from icl_embed.model.memory import MemoryLimit
from icl_embed.model.other_process import Portable, mind_forks
from icl_embed.progress import progress_bar
from icl_embed.rerank.decoder import device_of
from icl_embed.rerank.flops import Costs, costs_of, query_flops
from icl_embed.rerank.folder import RerankerSettings, read_reranker
from icl_embed.rerank.forward import CascadeScores, Exits, Passes, RankedPassage, Scores, refuse_not_finite
from icl_embed.rerank.model import RerankerModel
from icl_embed.rerank.pairs import Pair, PairBuilder, distinct_pairs
from icl_embed.rerank.shape import (
    Calibration,
    Shape,
    ShapeOptions,
    calibrate,
    calibration_of,
    sigmoid,
)
from icl_embed.rerank.ways import Cascade, Way

BATCH_TOKENS = 8192
BLANK_SCORE = -1000.0  # of a passage that says nothing: below what a head gives, and a probability of zero


@dataclass
class Reranker(Portable):
    """Scores how well a passage serves a query.

    Equal pairs are scored once. No pairs give no scores. A blank passage gets ``BLANK_SCORE``.
    A reranker can be pickled and copied; the weights go along.

    Examples::

        reranker = Reranker.load(folder)
        reranker.rank("symptoms of flu", passages, top_k=10)
        reranker.score(pairs, cutoff_layer=8, compress_ratio=2)
        reranker.rank("symptoms of flu", passages, cascade=Cascade(((8, 0.3),), reranker.shape()))
    """

    model: RerankerModel
    tokenizer: Any
    settings: RerankerSettings

    def __post_init__(self) -> None:
        """Build the prompt builder once; raises ConfigError if the model holds fewer tokens than allowed."""
        use_packed_attention(self._backbone)
        context = getattr(self.model.decoder.config, "max_position_embeddings", None)
        if context is not None and self.settings.max_tokens > context:
            raise ConfigError(
                f"max_tokens is {self.settings.max_tokens}, but the model holds {context} tokens; lower it"
            )
        self.pairs = PairBuilder(
            self.tokenizer, self.settings.max_tokens, self.settings.prompt, self.settings.prompt_place
        )
        self._memory = MemoryLimit(device_of(self.model.decoder))

    @property
    def _backbone(self) -> Any:
        return self.model.decoder

    @classmethod
    def load(
        cls, folder: Path, *, device: str = "auto", dtype: str = "auto", max_tokens: int | None = None
    ) -> Reranker:
        """Load a reranker folder.

        Parameters
            max_tokens: of a whole pair, in place of the saved limit.

        Raises
            ModelError: the folder is incomplete or damaged.
            ConfigError: more tokens than the model holds.
        """
        mind_forks()
        place = resolve_device(device)
        model, tokenizer, settings = read_reranker(
            Path(folder), device=place, dtype=resolve_dtype(dtype, place)
        )
        speed_up(model.decoder)
        if max_tokens is not None:
            settings = settings.model_copy(update={"max_tokens": max_tokens})
        return cls(model, tokenizer, settings)

    @cached_property
    def costs(self) -> Costs:
        """What layers and heads cost; for ``query_flops``."""
        return costs_of(self.model.decoder, self.model.pooling)

    def shape(self, **options: Unpack[ShapeOptions]) -> Shape:
        """The shape that these options mean for this model; none of them is full depth, uncompressed.

        Raises
            ConfigError: this model cannot run it.
        """
        return self.settings.shape(**options)

    def score(
        self,
        pairs: Sequence[Pair],
        *,
        batch_tokens: int = BATCH_TOKENS,
        show_progress: bool = False,
        **options: Unpack[ShapeOptions],
    ) -> Scores:
        """Scores [N] of (query, passage) pairs, higher is better; full depth unless told otherwise.

        Parameters
            batch_tokens: tokens that go through the model at once; lowered when memory runs out.
            show_progress: a progress bar on the terminal.

        Raises
            ConfigError: this model cannot run the depth or width asked for.
            DataError: an empty query, or an item that is not a pair of texts.
            ModelError: a score is not finite, or one pair does not fit the memory.
        """
        exits = self.score_exits(
            pairs, self.shape(**options), batch_tokens=batch_tokens, show_progress=show_progress
        )
        scores: Scores = exits.scores[-1]
        return scores

    def probabilities(
        self, pairs: Sequence[Pair], *, batch_tokens: int = BATCH_TOKENS, **options: Unpack[ShapeOptions]
    ) -> NDArray[np.float64]:
        """Probabilities [N] that the passage serves the query: sigmoid(a · score + b).

        a and b are those of the shape in the settings; of a shape that was never calibrated they are 1 and 0.

        Raises
            ConfigError, DataError, ModelError: as ``score``.
        """
        slope, offset = calibration_of(self.settings.calibrations, self.shape(**options))
        return sigmoid(slope * self.score(pairs, batch_tokens=batch_tokens, **options) + offset)

    def calibrate(
        self,
        pairs: Sequence[Pair],
        labels: ArrayLike,
        *,
        batch_tokens: int = BATCH_TOKENS,
        **options: Unpack[ShapeOptions],
    ) -> Calibration:
        """The calibration of a shape on labelled pairs (1: serves the query); ``save_calibration`` keeps it.

        Raises
            ConfigError: labels that are not 0 and 1, of each pair one; otherwise as ``score``.
            DataError, ModelError: as ``score``.
        """
        scores = self.score(pairs, batch_tokens=batch_tokens, **options)
        return calibrate(self.shape(**options), scores, labels)

    def rank(
        self,
        query: str,
        passages: Sequence[str],
        *,
        top_k: int | None = None,
        cascade: Cascade | None = None,
        batch_tokens: int = BATCH_TOKENS,
        **options: Unpack[ShapeOptions],
    ) -> list[RankedPassage]:
        """The best passages of a query, best first; equal scores keep their order.

        Parameters
            cascade: sift candidates at early exits; it brings its own shape.

        Raises
            ConfigError, DataError, ModelError: as ``score``.
        """
        if isinstance(passages, str):
            raise DataError("expected a list of passages, found one text; put it in a list")
        if top_k is not None and top_k < 1:
            raise ConfigError(f"top_k must be at least 1, found {top_k}")
        pairs = [(query, passage) for passage in passages]
        scores: NDArray[Any]
        if cascade is None:
            scores = self.score(pairs, batch_tokens=batch_tokens, **options)
        elif any(value is not None for value in options.values()):
            raise ConfigError(f"a cascade has a shape of its own; leave out {', '.join(options)}")
        else:
            scores = self.score_cascade(pairs, cascade, batch_tokens=batch_tokens).scores
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [RankedPassage(int(spot), passages[spot], float(scores[spot])) for spot in order]

    def score_exits(
        self,
        pairs: Sequence[Pair],
        shape: Shape,
        *,
        batch_tokens: int = BATCH_TOKENS,
        share_queries: bool = True,
        show_progress: bool = False,
    ) -> Exits:
        """Scores at every head up to the shape's cutoff, from one pass.

        ``seconds`` at a head is the time a pass that stops there would take: deeper layers, of the candidates
        and of their query's part alike, are only computed afterwards.

        Parameters
            share_queries: compute a query's part once for its candidates; False is the reference's way.

        Raises
            DataError, ModelError: as ``score``.
        """
        layers = tuple(layer for layer in self.settings.head_layers if layer <= shape.cutoff_layer)
        unique, places = distinct_pairs(pairs)
        read = np.flatnonzero([bool(passage.strip()) for _, passage in unique])
        tokens = self.pairs.pairs([unique[number] for number in read])
        scores = np.full((len(layers), len(unique)), BLANK_SCORE, np.float32)
        seconds = np.zeros(len(layers))
        passes = self._passes(batch_tokens, share_queries)
        with torch.inference_mode(), progress_bar(len(read), show_progress, "scoring") as advance:
            for numbers, found, spent in passes.exits(tokens, shape):
                scores[:, read[numbers]] = found
                seconds += spent
                advance(len(numbers))
        refuse_not_finite(scores, unique, places)
        return Exits(layers, scores[:, places], seconds)

    def score_cascade(
        self,
        pairs: Sequence[Pair],
        cascade: Cascade,
        *,
        batch_tokens: int = BATCH_TOKENS,
        show_progress: bool = False,
    ) -> CascadeScores:
        """Scores from a cascade; queries are sifted apart, and those with short searches share a batch.

        Raises
            ConfigError: a layer of the cascade has no head.
            DataError, ModelError: as ``score``.
        """
        cascade.refuse_other_heads(self.settings.head_layers)
        unique, places = distinct_pairs(pairs)
        tokens = self.pairs.pairs(unique)
        members: dict[str, list[int]] = {}  # of each query; blank passages are put below them afterwards
        blank: list[int] = []
        for number, (query, passage) in enumerate(unique):
            mine = members.setdefault(query, [])
            (mine if passage.strip() else blank).append(number)
        asked = [query for query, numbers in members.items() if numbers]
        searches = [[tokens[number] for number in members[query]] for query in asked]
        scores = np.full(len(unique), BLANK_SCORE)
        layers = np.zeros(len(unique), dtype=np.int64)
        flops = dict.fromkeys(members, 0)
        passes = self._passes(batch_tokens)
        started = time.perf_counter()
        with torch.inference_mode(), progress_bar(len(unique), show_progress, "scoring") as advance:
            for search, outcome in passes.cascades(searches, cascade):
                numbers = members[asked[search]]
                flops[asked[search]] = query_flops(
                    self.costs, searches[search], cascade, reached=outcome.reached
                )
                scores[numbers] = outcome.scores
                for layer, candidates in zip(outcome.layers, outcome.reached, strict=True):
                    layers[[numbers[candidate] for candidate in candidates]] = layer
                advance(len(numbers))
        seconds = time.perf_counter() - started
        for number in blank:
            scores[number] = min([BLANK_SCORE, *(scores[members[unique[number][0]]] - 1.0)])
        return CascadeScores(scores[places], layers[places], tuple(flops.values()), seconds)

    def _passes(self, batch_tokens: int, share_queries: bool = True) -> Passes:
        if batch_tokens < 1:
            raise ConfigError(f"batch_tokens must be at least 1, found {batch_tokens}")
        mind_forks()
        return Passes(self.model, self._memory, batch_tokens=batch_tokens, share_queries=share_queries)


@dataclass(frozen=True)
class InWay:
    """A reranker that always runs in one way: what scores pairs for mteb and AIR-Bench."""

    reranker: Reranker
    way: Way
    batch_tokens: int = BATCH_TOKENS

    def score(self, pairs: Sequence[tuple[str, str]], /) -> NDArray[np.floating[Any]]:
        """Scores [N]; those of a cascade are comparable within a query only.

        Raises
            DataError, ModelError: as ``Reranker.score``.
        """
        return score_by(self.reranker, pairs, self.way, batch_tokens=self.batch_tokens)


def score_by(
    reranker: Reranker,
    pairs: Sequence[tuple[str, str]],
    way: Way,
    *,
    batch_tokens: int,
    show_progress: bool = False,
) -> NDArray[np.floating[Any]]:
    """Scores [N]; those of a cascade are comparable within a query only.

    Raises
        DataError, ModelError: as ``Reranker.score``.
    """
    if isinstance(way, Cascade):
        return reranker.score_cascade(
            pairs, way, batch_tokens=batch_tokens, show_progress=show_progress
        ).scores
    exits = reranker.score_exits(pairs, way, batch_tokens=batch_tokens, show_progress=show_progress)
    last: NDArray[np.float32] = exits.scores[-1]
    return last


def rank_by(
    reranker: Reranker, query: str, passages: Sequence[str], way: Way, *, top_k: int, batch_tokens: int
) -> list[RankedPassage]:
    """The best passages of a query, best first; equal scores keep their order.

    Raises
        DataError, ModelError: as ``Reranker.rank``.
    """
    if isinstance(way, Cascade):
        return reranker.rank(query, passages, top_k=top_k, cascade=way, batch_tokens=batch_tokens)
    return reranker.rank(
        query,
        passages,
        top_k=top_k,
        batch_tokens=batch_tokens,
        cutoff_layer=way.cutoff_layer,
        compress_ratio=way.compress_ratio,
        compress_layers=way.compress_layers or None,
    )
