"""Examples near to each query: by words, by vectors, or routed to one of a few sets.

Per-query examples cost one prefix per distinct set. With ``max_sets`` the candidates' own queries are grouped
once, each group gets the examples nearest to its centre, and a query takes the set of the centre nearest to
it: at most that many prefixes (and compiled tasks) serve any number of queries, and the sets do not depend on
them.

Nearest by words is RARe's choice (arXiv 2410.20088), relevance with diversity that of Diverse-ICL
(arXiv 2505.01842). The nearest example comes first: what does not fit into the prompt is dropped from the
end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from icl_embed.evaluate.bm25 import Bm25Index
from icl_embed.evaluate.encoding import Vectors
from icl_embed.examples import ExampleSet, Selection
from icl_embed.pool.choose import compared_forms
from icl_embed.selection.candidates import Candidates
from icl_embed.selection.clusters import find_centres, nearest_centre
from icl_embed.selection.diversity import choose_by_mmr

logger = logging.getLogger(__name__)

NearestBy = Literal["dense", "mmr", "bm25"]


@dataclass(frozen=True)
class NearestExamples:
    """Chooses for each query the candidates whose queries are nearest to it. A ``Chooser``.

    Attributes
        shots: examples per query.
        by: ``dense`` compares zero-shot query vectors, ``mmr`` also keeps the examples apart, ``bm25``
            compares words (fewer than ``shots`` shared-word matches are filled up with the pool's draw).
        max_sets: at most so many distinct sets; 0 gives every query its own, and so does ``bm25`` always.
        relevance_share: of ``mmr``.
        seed: of the pool's draw.
    """

    candidates: Candidates
    shots: int
    by: NearestBy = "dense"
    max_sets: int = 0
    relevance_share: float = 0.7
    seed: int = 0

    @property
    def name(self) -> str:
        """What it does, with its settings."""
        is_grouped = self.max_sets and self.by != "bm25"
        sets = f"at most {self.max_sets} sets" if is_grouped else "a set per query"
        return f"nearest by {self.by}, {self.shots} shots, {sets}"

    def __call__(self, queries: Sequence[str]) -> Selection:
        """The examples of each query; none of them repeats the query itself, up to case and spacing."""
        if not queries:
            return Selection((), ())
        if self.by == "bm25":
            self._warn_of_silence(queries)
            return Selection.of([self._take(self._ranked_by_words(query), query) for query in queries])
        vectors = self.candidates.query_vectors(queries)
        if self.max_sets:
            groups = nearest_centre(vectors, self._centres)
            return Selection.of(
                [self._take(self._sets[group], query) for group, query in zip(groups, queries, strict=True)]
            )
        return Selection.of(
            [self._take(self._near(vector), query) for vector, query in zip(vectors, queries, strict=True)]
        )

    def _take(self, ranked: Iterable[int], query: str) -> ExampleSet:
        (key,) = compared_forms([query])
        return self.candidates.examples([row for row in ranked if self._keys[row] != key][: self.shots])

    def _near(self, vector: Vectors) -> list[int]:
        # one more than is shown: the query itself may be among the candidates
        vectors = self.candidates.vectors
        share = self.relevance_share if self.by == "mmr" else 1.0
        return choose_by_mmr(vectors, vectors @ vector, self.shots + 1, relevance_share=share)

    def _warn_of_silence(self, queries: Sequence[str]) -> None:
        silent = sum(not self._index.known_words(query) for query in queries)
        if silent:
            logger.warning(
                "%s: %d of %d queries have no word that any candidate has; they see the pool's draw",
                self.candidates.task,
                silent,
                len(queries),
            )

    def _ranked_by_words(self, query: str) -> list[int]:
        found = [row for row, _ in self._index.best(query, self.shots + 1)]
        return [*found, *(row for row in self._drawn if row not in found)]

    @cached_property
    def _drawn(self) -> list[int]:
        return self.candidates.drawn(self.seed)

    @cached_property
    def _keys(self) -> list[str]:
        return compared_forms([row.example.query for row in self.candidates.rows])

    @cached_property
    def _index(self) -> Bm25Index:
        return Bm25Index.build([row.example.query for row in self.candidates.rows])

    @cached_property
    def _centres(self) -> Vectors:
        return np.asarray(find_centres(self.candidates.vectors, self.max_sets))

    @cached_property
    def _sets(self) -> list[list[int]]:
        return [self._near(centre) for centre in self._centres]
