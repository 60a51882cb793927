"""The bootstrap against slow obvious references."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import (
    Bootstrap,
    Measurement,
    average,
    average_difference,
    average_precision_of,
    bootstrap,
    compare,
    mean_of,
    percentile_interval,
    point_estimate,
    spearman_of,
)


def expand(row, items):
    """The resample that a row of counts describes, item by item."""
    return np.repeat(items, row.astype(int))


def random_counts(generator, resamples, num_items):
    return generator.multinomial(num_items, np.full(num_items, 1 / num_items), size=resamples).astype(float)


small_integers = st.lists(st.integers(0, 4), min_size=4, max_size=12)


@settings(max_examples=60, deadline=None)
@given(values=small_integers, seed=st.integers(0, 1000))
def test_the_mean_of_counts_is_the_mean_of_the_resample(values, seed):
    items = np.array(values, float)
    counts = random_counts(np.random.default_rng(seed), 5, len(items))
    expected = [expand(row, items).mean() for row in counts]
    assert mean_of(items)(counts) == pytest.approx(expected)


@settings(max_examples=80, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=4, max_size=12),
    seed=st.integers(0, 99),
)
def test_spearman_of_counts_is_scipys_spearman_of_the_resample_with_ties(pairs, seed):
    from scipy.stats import spearmanr

    x, y = (np.array(side, float) for side in zip(*pairs, strict=True))
    counts = random_counts(np.random.default_rng(seed), 5, len(x))
    for value, row in zip(spearman_of(x, y)(counts), counts, strict=True):
        first, second = expand(row, x), expand(row, y)
        if len(set(first)) < 2 or len(set(second)) < 2:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(spearmanr(first, second)[0])


@settings(max_examples=80, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=4, max_size=12),
    seed=st.integers(0, 99),
)
def test_average_precision_of_counts_is_sklearns_on_the_resample_with_ties(pairs, seed):
    from sklearn.metrics import average_precision_score

    scores, labels = (np.array(side, float) for side in zip(*pairs, strict=True))
    counts = random_counts(np.random.default_rng(seed), 5, len(scores))
    for value, row in zip(average_precision_of(scores, labels)(counts), counts, strict=True):
        truth = expand(row, labels)
        if truth.sum() == 0:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(average_precision_score(truth, expand(row, scores)))


def test_the_same_seed_draws_the_same_items_for_two_systems():
    values = np.arange(50.0)
    first = bootstrap(mean_of(values), 50, resamples=300, seed=3)
    second = bootstrap(mean_of(values + 7), 50, resamples=300, seed=3)
    assert second - first == pytest.approx(np.full(300, 7.0))
    assert not np.array_equal(first, bootstrap(mean_of(values), 50, resamples=300, seed=4))


def test_drawing_in_chunks_changes_nothing(monkeypatch):
    whole = bootstrap(mean_of(np.arange(40.0)), 40, resamples=64, seed=1)
    monkeypatch.setattr("icl_embed.evaluation.measurement.CHUNK_ELEMENTS", 40 * 8)
    assert np.array_equal(whole, bootstrap(mean_of(np.arange(40.0)), 40, resamples=64, seed=1))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        sample = generator.beta(2, 3, size=80)  # the mean is 0.4
        interval = percentile_interval(
            sample.mean(), bootstrap(mean_of(sample), 80, resamples=400, seed=trial), 0.95
        )
        covered += interval.low <= 0.4 <= interval.high
    assert 0.90 <= covered / 300 <= 0.985


def test_the_p_value_is_rarely_small_when_two_systems_are_equally_good():
    generator = np.random.default_rng(1)
    small = 0
    for trial in range(300):
        difficulty = generator.normal(size=60)
        values = [difficulty + generator.normal(scale=0.5, size=60) for _ in range(2)]
        small += compare(measured(values[0]), measured(values[1]), Bootstrap(300, seed=trial)).p_value < 0.05
    assert small / 300 <= 0.10


def measured(values, dataset="set", ids=None, **more):
    names = ids or [f"q{i}" for i in range(len(values))]
    return Measurement(
        dataset, more.pop("aggregation", "mean"), tuple(names), tuple(map(float, values)), **more
    )


def test_a_paired_difference_sees_what_separate_intervals_hide():
    difficulty = np.linspace(0, 1, 100)
    worse, better = measured(difficulty), measured(difficulty + 0.02)
    how = Bootstrap(500)
    assert worse.interval(how).high > better.interval(how).low  # separate intervals overlap
    difference = compare(better, worse, how)
    assert difference.is_significant
    assert difference.mean == pytest.approx(0.02)
    assert difference.p_value < 0.01


def test_two_runs_over_different_items_are_not_compared():
    with pytest.raises(EvaluationError, match="not the same test items"):
        compare(measured([1, 2]), measured([1, 2], ids=["a", "b"]), Bootstrap(10))


def test_replicates_are_read_as_they_are_and_paired_set_by_set():
    values = np.linspace(0.4, 0.6, 41)
    sets, lower = (measured(v, aggregation="replicates") for v in (values, values - 0.1))
    interval = sets.interval(Bootstrap(100))
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.5, 0.405, 0.595))
    difference = compare(sets, lower, Bootstrap(100))
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1))


def test_an_average_over_data_sets_is_narrower_than_its_parts():
    generator = np.random.default_rng(2)
    parts = [measured(generator.random(50), dataset=name) for name in "abcd"]
    how = Bootstrap(400)
    whole = average(parts, how)
    assert whole.mean == pytest.approx(np.mean([part.point for part in parts]))
    widths = [part.interval(how).high - part.interval(how).low for part in parts]
    assert whole.high - whole.low < 0.7 * min(widths)
    same = average_difference([(part, part) for part in parts], how)
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_values_that_are_not_finite_are_refused_by_place():
    with pytest.raises(EvaluationError, match="test item 1 has the value nan"):
        measured([0.1, float("nan")]).interval(Bootstrap(10))


def test_nothing_measured_and_double_identities_are_refused():
    with pytest.raises(EvaluationError, match="nothing was measured"):
        measured([])
    with pytest.raises(EvaluationError, match="'a' appears more than once"):
        measured([1, 2], ids=["a", "a"])
    with pytest.raises(EvaluationError, match="at least one test item"):
        point_estimate(mean_of([]), 0)
