from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_embed.errors import ModelError
from icl_embed.pool.candidates import Bm25Scorer, DenseScorer, LabelScorer, top_ranked


def test_bm25_scores_rank_as_the_formula_says():
    passages = ["apple pie", "apple apple tart", "plum cake", "pie"]
    scores = Bm25Scorer(["apple pie", "plum", "unknown", ""], passages).score(0, 4)
    counts = [Counter(text.split()) for text in passages]
    mean = sum(map(len, (text.split() for text in passages))) / len(passages)
    expected = np.zeros((4, 4))
    for row_index, query in enumerate(["apple pie", "plum", "unknown", ""]):
        for column, found in enumerate(counts):
            for word in query.split():
                holding = sum(word in other for other in counts)
                idf = np.log(1 + (len(passages) - holding + 0.5) / (holding + 0.5))
                length = 1.5 * (0.25 + 0.75 * sum(found.values()) / mean)
                expected[row_index, column] += idf * found[word] / (found[word] + length)
    assert scores == pytest.approx(expected, abs=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, -1.0, 3.5]), max_size=30), st.integers(1, 12))
def test_top_ranked_equals_a_full_sort(values, depth):
    scores = np.array(values, np.float32)
    expected = sorted((i for i in range(len(values)) if values[i] > 0), key=lambda i: (-values[i], i))[:depth]
    assert top_ranked(scores, depth, 0.0).tolist() == expected


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused_by_its_number(poison):
    good, bad = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)
    bad[2] = poison
    with pytest.raises(ModelError, match="the vector of passage 2 is not finite"):
        DenseScorer(good, bad)
    with pytest.raises(ModelError, match="the vector of query 2 is not finite"):
        DenseScorer(bad, good).score(1, 3)


def test_label_scores_are_those_of_the_most_similar_text():
    queries = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    texts = np.random.default_rng(2).normal(size=(9, 4)).astype(np.float32)
    labels = np.array([2, 0, 0, 2, 3, 3, 0, 2, 2])
    scores = LabelScorer(DenseScorer(queries, texts), labels, 5).score(1, 4)
    for row_index in range(3):
        for label in range(5):
            similar = [
                float(queries[row_index + 1] @ text)
                for text, own in zip(texts, labels, strict=True)
                if own == label
            ]
            assert scores[row_index, label] == pytest.approx(max(similar, default=-np.inf))
