"""Strategies: which examples a task's queries are asked with, one set for all or one for each query.

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
from itertools import chain, zip_longest
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from icl_embed.bm25 import Bm25Index
from icl_embed.config import EvaluateConfig, ExampleStrategy
from icl_embed.errors import ConfigError
from icl_embed.examples import ExampleSet, Selection
from icl_embed.few_shot.candidates import Candidates
from icl_embed.few_shot.settings import FEW_SHOT
from icl_embed.model.cached_encoding import Setting, Vectors
from icl_embed.texts import compared_forms

Similarities = NDArray[np.float32]


def choose_by_mmr(
    vectors: Vectors, relevance: Similarities, count: int, *, relevance_share: float
) -> list[int]:
    """Rows chosen one by one for relevance, less their likeness to what was chosen before.

    The next row maximises ``share · relevance − (1 − share) · max similarity to a chosen row``; ties go to
    the first. Carbonell & Goldstein 1998, The use of MMR; for examples: Diverse-ICL, arXiv 2505.01842.

    Parameters
        vectors: unit vectors [N, D].
        relevance: similarity of each row [N] to what the examples are for.
        count: rows wanted; fewer are returned if there are fewer.
        relevance_share: 1 is plain nearest, 0 looks at diversity alone.
    """
    chosen: list[int] = []
    likeness = np.zeros(len(vectors), np.float32)  # to the chosen rows; nothing is chosen yet
    while len(chosen) < min(count, len(vectors)):
        gain = relevance_share * relevance - (1.0 - relevance_share) * likeness
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        similarity = vectors @ vectors[best]
        likeness = similarity if not chosen else np.maximum(likeness, similarity)
        chosen.append(best)
    return chosen


def choose_k_center(vectors: Vectors, count: int, *, first: int) -> list[int]:
    """Rows such that every row has a chosen one near it: the next is always the farthest from those chosen.

    The largest distance to a chosen row is at most twice the best possible (Gonzalez 1985, Clustering to
    minimize the maximum intercluster distance). Ties go to the first row.

    Parameters
        vectors: unit vectors [N, D]; the distance is one minus cosine.
        count: rows wanted; fewer are returned if there are fewer.
        first: the row to begin with.
    """
    if not len(vectors) or count < 1:
        return []
    chosen = [first]
    nearest = vectors @ vectors[first]
    while len(chosen) < min(count, len(vectors)):
        nearest[chosen] = np.inf
        farthest = int(np.argmin(nearest))
        chosen.append(farthest)
        nearest = np.maximum(nearest, vectors @ vectors[farthest])
    return chosen


MAX_ROUNDS = 50


def find_centres(vectors: Vectors, count: int) -> Vectors:
    """Unit centres [K, D] of at most ``count`` groups; deterministic.

    Starts from rows that are far from each other (k-center from the row nearest to the mean) and alternates
    between assigning rows and averaging them until nothing moves (Dhillon & Modha 2001). A group that loses
    all its rows is dropped.
    """
    start = int(np.argmax(vectors @ vectors.mean(axis=0)))
    centres = vectors[choose_k_center(vectors, count, first=start)]
    groups = nearest_centre(vectors, centres)
    for _ in range(MAX_ROUNDS):
        sums = np.stack([vectors[groups == group].sum(axis=0) for group in np.unique(groups)])
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        moved = nearest_centre(vectors, centres)
        if np.array_equal(moved, groups):
            break
        groups = moved
    return np.asarray(centres, np.float32)


def nearest_centre(vectors: Vectors, centres: Vectors) -> NDArray[np.intp]:
    """The centre [N] nearest to each vector [N, D]; ties go to the first."""
    return np.asarray(np.argmax(vectors @ centres.T, axis=1))


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


def choose_fixed(candidates: Candidates, shots: int, *, seed: int) -> list[int]:
    """The pool's draw: hash order, labels taking turns. What ``icl-embed pool examples`` shows."""
    return candidates.drawn(seed)[:shots]


def choose_random(candidates: Candidates, shots: int, *, seed: int) -> list[int]:
    """A uniform draw without replacement."""
    return draw_rows(len(candidates.rows), shots, task=candidates.task, seed=seed)


def draw_rows(num_rows: int, shots: int, *, task: str, seed: int) -> list[int]:
    """The positions that ``choose_random`` draws; it looks at no example."""
    return Random(f"{seed}:random:{task}").sample(range(num_rows), min(shots, num_rows))


def choose_diverse(
    candidates: Candidates, shots: int, *, method: Literal["mmr", "k_center"], relevance_share: float
) -> list[int]:
    """Queries typical of the task and unlike each other; both methods begin with the most typical."""
    vectors = candidates.vectors
    centre = vectors.mean(axis=0)
    typical = vectors @ (centre / max(float(np.linalg.norm(centre)), 1e-12))
    if method == "mmr":
        return choose_by_mmr(vectors, typical, shots, relevance_share=relevance_share)
    return choose_k_center(vectors, shots, first=int(np.argmax(typical)))


def choose_balanced(candidates: Candidates, shots: int, *, seed: int) -> list[int]:
    """Labels take turns in drawn order, each with its most typical query that is left.

    Typical is near to the mean of the label's vectors. Without labels all candidates are one class.
    """
    by_label: dict[str, list[int]] = {}
    for position in candidates.drawn(seed):
        by_label.setdefault(candidates.rows[position].label, []).append(position)
    turns = zip_longest(*(_most_typical_first(candidates, members) for members in by_label.values()))
    return [position for position in chain.from_iterable(turns) if position is not None][:shots]


def _most_typical_first(candidates: Candidates, members: list[int]) -> list[int]:
    vectors = candidates.vectors[members]
    order = np.argsort(-(vectors @ vectors.mean(axis=0)), kind="stable")
    return [members[row] for row in order]


def choose_setting(
    strategy: ExampleStrategy, candidates: Candidates, config: EvaluateConfig, *, seed: int
) -> Setting:
    """The few-shot setting that a strategy without search gives.

    Raises
        ConfigError: ``search`` was asked for, which needs a ``Workbench``; or options contradict each other.
    """
    shots, options = config.shots, config.selection
    if strategy == "nearest":
        chooser = NearestExamples(
            candidates,
            shots,
            by=options.nearest_by,
            max_sets=options.max_sets,
            relevance_share=options.relevance_share,
            seed=seed,
        )
        return Setting(FEW_SHOT, candidates.instruction, choose=chooser)
    if strategy == "fixed":
        positions = choose_fixed(candidates, shots, seed=seed)
    elif strategy == "random":
        positions = choose_random(candidates, shots, seed=seed)
    elif strategy == "balanced":
        positions = choose_balanced(candidates, shots, seed=seed)
    elif strategy == "diverse":
        positions = choose_diverse(
            candidates, shots, method=options.diverse_by, relevance_share=options.relevance_share
        )
    else:
        raise ConfigError("the strategy search needs development queries; use Workbench.search")
    return Setting(FEW_SHOT, candidates.instruction, candidates.examples(positions))
