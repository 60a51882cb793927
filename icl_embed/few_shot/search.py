"""Search for good examples by trying them: successive halving, and greedy forward selection built on it.

A trial is cheap, because all queries of an example set share its prefix; still, most sets need not be tried
on all queries. Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943) tries many on few queries and
drops the worse half each time the share of queries doubles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from icl_embed.errors import ConfigError

Positions = tuple[int, ...]
"""An example set: positions of candidates, in the order in which they are shown."""

Score = Callable[[Positions, float], float]
"""The score of an example set on the first ``share`` (0, 1] of the development queries; more is better."""


@dataclass(frozen=True)
class Found:
    """The best set that was tried on all queries, its score, and how many sets were tried at all."""

    positions: Positions
    score: float
    num_tried: int


def halve(sets: Sequence[Positions], score: Score, shares: Sequence[float]) -> tuple[Positions, float]:
    """The best of some sets, and its score at the last share.

    Every set is scored at the first share; before each further share the worse half is dropped. Ties keep the
    earlier set. With scores that do not depend on the share this is the plain maximum.
    """
    alive = list(sets)
    ranked: list[tuple[float, int]] = []
    for rung, share in enumerate(shares):
        if rung:
            alive = [alive[row] for _, row in ranked[: math.ceil(len(ranked) / 2)]]
        ranked = sorted(((score(one, share), row) for row, one in enumerate(alive)), key=_best_first)
    best, row = ranked[0]
    return alive[row], best


def search_halving(
    num_candidates: int, shots: int, score: Score, *, shares: Sequence[float], budget: float, seed: int
) -> Found:
    """The best of as many random sets as the budget allows, by successive halving."""
    sets = draw_sets(num_candidates, shots, affordable(budget, shares), seed)
    positions, best = halve(sets, score, shares)
    return Found(positions, best, len(sets))


def search_greedy(
    num_candidates: int, shots: int, score: Score, *, shares: Sequence[float], budget: float, seed: int
) -> Found:
    """One example after the other: the one that helps most behind those already chosen, of a random few.

    The best set of any length up to ``shots`` is returned, so an example that only harms is not kept.
    """
    generator = Random(f"{seed}:greedy")
    per_round = affordable(budget / shots, shares)
    chosen: Positions = ()
    found = Found((), -math.inf, 0)
    for _ in range(min(shots, num_candidates)):
        left = [row for row in range(num_candidates) if row not in chosen]
        tried = generator.sample(left, min(per_round, len(left)))
        chosen, best = halve([(*chosen, row) for row in tried], score, shares)
        total = found.num_tried + len(tried)
        found = (
            Found(chosen, best, total) if best > found.score else Found(found.positions, found.score, total)
        )
    return found


def draw_sets(num_candidates: int, shots: int, count: int, seed: int) -> list[Positions]:
    """Up to ``count`` distinct random sets; distinct up to their order."""
    generator = Random(f"{seed}:sets")
    size = min(shots, num_candidates)
    sets: dict[frozenset[int], Positions] = {}
    for _ in range(4 * count):  # a small pool has few distinct sets
        if len(sets) == count:
            break
        drawn = tuple(generator.sample(range(num_candidates), size))
        sets.setdefault(frozenset(drawn), drawn)
    return list(sets.values())


def affordable(budget: float, shares: Sequence[float]) -> int:
    """How many sets can start if everything may cost ``budget`` passes over all queries; at least two.

    A set pays only for queries that it was not tried on before: their vectors are kept.
    """
    cost, alive, before = 0.0, 1.0, 0.0
    for share in shares:
        cost += alive * (share - before)
        alive, before = alive / 2, share
    return max(2, int(budget / cost))


def halving_shares(num_queries: int, *, smallest: int, rungs: int = 4) -> tuple[float, ...]:
    """Doubling shares up to all queries; no trial on fewer than ``smallest`` of them.

    Raises
        ConfigError: there are no queries.
    """
    if num_queries < 1:
        raise ConfigError("a search needs at least one development query, found none")
    shares = [1.0]
    while len(shares) < rungs and num_queries * shares[0] / 2 >= smallest:
        shares.insert(0, shares[0] / 2)
    return tuple(shares)


def _best_first(item: tuple[float, int]) -> tuple[float, int]:
    return (-item[0], item[1])
