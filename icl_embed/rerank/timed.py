"""A query's candidates through the ways of a reranker, by the clock: on one device, or over several.

What a measurement needs besides (settings, costs, tokens) comes along, so that whoever measures holds no
model where workers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icl_embed.config import ONE_HERE, EngineConfig
from icl_embed.engines.engine import Engine, Work, device_of, spread_over, start_engine
from icl_embed.progress import listening
from icl_embed.rerank.flops import Costs
from icl_embed.rerank.folder import RerankerSettings
from icl_embed.rerank.forward import Exits
from icl_embed.rerank.pairs import Pair, PairTokens
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.shape import Shape
from icl_embed.rerank.ways import Cascade, Way


@dataclass(frozen=True)
class Search:
    """A query's candidates, and the ways that score them."""

    pairs: Sequence[Pair]
    ways: Sequence[Way]
    batch_tokens: int


@dataclass(frozen=True)
class TimedScores:
    """What the ways found, with seconds.

    Attributes
        tokens: of each pair.
        exits: of each shape.
        cascades: scores [N] and seconds of each cascade, run by itself.
    """

    tokens: Sequence[PairTokens]
    exits: dict[Shape, Exits]
    cascades: dict[Cascade, tuple[NDArray[np.float64], float]]


class Clock:
    """Times ways on one device. The first search by a way is run once before, which warms it up."""

    def __init__(self, reranker: Reranker) -> None:
        self._reranker, self._warm = reranker, set[Way]()

    def __call__(self, search: Search) -> TimedScores:
        """Raises DataError, ModelError: as ``Reranker.score``."""
        cold = [way for way in search.ways if way not in self._warm]
        with listening(None):
            if cold:
                self._run(Search(search.pairs, cold, search.batch_tokens))
            self._warm.update(cold)
            return self._run(search)

    def _run(self, search: Search) -> TimedScores:
        reranker, pairs = self._reranker, search.pairs
        exits, cascades = {}, {}
        for way in search.ways:
            if isinstance(way, Cascade):
                found = reranker.score_cascade(pairs, way, batch_tokens=search.batch_tokens)
                cascades[way] = (found.scores, found.seconds)
            else:
                exits[way] = reranker.score_exits(pairs, way, batch_tokens=search.batch_tokens)
        return TimedScores(reranker.pairs.pairs(pairs), exits, cascades)


@dataclass(frozen=True)
class TimingWork(Work):
    """Searches in, scores and seconds out; for None, what the reranker is."""

    folder: Path
    dtype: str
    name: str = "reranker"

    def open(
        self, device: str, threads: int
    ) -> Callable[[Search | None], TimedScores | tuple[RerankerSettings, Costs]]:
        """Load the reranker."""
        reranker = Reranker.load(self.folder, device=device, dtype=self.dtype)
        clock = Clock(reranker)
        return lambda search: (reranker.settings, reranker.costs) if search is None else clock(search)


@dataclass(frozen=True)
class RerankerPool:
    """A reranker on the devices of an engine, as far as measuring it goes."""

    settings: RerankerSettings
    costs: Costs
    engine: Engine


@contextmanager
def opened_reranker(
    folder: Path, engine: EngineConfig = ONE_HERE, *, device: str = "auto", dtype: str = "auto"
) -> Iterator[Reranker | RerankerPool]:
    """A reranker on the engine's devices; where that is one device of this machine, in this process.

    Raises
        ConfigError, ModelError: as ``start_engine`` and ``Reranker.load``.
    """
    devices = spread_over(engine, device)
    if devices is None:
        yield Reranker.load(folder, device=device_of(engine, device), dtype=dtype)
        return
    with start_engine(engine.name, TimingWork(folder.resolve(), dtype), devices) as workers:
        [(_, (settings, costs))] = workers.run([None])
        yield RerankerPool(settings, costs, workers)


def timed(
    reranker: Reranker | RerankerPool,
    queries: Iterable[Sequence[Pair]],
    ways: Sequence[Way],
    *,
    batch_tokens: int,
) -> Iterator[tuple[int, TimedScores]]:
    """The number of each query with its candidates' scores, in any order.

    Raises
        DataError, ModelError: as ``Reranker.score``; ModelError also if a worker fails.
    """
    searches = (Search(pairs, ways, batch_tokens) for pairs in queries)
    if isinstance(reranker, RerankerPool):
        yield from reranker.engine.run(searches)
    else:
        clock = Clock(reranker)
        yield from ((number, clock(search)) for number, search in enumerate(searches))
