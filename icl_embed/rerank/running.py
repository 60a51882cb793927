"""Running a reranker in a way that was chosen, be it a shape or a cascade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icl_embed.rerank.cascade import Cascade
from icl_embed.rerank.score import BATCH_TOKENS, RankedPassage, Reranker
from icl_embed.rerank.ways import Way


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
