"""Strategies that give all queries of a task the same examples, without looking at any score."""

from __future__ import annotations

from itertools import chain, zip_longest
from random import Random
from typing import Literal

import numpy as np

from icl_embed.selection.candidates import Candidates
from icl_embed.selection.diversity import choose_by_mmr, choose_k_center


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
