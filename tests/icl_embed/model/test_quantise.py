"""Quantised vectors: what they keep, against the obvious formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from icl_embed.errors import ModelError
from icl_embed.model.quantise import Int8Scale, binarise, binary_scores, cosine_loss, unpack_binary


def unit_vectors(rows: int, width: int = 70, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, width)) * np.linspace(0.1, 3, width)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@given(arrays(np.float32, (5, 4), elements=st.floats(-1, 1, width=32)))
def test_int8_is_never_off_by_more_than_half_a_step(vectors: np.ndarray) -> None:
    scale = Int8Scale.fit(vectors)
    codes = scale.quantise(vectors)
    assert codes.dtype == np.int8 and (np.abs(codes.astype(int)) <= 127).all()
    assert (np.abs(scale.dequantise(codes) - vectors) <= scale.steps * 0.5001).all()


def test_int8_loses_little_and_more_with_a_scale_from_a_sample() -> None:
    vectors = unit_vectors(2000)
    whole, sample = Int8Scale.fit(vectors), Int8Scale.fit(vectors[:200])
    loss = cosine_loss(vectors, whole.dequantise(whole.quantise(vectors)))
    clipped = cosine_loss(vectors, sample.dequantise(sample.quantise(vectors)))
    assert 0 < loss < 1e-4
    assert 0 < clipped < 1e-3


def test_int8_scores_are_the_products_of_what_was_stored() -> None:
    queries, passages = unit_vectors(5, seed=1), unit_vectors(300)
    scale = Int8Scale.fit(passages)
    codes = scale.quantise(passages)
    restored = codes.astype(np.float64) * scale.steps
    assert np.abs(scale.scores(queries, codes) - queries @ restored.T).max() < 1e-5
    query_codes = scale.quantise(queries)
    assert np.abs(scale.scores(query_codes, codes) - query_codes * scale.steps @ restored.T).max() < 1e-5
    assert np.abs(scale.scores(queries, codes) - queries @ passages.T).max() < 0.01


def test_binary_codes_are_the_signs_and_their_score_is_a_cosine() -> None:
    queries, passages = unit_vectors(5, seed=1), unit_vectors(300)
    codes = binarise(passages)
    assert codes.shape == (300, 9) and codes.dtype == np.uint8
    signs = unpack_binary(codes, 70)
    assert np.array_equal(signs > 0, passages > 0)
    assert np.abs(np.linalg.norm(signs, axis=1) - 1).max() < 1e-6
    hamming = ((queries > 0)[:, None] != (passages > 0)[None]).sum(axis=2)
    scores = binary_scores(binarise(queries), codes, 70)
    assert np.abs(scores - (1 - 2 * hamming / 70)).max() < 1e-6
    assert np.abs(scores - unpack_binary(binarise(queries), 70) @ signs.T).max() < 1e-6


def test_cosine_loss_of_the_same_vectors_is_nothing() -> None:
    vectors = unit_vectors(50)
    assert abs(cosine_loss(vectors, 3 * vectors)) < 1e-6
    assert abs(cosine_loss(vectors, -vectors) - 2) < 1e-6


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((0, 3)), "at least one vector"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.array([[0.1, np.nan]]), "not finite"),
    ],
)
def test_vectors_that_cannot_be_measured_are_refused(vectors: np.ndarray, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Int8Scale.fit(vectors)


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(ModelError, match=r"expected vectors \[N, 70\]"):
        Int8Scale.fit(unit_vectors(3)).quantise(unit_vectors(3, 60))
