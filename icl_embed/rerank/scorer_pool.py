"""Scoring pairs on several devices: the pairs of a query stay together, as they share its keys and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icl_embed.config import EngineConfig
from icl_embed.engines.engine import Engine, Work, start_engine
from icl_embed.rerank.pairs import Pair
from icl_embed.teacher.scoring import ScorePairs

PAIRS_OF_A_JOB = 256

LoadScorer = Callable[[str], ScorePairs]
"""From a device to a function that scores pairs there; it travels by pickle."""


@dataclass(frozen=True)
class ScoreWork(Work):
    """Pairs in, scores out."""

    name: str
    load: LoadScorer

    def open(self, device: str, threads: int) -> Callable[[list[Pair]], NDArray[np.float32]]:
        """Load the scorer."""
        score = self.load(device)
        return lambda pairs: np.asarray(score(pairs), np.float32)


@dataclass
class ScorerPool:
    """Scores pairs on the devices of an engine, whose workers leave when nobody holds it any more."""

    engine: Engine

    @classmethod
    def start(cls, config: EngineConfig, devices: Sequence[str], name: str, load: LoadScorer) -> ScorerPool:
        """Workers that have loaded the scorer.

        Raises
            ConfigError, ModelError: as ``start_engine``.
        """
        return cls(start_engine(config.name, ScoreWork(name, load), devices))

    def score(self, pairs: Sequence[Pair], /) -> NDArray[np.float32]:
        """One score per pair [N].

        Raises
            ModelError: a worker failed.
        """
        scores = np.empty(len(pairs), np.float32)
        places: list[list[int]] = []

        def jobs() -> Iterator[list[Pair]]:
            for members in by_query(pairs):
                places.append(members)
                yield [pairs[member] for member in members]

        for number, found in self.engine.run(jobs()):
            scores[places[number]] = found
        return scores


def by_query(pairs: Sequence[Pair], wanted: int = PAIRS_OF_A_JOB) -> Iterator[list[int]]:
    """Positions of about ``wanted`` pairs at a time, all those of a query among them."""
    of_query: dict[str, list[int]] = {}
    for place, (query, _) in enumerate(pairs):
        of_query.setdefault(query, []).append(place)
    members: list[int] = []
    for mine in of_query.values():
        members += mine
        if len(members) >= wanted:
            yield members
            members = []
    if members:
        yield members
