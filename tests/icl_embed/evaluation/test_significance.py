"""Randomisation tests, corrections and detectable effects against slow obvious references."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import (
    Bootstrap,
    Measurement,
    average_over_seeds,
    compare,
    compare_unpaired,
    parts_of,
)
from icl_embed.evaluation.significance import (
    Randomisation,
    average_randomisation_p,
    holm,
    minimum_detectable_effect,
    null_differences,
    randomisation_p,
)


def measured(values, aggregation="mean", targets=None, dataset="set"):
    ids = tuple(f"q{place}" for place in range(len(values)))
    gold = None if targets is None else tuple(map(float, targets))
    return Measurement(dataset, aggregation, ids, tuple(map(float, values)), gold)


def slow_statistic(aggregation, values, targets):
    from scipy.stats import pearsonr, rankdata
    from sklearn.metrics import average_precision_score

    if aggregation == "mean":
        return np.mean(values)
    if aggregation == "spearman":
        return pearsonr(values, rankdata(targets))[0]
    return average_precision_score(targets, values)


def every_relabelling(aggregation, a, b, targets):
    """The difference under each of the 2^N labellings, one item at a time."""
    from scipy.stats import rankdata

    if aggregation != "mean":
        a, b = rankdata(a), rankdata(b)
    found = []
    for swaps in product([False, True], repeat=len(a)):
        first = [y if swap else x for x, y, swap in zip(a, b, swaps, strict=True)]
        second = [x if swap else y for x, y, swap in zip(a, b, swaps, strict=True)]
        scores = [slow_statistic(aggregation, side, targets) for side in (first, second)]
        found.append(scores[0] - scores[1])
    return np.array(found)


CASES = {
    "mean": ([0.1, 0.4, 0.4, 0.9, 0.0, 1.0], [0.0, 0.5, 0.2, 0.7, 0.0, 0.3], None),
    "spearman": ([0.1, 0.4, 0.4, 0.9, 0.0, 0.8], [5.0, 1.0, 2.0, 9.0, 3.0, 3.0], [0, 1, 2, 3, 4, 4]),
    "average_precision": ([0.1, 0.4, 0.4, 0.9, 0.0, 0.8], [5.0, 1.0, 2.0, 9.0, 3.0, 3.0], [0, 1, 0, 1, 1, 0]),
}


@pytest.mark.parametrize("aggregation", CASES)
def test_drawn_labellings_are_exactly_those_that_exist_and_the_p_value_is_their_share(aggregation):
    a, b, targets = CASES[aggregation]
    first, second = (measured(side, aggregation, targets) for side in (a, b))
    expected = every_relabelling(aggregation, a, b, targets)
    drawn = null_differences(first, second, Randomisation(4000))
    assert set(np.round(drawn, 9) + 0.0) == set(np.round(expected, 9) + 0.0)
    observed = first.point - second.point
    assert expected[0] == pytest.approx(observed)  # no swap: the score itself, ties and all
    exact = np.mean(np.abs(expected) >= abs(observed) - 1e-12)
    assert randomisation_p(first, second, Randomisation(4000)) == pytest.approx(exact, abs=0.03)


def test_several_draws_of_examples_are_relabelled_together():
    generator = np.random.default_rng(0)
    gold = generator.normal(size=40)
    draws = [measured(gold + generator.normal(size=40), "spearman", gold) for _ in range(3)]
    other = measured(gold + generator.normal(size=40), "spearman", gold)
    together = average_over_seeds(draws)
    assert together.point == pytest.approx(np.mean([draw.point for draw in draws]))
    expected = np.mean([null_differences(draw, other, Randomisation(50)) for draw in draws], axis=0)
    assert null_differences(together, other, Randomisation(50)) == pytest.approx(expected)
    how = Bootstrap(100)
    replicates = np.mean([draw.replicates(how) for draw in draws], axis=0)
    assert together.replicates(how) == pytest.approx(replicates)
    assert compare(together, other, how).low < compare(together, other, how).high


@pytest.mark.parametrize("aggregation", ["mean", "replicates"])
def test_values_of_several_seeds_are_averaged_item_by_item(aggregation):
    one, two = measured([0, 1, 0.5], aggregation), measured([1, 1, 0], aggregation)
    averaged = average_over_seeds([one, two])
    assert averaged.values == (0.5, 1.0, 0.25)
    assert parts_of(averaged) == (averaged,)
    assert average_over_seeds([one]) is one
    with pytest.raises(EvaluationError, match="not the same test items"):
        average_over_seeds([one, measured([1, 2], aggregation)])
    with pytest.raises(EvaluationError, match="found none"):
        average_over_seeds([])


def null_pair(aggregation, generator):
    """Two equally good systems that share the difficulty of the items."""
    gold = (generator.random(50) < 0.4) if aggregation == "average_precision" else generator.normal(size=50)
    if aggregation == "replicates":
        # forty resamples of one set of texts, on which the two differ by chance
        items = generator.normal(scale=0.3, size=400)
        sets = [items[generator.integers(400, size=400)].mean() for _ in range(40)]
        base = generator.random(40)
        return measured(base + sets, aggregation), measured(base, aggregation)
    common = generator.normal(size=50)
    sides = [gold + common + generator.normal(scale=0.7, size=50) for _ in range(2)]
    return tuple(measured(side, aggregation, None if aggregation == "mean" else gold) for side in sides)


@pytest.mark.parametrize("aggregation", ["mean", "spearman", "average_precision", "replicates"])
def test_two_equally_good_systems_are_rejected_about_as_often_as_the_level_says(aggregation):
    generator = np.random.default_rng(7)
    rejected = sum(
        randomisation_p(*null_pair(aggregation, generator), Randomisation(200, seed)) <= 0.1
        for seed in range(300)
    )
    # 300 tests at 10 %: 30 expected, three standard errors are 15.6
    assert 14 <= rejected <= 46


def test_the_average_of_data_sets_finds_what_no_single_one_does():
    generator = np.random.default_rng(3)
    pairs = []
    for name in "abcdefgh":
        base = generator.normal(size=40)
        better = base + generator.normal(0.12, 0.4, size=40)
        pairs.append((measured(better, dataset=name), measured(base, dataset=name)))
    how = Randomisation(1000)
    alone = [randomisation_p(*pair, how) for pair in pairs]
    assert min(holm(alone)) > 0.05
    assert average_randomisation_p(pairs, how) < 0.05


def test_the_average_of_one_data_set_is_that_data_set():
    pair = (measured(CASES["mean"][0]), measured(CASES["mean"][1]))
    assert average_randomisation_p([pair], Randomisation(500)) == randomisation_p(*pair, Randomisation(500))


p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@settings(max_examples=100)
@given(p_lists, st.floats(0.001, 0.5))
def test_holm_rejects_what_its_step_down_procedure_rejects(p_values, level):
    rejected, order = set(), sorted(range(len(p_values)), key=lambda index: p_values[index])
    for step, index in enumerate(order):
        if p_values[index] * (len(p_values) - step) > level:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(p_values)) if p <= level} == rejected


def test_nothing_to_correct_is_nothing():
    assert holm([]) == []


def test_a_true_difference_of_the_detectable_size_is_found_four_times_in_five():
    generator = np.random.default_rng(5)

    def pair(effect):
        base = generator.normal(size=60)
        return measured(base + generator.normal(effect, 0.5, size=60)), measured(base)

    effect = float(
        np.mean([minimum_detectable_effect([pair(0.0)], Bootstrap(400, seed=n)) for n in range(20)])
    )
    assert effect == pytest.approx(2.80 * 0.5 / 60**0.5, rel=0.1)  # (1.96 + 0.84) standard errors
    found = sum(randomisation_p(*pair(effect), Randomisation(300, n)) <= 0.05 for n in range(300))
    assert 0.73 <= found / 300 <= 0.87


def test_two_runs_that_agree_everywhere_have_no_detectable_effect_and_no_difference():
    one = measured([0.5, 0.2, 0.9])
    assert np.isnan(minimum_detectable_effect([(one, one)], Bootstrap(50)))
    assert randomisation_p(one, one, Randomisation(50)) == 1.0


def test_more_power_or_a_stricter_level_needs_a_larger_effect():
    generator = np.random.default_rng(1)
    pair = [(measured(generator.random(30)), measured(generator.random(30)))]
    how = Bootstrap(200)
    usual = minimum_detectable_effect(pair, how)
    assert minimum_detectable_effect(pair, how, power=0.95) > usual
    assert minimum_detectable_effect(pair, how, level=0.005) > usual


def test_changed_items_are_compared_without_pairing_and_with_a_wider_interval():
    difficulty = np.linspace(0, 1, 80)
    better, worse = measured(difficulty + 0.02), measured(difficulty)
    paired, unpaired = compare(better, worse, Bootstrap(300)), compare_unpaired(better, worse, Bootstrap(300))
    assert paired.is_significant
    assert not unpaired.is_significant
    assert unpaired.mean == pytest.approx(paired.mean)


def test_what_cannot_be_tested_is_refused():
    one = measured([0.5, float("nan")])
    with pytest.raises(EvaluationError, match="value nan, expected a finite number"):
        randomisation_p(one, measured([0.5, 0.1]), Randomisation(10))
    with pytest.raises(EvaluationError, match="not the same test items"):
        randomisation_p(measured([1, 2, 3]), measured([1, 2]), Randomisation(10))
    constant, moving = measured([1, 1, 1], "spearman", [1, 2, 3]), measured([1, 2, 4], "spearman", [1, 2, 3])
    with pytest.raises(EvaluationError, match="not defined"):
        randomisation_p(constant, moving, Randomisation(10))
    with pytest.raises(EvaluationError, match="gold values of the two runs differ"):
        randomisation_p(moving, measured([1, 2, 4], "spearman", [3, 2, 1]), Randomisation(10))
    single = measured([0.5], "replicates")
    with pytest.raises(EvaluationError, match="has no spread"):
        randomisation_p(single, single, Randomisation(10))
