"""Successive halving and greedy selection on scores that are known in advance."""

import itertools
import random

import pytest

from icl_embed.errors import ConfigError
from icl_embed.few_shot.search import (
    affordable,
    draw_sets,
    halve,
    halving_shares,
    search_greedy,
    search_halving,
)

SHARES = (0.125, 0.25, 0.5, 1.0)


class Meter:
    """A score with a worth per candidate; adds up what is asked for the first time, as cached vectors would."""

    def __init__(self, worth, noise=0.0):
        self.worth, self.noise = worth, noise
        self.seen, self.passes = {}, 0.0

    def __call__(self, positions, share):
        self.passes += max(0.0, share - self.seen.get(positions, 0.0))
        self.seen[positions] = max(share, self.seen.get(positions, 0.0))
        noise = self.noise * (1 - share) * random.Random(f"{positions}:{share}").uniform(-1, 1)
        return sum(self.worth[row] for row in positions) + noise


def exact_greedy(num_candidates, shots, score):
    chosen = ()
    best = (float("-inf"), ())
    for _ in range(shots):
        left = [row for row in range(num_candidates) if row not in chosen]
        chosen = max(((*chosen, row) for row in left), key=lambda one: score(one, 1.0))
        best = max(best, (score(chosen, 1.0), chosen))
    return best


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 33])
def test_halving_without_noise_is_the_plain_maximum(count):
    worth = [random.Random(number).random() for number in range(count)]
    best, score = halve([(row,) for row in range(count)], Meter(worth), SHARES)
    assert (score, best) == max((value, (row,)) for row, value in enumerate(worth))


def test_halving_keeps_the_earlier_of_equal_sets():
    assert halve([(3,), (1,), (2,)], lambda positions, share: 0.5, SHARES) == ((3,), 0.5)


def test_halving_under_noise_beats_most_sets():
    worth = [random.Random(number).random() for number in range(64)]
    best, _ = halve([(row,) for row in range(64)], Meter(worth, noise=0.3), SHARES)
    assert sum(value > worth[best[0]] for value in worth) < 8


def test_what_is_dropped_early_is_never_tried_on_more_queries():
    meter = Meter([row / 16 for row in range(16)])
    halve([(row,) for row in range(16)], meter, SHARES)
    assert [meter.seen[(row,)] for row in (0, 7, 8, 11, 12, 13, 14, 15)] == [
        *(0.125, 0.125, 0.25, 0.25, 0.5, 0.5, 1.0, 1.0)
    ]


@pytest.mark.parametrize("budget", [3, 8, 16, 40])
def test_halving_stays_within_its_budget_and_uses_it(budget):
    meter = Meter([0.1] * 400)
    found = search_halving(400, 5, meter, shares=SHARES, budget=budget, seed=1)
    assert found.num_tried == affordable(budget, SHARES)
    assert 0.75 * budget <= meter.passes <= budget + 2  # halves are rounded up


@pytest.mark.parametrize("seed", range(4))
def test_halving_finds_the_best_of_all_sets_when_it_may_try_them_all(seed):
    worth = [random.Random(f"{seed}:{row}").random() for row in range(6)]
    found = search_halving(6, 2, Meter(worth), shares=(1.0,), budget=500, seed=seed)
    assert found.num_tried == 15
    assert found.score == pytest.approx(max(a + b for a, b in itertools.combinations(worth, 2)))


@pytest.mark.parametrize("seed", range(4))
def test_greedy_that_may_try_everything_is_forward_selection(seed):
    worth = [random.Random(f"{seed}:{row}").uniform(-1, 1) for row in range(9)]

    def score(positions, share):  # pairs help or harm each other, so the order of choice matters
        alone = sum(worth[row] for row in positions)
        return alone + sum(random.Random(f"{a}:{b}").uniform(-1, 1) for a, b in itertools.pairwise(positions))

    found = search_greedy(9, 4, score, shares=SHARES, budget=10_000, seed=seed)
    assert (found.score, found.positions) == exact_greedy(9, 4, score)


def test_greedy_does_not_keep_an_example_that_only_harms():
    found = search_greedy(5, 4, Meter([-1.0, 2.0, -3.0, 1.0, -0.5]), shares=(1.0,), budget=1000, seed=0)
    assert found.positions == (1, 3)
    assert found.score == 3.0


def test_a_search_is_a_pure_function_of_its_seed():
    worth = [random.Random(row).random() for row in range(50)]
    for search in (search_halving, search_greedy):
        first, same, other = (
            search(50, 3, Meter(worth), shares=SHARES, budget=4, seed=seed) for seed in (1, 1, 2)
        )
        assert first == same
        assert first.positions != other.positions


def test_drawn_sets_are_distinct_up_to_order():
    sets = draw_sets(5, 3, 100, seed=3)
    assert len({frozenset(one) for one in sets}) == len(sets) == 10
    assert all(len(set(one)) == 3 for one in sets)
    assert draw_sets(2, 5, 4, seed=0) in ([(0, 1)], [(1, 0)])


def test_shares_double_up_to_all_queries_and_never_get_too_small():
    assert halving_shares(100, smallest=12) == (0.125, 0.25, 0.5, 1.0)
    assert halving_shares(100, smallest=25) == (0.25, 0.5, 1.0)
    assert halving_shares(10_000, smallest=12, rungs=3) == (0.25, 0.5, 1.0)
    assert halving_shares(5, smallest=12) == (1.0,)
    with pytest.raises(ConfigError, match="at least one development query"):
        halving_shares(0, smallest=12)
