"""Corruptions: what each changes, what it leaves, and that it is a function of its seed."""

import math
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_embed.errors import ConfigError, EvaluationError
from icl_embed.examples import Example
from icl_embed.experiments.corruptions import CORRUPTIONS, LONG_WORDS, corrupt
from icl_embed.pool.examples import Candidate

LABELS = ("joy", "anger", "fear")
LABELLED = [Candidate(Example(f"text {n}", LABELS[n % 3]), LABELS[n % 3]) for n in range(30)]
FREE = [Candidate(Example(f"question {n}", f"answer {n}"), "") for n in range(30)]
FIVE = tuple(one.example for one in LABELLED[:5])


def differing(before, after):
    return [a.response != b.response for a, b in zip(before, after, strict=True)]


@pytest.mark.parametrize("quality", CORRUPTIONS)
@pytest.mark.parametrize("candidates", [LABELLED, FREE], ids=["labels", "free text"])
def test_the_number_of_examples_stays_and_the_seed_decides(quality, candidates):
    examples = tuple(one.example for one in candidates[:5])
    first = corrupt(quality, examples, candidates, 3)
    assert len(first) == 5
    assert first == corrupt(quality, list(examples), tuple(candidates), 3)
    assert first != examples
    assert len({corrupt(quality, examples, candidates, seed) for seed in range(8)}) > 1


@given(st.integers(1, 12), st.sampled_from([25, 50, 100]), st.integers(0, 99))
def test_label_noise_flips_the_stated_share_each_to_a_different_known_label(count, percent, seed):
    examples = tuple(one.example for one in LABELLED[:count])
    noisy = corrupt(f"label-noise-{percent}", examples, LABELLED, seed)
    assert sum(differing(examples, noisy)) == math.ceil(count * percent / 100)
    assert [one.query for one in noisy] == [one.query for one in examples]
    assert {one.response for one in noisy} <= set(LABELS)


def test_a_larger_share_of_noise_flips_what_the_smaller_flips_and_more():
    quarter, half, whole = (corrupt(f"label-noise-{share}", FIVE, LABELLED, 1) for share in (25, 50, 100))
    assert [a == b for a, b in zip(quarter, half, strict=True) if a not in FIVE] == [True, True]
    assert [a == b for a, b in zip(half, whole, strict=True) if a not in FIVE] == [True] * 3


def test_every_other_label_is_drawn_about_equally_often():
    drawn = Counter(corrupt("label-noise-100", FIVE[:1], LABELLED, seed)[0].response for seed in range(400))
    assert set(drawn) == {"anger", "fear"}
    assert 150 < drawn["fear"] < 250  # 200 expected, 5 standard deviations


def test_free_text_noise_takes_the_response_of_another_candidate():
    examples = tuple(one.example for one in FREE[:4])
    noisy = corrupt("label-noise-100", examples, FREE, 0)
    assert all(differing(examples, noisy))
    assert {one.response for one in noisy} <= {one.example.response for one in FREE}


def test_a_label_that_differs_in_case_alone_is_not_another_label():
    candidates = [Candidate(Example("a", "Joy"), "Joy"), Candidate(Example("b", "joy "), "joy ")]
    with pytest.raises(EvaluationError, match="second label"):
        corrupt("label-noise-25", [Example("a", "joy")], candidates, 0)


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=7), st.integers(0, 50))
def test_shuffled_is_a_permutation_that_changes_as_many_responses_as_any_can(responses, seed):
    examples = [Example(f"q{n}", text) for n, text in enumerate(responses)]
    after = corrupt("shuffled", examples, (), seed)
    assert Counter(one.response for one in after) == Counter(responses)
    most = max(
        sum(a != b for a, b in zip(responses, other, strict=True)) for other in permutations(responses)
    )
    assert sum(differing(examples, after)) == most


@given(st.integers(2, 10), st.integers(0, 50))
def test_shuffled_is_a_derangement(count, seed):
    examples = tuple(one.example for one in FREE[:count])
    assert all(differing(examples, corrupt("shuffled", examples, FREE, seed)))


def test_one_example_cannot_be_shuffled():
    with pytest.raises(EvaluationError, match="at least 2"):
        corrupt("shuffled", FIVE[:1], LABELLED, 0)


def test_off_task_shows_only_the_other_tasks_examples_each_once_if_there_are_enough():
    shown = corrupt("off-task", FIVE, FREE, 0)
    assert len(set(shown)) == 5
    assert set(shown) <= {one.example for one in FREE}
    assert len(corrupt("off-task", FIVE, FREE[:2], 0)) == 5


def test_duplicated_repeats_one_of_the_examples():
    shown = corrupt("duplicated", FIVE, LABELLED, 0)
    assert len(set(shown)) == 1
    assert shown[0] in FIVE


def test_long_examples_begin_truly_and_labels_stay_labels():
    for candidates, has_labels in ((LABELLED, True), (FREE, False)):
        examples = [one.example for one in candidates[:3]]
        for one, long in zip(examples, corrupt("long", examples, candidates, 0), strict=True):
            assert long.query.startswith(one.query)
            assert len(long.query.split()) == LONG_WORDS
            assert (long.response == one.response) == has_labels
            assert long.response.startswith(one.response)


def test_clean_and_zero_shot_are_left_alone_and_an_unknown_quality_names_the_nearest():
    assert corrupt("clean", FIVE, LABELLED, 0) == FIVE
    assert corrupt("off-task", (), (), 0) == ()
    with pytest.raises(ConfigError, match="did you mean shuffled"):
        corrupt("shufled", FIVE, LABELLED, 0)
