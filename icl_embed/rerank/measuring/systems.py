"""What a reranker is compared with: first stage, BM25, its own full depth and its lightweight way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icl_embed.evaluate.measurement import Measurement
from icl_embed.rerank.cascade import Cascade
from icl_embed.rerank.measuring.candidates import Candidates
from icl_embed.rerank.measuring.first_stage import bm25_measurements
from icl_embed.rerank.measuring.grid import Grid, Progress, score_grid, time_cascade
from icl_embed.rerank.score import Reranker
from icl_embed.rerank.shape import Shape
from icl_embed.rerank.ways import Way, full_way, passes_of, with_pass_of

FIRST_STAGE, FULL_DEPTH, LIGHTWEIGHT, BM25 = "first_stage", "full_depth", "lightweight", "bm25"


@dataclass(frozen=True)
class Systems:
    """The systems on all data sets.

    Attributes
        bm25: data set -> metric -> BM25 as a first stage of its own, where it was evaluated.
    """

    grid: Grid
    full: Shape
    lightweight: Way
    bm25: Mapping[str, Mapping[str, Measurement]]

    @property
    def ways(self) -> list[Way]:
        """Every exit and width, and the lightweight way."""
        return list(dict.fromkeys([*self.grid.exits, self.lightweight]))

    def of(self, number: int, metric: str) -> dict[str, Measurement]:
        """The systems on one data set."""
        scored = self.grid.sets[number]
        found = self.bm25.get(scored.candidates.dataset)
        return {
            **({BM25: found[metric]} if found else {}),
            FIRST_STAGE: scored.first_stage(metric),
            FULL_DEPTH: self.grid.measurements(self.full, metric)[number],
            LIGHTWEIGHT: self.grid.measurements(self.lightweight, metric)[number],
        }

    def everywhere(self, metric: str) -> dict[str, list[Measurement]]:
        """The systems that were measured on all data sets."""
        each = [self.of(number, metric) for number in range(len(self.grid.sets))]
        return {name: [one[name] for one in each] for name in each[0] if all(name in one for one in each)}

    def against_full(self, way: Way) -> list[tuple[Measurement, Measurement]]:
        """(full depth, a way) per data set."""
        return list(zip(self.grid.measurements(self.full), self.grid.measurements(way), strict=True))


def measure_systems(
    reranker: Reranker,
    inputs: Sequence[Candidates],
    lightweight: Way,
    *,
    ratios: Sequence[int],
    batch_tokens: int,
    bm25: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Systems:
    """Score all candidates at every exit and width.

    Raises
        EvaluationError: an evaluation of BM25 is damaged, or of other queries.
        DataError, ModelError: as ``Reranker.score``.
    """
    settings = reranker.settings
    passes = with_pass_of(passes_of(settings, ratios), lightweight, settings)
    grid = score_grid(reranker, inputs, passes, batch_tokens=batch_tokens, progress=progress)
    if isinstance(lightweight, Cascade):  # its scores could be read off the passes, its seconds could not
        time_cascade(reranker, grid, lightweight, batch_tokens=batch_tokens, progress=progress)
    return Systems(grid, full_way(settings), lightweight, bm25_measurements(bm25, grid.sets))
