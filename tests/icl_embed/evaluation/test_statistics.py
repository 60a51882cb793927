"""The bootstrap against slow obvious references."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from icl_embed.errors import EvaluationError
from icl_embed.evaluation.measurement import (
    Bootstrap,
    Measurement,
    average,
    average_difference,
    average_precision_of,
    bootstrap,
    bootstrap_pairs,
    compare,
    difference_over_trainings,
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


def correlated_pairs(texts, generator):
    """All pairs of some texts: similarities and gold scores that both carry the texts' own quirks."""
    quirks = generator.normal(size=(2, texts))
    ids = [(first, second) for first in range(texts) for second in range(first + 1, texts)]
    values = [quirks[0, a] + quirks[0, b] + 0.3 * generator.normal() for a, b in ids]
    gold = [quirks[1, a] + quirks[1, b] + 0.3 * generator.normal() for a, b in ids]
    return Measurement(
        "pairs",
        "spearman",
        tuple(f"{a}-{b}" for a, b in ids),
        tuple(values),
        tuple(gold),
        tuple((str(a), str(b)) for a, b in ids),
    )


def test_pairs_of_few_texts_are_resampled_by_text_and_their_interval_covers_the_truth():
    how, covered, narrow = Bootstrap(300, 0.95, 3), 0, 0
    for seed in range(60):  # similarities and gold scores are unrelated: the true correlation is zero
        measured = correlated_pairs(12, np.random.default_rng(seed))
        assert measured.shares_texts
        interval = measured.interval(how)
        covered += interval.low <= 0 <= interval.high
        by_pair = dataclasses.replace(measured, pairs=None).interval(how)
        narrow += by_pair.low <= 0 <= by_pair.high
    assert covered >= 54  # 57 of 60 is exact
    assert narrow < covered - 8  # pairs taken for independent: far too sure


def test_a_resample_of_texts_counts_a_pair_by_both_of_its_texts():
    measured = correlated_pairs(6, np.random.default_rng(1))
    codes = np.array([[int(text) for text in pair] for pair in measured.pairs])
    generator = np.random.default_rng(5)
    expected = []
    for row in generator.multinomial(6, np.full(6, 1 / 6), size=40):
        counts = [int(row[a]) * int(row[b]) for a, b in codes]
        values = np.repeat(measured.values, counts)
        gold = np.repeat(measured.targets, counts)
        expected.append(stats.spearmanr(values, gold).statistic if len(set(values)) > 1 else np.nan)
    statistic = spearman_of(measured.values, measured.targets)
    found = bootstrap_pairs(statistic, measured.pairs, resamples=40, seed=5)
    np.testing.assert_allclose(found, expected, equal_nan=True)


def test_pairs_of_texts_of_their_own_are_resampled_as_before():
    ids = tuple(f"pair-{n}" for n in range(30))
    values, gold = tuple(np.linspace(0, 1, 30)), tuple(np.linspace(1, 2, 30) ** 2)
    plain = Measurement("own", "spearman", ids, values, gold)
    paired = dataclasses.replace(plain, pairs=tuple((f"a{n}", f"b{n}") for n in range(30)))
    assert not paired.shares_texts
    assert paired.interval(Bootstrap(200)) == plain.interval(Bootstrap(200))


def test_classifiers_are_a_sample_too():
    generator = np.random.default_rng(0)
    values = tuple(generator.random(200))
    plain = Measurement("labels", "mean", tuple(map(str, range(200))), values)
    steady = dataclasses.replace(plain, draws=(0.5,) * 10)
    shaky = dataclasses.replace(plain, draws=tuple(generator.normal(0.5, 0.2, size=10)))
    how = Bootstrap(4000)
    assert steady.interval(how) == plain.interval(how)
    spread, alone = (np.var(one.replicates(how)) for one in (shaky, plain))
    assert spread == pytest.approx(alone + np.var(shaky.draws) / 10, rel=0.1)
    assert compare(shaky, shaky, how).is_significant is False
    assert np.ptp(shaky.replicates(how) - shaky.replicates(how)) == 0  # two models meet the same classifiers


def test_one_training_has_the_interval_of_its_items() -> None:
    draw = np.random.default_rng(0)
    pairs = [(measured(draw.random(60), name), measured(draw.random(60), name)) for name in ("a", "b")]
    how = Bootstrap(500, 0.95, 3)
    found, expected = difference_over_trainings([pairs], how), average_difference(pairs, how)
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_the_interval_over_trainings_covers_the_recipe_and_that_over_items_does_not() -> None:
    """200 worlds in which a recipe gains 0.05, give or take 0.03 by seed."""
    draw, how = np.random.default_rng(1), Bootstrap(400, 0.95, 3)
    covered = {"seeds": 0, "items": 0}
    for _ in range(200):
        items = draw.normal(0.5, 0.1, 300)
        trainings = [
            [(measured(items + draw.normal(0.05, 0.03) + draw.normal(0, 0.05, 300)), measured(items))]
            for _ in range(4)
        ]
        whole = difference_over_trainings(trainings, how)
        first = average_difference(trainings[0], how)
        covered["seeds"] += whole.low <= 0.05 <= whole.high
        covered["items"] += first.low <= 0.05 <= first.high
    assert covered["seeds"] >= 184  # 190 are meant
    assert covered["items"] < 80
