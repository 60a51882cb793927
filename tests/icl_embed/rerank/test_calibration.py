from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from icl_embed.errors import ConfigError
from icl_embed.rerank.folder import export_reranker, save_calibration
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.shape import fit_calibration, sigmoid
from tests.icl_embed.rerank.conftest import PAIRS


def slow_fit(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Gradient descent until nothing moves."""
    count = labels.sum()
    target = np.where(labels > 0, (count + 1) / (count + 2), 1 / (len(labels) - count + 2))
    slope, offset = 0.0, 0.0
    for _ in range(100_000):
        error = 1 / (1 + np.exp(-(slope * scores + offset))) - target
        slope, offset = slope - np.mean(error * scores), offset - np.mean(error)
    return slope, offset


def test_the_fit_is_the_likeliest_sigmoid() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=300)
    labels = (rng.random(300) < sigmoid(1.7 * scores - 0.4)).astype(int)
    found = fit_calibration(scores, labels)
    assert found == pytest.approx(slow_fit(scores, labels), rel=1e-4)
    assert found == pytest.approx((1.7, -0.4), abs=0.5)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_and_place_of_scores_change_no_probability(scale: float) -> None:
    scores = np.array([0.1, 0.5, -0.3, 0.9, 0.2, -1.0])
    labels = [0, 1, 0, 1, 1, 0]
    slope, offset = fit_calibration(scores, labels)
    moved = scale * (scores + 100)
    other_slope, other_offset = fit_calibration(moved, labels)
    np.testing.assert_allclose(
        sigmoid(other_slope * moved + other_offset), sigmoid(slope * scores + offset), rtol=1e-5
    )


def test_labels_that_scores_separate_do_not_make_the_slope_infinite() -> None:
    slope, offset = fit_calibration([-1.0, -2.0, 1.0, 2.0], [0, 0, 1, 1])
    assert 0 < slope < 10
    low, high = sigmoid(slope * np.array([-1.5, 1.5]) + offset)
    assert (low, high) == pytest.approx((0.25, 0.75), abs=0.02)
    equal = fit_calibration([3.0] * 4, [0, 1, 1, 1])
    assert sigmoid(equal[0] * 3.0 + equal[1]) == pytest.approx((3 * 0.8 + 1 / 3) / 4, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [1], "as many scores as labels"),
        ([1.0, np.nan], [0, 1], "1 of 2 scores are not finite"),
        ([1.0, 2.0], [1, 1], "both must occur"),
        ([1.0, 2.0], [0, 2], "labels must be 0 and 1"),
        ([], [], "both must occur"),
    ],
)
def test_labels_or_scores_that_are_none_are_refused(
    scores: list[float], labels: list[int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_calibration(scores, labels)


def test_a_sigmoid_never_overflows() -> None:
    with np.errstate(over="raise"):
        assert sigmoid([-1e4, 0.0, 1e4]).tolist() == [0.0, 0.5, 1.0]


def test_probabilities_use_the_calibration_of_their_shape(reranker: Reranker, tmp_path: Path) -> None:
    labels = [1, 0, 0, 1]
    np.testing.assert_allclose(reranker.probabilities(PAIRS), sigmoid(reranker.score(PAIRS)))
    export_reranker(reranker.model, reranker.tokenizer, reranker.settings, tmp_path)
    wide = reranker.calibrate(PAIRS, labels)
    narrow = reranker.calibrate(PAIRS, labels, cutoff_layer=3, compress_ratio=2)
    for one in (wide.model_copy(update={"slope": 9.0}), narrow, wide):
        save_calibration(tmp_path, one)
    loaded = Reranker.load(tmp_path, device="cpu", dtype="float32")
    assert loaded.settings.calibrations == (narrow, wide)
    for options, one in (({}, wide), ({"cutoff_layer": 3, "compress_ratio": 2}, narrow)):
        expected = sigmoid(one.slope * reranker.score(PAIRS, **options) + one.offset)
        np.testing.assert_allclose(loaded.probabilities(PAIRS, **options), expected, rtol=1e-4)
    untouched = loaded.probabilities(PAIRS, cutoff_layer=2)
    np.testing.assert_allclose(untouched, sigmoid(reranker.score(PAIRS, cutoff_layer=2)), rtol=1e-4)
