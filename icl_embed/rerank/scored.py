"""What scoring gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icl_embed.errors import ModelError
from icl_embed.rerank.pair_tokens import Pair

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
